//! The cache in front of a store: bounded, and never wrong about a change that was acknowledged.
//! Known and unknown keys are kept apart, so that made-up keys cannot crowd out real ones.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_config::Cache as CacheSettings;
use keygate_core::cells::Cells;
use keygate_core::{KeyDigest, KeyRecord};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use quanta::Instant;
use tokio::sync::Semaphore;

use crate::boil::boil;
use crate::coherence::Coherence;
use crate::flights::Flights;
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, StoreError, StoredRecord, Subject, Write,
};
use crate::known::{Ages, KnownKeys};
use crate::records::AuditEntry;

/// The longest that a look-up in the store is waited for. A request may wait for two of them: see
/// [`CachedKeys::load`].
pub const FIND_TIMEOUT: Duration = Duration::from_secs(2);

/// The most look-ups in the store that have begun and not ended, those that nobody waits for any
/// more included: a store that hangs collects no more than these. Far more than it takes to keep a
/// store busy, so that a burst of keys that are not cached waits rather than fails.
pub const LOADS_MAX: usize = 4_096;

/// A store with a cache in front. Cheap to ask, and coherent: see `epochs.rs` for the argument.
///
/// A known key is answered from memory for as long as the store can be followed and for `stale_max`
/// after that. One that is older than its `ttl` is read again beside the request that uses it, so
/// that no request with a known key ever waits for the store.
pub struct CachedKeys<S: KeyStore> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    store: S,
    known: KnownKeys,
    /// Holds the `read_at` of the load that found nothing.
    unknown: Cache<KeyDigest, u64, DigestHasher>,
    coherence: Arc<Coherence>,
    flights: Arc<Flights<KeyDigest, Loaded>>,
    /// One permit for each look-up that may still begin.
    loads_left: Semaphore,
    counters: Counters,
}

/// What the cache knows about a key.
#[derive(Clone, Debug)]
pub enum Cached {
    Known(Arc<KeyRecord>),
    /// The store has no such key.
    Unknown,
}

