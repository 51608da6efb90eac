//! The whole gateway with everything on, against a bare Pingora pass-through (same allocator and build),
//! and against nginx and HAProxy passing through and checking keys; in turns in one run, each on one core.
//! `cargo bench --bench end_to_end -- rounds=7 seconds=2 keys=1000,100000 only=ours,bare`, and
//! `gateway=PATH` to have another build of the gateway run too. Linux: reads /proc.

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

mod bare;
#[path = "../common/mod.rs"]
mod common;

use std::path::Path;
use std::time::Duration;

use mimalloc::MiMalloc;

use common::gateway::{OURS, RATE, Setup};
use common::keys::Keys;
use common::load::{Ask, Load, Measured, Order, measure};
use common::options::{Options, Table};
use common::process::{PEERS_CORE, PROXY_CORE, Running, free_port, pin_self};
use common::redis::Redis;
use common::rivals::{self, Missing};
use common::{median, service};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 7;
const SECONDS: f64 = 2.0;
/// Of what a contestant can do at most, when the time that requests take is measured.
const SHARE: f64 = 0.7;

/// All contestants, in the order of their turns. The first is what the others are compared with.
const NAMES: &[&str] = &[
    "bare",
    "ours",
    "ours-rate",
    "other",
    "other-rate",
    "nginx",
    "nginx-lua",
    "haproxy",
    "haproxy-keys",
];
/// Those whose times at a part of their rate are measured.
const PACED: &[&str] = &["bare", "ours", "other"];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let port = |at: usize| args[at].parse().expect("a port");
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(port(2)),
        Some("bare") => bare::serve(port(2), port(3)),
        // `cargo test --benches` only wants to see that it would run.
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ => compare(&Options::read()),
    }
}

struct Contestant {
    name: &'static str,
    running: Running,
    port: u16,
    /// What it asks.
    _redis: Option<Redis>,
    rounds: Vec<Measured>,
}

fn compare(options: &Options) {
    let rounds = options.get("rounds", ROUNDS);
    let connections = options.get("connections", CONNECTIONS);
    let time = Duration::from_secs_f64(options.get("seconds", SECONDS));
    let mut table = options.table(
        "end_to_end",
        "keys,round,contestant,requests_per_second,cpu_user_us,cpu_system_us,p50_us,p99_us,p999_us,\
         memory_bytes,cores_busy,requests,failed",
    );
    let mut paced = options.table(
        "latency",
        "keys,round,contestant,requests_per_second,p50_us,p99_us,p999_us,max_us,cores_busy,requests,\
         failed",
    );
    for count in options.list("keys").unwrap_or_else(|| vec![1_000, 100_000]) {
        let folder = tempfile::tempdir().unwrap();
        println!(
            "\n{count} keys in uniform order, {connections} connections, rounds of {time:?}, one core \
             for the proxy and one for clients and service"
        );
        let keys = Keys::mint(count);
        let upstream = free_port();
        let program = std::env::current_exe().unwrap();
        let args = ["upstream", &upstream.to_string()];
        let _upstream =
            Running::start(PEERS_CORE, program.to_str().unwrap(), &args, folder.path(), upstream);
        let mut contestants = start_all(options, folder.path(), upstream, &keys);
        pin_self(PEERS_CORE);
        let load = Load {
            port: 0,
            keys: &keys,
            order: Order::Uniform,
            ask: Ask::Small,
            connections,
            at_once: connections,
            time,
            rate: None,
        };
        for one in &contestants {
            warm(one, load);
        }
        for round in 0..rounds {
            for one in &mut contestants {
                let measured = measure(&one.running, Load { port: one.port, ..load });
                row(&mut table, count, round, one.name, &measured);
                one.rounds.push(measured);
            }
        }
        print(&contestants);
        if options.get("paced", true) {
            at_a_share(&contestants, load, rounds, count, &mut paced);
        }
    }
}

fn start_all(options: &Options, folder: &Path, upstream: u16, keys: &Keys) -> Vec<Contestant> {
    let only: Option<Vec<String>> = options.list("only");
    let other = options.text("gateway");
    let mut contestants = Vec::new();
    for &name in NAMES {
        // Nobody who gives no other gateway wants to hear of it.
        let wanted = only.as_ref().is_none_or(|only| only.iter().any(|one| one == name));
        if !wanted || (name.starts_with("other") && other.is_none()) {
            continue;
        }
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        match start(name, &folder, upstream, keys, other.unwrap_or(OURS)) {
            Ok((running, port, redis)) => {
                contestants.push(Contestant { name, running, port, _redis: redis, rounds: vec![] });
            }
            Err(missing) => println!("skipped: {name}: {missing} (make setup-bench installs it)"),
        }
    }
    contestants
}

type Started = (Running, u16, Option<Redis>);

