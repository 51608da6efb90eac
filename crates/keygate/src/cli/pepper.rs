//! Words of the commands that change what a gateway runs with.

use clap::{Args, Subcommand};

use super::AdminOptions;

#[derive(Debug, Args)]
pub(crate) struct Pepper {
    #[command(subcommand)]
    pub(crate) command: PepperCommand,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PepperCommand {
    /// Show which peppers there are, what depends on them and who lacks them
    ///
    /// Fails (1) if a gateway lacks a pepper that live keys depend on.
    Status,
    /// Go over to a new pepper: says where you are and what is next; run it after each step
    ///
    /// Makes the new pepper's file, and changes nothing else: `gateway.toml` is yours. Run it in the
    /// folder of a gateway, as its user.
    Rotate {
        /// Wait until every gateway has the new pepper
        #[arg(long)]
        wait: bool,
        /// Begin with another one, although keys depend on an older one still
        #[arg(long)]
        again: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Drop a pepper even if live keys depend on it: they work no more
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}
