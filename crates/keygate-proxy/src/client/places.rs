//! How many connections there may be at one time: in all, and of one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keygate_core::network::ClientNetwork;
use keygate_telemetry::ConnectionMetrics;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long it takes at most until a limit that a reload has raised is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The places of a gateway's connections. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Places(Arc<Inner>);

struct Inner {
    taken: AtomicUsize,
    freed: Notify,
    /// Of those addresses alone that have a connection, and only while there is a limit.
    of_addresses: Mutex<HashMap<ClientNetwork, usize>>,
    metrics: ConnectionMetrics,
}

impl Places {
    pub(crate) fn new(metrics: ConnectionMetrics) -> Self {
        let (taken, freed, of_addresses) = (AtomicUsize::new(0), Notify::new(), Mutex::default());
        Self(Arc::new(Inner { taken, freed, of_addresses, metrics }))
    }

    /// A place, if there are fewer than `most` connections.
    pub(crate) fn try_take(&self, most: usize) -> Option<Place> {
        let one_more = |taken| (taken < most).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Place::new(Arc::clone(&self.0)))
    }

    /// A place, once there is one. `most` is asked for again and again: it may change.
    pub(crate) async fn take(&self, most: impl Fn() -> usize) -> Place {
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // Before the look, so that what is freed behind it is not missed.
            freed.as_mut().enable();
            if let Some(place) = self.try_take(most()) {
                return place;
            }
            drop(timeout(LOOK_EVERY, freed).await);
        }
    }

    /// A place, whatever the limit: for those who have waited when nobody is to wait any more.
    pub(crate) fn take_beyond(&self) -> Place {
        self.0.taken.fetch_add(1, Ordering::AcqRel);
        Place::new(Arc::clone(&self.0))
    }
}

impl Inner {
    fn of_addresses(&self) -> MutexGuard<'_, HashMap<ClientNetwork, usize>> {
        // Nothing here is left half done by a panic.
        self.of_addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's, which is free again when this is dropped.
pub(crate) struct Place {
    inner: Arc<Inner>,
    /// Where it counts as one of an address.
    address: Option<ClientNetwork>,
}

impl Place {
    fn new(inner: Arc<Inner>) -> Self {
        inner.metrics.opened();
        Self { inner, address: None }
    }

    /// Counts it as one of this address, once. Says whether the address has fewer than `most`.
    pub(crate) fn belongs_to(&mut self, address: IpAddr, most: usize) -> bool {
        let network = ClientNetwork::from(address);
        let mut counts = self.inner.of_addresses();
        let count = counts.entry(network).or_insert(0);
        // A limit is at least 1, so an entry that was made here is kept.
        if *count >= most {
            return false;
        }
        *count += 1;
        drop(counts);
        self.address = Some(network);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = self.address
            && let Entry::Occupied(mut count) = self.inner.of_addresses().entry(address)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.inner.metrics.closed();
        self.inner.taken.fetch_sub(1, Ordering::AcqRel);
        self.inner.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use keygate_telemetry::Metrics;
    use proptest::prelude::*;

    use super::*;

    fn places() -> Places {
        Places::new(Metrics::new("1").connections())
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_place_that_is_freed() {
        let places = places();
        let first = places.try_take(1).unwrap();
        assert!(places.try_take(1).is_none());
        let mut waiting = Box::pin(places.take(|| 1));
        assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        drop(first);
        drop(timeout(LOOK_EVERY / 2, waiting).await.unwrap());
        assert_eq!(places.0.taken.load(Ordering::Acquire), 0);
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let places = places();
        let take = |address: &str| {
            let mut place = places.take_beyond();
            place.belongs_to(address.parse().unwrap(), 2).then_some(place)
        };
        let (one, other) = (take("2001:db8::1"), take("2001:db8::2:1"));
        assert!(one.is_some() && other.is_some() && take("2001:db8::3").is_none());
        assert!(take("2001:db8:0:1::1").is_some() && take("192.0.2.1").is_some());
        drop(one);
        assert!(take("::ffff:192.0.2.1").is_some() && take("2001:db8::3").is_some());
    }

    proptest! {
        #[test]
        fn no_limit_is_ever_passed_and_nothing_is_left_behind(
            steps in prop::collection::vec((0u8..3, any::<bool>(), 0usize..20), 1..200),
            (most, each) in (1usize..10, 1usize..5),
        ) {
            let places = places();
            let mut taken: Vec<(u8, Place)> = Vec::new();
            for (address, opens, at) in steps {
                if !opens {
                    if at < taken.len() {
                        taken.swap_remove(at);
                    }
                    continue;
                }
                let of_address = taken.iter().filter(|(of, _)| *of == address).count();
                let Some(mut place) = places.try_take(most) else {
                    prop_assert_eq!(taken.len(), most);
                    continue;
                };
                prop_assert!(taken.len() < most);
                let fits = place.belongs_to(IpAddr::from([127, 0, 0, address]), each);
                prop_assert_eq!(fits, of_address < each);
                if fits {
                    taken.push((address, place));
                }
            }
            taken.clear();
            prop_assert_eq!(places.0.taken.load(Ordering::Acquire), 0);
            prop_assert!(places.0.of_addresses().is_empty());
        }
    }
}
