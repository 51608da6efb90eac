//! A good client at a part of the rate that it can have, without and with attackers at its own address:
//! slow connections, floods of refused keys, floods of HTTP/2 frames, and all at once; in turns in one run.
//! The attackers, and the service that their requests go to, have the client's core when it is idle. So each
//! round has a third part, in which they do the same to that service itself, or to a listener that reads nothing:
//! what is slower then is not the gateway's doing. Who may give real-time priorities (root) has the good client
//! and its service go first on their core, and sees less of what is not the gateway's doing.
//! `cargo bench --bench floods -- rounds=3 seconds=2 threads=1,2 only=slow-head,all attacks=2000 slow=2000`.
//! Linux: reads /proc, and pins with `taskset` where it exists.

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

#[path = "../common/mod.rs"]
mod common;
mod flood;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::gateway::{OURS, Setup};
use common::keys::Keys;
use common::load::{Ask, Load, Measured, Order, measure};
use common::options::{Options, Table};
use common::process::{BOTH_CORES, PEERS_CORE, Running, free_port, pin_self, raise_files};
use common::{median, service};
use flood::{Attack, Counts, FLOODS, Flood, run_first};

const KEYS: usize = 1_000;
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 3;
const SECONDS: f64 = 2.0;
/// Of what the good client reaches when it is alone and asks as fast as it is answered. Little enough for its
/// own core, which it shares with its service, not to be what it waits for.
const SHARE: f64 = 0.25;
/// A second, of all floods of a case together.
const ATTACKS: f64 = 2_000.0;
const SLOW: usize = 2_000;
/// So many connections the listener that reads nothing keeps at most.
const SUNK_MAX: usize = 2 * SLOW;
/// So long all connections of a flood may take to be there.
const STANDING_MAX: Duration = Duration::from_secs(60);
/// A flood has set in before something is measured with it, and what it left is gone before something is
/// measured without it.
const SETTLE: Duration = Duration::from_secs(2);
const RATE_KEPT: f64 = 0.9;
const P99_GROWN: f64 = 2.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(args[2].parse().expect("a port")),
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ => run(&Options::read()),
    }
}

/// Floods that run at one time.
struct Case {
    name: &'static str,
    floods: Vec<Flood>,
}

struct Bench<'a> {
    gateway: &'a Running,
    elsewhere: Target,
    load: Load<'a>,
    attacks: f64,
    slow: usize,
}

/// Where attacks go to.
#[derive(Clone, Copy)]
struct Target {
    port: u16,
    /// Of what a service takes part in.
    service_port: u16,
}

/// A round: the good client without a flood, with one that goes elsewhere, and with it.
struct Round {
    without: Measured,
    elsewhere: Measured,
    with: Measured,
    memory_without: u64,
    attacked: Attacked,
}

/// Of each a second.
struct Attacked {
    attacks: f64,
    reopened: f64,
    answered_401: f64,
    answered_429: f64,
}

