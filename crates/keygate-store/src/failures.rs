//! How often one client network has failed to authenticate, and for how long it must wait. Bounded,
//! and it costs a client that never fails nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_core::limit::{Gcra, Rate};
use keygate_core::network::ClientNetwork;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// The failed-authentication limit: `rate.count` failures at once, then as they come back.
///
/// Time is an argument: nanoseconds of one monotonic clock, whatever its zero.
pub struct FailureLimiter {
    gcra: Gcra,
    cells: Cache<ClientNetwork, Arc<AtomicU64>>,
}

impl FailureLimiter {
    /// Remembers at most about `addresses_max` client networks; those seen longest ago go first.
    #[must_use]
    pub fn new(rate: Rate, addresses_max: u64) -> Self {
        let period = rate.unit.duration();
        let cells = Cache::builder()
            .max_capacity(addresses_max)
            // The default policy refuses newcomers when full, and so would never limit them.
            .eviction_policy(EvictionPolicy::lru())
            // A bucket that nobody drew from for the whole period is full, as a new one is.
            .time_to_idle(period)
            .build();
        Self { gcra: Gcra::new(rate.count, period, rate.count), cells }
    }

    /// How long this client must wait before it may fail again; nothing if it need not.
    #[must_use]
    pub fn blocked_for(&self, client: ClientNetwork, now_ns: u64) -> Option<Duration> {
        let cell = self.cells.get(&client)?;
        let wait = self.gcra.wait(cell.load(Relaxed), now_ns);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts one failure of this client.
    pub fn record(&self, client: ClientNetwork, now_ns: u64) {
        let cell = self.cells.get_with(client, || Arc::new(AtomicU64::new(0)));
        let take = |state| self.gcra.take(state, now_ns, 1).ok();
        // A failure beyond the limit leaves the cell alone: failing on does not make the wait longer.
        cell.fetch_update(Relaxed, Relaxed, take).ok();
    }
}
