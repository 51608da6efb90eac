//! How the store behaves, by kind of call, counted without a look-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
}

/// The metrics that have a kind of call for a label.
pub(crate) struct StoreFamilies {
    seconds: HistogramVec,
    errors: IntCounterVec,
    up: IntGauge,
    failing: Arc<AtomicI64>,
}

impl StoreFamilies {
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = HistogramOpts::new("keygate_store_seconds", "Time that store calls took.");
        let errors = Opts::new("keygate_store_errors_total", "Store calls that failed.");
        let up = "1 unless the last call of some kind to the store failed.";
        Self {
            seconds: register(
                registry,
                HistogramVec::new(seconds.buckets(STORE_BUCKETS.to_vec()), &["op"]),
            ),
            errors: register(registry, IntCounterVec::new(errors, &["op"])),
            up: register(registry, IntGauge::new("keygate_store_up", up)),
            failing: Arc::default(),
        }
    }

    /// The handles of one kind of call; both series are there, at zero, from here on.
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn resolve(&self, op: &str) -> StoreOpMetrics {
        StoreOpMetrics(Arc::new(Handles {
            seconds: self.seconds.with_label_values(&[op]),
            errors: self.errors.with_label_values(&[op]),
            is_failing: AtomicBool::new(false),
            failing: Arc::clone(&self.failing),
        }))
    }

    /// Brings the gauge up to date, which calls that end at the same time could set out of order.
    pub(crate) fn settle(&self) {
        self.up.set(i64::from(self.failing.load(Ordering::Relaxed) == 0));
    }
}
