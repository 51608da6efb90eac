//! The cached records of known keys. A look-up reads a lock-free map and writes nothing shared;
//! moka decides, off that path, what is worth keeping and for how long.

use std::sync::Arc;
use std::time::Duration;

use keygate_core::{KeyDigest, KeyRecord};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use quanta::Instant;

use crate::cached::DigestHasher;

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

    /// Tells moka that a record is in use. Costs more than [`get`](Self::get), so a sample of the
    /// hits has to do: it shows just as well which keys are used often.
    pub(crate) fn touch(&self, digest: &KeyDigest) {
        drop(self.policy.get(digest));
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
