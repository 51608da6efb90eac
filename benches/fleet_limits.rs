//! What a limit that a fleet shares costs: calls to Redis per request with 1, 2 and 4 gateways, and that
//! a quota admits exactly what it says over all of them. Real gateways on a real Redis.
//! `cargo bench --bench fleet_limits -- seconds=3 quota=20000`.

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

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::gateway::{EVERYTHING, OURS, Setup};
use common::keys::Keys;
use common::load::{Ask, Clients, Load, Order, Outcome};
use common::options::{Options, Table};
use common::process::{PEERS_CORE, Running, free_port, has, pin_self};
use common::redis::Redis;
use common::service;

const GATEWAYS: [usize; 3] = [1, 2, 4];
const SECONDS: f64 = 3.0;
const QUOTA: u64 = 20_000;
/// Keys that are in use at once.
const KEYS: [usize; 2] = [1, 100];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(args[2].parse().expect("a port")),
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ if !has("redis-server") => {
            println!("skipped: redis-server is not installed (make setup)")
        }
        _ => run(&Options::read()),
    }
}

fn run(options: &Options) {
    let time = Duration::from_secs_f64(options.get("seconds", SECONDS));
    let quota = options.get("quota", QUOTA);
    let folder = tempfile::tempdir().unwrap();
    let upstream = free_port();
    let program = std::env::current_exe().unwrap();
    let args = ["upstream", &upstream.to_string()];
    let _upstream =
        Running::start(PEERS_CORE, program.to_str().unwrap(), &args, folder.path(), upstream);
    let program = options.text("gateway").unwrap_or(OURS);
    let mut table = options.table(
        "fleet_limits",
        "what,gateways,keys,requests,requests_per_second,redis_calls,redis_calls_idle,quota,admitted",
    );

    println!("all gateways on core 0; Redis, the service and the clients on core 1");
    println!("gateways  keys  requests/s  calls to Redis  a request  (idle, in as long)");
    for gateways in GATEWAYS {
        for keys in KEYS {
            let name = format!("trips-{gateways}-{keys}");
            let fleet = Fleet::start(
                program,
                &folder.path().join(name),
                upstream,
                gateways,
                keys,
                EVERYTHING,
            );
            fleet.trips(time, &mut table);
        }
    }
    println!("gateways  a day's quota  asked for  admitted");
    // Windows are days of UTC: one that ends meanwhile would begin again.
    let tier = format!("quotas = [\"{quota}/day\"]");
    for gateways in GATEWAYS {
        let name = format!("exact-{gateways}");
        let fleet = Fleet::start(program, &folder.path().join(name), upstream, gateways, 1, &tier);
        fleet.exact(quota, &mut table);
    }
}

struct Fleet {
    redis: Redis,
    running: Vec<(Running, u16)>,
    keys: Keys,
}

impl Fleet {
    fn start(
        program: &str,
        folder: &Path,
        upstream: u16,
        gateways: usize,
        keys: usize,
        tier: &str,
    ) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let redis = Redis::start(folder);
        let mut running = Vec::new();
        for number in 0..gateways {
            let folder: PathBuf = folder.join(number.to_string());
            let setup = Setup::new(program, &folder, upstream, keys);
            let setup = Setup { tier, access_log: false, redis: Some(redis.port), ..setup };
            running.push((if number == 0 { setup.start() } else { setup.join() }, setup.port));
        }
        pin_self(PEERS_CORE);
        Self { redis, running, keys: Keys::mint(keys) }
    }

    /// Asks all gateways at once.
    fn ask(&self, time: Duration) -> Vec<Outcome> {
        let load = Load {
            port: 0,
            keys: &self.keys,
            order: Order::Uniform,
            ask: Ask::Small,
            connections: 16,
            at_once: 16,
            time,
            rate: None,
        };
        std::thread::scope(|scope| {
            let asking = self.running.iter().map(|(_, port)| {
                scope.spawn(move || Clients::connect(Load { port: *port, ..load }).run())
            });
            let asking: Vec<_> = asking.collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        })
    }

    fn trips(&self, time: Duration, table: &mut Table) {
        let (gateways, keys) = (self.running.len(), self.keys.len());
        // What is asked for once, keys and a first lease, is not what this is about.
        self.ask(Duration::from_secs(1));
        let before = self.redis.scripts();
        let outcomes = self.ask(time);
        let calls = self.redis.scripts() - before;
        // Use is told and fleets are reported to whether there are limits or not.
        std::thread::sleep(time);
        let before = self.redis.scripts();
        std::thread::sleep(time);
        let idle = self.redis.scripts() - before;
        let requests: u64 = outcomes.iter().map(|one| one.requests).sum();
        for outcome in outcomes {
            assert!(outcome.failed == 0, "{:?}", outcome.failure);
        }
        let per_second = requests as f64 / time.as_secs_f64();
        println!(
            "{gateways:>8} {keys:>5} {per_second:>11.0} {calls:>15} {:>10.6} {idle:>13}",
            calls as f64 / requests as f64
        );
        table.row(&[
            "trips".into(),
            gateways.to_string(),
            keys.to_string(),
            requests.to_string(),
            format!("{per_second:.0}"),
            calls.to_string(),
            idle.to_string(),
            String::new(),
            String::new(),
        ]);
    }

    /// Asks until nothing more is let through.
    fn exact(&self, quota: u64, table: &mut Table) {
        let (mut admitted, mut asked) = (0, 0);
        loop {
            let outcomes = self.ask(Duration::from_secs(1));
            let passed: u64 = outcomes.iter().map(|one| one.requests).sum();
            admitted += passed;
            asked += passed + outcomes.iter().map(|one| one.failed).sum::<u64>();
            for failure in outcomes.iter().filter_map(|one| one.failure.as_ref()) {
                assert_eq!(failure, "HTTP/1.1 429");
            }
            if passed == 0 {
                break;
            }
        }
        let exact = if admitted == quota { "exact" } else { "NOT EXACT" };
        let gateways = self.running.len();
        println!("{gateways:>8} {quota:>14} {asked:>10} {admitted:>9}  {exact}");
        table.row(&[
            "exact".into(),
            gateways.to_string(),
            "1".into(),
            asked.to_string(),
            String::new(),
            String::new(),
            String::new(),
            quota.to_string(),
            admitted.to_string(),
        ]);
    }
}
