use proptest::prelude::*;

use super::*;
use crate::limit::terms::{Limits, RateLimit};
use crate::limit::testing::{SOME, at, limits, terms};

const SECOND_NS: u64 = 1_000_000_000;

fn violated(over: Over) -> Vec<Policy> {
    over.violated.iter().collect()
}

#[test]
fn a_refused_request_is_charged_to_nothing() {
    let limits = limits(Some(("1/s", 5)), &["2/day"], Some(3));
    let terms = terms(&limits);
    let mut tally = Tally::default();
    for _ in 0..2 {
        tally.charge(&terms, 1, at(0)).unwrap();
    }
    for _ in 0..100 {
        let over = tally.charge(&terms, 1, at(0)).unwrap_err();
        assert_eq!(violated(over), [Policy::Quota(Unit::Day)]);
    }
    let left: Vec<u64> = tally.uses(&terms, at(0)).iter().map(|one| one.remaining).collect();
    assert_eq!(left, [1, 3, 0]);
}

#[test]
fn only_the_windows_of_its_own_terms_are_charged_and_given_back() {
    let (all, day) = (limits(None, &["9/hour", "9/day"], None), limits(None, &["9/day"], None));
    let left = |tally: &Tally, now| -> Vec<u64> {
        tally.uses(&terms(&all), now).iter().map(|one| one.remaining).collect()
    };
    let mut tally = Tally::default();
    tally.charge(&terms(&all), 1, at(0)).unwrap();
    let charged = tally.charge(&terms(&day), 2, at(0)).unwrap();
    assert_eq!(left(&tally, at(0)), [8, 6]);
    tally.refund(&charged, at(0));
    assert_eq!(left(&tally, at(0)), [8, 8]);
    // Windows that were used up long ago begin anew, each by itself.
    let later = at(86_400_000);
    tally.charge(&terms(&day), 3, later).unwrap();
    assert_eq!(left(&tally, later), [9, 6]);
    tally.charge(&terms(&all), 1, later).unwrap();
    assert_eq!(left(&tally, later), [8, 5]);
}

#[test]
fn every_policy_in_the_way_is_named_and_the_longest_wait_counts() {
    let limits = limits(Some(("1/s", 1)), &["1/minute", "1/hour"], Some(1));
    let terms = terms(&limits);
    let mut tally = Tally::default();
    tally.charge(&terms, 1, at(0)).unwrap();
    let over = tally.charge(&terms, 1, at(0)).unwrap_err();
    let quotas = [Unit::Minute, Unit::Hour].map(Policy::Quota);
    assert_eq!(violated(over), [&[Policy::Concurrency, Policy::Rate], &quotas[..]].concat());
    let to_the_hour = window_end(Unit::Hour, at(0).unix).0 - at(0).unix.0;
    assert_eq!(over.retry_after, RetryAfter::In(Duration::from_millis(to_the_hour)));
}

#[test]
fn what_can_never_pass_says_so() {
    let limits = limits(Some(("10/s", 10)), &[], None);
    let over = Tally::default().charge(&terms(&limits), 11, at(0)).unwrap_err();
    assert_eq!(over.retry_after, RetryAfter::Never);
    let limits = self::limits(None, &["3/day"], None);
    let over = Tally::default().charge(&terms(&limits), 4, at(0)).unwrap_err();
    assert_eq!(over.retry_after, RetryAfter::Never);
}

#[test]
fn a_wait_that_is_obeyed_is_long_enough_and_not_a_nanosecond_longer() {
    let limits = limits(Some(("3/s", 2)), &[], None);
    let terms = terms(&limits);
    let mut tally = Tally::default();
    tally.charge(&terms, 2, at(7)).unwrap();
    let RetryAfter::In(wait) = tally.charge(&terms, 1, at(8)).unwrap_err().retry_after else {
        panic!("it can pass");
    };
    let wait = u64::try_from(wait.as_nanos()).unwrap();
    let later = |ns| Moment { mono_ns: at(8).mono_ns + ns, ..at(8) };
    assert!(tally.charge(&terms, 1, later(wait - 1)).is_err());
    assert!(tally.charge(&terms, 1, later(wait)).is_ok());
}

