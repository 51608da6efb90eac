//! All metrics of one process: registered at start, written through handles, rendered on request.
//!
//! Knows neither keys nor paths: nothing that a client sent can become a label.

use std::sync::Arc;

use keygate_core::UnixMillis;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::access_log::AccessLogMetrics;
use crate::admin::AdminMetrics;
use crate::certificates::{CertificateReading, certificate_families};
use crate::connections::ConnectionMetrics;
use crate::counts::{EndedRequests, InFlight, KeyMetrics};
use crate::imported::ImportedKeyMetrics;
use crate::link::LinkMetrics;
use crate::reading::{Readings, Row};
use crate::reload::ReloadMetrics;
use crate::route::{RouteFamilies, RouteMetrics};
use crate::store::{StoreFamilies, StoreHealth, StoreOpMetrics};
use crate::timing::{DecisionTimer, LookupTimer};
use crate::traces::TraceMetrics;
use crate::upstream::{TargetReading, UpstreamFamilies, UpstreamMetrics, target_families};
use crate::ways::WayMetrics;

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
    access_log: AccessLogMetrics,
    traces: TraceMetrics,
    ways: WayMetrics,
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
            in_flight: InFlight::new(&registry),
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
            access_log: AccessLogMetrics::new(&registry),
            traces: TraceMetrics::new(&registry),
            ways: WayMetrics::new(&registry),
            registry,
        }))
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.store.settle();
        self.0.in_flight.settle();
        self.0.routes.settle();
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
        self.0.in_flight
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
    pub fn access_log(&self) -> AccessLogMetrics {
        self.0.access_log.clone()
    }

    #[must_use]
    pub fn reload(&self) -> ReloadMetrics {
        self.0.reload.clone()
    }

    #[must_use]
    pub fn traces(&self) -> TraceMetrics {
        self.0.traces.clone()
    }

    #[must_use]
    pub fn ways(&self) -> WayMetrics {
        self.0.ways.clone()
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

#[cfg(test)]
mod tests;
