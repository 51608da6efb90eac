//! One load per key, or whatever it is for, however many wait for it. A load belongs to nobody who waits: it runs as a
//! task of its own, so a client that leaves neither ends it nor makes the others start again.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Enough that two threads with different keys seldom meet.
const SHARDS: usize = 64;

/// The loads under way, by key. `T` is what a load comes to.
pub(crate) struct Flights<K, T> {
    shards: Box<[Shard<K, T>]>,
    hasher: RandomState,
    /// How long those who wait do so, and what they are told then.
    patience: Duration,
    too_late: fn() -> T,
}

type Shard<K, T> = Mutex<UnderWay<K, T>>;
type UnderWay<K, T> = HashMap<K, watch::Receiver<Option<T>>>;

/// What a load can be for.
pub(crate) trait Destination: Copy + Eq + Hash + Send + Sync + 'static {}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Destination for K {}

/// The task that loaded ended without a result: it panicked, or the program is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the load of the key was broken off")]
pub(crate) struct BrokenOff;

impl<K: Destination, T: Clone + Send + Sync + 'static> Flights<K, T> {
    pub(crate) fn new(patience: Duration, too_late: fn() -> T) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), patience, too_late }
    }

    /// Waits for the load of this key that is under way, or for `load`, started now.
    ///
    /// Dropping the returned future leaves the load running.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        load: impl FnOnce() -> F,
    ) -> Result<T, BrokenOff>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut landed = self.board(key, load);
        let result = landed.wait_for(Option::is_some).await.map_err(|_| BrokenOff)?;
        result.clone().ok_or(BrokenOff)
    }

    /// Starts `load` for this key unless a load of it is under way, and waits for neither. Does
    /// nothing outside a runtime.
    pub(crate) fn launch<F>(self: &Arc<Self>, key: K, load: impl FnOnce() -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let is_under_way = self.shard(&key).contains_key(&key);
        if !is_under_way && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.board(key, load));
        }
    }

    fn board<F>(self: &Arc<Self>, key: K, load: impl FnOnce() -> F) -> watch::Receiver<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        match self.shard(&key).entry(key) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(free) => free.insert(receiver.clone()),
        };
        // The table is unlocked again: a runtime that is stopping drops the task here and now, and
        // with it the landing, which locks the table.
        let landing = Landing { flights: Arc::clone(self), key };
        let load = load();
        let (patience, too_late) = (self.patience, self.too_late);
        // Those who wait own nothing of the load but its result.
        tokio::spawn(async move {
            let mut load = pin!(load);
            let result = tokio::time::timeout(patience, load.as_mut()).await;
            // Gone from the table before the result is seen: whoever does not like it starts a new
            // load instead of joining this one again.
            drop(landing);
            let is_late = result.is_err();
            sender.send_replace(Some(result.unwrap_or_else(|_| too_late())));
            if is_late {
                // What it holds is given back when the store is done with it, and not before.
                drop(load.await);
            }
        });
        receiver
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, UnderWay<K, T>> {
        // The low bits pick a slot within the map; take others for the shard.
        let place = (self.hasher.hash_one(key) >> 32) % SHARDS as u64;
        #[expect(clippy::indexing_slicing, reason = "the remainder is within the list")]
        let shard = &self.shards[place as usize];
        // No code that can panic runs under the lock, and a map of receivers is never half-right.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a load out of the table however it ends: a panic or a stopping runtime must not leave a
/// key that can never be loaded again.
struct Landing<K: Destination, T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<K, T>>,
    key: K,
}

impl<K: Destination, T: Clone + Send + Sync + 'static> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.shard(&self.key).remove(&self.key);
    }
}
