//! What becomes of upstreams: handles for what is counted as it happens, and how their targets are,
//! read when metrics are asked for. A target is named as the configuration names it.

use std::time::Duration;

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use crate::metrics::register;
use crate::timing::UPSTREAM_BUCKETS;

/// The metrics of all upstreams.
pub(crate) struct UpstreamFamilies {
    seconds: HistogramVec,
    connect_failures: IntCounterVec,
    retries: IntCounterVec,
}

impl UpstreamFamilies {
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = HistogramOpts::new(
            "keygate_upstream_seconds",
            "From a request's forwarding to the first byte of the upstream's answer.",
        );
        let connect_failures = Opts::new(
            "keygate_upstream_connect_failures_total",
            "Connections to an upstream's targets that could not be made for a request.",
        );
        let retries = Opts::new(
            "keygate_upstream_retries_total",
            "Requests that were tried again, or only were not because the budget was used up.",
        );
        Self {
            seconds: register(
                registry,
                HistogramVec::new(seconds.buckets(UPSTREAM_BUCKETS.to_vec()), &["upstream"]),
            ),
            connect_failures: register(
                registry,
                IntCounterVec::new(connect_failures, &["upstream"]),
            ),
            retries: register(registry, IntCounterVec::new(retries, &["upstream", "result"])),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn resolve(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            seconds: self.seconds.with_label_values(&[name]),
            connect_failures: self.connect_failures.with_label_values(&[name]),
            retried: self.retries.with_label_values(&[name, "made"]),
            over_budget: self.retries.with_label_values(&[name, "over_budget"]),
        }
    }
}

/// The handles of one upstream.
#[derive(Clone)]
pub struct UpstreamMetrics {
    seconds: Histogram,
    connect_failures: IntCounter,
    retried: IntCounter,
    over_budget: IntCounter,
}

impl UpstreamMetrics {
    /// From a request's forwarding to the first byte of the answer.
    pub fn observe(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// How many requests were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.seconds.get_sample_count()
    }

    pub fn not_connected(&self) {
        self.connect_failures.inc();
    }

    /// A request is tried once more.
    pub fn retried(&self) {
        self.retried.inc();
    }

    /// A request is not tried once more because too many others are.
    pub fn over_budget(&self) {
        self.over_budget.inc();
    }
}

/// How one target of an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetReading {
    pub upstream: String,
    pub target: String,
    /// Addresses of its name; one if it is an address.
    pub addresses: u64,
    /// Those that pass their checks.
    pub healthy: u64,
    /// Those that are kept out because they failed requests.
    pub ejected: u64,
}

/// A name, what it means, and its value.
type GaugeRow = (&'static str, &'static str, fn(&TargetReading) -> u64);

/// Renders the targets.
pub(crate) fn target_families(targets: &[TargetReading]) -> Vec<MetricFamily> {
    let rows: [GaugeRow; 3] = [
        ("keygate_upstream_addresses", "Addresses of the target's name.", |target| {
            target.addresses
        }),
        (
            "keygate_upstream_healthy",
            "Addresses of the target that pass their health checks: 0 if it is down.",
            |target| target.healthy,
        ),
        (
            "keygate_upstream_ejected",
            "Addresses of the target that get no requests for a while because they failed some.",
            |target| target.ejected,
        ),
    ];
    let family = |(name, help, value): GaugeRow| {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(targets.iter().map(|target| series(target, value(target))).collect());
        family
    };
    if targets.is_empty() { Vec::new() } else { rows.map(family).into() }
}

fn series(target: &TargetReading, value: u64) -> Metric {
    let label = |name: &str, value: &str| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut gauge = Gauge::default();
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    gauge.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    metric.set_label(vec![label("target", &target.target), label("upstream", &target.upstream)]);
    metric
}
