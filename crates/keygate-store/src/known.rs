//! The cached records of known keys. A look-up reads a lock-free map and writes nothing shared;
//! moka decides, off that path, what to keep and for how long: of too many, those used last. A scan
//! of keys that are used once may so push out others, which costs each one look-up; a policy by
//! frequency would hear of too few uses to ever admit a new key among busy ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_core::{KeyDigest, KeyRecord};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cached::DigestHasher;
use crate::coherence::nanos;

/// Of so many uses of a record moka hears of one. With a million keys in use, whatever moka has to look
/// at is not in the processor's cache: hearing of one use costs as much as a whole decision.
const USES_PER_TOUCH: u8 = 64;

/// How long after a record was found to be due the next use may find it so again, if it has not
/// been replaced by then: in an outage each key is asked for this often and no oftener.
const DUE_AGAIN: Duration = Duration::from_secs(5);

/// Records by digest, at most so many, each for at most so long.
pub(crate) struct KnownKeys {
    index: Arc<Index>,
    /// Holds what `index` holds, and empties it: an entry leaves both or neither.
    policy: Cache<KeyDigest, Arc<KeyRecord>, DigestHasher>,
    ages: Ages,
}

/// How old records may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ages {
    /// From here on the next use is a reason to read the record again.
    pub(crate) due: Duration,
    /// From here on the record is of no use.
    pub(crate) end: Duration,
}

type Index = papaya::HashMap<KeyDigest, Entry, DigestHasher>;

struct Entry {
    key: Arc<KeyRecord>,
    /// In nanoseconds of the cache's clock, as every time here.
    due_at: AtomicU64,
    ends_at: u64,
}

/// A record that was found.
pub(crate) struct Found {
    pub(crate) key: Arc<KeyRecord>,
    /// It is time to read it again, and this use is the one to see to it.
    pub(crate) is_due: bool,
}

impl KnownKeys {
    /// `on_eviction` is called for each record that had to make room for another.
    pub(crate) fn new(
        keys_max: u64,
        ages: Ages,
        on_eviction: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let index = Arc::new(Index::with_hasher(DigestHasher::default()));
        let removed_from = Arc::clone(&index);
        let policy = Cache::builder()
            .max_capacity(keys_max)
            .time_to_live(ages.end)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |digest: Arc<KeyDigest>, key, cause| {
                if cause == RemovalCause::Size {
                    on_eviction();
                }
                // Only if it is still this one: a newer record may be in its place already.
                let same = |_: &KeyDigest, entry: &Entry| Arc::ptr_eq(&entry.key, &key);
                match removed_from.pin().remove_if(&*digest, same) {
                    Ok(_) | Err(_) => {}
                }
            })
            .build_with_hasher(DigestHasher::default());
        Self { index, policy, ages }
    }

    /// The record, if there is one that has not outlived its time and `holds`.
    pub(crate) fn get(
        &self,
        digest: &KeyDigest,
        now: u64,
        holds: impl FnOnce(&KeyRecord) -> bool,
    ) -> Option<Found> {
        let index = self.index.pin();
        let entry = index.get(digest).filter(|entry| now < entry.ends_at && holds(&entry.key))?;
        let due_at = entry.due_at.load(Relaxed);
        // Of all who find it due at the same time one does.
        let is_due = now >= due_at && {
            let again = now.saturating_add(nanos(DUE_AGAIN));
            entry.due_at.compare_exchange(due_at, again, Relaxed, Relaxed).is_ok()
        };
        Some(Found { key: Arc::clone(&entry.key), is_due })
    }

    /// Notes that a record was used. Telling moka costs more than [`get`](Self::get), so a sample
    /// has to do. It is random, by a generator of the thread's own: counted out, requests that come
    /// in a rhythm could show moka the same key every time.
    pub(crate) fn used(&self, digest: &KeyDigest) {
        if fastrand::u8(..USES_PER_TOUCH) == 0 {
            drop(self.policy.get(digest));
        }
    }

    pub(crate) fn insert(&self, digest: KeyDigest, key: Arc<KeyRecord>, now: u64) {
        let entry = Entry {
            key: Arc::clone(&key),
            due_at: AtomicU64::new(now.saturating_add(nanos(self.ages.due))),
            ends_at: now.saturating_add(nanos(self.ages.end)),
        };
        // First the index: moka may remove what it is given at once, and must find it there.
        self.index.pin().insert(digest, entry);
        self.policy.insert(digest, key);
    }

    /// How many there are. Works in what moka has put off, so it is not for the hot path.
    pub(crate) fn count(&self) -> u64 {
        self.policy.run_pending_tasks();
        self.policy.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boil::boil;
    use crate::records::OwnedKey;
    use crate::testing::{account, app, digest, key};

    const AGES: Ages = Ages { due: Duration::from_secs(60), end: Duration::from_secs(600) };

    fn record(n: u64) -> (KeyDigest, Arc<KeyRecord>) {
        let account = account(1);
        let app = app(1, &account);
        let owned = OwnedKey { key: key(n, &app), app, account };
        (digest(n), Arc::new(boil(owned, 0)))
    }

    #[test]
    fn what_moka_lets_go_is_gone_from_the_index_too() {
        let evicted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&evicted);
        let count = move || {
            counter.fetch_add(1, Relaxed);
        };
        let known = KnownKeys::new(10, AGES, count);
        for n in 0..500 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
        }
        assert!(known.count() <= 10);
        assert_eq!(known.index.len() as u64, known.count());
        assert_eq!(evicted.load(Relaxed), 500 - known.count());
    }

    #[test]
    fn keys_used_in_a_rhythm_are_all_seen_to_be_in_use() {
        let known = KnownKeys::new(17, AGES, || {});
        for n in 0..17 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
        }
        // All but the last one, in turns. A key goes unseen once in 10^28 tests.
        for n in (0..16).cycle().take(16 * 4_000) {
            known.used(&digest(n));
        }
        let (new, key) = record(17);
        known.insert(new, key, 0);
        assert_eq!(known.count(), 17);
        assert!(known.get(&digest(16), 0, |_| true).is_none(), "the idle one makes room");
        assert!(known.get(&new, 0, |_| true).is_some());
        assert!((0..16).all(|n| known.get(&digest(n), 0, |_| true).is_some()));
    }

    #[test]
    fn a_record_outlives_no_end() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, key) = record(1);
        known.insert(digest, key, 7);
        let end = 7 + nanos(AGES.end);
        assert!(known.get(&digest, end - 1, |_| true).is_some());
        assert!(known.get(&digest, end, |_| true).is_none());
    }

    #[test]
    fn one_use_of_many_finds_a_record_due_and_the_next_only_after_a_while() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, key) = record(1);
        known.insert(digest, key, 0);
        let is_due = |now| known.get(&digest, now, |_| true).is_some_and(|found| found.is_due);
        let due = nanos(AGES.due);
        assert!(!is_due(due - 1));
        assert!(is_due(due));
        let again = due + nanos(DUE_AGAIN);
        assert!(!is_due(due) && !is_due(again - 1));
        assert!(is_due(again));
    }

    #[test]
    fn a_record_can_be_replaced() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, first) = record(1);
        let second = record(1).1;
        known.insert(digest, first, 0);
        known.insert(digest, Arc::clone(&second), 0);
        assert_eq!(known.count(), 1);
        assert!(
            known.get(&digest, 0, |_| true).is_some_and(|found| Arc::ptr_eq(&found.key, &second))
        );
    }
}
