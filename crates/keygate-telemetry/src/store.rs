//! How the store behaves, by kind of call, counted without a look-up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::metrics::register;
use crate::timing::STORE_BUCKETS;

/// Reads that work say nothing of writes that fail, and who has to write tries again within seconds. A
/// kind of call that failed once and was not tried since is believed for so long, and then whatever
/// else the store answers is.
const BELIEVED: Duration = Duration::from_secs(30);

/// The handles of one kind of call. Cheap to clone.
#[derive(Clone)]
pub struct StoreOpMetrics(Arc<Handles>);

struct Handles {
    seconds: Histogram,
    errors: IntCounter,
    /// When the last call failed; never, if it did not.
    failed: Time,
    answers: Arc<Answers>,
}

impl StoreOpMetrics {
    /// Reports one call. `failed` means an outage: a refusal such as a conflict is no failure.
    pub fn call(&self, took: Duration, failed: bool) {
        self.call_at(took, failed, self.0.answers.now());
    }

    fn call_at(&self, took: Duration, failed: bool, now: u64) {
        let Handles { seconds, errors, failed: last_failed, answers } = &*self.0;
        seconds.observe(took.as_secs_f64());
        errors.inc_by(u64::from(failed));
        if failed {
            last_failed.set(now);
        } else {
            last_failed.forget();
            answers.last.set(now);
        }
    }

    /// Whether its last call failed, and that still says something.
    fn is_failing(&self, now: u64) -> bool {
        let Some(failed) = self.0.failed.get() else { return false };
        let is_fresh = u128::from(now.saturating_sub(failed)) < BELIEVED.as_millis();
        is_fresh || self.0.answers.last.get() <= Some(failed)
    }
}

/// A moment that calls at the same time may set: milliseconds since the health began, plus one.
#[derive(Default)]
struct Time(AtomicU64);

impl Time {
    fn set(&self, now: u64) {
        self.0.fetch_max(now.saturating_add(1), Ordering::Relaxed);
    }

    fn forget(&self) {
        // Nearly always there is nothing to forget.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// What all kinds of calls know of each other.
struct Answers {
    began: Instant,
    /// When a call of any kind was last answered.
    last: Time,
}

impl Answers {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a store says of itself when it is asked regularly. Cheap to clone.
#[derive(Clone)]
pub struct StoreHealth(Arc<Health>);

struct Health {
    is_away: AtomicBool,
    ops: Mutex<Vec<StoreOpMetrics>>,
    answers: Arc<Answers>,
}

impl StoreHealth {
    /// Says whether the store answered in time when it was asked how it is. If it did, calls that
    /// failed before then say nothing any more.
    pub fn answered(&self, in_time: bool) {
        self.0.is_away.store(!in_time, Ordering::Relaxed);
        if in_time {
            self.ops(|op| op.0.failed.forget());
        }
    }

    fn is_up(&self, now: u64) -> bool {
        let mut is_up = !self.0.is_away.load(Ordering::Relaxed);
        self.ops(|op| is_up &= !op.is_failing(now));
        is_up
    }

    fn ops(&self, tell: impl FnMut(&StoreOpMetrics)) {
        self.0.ops.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(tell);
    }
}

/// The metrics that have a kind of call for a label.
pub(crate) struct StoreFamilies {
    seconds: HistogramVec,
    errors: IntCounterVec,
    up: IntGauge,
    health: StoreHealth,
}

impl StoreFamilies {
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = HistogramOpts::new("keygate_store_seconds", "Time that store calls took.");
        let errors = Opts::new("keygate_store_errors_total", "Store calls that failed.");
        let up = "1 unless the store does not answer, or calls of some kind fail.";
        Self {
            seconds: register(
                registry,
                HistogramVec::new(seconds.buckets(STORE_BUCKETS.to_vec()), &["op"]),
            ),
            errors: register(registry, IntCounterVec::new(errors, &["op"])),
            up: register(registry, IntGauge::new("keygate_store_up", up)),
            health: StoreHealth(Arc::new(Health {
                is_away: AtomicBool::new(false),
                ops: Mutex::default(),
                answers: Arc::new(Answers { began: Instant::now(), last: Time::default() }),
            })),
        }
    }

    pub(crate) fn health(&self) -> StoreHealth {
        self.health.clone()
    }

    /// The handles of one kind of call; both series are there, at zero, from here on.
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn resolve(&self, op: &str) -> StoreOpMetrics {
        let Health { ops, answers, .. } = &*self.health.0;
        let handles = StoreOpMetrics(Arc::new(Handles {
            seconds: self.seconds.with_label_values(&[op]),
            errors: self.errors.with_label_values(&[op]),
            failed: Time::default(),
            answers: Arc::clone(answers),
        }));
        ops.lock().unwrap_or_else(PoisonError::into_inner).push(handles.clone());
        handles
    }

    /// Brings the gauge up to date, which calls that end at the same time could set out of order.
    pub(crate) fn settle(&self) {
        let now = self.health.0.answers.now();
        self.up.set(i64::from(self.health.is_up(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKED: bool = false;
    const FAILED: bool = true;
    const LATER: u64 = 30_000;

    #[test]
    fn what_failed_once_and_was_not_tried_again_is_forgotten_when_anything_is_answered() {
        let families = StoreFamilies::new(&Registry::new());
        let [commit, find] = ["commit", "find"].map(|op| families.resolve(op));
        let call = |op: &StoreOpMetrics, failed, now| op.call_at(Duration::ZERO, failed, now);
        let is_up = |now| families.health.is_up(now);
        call(&find, WORKED, 0);
        call(&commit, FAILED, 0);
        call(&find, WORKED, 1);
        assert!(!is_up(1) && !is_up(LATER - 1), "reads say nothing of writes");
        assert!(is_up(LATER));
        // Who has to write goes on trying.
        for now in [LATER, 2 * LATER, 3 * LATER] {
            call(&commit, FAILED, now);
            call(&find, WORKED, now + 1);
            assert!(!is_up(now + 1) && !is_up(now + LATER - 1), "{now}");
        }
        call(&commit, WORKED, 4 * LATER);
        assert!(is_up(4 * LATER));
    }

    #[test]
    fn a_store_that_answers_nothing_stays_down() {
        let families = StoreFamilies::new(&Registry::new());
        let find = families.resolve("find");
        find.call_at(Duration::ZERO, WORKED, 1);
        find.call_at(Duration::ZERO, FAILED, 2);
        assert!(!families.health.is_up(100 * LATER));
        find.call_at(Duration::ZERO, WORKED, 100 * LATER);
        assert!(families.health.is_up(100 * LATER));
    }
}
