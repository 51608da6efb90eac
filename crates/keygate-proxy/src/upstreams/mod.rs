//! The services behind the gateway, their names looked up once, ready to be connected to.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};

use keygate_config::{Target, Upstream};
use keygate_telemetry::{Metrics, UpstreamMetrics};
use pingora::upstreams::peer::HttpPeer;

use crate::server::ProxyError;

mod peer;
pub(crate) mod trust;

use peer::PeerTemplate;

/// One upstream: its targets as templates that a request copies.
pub(crate) struct UpstreamPeers {
    pub metrics: UpstreamMetrics,
    peers: Vec<HttpPeer>,
    next: AtomicUsize,
}

impl UpstreamPeers {
    /// Looks up the targets' names. Blocks on DNS, so it belongs to start-up.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when a name has no address.
    pub(crate) fn new(upstream: &Upstream, metrics: &Metrics) -> Result<Self, ProxyError> {
        let template = PeerTemplate::new(upstream)?;
        let peer = |target| resolve(target).map(|address| template.of(address, target));
        Ok(Self {
            metrics: metrics.upstream(&upstream.name),
            peers: upstream
                .targets
                .iter()
                .map(|one| &one.target)
                .map(peer)
                .collect::<Result<_, _>>()?,
            next: AtomicUsize::new(0),
        })
    }

    /// The next target in turn.
    pub(crate) fn next(&self) -> Option<Box<HttpPeer>> {
        let turn = match self.peers.len() {
            1 => 0,
            _ => self.next.fetch_add(1, Ordering::Relaxed),
        };
        self.peers.get(turn.checked_rem(self.peers.len())?).cloned().map(Box::new)
    }

    /// How many targets there are to try.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }
}

fn resolve(target: &Target) -> Result<SocketAddr, ProxyError> {
    let name = || format!("{}:{}", target.host, target.port);
    (&*target.host, target.port)
        .to_socket_addrs()
        .map_err(|error| ProxyError::Target { target: name(), source: Some(error) })?
        .next()
        .ok_or_else(|| ProxyError::Target { target: name(), source: None })
}
