//! How long things take: the histograms' buckets, in seconds, and the handles that fill them.

use std::sync::Arc;
use std::time::Duration;

use keygate_core::cells::Cells;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, HistogramOpts, Opts, Registry};

use crate::metrics::register;

/// A decision from memory takes well under a microsecond, one that asks the store up to a second. In
/// nanoseconds.
const DECISION_BUCKETS: [u64; 20] = [
    100,
    200,
    300,
    400,
    600,
    800,
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
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

/// Takes the time of decisions, from a request's head to its permit or denial. Every request does so, and
/// so it counts in cells.
#[derive(Clone)]
pub struct DecisionTimer {
    desc: Desc,
    /// How many took so long, by the buckets' places and beyond them; and how long all took.
    cells: Arc<Cells<{ DECISION_BUCKETS.len() + 2 }>>,
}

const ALL_TOOK: usize = DECISION_BUCKETS.len() + 1;

impl DecisionTimer {
    pub(crate) fn new(registry: &Registry) -> Self {
        let options =
            Opts::new("keygate_decision_seconds", "From a request's head to its permit or denial.");
        let desc = Desc::new(options.fq_name(), options.help, Vec::new(), options.const_labels);
        register(registry, desc.map(|desc| Self { desc, cells: Arc::new(Cells::new()) }))
    }

    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let is_beyond = |bound: &&u64| nanos > **bound;
        let bucket = DECISION_BUCKETS.iter().take_while(is_beyond).count();
        self.cells.add([(bucket, 1), (ALL_TOOK, nanos)]);
    }
}

impl Collector for DecisionTimer {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    fn collect(&self) -> Vec<MetricFamily> {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let sums = self.cells.sums();
        let mut so_far = 0;
        let buckets = DECISION_BUCKETS.iter().zip(sums).map(|(bound, count)| {
            so_far += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(so_far);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        let [.., beyond, all_took] = sums;
        histogram.set_sample_count(so_far + beyond);
        histogram.set_sample_sum(seconds(all_took));
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
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

    #[test]
    fn a_decision_is_in_the_bucket_of_its_bound_and_one_beyond_all_counts_too() {
        let registry = Registry::new();
        let timer = DecisionTimer::new(&registry);
        for nanos in [400, 401, 1_000_000_000, 2_000_000_000] {
            timer.observe(Duration::from_nanos(nanos));
        }
        let families = registry.gather();
        let histogram = families[0].get_metric()[0].get_histogram();
        let counts: Vec<u64> =
            histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count()).collect();
        assert_eq!(counts[3..5], [1, 2]);
        assert_eq!((counts[19], histogram.get_sample_count()), (3, 4));
        assert!((histogram.get_sample_sum() - 3.000_000_801).abs() < 1e-9);
    }
}
