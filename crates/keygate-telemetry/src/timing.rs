//! How long things take: the histograms' buckets, in seconds, and the handles that fill them.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, Registry};

use crate::metrics::register;

/// A decision from memory takes well under a microsecond, one that asks the store up to a second.
const DECISION_BUCKETS: [f64; 20] = [
    100e-9, 200e-9, 300e-9, 400e-9, 600e-9, 800e-9, 1e-6, 2e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6,
    500e-6, 1e-3, 5e-3, 25e-3, 100e-3, 500e-3, 1.0,
];
pub(crate) const STORE_BUCKETS: [f64; 16] = [
    5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
    100e-3, 500e-3, 2.5,
];
pub(crate) const UPSTREAM_BUCKETS: [f64; 15] = [
    500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0, 15.0,
    60.0,
];
/// As for upstreams, with room below for what the gateway answers itself.
pub(crate) const REQUEST_BUCKETS: [f64; 17] = [
    50e-6, 150e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0,
    2.5, 5.0, 15.0, 60.0,
];

/// From a message that comes through at once, past one that is found by asking, to the longest
/// outage that what is cached may outlast by default.
pub(crate) const LAG_BUCKETS: [f64; 18] = [
    100e-6, 250e-6, 500e-6, 1e-3, 2e-3, 3e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 5.0, 30.0, 120.0, 600.0,
];

/// Takes the time of decisions, from a request's head to its permit or denial.
#[derive(Clone)]
pub struct DecisionTimer(Histogram);

impl DecisionTimer {
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = HistogramOpts::new(
            "keygate_decision_seconds",
            "From a request's head to its permit or denial.",
        );
        let histogram = Histogram::with_opts(options.buckets(DECISION_BUCKETS.to_vec()));
        Self(register(registry, histogram))
    }

    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// Takes the time that requests wait for the store to say who a key is.
#[derive(Clone)]
pub struct LookupTimer(Histogram);

impl LookupTimer {
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = HistogramOpts::new(
            "keygate_lookup_seconds",
            "How long requests waited for the store because their key was not in the cache.",
        );
        let histogram = Histogram::with_opts(options.buckets(STORE_BUCKETS.to_vec()));
        Self(register(registry, histogram))
    }

    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_below_a_microsecond_is_told_from_a_slower_one() {
        let registry = Registry::new();
        let timer = DecisionTimer::new(&registry);
        timer.observe(Duration::from_nanos(350));
        timer.observe(Duration::from_nanos(950));
        let families = registry.gather();
        let buckets = families[0].get_metric()[0].get_histogram().get_bucket();
        let at_most = |bound: f64| {
            buckets.iter().find(|bucket| bucket.upper_bound() == bound).unwrap().cumulative_count()
        };
        assert_eq!([at_most(300e-9), at_most(400e-9), at_most(1e-6)], [0, 1, 2]);
    }
}
