//! The words of `keygate accounts` and `keygate apps`.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use keygate_core::{AccountId, AppId, Environment, Scope};

use super::{About, AdminOptions, IfMatch, NewRecord, PageOptions, Sure};

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
    Create(CreateAccount),
    /// List accounts
    List(PageOptions),
    /// Show one account
    Show { id: AccountId },
    /// Change an account
    Update(UpdateAccount),
    /// Refuse every key of an account until it is activated again
    Suspend {
        id: AccountId,
        #[command(flatten)]
        sure: Sure,
    },
    /// Lift a suspension
    Activate { id: AccountId },
}

#[derive(Debug, Args)]
pub(crate) struct CreateAccount {
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) about: About,
    #[command(flatten)]
    pub(crate) new: NewRecord,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateAccount {
    pub(crate) id: AccountId,
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) about: About,
    #[command(flatten)]
    pub(crate) expected: IfMatch,
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
    Create(CreateApp),
    /// List the apps of an account
    List {
        #[arg(long, value_name = "ID")]
        account: AccountId,
        #[command(flatten)]
        page: PageOptions,
    },
    /// Show one app
    Show { id: AppId },
    /// Change an app; what it is no longer granted, its keys lose at once
    Update(UpdateApp),
    /// Refuse every key of an app until it is enabled again
    Disable {
        id: AppId,
        #[command(flatten)]
        sure: Sure,
    },
    /// Let the keys of an app work again
    Enable { id: AppId },
}

#[derive(Debug, Args)]
pub(crate) struct CreateApp {
    #[arg(long, value_name = "ID")]
    pub(crate) account: AccountId,
    #[arg(long)]
    pub(crate) name: String,
    /// What its keys may be given at most, such as read:orders,write:orders
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) scopes: Vec<Scope>,
    /// live or test
    #[arg(long, default_value = "live")]
    pub(crate) environment: Environment,
    /// The tier whose limits its keys have [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<String>,
    /// How old its keys may get, such as 90d [default: as the tier says]
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_age: Option<String>,
    /// A network that its keys may be used from [default: any]
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub(crate) cidr: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) about: About,
    #[command(flatten)]
    pub(crate) new: NewRecord,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateApp {
    pub(crate) id: AppId,
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What its keys may be given at most, in place of what it was
    #[arg(long, value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
    /// The tier whose limits its keys have
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<String>,
    /// No tier
    #[arg(long, conflicts_with = "tier")]
    pub(crate) no_tier: bool,
    /// How old its keys may get, such as 90d
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_age: Option<String>,
    /// As old as the tier says
    #[arg(long, conflicts_with = "max_age")]
    pub(crate) no_max_age: bool,
    /// A network that its keys may be used from; in place of all that are there
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub(crate) cidr: Vec<IpNet>,
    /// From any network
    #[arg(long, conflicts_with = "cidr")]
    pub(crate) no_cidr: bool,
    #[command(flatten)]
    pub(crate) about: About,
    #[command(flatten)]
    pub(crate) expected: IfMatch,
}
