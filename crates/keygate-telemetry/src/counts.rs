//! Plain counts: requests that run or were cut off, and what becomes of keys.

use keygate_core::cells::Cells;
use prometheus::{IntCounter, IntGauge, Registry};

use crate::metrics::register;

/// Counts the requests that are being worked on.
#[derive(Clone, Copy)]
pub struct InFlight(&'static Running);

struct Running {
    /// How many have begun, and how many have ended.
    cells: Cells<2>,
    gauge: IntGauge,
}

const BEGUN: usize = 0;
const ENDED: usize = 1;

impl InFlight {
    /// There is one for a process, which lives as long: so no request has to count who holds it.
    pub(crate) fn new(registry: &Registry) -> Self {
        let gauge = IntGauge::new("keygate_inflight_requests", "Requests being worked on.");
        let gauge = register(registry, gauge);
        Self(Box::leak(Box::new(Running { cells: Cells::new(), gauge })))
    }

    /// Counts one request until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlightGuard {
        self.0.cells.add([(BEGUN, 1)]);
        InFlightGuard(self.0)
    }

    /// How many are being worked on.
    #[must_use]
    pub fn count(&self) -> u64 {
        // In this order, so that none ends that has not begun, and none is left out that runs all the while.
        let ended = self.0.cells.sum(ENDED);
        self.0.cells.sum(BEGUN).saturating_sub(ended)
    }

    /// Says in the metric how many there are.
    pub(crate) fn settle(&self) {
        self.0.gauge.set(i64::try_from(self.count()).unwrap_or(i64::MAX));
    }
}

/// One request being worked on.
pub struct InFlightGuard(&'static Running);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.cells.add([(ENDED, 1)]);
    }
}

/// Counts the requests that were admitted and then cut off with their key.
#[derive(Clone)]
pub struct EndedRequests(pub(crate) IntCounter);

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
    pub(crate) fn new(registry: &Registry) -> Self {
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
