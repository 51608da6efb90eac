//! The whole gateway with its access log written to a file, against the same without one, in turns in
//! one run: requests/s and CPU per request, as ratios.
//! `cargo bench --bench access_log -- rounds=25 seconds=1`. Linux: reads /proc, and pins with `taskset`
//! where it exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::gateway::{OURS, Setup};
use common::keys::Keys;
use common::load::{Ask, Load, Measured, Order, measure};
use common::options::Options;
use common::process::{PEERS_CORE, Running, free_port, pin_self};
use common::{median, service};

const KEYS: usize = 1_000;
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 25;
const SECONDS: f64 = 1.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(args[2].parse().expect("a port")),
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ => compare(&Options::read()),
    }
}

fn compare(options: &Options) {
    let rounds = options.get("rounds", ROUNDS);
    let time = Duration::from_secs_f64(options.get("seconds", SECONDS));
    let mut table = options.table(
        "access_log",
        "round,access_log,requests_per_second,cpu_user_us,cpu_system_us,p50_us,p99_us,p999_us",
    );
    let folder = tempfile::tempdir().unwrap();
    let upstream = free_port();
    let program = std::env::current_exe().unwrap();
    let args = ["upstream", &upstream.to_string()];
    let _upstream =
        Running::start(PEERS_CORE, program.to_str().unwrap(), &args, folder.path(), upstream);
    let keys = Keys::mint(KEYS);
    let program = options.text("gateway").unwrap_or(OURS);
    let folders = ["off", "on"].map(|name| folder.path().join(name));
    let setups = [0, 1].map(|at| Setup {
        access_log: at == 1,
        ..Setup::new(program, &folders[at], upstream, KEYS)
    });
    let running = setups.map(|setup| setup.start());
    pin_self(PEERS_CORE);
    let load = |at: usize| Load {
        port: setups[at].port,
        keys: &keys,
        order: Order::Uniform,
        ask: Ask::Small,
        connections: CONNECTIONS,
        at_once: CONNECTIONS,
        time,
        rate: None,
    };

    println!(
        "{CONNECTIONS} connections, {KEYS} keys, rounds of {time:?}, one core for the gateway"
    );
    println!("round         off/s       on/s  ratio | off us/req  on us/req  ratio");
    for at in [0, 1] {
        measure(&running[at], load(at));
    }
    let mut ratios = Vec::new();
    for round in 0..rounds {
        // In turns, so that a machine that slows down slows both.
        let [off, on] = in_turns(round % 2 == 0, |at| measure(&running[at], load(at)));
        let (rate, cpu) = (on.per_second / off.per_second, on.cpu_us() / off.cpu_us());
        println!(
            "{round:>5} {:>13.0} {:>10.0} {rate:>6.3} | {:>10.2} {:>10.2} {cpu:>6.3}",
            off.per_second,
            on.per_second,
            off.cpu_us(),
            on.cpu_us(),
        );
        for (name, one) in [("off", &off), ("on", &on)] {
            table.row(&[
                round.to_string(),
                name.to_owned(),
                format!("{:.0}", one.per_second),
                format!("{:.3}", one.user_us),
                format!("{:.3}", one.system_us),
                format!("{:.1}", one.quantile_us(0.5)),
                format!("{:.1}", one.quantile_us(0.99)),
                format!("{:.1}", one.quantile_us(0.999)),
            ]);
        }
        ratios.push((rate, cpu));
    }
    let lines = std::fs::metadata(folders[1].join("access.jsonl")).unwrap();
    println!(
        "median ratio with the access log: requests/s {:.3}, CPU per request {:.3}; {} MB of lines",
        median(ratios.iter().map(|ratio| ratio.0).collect()),
        median(ratios.iter().map(|ratio| ratio.1).collect()),
        lines.len() / 1_000_000,
    );
}

fn in_turns(off_first: bool, measure: impl Fn(usize) -> Measured) -> [Measured; 2] {
    if off_first {
        let off = measure(0);
        [off, measure(1)]
    } else {
        let on = measure(1);
        [measure(0), on]
    }
}
