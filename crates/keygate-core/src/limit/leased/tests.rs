mod away;

use super::*;
use crate::limit::testing::{SOME, at, limits, terms};

const LEASE: Duration = Duration::from_secs(2);
const ALONE: Fleet = Fleet { gateways: 1, lease: LEASE };
const THREE: Fleet = Fleet { gateways: 3, lease: LEASE };

/// Lends what is wanted of a rate.
fn lend(leased: &mut Leased, ask: &Ask, granted: u64, level: u64, now: Moment) {
    let rate = ask.rate.map(|_| RateAnswer { granted, level_milli: level * 1_000 });
    let slots = ask.slots.map(|slots| SlotsAnswer {
        granted: slots.need.wanted,
        free: 0,
        allowed: ask.slots_held + slots.need.wanted,
    });
    let answer = Answer { now: now.unix, rate, quotas: Vec::new(), slots };
    leased.answered(ask, &answer, now, now, THREE);
}

fn lend_quota(leased: &mut Leased, ask: &Ask, granted: u64, remaining: u64, now: Moment) {
    let ends_at = crate::limit::calendar::window_end(ask.quotas[0].quota.unit, now.unix);
    let quotas = vec![QuotaAnswer { ends_at, granted, remaining }];
    let answer = Answer { now: now.unix, rate: None, quotas, slots: None };
    leased.answered(ask, &answer, now, now, THREE);
}

/// An answer about a rate and a quota.
fn lend_both(
    leased: &mut Leased,
    ask: &Ask,
    granted: u64,
    (level_milli, remaining): (u64, u64),
    now: Moment,
) {
    let ends_at = crate::limit::calendar::window_end(ask.quotas[0].quota.unit, now.unix);
    let rate = Some(RateAnswer { granted, level_milli });
    let quotas = vec![QuotaAnswer { ends_at, granted, remaining }];
    let answer = Answer { now: now.unix, rate, quotas, slots: None };
    leased.answered(ask, &answer, now, now, THREE);
}

fn take(leased: &mut Leased, limits: &Limits, now: Moment) -> Take {
    leased.demanded(1, now);
    leased.take(&terms(limits), 1, now, THREE)
}

fn is_done(take: Take) -> bool {
    matches!(take, Take::Done { .. })
}

#[test]
fn nothing_is_spent_that_was_not_lent() {
    let limits = limits(Some(("1000/s", 1_000)), &[], None);
    let mut leased = Leased::default();
    assert_eq!(take(&mut leased, &limits, at(0)), Take::Ask);
    let ask = leased.ask(1, at(0), THREE);
    assert_eq!(ask.rate.unwrap().need, Need { units: 1, wanted: 1 });
    lend(&mut leased, &ask, 3, 997, at(0));
    for _ in 0..3 {
        assert!(is_done(take(&mut leased, &limits, at(1))));
    }
    assert_eq!(take(&mut leased, &limits, at(1)), Take::Ask);
}