#[test]
fn a_higher_limit_counts_at_once_and_forgets_nothing() {
    let (slow, fast) = (
        limits(Some(("1/s", 20)), &["30/day"], None),
        limits(Some(("1000/s", 2000)), &["40/day"], None),
    );
    let mut tally = Tally::default();
    for _ in 0..20 {
        tally.charge(&terms(&slow), 1, at(0)).unwrap();
    }
    assert!(tally.charge(&terms(&slow), 1, at(0)).is_err());
    let left: Vec<u64> = tally.uses(&terms(&fast), at(0)).iter().map(|one| one.remaining).collect();
    assert_eq!(left, [1_980, 20]);
    assert!(tally.charge(&terms(&fast), 20, at(0)).is_ok());
    assert!(tally.charge(&terms(&fast), 1, at(0)).is_err());
    // And back: what was used is still used.
    assert!(tally.charge(&terms(&slow), 1, at(0)).is_err());
}

#[test]
fn a_refund_leaves_things_as_if_the_request_had_not_come() {
    let limits = limits(Some(("1/s", 2)), &["2/day"], Some(2));
    let terms = terms(&limits);
    let mut tally = Tally::default();
    tally.charge(&terms, 1, at(0)).unwrap();
    let other = tally.charge(&terms, 1, at(0)).unwrap();
    assert!(tally.charge(&terms, 1, at(0)).is_err());
    tally.refund(&other, at(100));
    tally.end(&SOME);
    assert!(tally.charge(&terms, 1, at(100)).is_ok());
    assert!(tally.charge(&terms, 1, at(100)).is_err());
    tally.end(&SOME);
    assert_eq!(tally.running(), 1);
}

#[test]
fn a_refund_after_the_bucket_was_full_again_gives_nothing_twice() {
    let limits = limits(Some(("1/s", 2)), &[], None);
    let terms = terms(&limits);
    let mut tally = Tally::default();
    let early = tally.charge(&terms, 1, at(0)).unwrap();
    tally.charge(&terms, 2, at(60_000)).unwrap();
    tally.refund(&early, at(60_000));
    assert!(tally.charge(&terms, 1, at(60_000)).is_err());
}

#[test]
fn a_refund_of_yesterdays_request_gives_today_nothing() {
    let limits = limits(None, &["1/second"], None);
    let terms = terms(&limits);
    let mut tally = Tally::default();
    let yesterday = tally.charge(&terms, 1, at(0)).unwrap();
    tally.charge(&terms, 1, at(1_000)).unwrap();
    tally.refund(&yesterday, at(1_000));
    assert!(tally.charge(&terms, 1, at(1_000)).is_err());
}

#[test]
fn a_refund_gives_back_what_was_charged_and_nothing_else() {
    let strict = limits(Some(("1/h", 10)), &["100/day"], None);
    let slots = limits(None, &[], Some(100));
    let mut tally = Tally::default();
    let mut admitted = 0;
    for _ in 0..1_000 {
        admitted += u32::from(tally.charge(&terms(&strict), 1, at(0)).is_ok());
        let other = tally.charge(&terms(&slots), 1, at(0));
        let Ok(other) = other else { break };
        tally.refund(&other, at(0));
        tally.end(&SOME);
    }
    assert_eq!(admitted, 10);
}

#[test]
fn a_clock_that_is_set_back_opens_no_new_window() {
    let limits = limits(None, &["1/minute"], None);
    let terms = terms(&limits);
    let mut tally = Tally::default();
    tally.charge(&terms, 1, at(120_000)).unwrap();
    assert!(tally.charge(&terms, 1, at(0)).is_err());
}

#[test]
fn only_who_has_used_nothing_is_idle() {
    let limits = limits(Some(("1/s", 1)), &["5/minute"], Some(1));
    let terms = terms(&limits);
    let mut tally = Tally::default();
    assert!(tally.is_idle(at(0)));
    tally.charge(&terms, 1, at(0)).unwrap();
    assert!(!tally.is_idle(at(120_000)));
    tally.end(&SOME);
    assert!(!tally.is_idle(at(500)) && !tally.is_idle(at(1_500)) && tally.is_idle(at(120_000)));
}

#[test]
fn a_reset_gives_all_back_but_the_slots() {
    let limits = limits(Some(("1/s", 1)), &["1/day"], Some(1));
    let terms = terms(&limits);
    let mut tally = Tally::default();
    tally.charge(&terms, 1, at(0)).unwrap();
    tally.reset();
    assert_eq!(violated(tally.charge(&terms, 1, at(0)).unwrap_err()), [Policy::Concurrency]);
    tally.end(&SOME);
    assert!(tally.charge(&terms, 1, at(0)).is_ok());
}

/// As plain as can be: fractions of units, each window a counter of its own.
struct Model {
    per_second: f64,
    burst: f64,
    level: f64,
    last_ns: u64,
}

