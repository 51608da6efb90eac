//! The words of `keygate usage`.

use clap::{Args, ValueEnum};
use keygate_core::{AccountId, AppId, KeyId};

use super::{AdminOptions, PageOptions};

#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Of this key alone
    #[arg(long, value_name = "ID", conflicts_with_all = ["app", "account"])]
    pub(crate) key: Option<KeyId>,
    /// Of this app's keys
    #[arg(long, value_name = "ID", conflicts_with = "account")]
    pub(crate) app: Option<AppId>,
    /// Of this account's keys
    #[arg(long, value_name = "ID")]
    pub(crate) account: Option<AccountId>,
    /// Of this route alone
    #[arg(long, value_name = "NAME")]
    pub(crate) route: Option<String>,
    /// Of windows that begin then or later, such as 2030-01-01T00:00:00Z [default: the last hour by the
    /// minute, day by the hour, 31 days by the day]
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Of windows that begin before then [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// How long a window is; days are UTC's
    #[arg(long, value_name = "LENGTH", default_value = "hour")]
    pub(crate) by: Window,
    /// What has a line of its own in each window
    #[arg(long, value_name = "WHAT", default_value = "route")]
    pub(crate) group: Group,
    /// Print CSV, whole: a column for each number, and for each reason to refuse
    #[arg(long, conflicts_with_all = ["json", "quiet", "limit", "cursor"])]
    pub(crate) csv: bool,
    #[command(flatten)]
    pub(crate) page: PageOptions,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Window {
    Minute,
    Hour,
    Day,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    Route,
    /// Of an account, app or key
    Key,
    None,
}

impl Window {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

impl Group {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Key => "key",
            Self::None => "none",
        }
    }
}
