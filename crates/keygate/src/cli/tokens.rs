//! The words of `keygate tokens`.

use clap::{Args, Subcommand, ValueEnum};
use keygate_core::{AccountId, TokenId};

use super::{AdminOptions, NewRecord, PageOptions, Sure};

#[derive(Debug, Args)]
pub(crate) struct Tokens {
    #[command(subcommand)]
    pub(crate) command: TokensCommand,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Create an admin token and print it, this once
    Create(CreateToken),
    /// List admin tokens
    List(PageOptions),
    /// Show the record of an admin token, never the token
    Show { id: TokenId },
    /// Refuse an admin token from now on, for good
    Revoke {
        id: TokenId,
        /// Why; kept in the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateToken {
    /// Whose it is, as the audit log will show it
    #[arg(long)]
    pub(crate) name: String,
    /// What it may do
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
    /// An account whose keys an issuer handles; may be repeated
    #[arg(long, value_name = "ID", value_delimiter = ',', required_if_eq("role", "issuer"))]
    pub(crate) account: Vec<AccountId>,
    /// How long it is valid, such as 12h or 30d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", conflicts_with = "expires_at")]
    pub(crate) ttl: Option<String>,
    /// When it expires, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    #[command(flatten)]
    pub(crate) new: NewRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Look at everything
    Viewer,
    /// Handle the keys of some accounts
    Issuer,
    /// Everything
    Admin,
}

impl RoleName {
    /// What the API calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Issuer => "issuer",
            Self::Admin => "admin",
        }
    }
}