fn run(options: &Options) {
    raise_files();
    let only: Option<Vec<String>> = options.list("only");
    let mut cases: Vec<Case> =
        FLOODS.iter().map(|&(name, flood)| Case { name, floods: vec![flood] }).collect();
    let slow_and_401 =
        [Flood::SlowHead, Flood::SlowBody, Flood::Silent, Flood::Deaf, Flood::MadeUp];
    cases.push(Case { name: "slow-and-401", floods: slow_and_401.to_vec() });
    cases.push(Case { name: "all", floods: FLOODS.iter().map(|(_, flood)| *flood).collect() });
    cases.retain(|case| only.as_ref().is_none_or(|only| only.iter().any(|one| one == case.name)));
    let rounds = options.get("rounds", ROUNDS);
    let mut table = options.table(
        "floods",
        "threads,flood,round,attacks_per_second,reopened_per_second,answered_401_per_second,\
         answered_429_per_second,requests_per_second_without,requests_per_second_with,\
         p50_us_without,p50_us_with,p99_us_without,p99_us_elsewhere,p99_us_with,memory_bytes_without,\
         memory_bytes_with,cores_busy_without,cores_busy_with,failed",
    );
    let folder = tempfile::tempdir().unwrap();
    let upstream = free_port();
    let program = std::env::current_exe().unwrap();
    let port = upstream.to_string();
    // Whether real-time priorities may be given is tried on a thread that ends.
    let goes_first = thread::spawn(run_first).join().unwrap();
    let program_text = program.to_str().unwrap();
    let args = ["--rr", "1", program_text, "upstream", &port];
    let args =
        if goes_first { &args[..] } else { &["--other", "0", program_text, "upstream", &port] };
    let _upstream = Running::start(PEERS_CORE, "chrt", args, folder.path(), upstream);
    // What the attackers send and fetch is somebody else's work. Like theirs it waits for the good client's.
    let aside = free_port();
    let args = ["--idle", "0", program_text, "upstream", &aside.to_string()];
    let _aside = Running::start(PEERS_CORE, "chrt", &args, folder.path(), aside);
    let keys = Keys::mint(KEYS);
    let sink = sink();
    for threads in options.list("threads").unwrap_or_else(|| vec![1]) {
        let gateway_folder = folder.path().join(format!("threads-{threads}"));
        let program = options.text("gateway").unwrap_or(OURS);
        let setup = Setup::new(program, &gateway_folder, upstream, KEYS);
        let core = if threads > 1 { BOTH_CORES } else { setup.core };
        let setup = Setup { threads, core, aside: Some(aside), ..setup };
        let gateway = setup.start();
        pin_self(PEERS_CORE);
        if goes_first {
            run_first();
        }
        let load = Load {
            port: setup.port,
            keys: &keys,
            order: Order::Once,
            ask: Ask::Small,
            connections: CONNECTIONS,
            at_once: CONNECTIONS,
            time: Duration::from_secs(600),
            rate: None,
        };
        let before = measure(&gateway, load);
        assert!(before.outcome.failed == 0, "{:?}", before.outcome.failure);
        let time = Duration::from_secs_f64(options.get("seconds", SECONDS));
        let load = Load { order: Order::Uniform, time, ..load };
        let alone = median((0..3).map(|_| measure(&gateway, load).per_second).collect());
        let rate = Some(options.get("share", SHARE) * alone);
        let bench = Bench {
            gateway: &gateway,
            elsewhere: Target { port: sink, service_port: aside },
            load: Load { rate, ..load },
            attacks: options.get("attacks", ATTACKS),
            slow: options.get("slow", SLOW),
        };
        bench.print_head(threads, alone, rounds);
        for case in &cases {
            let rounds: Vec<Round> = (0..rounds).map(|_| bench.round(case)).collect();
            for (at, round) in rounds.iter().enumerate() {
                row(&mut table, threads, case.name, at, round);
            }
            print(case.name, &rounds);
        }
        println!("memory held at the end: {:.1} MB", gateway.memory() as f64 / 1e6);
    }
}

impl Bench<'_> {
    fn print_head(&self, threads: usize, alone: f64, rounds: usize) {
        println!(
            "\n{threads} thread(s) of the gateway{}; {} keys, {CONNECTIONS} connections, {:.0} requests/s \
             of the {alone:.0} that they reach alone;\n{:.0} attacks/s in all and {} slow connections in all, from \
             the same address, when the clients' and service's core is idle otherwise;\n{rounds} rounds of \
             three parts of {:?}: without, with the attacks elsewhere, and with; medians, ratios of those with, and the most memory",
            if threads > 1 { ", on the clients' core too" } else { " on a core of its own" },
            self.load.keys.len(),
            self.load.rate.unwrap_or_default(),
            self.attacks,
            self.slow,
            self.load.time,
        );
        println!(
            "flood         attacks/s reopened/s  401/s  429/s | requests/s  ratio |  p50 us  p99 us without  ratio elsewhere  \
             ratio | MB without  with | cores without  with | failed"
        );
    }

    fn round(&self, case: &Case) -> Round {
        let without = measure(self.gateway, self.load);
        let memory_without = without.memory;
        let (elsewhere, _) = self.attacked(case, self.elsewhere);
        let port = self.load.port;
        let (with, attacked) = self.attacked(case, Target { port, service_port: port });
        Round { without, elsewhere, with, memory_without, attacked }
    }

    /// The good client, while all floods of the case go there.
    fn attacked(&self, case: &Case, target: Target) -> (Measured, Attacked) {
        let parts = case.floods.len() as f64;
        let attack = Attack {
            port: target.port,
            service_port: target.service_port,
            keys: self.load.keys,
            // Four floods are slow ones: all of them together have as many connections as one alone.
            slow: if case.floods.len() > 1 { self.slow / 4 } else { self.slow },
            rate: self.attacks / parts,
            until: Instant::now() + STANDING_MAX + 2 * self.load.time,
            standing: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            counts: Counts::default(),
        };
        let measured = thread::scope(|scope| {
            for flood in &case.floods {
                scope.spawn(|| flood.run(&attack));
            }
            while attack.standing.load(Ordering::Relaxed) < case.floods.len() as u64 {
                assert!(Instant::now() < attack.until, "{}: not all connections", case.name);
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(SETTLE);
            let before = attack.counts.read();
            let began = Instant::now();
            let measured = measure(self.gateway, self.load);
            let seconds = began.elapsed().as_secs_f64();
            let after = attack.counts.read();
            let [attacks, reopened, answered_401, answered_429] =
                std::array::from_fn(|at| (after[at] - before[at]) as f64 / seconds);
            attack.is_over.store(true, Ordering::Relaxed);
            (measured, Attacked { attacks, reopened, answered_401, answered_429 })
        });
        thread::sleep(SETTLE);
        measured
    }
}

