//! The binary: one mode per command, one exit code per kind of outcome.
//!
//! Knows no rule of its own. `serve.rs` wires the gateway; the commands that manage accounts, apps
//! and keys talk to the admin API of one that runs, so there is one way in and it is audited. Only
//! `backup.rs` works on a store directly.

mod ask_config;
mod ask_reload;
mod audit_sink;
mod backup;
mod check;
mod cli;
mod client;
mod clock;
mod control;
mod demo;
mod ending;
mod failure;
mod first_start;
mod folders;
mod handover;
mod import;
mod listen;
mod manage;
mod observe;
mod output;
mod pepper;
mod pepper_watch;
mod reload;
mod reporting;
mod sample;
mod serve;
mod shutdown;
mod stores;
mod top;
mod usage;
mod watch;

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::cli::Mode;
use crate::reload::Origin;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    no_core_dumps();
    let outcome = match cli::parse().mode {
        Mode::Run(options) => serve::run(Origin::file(&options.config), options.take_over),
        Mode::Check { file } => check::run(&file),
        Mode::Demo(options) => demo::run(&options.config),
        Mode::Accounts(accounts) => manage::accounts(&accounts),
        Mode::Apps(apps) => manage::apps(&apps),
        Mode::Keys(keys) => manage::keys(&keys),
        Mode::Verify(verify) => manage::verify(&verify),
        Mode::Explain(explain) => manage::explain(&explain),
        Mode::Tokens(tokens) => manage::tokens(&tokens),
        Mode::Audit(audit) => manage::audit(&audit),
        Mode::Top(top) => top::run(&top),
        Mode::Usage(usage) => manage::usage(&usage),
        Mode::Fleet(fleet) => manage::fleet(&fleet),
        Mode::Pepper(pepper) => pepper::run(&pepper),
        Mode::Config(show) => ask_config::run(&show),
        Mode::Reload(reload) => ask_reload::run(&reload),
        Mode::Store(store) => backup::run(&store),
        Mode::Completions { shell } => cli::completions(shell),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A core dump would hold peppers, tokens and keys.
fn no_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        eprintln!("warning: cannot turn core dumps off: {error}");
    }
}
