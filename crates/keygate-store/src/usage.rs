//! When keys were last used: noted in memory beside the requests, and told to the store every two
//! seconds. No request waits for it, and what is lost with a crash is seconds of one time.

pub mod records;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keygate_core::{KeyId, KeyRecord, UnixMillis};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cached::CachedKeys;
use crate::keys::{KeyStore, StoreError};

/// The most keys whose use is noted and not yet told. One too many goes unnoted, and is counted.
pub const USES_MAX: usize = SHARDS * SHARD_USES_MAX;

/// Of the uses of one key, one in so long is noted.
const NOTE_EVERY: Duration = Duration::from_secs(5);
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// Keys that the store is told of in one call.
const BATCH_MAX: usize = 1_000;
/// How long a gateway that stops may take to tell what is left.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Enough that two threads seldom meet.
const SHARDS: usize = 64;
const SHARD_USES_MAX: usize = 4_096;

/// The uses of keys. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Uses(Arc<Inner>);

struct Inner {
    shards: [Mutex<Shard>; SHARDS],
    dropped: AtomicU64,
    /// Held by the one who tells the store, so that whoever tells the last of it is the last.
    telling: tokio::sync::Mutex<()>,
}

type Shard = HashMap<KeyId, UnixMillis, BuildHasherDefault<RandomBits>>;

/// Takes an id's own random bits as its hash, but for those that the shard was chosen by. Our ids come
/// from our store: nobody can choose them to collide.
#[derive(Default)]
struct RandomBits(u64);

impl Hasher for RandomBits {
    fn write_u128(&mut self, id: u128) {
        const LOW: u128 = u64::MAX as u128;
        self.0 = u64::try_from((id / SHARDS as u128) & LOW).unwrap_or_default();
    }

    fn write(&mut self, bytes: &[u8]) {
        // An id writes one number. Should anything else ever be hashed: FNV-1a.
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Default for Uses {
    fn default() -> Self {
        Self(Arc::new(Inner {
            shards: std::array::from_fn(|_| Mutex::default()),
            dropped: AtomicU64::new(0),
            telling: tokio::sync::Mutex::default(),
        }))
    }
}

impl Uses {
    /// A key was used. Nearly always no more than one load of what belongs to the key alone.
    #[inline]
    pub fn note(&self, key: &KeyRecord, now: UnixMillis) {
        if key.last_noted.is_due(now, NOTE_EVERY) {
            self.put(key.id, now);
        }
    }

    /// How many uses went unnoted because too many were.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Tells the store what was noted. What it does not take, because it fails or because this is
    /// dropped midway, stays for the next time.
    ///
    /// # Errors
    /// What the store said.
    pub async fn flush(&self, store: &impl KeyStore) -> Result<(), StoreError> {
        let _telling = self.0.telling.lock().await;
        let mut untold = Untold { uses: self, left: self.take() };
        while !untold.left.is_empty() {
            let rest = untold.left.len().saturating_sub(BATCH_MAX);
            let batch = untold.left.get(rest..).unwrap_or_default().to_vec();
            store.mark_used(batch).await?;
            untold.left.truncate(rest);
        }
        Ok(())
    }

    /// Tells the store again and again, for as long as the runtime lives.
    pub async fn run<S: KeyStore>(self, keys: Arc<CachedKeys<S>>) {
        let mut ticks = interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            ticks.tick().await;
            match self.flush(keys.store()).await {
                Ok(()) if is_failing => {
                    tracing::info!("the last uses of keys are written again");
                    is_failing = false;
                }
                Err(error) if !is_failing => {
                    tracing::warn!(%error, "the last uses of keys cannot be written: they are kept");
                    is_failing = true;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Tells the store what is left. To be called when no request comes any more.
    pub async fn stop(&self, store: &impl KeyStore) {
        match timeout(GOODBYE_MAX, self.flush(store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last uses of keys are lost"),
            Err(_) => tracing::debug!("not all last uses of keys were written in time"),
        }
    }

    #[inline(never)]
    fn put(&self, key: KeyId, at: UnixMillis) {
        let mut shard = self.shard(key);
        let is_full = shard.len() >= SHARD_USES_MAX;
        match shard.get_mut(&key) {
            Some(noted) => *noted = at.max(*noted),
            None if is_full => {
                self.0.dropped.fetch_add(1, Relaxed);
            }
            None => {
                shard.insert(key, at);
            }
        }
    }

    /// All that was noted.
    fn take(&self) -> Vec<(KeyId, UnixMillis)> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            // As many will come again: making room then would be the requests' to do.
            let noted = lock(shard).len();
            let empty = Shard::with_capacity_and_hasher(noted, Default::default());
            let taken = std::mem::replace(&mut *lock(shard), empty);
            all.extend(taken);
        }
        all
    }

    fn shard(&self, key: KeyId) -> MutexGuard<'_, Shard> {
        // The last bits of an id are random.
        let at = usize::try_from(key.as_u128() % SHARDS as u128).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "a remainder is smaller than its divisor")]
        lock(&self.0.shards[at])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Each change is one call, so a panic elsewhere leaves nothing half done.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the store was not yet told. Dropping it notes it again.
struct Untold<'a> {
    uses: &'a Uses,
    left: Vec<(KeyId, UnixMillis)>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        for (key, at) in self.left.drain(..) {
            self.uses.put(key, at);
        }
    }
}

#[cfg(test)]
mod tests;
