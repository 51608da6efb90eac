//! The words of `keygate audit`.

use clap::{Args, Subcommand};

use super::{AdminOptions, PageOptions};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: Option<AuditCommand>,
    #[command(flatten)]
    pub(crate) list: ListAudit,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that no entry was changed, taken out or moved; fails (1) if one was
    ///
    /// Ends with the number and the link of the newest entry. Note them elsewhere: whoever can write
    /// the whole store could make a new chain, and --expect finds that.
    Verify {
        /// A number and link that were noted, which the log still has to have
        #[arg(long, value_name = "NUMBER:LINK", value_parser = noted)]
        expect: Vec<(u64, String)>,
    },
}

/// Which entries.
#[derive(Debug, Args)]
pub(crate) struct ListAudit {
    /// Only the newest entries, newest first
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with_all = ["limit", "cursor", "follow"])]
    pub(crate) tail: Option<u32>,
    /// By this one, such as token:bootstrap
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Of this kind, such as key.revoke; or `key.*`, all that begin so
    #[arg(long, value_name = "NAME")]
    pub(crate) action: Option<String>,
    /// About this record
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// From then on, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// Only attempts that were refused
    #[arg(long)]
    pub(crate) refused: bool,
    /// Go on with what is new, until interrupted
    #[arg(short, long, conflicts_with = "limit")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) page: PageOptions,
}

/// Reads `NUMBER:LINK`.
fn noted(text: &str) -> Result<(u64, String), String> {
    const RULE: &str = "write NUMBER:LINK as `keygate audit verify` printed it";
    let (number, link) = text.split_once(':').ok_or(RULE)?;
    let is_link = link.len() == 64 && link.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = number.parse().map_err(|_| RULE)?;
    if is_link { Ok((number, link.to_ascii_lowercase())) } else { Err(RULE.to_owned()) }
}
