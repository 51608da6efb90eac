//! What the tests of a fleet lean on does what it says: servers that fail over, lines that go dark.

use std::time::{Duration, Instant};

use crate::harness::{
    Call, Calls, Cluster, Redis, Reply, Resp, Sentinels, Tap, Which, alone, eventually,
};

#[test]
fn a_redis_that_was_killed_comes_back_with_what_it_had() {
    let mut redis = Redis::start();
    redis.command(&["SET", "name", "value"]);
    redis.wait_until_written();
    redis.kill();
    assert!(redis.try_command(&["PING"]).is_none());
    redis.start_again();
    assert_eq!(redis.command(&["GET", "name"]).text(), "value");
}

#[test]
fn a_tap_breaks_subscriptions_apart_from_commands() {
    let redis = Redis::start();
    let tap = Tap::before(redis.address());
    let mut commands = Resp::open(tap.address()).unwrap();
    let subscribe = || {
        let mut subscriber = Resp::open(tap.address()).unwrap();
        subscriber.call(&["SUBSCRIBE", "channel"]).map(|_| subscriber)
    };
    let hears = |mut subscriber: Resp| {
        redis.command(&["PUBLISH", "channel", "word"]);
        subscriber.read().ok().filter(|heard| heard.text().ends_with("word"))
    };
    assert!(hears(subscribe().unwrap()).is_some());
    let cut = subscribe().unwrap();
    tap.refuse(Which::Subscriptions);
    assert!(hears(cut).is_none() && subscribe().is_err());
    assert_eq!(commands.call(&["PING"]).unwrap().text(), "PONG");
    tap.resume();
    let mut silent = subscribe().unwrap();
    tap.blackhole(Which::Subscriptions);
    redis.command(&["PUBLISH", "channel", "late"]);
    assert_eq!(commands.call(&["PING"]).unwrap().text(), "PONG");
    tap.resume();
    assert!(silent.read().unwrap().text().ends_with("late"));
}

#[test]
fn a_slow_tap_delays_answers_side_by_side() {
    let redis = Redis::start();
    let tap = Tap::before(redis.address());
    let delay = Duration::from_millis(100);
    tap.delay(delay);
    let mut connection = Resp::open(tap.address()).unwrap();
    let start = Instant::now();
    (0..20).for_each(|_| connection.send(&["PING"]).unwrap());
    for _ in 0..20 {
        assert!(matches!(connection.read().unwrap(), Reply::Text(text) if text == b"PONG"));
    }
    assert!(start.elapsed() >= delay);
}

#[test]
fn calls_are_above_a_limit_only_if_no_moments_of_charging_explain_them() {
    let at = Duration::from_millis;
    // Eleven at ten a second, each answered within a moment.
    let calls = |sent: fn(u64) -> u64, lasts: u64| {
        let call = |n| {
            let sent = at(sent(n));
            Call { sent, seen: sent + at(lasts), which: 0, status: Some(200) }
        };
        Calls { all: (0..11).map(call).collect(), took: at(2_000) }
    };
    calls(|n| n * 100, 1).never_above(10.0, 1.0);
    calls(|_| 0, 1).never_above(10.0, 11.0);
    // Slow answers may have been charged one after the other.
    calls(|_| 0, 1_000).never_above(10.0, 1.0);
    let too_many = || calls(|n| n * 90, 1).never_above(10.0, 1.5);
    assert!(std::panic::catch_unwind(too_many).is_err());
}

#[test]
fn sentinels_make_a_replica_the_primary() {
    let _alone = alone();
    let mut set = Sentinels::start(1);
    let first = set.primary();
    set.wait_until_replicated(1);
    set.servers[first].set_on_replica("name", "value");
    set.servers[first].kill();
    let second = set.wait_for_another_than(first);
    eventually("the value", || {
        let value = set.servers[second].try_command(&["GET", "name"])?;
        (value.text() == "value").then_some(())
    });
    set.bring_back(first);
    set.wait_until_replicated(1);
    set.wait_until_agreed(1);
    set.order_failover();
    assert_eq!(set.wait_for_another_than(second), first);
}

#[test]
fn a_cluster_makes_a_replica_the_primary() {
    let _alone = alone();
    const NAME: &str = "{keygate}:name";
    let mut cluster = Cluster::start();
    let first = cluster.primary_of(NAME, 0).unwrap();
    cluster.nodes[first].set_on_replica(NAME, "value");
    cluster.nodes[first].kill();
    let second = cluster.wait_for_another_than(first, NAME);
    eventually("the value", || {
        let value = cluster.nodes[second].try_command(&["GET", NAME])?;
        (value.text() == "value").then_some(())
    });
    cluster.nodes[first].start_again();
    cluster.wait_until_well();
}
