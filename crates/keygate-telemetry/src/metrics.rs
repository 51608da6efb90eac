//! All metrics of one process: registered at start, written through handles, rendered on request.
//!
//! Knows neither keys nor paths: nothing that a client sent can become a label.

use std::sync::Arc;

use keygate_core::UnixMillis;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::admin::AdminMetrics;
use crate::certificates::{CertificateReading, certificate_families};
use crate::connections::ConnectionMetrics;
use crate::imported::ImportedKeyMetrics;
use crate::link::LinkMetrics;
use crate::reading::{Readings, Row};
use crate::reload::ReloadMetrics;
use crate::route::{RouteFamilies, RouteMetrics};
use crate::store::{StoreFamilies, StoreHealth, StoreOpMetrics};
use crate::timing::{DecisionTimer, LookupTimer};
use crate::upstream::{TargetReading, UpstreamFamilies, UpstreamMetrics, target_families};

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
    lookup: LookupTimer,
    upstreams: UpstreamFamilies,
    in_flight: InFlight,
    ended: EndedRequests,
    connections: ConnectionMetrics,
    store: StoreFamilies,
    admin: AdminMetrics,
    keys: KeyMetrics,
    imported: ImportedKeyMetrics,
    link: LinkMetrics,
    reload: ReloadMetrics,
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
        let process = ProcessCollector::for_self();
        // Refused only if it were there already.
        registry.register(Box::new(process)).ok();
        Self(Arc::new(Families {
            readings: Readings::default(),
            routes: RouteFamilies::new(&registry),
            decision: DecisionTimer::new(&registry),
            lookup: LookupTimer::new(&registry),
            upstreams: UpstreamFamilies::new(&registry),
            in_flight: InFlight(register(
                &registry,
                IntGauge::new("keygate_inflight_requests", "Requests being worked on."),
            )),
            ended: EndedRequests(register(
                &registry,
                IntCounter::new(
                    "keygate_requests_ended_total",
                    "Requests cut off midway because their key stopped being good.",
                ),
            )),
            connections: ConnectionMetrics::new(&registry),
            store: StoreFamilies::new(&registry),
            admin: AdminMetrics::new(&registry),
            keys: KeyMetrics::new(&registry),
            imported: ImportedKeyMetrics::new(&registry),
            link: LinkMetrics::new(&registry),
            reload: ReloadMetrics::new(&registry),
            registry,
        }))
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.store.settle();
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

    #[must_use]
    pub fn lookup(&self) -> LookupTimer {
        self.0.lookup.clone()
    }

    /// The handles of one upstream. `name` is from the configuration.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.0.upstreams.resolve(name)
    }

    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.0.in_flight.clone()
    }

    #[must_use]
    pub fn requests_ended(&self) -> EndedRequests {
        self.0.ended.clone()
    }

    #[must_use]
    pub fn connections(&self) -> ConnectionMetrics {
        self.0.connections.clone()
    }

    /// The handles of one kind of call to the store, such as `find`.
    #[must_use]
    pub fn store_op(&self, op: &'static str) -> StoreOpMetrics {
        self.0.store.resolve(op)
    }

    #[must_use]
    pub fn admin(&self) -> AdminMetrics {
        self.0.admin.clone()
    }

    #[must_use]
    pub fn keys(&self) -> KeyMetrics {
        self.0.keys.clone()
    }

    #[must_use]
    pub fn imported_keys(&self) -> ImportedKeyMetrics {
        self.0.imported.clone()
    }

    /// For whoever asks the store regularly how it is.
    #[must_use]
    pub fn store_health(&self) -> StoreHealth {
        self.0.store.health()
    }

    /// The handles of the link to the changes of other gateways.
    #[must_use]
    pub fn link(&self) -> LinkMetrics {
        self.0.link.clone()
    }

    /// Says that the configuration was loaded at `at`.
    pub fn config_loaded(&self, at: UnixMillis) {
        self.0.reload.loaded(at);
    }

    #[must_use]
    pub fn reload(&self) -> ReloadMetrics {
        self.0.reload.clone()
    }

    /// A counter that somebody else keeps and that is read at each scrape. `name` ends in `_total`;
    /// a second reading of the same name replaces the first.
    pub fn counter_fn(
        &self,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> u64 + Send + Sync>,
    ) {
        self.0.readings.add(read, [Row::counter(name, help, |value| *value)]);
    }

    /// A gauge that is read at each scrape; otherwise as [`counter_fn`](Self::counter_fn).
    pub fn gauge_fn(
        &self,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> u64 + Send + Sync>,
    ) {
        self.0.readings.add(read, [Row::gauge(name, help, |value| *value)]);
    }

    /// How the targets of all upstreams are, taken at each scrape.
    pub fn targets_fn(&self, take: impl Fn() -> Vec<TargetReading> + Send + Sync + 'static) {
        self.0.readings.add_families("keygate_upstream", move || target_families(&take()));
    }

    /// When certificates end, taken at each scrape.
    pub fn certificates_fn(
        &self,
        take: impl Fn() -> Vec<CertificateReading> + Send + Sync + 'static,
    ) {
        let read = move || certificate_families(&take());
        self.0.readings.add_families("keygate_certificate", read);
    }

    /// Several metrics of one snapshot, which is taken once at each scrape.
    pub fn snapshot_fn<T: 'static, const N: usize>(
        &self,
        take: impl Fn() -> T + Send + Sync + 'static,
        rows: [Row<T>; N],
    ) {
        self.0.readings.add(take, rows);
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

    /// How many are being worked on.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.0.get()
    }
}

