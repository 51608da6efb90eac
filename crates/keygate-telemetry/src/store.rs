//! How the store behaves, by kind of call, counted without a look-up.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::metrics::register;
use crate::timing::STORE_BUCKETS;

/// The handles of one kind of call. Cheap to clone.
#[derive(Clone)]
pub struct StoreOpMetrics(Arc<Handles>);

struct Handles {
    seconds: Histogram,
    errors: IntCounter,
    /// Whether the last call failed.
    is_failing: AtomicBool,
    /// How many kinds of calls are failing.
    failing: Arc<AtomicI64>,
}

impl StoreOpMetrics {
    /// Reports one call. `failed` means an outage: a refusal such as a conflict is no failure.
    pub fn call(&self, took: Duration, failed: bool) {
        let Handles { seconds, errors, is_failing, failing } = &*self.0;
        seconds.observe(took.as_secs_f64());
        errors.inc_by(u64::from(failed));
        // Reads that work say nothing of writes that fail: each kind recovers by itself.
        if is_failing.swap(failed, Ordering::Relaxed) != failed {
            failing.fetch_add(if failed { 1 } else { -1 }, Ordering::Relaxed);
        }
    }

    fn recovered(&self) {
        if self.0.is_failing.swap(false, Ordering::Relaxed) {
            self.0.failing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a store says of itself when it is asked regularly. Cheap to clone.
#[derive(Clone)]
pub struct StoreHealth(Arc<Health>);

struct Health {
    is_away: AtomicBool,
    ops: Mutex<Vec<StoreOpMetrics>>,
    failing: Arc<AtomicI64>,
}

impl StoreHealth {
    /// Says whether the store answered in time when it was asked how it is. If it did, calls that
    /// failed before then say nothing any more.
    pub fn answered(&self, in_time: bool) {
        self.0.is_away.store(!in_time, Ordering::Relaxed);
        if in_time && self.0.failing.load(Ordering::Relaxed) > 0 {
            let ops = self.0.ops.lock().unwrap_or_else(PoisonError::into_inner);
            ops.iter().for_each(StoreOpMetrics::recovered);
        }
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
        let up = "1 unless the store does not answer, or the last call of some kind failed.";
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
                failing: Arc::default(),
            })),
        }
    }

    pub(crate) fn health(&self) -> StoreHealth {
        self.health.clone()
    }

    /// The handles of one kind of call; both series are there, at zero, from here on.
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn resolve(&self, op: &str) -> StoreOpMetrics {
        let Health { ops, failing, .. } = &*self.health.0;
        let handles = StoreOpMetrics(Arc::new(Handles {
            seconds: self.seconds.with_label_values(&[op]),
            errors: self.errors.with_label_values(&[op]),
            is_failing: AtomicBool::new(false),
            failing: Arc::clone(failing),
        }));
        ops.lock().unwrap_or_else(PoisonError::into_inner).push(handles.clone());
        handles
    }

    /// Brings the gauge up to date, which calls that end at the same time could set out of order.
    pub(crate) fn settle(&self) {
        let Health { is_away, failing, .. } = &*self.health.0;
        let is_up = !is_away.load(Ordering::Relaxed) && failing.load(Ordering::Relaxed) == 0;
        self.up.set(i64::from(is_up));
    }
}
