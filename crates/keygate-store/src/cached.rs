//! The cache in front of a store: bounded, and never wrong about a change that was acknowledged.
//! Known and unknown keys are kept apart, so that made-up keys cannot crowd out real ones.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_config::Cache as CacheSettings;
use keygate_core::{KeyDigest, KeyRecord};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::boil::boil;
use crate::epochs::Epochs;
use crate::flights::{BrokenOff, Flights};
use crate::keys::{ChangeNumber, KeyStore, StoreError, Subject, Write};
use crate::known::KnownKeys;
use crate::records::{AuditEntry, OwnedKey};

/// The longest that a look-up in the store is waited for. A request may wait for two of them: see
/// [`CachedKeys::load`].
pub const FIND_TIMEOUT: Duration = Duration::from_secs(2);

/// The most look-ups in the store that have begun and not ended, those that nobody waits for any
/// more included: a store that hangs collects no more than these. Far more than it takes to keep a
/// store busy, so that a burst of keys that are not cached waits rather than fails.
pub const LOADS_MAX: usize = 4_096;

/// A store with a cache in front. Cheap to ask, and coherent: see [`Epochs`] for the argument.
pub struct CachedKeys<S: KeyStore> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    store: S,
    known: KnownKeys,
    /// Holds the `read_at` of the load that found nothing.
    unknown: Cache<KeyDigest, u64, DigestHasher>,
    epochs: Epochs,
    flights: Arc<Flights<Loaded>>,
    /// One permit for each look-up that may still begin.
    loads_left: Arc<Semaphore>,
    counters: Counters,
}

/// What the cache knows about a key.
#[derive(Clone, Debug)]
pub enum Cached {
    Known(Arc<KeyRecord>),
    /// The store has no such key.
    Unknown,
}

/// What a load came to. The error is shared by all who waited.
type Loaded = Result<Answer, Arc<StoreError>>;

#[derive(Clone)]
enum Answer {
    Known(Arc<KeyRecord>),
    Unknown { read_at: u64 },
}

