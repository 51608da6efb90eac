//! All metrics of one process: registered at start, written through handles, rendered on request.
//!
//! Knows neither keys nor paths: nothing that a client sent can become a label.

use std::sync::Arc;
use std::time::Duration;

use keygate_core::UnixMillis;
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::reading::{Kind, Readings};
use crate::route::{RouteFamilies, RouteMetrics};
use crate::timing::{DecisionTimer, STORE_BUCKETS, UPSTREAM_BUCKETS, UpstreamMetrics};

/// The label of requests that no route claimed.
const NO_ROUTE: &str = "none";

/// The metrics of this process. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    readings: Readings,
    routes: RouteFamilies,
    decision: DecisionTimer,
    upstream_seconds: HistogramVec,
    in_flight: InFlight,
    store: StoreMetrics,
    keys: KeyMetrics,
    config_last_success: IntGauge,
}

impl Metrics {
    /// Registers every metric. `version` is that of the program.
    #[must_use]
    pub fn new(version: &str) -> Self {
        let registry = Registry::new();
        let build = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("keygate_build_info", "The version of this gateway."),
                &["version"],
            ),
        );
        #[expect(clippy::disallowed_methods, reason = "resolved once, at start")]
        build.with_label_values(&[version]).set(1);
        Self(Arc::new(Families {
            readings: Readings::default(),
            routes: RouteFamilies::new(&registry),
            decision: DecisionTimer::new(&registry),
            upstream_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "keygate_upstream_seconds",
                        "From a request's forwarding to the first byte of the upstream's answer.",
                    )
                    .buckets(UPSTREAM_BUCKETS.to_vec()),
                    &["upstream"],
                ),
            ),
            in_flight: InFlight(register(
                &registry,
                IntGauge::new("keygate_inflight_requests", "Requests being worked on."),
            )),
            store: StoreMetrics::new(&registry),
            keys: KeyMetrics::new(&registry),
            config_last_success: register(
                &registry,
                IntGauge::new(
                    "keygate_config_last_success_timestamp_seconds",
                    "When the running configuration was loaded.",
                ),
            ),
            registry,
        }))
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut families = self.0.registry.gather();
        families.extend(self.0.readings.families());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot render the metrics");
            String::new()
        })
    }

    /// The handles of one route. `name` is from the configuration.
    #[must_use]
    pub fn route(&self, name: &str) -> RouteMetrics {
        self.0.routes.resolve(name)
    }

    /// The handles of requests that no route claimed: `route="none"`.
    #[must_use]
    pub fn unrouted(&self) -> RouteMetrics {
        self.0.routes.resolve(NO_ROUTE)
    }

    #[must_use]
    pub fn decision(&self) -> DecisionTimer {
        self.0.decision.clone()
    }

    /// The handles of one upstream. `name` is from the configuration.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        #[expect(clippy::disallowed_methods, reason = "the handle is resolved here, once")]
        UpstreamMetrics::new(self.0.upstream_seconds.with_label_values(&[name]))
    }

    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.0.in_flight.clone()
    }

    #[must_use]
    pub fn store(&self) -> StoreMetrics {
        self.0.store.clone()
    }

    #[must_use]
    pub fn keys(&self) -> KeyMetrics {
        self.0.keys.clone()
    }

    /// Says that the configuration was loaded at `at`.
    pub fn config_loaded(&self, at: UnixMillis) {
        let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
        self.0.config_last_success.set(seconds);
    }

    /// A counter that somebody else keeps and that is read at each scrape. `name` ends in `_total`;
    /// a second reading of the same name replaces the first.
    pub fn counter_fn(
        &self,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> u64 + Send + Sync>,
    ) {
        self.0.readings.add(Kind::Counter, name, help, read);
    }

    /// A gauge that is read at each scrape; otherwise as [`counter_fn`](Self::counter_fn).
    pub fn gauge_fn(
        &self,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> u64 + Send + Sync>,
    ) {
        self.0.readings.add(Kind::Gauge, name, help, read);
    }
}

/// Registers a metric whose name and labels are constants of this crate.
#[expect(clippy::expect_used, reason = "fails only on a wrong constant, which every start shows")]
pub(crate) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("a metric's name and labels are well formed");
    registry.register(Box::new(metric.clone())).expect("a metric is registered once");
    metric
}

/// Counts the requests that are being worked on.
#[derive(Clone)]
pub struct InFlight(IntGauge);

impl InFlight {
    /// Counts one request until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlightGuard {
        self.0.inc();
        InFlightGuard(self.0.clone())
    }
}

/// One request being worked on.
pub struct InFlightGuard(IntGauge);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How the store behaves, by operation.
#[derive(Clone)]
pub struct StoreMetrics {
    seconds: HistogramVec,
    errors: IntCounterVec,
    up: IntGauge,
}

impl StoreMetrics {
    fn new(registry: &Registry) -> Self {
        let up = register(
            registry,
            IntGauge::new("keygate_store_up", "1 unless the last call to the store failed."),
        );
        up.set(1);
        Self {
            seconds: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new("keygate_store_seconds", "Time that store calls took.")
                        .buckets(STORE_BUCKETS.to_vec()),
                    &["op"],
                ),
            ),
            errors: register(
                registry,
                IntCounterVec::new(
                    Opts::new("keygate_store_errors_total", "Store calls that failed."),
                    &["op"],
                ),
            ),
            up,
        }
    }

    /// Reports one call. `failed` means an outage: a refusal such as a conflict is no failure.
    pub fn call(&self, op: &'static str, took: Duration, failed: bool) {
        // Labels are looked up per call here: next to a store's own work that is nothing, and the
        // list of operations stays the store's. Both are touched, so that each op has both series.
        #[expect(clippy::disallowed_methods, reason = "not on the path of a cached key")]
        let (seconds, errors) =
            (self.seconds.with_label_values(&[op]), self.errors.with_label_values(&[op]));
        seconds.observe(took.as_secs_f64());
        errors.inc_by(u64::from(failed));
        self.up.set(i64::from(!failed));
    }
}

