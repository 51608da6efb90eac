//! A configuration with all that is worked out from it once, so that no request has to.

use std::sync::Arc;

use keygate_config::Config;
use keygate_core::Route;
use keygate_telemetry::{Metrics, RouteMetrics};

use crate::server::ProxyError;
use crate::upstreams::UpstreamPeers;

/// What a request begins with, and keeps to its end.
pub(crate) struct Snapshot {
    pub config: Arc<Config>,
    /// In the order of the routes.
    route_metrics: Vec<RouteMetrics>,
    /// In the order of the configuration's upstreams.
    upstreams: Vec<UpstreamPeers>,
}

impl Snapshot {
    /// Looks up the upstreams' names, and so blocks on DNS.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when an upstream's target has no address.
    pub(crate) fn new(config: Arc<Config>, metrics: &Metrics) -> Result<Self, ProxyError> {
        let upstreams =
            config.upstreams.iter().map(|upstream| UpstreamPeers::new(upstream, metrics));
        Ok(Self {
            upstreams: upstreams.collect::<Result<_, _>>()?,
            route_metrics: config.routes.routes().iter().map(|r| metrics.route(&r.name)).collect(),
            config,
        })
    }

    /// The route at a place of the table.
    pub(crate) fn route(&self, place: usize) -> Option<&Route> {
        self.config.routes.routes().get(place)
    }

    pub(crate) fn route_metrics(&self, place: usize) -> Option<&RouteMetrics> {
        self.route_metrics.get(place)
    }

    pub(crate) fn upstream(&self, place: usize) -> Option<&UpstreamPeers> {
        self.upstreams.get(place)
    }
}