#[test]
fn what_was_lent_is_void_when_the_lease_ends() {
    let limits = limits(Some(("1000/s", 1_000)), &[], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend(&mut leased, &ask, 5, 0, at(0));
    assert!(is_done(take(&mut leased, &limits, at(1_999))));
    assert_eq!(take(&mut leased, &limits, at(2_000)), Take::Ask);
}

#[test]
fn a_store_that_has_too_little_is_not_asked_by_every_request() {
    let limits = limits(Some(("1000/s", 1_000)), &[], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend(&mut leased, &ask, 0, 0, at(0));
    // 25 units for each of 3 gateways come back in 75 ms.
    let Take::Over(over) = take(&mut leased, &limits, at(1)) else { panic!("refused") };
    assert_eq!(over.retry_after, RetryAfter::In(Duration::from_millis(74)));
    assert!(matches!(take(&mut leased, &limits, at(74)), Take::Over(_)));
    assert_eq!(take(&mut leased, &limits, at(75)), Take::Ask);
}

#[test]
fn a_costly_request_that_is_refused_keeps_out_none_that_costs_less() {
    let limits = limits(Some(("1/h", 10)), &["10/day"], None);
    let terms = terms(&limits);
    let mut leased = Leased::default();
    let take = |leased: &mut Leased, cost, ms| {
        leased.demanded(cost, at(ms));
        leased.take(&terms, cost, at(ms), THREE)
    };
    let left = |leased: &Leased, cost, ms| {
        let mut left = Few::default();
        left.push(rate_use(terms.rate.unwrap(), 4));
        left.push(quota_use(terms.quotas[0], 6, at(ms).unix));
        leased.room(left, cost, at(ms)).iter().map(|room| room.remaining).collect::<Vec<_>>()
    };
    assert_eq!(take(&mut leased, 7, 0), Take::Ask);
    let ask = leased.ask(7, at(0), THREE);
    lend_both(&mut leased, &ask, 0, (4_000, 4), at(0));
    assert!(matches!(take(&mut leased, 7, 1), Take::Over(_)));
    assert_eq!(left(&leased, 7, 1), [0, 0], "nobody asks");
    assert!(matches!(take(&mut leased, 8, 1), Take::Over(_)));
    assert_eq!(left(&leased, 4, 1), [4, 4]);
    assert_eq!(take(&mut leased, 4, 1), Take::Ask);
    let ask = leased.ask(1, at(1), THREE);
    lend_both(&mut leased, &ask, 1, (3_000, 3), at(1));
    assert_eq!(left(&leased, 4, 1), [5, 5], "what is held here besides");
    assert!(is_done(take(&mut leased, 1, 1)));
}

#[test]
fn a_steady_stream_is_asked_for_ahead_of_its_need() {
    let limits = limits(Some(("10000/s", 10_000)), &[], None);
    let mut leased = Leased::default();
    let mut asked = 0;
    for ms in 0..3_000 {
        let is_low = match take(&mut leased, &limits, at(ms)) {
            Take::Done { is_low, .. } => is_low,
            Take::Over(over) => panic!("{over:?}"),
            Take::Ask => {
                assert!(ms < 300, "a request had to wait at {ms} ms");
                true
            }
        };
        if is_low {
            let ask = leased.ask(1, at(ms), THREE);
            lend(&mut leased, &ask, ask.rate.unwrap().need.wanted, 5_000, at(ms));
            asked += 1;
        }
    }
    assert!(asked < 3_000 / 20, "{asked} questions for 3000 requests");
}

#[test]
fn small_limits_are_asked_for_one_by_one() {
    let limits = limits(Some(("10/s", 10)), &["20/day"], Some(5));
    let mut leased = Leased::default();
    for _ in 0..100 {
        take(&mut leased, &limits, at(0));
    }
    let ask = leased.ask(1, at(0), THREE);
    let one = Need { units: 1, wanted: 1 };
    assert_eq!(ask.rate.unwrap().need, one);
    assert_eq!(ask.quotas[0].need, one);
    assert_eq!(ask.slots.unwrap().need, one);
}

#[test]
fn a_raised_limit_is_asked_for_at_once() {
    let (low, high) = (limits(Some(("1/s", 1)), &[], None), limits(Some(("9/s", 9)), &[], None));
    let mut leased = Leased::default();
    take(&mut leased, &low, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend(&mut leased, &ask, 0, 0, at(0));
    assert!(matches!(take(&mut leased, &low, at(1)), Take::Over(_)));
    assert_eq!(take(&mut leased, &high, at(1)), Take::Ask);
}

#[test]
fn what_lies_idle_goes_back_and_is_told_until_it_was_heard() {
    let limits = limits(None, &["100000/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_quota(&mut leased, &ask, 50, 900, at(0));
    assert!(is_done(take(&mut leased, &limits, at(1))));
    leased.end(&SOME);
    assert_eq!(leased.tick(at(100), THREE), Tick::Wait);
    for _ in 0..3 {
        let Tick::Tell(ask) = leased.tick(at(400), THREE) else { panic!("49 units lie idle") };
        assert_eq!(ask.quotas[0].granted, 1);
    }
    let Tick::Tell(ask) = leased.tick(at(500), THREE) else { panic!("not heard yet") };
    lend_quota(&mut leased, &ask, 0, 949, at(500));
    assert_eq!(leased.tick(at(600), THREE), Tick::Forget);
}

#[test]
fn an_answer_that_was_under_way_does_not_hide_what_went_back_meanwhile() {
    let limits = limits(None, &["100000/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let first = leased.ask(1, at(0), THREE);
    lend_quota(&mut leased, &first, 50, 900, at(0));
    let under_way = leased.ask(0, at(399), THREE);
    assert!(matches!(leased.tick(at(400), THREE), Tick::Tell(_)));
    lend_quota(&mut leased, &under_way, 0, 900, at(401));
    assert!(matches!(leased.tick(at(500), THREE), Tick::Tell(_)));
}

#[test]
fn a_running_request_renews_its_slot() {
    let limits = limits(None, &[], Some(100));
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend(&mut leased, &ask, 0, 0, at(0));
    assert!(is_done(take(&mut leased, &limits, at(0))));
    assert_eq!(leased.tick(at(900), THREE), Tick::Wait);
    let Tick::Tell(ask) = leased.tick(at(1_000), THREE) else { panic!("the lease is half over") };
    assert_eq!(ask.slots_held, 1);
    // Also when it could not be renewed in time.
    let Tick::Tell(ask) = leased.tick(at(60_000), THREE) else { panic!("it still runs") };
    assert_eq!(ask.slots_held, 1);
    leased.end(&SOME);
    assert_eq!(leased.running(), 0);
}

#[test]
fn a_refund_is_spent_again_and_not_lent_again() {
    let limits = limits(None, &["100000/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_quota(&mut leased, &ask, 1, 900, at(0));
    let Take::Done { charged, .. } = take(&mut leased, &limits, at(1)) else { panic!("lent") };
    leased.refund(&charged, at(2));
    leased.end(&SOME);
    assert!(is_done(take(&mut leased, &limits, at(3))));
    assert_eq!(take(&mut leased, &limits, at(3)), Take::Ask);
    assert_eq!(leased.ask(1, at(3), THREE).quotas[0].granted, 1);
}

#[test]
fn units_that_were_reported_as_used_are_not_given_back() {
    let limits = limits(Some(("1000/s", 1_000)), &[], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend(&mut leased, &ask, 2, 900, at(0));
    let Take::Done { charged, .. } = take(&mut leased, &limits, at(1)) else { panic!("lent") };
    let Tick::Tell(ask) = leased.tick(at(1_500), THREE) else { panic!("one lies idle") };
    lend(&mut leased, &ask, 0, 900, at(1_500));
    leased.refund(&charged, at(1_501));
    assert!(!is_done(take(&mut leased, &limits, at(1_501))));
}

#[test]
fn a_cost_above_the_whole_limit_never_passes() {
    let limits = limits(Some(("10/s", 10)), &[], None);
    let mut leased = Leased::default();
    let Take::Over(over) = leased.take(&terms(&limits), 11, at(0), ALONE) else { panic!("never") };
    assert_eq!(over.retry_after, RetryAfter::Never);
}

#[test]
fn a_lowered_limit_counts_at_once() {
    let high = limits(Some(("1000/s", 1_000)), &["100000/day"], None);
    let low = limits(Some(("100/s", 1)), &["1/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &high, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_both(&mut leased, &ask, 250, (0, 0), at(0));
    assert!(is_done(take(&mut leased, &high, at(1))));
    assert_eq!(take(&mut leased, &low, at(1)), Take::Ask);
    let ask = leased.ask(1, at(1), THREE);
    assert_eq!((ask.held, ask.rate.unwrap().returned, ask.quotas[0].granted), (0, 249, 1));
}

#[test]
fn slots_beyond_a_lowered_limit_are_not_used_again() {
    let (high, low) = (limits(None, &[], Some(100)), limits(None, &[], Some(5)));
    let mut leased = Leased::default();
    for _ in 0..100 {
        if take(&mut leased, &high, at(0)) == Take::Ask {
            let ask = leased.ask(1, at(0), THREE);
            lend(&mut leased, &ask, 0, 0, at(0));
            assert!(is_done(take(&mut leased, &high, at(0))));
        }
    }
    let mut ms = 0;
    while leased.running() > 5 {
        ms += 10;
        leased.end(&SOME);
        assert!(!is_done(take(&mut leased, &low, at(ms))), "{} run", leased.running());
    }
    leased.end(&SOME);
    assert!(is_done(take(&mut leased, &low, at(ms))));
}

#[test]
fn slots_that_others_hold_as_well_are_not_used_again() {
    let limits = limits(None, &[], Some(100));
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    let slots = SlotsAnswer { granted: 3, free: 0, allowed: 3 };
    let answer = Answer { now: at(0).unix, rate: None, quotas: vec![], slots: Some(slots) };
    leased.answered(&ask, &answer, at(0), at(0), THREE);
    for _ in 0..3 {
        assert!(is_done(take(&mut leased, &limits, at(1))));
    }
    // Lent to others meanwhile, since this gateway was silent for too long.
    let Tick::Tell(ask) = leased.tick(at(3_000), THREE) else { panic!("it still runs") };
    let slots = SlotsAnswer { granted: 0, free: 0, allowed: 1 };
    let answer = Answer { now: at(0).unix, rate: None, quotas: vec![], slots: Some(slots) };
    leased.answered(&ask, &answer, at(3_000), at(3_000), THREE);
    leased.end(&SOME);
    assert!(!is_done(take(&mut leased, &limits, at(3_001))), "two run, one may");
    leased.end(&SOME);
    assert!(!is_done(take(&mut leased, &limits, at(3_001))), "one runs, one may");
    leased.end(&SOME);
    assert!(is_done(take(&mut leased, &limits, at(3_001))));
}

#[test]
fn a_refund_gives_back_what_was_charged_and_nothing_else() {
    let (quota, slots) = (limits(None, &["100/month"], None), limits(None, &[], Some(9)));
    let unix = |text: &str| {
        let at: jiff::Timestamp = text.parse().unwrap();
        UnixMillis(u64::try_from(at.as_millisecond()).unwrap())
    };
    let january = Moment { mono_ns: 1, unix: unix("2027-01-31T23:59:59.9Z") };
    let february = Moment { mono_ns: 200_000_000, unix: unix("2027-02-01T00:00:00.1Z") };
    let mut leased = Leased::default();
    take(&mut leased, &quota, january);
    let ask = leased.ask(1, january, THREE);
    lend_quota(&mut leased, &ask, 1, 50, january);
    let Take::Done { charged, .. } = take(&mut leased, &quota, january) else { panic!("lent") };
    assert_eq!(take(&mut leased, &quota, february), Take::Ask);
    let ask = leased.ask(1, february, THREE);
    lend_quota(&mut leased, &ask, 0, 50, february);
    leased.refund(&charged, february);
    assert!(!is_done(take(&mut leased, &quota, february)), "a unit of January");
    // What had only a slot gives no units back.
    take(&mut leased, &slots, february);
    let ask = leased.ask(1, february, THREE);
    lend(&mut leased, &ask, 0, 0, february);
    let Take::Done { charged, .. } = take(&mut leased, &slots, february) else { panic!("lent") };
    leased.refund(&charged, february);
    assert!(!is_done(take(&mut leased, &quota, february)));
}

#[test]
fn what_is_known_to_be_used_up_is_not_forgotten_before_it_comes_back() {
    let limits = limits(Some(("10/s", 100)), &["1000/minute"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_both(&mut leased, &ask, 0, (0, 0), at(0));
    assert!(!leased.is_idle(at(9_000)));
    assert!(leased.is_idle(at(70_000)));
}

#[test]
fn an_answer_to_an_earlier_question_brings_nothing() {
    let limits = limits(Some(("1000/s", 1_000)), &[], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let early = leased.ask(1, at(0), THREE);
    let late = leased.ask(1, at(1_001), THREE);
    let answer = Answer {
        now: at(0).unix,
        rate: Some(RateAnswer { granted: 20, level_milli: 0 }),
        quotas: vec![],
        slots: None,
    };
    leased.answered(&early, &answer, at(0), at(1_500), THREE);
    assert!(!is_done(take(&mut leased, &limits, at(1_501))));
    leased.answered(&late, &answer, at(1_001), at(1_501), THREE);
    assert!(is_done(take(&mut leased, &limits, at(1_502))));
}

#[test]
fn a_question_is_for_all_who_wait() {
    let limits = limits(Some(("10/s", 10)), &["20/day"], Some(5));
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    for _ in 0..4 {
        leased.wait(2);
    }
    let ask = leased.ask(2, at(0), THREE);
    let need = Need { units: 2, wanted: 8 };
    assert_eq!((ask.rate.unwrap().need, ask.quotas[0].need), (need, need));
    assert_eq!(ask.slots.unwrap().need, Need { units: 1, wanted: 4 });
}

#[test]
fn a_policy_that_was_not_in_the_way_is_not_blamed() {
    let limits = limits(Some(("1000/s", 1_000)), &["20000/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_both(&mut leased, &ask, 0, (900_000, 0), at(0));
    let Take::Over(over) = take(&mut leased, &limits, at(1)) else { panic!("used up") };
    assert_eq!(over.violated.iter().collect::<Vec<_>>(), [Policy::Quota(Unit::Day)]);
}

#[test]
fn a_costly_request_is_told_when_there_will_be_enough_for_it() {
    let limits = limits(Some(("10/s", 10)), &[], None);
    let mut leased = Leased::default();
    let cost = |leased: &mut Leased, now| {
        leased.demanded(5, now);
        leased.take(&terms(&limits), 5, now, THREE)
    };
    assert_eq!(cost(&mut leased, at(0)), Take::Ask);
    let ask = leased.ask(5, at(0), THREE);
    lend(&mut leased, &ask, 0, 3, at(0));
    let Take::Over(over) = cost(&mut leased, at(0)) else { panic!("three of five") };
    assert_eq!(over.retry_after, RetryAfter::In(Duration::from_millis(200)));
}
