//! The words of `keygate audit`.

use clap::Args;

use super::{AdminOptions, PageOptions};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only the newest entries, newest first
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with_all = ["limit", "cursor"])]
    pub(crate) tail: Option<u32>,
    #[command(flatten)]
    pub(crate) page: PageOptions,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}
