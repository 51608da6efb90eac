//! The store goes away and comes back: known keys do not notice, unknown ones get a 503 and never a
//! 401, and afterwards all is as before with no restart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Answer, Caller, Connection, Fleet, Gateway, Key, KeySpec, Redis, Sentinels, Setup, Tap,
    Upstream, Which, alone, assert_refused, eventually, get, post, scale,
};

/// How much there is of an outage under load: what the environment says.
fn outage() -> Duration {
    Duration::from_millis(scale("OUTAGE_MS", 1_500))
}

#[test]
fn known_keys_do_not_notice_that_redis_is_killed() {
    let mut redis = Redis::start();
    let mut lab = Lab::before(&redis);
    lab.outage("killed", |_| redis.kill());
    redis.start_again();
    lab.is_back();
}

#[test]
fn known_keys_do_not_notice_that_redis_hangs() {
    let redis = Redis::start();
    let mut lab = Lab::before(&redis);
    lab.outage("stopped", |_| redis.pause());
    redis.resume();
    lab.is_back();
}

#[test]
fn known_keys_do_not_notice_that_the_line_is_dark() {
    let redis = Redis::start();
    let mut lab = Lab::before(&redis);
    lab.outage("in the dark", |tap| tap.blackhole(Which::All));
    lab.tap.resume();
    lab.is_back();
}

#[test]
fn known_keys_do_not_notice_that_redis_is_slow() {
    let redis = Redis::start();
    let mut lab = Lab::before(&redis);
    lab.outage("slow", |tap| tap.delay(Duration::from_secs(1)));
    lab.tap.resume();
    lab.is_back();
}

#[test]
fn a_gateway_that_starts_without_its_store_waits_for_it() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let fleet = Fleet::of(1, &setup(&upstream).redis(&redis));
    let key = fleet[0].key_with(&orders());
    redis.kill();
    let late = setup(&upstream).redis(&redis).pepper_of(&fleet[0]).start_unready();
    let probe = |path: &str| Connection::open(late.admin_address).exchange(&get(path)).unwrap();
    assert_eq!((probe("/healthz").status, probe("/readyz").status), (200, 503));
    assert_away(&late.send(&get("/v1/orders").bearer(&key.key)));
    redis.start_again();
    eventually("a gateway that is ready", || late.is_ready().then_some(()));
    assert_eq!(late.send(&get("/v1/orders").bearer(&key.key)).status, 200);
}

#[test]
fn known_keys_end_with_503_when_the_store_was_away_too_long() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let setup = setup(&upstream).redis(&redis).cache("stale_max = \"1s\"");
    let fleet = Fleet::of(1, &setup);
    let key = fleet[0].key_with(&orders());
    let call = get("/v1/orders").bearer(&key.key);
    let mut caller = fleet[0].caller();
    assert_eq!(caller.send(&call).status, 200);
    redis.kill();
    let killed_at = Instant::now();
    let ended = eventually("the end", || {
        let answer = caller.send(&call);
        (answer.status != 200).then_some(answer)
    });
    println!("stale_max = 1s: the known key ended after {:?}", killed_at.elapsed());
    assert_away(&ended);
    assert!(!fleet[0].is_ready());
    redis.start_again();
    eventually("the key again", || match caller.send(&call) {
        answer if answer.status == 200 => Some(()),
        answer => {
            assert_away(&answer);
            None
        }
    });
}

#[test]
fn a_gateway_that_is_cut_off_admits_what_was_revoked_until_stale_max_and_no_longer() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let taps = [Tap::before(redis.address()), Tap::before(redis.address())];
    let setups = taps.each_ref().map(|tap| {
        let setup = setup(&upstream).redis(&redis).store(&redis.store_at(tap.address()));
        setup.cache("stale_max = \"1s\"")
    });
    let fleet = Fleet::start(setups);
    let key = fleet[0].key_with(&orders());
    let call = get("/v1/orders").bearer(&key.key);
    let mut callers = fleet.callers();
    callers.iter_mut().for_each(|caller| assert_eq!(caller.send(&call).status, 200));
    taps[1].blackhole(Which::All);
    fleet[0].admin().revoke(&key);
    let revoked_at = Instant::now();
    let ended = eventually("the end", || {
        let answer = callers[1].send(&call);
        (answer.status != 200).then_some(answer)
    });
    println!("stale_max = 1s: cut off, the revoked key ended after {:?}", revoked_at.elapsed());
    assert_away(&ended);
    assert_refused(&callers[0].send(&call), 401, "api_key_invalid");
    taps[1].resume();
    eventually("the refusal", || match callers[1].send(&call) {
        answer if answer.status == 401 => Some(()),
        answer => {
            assert_away(&answer);
            None
        }
    });
}

#[test]
fn a_primary_that_most_sentinels_do_not_name_is_believed_until_stale_max_and_no_longer() {
    let _alone = alone();
    let (upstream, sentinels) = (Upstream::start(), Sentinels::start(1));
    let mut addresses = sentinels.addresses();
    let taps = [0, 1].map(|n| Tap::before(addresses[n]));
    (addresses[0], addresses[1]) = (taps[0].address(), taps[1].address());
    let setup = setup(&upstream).store(&sentinels.store_at(&addresses));
    let gateway = setup.searching(sentinels.files()).cache("stale_max = \"2s\"").start();
    let [known, cold] = [(); 2].map(|()| gateway.key_with(&orders()));
    let call = |key: &Key| get("/v1/orders").bearer(&key.key);
    let mut caller = gateway.caller();
    assert_eq!(caller.send(&call(&known)).status, 200);
    // One may be away. Two may have made another primary, and the store that answers be left behind.
    taps[0].blackhole(Which::All);
    assert_eq!(caller.send(&call(&known)).status, 200);
    taps[1].blackhole(Which::All);
    let ended = eventually("the end", || {
        let answer = caller.send(&call(&known));
        (answer.status != 200).then_some(answer)
    });
    assert_away(&ended);
    assert_away(&caller.send(&call(&cold)));
    taps[0].resume();
    for key in [&known, &cold] {
        eventually("all is well", || (caller.send(&call(key)).status == 200).then_some(()));
    }
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::in_front_of(upstream).keys("keys_max_live = 1000").log("info")
}

