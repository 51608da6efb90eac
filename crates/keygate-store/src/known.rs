//! The cached records of known keys. A look-up reads a lock-free map and writes nothing shared;
//! moka decides, off that path, what to keep and for how long: of too many, those used last. A scan
//! of keys that are used once may so push out others, which costs each one look-up; a policy by
//! frequency would hear of too few uses to ever admit a new key among busy ones.

use std::sync::Arc;
use std::time::Duration;

use keygate_core::{KeyDigest, KeyRecord};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use quanta::Instant;

use crate::cached::DigestHasher;

/// Of so many uses of a record moka hears of one.
const USES_PER_TOUCH: u8 = 16;

/// Records by digest, at most so many, each for at most so long.
pub(crate) struct KnownKeys {
    index: Arc<Index>,
    /// Holds what `index` holds, and empties it: an entry leaves both or neither.
    policy: Cache<KeyDigest, Arc<KeyRecord>, DigestHasher>,
    ttl: Duration,
}

type Index = papaya::HashMap<KeyDigest, Entry, DigestHasher>;

struct Entry {
    key: Arc<KeyRecord>,
    expires_at: Instant,
}

impl KnownKeys {
    /// `on_eviction` is called for each record that had to make room for another.
    pub(crate) fn new(
        keys_max: u64,
        ttl: Duration,
        on_eviction: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let index = Arc::new(Index::with_hasher(DigestHasher::default()));
        let removed_from = Arc::clone(&index);
        let policy = Cache::builder()
            .max_capacity(keys_max)
            .time_to_live(ttl)
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
        Self { index, policy, ttl }
    }

    /// The record, if there is one that has not outlived its time.
    pub(crate) fn get(&self, digest: &KeyDigest) -> Option<Arc<KeyRecord>> {
        let index = self.index.pin();
        let entry = index.get(digest).filter(|entry| Instant::now() < entry.expires_at)?;
        Some(Arc::clone(&entry.key))
    }

    /// Notes that a record was used. Telling moka costs more than [`get`](Self::get), so a sample
    /// has to do. It is random, by a generator of the thread's own: counted out, requests that come
    /// in a rhythm could show moka the same key every time.
    pub(crate) fn used(&self, digest: &KeyDigest) {
        if fastrand::u8(..USES_PER_TOUCH) == 0 {
            drop(self.policy.get(digest));
        }
    }

    pub(crate) fn insert(&self, digest: KeyDigest, key: Arc<KeyRecord>) {
        let entry = Entry { key: Arc::clone(&key), expires_at: Instant::now() + self.ttl };
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
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::boil::boil;
    use crate::records::OwnedKey;
    use crate::testing::{account, app, digest, key};

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
        let known = KnownKeys::new(10, Duration::from_secs(60), count);
        for n in 0..500 {
            let (digest, key) = record(n);
            known.insert(digest, key);
        }
        assert!(known.count() <= 10);
        assert_eq!(known.index.len() as u64, known.count());
        assert_eq!(evicted.load(Relaxed), 500 - known.count());
    }

    #[test]
    fn keys_used_in_a_rhythm_are_all_seen_to_be_in_use() {
        let known = KnownKeys::new(17, Duration::from_secs(60), || {});
        for n in 0..17 {
            let (digest, key) = record(n);
            known.insert(digest, key);
        }
        // All but the last one, in turns. A key goes unseen once in 10^28 tests.
        for n in (0..16).cycle().take(16 * 1_000) {
            known.used(&digest(n));
        }
        let (new, key) = record(17);
        known.insert(new, key);
        assert_eq!(known.count(), 17);
        assert!(known.get(&digest(16)).is_none(), "the idle one makes room");
        assert!(known.get(&new).is_some());
        assert!((0..16).all(|n| known.get(&digest(n)).is_some()));
    }

    #[test]
    fn a_record_outlives_no_ttl() {
        let known = KnownKeys::new(10, Duration::ZERO, || {});
        let (digest, key) = record(1);
        known.insert(digest, key);
        assert!(known.get(&digest).is_none());
    }

    #[test]
    fn a_record_can_be_replaced() {
        let known = KnownKeys::new(10, Duration::from_secs(60), || {});
        let (digest, first) = record(1);
        let second = record(1).1;
        known.insert(digest, first);
        known.insert(digest, Arc::clone(&second));
        assert_eq!(known.count(), 1);
        assert!(known.get(&digest).is_some_and(|found| Arc::ptr_eq(&found, &second)));
    }
}