/// What the cache has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Look-ups that found a known key.
    pub hits: u64,
    /// Look-ups that found nothing, or nothing that still held.
    pub misses: u64,
    /// Look-ups that found a key known to be unknown.
    pub unknown_hits: u64,
    pub entries: u64,
    pub unknown_entries: u64,
    /// Entries that had to make room for others.
    pub evictions: u64,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    unknown_hits: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl<S: KeyStore> CachedKeys<S> {
    #[must_use]
    pub fn new(store: S, settings: &CacheSettings) -> Self {
        let counters = Counters::default();
        let on_eviction = || {
            let evictions = Arc::clone(&counters.evictions);
            move || {
                evictions.fetch_add(1, Relaxed);
            }
        };
        let known = KnownKeys::new(settings.keys_max, settings.ttl, on_eviction());
        let unknown_evicted = on_eviction();
        let unknown = Cache::builder()
            .max_capacity(settings.unknown_max)
            .time_to_live(settings.unknown_ttl)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    unknown_evicted();
                }
            })
            .build_with_hasher(DigestHasher::default());
        let shared = Shared {
            store,
            known,
            unknown,
            epochs: Epochs::new(),
            flights: Arc::new(Flights::new()),
            loads_left: Arc::new(Semaphore::new(LOADS_MAX)),
            counters,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is known about a key without asking the store; nothing if that has to be asked.
    #[must_use]
    pub fn cached(&self, digest: &KeyDigest) -> Option<Cached> {
        let counters = &self.shared.counters;
        match self.shared.look_up(digest) {
            Some(Answer::Known(key)) => {
                counters.hits.fetch_add(1, Relaxed);
                self.shared.known.used(digest);
                Some(Cached::Known(key))
            }
            Some(Answer::Unknown { .. }) => {
                counters.unknown_hits.fetch_add(1, Relaxed);
                Some(Cached::Unknown)
            }
            None => {
                counters.misses.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Asks the store about a key, together with everybody else who asks about it now, and keeps
    /// the answer. Reflects every change that was acknowledged before the call.
    ///
    /// Waits no longer than twice [`FIND_TIMEOUT`]: for a look-up that is under way, and for one
    /// more if that began too early.
    ///
    /// # Errors
    /// What the store said, shared by all who waited. [`StoreError::Unavailable`] if it does not
    /// answer in time, or at once if [`LOADS_MAX`] look-ups are under way. Errors are not kept.
    pub async fn load(&self, digest: KeyDigest) -> Result<Option<Arc<KeyRecord>>, Arc<StoreError>> {
        let first = self.join(digest).await?;
        // That load may have begun before a change that this request must see: one that was
        // acknowledged before the request came.
        if self.shared.holds(&digest, &first) {
            return Ok(first.known());
        }
        // The first load has left the table, so this one began after that, and so after the request
        // came. It reflects all that the request must see, even if it is stale by now.
        self.join(digest).await.map(Answer::known)
    }

    async fn join(&self, digest: KeyDigest) -> Loaded {
        let load = || {
            let shared = Arc::clone(&self.shared);
            async move { shared.load_and_keep(digest).await }
        };
        match self.shared.flights.join(digest, load).await {
            Ok(loaded) => loaded,
            Err(broken_off) => Err(Arc::new(unavailable(broken_off))),
        }
    }

    /// Carries out a change and makes the cache forget what it may alter, even if the caller goes
    /// away midway, and also on an error: an outage may have hidden a success.
    ///
    /// # Errors
    /// As [`KeyStore::commit`].
    pub async fn commit(
        &self,
        write: Write,
        audit: AuditEntry,
    ) -> Result<ChangeNumber, StoreError> {
        let subject = write.subject();
        let shared = Arc::clone(&self.shared);
        // A task of its own: dropping the caller must not drop the work between write and
        // invalidation. It ends when the store answers.
        let committing = tokio::spawn(async move {
            let invalidation = Invalidation { shared: &*shared, subject };
            let result = shared.store.commit(write, audit).await;
            drop(invalidation);
            result
        });
        match committing.await {
            Ok(result) => result,
            Err(_) => Err(unavailable(CommitBrokenOff)),
        }
    }

    /// Makes the cache forget about `subject`, at once and in constant time, loads under way
    /// included.
    pub fn invalidate(&self, subject: Subject) {
        self.shared.epochs.invalidate(subject);
    }

    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let Shared { known, unknown, counters, .. } = &*self.shared;
        // The numbers of entries lag behind by what has not been worked in yet.
        unknown.run_pending_tasks();
        CacheCounts {
            hits: counters.hits.load(Relaxed),
            misses: counters.misses.load(Relaxed),
            unknown_hits: counters.unknown_hits.load(Relaxed),
            entries: known.count(),
            unknown_entries: unknown.entry_count(),
            evictions: counters.evictions.load(Relaxed),
        }
    }
}

impl<S: KeyStore> Shared<S> {
    fn look_up(&self, digest: &KeyDigest) -> Option<Answer> {
        let holds = |answer: &Answer| self.holds(digest, answer);
        let known = || self.known.get(digest).map(Answer::Known).filter(holds);
        let unknown =
            || self.unknown.get(digest).map(|read_at| Answer::Unknown { read_at }).filter(holds);
        known().or_else(unknown)
    }

    /// The work of one flight.
    async fn load_and_keep(self: &Arc<Self>, digest: KeyDigest) -> Loaded {
        // Another flight may have landed between this request's look and its take-off.
        if let Some(answer) = self.look_up(&digest) {
            return Ok(answer);
        }
        let answer = self.read(digest).await?;
        if self.holds(&digest, &answer) {
            match &answer {
                Answer::Known(key) => self.known.insert(digest, Arc::clone(key)),
                Answer::Unknown { read_at } => self.unknown.insert(digest, *read_at),
            }
        }
        Ok(answer)
    }

    async fn read(self: &Arc<Self>, digest: KeyDigest) -> Loaded {
        // Before the read, or a change in between would go unseen.
        let read_at = self.epochs.now();
        Ok(match self.find(digest).await? {
            Some(owned) => Answer::Known(Arc::new(boil(owned, read_at))),
            None => Answer::Unknown { read_at },
        })
    }

    /// Asks the store, for a bounded time.
    async fn find(self: &Arc<Self>, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        let Ok(permit) = Arc::clone(&self.loads_left).try_acquire_owned() else {
            return Err(unavailable(TooManyLoads));
        };
        let shared = Arc::clone(self);
        // A task of its own, so that the permit comes back when the store is done with the look-up
        // and not when nobody waits for it any more.
        let finding = tokio::spawn(async move {
            let found = shared.store.find(digest).await;
            drop(permit);
            found
        });
        match tokio::time::timeout(FIND_TIMEOUT, finding).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(unavailable(BrokenOff)),
            Err(_) => Err(unavailable(FindTimedOut)),
        }
    }

    fn holds(&self, digest: &KeyDigest, answer: &Answer) -> bool {
        match answer {
            Answer::Known(key) => self.epochs.hold(digest, key.app, key.account, key.read_at),
            Answer::Unknown { read_at } => self.epochs.holds_unknown(digest, *read_at),
        }
    }
}

impl Answer {
    fn known(self) -> Option<Arc<KeyRecord>> {
        match self {
            Self::Known(key) => Some(key),
            Self::Unknown { .. } => None,
        }
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

#[derive(Debug, thiserror::Error)]
#[error("the write was broken off")]
struct CommitBrokenOff;

#[derive(Debug, thiserror::Error)]
#[error("the store did not answer within {FIND_TIMEOUT:?}")]
struct FindTimedOut;

#[derive(Debug, thiserror::Error)]
#[error("{LOADS_MAX} look-ups in the store are under way already")]
struct TooManyLoads;

/// Invalidates when dropped, so that no way out of a commit, a panic included, leaves it out.
struct Invalidation<'a, S> {
    shared: &'a Shared<S>,
    subject: Subject,
}

impl<S> Drop for Invalidation<'_, S> {
    fn drop(&mut self) {
        self.shared.epochs.invalidate(self.subject);
    }
}

/// Takes a digest's first 64 bits as its hash: they are those of an HMAC already.
pub(crate) type DigestHasher = BuildHasherDefault<DigestPrefix>;

#[derive(Default)]
pub(crate) struct DigestPrefix(u64);

impl Hasher for DigestPrefix {
    fn write_u64(&mut self, prefix: u64) {
        self.0 = prefix;
    }

    fn write(&mut self, bytes: &[u8]) {
        // A digest writes one `u64`. Should anything else ever be hashed: FNV-1a.
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
