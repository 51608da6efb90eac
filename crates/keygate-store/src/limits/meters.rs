//! All meters by whose they are. Made for verified keys only, so there are never more than parties
//! that have keys; dropped when nobody uses them and nothing is lost with them.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keygate_core::limit::meter::{Counters, Meter};
use keygate_core::limit::terms::Party;

/// Enough that two threads with different parties seldom meet, and that no part of millions takes long
/// to look through.
const SHARDS: usize = 1_024;
/// How many of them are looked through at a time.
const SWEPT: usize = 16;

pub(super) struct Meters {
    shards: Box<[Shard]>,
    /// The next one to look for idle meters in.
    next: AtomicUsize,
    hasher: RandomState,
}

type Shard = Mutex<HashMap<Party, Arc<Meter>>>;

impl Default for Meters {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, next: AtomicUsize::new(0), hasher: RandomState::new() }
    }
}

impl Meters {
    pub(super) fn find(&self, party: Party) -> Option<Arc<Meter>> {
        self.shard(party).get(&party).cloned()
    }

    /// The one meter of this party.
    pub(super) fn find_or_make(
        &self,
        party: Party,
        counters: impl FnOnce() -> Counters,
    ) -> Arc<Meter> {
        match self.shard(party).entry(party) {
            Entry::Occupied(found) => Arc::clone(found.get()),
            Entry::Vacant(free) => Arc::clone(free.insert(Arc::new(Meter::new(party, counters())))),
        }
    }

    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<Meter>)) {
        for shard in &self.shards {
            // Not while the shard is locked: what is visited may take its time.
            let meters: Vec<_> = lock(shard).values().cloned().collect();
            meters.iter().for_each(&mut visit);
        }
    }

    /// Drops meters that nobody but this map holds, and so nobody can charge meanwhile. Looks at one
    /// part of the map with each call: there may be millions.
    pub(super) fn drop_idle(&self, is_idle: impl Fn(&Meter) -> bool) {
        let first = self.next.fetch_add(SWEPT, Relaxed) % SHARDS;
        for shard in self.shards.iter().skip(first).take(SWEPT) {
            lock(shard).retain(|_, meter| Arc::strong_count(meter) > 1 || !is_idle(meter));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, party: Party) -> MutexGuard<'_, HashMap<Party, Arc<Meter>>> {
        let hash = self.hasher.hash_one(party);
        // `% SHARDS` is below the number of shards.
        let place = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        lock(&self.shards[place])
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<Party, Arc<Meter>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
