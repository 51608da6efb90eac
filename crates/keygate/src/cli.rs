//! The command line: its words, and nothing of what they do.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use keygate_core::limit::Rate;
use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, Scope};

/// An edge proxy that enforces API keys in front of your HTTP APIs.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) mode: Mode,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, \
    3 not found, 4 refused, 5 the admin API or the store cannot be reached, \
    6 imported but for records that differ";

#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// Run the gateway
    Run(RunOptions),
    /// Report every problem in a configuration file
    Check {
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },
    /// Run the gateway with a sample upstream and sample keys, and show three calls to try
    Demo(RunOptions),
    /// Manage accounts
    Accounts(Accounts),
    /// Manage apps, each one integration of an account
    Apps(Apps),
    /// Manage the keys of apps
    Keys(Keys),
    /// Ask whether a key may make a call; the key is read from standard input
    Verify(Verify),
    /// List what was changed, when and by whom
    Audit(Audit),
    /// List the gateways that share the store; fails (1) unless each follows its changes live
    Fleet(Fleet),
    /// Write all accounts, apps and keys to a file, or read them from one; no gateway is asked
    Store(Store),
}

pub(crate) const DEFAULT_CONFIG: &str = "gateway.toml";

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
}

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
    pub(crate) config: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print ids only (for a new key: the key only)
    #[arg(short, long, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Accounts {
    #[command(subcommand)]
    pub(crate) command: AccountsCommand,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// Create an account
    Create {
        #[arg(long)]
        name: String,
    },
    /// List accounts
    List(PageOptions),
    /// Show one account
    Show { id: AccountId },
    /// Refuse every key of an account until it is activated again
    Suspend { id: AccountId },
    /// Lift a suspension
    Activate { id: AccountId },
}

#[derive(Debug, Args)]
pub(crate) struct Apps {
    #[command(subcommand)]
    pub(crate) command: AppsCommand,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppsCommand {
    /// Create an app
    Create {
        #[arg(long, value_name = "ID")]
        account: AccountId,
        #[arg(long)]
        name: String,
        /// What its keys may be given at most, such as read:orders,write:orders
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// live or test
        #[arg(long, default_value = "live")]
        environment: Environment,
        /// A network that its keys may be used from [default: any]
        #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
        cidr: Vec<IpNet>,
    },
    /// List the apps of an account
    List {
        #[arg(long, value_name = "ID")]
        account: AccountId,
        #[command(flatten)]
        page: PageOptions,
    },
    /// Show one app
    Show { id: AppId },
    /// Refuse every key of an app until it is enabled again
    Disable { id: AppId },
    /// Let the keys of an app work again
    Enable { id: AppId },
}

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

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only `-`, standard input: a key on the command line would be in the process list and in the
    /// shell's history
    #[arg(long, value_name = "-", default_value = "-")]
    pub(crate) key: String,
    /// A key given as an argument all the same: taken, so that the refusal need not repeat it.
    #[arg(hide = true)]
    pub(crate) stray: Option<String>,
    /// The call: its method
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// The call: its path [default: look at the key only, at no route]
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// The call: its host
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// The call: the client's address
    #[arg(long)]
    pub(crate) ip: Option<IpAddr>,
    /// The call: the web page's origin
    #[arg(long)]
    pub(crate) origin: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

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

#[derive(Debug, Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_id_of_the_wrong_kind_is_wrong_usage() {
        let app = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert!(parse(&format!("keygate apps show {app}")).is_ok());
        assert_eq!(parse(&format!("keygate keys show {app}")).unwrap_err().exit_code(), 2);
        assert_eq!(parse("keygate apps show ../../metrics").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn options_of_the_admin_api_may_follow_the_command() {
        assert!(parse("keygate accounts list --json --url http://127.0.0.1:1").is_ok());
        assert!(parse("keygate accounts --json list").is_ok());
        assert!(parse("keygate accounts list --json --quiet").is_err());
    }

    #[test]
    fn limits_are_given_or_taken_away() {
        let update = "keygate keys update key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert!(parse(&format!("{update} --rate 5/s --quota 9/day,99/month")).is_ok());
        assert!(parse(&format!("{update} --tier free --no-limits")).is_ok());
        for wrong in ["--rate 5/s --no-limits", "--tier a --no-tier", "--rate 5", "--quota 0/day"] {
            let error = parse(&format!("{update} {wrong}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_key_has_one_end() {
        let create = "keygate keys create --app app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert!(parse(&format!("{create} --ttl 30d")).is_ok());
        let both = format!("{create} --ttl 30d --expires-at 2030-01-01T00:00:00Z");
        assert!(parse(&both).is_err());
    }
}
