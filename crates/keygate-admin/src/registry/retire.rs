//! Which key to give up when an app has as many as it may have.

use keygate_core::{AppId, KeyId, UnixMillis};
use keygate_store::keys::{KeyStore, Page};
use keygate_store::records::Key;

use super::{Registry, RegistryError};

/// The most keys of an app that are looked at: all live ones, and most that ever were.
const KEYS_MAX: usize = 2_000;
const PAGE: usize = 200;

/// A key that its app can do without best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retire {
    pub id: KeyId,
    pub hint: String,
    pub name: Option<String>,
    /// Nothing if it never was, or nobody can tell now.
    pub last_used_at: Option<UnixMillis>,
}

impl<S: KeyStore> Registry<S> {
    /// The same, where a refusal for too many keys says how many there may be, and which one to give up.
    pub(super) async fn or_whom_to_retire<T>(
        &self,
        app: AppId,
        outcome: Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        match outcome {
            Err(RegistryError::TooManyLiveKeys { live, most: _, retire: None }) => {
                // Without it the refusal is still right.
                let retire = self.to_retire(app).await.ok().flatten().map(Box::new);
                let most = self.config().keys.keys_max_live;
                Err(RegistryError::TooManyLiveKeys { live, most, retire })
            }
            settled => settled,
        }
    }

    /// The live key that has not been used for the longest time; the oldest, where nobody can tell.
    async fn to_retire(&self, app: AppId) -> Result<Option<Retire>, RegistryError> {
        let live = self.counted_keys(app).await?;
        let ids = live.iter().map(|key| key.id).collect();
        let used = self.store().last_used(ids).await.unwrap_or_default();
        let used = used.into_iter().map(|last| last.map(|last| last.at));
        let used = used.chain(std::iter::repeat(None));
        // One that was never used has been idle since it was made.
        let idle_longest = live
            .into_iter()
            .zip(used)
            .min_by_key(|(key, used)| used.map_or(key.created_at, |used| used.max(key.created_at)));
        Ok(idle_longest.map(|(key, last_used_at)| {
            let Key { id, hint, name, .. } = key;
            Retire { id, hint, name, last_used_at }
        }))
    }

    /// The keys that count against the app's cap.
    async fn counted_keys(&self, app: AppId) -> Result<Vec<Key>, RegistryError> {
        let now = self.now();
        let (mut counted, mut after) = (Vec::new(), None);
        for _ in 0..KEYS_MAX / PAGE {
            let keys = self.store().keys(app, Page { after, limit: PAGE }).await?;
            let is_last = keys.len() < PAGE;
            after = keys.last().map(|key| key.id);
            counted.extend(keys.into_iter().filter(|key| now.0 < key.counts_until()));
            if is_last {
                break;
            }
        }
        Ok(counted)
    }
}
