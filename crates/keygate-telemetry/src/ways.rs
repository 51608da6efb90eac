//! Counts requests by the way that served them, and the idle connections that the express lane let go.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::register;

/// The handles of the ways to serve a request. Cheap to clone.
#[derive(Clone)]
pub struct WayMetrics {
    express: IntCounter,
    full: IntCounter,
    crowded_out: IntCounter,
}

impl WayMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new(
            "keygate_requests_served_total",
            "Requests by the way that they took: the express lane, or the full one.",
        );
        let served = register(registry, IntCounterVec::new(options, &["way"]));
        Self {
            express: served.with_label_values(&["express"]),
            full: served.with_label_values(&["full"]),
            crowded_out: register(
                registry,
                IntCounter::new(
                    "keygate_express_idle_closed_total",
                    "Idle connections of the express lane that were closed to have room for others.",
                ),
            ),
        }
    }

    /// A plain request takes the express lane.
    pub fn express(&self) {
        self.express.inc();
    }

    /// A request goes through all of the proxy.
    pub fn full(&self) {
        self.full.inc();
    }

    /// An idle connection to an upstream had to go: there were as many as there may be.
    pub fn crowded_out(&self) {
        self.crowded_out.inc();
    }
}
