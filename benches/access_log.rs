//! The whole gateway with its access log written to a file, against the same without one, in turn in
//! one run: requests/s and CPU per request, as ratios. `cargo bench --bench access_log`. Linux: reads
//! /proc, and pins with `taskset` where it exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

#[path = "load.rs"]
mod load;
#[path = "running.rs"]
mod running;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use load::{CONNECTIONS, measure, median, request, upstream};
use running::{PEERS_CORE, Running, free_port, gateway_with_keys, pin_self};

const KEYS: usize = 1_000;
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS_DEFAULT: usize = 25;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => upstream(args[2].parse().expect("a port")),
        _ => compare(),
    }
}

/// The gateway as a user runs it, with this table.
fn gateway(folder: &Path, port: u16, upstream: u16, table: &str) -> (Running, Arc<[Vec<u8>]>) {
    let config = format!(
        r#"
[server]
listen = ["127.0.0.1:{port}"]
threads = 1
[keys]
keys_max_live = 1000
[cache]
ttl = "1h"
{table}
[upstreams.orders]
targets = ["127.0.0.1:{upstream}"]
[[routes]]
name = "orders.read"
path = "/v1/orders"
methods = ["GET"]
upstream = "orders"
auth = "key"
scopes = ["read:orders"]
"#
    );
    let (running, keys) = gateway_with_keys(folder, &config, port, KEYS);
    (running, keys.iter().map(|key| request(key)).collect())
}

fn compare() {
    let rounds = std::env::args().find_map(|arg| arg.strip_prefix("rounds=")?.parse().ok());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let program = std::env::current_exe().unwrap();
    let up = free_port();
    let args = ["upstream", &up.to_string()];
    let program = program.to_str().unwrap();
    let _upstream = Running::start(PEERS_CORE, program, &args, folders[0].path(), up);
    let [off_port, on_port] = [free_port(), free_port()];
    let (off, off_requests) = gateway(folders[0].path(), off_port, up, "");
    let table = "[access_log]\nsink = \"file\"\npath = \"access.jsonl\"";
    let (on, on_requests) = gateway(folders[1].path(), on_port, up, table);
    pin_self(PEERS_CORE);

    println!(
        "{CONNECTIONS} connections, {KEYS} keys, rounds of {ROUND:?}, one core for the gateway"
    );
    println!("round         off/s       on/s  ratio | off us/req  on us/req  ratio");
    measure(&off, off_port, &off_requests, ROUND);
    measure(&on, on_port, &on_requests, ROUND);
    let mut ratios = Vec::new();
    for round in 0..rounds.unwrap_or(ROUNDS_DEFAULT) {
        let measure_off = || measure(&off, off_port, &off_requests, ROUND);
        let measure_on = || measure(&on, on_port, &on_requests, ROUND);
        // In turns, so that a machine that slows down slows both.
        let (without, with) = if round % 2 == 0 {
            let without = measure_off();
            (without, measure_on())
        } else {
            let with = measure_on();
            (measure_off(), with)
        };
        let rate = with.per_second / without.per_second;
        let cpu = with.cpu_us / without.cpu_us;
        println!(
            "{round:>5} {:>13.0} {:>10.0} {rate:>6.3} | {:>10.2} {:>10.2} {cpu:>6.3}",
            without.per_second, with.per_second, without.cpu_us, with.cpu_us,
        );
        ratios.push((rate, cpu));
    }
    let lines = std::fs::metadata(folders[1].path().join("access.jsonl")).unwrap();
    println!(
        "median ratio with the access log: requests/s {:.3}, CPU per request {:.3}; {} MB of lines",
        median(ratios.iter().map(|ratio| ratio.0).collect()),
        median(ratios.iter().map(|ratio| ratio.1).collect()),
        lines.len() / 1_000_000,
    );
}
