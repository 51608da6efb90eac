//! What the store and the cache say of themselves, as metrics. Neither knows of the other.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keygate_store::cached::{CacheCounts, CachedKeys};
use keygate_store::keys::KeyStore;
use keygate_store::observed::{CallOutcome, Observed, Observer, Op};
use keygate_telemetry::{Metrics, StoreMetrics};

struct StoreObserver(StoreMetrics);

impl Observer for StoreObserver {
    fn store_call(&self, op: Op, took: Duration, outcome: CallOutcome) {
        self.0.call(op.as_str(), took, outcome == CallOutcome::Failed);
    }
}

/// A store whose every call is counted and timed.
pub(crate) fn observed<S: KeyStore>(store: S, metrics: &Metrics) -> Observed<S> {
    Observed::new(store, Arc::new(StoreObserver(metrics.store())))
}

/// Publishes the cache's counts, read at each scrape.
pub(crate) fn publish_cache<S: KeyStore>(keys: &Arc<CachedKeys<S>>, metrics: &Metrics) {
    let counter = |name, help, count: fn(CacheCounts) -> u64| {
        metrics.counter_fn(name, help, reading(keys, count));
    };
    counter("keygate_cache_hits_total", "Look-ups that found a key in the cache.", |c| c.hits);
    counter("keygate_cache_misses_total", "Look-ups that found nothing in the cache.", |c| {
        c.misses
    });
    counter(
        "keygate_cache_unknown_hits_total",
        "Look-ups that found a key remembered as unknown.",
        |c| c.unknown_hits,
    );
    counter("keygate_cache_evictions_total", "Keys that had to make room for others.", |c| {
        c.evictions
    });
    let gauge = |name, help, count: fn(CacheCounts) -> u64| {
        metrics.gauge_fn(name, help, reading(keys, count));
    };
    gauge("keygate_cache_entries", "Keys in the cache.", |c| c.entries);
    gauge("keygate_cache_unknown_entries", "Keys remembered as unknown.", |c| c.unknown_entries);
}

/// Does not keep the store open: the metrics may outlive it.
fn reading<S: KeyStore>(
    keys: &Arc<CachedKeys<S>>,
    count: fn(CacheCounts) -> u64,
) -> Box<dyn Fn() -> u64 + Send + Sync> {
    let keys: Weak<CachedKeys<S>> = Arc::downgrade(keys);
    Box::new(move || keys.upgrade().map_or(0, |keys| count(keys.counts())))
}
