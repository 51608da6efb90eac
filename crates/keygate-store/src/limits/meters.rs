//! All meters by whose they are. Made for verified keys only, so there are never more than parties
//! that have keys; dropped when nobody uses them and nothing is lost with them.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
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

/// Whose a meter is stands in it.
type Shard = Mutex<HashTable<Arc<Meter>>>;

impl Default for Meters {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, next: AtomicUsize::new(0), hasher: RandomState::new() }
    }
}

impl Meters {
    pub(super) fn find(&self, party: Party) -> Option<Arc<Meter>> {
        let hash = self.hasher.hash_one(party);
        self.shard(hash).find(hash, |meter| meter.party() == party).cloned()
    }

    /// The one meter of this party.
    pub(super) fn find_or_make(
        &self,
        party: Party,
        counters: impl FnOnce() -> Counters,
    ) -> Arc<Meter> {
        let hash = self.hasher.hash_one(party);
        let hash_of = |meter: &Arc<Meter>| self.hasher.hash_one(meter.party());
        let mut shard = self.shard(hash);
        let entry = shard.entry(hash, |meter| meter.party() == party, hash_of);
        Arc::clone(entry.or_insert_with(|| Arc::new(Meter::new(party, counters()))).get())
    }

    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<Meter>)) {
        for shard in &self.shards {
            // Not while the shard is locked: what is visited may take its time.
            let meters: Vec<_> = lock(shard).iter().cloned().collect();
            meters.iter().for_each(&mut visit);
        }
    }

    /// Drops meters that nobody but this map holds, and so nobody can charge meanwhile. Looks at one
    /// part of the map with each call: there may be millions.
    pub(super) fn drop_idle(&self, is_idle: impl Fn(&Meter) -> bool) {
        let first = self.next.fetch_add(SWEPT, Relaxed) % SHARDS;
        for shard in self.shards.iter().skip(first).take(SWEPT) {
            lock(shard).retain(|meter| Arc::strong_count(meter) > 1 || !is_idle(meter));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Arc<Meter>>> {
        // By bits that a table goes by neither for places nor for tags; below the number of shards.
        let place = usize::try_from((hash >> 40) % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        lock(&self.shards[place])
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashTable<Arc<Meter>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
