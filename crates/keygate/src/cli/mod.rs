//! The command line: its words, and nothing of what they do.

mod accounts;
mod ask;
mod audit;
mod common;
mod import;
mod keys;
mod pepper;
mod store;
mod tokens;
mod top;
mod usage;

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use keygate_core::key::holds_our_shape;
use keygate_core::{AccountId, AppId, KeyId, TokenId};

use crate::failure::Failure;
use crate::output;

pub(crate) use accounts::{
    Accounts, AccountsCommand, Apps, AppsCommand, CreateAccount, CreateApp, UpdateAccount,
    UpdateApp,
};
pub(crate) use ask::{Explain, KeyFromInput, Verify};
pub(crate) use audit::{Audit, AuditCommand, ListAudit};
pub(crate) use common::{About, AdminOptions, IfMatch, NewRecord, PageOptions, Sure};
pub(crate) use import::ImportKeys;
pub(crate) use keys::{CreateKey, Keys, KeysCommand, LimitOptions, ListKeys, RotateKey, UpdateKey};
pub(crate) use pepper::{Pepper, PepperCommand, Reload};
pub(crate) use store::{Store, StoreCommand};
pub(crate) use tokens::{CreateToken, Tokens, TokensCommand};
pub(crate) use top::Top;
pub(crate) use usage::{Group as UsageGroup, Usage};

/// An edge proxy that enforces API keys in front of your HTTP APIs.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) mode: Mode,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, \
    3 not found, 4 refused, 5 the admin API or the store cannot be reached, \
    6 imported but for records that differ or failed";

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
    /// Explain what would become of a call, step by step; nothing is charged for it
    Explain(Explain),
    /// Manage the tokens of the admin API
    Tokens(Tokens),
    /// List what was changed, when and by whom
    Audit(Audit),
    /// Show live who calls a gateway most, and how it is
    Top(Top),
    /// Show what was used, by whom and when, to bill from
    Usage(Usage),
    /// List the gateways that share the store; fails (1) unless each follows its changes live
    Fleet(Fleet),
    /// See which peppers keys depend on, and go over to a new one
    Pepper(Pepper),
    /// Show the configuration that the gateway runs with, without its secrets
    Config(ShowConfig),
    /// Have the running gateway read its configuration again
    Reload(Reload),
    /// Write all accounts, apps and keys to a file, or read them from one; no gateway is asked
    Store(Store),
    /// Print what a shell needs to complete these commands
    Completions {
        /// Such as bash: source <(keygate completions bash)
        shell: clap_complete::Shell,
    },
}

pub(crate) const DEFAULT_CONFIG: &str = "gateway.toml";

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,

    /// Take over from the gateway that started this one
    #[arg(long, hide = true)]
    pub(crate) take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ShowConfig {
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

/// The words of this process. Wrong ones end it, as clap does.
pub(crate) fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| without_keys(error).exit())
}

/// An error of clap's that does not repeat what may be a key, given where an id belongs.
fn without_keys(mut error: clap::Error) -> clap::Error {
    const HIDDEN: &str = "(not shown: it may be a key)";
    let is_id = error
        .context()
        .any(|(kind, value)| kind == ContextKind::InvalidArg && value.to_string().contains("<ID>"));
    let repeats = |kind: ContextKind, value: &ContextValue| {
        let ContextValue::String(text) = value else { return false };
        let is_ours = IDS.iter().any(|prefix| text.starts_with(prefix));
        let is_stray_id = kind == ContextKind::InvalidValue && is_id && !is_ours;
        is_stray_id || holds_our_shape(text.as_bytes())
    };
    let hidden: Vec<ContextKind> = error
        .context()
        .filter(|(kind, value)| repeats(*kind, value))
        .map(|(kind, _)| kind)
        .collect();
    if !hidden.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    for kind in hidden {
        error.insert(kind, ContextValue::String(HIDDEN.to_owned()));
    }
    error
}

/// What ids begin with.
const IDS: [&str; 4] = [AccountId::PREFIX, AppId::PREFIX, KeyId::PREFIX, TokenId::PREFIX];

/// Prints what a shell needs to complete the commands.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keygate", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
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
    fn a_key_in_place_of_an_id_is_not_repeated() {
        for line in [
            "keys show sk_live_SECRET",
            "keys show legacySECRET",
            "keys revoke legacySECRET --yes",
            "explain --key-id legacySECRET --path /",
            "keys list sk_live_SECRET",
            "keys sk_live_SECRET",
            "apps show acme_sk_live_SECRET",
        ] {
            let error = without_keys(parse(&format!("keygate {line}")).unwrap_err());
            let text = error.to_string();
            assert!(!text.contains("SECRET") && text.contains("not shown"), "{line}: {text}");
        }
        let error = without_keys(parse("keygate keys show key_01").unwrap_err());
        assert!(error.to_string().contains("key_01"), "{error}");
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
