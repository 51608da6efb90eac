//! The words of `keygate accounts` and `keygate apps`.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use keygate_core::{AccountId, AppId, Environment, Scope};

use super::{AdminOptions, PageOptions};

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
