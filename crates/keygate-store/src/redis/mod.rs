//! The store that a fleet shares: a Redis or Valkey, alone, under Sentinel or in a cluster. Knows the
//! client library; no other part of the program does.
//!
//! `layout.rs` says where things lie, `read.rs` and `write.rs` are the store's calls, `primary.rs`
//! carries them, `link.rs` keeps the connections up and follows the changes that others make.

mod change;
mod dial;
mod fleet;
mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod import;
mod layout;
mod limits;
mod link;
mod once;
mod primary;
mod reach;
mod read;
mod reply;
mod script;
mod told;
mod transaction;
mod usage;
mod used;
mod write;

use std::sync::Arc;
use std::time::Duration;

use keygate_config::RedisStore as Settings;
use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

pub use self::dial::SetupError;
use self::layout::Names;
pub use self::limits::Lessor;
use self::link::Link;
use self::primary::{Primary, Times};
use crate::coherence::Coherence;
use crate::fleet::{Fleet, Gateway, HeldPeppers, LinkState};
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// Who wants to know how well the changes of others come through. Must not block.
pub trait LinkObserver: Send + Sync + 'static {
    fn link(&self, state: LinkState);
    /// Whether the store answered in time when it was asked where it is.
    fn answered(&self, _in_time: bool) {}
    /// How long after it was made a change took effect here.
    fn change_applied(&self, lag: Duration);
}

/// A store in Redis. Dropping it ends its connections.
pub struct RedisStore {
    primary: Arc<Primary>,
    names: Names,
    log_max: u64,
    gateway: Gateway,
    link: Link,
}

impl RedisStore {
    /// Begins to connect, and goes on trying for as long as the store lives: calls fail with
    /// [`StoreError::Unavailable`] meanwhile. To be called within a runtime, which then carries the
    /// connections.
    ///
    /// # Errors
    /// [`SetupError`] when the certificates cannot be used.
    pub fn start(
        settings: &Settings,
        gateway: Gateway,
        coherence: Arc<Coherence>,
        observer: Arc<dyn LinkObserver>,
    ) -> Result<Self, SetupError> {
        Self::start_with(settings, gateway, HeldPeppers::default(), coherence, observer)
    }

    /// The same for a gateway that tells its fleet of its peppers.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        settings: &Settings,
        gateway: Gateway,
        peppers: HeldPeppers,
        coherence: Arc<Coherence>,
        observer: Arc<dyn LinkObserver>,
    ) -> Result<Self, SetupError> {
        let primary = Arc::new(Primary::new(Times {
            find: settings.find_timeout,
            write: settings.write_timeout,
            wait_replicas: settings.wait_replicas,
            wait: settings.wait_timeout,
        }));
        let names = Names::new(&settings.key_prefix);
        let dialer = dial::Dialer::new(settings, &names)?;
        let link = Link::start(
            dialer,
            Arc::clone(&primary),
            names.clone(),
            gateway.clone(),
            peppers,
            coherence,
            observer,
        );
        Ok(Self { primary, names, log_max: settings.log_max, gateway, link })
    }

    /// Waits until the store was reached, or not for so long.
    pub async fn reached(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.link.reached()).await.is_ok()
    }

    /// What lends this gateway its part of the fleet's limits.
    #[must_use]
    pub fn lessor(&self) -> Lessor {
        let (primary, names) = (Arc::clone(&self.primary), self.names.clone());
        Lessor { primary, names, gateway: self.gateway.id.as_str().into() }
    }

    /// What is heard of the changes of others.
    #[must_use]
    pub fn link(&self) -> LinkState {
        self.link.state()
    }
}

impl KeyStore for RedisStore {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        read::find(&self.primary, &self.names, &digest).await
    }

    /// Dropping the future means that the change happens unheard, or not at all.
    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        write::commit(&self.primary, &self.names, self.log_max, &write, &audit).await
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        once::commit_once(&self.primary, &self.names, self.log_max, (&write, &audit), &once).await
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        once::remembered(&self.primary, &self.names, &name, now).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        read::token(&self.primary, &self.names, id).await
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        read::token_by_hash(&self.primary, &self.names, &sha256).await
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        read::tokens(&self.primary, &self.names, page).await
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        used::last(&self.primary, &self.names, &keys).await
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        usage::add(&self.primary, &self.names, &batch, &keep).await
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        usage::number(&self.primary, &self.names, source).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        usage::read(&self.primary, &self.names, &query).await
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        read::pepper_counts(&self.primary, &self.names, now).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        read::account(&self.primary, &self.names, id).await
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        read::app(&self.primary, &self.names, id).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        read::key(&self.primary, &self.names, id).await
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        read::accounts(&self.primary, &self.names, page).await
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        read::apps(&self.primary, &self.names, account, page).await
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        read::keys(&self.primary, &self.names, app, page).await
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        read::audit(&self.primary, &self.names, page).await
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        let counts = read::pepper_counts(&self.primary, &self.names, now).await?;
        Ok(counts.into_iter().map(|(pepper, _)| pepper).collect())
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        import::import(&self.primary, &self.names, self.log_max, &records, &audit).await
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.primary.settle().await
    }

    async fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        fleet::fleet(&self.primary, &self.names).await.map(Some)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.link.end();
        let leave = async |to: &mut _| fleet::leave(to, &self.names, &self.gateway).await;
        self.primary.read(leave).await
    }
}

#[cfg(test)]
mod tests;
