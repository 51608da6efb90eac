//! The words of `keygate store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DEFAULT_CONFIG;

#[derive(Debug, Args)]
pub(crate) struct Store {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
    /// The configuration that names the store
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Write the store as JSON lines: digests, never keys, and not the pepper
    ///
    /// What keys used, and the audit log, are not in it.
    /// Copy the pepper too: without it no key in the backup works. Stop the gateway first if its
    /// store is embedded. A store in Redis may be in use: what changes meanwhile is in the backup as
    /// it was or as it is then.
    Export {
        /// Where to; `-` is standard output. A file is for its owner alone, and there whole or not
        /// at all
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
    },
    /// Add what a backup holds to the store
    ///
    /// What is there already stays as it is; ids of records that differ are printed, and make the
    /// exit code 6. May be run again with the same backup. Stop the gateway first if its store is
    /// embedded.
    Import {
        /// What `export` wrote; `-` is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Take a backup that was cut short for what there is of it
        #[arg(long)]
        partial: bool,
        /// Import keys that were made with a pepper that is not configured here
        ///
        /// They work once that pepper is. Without this nothing is imported of a backup with such
        /// keys, unless they are all revoked or expired.
        #[arg(long)]
        other_pepper: bool,
        /// Only read the backup, and say whether it can be imported
        #[arg(long)]
        dry_run: bool,
    },
}
