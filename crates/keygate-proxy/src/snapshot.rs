//! A configuration with all that is worked out from it once, so that no request has to.

use std::sync::Arc;

use http::HeaderValue;
use keygate_config::Config;
use keygate_core::Route;
use keygate_core::limit::terms::{Limits, Terms};
use keygate_telemetry::{Metrics, RouteMetrics};

use crate::limits::policy_text;
use crate::server::ProxyError;
use crate::upstreams::UpstreamPeers;

/// What a request begins with, and keeps to its end.
pub(crate) struct Snapshot {
    pub config: Arc<Config>,
    /// In the order of the routes.
    route_metrics: Vec<RouteMetrics>,
    /// In the order of the configuration's upstreams.
    upstreams: Vec<UpstreamPeers>,
    /// What the clients of each tier are told of it, in the order of the configuration's tiers.
    policy_texts: Vec<Option<HeaderValue>>,
}

impl Snapshot {
    /// Looks up the upstreams' names, and so blocks on DNS.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when an upstream's target has no address.
    pub(crate) fn new(config: Arc<Config>, metrics: &Metrics) -> Result<Self, ProxyError> {
        let upstreams =
            config.upstreams.iter().map(|upstream| UpstreamPeers::new(upstream, metrics));
        let policies = |limits| Terms::of(Some(limits), None).and_then(|terms| policy_text(&terms));
        Ok(Self {
            policy_texts: config.tiers.iter().map(|tier| policies(&tier.limits)).collect(),
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

    /// Where the tier of this name is.
    pub(crate) fn tier_place(&self, name: &str) -> Option<usize> {
        // They are in the order of their names.
        self.config.tiers.binary_search_by(|tier| (*tier.name).cmp(name)).ok()
    }

    pub(crate) fn tier_limits(&self, place: usize) -> Option<&Limits> {
        self.config.tiers.get(place).map(|tier| &tier.limits)
    }

    pub(crate) fn policy_text(&self, place: usize) -> Option<&HeaderValue> {
        self.policy_texts.get(place)?.as_ref()
    }
}
