//! Counts all keys, gently and for ever, for the metrics. Knows no key by the time it is done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keygate_store::keys::KeyStore;
use keygate_store::records::Role;
use keygate_telemetry::{Metrics, Row};

use super::walk::{Walk, Within};
use super::{Actor, Registry, RegistryError};

/// The most records that are read a second.
const RECORDS_PER_S: u64 = 1_000;
const PAGE: usize = 200;
/// From the end of one walk to the start of the next.
const EVERY: Duration = Duration::from_secs(600);
/// The same after one that the store broke off.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// How many keys there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Neither revoked nor expired.
    pub live: u64,
    /// Live, and older than they may be.
    pub past_policy: u64,
    /// Live, and to end within seven days.
    pub expiring_soon: u64,
    /// Live, and made by another system.
    pub imported: u64,
}

impl<S: KeyStore> Registry<S> {
    /// Counts again and again, and shows the last complete count.
    pub async fn count_keys_for_ever(self, metrics: Metrics) {
        let mut shown: Option<Arc<Mutex<Census>>> = None;
        loop {
            let wait = match self.census().await {
                Ok(census) => {
                    match &shown {
                        Some(shown) => {
                            *shown.lock().unwrap_or_else(PoisonError::into_inner) = census;
                        }
                        None => shown = Some(show(census, &metrics)),
                    }
                    EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "keys could not be counted");
                    AFTER_FAILURE
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts all keys once, at most a thousand records a second.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn census(&self) -> Result<Census, RegistryError> {
        let by = Actor { name: "census".to_owned(), from: None, role: Role::Viewer };
        let mut walk = Walk::start(self, &by, Within::Everything, None).await?;
        let mut census = Census::default();
        while let Some(step) = walk.step(PAGE).await? {
            let now = self.now();
            for (app, key) in
                step.keys.iter().flat_map(|(app, keys)| keys.iter().map(move |key| (app, key)))
            {
                let end = key.works_until();
                if end <= now.0 {
                    continue;
                }
                let policy = self.policy(app, key.tier.as_deref());
                census.live += 1;
                census.past_policy += u64::from(policy.is_past(key, now));
                census.expiring_soon += u64::from(end < now.saturating_add(SOON).0);
                census.imported += u64::from(key.pepper.is_none());
            }
            let cost = u64::try_from(step.cost).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_millis(cost * 1_000 / RECORDS_PER_S)).await;
        }
        Ok(census)
    }
}

/// From now on the count is in the metrics: none is better than one that is not complete.
fn show(census: Census, metrics: &Metrics) -> Arc<Mutex<Census>> {
    let shown = Arc::new(Mutex::new(census));
    let read = Arc::clone(&shown);
    let take = move || *read.lock().unwrap_or_else(PoisonError::into_inner);
    metrics.snapshot_fn(
        take,
        [
            Row::gauge(
                "keygate_keys_live",
                "Keys that are neither revoked nor expired, counted every ten minutes; absent until \
                 the first count is complete.",
                |census: &Census| census.live,
            ),
            Row::gauge(
                "keygate_keys_past_policy",
                "Live keys that are older than the `max_age` of their tier or app; counted with \
                 keygate_keys_live.",
                |census| census.past_policy,
            ),
            Row::gauge(
                "keygate_keys_expiring_soon",
                "Live keys that end within seven days; counted with keygate_keys_live.",
                |census| census.expiring_soon,
            ),
            Row::gauge(
                "keygate_keys_imported",
                "Live keys that another system made; counted with keygate_keys_live.",
                |census| census.imported,
            ),
        ],
    );
    shown
}
