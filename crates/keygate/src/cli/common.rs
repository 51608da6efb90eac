//! Words that several commands take.

use clap::Args;

/// Where the admin API is, and how its answers are shown.
///
/// The token has no option here: a command line is in every process list.
#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    /// The admin API [default: `admin.listen` of the configuration]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "KEYGATE_ADMIN_URL",
        hide_env_values = true
    )]
    pub(crate) url: Option<String>,
    /// The configuration that names the admin API and its token file, unless KEYGATE_ADMIN_URL
    /// and KEYGATE_ADMIN_TOKEN do [default: gateway.toml, if it is there]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<std::path::PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print ids only (for a new key or token: that only)
    #[arg(short, long, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// Which part of a list.
#[derive(Debug, Args)]
pub(crate) struct PageOptions {
    /// The most that are shown [default: the API's]
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<u32>,
    /// Go on after this place, which the part before ended with
    #[arg(long, value_name = "PLACE")]
    pub(crate) cursor: Option<String>,
}

/// What people write about a record.
#[derive(Debug, Args)]
pub(crate) struct About {
    /// Who answers for it, such as a team or an address; "" for nobody
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// What it is for; "" for nothing
    #[arg(long)]
    pub(crate) purpose: Option<String>,
    /// A note of your own, such as crm=17; may be repeated, and takes the place of all that are there
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
}

/// Of what is made.
#[derive(Debug, Args)]
pub(crate) struct NewRecord {
    /// A name for this call: repeated under it within 24 hours, it makes nothing twice
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotency_key: Option<String>,
}

/// Of what is changed.
#[derive(Debug, Args)]
pub(crate) struct IfMatch {
    /// Change nothing unless the record is still this version: the `etag` that `show` printed
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
}

/// Of what cannot be undone, or cuts clients off.
#[derive(Debug, Args)]
pub(crate) struct Sure {
    /// Do not ask whether you are sure
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Reads `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE, such as crm=17".to_owned()),
    }
}
