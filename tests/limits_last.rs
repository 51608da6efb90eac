//! What was used stays used: quotas outlive the gateway's process, however it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Caller, Gateway, KeySpec, Setup, Upstream, alone, assert_refused, eventually, get, scale,
};

fn start(quota: u64) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).log("info").tables(&tier(quota)).start(), upstream)
}

fn tier(quota: u64) -> String {
    format!("[tiers.metered]\nquotas = [\"{quota}/month\"]\n")
}

fn key_in(gateway: &Gateway) -> String {
    gateway.key_with(&KeySpec::new(&["read:orders"]).with("tier", json!("metered"))).key
}

/// How many of so many calls passed.
fn passes(gateway: &Gateway, key: &str, calls: usize) -> usize {
    let mut caller = gateway.caller();
    (0..calls).filter(|_| caller.status(key) == 200).count()
}

fn stop(gateway: &mut Gateway) {
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
}

#[test]
fn a_quota_is_the_same_after_a_restart_and_after_kill_9() {
    let (mut gateway, _upstream) = start(10);
    let key = key_in(&gateway);
    assert_eq!(passes(&gateway, &key, 3), 3);
    gateway.kill();
    gateway.start_again();
    assert_eq!(passes(&gateway, &key, 3), 3);
    stop(&mut gateway);
    gateway.start_again();
    assert_eq!(passes(&gateway, &key, 6), 4, "ten in all");
    gateway.kill();
    gateway.start_again();
    assert_refused(&gateway.send(&get("/v1/orders").bearer(&key)), 429, "quota_exceeded");
    assert_eq!(passes(&gateway, &key_in(&gateway), 12), 10, "another key has its own");
}

#[test]
fn a_quota_that_is_changed_goes_on_from_what_was_used() {
    let (mut gateway, _upstream) = start(5);
    let key = key_in(&gateway);
    assert_eq!(passes(&gateway, &key, 7), 5);
    for (quota, more) in [(8, 3), (2, 0), (9, 1)] {
        stop(&mut gateway);
        gateway.change(|setup| setup.tables(&tier(quota)));
        gateway.start_again();
        assert_eq!(passes(&gateway, &key, 4), more, "quota {quota}");
    }
}

#[test]
fn a_quota_is_never_exceeded_by_crashes_in_the_middle_of_traffic() {
    const QUOTA: u64 = 900;
    const CLIENTS: u64 = 3;
    let _alone = alone();
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    let rounds = scale("KEYGATE_CRASHES", 5);
    println!("KEYGATE_SEED={seed} KEYGATE_CRASHES={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut gateway, upstream) = start(QUOTA);
    let key = key_in(&gateway);
    let answered = AtomicU64::new(0);
    for _ in 0..rounds {
        let proxy = gateway.proxy;
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let (key, answered) = (&key, &answered);
                scope.spawn(move || {
                    let mut caller = Caller::new(proxy);
                    while let Ok(answer) = caller.try_send(&get("/v1/orders").bearer(key)) {
                        answered.fetch_add(u64::from(answer.status == 200), Ordering::SeqCst);
                    }
                });
            }
            // The moment of the crash is what is being tried out.
            std::thread::sleep(Duration::from_millis(random.u64(20..150)));
            gateway.kill();
        });
        gateway.start_again();
    }
    let mut caller = gateway.caller();
    eventually("the quota's end", || {
        let status = caller.status(&key);
        answered.fetch_add(u64::from(status == 200), Ordering::SeqCst);
        (status == 429).then_some(())
    });
    let (answered, served) = (answered.load(Ordering::SeqCst), upstream.seen().len() as u64);
    println!("{answered} were answered, {served} reached the upstream, of {QUOTA}");
    assert!(served <= QUOTA, "{served} requests passed a quota of {QUOTA}");
    // A request that the crash cut short may have been charged and not sent, or sent and not answered.
    assert!(answered + rounds * CLIENTS >= QUOTA, "{answered} of {QUOTA}: crashes cost quota");
}

#[test]
fn a_tier_that_is_gone_limits_nothing_and_the_log_names_it_once() {
    let (mut gateway, _upstream) = start(2);
    let key = key_in(&gateway);
    assert_eq!(passes(&gateway, &key, 4), 2);
    stop(&mut gateway);
    gateway.change(|setup| setup.tables(""));
    gateway.start_again();
    assert_eq!(passes(&gateway, &key, 20), 20);
    let answer = gateway.send(&get("/v1/orders").bearer(&key));
    assert_eq!(answer.header("ratelimit-policy"), None);
    let warning = eventually("a warning", || {
        let output = gateway.output();
        let told: Vec<_> = output.lines().filter(|line| line.contains("does not have")).collect();
        assert!(told.len() <= 1, "{told:?}");
        told.first().map(|line| (*line).to_owned())
    });
    assert!(warning.contains("\"WARN\"") && warning.contains("metered"), "{warning}");
}
