//! The words of `keygate keys`.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use keygate_core::limit::Rate;
use keygate_core::{AppId, KeyId, KeyKind, Scope};

use super::{AdminOptions, ImportKeys, PageOptions};

#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key and print it, this once
    Create(CreateKey),
    /// List the keys of an app
    List {
        #[arg(long, value_name = "ID")]
        app: AppId,
        #[command(flatten)]
        page: PageOptions,
    },
    /// Show the record of a key and how much of its limits is used, never the key
    Show { id: KeyId },
    /// Change the tier or the limits of a key; what it has used stays used
    Update(UpdateKey),
    /// Forget what a key has used of its limits, and with it all who share them
    ResetLimits {
        id: KeyId,
        /// Why; kept in the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Refuse a key from now on, for good
    Revoke {
        id: KeyId,
        /// Why; kept with the record and in the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Import keys that another system made, from a file; may be run again with the same file
    ///
    /// Keys are hashed here and sent as hashes. The file is read as CSV with a header row (key or
    /// sha256, app, scopes, expires_at, name, owner, purpose, tier, enabled), the same as JSON lines,
    /// Kong's declarative file, Tyk's session objects, or a body of Unkey's keys.migrateKeys. What is
    /// there already stays as it is; if some could not be imported or differ, the exit code is 6.
    Import(Box<ImportKeys>),
    /// Refuse a key until it is enabled again
    Disable { id: KeyId },
    /// Let a disabled key work again
    Enable { id: KeyId },
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// The app that it is for
    #[arg(long, value_name = "ID")]
    pub(crate) app: AppId,
    /// sk (secret), pk (publishable, for browsers) or rk (restricted)
    #[arg(long, default_value = "sk")]
    pub(crate) kind: KeyKind,
    /// What it may do [default: all that its app is granted]
    #[arg(long, value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
    /// What people call it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long it is valid, such as 12h or 30d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", conflicts_with = "expires_at")]
    pub(crate) ttl: Option<String>,
    /// When it expires, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    /// A network that it may be used from [default: any that its app allows]
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub(crate) cidr: Vec<IpNet>,
    /// A web origin that a pk key may be used from, such as https://shop.example [default: any]
    #[arg(long, value_delimiter = ',', value_name = "ORIGIN")]
    pub(crate) origin: Vec<String>,
    /// The tier whose limits it has [default: its app's]
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateKey {
    pub(crate) id: KeyId,
    /// The tier whose limits it has
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<String>,
    /// Back to its app's tier
    #[arg(long, conflicts_with = "tier")]
    pub(crate) no_tier: bool,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
    /// Back to its tier's limits, all of them
    #[arg(long, conflicts_with_all = ["rate", "burst", "quota", "concurrency"])]
    pub(crate) no_limits: bool,
}

/// What a key has instead of its tier's limits.
#[derive(Debug, Args)]
pub(crate) struct LimitOptions {
    /// How often it may be used, such as 100/s or 60/minute [default: as its tier says]
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// How many requests may come at once; needs a rate [default: a second's worth of it]
    #[arg(long, value_name = "COUNT")]
    pub(crate) burst: Option<u64>,
    /// How many requests in a calendar window in UTC, such as 1000/day [default: as its tier says]
    ///
    /// May be given for several windows. Takes the place of all quotas of the tier.
    #[arg(long, value_delimiter = ',')]
    pub(crate) quota: Vec<Rate>,
    /// How many requests may run at one time [default: as its tier says]
    #[arg(long, value_name = "COUNT")]
    pub(crate) concurrency: Option<u64>,
}
