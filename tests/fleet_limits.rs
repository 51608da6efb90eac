//! The limits of a fleet are the fleet's: never more than one gateway would let through, whichever
//! gateway is asked, whichever dies, and whatever becomes of Redis.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Broken, Connection, Fleet, Gateway, Key, KeySpec, Load, Redis, Setup, Traffic, Upstream, alone,
    assert_refused, eventually, get, known_key, post,
};

const GATEWAYS: usize = 3;
const QUOTA: usize = 300;
const RATE: f64 = 100.0;
const BURST: f64 = 100.0;
/// Months, since a test may run at midnight.
const TABLES: &str = "
[tiers.rated]
rate = \"100/s\"
[tiers.metered]
quotas = [\"300/month\"]
[tiers.tiny]
quotas = [\"5/month\"]
[tiers.slots]
concurrency = 4
";
/// The most that a gateway is lent of the quota: half a second of its demand, and of what is left no
/// more than a quarter of its share.
const LEASE_OF_QUOTA: usize = QUOTA / (4 * GATEWAYS);
/// The same of the rate: a quarter of the burst.
const LEASE_OF_RATE: f64 = BURST / 4.0;
/// How many requests may wait for their answers at a time.
const CLIENTS: usize = 8;

struct Lab {
    fleet: Fleet,
    redis: Redis,
    upstream: Upstream,
}

impl Lab {
    fn new() -> Self {
        Self::of(GATEWAYS, Upstream::start())
    }

    /// Waits until the gateways know how many they are.
    fn of(gateways: usize, upstream: Upstream) -> Self {
        let redis = Redis::start();
        let setup = Setup::in_front_of(&upstream).redis(&redis).tables(TABLES).log("warn");
        let fleet = Fleet::of(gateways, &setup.server("shutdown_delay = \"0s\""));
        for gateway in fleet.iter() {
            let known = || gateway.metric("keygate_fleet_gateways") as usize;
            eventually("all gateways", || (known() == gateways).then_some(()));
        }
        Self { fleet, redis, upstream }
    }

    /// A key that every gateway knows, of whose limits nothing is used.
    fn key(&self, tier: &str) -> Key {
        let spec = KeySpec::new(&["read:orders"]).with("tier", json!(tier));
        known_key(&self.fleet, &spec)
    }

    fn load(&self, key: &Key, traffic: Traffic, per_second: u64) -> Load {
        Load::on(&self.fleet, &key.key, traffic, per_second).clients(CLIENTS)
    }

    /// Waits until so many requests have reached the upstream.
    fn wait_until_served(&self, count: usize) {
        eventually("requests", || (self.upstream.count() >= count).then_some(()));
    }

    /// Calls these gateways until neither they nor the store have anything left. How many passed.
    #[track_caller]
    fn use_up(&self, key: &Key, gateways: &[usize]) -> usize {
        let (admin, show) = (self.fleet[gateways[0]].admin(), get(&format!("/v1/keys/{}", key.id)));
        let call = get("/v1/orders").bearer(&key.key);
        let mut callers = self.fleet.callers();
        let mut passed = 0;
        eventually("the end of the quota", || {
            let mut statuses = Vec::new();
            for &gateway in gateways {
                statuses.push(callers[gateway].send(&call).status);
            }
            assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
            let refused = statuses.iter().filter(|status| **status == 429).count();
            passed += gateways.len() - refused;
            // The store may just have come back.
            let left = &admin.send(&show).json()["current_use"][0]["remaining"];
            (refused == gateways.len() && *left == 0).then_some(())
        });
        for &gateway in gateways {
            assert_refused(&callers[gateway].send(&call), 429, "quota_exceeded");
        }
        passed
    }
}

const ALL: [usize; GATEWAYS] = [0, 1, 2];

#[test]
fn a_fleet_never_lets_more_through_than_one_bucket_would() {
    let _alone = alone();
    let lab = Lab::new();
    thread::scope(|scope| {
        for traffic in [Traffic::Even, Traffic::Moving] {
            let load = lab.load(&lab.key("rated"), traffic, 200);
            scope.spawn(move || {
                let calls = load.lasting(Duration::from_secs(3));
                println!("{traffic:?}: {} of {} passed", calls.passed(), calls.all.len());
                calls.only(&[200, 429]);
                calls.never_above(RATE, BURST);
                assert!(calls.passed() as f64 >= BURST, "{}", calls.passed());
            });
        }
    });
}

#[test]
fn a_quota_is_used_to_its_last_unit_and_no_further_wherever_requests_go() {
    let _alone = alone();
    let lab = Lab::new();
    let key = lab.key("metered");
    lab.load(&key, Traffic::Moving, 150).lasting(Duration::from_millis(2_500)).only(&[200, 429]);
    lab.use_up(&key, &ALL);
    assert_eq!(lab.upstream.count(), QUOTA);
}

#[test]
fn a_gateway_that_is_killed_costs_no_more_of_a_quota_than_what_it_was_lent() {
    let _alone = alone();
    let mut lab = Lab::new();
    let key = lab.key("metered");
    let load = lab.load(&key, Traffic::Even, 150);
    let (fleet, upstream) = (&mut lab.fleet, &lab.upstream);
    let calls = load.during(|| {
        eventually("requests", || (upstream.count() >= QUOTA / 3).then_some(()));
        fleet[1].kill();
        eventually("more requests", || (upstream.count() >= QUOTA / 2).then_some(()));
    });
    // Nor does its return bring anything back.
    lab.fleet[1].start_again();
    lab.use_up(&key, &ALL);
    let served = lab.upstream.count();
    println!("{served} of {QUOTA} were served, {} before the end", calls.passed());
    assert!(served <= QUOTA, "{served}");
    // And what it was about to do.
    assert!(served + LEASE_OF_QUOTA + CLIENTS >= QUOTA, "{served}");
}

#[test]
fn a_gateway_that_is_told_to_stop_gives_back_all_that_it_was_lent() {
    let _alone = alone();
    let mut lab = Lab::new();
    let key = lab.key("metered");
    let load = lab.load(&key, Traffic::Even, 150);
    let (fleet, upstream) = (&mut lab.fleet, &lab.upstream);
    load.during(|| {
        eventually("requests", || (upstream.count() >= QUOTA / 3).then_some(()));
        fleet[1].process().terminate();
        assert_eq!(fleet[1].process().wait_for_exit(), Some(Some(0)));
    });
    lab.use_up(&key, &[0, 2]);
    assert_eq!(lab.upstream.count(), QUOTA);
}

#[test]
fn a_quota_is_the_same_after_redis_was_killed_and_restarted() {
    let _alone = alone();
    let mut lab = Lab::new();
    let key = lab.key("metered");
    let load = lab.load(&key, Traffic::Even, 100);
    let (redis, upstream) = (&mut lab.redis, &lab.upstream);
    let calls = load.during(|| {
        eventually("requests", || (upstream.count() >= QUOTA / 3).then_some(()));
        redis.kill();
        // From what gateways hold, and from their shares.
        eventually("more requests", || (upstream.count() >= QUOTA / 2).then_some(()));
        redis.start_again();
        eventually("more requests", || (upstream.count() >= QUOTA * 3 / 4).then_some(()));
    });
    calls.only(&[200, 429]);
    lab.use_up(&key, &ALL);
    assert_eq!(lab.upstream.count(), QUOTA);
}

#[test]
fn while_redis_is_away_each_gateway_enforces_its_share() {
    let _alone = alone();
    let lab = Lab::new();
    let (rated, metered) = (lab.key("rated"), lab.key("metered"));
    let loads = [&rated, &metered].map(|key| lab.load(key, Traffic::Even, 150));
    let [rate, quota] = thread::scope(|scope| {
        let [rate, quota] =
            loads.each_ref().map(|load| scope.spawn(|| load.lasting(Duration::from_secs(5))));
        lab.wait_until_served(QUOTA / 2);
        lab.redis.pause();
        // Not a wait for anything: this is how long it is away.
        thread::sleep(Duration::from_secs(3));
        lab.redis.resume();
        [rate, quota].map(|load| load.join().expect("clients cope"))
    });
    rate.only(&[200, 429]);
    quota.only(&[200, 429]);
    let leases = GATEWAYS as f64 * LEASE_OF_RATE;
    rate.never_above(RATE, BURST + leases);
    // Then all goes on, with no restart.
    let metered = quota.passed() + lab.use_up(&metered, &ALL);
    println!("{} of the rate, {metered} of the quota", rate.passed());
    assert!(metered <= QUOTA + GATEWAYS * LEASE_OF_QUOTA, "{metered}");
    for caller in &mut lab.fleet.callers() {
        eventually("the rate again", || (caller.status(&rated.key) == 200).then_some(()));
    }
    let another = lab.key("metered");
    lab.fleet.callers().iter_mut().for_each(|c| assert_eq!(c.status(&another.key), 200));
}

#[test]
fn what_was_used_while_redis_was_away_is_counted_once() {
    let _alone = alone();
    let lab = Lab::new();
    let key = lab.key("metered");
    let call = get("/v1/orders").bearer(&key.key);
    let mut callers = lab.fleet.callers();
    let mut passed = 0;
    // One has asked about the key before, two have not.
    passed += usize::from(callers[0].send(&call).status == 200);
    lab.redis.pause();
    for caller in &mut callers {
        for _ in 0..QUOTA / (2 * GATEWAYS) {
            let answer = caller.send(&call);
            assert_eq!(answer.status, 200, "{}", answer.text());
            passed += 1;
        }
    }
    lab.redis.resume();
    passed += lab.use_up(&key, &ALL);
    assert_eq!((passed, lab.upstream.count()), (QUOTA, QUOTA));
}

#[test]
fn slots_of_a_gateway_that_was_killed_are_free_again_and_are_not_lent_twice() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        // Nothing comes until the gateway gives the request up.
        exchange.read(&mut [0]).map(drop)
    });
    let mut lab = Lab::of(2, upstream);
    let key = lab.key("slots");
    let open = |gateway: &Gateway| {
        let mut connection = gateway.connect();
        connection.send(&get("/v1/orders").bearer(&key.key).to_h1()).unwrap();
        connection
    };
    let call = get("/v1/orders").bearer(&key.key);
    let killed: Vec<Connection> = (0..2).map(|_| open(&lab.fleet[0])).collect();
    let mut held: Vec<Connection> = (0..2).map(|_| open(&lab.fleet[1])).collect();
    lab.wait_until_served(4);
    for gateway in lab.fleet.iter() {
        assert_refused(&gateway.send(&call), 429, "concurrency_exceeded");
    }
    lab.fleet[0].kill();
    drop(killed);
    eventually("two free slots", || {
        let (served, mut connection) = (lab.upstream.count(), open(&lab.fleet[1]));
        connection.read_timeout(Duration::from_millis(10));
        let is_held = eventually("the upstream or an answer", || match connection.answer("GET") {
            Err(Broken::Silent) => (lab.upstream.count() > served).then_some(true),
            answer => {
                assert_refused(&answer.unwrap(), 429, "concurrency_exceeded");
                Some(false)
            }
        });
        held.extend(is_held.then_some(connection));
        (held.len() == 4).then_some(())
    });
    assert_refused(&lab.fleet[1].send(&call), 429, "concurrency_exceeded");
    assert_eq!(lab.upstream.count(), 6);
}

#[test]
fn an_operator_resets_a_key_s_limits_on_every_gateway_at_once() {
    let lab = Lab::of(2, Upstream::start());
    let key = lab.key("tiny");
    let call = get("/v1/orders").bearer(&key.key);
    let mut callers = lab.fleet.callers();
    let [one, other] = &mut callers[..] else { panic!("two gateways") };
    for caller in [&mut *one, &mut *other] {
        eventually("the end of the quota", || (caller.status(&key.key) == 429).then_some(()));
    }
    assert_eq!(lab.upstream.count(), 5);
    let reset = post(&format!("/v1/keys/{}/limits/reset", key.id), "{}");
    assert_eq!(lab.fleet[0].admin().send(&reset).status, 200);
    eventually("the reset elsewhere", || (other.status(&key.key) == 200).then_some(()));
    for caller in [one, other] {
        eventually("the end again", || (caller.status(&key.key) == 429).then_some(()));
        assert_refused(&caller.send(&call), 429, "quota_exceeded");
    }
    assert_eq!(lab.upstream.count(), 10);
}
