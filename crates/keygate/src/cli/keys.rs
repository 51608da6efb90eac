//! The words of `keygate keys`.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use keygate_core::limit::Rate;
use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, Scope};

use super::{About, AdminOptions, IfMatch, ImportKeys, NewRecord, PageOptions, Sure};

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
    Create(Box<CreateKey>),
    /// List keys, of all apps or of one
    List(Box<ListKeys>),
    /// Show the record of a key and how much of its limits is used, never the key
    Show { id: KeyId },
    /// Show when a key was last used
    Usage { id: KeyId },
    /// Change a key; what it has used of its limits stays used
    Update(Box<UpdateKey>),
    /// Make a key that takes the place of this one, and print it, this once; both work for a while
    Rotate(RotateKey),
    /// Import keys that another system made, from a file; may be run again with the same file
    ///
    /// Keys are hashed here and sent as hashes. The file is read as CSV with a header row (key or
    /// sha256, app, scopes, expires_at, name, owner, purpose, tier, enabled), the same as JSON lines,
    /// Kong's declarative file, Tyk's session objects, or a body of Unkey's keys.migrateKeys. What is
    /// there already stays as it is; if some could not be imported or differ, the exit code is 6.
    Import(Box<ImportKeys>),
    /// Forget what a key has used of its limits, and with it all who share them
    ResetLimits {
        id: KeyId,
        /// Why; kept in the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Refuse a key from now on, for good
    Revoke {
        id: KeyId,
        /// Why; kept with the record and in the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        expected: IfMatch,
        #[command(flatten)]
        sure: Sure,
    },
    /// Refuse a key until it is enabled again
    Disable {
        id: KeyId,
        #[command(flatten)]
        sure: Sure,
    },
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
    #[command(flatten)]
    pub(crate) about: About,
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
    #[command(flatten)]
    pub(crate) new: NewRecord,
}

/// Which keys: all that is given has to be so.
#[derive(Debug, Args)]
pub(crate) struct ListKeys {
    /// Of this app
    #[arg(long, value_name = "ID", conflicts_with = "account")]
    pub(crate) app: Option<AppId>,
    /// Of this account
    #[arg(long, value_name = "ID")]
    pub(crate) account: Option<AccountId>,
    /// active, disabled, revoked or expired
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// live or test
    #[arg(long)]
    pub(crate) environment: Option<Environment>,
    /// sk, pk or rk
    #[arg(long)]
    pub(crate) kind: Option<KeyKind>,
    /// What the key begins with, as far as its hint shows it
    #[arg(long, value_name = "PREFIX")]
    pub(crate) hint: Option<String>,
    /// Live, and to end within this span, such as 7d
    #[arg(long, value_name = "DURATION")]
    pub(crate) expiring_within: Option<String>,
    /// Live, and to end before this, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expiring_before: Option<String>,
    /// Made longer ago than this, such as 90d
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<String>,
    /// Not used since then
    #[arg(long, value_name = "TIME")]
    pub(crate) last_used_before: Option<String>,
    /// Live, and older than the max_age of its tier or app
    #[arg(long)]
    pub(crate) past_policy: bool,
    /// Made by another system
    #[arg(long)]
    pub(crate) imported: bool,
    /// Not only the first part of the list
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) page: PageOptions,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateKey {
    pub(crate) id: KeyId,
    /// What people call it; "" for nothing
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) about: About,
    /// What it may do, in place of what it was
    #[arg(long, value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
    /// How long it is valid from now on, such as 12h or 30d
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["expires_at", "no_expiry"])]
    pub(crate) ttl: Option<String>,
    /// When it expires, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "no_expiry")]
    pub(crate) expires_at: Option<String>,
    /// Valid until it is revoked
    #[arg(long)]
    pub(crate) no_expiry: bool,
    /// A network that it may be used from; in place of all that are there
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub(crate) cidr: Vec<IpNet>,
    /// From any network that its app allows
    #[arg(long, conflicts_with = "cidr")]
    pub(crate) no_cidr: bool,
    /// A web origin that a pk key may be used from; in place of all that are there
    #[arg(long, value_delimiter = ',', value_name = "ORIGIN")]
    pub(crate) origin: Vec<String>,
    /// From any web origin
    #[arg(long, conflicts_with = "origin")]
    pub(crate) no_origin: bool,
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
    #[command(flatten)]
    pub(crate) expected: IfMatch,
}

#[derive(Debug, Args)]
pub(crate) struct RotateKey {
    pub(crate) id: KeyId,
    /// How long the old key works on, up to 90d; 0s for not at all [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(crate) overlap: Option<String>,
    /// Then wait until the old key has not been used for this long, such as 10m
    ///
    /// Fails if the overlap ends, or the timeout passes, while it is still in use. Waits at least 2m: a use
    /// may take so long to be seen.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) wait_idle: Option<std::time::Duration>,
    /// How long to wait at most, 2m or more [default: to the end of the overlap]
    #[arg(long, value_name = "DURATION", requires = "wait_idle", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) expected: IfMatch,
    #[command(flatten)]
    pub(crate) new: NewRecord,
    #[command(flatten)]
    pub(crate) sure: Sure,
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
