//! No acknowledged revocation is missed, whatever breaks: rounds of one fault each, at moments that
//! a seed decides. `CHAOS_ROUNDS` says how many; `make soak` runs two hundred of each.

mod failover;
mod lab;
mod lag;
mod limits;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use self::lab::{Lab, setup};
use crate::harness::{
    Broken, Caller, Fleet, Gateway, Key, Redis, RedisSettings, Setup, Tap, Upstream, Which, alone,
    eventually, get,
};

const GATEWAYS: usize = 3;
const KEYS: usize = 8;

/// A fleet of which each gateway has a line of its own to one Redis.
struct Lines {
    taps: Vec<Tap>,
    redis: Redis,
    _upstream: Upstream,
}

fn lines() -> (Lines, Fleet) {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let taps: Vec<Tap> = (0..GATEWAYS).map(|_| Tap::before(redis.address())).collect();
    let setups = taps.iter().map(|tap| {
        let setup = setup(Setup::in_front_of(&upstream)).redis(&redis);
        // A machine that is busy with other tests is not an outage.
        setup.store(&redis.store_at(tap.address())).store_also("find_timeout = \"1s\"")
    });
    let fleet = Fleet::start(setups);
    (Lines { taps, redis, _upstream: upstream }, fleet)
}

const ALL: [usize; GATEWAYS] = [0, 1, 2];

#[test]
fn no_revocation_is_missed_when_subscriptions_are_cut() {
    let _alone = alone();
    let (lines, fleet) = lines();
    let mut lab = Lab::new("subscriptions cut", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let cut = lab.random.u8(..3);
        let revoked = lab.revoke_during(keys, &ALL, |lab| {
            lab.any_moment(Duration::from_millis(8));
            match cut {
                0 => lines.taps.iter().for_each(|tap| tap.cut(Which::Subscriptions)),
                1 => lines.redis.kill_subscriptions(),
                // Until the end of the round.
                _ => lines.taps.iter().for_each(|tap| tap.refuse(Which::Subscriptions)),
            }
        });
        lab.refused_everywhere(revoked, None);
        lines.taps.iter().for_each(Tap::resume);
    }
}

#[test]
fn no_revocation_is_missed_when_subscriptions_go_dark() {
    let _alone = alone();
    let (lines, fleet) = lines();
    let mut lab = Lab::new("subscriptions dark", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let revoked = lab.revoke_during(keys, &ALL, |lab| {
            lab.any_moment(Duration::from_millis(8));
            lines.taps.iter().for_each(|tap| tap.blackhole(Which::Subscriptions));
        });
        lab.refused_everywhere(revoked, None);
        lines.taps.iter().for_each(Tap::resume);
    }
}

#[test]
fn no_revocation_is_missed_by_a_gateway_that_was_in_the_dark() {
    let _alone = alone();
    let (lines, fleet) = lines();
    let mut lab = Lab::new("a gateway in the dark", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let cut_off = lab.any_gateway();
        let others = ALL.into_iter().filter(|&gateway| gateway != cut_off).collect::<Vec<_>>();
        lines.taps[cut_off].blackhole(Which::All);
        let revoked = lab.revoke_during(keys, &others, |_| {});
        assert_eq!(revoked.len(), KEYS, "{lab}: the others are not concerned");
        others.iter().for_each(|&gateway| lab.refused_by(gateway, &revoked, None));
        // Sometimes for so long that the gateway gives its connections up.
        let long = if lab.random.u8(..4) == 0 { 1_500 } else { 200 };
        lab.any_moment(Duration::from_millis(long));
        lines.taps[cut_off].resume();
        lab.refused_everywhere(revoked, Some(Instant::now()));
    }
}

#[test]
fn no_revocation_is_missed_when_redis_is_killed_and_restarted() {
    let _alone = alone();
    // With `everysec` a killed Redis may lose what it acknowledged while its disk was busy.
    let settings = RedisSettings::default().line("appendfsync always");
    let (upstream, mut redis) = (Upstream::start(), Redis::with(settings));
    let fleet = Fleet::of(GATEWAYS, &setup(Setup::in_front_of(&upstream)).redis(&redis));
    let mut lab = Lab::new("Redis killed and restarted", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let revoked = lab.revoke_during(keys, &ALL, |lab| {
            lab.any_moment(Duration::from_millis(20));
            redis.kill();
        });
        lab.any_moment(Duration::from_millis(300));
        redis.start_again();
        lab.refused_everywhere(revoked, Some(Instant::now()));
    }
}

#[test]
fn no_revocation_is_missed_when_the_revoking_gateway_is_killed() {
    let _alone = alone();
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = Fleet::of(GATEWAYS, &setup(Setup::in_front_of(&upstream)).redis(&redis));
    let mut lab = Lab::new("the revoking gateway killed", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let (killed, all) = (lab.any_gateway(), keys.clone());
        let revoked = lab.revoke_during(keys, &[killed], |lab| {
            lab.any_moment(Duration::from_millis(15));
            lab.excuse(killed);
            lab.fleet[killed].kill();
        });
        for gateway in ALL.into_iter().filter(|&gateway| gateway != killed) {
            lab.refused_by(gateway, &revoked, None);
        }
        lab.fleet[killed].start_again();
        lab.expect_again(killed);
        lab.refused_everywhere(revoked, None);
        all.iter().for_each(|key| of_one_mind(&lab, key));
    }
}