impl Model {
    fn take(&mut self, cost: f64, now_ns: u64) -> bool {
        let passed = (now_ns - self.last_ns) as f64 / SECOND_NS as f64;
        self.level = (self.level + passed * self.per_second).min(self.burst);
        self.last_ns = now_ns;
        let passes = self.level + 1e-6 >= cost;
        if passes {
            self.level -= cost;
        }
        passes
    }
}

proptest! {
    /// The rates and bursts that operators write, driven by any arrivals, admit what a leaky bucket
    /// in plain fractions admits.
    #[test]
    fn admits_what_a_naive_bucket_admits(
        rate in prop::sample::select(vec!["1/s", "10/s", "1000/s", "100/minute", "7/hour"]),
        burst in prop::sample::select(vec![1u64, 20, 2_000]),
        // Whole multiples of what every interval above divides, so that no fraction is on the edge.
        gaps in prop::collection::vec((0u64..4_000, 1u64..3), 1..300),
    ) {
        let limit = RateLimit::new(rate.parse().unwrap(), Some(burst));
        let rate: Rate = rate.parse().unwrap();
        let limits = Limits { rate: Some(limit), ..Limits::default() };
        let per_second = rate.count as f64 / rate.unit.duration().as_secs_f64();
        let mut model = Model { per_second, burst: burst as f64, level: burst as f64, last_ns: 0 };
        let (mut tally, mut ms) = (Tally::default(), 1);
        for (gap, cost) in gaps {
            ms += gap;
            let now = at(ms);
            let admitted = tally.charge(&terms(&limits), cost, now).is_ok();
            prop_assert_eq!(admitted, model.take(cost as f64, now.mono_ns), "at {} ms", ms);
        }
    }

    /// governor's limiter, of the same rate and burst, lets the same requests through.
    #[test]
    fn admits_what_governor_admits(
        rate in prop::sample::select(vec![1u32, 10, 1_000, 250_000]),
        burst in prop::sample::select(vec![1u32, 20, 2_000]),
        gaps in prop::collection::vec(0u64..400_000_000, 1..300),
    ) {
        use governor::clock::FakeRelativeClock;
        use governor::{Quota, RateLimiter};
        let clock = FakeRelativeClock::default();
        let quota = Quota::per_second(rate.try_into().unwrap()).allow_burst(burst.try_into().unwrap());
        let theirs = RateLimiter::direct_with_clock(quota, clock.clone());
        let limit = RateLimit::new(Rate { count: rate.into(), unit: Unit::Second }, Some(burst.into()));
        let limits = Limits { rate: Some(limit), ..Limits::default() };
        let (mut ours, mut now_ns) = (Tally::default(), 0);
        for gap in gaps {
            clock.advance(Duration::from_nanos(gap));
            now_ns += gap;
            let now = Moment { mono_ns: now_ns, unix: UnixMillis(0) };
            let admitted = ours.charge(&terms(&limits), 1, now).is_ok();
            prop_assert_eq!(admitted, theirs.check().is_ok(), "at {} ns", now_ns);
        }
    }

    /// Charges and refunds in any order: no window is ever above its quota, and slots add up.
    #[test]
    fn never_above_a_quota(
        steps in prop::collection::vec((0u64..90_000, 1u64..4, any::<bool>()), 1..200),
    ) {
        let limits = limits(None, &["10/minute", "25/hour"], Some(7));
        let terms = terms(&limits);
        let (mut tally, mut ms, mut running) = (Tally::default(), 0, Vec::new());
        // Cost by window end; each charge keeps its own until it is refunded.
        let mut used = std::collections::HashMap::<(Unit, UnixMillis), u64>::new();
        for (gap, cost, is_refund) in steps {
            ms += gap;
            if is_refund && let Some(charged) = running.pop() {
                let charged: Charged = charged;
                tally.refund(&charged, at(ms));
                tally.end(&SOME);
                for unit in [Unit::Minute, Unit::Hour] {
                    *used.entry((unit, window_end(unit, charged.at.unix))).or_default() -= charged.cost;
                }
            } else if let Ok(charged) = tally.charge(&terms, cost, at(ms)) {
                running.push(charged);
                for (unit, most) in [(Unit::Minute, 10), (Unit::Hour, 25)] {
                    let window = used.entry((unit, window_end(unit, at(ms).unix))).or_default();
                    *window += cost;
                    prop_assert!(*window <= most);
                }
            }
            prop_assert_eq!(tally.running() as usize, running.len());
            prop_assert!(running.len() <= 7);
        }
    }
}
