//! The counters that requests count in: a tally, and where each key has its slots in it.

use std::io;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;
use keygate_core::{KeyId, UnixMillis};

use super::tally::{Slot, Tag, Tally};

/// Enough that two threads seldom meet.
const SHARDS: usize = 64;

/// A tally that is counted in.
pub(super) struct Live {
    pub(super) tally: Tally,
    /// The numbers of slots. Whose they are and what they count stands in the slots.
    shards: [Mutex<HashTable<u32>>; SHARDS],
}

impl Live {
    pub(super) fn new(tally: Tally) -> Self {
        Self { tally, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The slot of this number, if it is for this.
    #[inline]
    pub(super) fn slot_of(&self, number: u32, key: KeyId, tag: Tag) -> Option<Slot<'_>> {
        self.tally.slot(number).filter(|slot| slot.is_of(key, tag))
    }

    /// The number of the slot for this, which it has from now on.
    ///
    /// # Errors
    /// When there is no room for another one.
    #[inline(never)]
    pub(super) fn number_of(&self, key: KeyId, tag: Tag) -> io::Result<u32> {
        let hash = hash(key, tag);
        let shard = usize::try_from(hash >> 32).unwrap_or_default() % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "a remainder is smaller than its divisor")]
        let shard = &self.shards[shard];
        // Each change is one call, so a panic elsewhere leaves nothing half done.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |&number: &u32| self.slot_of(number, key, tag).is_some();
        if let Some(&number) = shard.find(hash, is_it) {
            return Ok(number);
        }
        let number = self.tally.give(key, tag)?;
        shard.insert_unique(hash, number, |&number| self.hash_of(number));
        Ok(number)
    }

    fn hash_of(&self, number: u32) -> u64 {
        let slot = self.tally.slot(number);
        slot.and_then(|slot| Some(hash(slot.key(), slot.tag()?))).unwrap_or_default()
    }

    /// How many slots were used since then.
    pub(super) fn used_since(&self, at: UnixMillis) -> usize {
        self.tally.slots().filter(|(_, slot)| slot.last() >= at).count()
    }
}

/// Ids have random bits of their own, and nobody can choose them to collide; they only have to be spread.
fn hash(key: KeyId, tag: Tag) -> u64 {
    const LOW: u128 = u64::MAX as u128;
    let id = u64::try_from(key.as_u128() & LOW).unwrap_or_default();
    let mixed =
        (id ^ tag.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 29
}
