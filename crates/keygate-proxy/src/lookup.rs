//! Step 5: the record of a key, from the cache or the store, or why there is none. An outage says
//! nothing about a key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::decide::decide_key;
use keygate_core::{Denial, KeyDigest, KeyRecord, UnixMillis};
use keygate_store::cached::{Cached, CachedKeys};
use keygate_store::keys::KeyStore;
use keygate_telemetry::LookupTimer;
use quanta::Instant;

use crate::attempts::Attempts;
use crate::failure::OutageLog;

/// What a client is told to wait when the store is out of reach.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How a request waited for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waited {
    first: Load,
    /// Once it had waited for its limits, too.
    again: Option<Load>,
}

/// One waiting for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub since: Instant,
    pub took: Duration,
}

impl Waited {
    fn and(so_far: Option<Self>, load: Load) -> Self {
        match so_far {
            Some(waited) => Self { again: Some(load), ..waited },
            None => Self { first: load, again: None },
        }
    }

    pub(crate) fn loads(self) -> impl Iterator<Item = Load> {
        [Some(self.first), self.again].into_iter().flatten()
    }

    /// How long in all.
    pub(crate) fn took(self) -> Duration {
        self.loads().map(|load| load.took).sum()
    }
}

/// Finds keys' records.
pub(crate) struct Lookup<S: KeyStore> {
    keys: Arc<CachedKeys<S>>,
    outage_log: OutageLog,
    timer: LookupTimer,
}

impl<S: KeyStore> Lookup<S> {
    pub(crate) fn new(keys: Arc<CachedKeys<S>>, timer: LookupTimer) -> Self {
        Self { keys, outage_log: OutageLog::default(), timer }
    }

    pub(crate) fn keys(&self) -> &Arc<CachedKeys<S>> {
        &self.keys
    }

    /// The record of a key. Asks the store if the cache does not know, unless the client has failed
    /// too often to be worth it. Notes in `waited` how long that took.
    ///
    /// # Errors
    /// [`Denial::KeyUnknown`], [`Denial::TooManyFailures`] or [`Denial::KeyStoreUnavailable`].
    pub(crate) async fn find(
        &self,
        digest: KeyDigest,
        (client, came): (IpAddr, Instant),
        attempts: &Attempts,
        waited: &mut Option<Waited>,
    ) -> Result<Arc<KeyRecord>, Denial> {
        match self.keys.cached_at(&digest, came) {
            Some(Cached::Known(key)) => Ok(key),
            Some(Cached::Unknown) => Err(Denial::KeyUnknown),
            None => {
                attempts.check(client)?;
                // Boxed, so that requests that need not wait carry no room for it.
                Box::pin(self.load(digest, waited)).await
            }
        }
    }

    /// Looks again at a key that a request has waited since: an acknowledged revocation stops every
    /// request that has not been forwarded.
    ///
    /// # Errors
    /// What has become of the key.
    pub(crate) async fn check_again(
        &self,
        digest: KeyDigest,
        key: &KeyRecord,
        now: impl Fn() -> UnixMillis,
        waited: &mut Option<Waited>,
    ) -> Result<(), Denial> {
        if self.keys.still_holds(&digest, key) {
            return decide_key(key, now());
        }
        let key = Box::pin(self.load(digest, waited)).await?;
        decide_key(&key, now())
    }

    async fn load(
        &self,
        digest: KeyDigest,
        waited: &mut Option<Waited>,
    ) -> Result<Arc<KeyRecord>, Denial> {
        let began = Instant::now();
        let loaded = self.keys.load(digest).await;
        let took = began.elapsed();
        self.timer.observe(took);
        *waited = Some(Waited::and(*waited, Load { since: began, took }));
        match loaded {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err(Denial::KeyUnknown),
            Err(error) => {
                self.outage_log.tell(&error);
                // Never 401.
                Err(Denial::KeyStoreUnavailable { retry_after: STORE_RETRY_AFTER })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_waits_is_no_wait() {
        let began = Instant::now();
        let load = |since, took| Load {
            since: began + Duration::from_millis(since),
            took: Duration::from_millis(took),
        };
        let once = Waited::and(None, load(0, 5));
        let twice = Waited::and(Some(once), load(1_000, 7));
        assert!(once.loads().eq([load(0, 5)]));
        assert!(twice.loads().eq([load(0, 5), load(1_000, 7)]));
        assert_eq!((once.took().as_millis(), twice.took().as_millis()), (5, 12));
    }
}
