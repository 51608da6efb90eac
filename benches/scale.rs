//! How cost grows: threads, connections, keys in uniform and in Zipf order, bodies; and the memory of a
//! connection and of a key. The gateway with everything on, in turns in one run.
//! `cargo bench --bench scale -- rounds=3 seconds=2 keys=1000,100000,1000000 connections=1,64,1000,10000`.
//! `only=threads,connections,keys` leaves out the rest. TLS is in `tls`. Linux: reads /proc.

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

use std::path::Path;
use std::time::Duration;

use common::gateway::{OURS, Setup};
use common::keys::Keys;
use common::load::{Ask, Load, Measured, Order, measure};
use common::options::{Options, Table};
use common::process::{BOTH_CORES, PEERS_CORE, Running, free_port, pin_self, raise_files};
use common::{median, service};

const ROUNDS: usize = 3;
const SECONDS: f64 = 2.0;
const CONNECTIONS: usize = 64;
/// Requests that are under way at once, however many connections there are: each takes a connection to the
/// service too.
const AT_ONCE_MAX: usize = 256;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(args[2].parse().expect("a port")),
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ => run(&Options::read()),
    }
}

/// One load on one gateway, and what was measured of it.
struct Case<'a> {
    group: &'static str,
    name: String,
    gateway: &'a Gateway,
    load: Load<'a>,
    rounds: Vec<Measured>,
}

struct Gateway {
    running: Running,
    port: u16,
    keys: Keys,
    /// That it held before a request came, and once each key was asked for.
    memory: [u64; 2],
}

struct Bench<'a> {
    program: &'a str,
    folder: &'a Path,
    upstream: u16,
    rounds: usize,
    time: Duration,
    table: Table,
}

fn run(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let upstream = free_port();
    let program = std::env::current_exe().unwrap();
    let args = ["upstream", &upstream.to_string()];
    let _upstream =
        Running::start(PEERS_CORE, program.to_str().unwrap(), &args, folder.path(), upstream);
    let columns = "group,case,round,requests_per_second,cpu_user_us,cpu_system_us,p50_us,p99_us,\
                   p999_us,memory_bytes,cores_busy,requests,failed";
    let mut bench = Bench {
        program: options.text("gateway").unwrap_or(OURS),
        folder: folder.path(),
        upstream,
        rounds: options.get("rounds", ROUNDS),
        time: Duration::from_secs_f64(options.get("seconds", SECONDS)),
        table: options.table("scale", columns),
    };
    let counts = options.list("keys").unwrap_or_else(|| vec![1_000, 100_000, 1_000_000]);
    let connections = options.list("connections").unwrap_or_else(|| vec![1, 64, 1_000, 10_000]);
    println!("{} rounds of {:?} each; the gateway on core 0", bench.rounds, bench.time);
    println!(
        "case                             requests/s  ratio | CPU us/req  ratio |  p50 us  p99 us \
         p99.9 us | MB held  cores  failed"
    );
    let mut memory = options.table("memory", "what,count,bytes_each");
    let only: Option<Vec<String>> = options.list("only");
    let is_wanted = |part| only.as_ref().is_none_or(|only| only.iter().any(|one| one == part));
    if is_wanted("threads") {
        bench.threads_and_bodies();
    }
    if is_wanted("connections") {
        bench.connections(connections, &mut memory);
    }
    if is_wanted("keys") {
        bench.keys(&counts, &mut memory);
    }
}