/// A listener whose connections are taken, and never read from.
fn sink() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut kept = VecDeque::new();
        for stream in listener.incoming().flatten() {
            kept.push_back(stream);
            // Those of the rounds before are closed by now.
            if kept.len() > SUNK_MAX {
                kept.pop_front();
            }
        }
    });
    port
}

fn row(table: &mut Table, threads: usize, name: &str, at: usize, round: &Round) {
    let Round { without, elsewhere, with, memory_without, attacked } = round;
    table.row(&[
        threads.to_string(),
        name.to_owned(),
        at.to_string(),
        format!("{:.0}", attacked.attacks),
        format!("{:.0}", attacked.reopened),
        format!("{:.0}", attacked.answered_401),
        format!("{:.0}", attacked.answered_429),
        format!("{:.0}", without.per_second),
        format!("{:.0}", with.per_second),
        format!("{:.1}", without.quantile_us(0.5)),
        format!("{:.1}", with.quantile_us(0.5)),
        format!("{:.1}", without.quantile_us(0.99)),
        format!("{:.1}", elsewhere.quantile_us(0.99)),
        format!("{:.1}", with.quantile_us(0.99)),
        memory_without.to_string(),
        with.memory.to_string(),
        format!("{:.3}", without.cores),
        format!("{:.3}", with.cores),
        (without.outcome.failed + with.outcome.failed).to_string(),
    ]);
}

fn print(name: &str, rounds: &[Round]) {
    let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get).collect());
    let most = |get: fn(&Round) -> u64| rounds.iter().map(get).max().unwrap_or(0) as f64 / 1e6;
    let rate = of(|round| round.with.per_second / round.without.per_second);
    let grown = |before: fn(&Round) -> &Measured| {
        let each = rounds.iter();
        median(each.map(|one| one.with.quantile_us(0.99) / before(one).quantile_us(0.99)).collect())
    };
    let (p99, by_gateway) = (grown(|round| &round.without), grown(|round| &round.elsewhere));
    let failed: u64 =
        rounds.iter().map(|round| round.with.outcome.failed + round.without.outcome.failed).sum();
    println!(
        "{name:13} {:>9.0} {:>10.0} {:>6.0} {:>6.0} | {:>10.0} {rate:>6.3} | {:>7.0} {:>7.0} {:>7.0} {p99:>6.3} {:>9.0} {by_gateway:>6.3} | \
         {:>10.1} {:>5.1} | {:>13.2} {:>5.2} | {failed:>6}{}",
        of(|round| round.attacked.attacks),
        of(|round| round.attacked.reopened),
        of(|round| round.attacked.answered_401),
        of(|round| round.attacked.answered_429),
        of(|round| round.with.per_second),
        of(|round| round.with.quantile_us(0.5)),
        of(|round| round.with.quantile_us(0.99)),
        of(|round| round.without.quantile_us(0.99)),
        of(|round| round.elsewhere.quantile_us(0.99)),
        most(|round| round.memory_without),
        most(|round| round.with.memory),
        of(|round| round.without.cores),
        of(|round| round.with.cores),
        if rate < RATE_KEPT || by_gateway > P99_GROWN || failed > 0 { "  SHORT" } else { "" },
    );
}