/// What the next request with a key would meet.
#[derive(Clone, Debug)]
pub struct Peeked {
    /// Nothing if the store has no such key.
    pub key: Option<Arc<KeyRecord>>,
    /// Whether it would be met without a look-up in the store.
    pub is_cached: bool,
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
    /// Of nearly every request.
    hits: Cells<1>,
    misses: AtomicU64,
    unknown_hits: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl<S: KeyStore> CachedKeys<S> {
    #[must_use]
    pub fn new(store: S, coherence: Arc<Coherence>, settings: &CacheSettings) -> Self {
        let counters = Counters::default();
        let on_eviction = || {
            let evictions = Arc::clone(&counters.evictions);
            move || {
                evictions.fetch_add(1, Relaxed);
            }
        };
        // Long enough that a key in use, read at most twice its `ttl` before an outage began, works
        // for all of `stale_max`.
        let end = settings.stale_max.saturating_add(settings.ttl.saturating_mul(2));
        let ages = Ages { due: settings.ttl, end };
        let known = KnownKeys::new(settings.keys_max, ages, on_eviction());
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
            coherence,
            flights: Arc::new(Flights::new(FIND_TIMEOUT, || {
                Err(Arc::new(unavailable(FindTimedOut)))
            })),
            loads_left: Semaphore::new(LOADS_MAX),
            counters,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is known about a key without asking the store; nothing if that has to be asked.
    #[must_use]
    pub fn cached(&self, digest: &KeyDigest) -> Option<Cached> {
        self.cached_at(digest, Instant::now())
    }

    /// The same for a request that came just now, whose clock was read then.
    #[must_use]
    pub fn cached_at(&self, digest: &KeyDigest, now: Instant) -> Option<Cached> {
        let Shared { coherence, known, counters, .. } = &*self.shared;
        let now = coherence.at(now);
        let holds = |key: &KeyRecord| {
            coherence.may_use(now) && coherence.holds(digest, key.app, key.account, key.read_at)
        };
        if let Some(found) = known.get(digest, now, holds) {
            found.key.fetch_ahead();
            counters.hits.add([(0, 1)]);
            if found.is_due {
                self.refresh(*digest);
            }
            return Some(Cached::Known(found.key));
        }
        if self.shared.is_unknown(digest, now) {
            counters.unknown_hits.fetch_add(1, Relaxed);
            return Some(Cached::Unknown);
        }
        counters.misses.fetch_add(1, Relaxed);
        None
    }

    /// Whether a record that was given out is still the truth, as far as this cache knows: cheap,
    /// for whoever goes on acting on it.
    #[must_use]
    pub fn still_holds(&self, digest: &KeyDigest, key: &KeyRecord) -> bool {
        let coherence = &self.shared.coherence;
        coherence.is_usable() && coherence.holds(digest, key.app, key.account, key.read_at)
    }

    /// Reads a key again while others go on with what is cached.
    #[cold]
    fn refresh(&self, digest: KeyDigest) {
        let shared = Arc::clone(&self.shared);
        self.shared.flights.launch(digest, || async move { shared.read_again(digest).await });
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

    /// What is known about a key. Asks the store if the cache does not know, and keeps and counts
    /// nothing: for whoever tells beforehand what a request would meet.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn peek(&self, digest: KeyDigest) -> Result<Peeked, Arc<StoreError>> {
        if let Some(answer) = self.shared.look_up(&digest) {
            return Ok(Peeked { key: answer.known(), is_cached: true });
        }
        match tokio::time::timeout(FIND_TIMEOUT, self.shared.read(digest)).await {
            Ok(answer) => Ok(Peeked { key: answer?.known(), is_cached: false }),
            Err(_) => Err(Arc::new(unavailable(FindTimedOut))),
        }
    }

    /// Carries out a change and makes the cache forget what it may alter, even if the caller goes
    /// away midway.
    ///
    /// An outage may have hidden a success. What an embedded store then holds is asked for again. In a
    /// store that is followed such a change shows up in the log, as those of others do; to forget
    /// keys for it now would cost them their answer for as long as the outage lasts.
    ///
    /// # Errors
    /// As [`KeyStore::commit`].
    pub async fn commit(
        &self,
        write: Write,
        audit: AuditEntry,
    ) -> Result<ChangeNumber, StoreError> {
        let subject = write.subject();
        self.change(subject, |shared| async move { shared.store.commit(write, audit).await }).await
    }

    /// The same of a change that is to be carried out once.
    ///
    /// # Errors
    /// As [`KeyStore::commit_once`].
    pub async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        let subject = write.subject();
        let commit = |shared: Arc<Shared<S>>| async move {
            shared.store.commit_once(write, audit, once).await
        };
        self.change(subject, commit).await
    }

    /// Adds records that come from elsewhere, and makes the cache forget which keys are unknown.
    ///
    /// # Errors
    /// As [`KeyStore::import`].
    pub async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        let import =
            |shared: Arc<Shared<S>>| async move { shared.store.import(records, audit).await };
        self.change(Subject::Unknown, import).await
    }

    async fn change<T, F>(
        &self,
        subject: Subject,
        work: impl FnOnce(Arc<Shared<S>>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let work = work(Arc::clone(&shared));
        // A task of its own: dropping the caller must not drop the work between write and
        // invalidation. It ends when the store answers.
        let changing = tokio::spawn(async move {
            let invalidation = Invalidation { shared: &*shared, subject: Some(subject) };
            let result = work.await;
            let is_made = matches!(result, Ok(_) | Err(StoreError::NotDurable { .. }));
            if !is_made && !shared.coherence.is_alone() {
                invalidation.call_off();
            }
            result
        });
        match changing.await {
            Ok(result) => result,
            Err(_) => Err(unavailable(CommitBrokenOff)),
        }
    }

    /// Makes the cache forget about `subject`, at once and in constant time, loads under way
    /// included.
    pub fn invalidate(&self, subject: Subject) {
        self.shared.coherence.invalidate(subject);
    }

    /// What this cache and its store's follower share.
    #[must_use]
    pub fn coherence(&self) -> &Coherence {
        &self.shared.coherence
    }

    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let Shared { known, unknown, counters, coherence, .. } = &*self.shared;
        // The numbers of entries lag behind by what has not been worked in yet.
        unknown.run_pending_tasks();
        CacheCounts {
            hits: counters.hits.sum(0),
            misses: counters.misses.load(Relaxed),
            unknown_hits: counters.unknown_hits.load(Relaxed),
            entries: known.count(coherence.now()),
            unknown_entries: unknown.entry_count(),
            evictions: counters.evictions.load(Relaxed),
        }
    }
}