impl Bench<'_> {
    fn gateway(&self, name: &str, keys: usize, threads: usize) -> Gateway {
        let folder = self.folder.join(name);
        let setup = Setup::new(self.program, &folder, self.upstream, keys);
        let core = if threads > 1 { BOTH_CORES } else { setup.core };
        let setup = Setup { threads, core, ..setup };
        let running = setup.start();
        pin_self(PEERS_CORE);
        let before = running.memory();
        let mut gateway =
            Gateway { running, port: setup.port, keys: Keys::mint(keys), memory: [before, 0] };
        let load =
            Load { order: Order::Once, time: Duration::from_secs(600), ..self.load(&gateway) };
        let warmed = measure(&gateway.running, load);
        assert!(warmed.outcome.failed == 0, "{:?}", warmed.outcome.failure);
        gateway.memory[1] = warmed.memory;
        gateway
    }

    fn load<'a>(&self, gateway: &'a Gateway) -> Load<'a> {
        Load {
            port: gateway.port,
            keys: &gateway.keys,
            order: Order::Uniform,
            ask: Ask::Small,
            connections: CONNECTIONS,
            at_once: CONNECTIONS,
            time: self.time,
            rate: None,
        }
    }

    fn threads_and_bodies(&mut self) {
        let one = self.gateway("threads-1", 1_000, 1);
        let two = self.gateway("threads-2", 1_000, 2);
        println!("(two threads share the second core with the clients and the service)");
        let cases = [("1 thread", &one), ("2 threads", &two)];
        let cases = cases.map(|(name, gateway)| Case {
            group: "threads",
            name: name.to_owned(),
            gateway,
            load: self.load(gateway),
            rounds: Vec::new(),
        });
        self.measure(cases.into());
        let kinds = [
            ("12 bytes back", Ask::Small),
            ("1 MiB back", Ask::Download),
            ("1 MiB sent", Ask::Upload),
        ];
        let cases = kinds.map(|(name, ask)| {
            let few = if ask == Ask::Small { CONNECTIONS } else { 8 };
            Case {
                group: "bodies",
                name: name.to_owned(),
                gateway: &one,
                load: Load { ask, connections: few, at_once: few, ..self.load(&one) },
                rounds: Vec::new(),
            }
        });
        self.measure(cases.into());
    }

    fn connections(&mut self, counts: Vec<usize>, memory: &mut Table) {
        // This process, the service and the gateway have a limit each; the gateway needs two for each
        // that is under way.
        let room = (raise_files() as usize).saturating_sub(AT_ONCE_MAX + 500);
        let gateway = self.gateway("connections", 1_000, 1);
        let cases = counts.into_iter().map(|wanted| {
            let count = wanted.min(room);
            if count < wanted {
                println!("{wanted} connections: no more than {count}, by the limit on open files");
            }
            Case {
                group: "connections",
                name: format!("{count} connections"),
                gateway: &gateway,
                load: Load {
                    connections: count,
                    at_once: count.min(AT_ONCE_MAX),
                    ..self.load(&gateway)
                },
                rounds: Vec::new(),
            }
        });
        let cases = self.measure(cases.collect());
        // All others are idle when the memory is looked at.
        let [Some(few), Some(many)] =
            [cases.iter().find(|case| case.load.connections >= CONNECTIONS), cases.last()]
        else {
            return;
        };
        let held = |case: &Case<'_>| case.rounds.iter().map(|one| one.memory).max().unwrap_or(0);
        let first = few.rounds.first().map_or(0, |one| one.memory);
        let more = many.load.connections.saturating_sub(few.load.connections);
        if more > 0 {
            let each = held(many).saturating_sub(first) as f64 / more as f64;
            println!("memory of an idle connection that was used: {each:.0} B");
            memory.row(&["connection".into(), more.to_string(), format!("{each:.0}")]);
        }
    }

    fn keys(&mut self, counts: &[usize], memory: &mut Table) {
        let gateways: Vec<Gateway> =
            counts.iter().map(|count| self.gateway(&format!("keys-{count}"), *count, 1)).collect();
        for order in [Order::Uniform, Order::Zipf] {
            let cases = gateways.iter().map(|gateway| Case {
                group: if order == Order::Uniform { "keys" } else { "keys-zipf" },
                name: format!("{} keys {order:?}", gateway.keys.len()),
                gateway,
                load: Load { order, ..self.load(gateway) },
                rounds: Vec::new(),
            });
            self.measure(cases.collect());
        }
        if let [few, .., many] = gateways.as_slice() {
            let grown = |one: &Gateway| one.memory[1].saturating_sub(one.memory[0]) as f64;
            let more = many.keys.len() - few.keys.len();
            let each = (grown(many) - grown(few)) / more as f64;
            println!("memory of a key in use (its record, limits and use): {each:.0} B");
            memory.row(&["key in use".into(), more.to_string(), format!("{each:.0}")]);
        }
    }

    /// In turns; ratios are to the first.
    fn measure<'a>(&mut self, mut cases: Vec<Case<'a>>) -> Vec<Case<'a>> {
        for round in 0..self.rounds {
            for case in &mut cases {
                let measured = measure(&case.gateway.running, case.load);
                self.table.row(&[
                    case.group.to_owned(),
                    case.name.clone(),
                    round.to_string(),
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
                case.rounds.push(measured);
            }
        }
        for case in &cases {
            print(case, &cases[0]);
        }
        cases
    }
}

fn print(case: &Case<'_>, first: &Case<'_>) {
    let of = |get: fn(&Measured) -> f64| median(case.rounds.iter().map(get).collect());
    let ratio = |get: fn(&Measured) -> f64| {
        let pairs = case.rounds.iter().zip(&first.rounds);
        median(pairs.map(|(this, first)| get(this) / get(first)).collect())
    };
    println!(
        "{:32} {:>10.0} {:>6.3} | {:>10.2} {:>6.3} | {:>7.0} {:>7.0} {:>8.0} | {:>7.1} {:>6.2} {:>7}",
        case.name,
        of(|one| one.per_second),
        ratio(|one| one.per_second),
        of(Measured::cpu_us),
        ratio(Measured::cpu_us),
        of(|one| one.quantile_us(0.5)),
        of(|one| one.quantile_us(0.99)),
        of(|one| one.quantile_us(0.999)),
        of(|one| one.memory as f64 / 1e6),
        of(|one| one.cores),
        case.rounds.iter().map(|one| one.outcome.failed).sum::<u64>(),
    );
}
