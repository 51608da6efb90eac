//! The words of commands that ask about a call.

use std::net::IpAddr;

use clap::Args;
use keygate_core::KeyId;

use super::AdminOptions;

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) key: KeyFromInput,
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

/// A key that is never an argument.
#[derive(Debug, Args)]
pub(crate) struct KeyFromInput {
    /// Only `-`, standard input: a key on the command line would be in the process list and in the
    /// shell's history
    #[arg(long, value_name = "-", default_value = "-")]
    pub(crate) key: String,
    /// A key given as an argument all the same: taken, so that the refusal need not repeat it.
    #[arg(hide = true)]
    pub(crate) stray: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The key, by the id of its record [default: the key itself, from standard input]
    #[arg(long, value_name = "ID", conflicts_with = "key")]
    pub(crate) key_id: Option<KeyId>,
    #[command(flatten)]
    pub(crate) key: KeyFromInput,
    /// The call: its method
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// The call: its path, and its query if it has one
    #[arg(long)]
    pub(crate) path: String,
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
