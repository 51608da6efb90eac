//! What a gateway is made of, and those parts of it that others work with beside the requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::live::Current;
use keygate_core::UnixMillis;
use keygate_store::cached::CachedKeys;
use keygate_store::failures::FailureLimiter;
use keygate_store::keys::KeyStore;
use keygate_store::limits::Limiter;
use keygate_telemetry::{ConnectionMetrics, InFlight, Metrics, RouteMetrics};

use super::Gateway;
use crate::attempts::Attempts;
use crate::calendar::Calendar;
use crate::limits::KeyLimits;
use crate::line::Lines;
use crate::lookup::Lookup;
use crate::report::Reporters;
use crate::server::ProxyError;
use crate::snapshot::{Changer, Snapshots};
use crate::sweep::Sweep;
use crate::upstreams::Upkeep;

/// What a gateway is made of.
pub struct GatewayParts<S: KeyStore> {
    /// What it begins with.
    pub groundwork: Groundwork,
    pub keys: Arc<CachedKeys<S>>,
    pub failures: Arc<FailureLimiter>,
    pub limiter: Limiter,
    pub metrics: Metrics,
    pub clock: fn() -> UnixMillis,
}

/// All of a gateway that a configuration can be wrong about, worked out before a store is needed.
pub struct Groundwork {
    snapshots: Snapshots,
    upkeep: Upkeep,
}

impl Groundwork {
    /// Looks up the upstreams' names, and so blocks on DNS.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when an upstream's target has no address.
    pub fn new(
        current: Current,
        metrics: &Metrics,
        reporters: &Reporters,
    ) -> Result<Self, ProxyError> {
        let upkeep = Upkeep::default();
        Ok(Self { snapshots: Snapshots::first(current, metrics, &upkeep, reporters)?, upkeep })
    }
}

impl<S: KeyStore> Gateway<S> {
    /// Builds a gateway.
    #[must_use]
    pub fn new(parts: GatewayParts<S>) -> Self {
        let GatewayParts { groundwork, keys, failures, limiter, metrics, clock } = parts;
        let Groundwork { snapshots, upkeep } = groundwork;
        Self {
            snapshots,
            upkeep,
            lookup: Lookup::new(keys, metrics.lookup()),
            attempts: Attempts::new(failures),
            limits: KeyLimits::new(limiter, clock),
            unrouted: metrics.unrouted(),
            decision: metrics.decision(),
            in_flight: metrics.in_flight(),
            lines: Lines::new(metrics.requests_ended(), metrics.connections()),
            imported: metrics.imported_keys(),
            metrics,
            clock,
            calendar: Calendar::of(clock),
        }
    }

    /// What gives this gateway another configuration while it serves.
    #[must_use]
    pub fn changer(&self) -> Changer {
        Changer::new(self.snapshots(), self.metrics.clone(), self.upkeep.clone())
    }

    pub(crate) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// What looks after the upstreams' targets.
    pub(crate) fn upkeep(&self) -> Upkeep {
        self.upkeep.clone()
    }

    /// Says how long an address must wait that has failed to authenticate too often: for whoever tells
    /// beforehand what a request would meet.
    pub fn blocked(&self) -> impl Fn(IpAddr) -> Option<Duration> + Send + Sync + use<S> {
        let attempts = self.attempts.clone();
        move |client| attempts.blocked_for(client)
    }

    /// How many requests are running.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    /// Counts clients' connections.
    pub(crate) fn connection_metrics(&self) -> ConnectionMetrics {
        self.metrics.connections()
    }

    /// What is counted beside the requests.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts what belongs to no route.
    pub(crate) fn unrouted(&self) -> RouteMetrics {
        self.unrouted.clone()
    }

    /// Where the requests of this gateway come in.
    pub(crate) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// What ends requests whose keys stop being good.
    pub(crate) fn sweep(&self) -> Sweep<S> {
        Sweep { lines: self.lines(), keys: Arc::clone(self.lookup.keys()), clock: self.clock }
    }
}