/// One request being worked on.
pub struct InFlightGuard(IntGauge);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts the requests that were admitted and then cut off with their key.
#[derive(Clone)]
pub struct EndedRequests(IntCounter);

impl EndedRequests {
    pub fn count(&self) {
        self.0.inc();
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
            created: counter("keygate_keys_created_total", "Keys made, successors included."),
            rotated: counter("keygate_keys_rotated_total", "Keys that were given a successor."),
            revoked: counter("keygate_keys_revoked_total", "Keys revoked."),
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
    use std::time::Duration;

    use keygate_core::Code;

    use super::*;
    use crate::connections::ConnectionRefusal;
    use crate::route::Outcome;

    fn has_line(metrics: &Metrics, line: &str) -> bool {
        metrics.render().lines().any(|rendered| rendered == line)
    }

    #[test]
    fn every_metric_that_is_promised_is_rendered() {
        let metrics = Metrics::new("1.2.3");
        let route = metrics.route("orders.read");
        route.response(200);
        route.preflight();
        route.answer_too_large();
        metrics.upstream("orders").observe(Duration::from_millis(3));
        metrics.store_op("find").call(Duration::from_micros(30), false);
        metrics.upstream("orders").not_connected();
        metrics.upstream("orders").retried();
        let target = || TargetReading {
            upstream: "orders".to_owned(),
            target: "a.internal:80".to_owned(),
            addresses: 3,
            healthy: 2,
            ejected: 1,
        };
        metrics.targets_fn(move || vec![target()]);
        let _never_called = metrics.store_op("commit");
        metrics.requests_ended().count();
        metrics.connections().opened();
        metrics.connections().refused(ConnectionRefusal::Handshake);
        metrics.connections().slow_body();
        metrics.imported_keys().count(Outcome::Admitted);
        metrics.config_loaded(UnixMillis(1_700_000_000_500));
        for line in [
            r#"keygate_build_info{version="1.2.3"} 1"#,
            r#"keygate_config_last_success_timestamp_seconds 1700000000"#,
            r#"keygate_config_reloads_total{result="success"} 0"#,
            r#"keygate_config_reloads_total{result="failure"} 0"#,
            r#"keygate_inflight_requests 0"#,
            r#"keygate_requests_ended_total 1"#,
            r#"keygate_connections_open 1"#,
            r#"keygate_connections_refused_total{reason="per_address"} 0"#,
            r#"keygate_connections_refused_total{reason="handshake"} 1"#,
            r#"keygate_connections_refused_total{reason="proxy_header"} 0"#,
            r#"keygate_slow_bodies_total 1"#,
            r#"keygate_keys_created_total 0"#,
            r#"keygate_keys_revoked_total 0"#,
            r#"keygate_imported_key_requests_total{outcome="admitted"} 1"#,
            r#"keygate_imported_key_requests_total{outcome="refused"} 0"#,
            r#"keygate_admin_requests_total{outcome="unauthorized"} 0"#,
            r#"keygate_requests_total{outcome="admitted",route="orders.read"} 0"#,
            r#"keygate_requests_total{outcome="preflight",route="orders.read"} 1"#,
            r#"keygate_responses_total{class="2xx",route="orders.read"} 1"#,
            r#"keygate_responses_too_large_total{route="orders.read"} 1"#,
            r#"keygate_request_seconds_count{route="orders.read"} 0"#,
            r#"keygate_upstream_seconds_count{upstream="orders"} 1"#,
            r#"keygate_upstream_connect_failures_total{upstream="orders"} 1"#,
            r#"keygate_upstream_retries_total{result="made",upstream="orders"} 1"#,
            r#"keygate_upstream_retries_total{result="over_budget",upstream="orders"} 0"#,
            r#"keygate_upstream_addresses{target="a.internal:80",upstream="orders"} 3"#,
            r#"keygate_upstream_healthy{target="a.internal:80",upstream="orders"} 2"#,
            r#"keygate_upstream_ejected{target="a.internal:80",upstream="orders"} 1"#,
            r#"keygate_decision_seconds_count 0"#,
            r#"keygate_lookup_seconds_count 0"#,
            r#"keygate_config_last_reload_successful 1"#,
            r#"keygate_store_seconds_count{op="find"} 1"#,
            r#"keygate_store_errors_total{op="find"} 0"#,
            r#"keygate_store_seconds_count{op="commit"} 0"#,
            r#"keygate_store_errors_total{op="commit"} 0"#,
            r#"keygate_store_up 1"#,
            r#"keygate_link_up 1"#,
            r#"keygate_revocation_lag_seconds_count 0"#,
        ] {
            assert!(has_line(&metrics, line), "no line {line} in\n{}", metrics.render());
        }
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"]
        {
            assert!(metrics.render().contains(&format!("\nprocess_{name} ")), "{name}");
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
    fn the_store_is_down_from_a_failed_call_until_the_same_kind_of_call_succeeds() {
        let metrics = Metrics::new("1");
        let (commit, find) = (metrics.store_op("commit"), metrics.store_op("find"));
        assert!(has_line(&metrics, "keygate_store_up 1"));
        commit.call(Duration::ZERO, true);
        commit.call(Duration::ZERO, true);
        assert!(has_line(&metrics, "keygate_store_up 0"));
        assert!(has_line(&metrics, r#"keygate_store_errors_total{op="commit"} 2"#));
        find.call(Duration::ZERO, false);
        assert!(has_line(&metrics, "keygate_store_up 0"), "reads work, writes still fail");
        commit.call(Duration::ZERO, false);
        assert!(has_line(&metrics, "keygate_store_up 1"));
    }

    #[test]
    fn a_store_that_is_asked_regularly_is_down_until_it_answers() {
        let metrics = Metrics::new("1");
        let (commit, health) = (metrics.store_op("commit"), metrics.store_health());
        health.answered(false);
        commit.call(Duration::ZERO, true);
        assert!(has_line(&metrics, "keygate_store_up 0"));
        health.answered(true);
        assert!(has_line(&metrics, "keygate_store_up 1"), "nobody has written since");
        commit.call(Duration::ZERO, true);
        assert!(has_line(&metrics, "keygate_store_up 0"));
    }

    #[test]
    fn metrics_of_one_snapshot_take_it_once() {
        let metrics = Metrics::new("1");
        let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let take = move || taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let rows = [Row::counter("a_total", "A.", |n| *n), Row::gauge("b", "B.", |n| *n * 10)];
        metrics.snapshot_fn(take, rows);
        let text = metrics.render();
        assert!(text.contains("\na_total 1\n") && text.contains("\nb 10\n"), "{text}");
        assert!(has_line(&metrics, "b 20"));
    }

    #[test]
    fn readings_of_one_name_are_one_metric_with_a_label() {
        let metrics = Metrics::new("1");
        let rows = [
            Row::counter("a_total", "A.", |n| *n).labelled("result", "good"),
            Row::counter("a_total", "A.", |n| *n + 1).labelled("result", "bad"),
        ];
        metrics.snapshot_fn(|| 1, rows);
        assert!(has_line(&metrics, "a_total{result=\"good\"} 1"));
        assert!(has_line(&metrics, "a_total{result=\"bad\"} 2"));
        assert_eq!(metrics.render().matches("# TYPE a_total counter").count(), 1);
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