/// Waits until every gateway says the same of a key, and what the store says: a change that was
/// begun and never acknowledged has happened or has not.
fn of_one_mind(lab: &Lab, key: &Key) {
    let record = lab.fleet[0].admin().read(&format!("/v1/keys/{}", key.id));
    let status = if record["status"] == "revoked" { 401 } else { 200 };
    for caller in &mut lab.fleet.callers() {
        eventually("gateways of one mind", || (caller.status(&key.key) == status).then_some(()));
    }
}

#[test]
fn no_look_up_brings_back_what_is_revoked_meanwhile() {
    let _alone = alone();
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = Fleet::of(GATEWAYS, &setup(Setup::in_front_of(&upstream)).redis(&redis));
    let mut lab = Lab::new("look-ups in flight", fleet);
    while lab.goes_on() {
        let keys = lab.cold_keys(KEYS);
        let revoked = race(&mut lab, &keys);
        lab.refused_everywhere(revoked, None);
    }
}

/// Calls cold keys through all gateways while they are revoked one after the other.
fn race(lab: &mut Lab, keys: &[Key]) -> Vec<lab::Revoked> {
    const CLIENTS: usize = 2;
    let ended = AtomicBool::new(false);
    let start = Barrier::new(GATEWAYS * CLIENTS + 1);
    let back = Mutex::new(Vec::new());
    let callers: Vec<Caller> = (0..CLIENTS).flat_map(|_| lab.fleet.callers()).collect();
    thread::scope(|scope| {
        let (ended, start, back) = (&ended, &start, &back);
        for mut caller in callers {
            scope.spawn(move || {
                let mut is_gone = vec![false; keys.len()];
                start.wait();
                while !ended.load(Ordering::SeqCst) && !is_gone.iter().all(|gone| *gone) {
                    for (key, gone) in keys.iter().zip(&mut is_gone) {
                        let told = caller.try_send(&get("/v1/orders").bearer(&key.key));
                        match told.map(|answer| answer.status) {
                            Ok(401) => *gone = true,
                            told if *gone => back.lock().unwrap().push((key.id.clone(), told)),
                            // It was let in, and is cut off because its key is revoked meanwhile.
                            Ok(_) | Err(Broken::Closed | Broken::Cut) => {}
                            told => panic!("{}: {told:?}", key.id),
                        }
                    }
                }
            });
        }
        start.wait();
        let admin = lab.fleet[lab.random.usize(..GATEWAYS)].admin();
        let revoke = |key: &Key| admin.try_revoke(key).then(|| lab::revoked_now(key.clone()));
        let mut revoked = Vec::new();
        for key in keys {
            lab.any_moment(Duration::from_micros(500));
            revoked.extend(revoke(key));
        }
        for gateway in 0..GATEWAYS {
            lab.refused_by(gateway, &revoked, None);
        }
        ended.store(true, Ordering::SeqCst);
        assert!(back.lock().unwrap().is_empty(), "{lab}: refused, and then not: {back:?}");
        revoked
    })
}

#[test]
fn no_revocation_is_missed_when_the_log_was_trimmed_meanwhile() {
    let _alone = alone();
    let (lines, fleet) = lines();
    let mut lab = Lab::new("the log trimmed", fleet);
    let mut flushes = vec![0];
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let away = lab.any_gateway();
        let through = lab.another_gateway(away);
        let stopped = lab.random.bool();
        if stopped {
            lab.excuse(away);
            lab.fleet[away].process().signal("STOP");
            // Or it would find every message waiting for it.
            lines.taps[away].cut(Which::Subscriptions);
        } else {
            lines.taps[away].refuse(Which::All);
        }
        let revoked = lab.revoke_during(keys, &[through], |_| {});
        lines.redis.command(&["XTRIM", "{keygate}:log", "MAXLEN", "0"]);
        if stopped {
            lab.fleet[away].process().signal("CONT");
            lab.expect_again(away);
        } else {
            lines.taps[away].resume();
        }
        lab.refused_everywhere(revoked, Some(Instant::now()));
        // Whoever has to read the log forgets every key, since it has been trimmed. If the line then
        // breaks before a key was called again, that is no key that is known.
        lab.all_live();
        flushes.push(flushes_of(&lab));
    }
    assert!(flushes.is_sorted_by(|before, after| before < after), "no flush: {flushes:?}");
}

fn flushes_of(lab: &Lab) -> usize {
    let flushes = |gateway: &Gateway| gateway.output().matches("does not reach back").count();
    lab.fleet.iter().map(flushes).sum()
}