/// Counts what becomes of keys.
#[derive(Clone)]
pub struct KeyMetrics {
    created: IntCounter,
    revoked: IntCounter,
    rotated: IntCounter,
}

impl KeyMetrics {
    fn new(registry: &Registry) -> Self {
        let counter = |name, help| register(registry, IntCounter::new(name, help));
        Self {
            created: counter("keygate_keys_created_total", "Keys made."),
            revoked: counter("keygate_keys_revoked_total", "Keys revoked."),
            rotated: counter("keygate_keys_rotated_total", "Keys replaced by a new one."),
        }
    }

    pub fn created(&self) {
        self.created.inc();
    }

    pub fn revoked(&self) {
        self.revoked.inc();
    }

    pub fn rotated(&self) {
        self.rotated.inc();
    }
}

#[cfg(test)]
mod tests {
    use keygate_core::Code;

    use super::*;
    use crate::route::Outcome;

    fn has_line(metrics: &Metrics, line: &str) -> bool {
        metrics.render().lines().any(|rendered| rendered == line)
    }

    #[test]
    fn every_metric_that_is_promised_is_rendered() {
        let metrics = Metrics::new("1.2.3");
        metrics.route("orders.read").response(200);
        metrics.upstream("orders").observe(Duration::from_millis(3));
        metrics.store().call("find", Duration::from_micros(30), false);
        metrics.config_loaded(UnixMillis(1_700_000_000_500));
        for line in [
            r#"keygate_build_info{version="1.2.3"} 1"#,
            r#"keygate_config_last_success_timestamp_seconds 1700000000"#,
            r#"keygate_inflight_requests 0"#,
            r#"keygate_keys_created_total 0"#,
            r#"keygate_keys_revoked_total 0"#,
            r#"keygate_keys_rotated_total 0"#,
            r#"keygate_requests_total{outcome="admitted",route="orders.read"} 0"#,
            r#"keygate_responses_total{class="2xx",route="orders.read"} 1"#,
            r#"keygate_request_seconds_count{route="orders.read"} 0"#,
            r#"keygate_upstream_seconds_count{upstream="orders"} 1"#,
            r#"keygate_decision_seconds_count 0"#,
            r#"keygate_store_seconds_count{op="find"} 1"#,
            r#"keygate_store_errors_total{op="find"} 0"#,
            r#"keygate_store_up 1"#,
        ] {
            assert!(has_line(&metrics, line), "no line {line} in\n{}", metrics.render());
        }
    }

    #[test]
    fn a_request_is_in_flight_until_its_guard_is_dropped() {
        let metrics = Metrics::new("1");
        let guard = metrics.in_flight().enter();
        assert!(has_line(&metrics, "keygate_inflight_requests 1"));
        drop(guard);
        assert!(has_line(&metrics, "keygate_inflight_requests 0"));
    }

    #[test]
    fn the_store_is_down_from_a_failed_call_until_one_succeeds() {
        let metrics = Metrics::new("1");
        metrics.store().call("commit", Duration::ZERO, true);
        assert!(has_line(&metrics, "keygate_store_up 0"));
        assert!(has_line(&metrics, r#"keygate_store_errors_total{op="commit"} 1"#));
        metrics.store().call("find", Duration::ZERO, false);
        assert!(has_line(&metrics, "keygate_store_up 1"));
    }

    #[test]
    fn readings_are_taken_at_each_scrape() {
        let metrics = Metrics::new("1");
        let hits = Arc::new(std::sync::atomic::AtomicU64::new(1));
        let read = Arc::clone(&hits);
        let read = move || read.load(std::sync::atomic::Ordering::Relaxed);
        metrics.counter_fn("keygate_cache_hits_total", "Hits.", Box::new(read));
        metrics.gauge_fn("keygate_cache_entries", "Entries.", Box::new(|| 7));
        assert!(has_line(&metrics, "keygate_cache_hits_total 1"));
        hits.store(5, std::sync::atomic::Ordering::Relaxed);
        assert!(has_line(&metrics, "keygate_cache_hits_total 5"));
        assert!(has_line(&metrics, "# TYPE keygate_cache_hits_total counter"));
        assert!(has_line(&metrics, "# TYPE keygate_cache_entries gauge"));
        assert!(has_line(&metrics, "keygate_cache_entries 7"));
    }

    #[test]
    fn clones_count_together() {
        let metrics = Metrics::new("1");
        metrics.clone().route("a").count(Outcome::Refused(Code::Internal));
        metrics.route("a").count(Outcome::Refused(Code::Internal));
        assert!(has_line(&metrics, r#"keygate_requests_total{outcome="internal",route="a"} 2"#));
    }

    #[test]
    fn a_name_with_quotes_cannot_break_out_of_its_label() {
        let metrics = Metrics::new("1");
        metrics.upstream("a\"} 1\nx{y=\"").observe(Duration::ZERO);
        assert!(metrics.render().contains(r#"upstream="a\"} 1\nx{y=\"""#));
    }
}