fn orders() -> KeySpec {
    KeySpec::new(&["read:orders"])
}

#[track_caller]
fn assert_away(answer: &Answer) {
    assert_refused(answer, 503, "key_store_unavailable");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// Two gateways whose lines to the store run through one tap, and keys that they know or do not.
struct Lab {
    fleet: Fleet,
    tap: Tap,
    known: Vec<Key>,
    /// Made, but never called.
    cold: Vec<Key>,
    _upstream: Upstream,
}

impl Lab {
    fn before(redis: &Redis) -> Self {
        let (upstream, tap) = (Upstream::start(), Tap::before(redis.address()));
        let setup = setup(&upstream).redis(redis).store(&redis.store_at(tap.address()));
        let fleet = Fleet::of(2, &setup);
        let (admin, spec) = (fleet[0].admin(), orders());
        let account = admin.account();
        let app = admin.app(&account, &spec);
        let keys = |count| (0..count).map(|_| admin.key_of(&account, &app, &spec)).collect();
        let (known, cold): (Vec<Key>, _) = (keys(20), keys(40));
        for caller in &mut fleet.callers() {
            known.iter().for_each(|key| assert_eq!(caller.status(&key.key), 200));
        }
        Self { fleet, tap, known, cold, _upstream: upstream }
    }

    /// Measures how known keys do without a fault, then breaks something while they go on, and asks
    /// for everything that an outage promises.
    fn outage(&mut self, what: &str, begin: impl FnOnce(&Tap)) {
        let _alone = alone();
        let ended = AtomicBool::new(false);
        let before = self.under_load(&ended, |_| thread::sleep(outage() / 3));
        let during = self.under_load(&ended, |lab| {
            begin(&lab.tap);
            let until = Instant::now() + outage();
            while Instant::now() < until {
                for gateway in lab.fleet.iter() {
                    lab.unknown_and_admin(gateway);
                }
            }
        });
        println!("known keys, before: {}", quantiles(before));
        println!("known keys, Redis {what}: {}", quantiles(during));
        for gateway in self.fleet.iter() {
            assert!(gateway.is_ready(), "an outage of the store takes no gateway away");
            assert_eq!(gateway.metric("keygate_link_up"), 0.0);
        }
    }

    /// Calls known keys through every gateway while `act` runs. How long each call took.
    fn under_load(&self, ended: &AtomicBool, act: impl FnOnce(&Self)) -> Vec<Duration> {
        ended.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            let load = |gateway: &'static str, mut caller: Caller| {
                let mut times = Vec::new();
                for key in self.known.iter().cycle() {
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let start = Instant::now();
                    assert_eq!(
                        caller.status(&key.key),
                        200,
                        "a known key at the {gateway} gateway"
                    );
                    times.push(start.elapsed());
                    // Not a wait for anything: this is a load, not a test of how much there can be.
                    thread::sleep(Duration::from_micros(300));
                }
                times
            };
            let names = ["first", "second"];
            let threads: Vec<_> = names
                .into_iter()
                .zip(self.fleet.callers())
                .map(|(name, caller)| scope.spawn(move || load(name, caller)))
                .collect();
            // Also when `act` panics: the scope waits for all threads.
            let at_the_end = Ends(ended);
            act(self);
            drop(at_the_end);
            let times = threads.into_iter().map(|load| load.join().expect("known keys work"));
            times.flatten().collect()
        })
    }

    fn unknown_and_admin(&self, gateway: &Gateway) {
        let mut caller = gateway.caller();
        for key in self.cold.iter().take(self.cold.len() / 2) {
            assert_away(&caller.send(&get("/v1/orders").bearer(&key.key)));
        }
        let create = post("/v1/accounts", json!({ "name": "Acme" }).to_string());
        let answer = gateway.admin().send(&create);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }

    /// The store can be reached again: waits until all is as before, and says how long it took.
    fn is_back(&mut self) {
        let start = Instant::now();
        for gateway in self.fleet.iter() {
            let mut caller = gateway.caller();
            for key in &self.cold {
                eventually("keys that nobody knew", || {
                    let answer = caller.send(&get("/v1/orders").bearer(&key.key));
                    assert_ne!(answer.status, 401, "an outage is not absence");
                    (answer.status == 200).then_some(())
                });
            }
            let create = post("/v1/accounts", json!({ "name": "Acme" }).to_string());
            eventually("changes", || (gateway.admin().send(&create).status == 201).then_some(()));
        }
        println!("all as before {:?} after the end of the outage", start.elapsed());
        for gateway in self.fleet.iter_mut() {
            eventually("a link that is live", || {
                (gateway.metric("keygate_link_up") == 1.0).then_some(())
            });
            gateway.is_alive_and_well();
        }
        let last = &self.known[0];
        self.fleet[0].admin().revoke(last);
        for caller in &mut self.fleet.callers() {
            eventually("a revocation", || (caller.status(&last.key) == 401).then_some(()));
        }
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("{} calls, median {:?}, p99 {:?}, max {:?}", times.len(), at(0.5), at(0.99), at(1.0))
}