fn start(
    name: &str,
    folder: &Path,
    upstream: u16,
    keys: &Keys,
    other: &str,
) -> Result<Started, Missing> {
    if name == "bare" {
        let port = free_port();
        let program = std::env::current_exe().unwrap();
        let args = ["bare", &port.to_string(), &upstream.to_string()];
        let program = program.to_str().unwrap();
        return Ok((Running::start(PROXY_CORE, program, &args, folder, port), port, None));
    }
    if name.starts_with("ours") || name.starts_with("other") {
        let program = if name.starts_with("ours") { OURS } else { other };
        let setup = Setup::new(program, folder, upstream, keys.len());
        let alike = Setup { tier: RATE, access_log: false, ..setup };
        let setup = if name.ends_with("-rate") { alike } else { setup };
        return Ok((setup.start(), setup.port, None));
    }
    let rival = match name {
        "nginx" => rivals::nginx(folder, upstream),
        "nginx-lua" => rivals::nginx_lua(folder, upstream, keys),
        "haproxy" => rivals::haproxy(folder, upstream),
        _ => rivals::haproxy_keys(folder, upstream, keys),
    }?;
    Ok(rival.split())
}

/// Each key once, so that all are where they are looked for first.
fn warm(one: &Contestant, load: Load<'_>) {
    let time = Duration::from_secs(600);
    let once = Load { port: one.port, order: Order::Once, time, ..load };
    let measured = measure(&one.running, once);
    if let Some(failure) = measured.outcome.failure {
        panic!("{} answers {failure} to a good key", one.name);
    }
}

fn row(table: &mut Table, keys: usize, round: usize, name: &str, measured: &Measured) {
    table.row(&[
        keys.to_string(),
        round.to_string(),
        name.to_owned(),
        format!("{:.0}", measured.per_second),
        format!("{:.3}", measured.user_us),
        format!("{:.3}", measured.system_us),
        format!("{:.1}", measured.quantile_us(0.5)),
        format!("{:.1}", measured.quantile_us(0.99)),
        format!("{:.1}", measured.quantile_us(0.999)),
        measured.memory.to_string(),
        format!("{:.3}", measured.cores),
        measured.outcome.requests.to_string(),
        measured.outcome.failed.to_string(),
    ]);
}

/// Medians of all rounds; ratios of what was measured one after the other, and their medians.
fn print(contestants: &[Contestant]) {
    println!(
        "contestant    requests/s  ratio | CPU us/req   user system  ratio |  p50 us  p99 us p99.9 us \
         | MB held  cores  failed"
    );
    let first = &contestants[0].rounds;
    for one in contestants {
        let of = |get: fn(&Measured) -> f64| median(one.rounds.iter().map(get).collect());
        let ratio = |get: fn(&Measured) -> f64| {
            let pairs = one.rounds.iter().zip(first);
            median(pairs.map(|(this, first)| get(this) / get(first)).collect())
        };
        println!(
            "{:13} {:>10.0} {:>6.3} | {:>10.2} {:>6.2} {:>6.2} {:>6.3} | {:>7.0} {:>7.0} {:>8.0} | \
             {:>7.1} {:>6.2} {:>7}",
            one.name,
            of(|one| one.per_second),
            ratio(|one| one.per_second),
            of(Measured::cpu_us),
            of(|one| one.user_us),
            of(|one| one.system_us),
            ratio(Measured::cpu_us),
            of(|one| one.quantile_us(0.5)),
            of(|one| one.quantile_us(0.99)),
            of(|one| one.quantile_us(0.999)),
            of(|one| one.memory as f64 / 1e6),
            of(|one| one.cores),
            one.rounds.iter().map(|one| one.outcome.failed).sum::<u64>(),
        );
    }
    println!("(medians of {} rounds; ratios to {})", first.len(), contestants[0].name);
}

/// The time that requests take when they come at a part of what each contestant can do, whatever it does.
fn at_a_share(
    contestants: &[Contestant],
    load: Load<'_>,
    rounds: usize,
    keys: usize,
    table: &mut Table,
) {
    let paced: Vec<&Contestant> =
        contestants.iter().filter(|one| PACED.contains(&one.name)).collect();
    let mut all: Vec<Vec<Measured>> = paced.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (one, measured) in paced.iter().zip(&mut all) {
            let most = median(one.rounds.iter().map(|one| one.per_second).collect());
            let rate = Some(SHARE * most);
            measured.push(measure(&one.running, Load { port: one.port, rate, ..load }));
            let Some(last) = measured.last() else { continue };
            table.row(&[
                keys.to_string(),
                round.to_string(),
                one.name.to_owned(),
                format!("{:.0}", last.per_second),
                format!("{:.1}", last.quantile_us(0.5)),
                format!("{:.1}", last.quantile_us(0.99)),
                format!("{:.1}", last.quantile_us(0.999)),
                format!("{:.1}", last.quantile_us(1.0)),
                format!("{:.3}", last.cores),
                last.outcome.requests.to_string(),
                last.outcome.failed.to_string(),
            ]);
        }
    }
    println!("at {:.0} % of its own rate, from when each request was due:", SHARE * 100.0);
    println!("contestant    requests/s   p50 us  ratio   p99 us  ratio p99.9 us  ratio  cores");
    for (one, rounds) in paced.iter().zip(&all) {
        print!(
            "{:13} {:>10.0}",
            one.name,
            median(rounds.iter().map(|one| one.per_second).collect())
        );
        for share in [0.5, 0.99, 0.999] {
            let value = median(rounds.iter().map(|one| one.quantile_us(share)).collect());
            let ratios = rounds.iter().zip(&all[0]);
            let ratios =
                ratios.map(|(this, first)| this.quantile_us(share) / first.quantile_us(share));
            print!(" {value:>8.0} {:>6.3}", median(ratios.collect()));
        }
        println!(" {:>6.2}", median(rounds.iter().map(|one| one.cores).collect()));
    }
}
