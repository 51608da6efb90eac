//! Ends what runs on behalf of a key that is no longer good, or waits for a body too long: walks the
//! lines four times a second, asks the cache about each key, and the store only where it cannot tell.
//!
//! Only what ends a key ends its requests: revoked, disabled, expired, its app disabled, its account
//! suspended. Narrower scopes or networks count from the next request on. An outage ends nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::decide::decide_key;
use keygate_core::{Denial, KeyDigest, KeyRecord, UnixMillis};
use keygate_store::cached::CachedKeys;
use keygate_store::keys::{KeyStore, StoreError};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::failure::ErrorChain;
use crate::line::{self, Line, Lines};

/// A quarter of what is promised.
const EVERY: Duration = Duration::from_millis(250);
/// Look-ups of one sweep that are under way at once: a small part of what the cache allows.
const ASKS_MAX: usize = 256;
/// How long a sweep waits for the store. What was not answered is asked again in the next one.
const ASKING_MAX: Duration = Duration::from_millis(500);

/// The lines of a gateway, and what tells whether their keys are good.
pub(crate) struct Sweep<S: KeyStore> {
    pub lines: Lines,
    pub keys: Arc<CachedKeys<S>>,
    pub clock: fn() -> UnixMillis,
}

impl<S: KeyStore> Clone for Sweep<S> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), keys: Arc::clone(&self.keys), clock: self.clock }
    }
}

/// Lines by a key that may no longer be good.
type Doubtful = HashMap<KeyDigest, Vec<Arc<Line>>>;

impl<S: KeyStore> Sweep<S> {
    /// Sweeps for as long as the runtime lives: also while the last requests finish.
    pub(crate) async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.once().await;
        }
    }

    async fn once(&self) {
        let doubtful = self.walk().await;
        if doubtful.is_empty() {
            return;
        }
        let keys = doubtful.len();
        if timeout(ASKING_MAX, self.ask(doubtful)).await.is_err() {
            tracing::debug!(keys, "not all keys of running requests were looked up in time");
        }
    }

    /// Ends what is known to have expired, and returns what the cache can no longer vouch for.
    async fn walk(&self) -> Doubtful {
        let (now, now_ms) = ((self.clock)(), line::now_ms());
        let mut doubtful = Doubtful::new();
        for part in self.lines.parts() {
            for line in part {
                line.end_if_overdue(now_ms);
                line.review(|running| {
                    if self.keys.still_holds(&running.digest, &running.key) {
                        return decide_key(&running.key, now).err();
                    }
                    doubtful.entry(running.digest).or_default().push(Arc::clone(&line));
                    None
                });
            }
            // This thread serves requests too.
            tokio::task::yield_now().await;
        }
        doubtful
    }

    /// Asks about each key once, however many requests run on its behalf.
    async fn ask(&self, doubtful: Doubtful) {
        // Dropping it ends the asking; look-ups that have begun go on in the cache.
        let mut asking = JoinSet::new();
        for (digest, lines) in doubtful {
            if asking.len() >= ASKS_MAX {
                asking.join_next().await;
            }
            let sweep = self.clone();
            asking.spawn(async move {
                let answer = sweep.keys.load(digest).await;
                sweep.settle(digest, &lines, &answer);
            });
        }
        while asking.join_next().await.is_some() {}
    }

    fn settle(
        &self,
        digest: KeyDigest,
        lines: &[Arc<Line>],
        answer: &Result<Option<Arc<KeyRecord>>, Arc<StoreError>>,
    ) {
        if let Err(error) = answer {
            let error: &StoreError = error;
            tracing::debug!(error = %ErrorChain(error), "the key of a running request is in doubt");
        }
        let now = (self.clock)();
        for line in lines {
            line.review(|running| {
                if running.digest != digest || self.keys.still_holds(&digest, &running.key) {
                    // Another request by now, which was admitted with what is true.
                    return None;
                }
                match answer {
                    Ok(Some(key)) => {
                        running.key = Arc::clone(key);
                        decide_key(key, now).err()
                    }
                    Ok(None) => Some(Denial::KeyUnknown),
                    // An outage says nothing about the key. If it had an end, that still counts.
                    Err(_) => decide_key(&running.key, now).err(),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
