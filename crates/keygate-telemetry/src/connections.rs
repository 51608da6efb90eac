//! Counts the connections of clients, and what becomes of those that get no further.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::metrics::register;

/// The handles of clients' connections. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionMetrics {
    open: IntGauge,
    per_address: IntCounter,
    handshake: IntCounter,
    proxy_header: IntCounter,
    slow_bodies: IntCounter,
    reset_floods: IntCounter,
}

/// Why a connection was closed before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// Its address has too many.
    PerAddress,
    /// Its TLS handshake failed, or took too long.
    Handshake,
    /// It had to begin with a PROXY header and did not, or took too long.
    ProxyHeader,
}

impl ConnectionMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new(
            "keygate_connections_refused_total",
            "Client connections closed before their first request.",
        );
        let refused = register(registry, IntCounterVec::new(options, &["reason"]));
        Self {
            open: register(
                registry,
                IntGauge::new("keygate_connections_open", "Client connections that are open."),
            ),
            per_address: refused.with_label_values(&["per_address"]),
            handshake: refused.with_label_values(&["handshake"]),
            proxy_header: refused.with_label_values(&["proxy_header"]),
            slow_bodies: register(
                registry,
                IntCounter::new(
                    "keygate_slow_bodies_total",
                    "Requests ended because the next piece of their body did not come in time.",
                ),
            ),
            reset_floods: register(
                registry,
                IntCounter::new(
                    "keygate_reset_floods_total",
                    "HTTP/2 connections closed because their client took back too many requests, or \
                     flooded them otherwise.",
                ),
            ),
        }
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn closed(&self) {
        self.open.dec();
    }

    pub fn refused(&self, why: ConnectionRefusal) {
        match why {
            ConnectionRefusal::PerAddress => self.per_address.inc(),
            ConnectionRefusal::Handshake => self.handshake.inc(),
            ConnectionRefusal::ProxyHeader => self.proxy_header.inc(),
        }
    }

    pub fn slow_body(&self) {
        self.slow_bodies.inc();
    }

    pub fn reset_flood(&self) {
        self.reset_floods.inc();
    }
}
