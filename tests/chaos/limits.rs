//! What the limits of a fleet come to under load: how much is admitted, wasted and asked of Redis,
//! and how long a limited request takes beside one that is not. Held to never exceeding a limit; the
//! rest is measured and printed.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::lab::quantiles;
use crate::harness::{
    Call, Calls, Fleet, Key, KeySpec, Load, Redis, Setup, Traffic, Upstream, alone, eventually,
    known_key, scale,
};

/// Units a second, of which so many may come at once.
const RATES: [u64; 4] = [10, 100, 1_000, 5_000];
const QUOTA: u64 = 10_000;
/// A bucket is empty, and what is measured steady, after so long.
const UNSTEADY: Duration = Duration::from_secs(2);
const CLIENTS: usize = 32;

fn tables() -> String {
    let rate = |rate: u64| format!("[tiers.rate{rate}]\nrate = \"{rate}/s\"\nburst = {rate}\n");
    let rates = RATES.map(rate).concat();
    format!(
        "{rates}[tiers.quota]\nquotas = [\"{QUOTA}/month\"]\n[tiers.away]\nquotas = [\"3000/month\"]\n"
    )
}

struct Lab {
    fleet: Fleet,
    redis: Redis,
    upstream: Upstream,
}

impl Lab {
    fn of(gateways: usize) -> Self {
        let (upstream, redis) = (Upstream::start(), Redis::start());
        let setup = Setup::in_front_of(&upstream).redis(&redis).tables(&tables()).log("warn");
        let fleet = Fleet::of(gateways, &setup);
        for gateway in fleet.iter() {
            let known = || gateway.metric("keygate_fleet_gateways") as usize;
            eventually("all gateways", || (known() == gateways).then_some(()));
        }
        Self { fleet, redis, upstream }
    }

    /// A key that every gateway knows, in this tier or in none.
    fn key(&self, tier: Option<&str>) -> Key {
        let spec = KeySpec::new(&["read:orders"]);
        let spec = tier.map_or_else(|| spec.clone(), |tier| spec.clone().with("tier", json!(tier)));
        known_key(&self.fleet, &spec)
    }

    fn load(&self, key: &Key, traffic: Traffic, per_second: u64) -> Load {
        Load::on(&self.fleet, &key.key, traffic, per_second).clients(CLIENTS)
    }

    /// How often gateways asked for units and got an answer.
    fn leases(&self) -> u64 {
        const LEASES: &str = "keygate_limit_leases_total{result=\"answered\"}";
        self.fleet.iter().map(|gateway| gateway.metric(LEASES) as u64).sum()
    }

    /// How often Redis ran a script, whatever for.
    fn scripts(&self) -> u64 {
        let stats = self.redis.info("cmdstat_evalsha").expect("scripts run all the time");
        let calls = stats.split(',').find_map(|part| part.strip_prefix("calls="));
        calls.expect("a number of calls").parse().expect("a number")
    }

    /// Scripts a second while no request comes.
    fn background(&self) -> f64 {
        const WATCHED: Duration = Duration::from_secs(2);
        let before = self.scripts();
        thread::sleep(WATCHED);
        (self.scripts() - before) as f64 / WATCHED.as_secs_f64()
    }

    /// Calls every gateway until none has anything left. How many passed.
    fn use_up(&self, key: &Key) -> usize {
        let path = format!("/v1/keys/{}", key.id);
        let mut callers = self.fleet.callers();
        let mut passed = 0;
        eventually("the end of the quota", || {
            let more = callers.iter_mut().filter_map(|c| (c.status(&key.key) == 200).then_some(()));
            let more = more.count();
            passed += more;
            let record = self.fleet[0].admin().read(&path);
            (more == 0 && record["current_use"][0]["remaining"] == 0).then_some(())
        });
        passed
    }
}

fn seconds() -> Duration {
    Duration::from_secs(scale("LIMITS_SECONDS", 10))
}

#[test]
#[ignore = "long: part of `make soak`"]
fn limits_of_fleets_are_never_exceeded_and_hardly_wasted() {
    let _alone = alone();
    println!("gateways  limit    traffic  demand/s  admitted  possible  wasted  leases  scripts");
    for gateways in [3, 8] {
        let lab = Lab::of(gateways);
        let background = lab.background();
        for rate in RATES {
            for traffic in Traffic::ALL {
                rate_row(&lab, background, rate, traffic);
            }
        }
        for traffic in Traffic::ALL {
            quota_row(&lab, background, traffic);
        }
    }
}

/// Twice as much is asked for as there is.
fn rate_row(lab: &Lab, background: f64, rate: u64, traffic: Traffic) {
    let load = lab.load(&lab.key(Some(&format!("rate{rate}"))), traffic, rate * 2);
    let row = Row::of(lab, background, || load.lasting(seconds()));
    row.calls.only(&[200, 429]);
    row.calls.never_above(rate as f64, rate as f64);
    let took = row.calls.took;
    let possible = rate as f64 * (1.0 + took.as_secs_f64());
    let is_steady = |call: &&Call| call.seen >= UNSTEADY && call.seen < took;
    let admitted = row.calls.with(200).filter(is_steady).count();
    let wasted = 1.0 - admitted as f64 / (rate as f64 * (took - UNSTEADY).as_secs_f64());
    row.print(lab, &format!("{rate}/s"), traffic, possible, wasted);
    if row.calls.all.len() as f64 / took.as_secs_f64() < 1.8 * rate as f64 {
        println!(
            "  (this machine did not reach twice the limit: what is wasted there says little)"
        );
    }
    lab.upstream.forget();
}