impl<S: KeyStore> Shared<S> {
    /// A key is unknown only while changes are followed: otherwise it may have been made since, and
    /// nobody may be told that it was not.
    fn is_unknown(&self, digest: &KeyDigest, now: u64) -> bool {
        let holds = |read_at| self.coherence.holds_unknown(digest, read_at);
        self.coherence.may_keep(now) && self.unknown.get(digest).is_some_and(holds)
    }

    fn look_up(&self, digest: &KeyDigest) -> Option<Answer> {
        let now = self.coherence.now();
        if !self.coherence.may_use(now) {
            return None;
        }
        let known = self.known.get(digest, now, |_| true).map(|found| Answer::Known(found.key));
        let unknown = || self.unknown.get(digest).map(|read_at| Answer::Unknown { read_at });
        let unknown = || unknown().filter(|_| self.coherence.may_keep(now));
        known.or_else(unknown).filter(|answer| self.holds(digest, answer))
    }

    /// The work of one flight.
    async fn load_and_keep(&self, digest: KeyDigest) -> Loaded {
        // Another flight may have landed between this request's look and its take-off.
        if let Some(answer) = self.look_up(&digest) {
            return Ok(answer);
        }
        let answer = self.read(digest).await?;
        self.keep(digest, &answer);
        Ok(answer)
    }

    /// The work of a flight that nobody need wait for: the cache has an answer already.
    async fn read_again(&self, digest: KeyDigest) -> Loaded {
        let answer = self.read(digest).await?;
        if matches!(answer, Answer::Unknown { .. }) {
            // It was known. No change said so: the store has lost it.
            self.coherence.invalidate(Subject::Key(digest));
        }
        self.keep(digest, &answer);
        Ok(answer)
    }

    fn keep(&self, digest: KeyDigest, answer: &Answer) {
        let now = self.coherence.now();
        if !self.coherence.may_keep(now) || !self.holds(&digest, answer) {
            return;
        }
        match answer {
            Answer::Known(key) => self.known.insert(digest, Arc::clone(key), now),
            Answer::Unknown { read_at } => self.unknown.insert(digest, *read_at),
        }
    }

    async fn read(&self, digest: KeyDigest) -> Loaded {
        // Whoever answers may have been left behind by those who take changes now.
        if !self.coherence.is_usable() {
            return Err(Arc::new(unavailable(NotFollowed)));
        }
        // Held until the store is done with the look-up, however long nobody has waited for it.
        let Ok(_permit) = self.loads_left.try_acquire() else {
            return Err(Arc::new(unavailable(TooManyLoads)));
        };
        // Before the read, or a change in between would go unseen.
        let read_at = self.coherence.epoch();
        Ok(match self.store.find(digest).await? {
            Some(owned) => Answer::Known(Arc::new(boil(owned, read_at))),
            None => Answer::Unknown { read_at },
        })
    }

    fn holds(&self, digest: &KeyDigest, answer: &Answer) -> bool {
        match answer {
            Answer::Known(key) => self.coherence.holds(digest, key.app, key.account, key.read_at),
            Answer::Unknown { read_at } => self.coherence.holds_unknown(digest, *read_at),
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
#[error("the store's changes have not been followed for longer than `stale_max`")]
struct NotFollowed;

#[derive(Debug, thiserror::Error)]
#[error("{LOADS_MAX} look-ups in the store are under way already")]
struct TooManyLoads;

/// Invalidates when dropped, so that no way out of a commit, a panic included, leaves it out.
struct Invalidation<'a, S> {
    shared: &'a Shared<S>,
    subject: Option<Subject>,
}

impl<S> Invalidation<'_, S> {
    fn call_off(mut self) {
        self.subject = None;
    }
}

impl<S> Drop for Invalidation<'_, S> {
    fn drop(&mut self) {
        if let Some(subject) = self.subject {
            self.shared.coherence.invalidate(subject);
        }
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
pub(crate) mod tests;
