//! How often one client network has failed to authenticate, and for how long it must wait. Bounded,
//! and it costs a client that never fails nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use keygate_core::limit::{Gcra, Rate};
use keygate_core::network::ClientNetwork;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// The failed-authentication limit: `rate.count` failures at once, then as they come back.
///
/// Time is an argument: nanoseconds of one monotonic clock, whatever its zero.
pub struct FailureLimiter(ArcSwap<Cells>);

struct Cells {
    rate: Rate,
    addresses_max: u64,
    gcra: Gcra,
    cells: Cache<ClientNetwork, Arc<AtomicU64>>,
}

impl Cells {
    fn new(rate: Rate, addresses_max: u64) -> Self {
        let period = rate.unit.duration();
        let cells = Cache::builder()
            .max_capacity(addresses_max)
            // The default policy refuses newcomers when full, and so would never limit them.
            .eviction_policy(EvictionPolicy::lru())
            // A bucket that nobody drew from for the whole period is full, as a new one is.
            .time_to_idle(period)
            .build();
        Self { rate, addresses_max, gcra: Gcra::new(rate.count, period, rate.count), cells }
    }
}

impl FailureLimiter {
    /// Remembers at most about `addresses_max` client networks; those seen longest ago go first.
    #[must_use]
    pub fn new(rate: Rate, addresses_max: u64) -> Self {
        Self(ArcSwap::from_pointee(Cells::new(rate, addresses_max)))
    }

    /// Goes by another limit from now on. What was counted under the old one says nothing under the new
    /// one, which may be far looser, and is forgotten.
    pub fn change(&self, rate: Rate, addresses_max: u64) {
        let now = self.0.load();
        if (now.rate, now.addresses_max) == (rate, addresses_max) {
            return;
        }
        self.0.store(Arc::new(Cells::new(rate, addresses_max)));
    }

    /// How long this client must wait before it may fail again; nothing if it need not.
    #[must_use]
    pub fn blocked_for(&self, client: ClientNetwork, now_ns: u64) -> Option<Duration> {
        let now = self.0.load();
        let cell = now.cells.get(&client)?;
        let wait = now.gcra.wait(cell.load(Relaxed), now_ns);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts one failure of this client.
    pub fn record(&self, client: ClientNetwork, now_ns: u64) {
        let now = self.0.load();
        let cell = now.cells.get_with(client, || Arc::new(AtomicU64::new(0)));
        let take = |state| now.gcra.take(state, now_ns, 1).ok();
        // A failure beyond the limit leaves the cell alone: failing on does not make the wait longer.
        cell.fetch_update(Relaxed, Relaxed, take).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn client(text: &str) -> ClientNetwork {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn limiter(rate: &str) -> FailureLimiter {
        FailureLimiter::new(rate.parse().unwrap(), 1_000)
    }

    #[test]
    fn a_client_is_blocked_after_its_failures_and_until_one_comes_back() {
        let limiter = limiter("60/minute");
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        for _ in 0..59 {
            limiter.record(one, 5 * SECOND);
        }
        assert_eq!(limiter.blocked_for(one, 5 * SECOND), None);
        limiter.record(one, 5 * SECOND);
        assert_eq!(limiter.blocked_for(one, 5 * SECOND), Some(Duration::from_secs(1)));
        assert_eq!(limiter.blocked_for(other, 5 * SECOND), None);
        assert_eq!(limiter.blocked_for(one, 6 * SECOND), None);
    }

    #[test]
    fn failing_on_does_not_make_the_wait_longer() {
        let limiter = limiter("2/s");
        let one = client("192.0.2.1");
        for _ in 0..1_000 {
            limiter.record(one, 0);
        }
        assert_eq!(limiter.blocked_for(one, 0), Some(Duration::from_millis(500)));
    }

    #[test]
    fn an_ipv6_client_cannot_escape_within_its_network() {
        let limiter = limiter("1/minute");
        limiter.record(client("2001:db8::1"), 0);
        assert!(limiter.blocked_for(client("2001:db8::ffff:2"), 0).is_some());
        assert!(limiter.blocked_for(client("2001:db8:0:1::1"), 0).is_none());
        limiter.record(client("::ffff:192.0.2.1"), 0);
        assert!(limiter.blocked_for(client("192.0.2.1"), 0).is_some());
    }

    #[test]
    fn asking_makes_no_entry_and_failing_makes_a_bounded_number() {
        let limiter = FailureLimiter::new("1/minute".parse().unwrap(), 50);
        let client = |n: u32| ClientNetwork::from(IpAddr::from(n.to_be_bytes()));
        for n in 0..1_000 {
            assert_eq!(limiter.blocked_for(client(n), 0), None);
        }
        let cells = &limiter.0.load().cells;
        cells.run_pending_tasks();
        assert_eq!(cells.entry_count(), 0);
        for n in 0..1_000 {
            limiter.record(client(n), 0);
        }
        cells.run_pending_tasks();
        assert_eq!(cells.entry_count(), 50);
        assert!(limiter.blocked_for(client(999), 0).is_some(), "a newcomer counts even when full");
    }

    #[test]
    fn another_limit_counts_anew_and_the_same_one_goes_on() {
        let limiter = limiter("1/day");
        let one = client("192.0.2.1");
        limiter.record(one, 0);
        limiter.change("1/day".parse().unwrap(), 1_000);
        assert!(limiter.blocked_for(one, 0).is_some());
        limiter.change("2/day".parse().unwrap(), 1_000);
        limiter.record(one, 0);
        assert_eq!(limiter.blocked_for(one, 0), None);
        limiter.record(one, 0);
        assert!(limiter.blocked_for(one, 0).is_some());
    }

    #[test]
    fn failures_on_many_threads_are_all_counted() {
        let limiter = limiter("4000/minute");
        let one = client("192.0.2.1");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| limiter.record(one, 0)));
            }
        });
        assert!(limiter.blocked_for(one, 0).is_some());
    }

    proptest! {
        /// However failures and time are mixed, no more pass than the limit allows.
        #[test]
        fn never_more_failures_than_the_limit(
            count in 1u64..20, gaps in prop::collection::vec(0u64..20_000_000_000, 1..200),
        ) {
            let limiter = limiter(&format!("{count}/minute"));
            let one = client("192.0.2.1");
            let (mut now, mut failed) = (0, 0);
            for gap in gaps {
                now += gap;
                if limiter.blocked_for(one, now).is_none() {
                    limiter.record(one, now);
                    failed += 1;
                }
            }
            prop_assert!(failed <= count + now * count / (60 * SECOND) + 1);
        }
    }
}
