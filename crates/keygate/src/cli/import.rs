//! The words of `keygate keys import`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use keygate_core::{AccountId, AppId, Environment, Scope};

use crate::import::{Format, Unmapped, group_scope};

#[derive(Debug, Args)]
pub(crate) struct ImportKeys {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What the file is [default: what it looks like]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// The app that all keys go to [default: one for each that the file names]
    #[arg(long, value_name = "ID", conflicts_with_all = ["account", "create_account"])]
    pub(crate) app: Option<AppId>,
    /// The account of the apps that the file names; those that are missing are made
    #[arg(long, value_name = "ID", conflicts_with = "create_account")]
    pub(crate) account: Option<AccountId>,
    /// Make an account of this name for them; the next import of this kind finds it again
    #[arg(long, value_name = "NAME")]
    pub(crate) create_account: Option<String>,
    /// live or test: of the apps that are made
    #[arg(long, default_value = "live")]
    pub(crate) environment: Environment,
    /// What keys may do that the file gives no scopes
    #[arg(long, value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
    /// What a group, tag, role or permission of the other system stands for; may be repeated
    #[arg(long, value_name = "GROUP=SCOPE", value_parser = group_scope)]
    pub(crate) group_scope: Vec<(String, Scope)>,
    /// What to do about one that is no scope and stands for none
    #[arg(long, value_enum, default_value = "refuse", value_name = "WHAT")]
    pub(crate) unmapped_groups: Unmapped,
    /// Import keys with so many uses left, which are not counted here
    #[arg(long)]
    pub(crate) ignore_credits: bool,
    /// When the file was written, such as 2030-01-31T12:00:00Z: from then on Kong's `ttl` counts
    /// [default: from now on, at the first import]
    #[arg(long, value_name = "TIME")]
    pub(crate) exported_at: Option<Timestamp>,
    /// Only say what would be imported
    #[arg(long)]
    pub(crate) dry_run: bool,
}