fn quota_row(lab: &Lab, background: f64, traffic: Traffic) {
    let key = lab.key(Some("quota"));
    let load = lab.load(&key, traffic, 2_000);
    let row = Row::of(lab, background, || load.lasting(seconds()));
    row.calls.only(&[200, 429]);
    let passed = row.calls.passed() + lab.use_up(&key);
    assert_eq!((passed, lab.upstream.count()), (QUOTA as usize, QUOTA as usize));
    let wasted = 1.0 - passed as f64 / QUOTA as f64;
    row.print(lab, &format!("{QUOTA}"), traffic, QUOTA as f64, wasted);
    lab.upstream.forget();
}

/// A load, and what it asked of Redis.
struct Row {
    calls: Calls,
    leases: u64,
    scripts: f64,
}

impl Row {
    fn of(lab: &Lab, background: f64, load: impl FnOnce() -> Calls) -> Self {
        let (leases, scripts) = (lab.leases(), lab.scripts());
        let calls = load();
        let scripts = (lab.scripts() - scripts) as f64 - background * calls.took.as_secs_f64();
        Self { leases: lab.leases() - leases, scripts, calls }
    }

    fn print(&self, lab: &Lab, limit: &str, traffic: Traffic, possible: f64, wasted: f64) {
        let admitted = self.calls.passed();
        println!(
            "{:>8}  {limit:<7}  {:<7}  {:>8.0}  {admitted:>8}  {possible:>8.0}  {:>5.2}%  {:.4}  {:.4}",
            lab.fleet.len(),
            format!("{traffic:?}"),
            self.calls.all.len() as f64 / self.calls.took.as_secs_f64(),
            100.0 * wasted,
            self.leases as f64 / admitted as f64,
            self.scripts / admitted as f64,
        );
    }
}

#[test]
#[ignore = "long: part of `make soak`"]
fn a_limited_request_takes_as_long_as_any_other() {
    let _alone = alone();
    for gateways in [3, 8] {
        let lab = Lab::of(gateways);
        let (limited, free) = (lab.key(Some("rate1000")), lab.key(None));
        for traffic in Traffic::ALL {
            // Below the limit, so that each is forwarded.
            let load = lab.load(&limited, traffic, 1_600).and(&free.key);
            let leases = lab.leases();
            let calls = load.lasting(seconds());
            calls.only(&[200, 429]);
            let times = [0, 1].map(|which| {
                let calls = calls.with(200).filter(|call| call.which == which);
                calls.map(|call| call.seen - call.sent).collect::<Vec<_>>()
            });
            let (passed, asked) = (times[0].len(), lab.leases() - leases);
            let [limited, free] = times.map(quantiles);
            println!(
                "{gateways} gateways, {traffic:?}, {:.0} calls/s: limited to 1000/s {limited}; \
                 not limited {free}; {:.4} leases a request",
                calls.all.len() as f64 / calls.took.as_secs_f64(),
                asked as f64 / passed as f64
            );
            lab.upstream.forget();
        }
    }
}

#[test]
#[ignore = "long: part of `make soak`"]
fn limits_hold_while_redis_is_away_for_long() {
    let _alone = alone();
    let away = Duration::from_millis(scale("LIMITS_AWAY_MS", 30_000));
    for (gateways, traffic) in [(3, Traffic::Even), (8, Traffic::Even), (3, Traffic::Moving)] {
        let lab = Lab::of(gateways);
        let (rated, metered) = (lab.key(Some("rate100")), lab.key(Some("away")));
        let loads = [lab.load(&rated, traffic, 200), lab.load(&metered, traffic, 200)];
        let [rate, quota] = thread::scope(|scope| {
            let lasts = UNSTEADY * 2 + away;
            let loads = loads.each_ref().map(|load| scope.spawn(move || load.lasting(lasts)));
            thread::sleep(UNSTEADY);
            lab.redis.pause();
            thread::sleep(away);
            lab.redis.resume();
            loads.map(|load| load.join().expect("clients cope"))
        });
        rate.only(&[200, 429]);
        quota.only(&[200, 429]);
        let used = quota.passed() + lab.use_up(&metered);
        println!(
            "{gateways} gateways, {traffic:?}, Redis away for {away:?}: {} admitted of {:.0} of a \
             rate of 100/s, {used} of a quota of 3000",
            rate.passed(),
            100.0 * (1.0 + rate.took.as_secs_f64())
        );
        // One lease a gateway: a quarter of the burst, a quarter of its share of the quota.
        rate.never_above(100.0, 100.0 + 25.0 * gateways as f64);
        assert!(used <= 3_000 + 3_000 / 4, "{used}");
    }
}
