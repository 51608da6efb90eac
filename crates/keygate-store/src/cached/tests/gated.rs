//! A store whose calls stop at gates, which a test opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};
use tokio::sync::{Semaphore, watch};

use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::testing::MemoryStore;
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// A find has read and waits until it may say so. A commit waits before it writes, and then goes on
/// by itself whoever waits for it, as one on a blocking thread does.
pub(crate) struct Gated {
    store: Arc<MemoryStore>,
    pub(crate) find_gate: Semaphore,
    pub(crate) commit_gate: Arc<Semaphore>,
    /// How many calls have come to their gate.
    pub(crate) finds: watch::Sender<u64>,
    pub(crate) commits: watch::Sender<u64>,
    pub(crate) mood: Mood,
}

impl Gated {
    /// With its gates open.
    pub(crate) fn new(store: MemoryStore) -> Self {
        Self {
            store: Arc::new(store),
            find_gate: Semaphore::new(OPEN),
            commit_gate: Arc::new(Semaphore::new(OPEN)),
            finds: watch::Sender::new(0),
            commits: watch::Sender::new(0),
            mood: Mood::default(),
        }
    }
}

impl Gated {
    /// As a restore of an old backup would.
    pub(crate) fn replace(&self, store: MemoryStore) {
        self.store.replace(store);
    }
}

#[derive(Default)]
pub(crate) struct Mood {
    pub(crate) find_fails: AtomicBool,
    pub(crate) find_panics: AtomicBool,
    pub(crate) commit_fails: AtomicBool,
    pub(crate) commit_panics: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("an outage, made by the test")]
struct Outage;

fn outage() -> StoreError {
    StoreError::Unavailable(Box::new(Outage))
}

/// As many permits as any test needs.
pub(crate) const OPEN: usize = 1_000_000;

impl KeyStore for Gated {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        let found = self.store.find(digest).await;
        self.finds.send_modify(|finds| *finds += 1);
        self.find_gate.acquire().await.unwrap().forget();
        assert!(!self.mood.find_panics.load(Ordering::SeqCst), "made by the test");
        if self.mood.find_fails.load(Ordering::SeqCst) { Err(outage()) } else { found }
    }

    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        self.commits.send_modify(|commits| *commits += 1);
        let (store, gate) = (Arc::clone(&self.store), Arc::clone(&self.commit_gate));
        let writing = tokio::spawn(async move {
            gate.acquire().await.unwrap().forget();
            store.commit(write, audit).await
        });
        let committed = writing.await.unwrap();
        assert!(!self.mood.commit_panics.load(Ordering::SeqCst), "made by the test");
        if self.mood.commit_fails.load(Ordering::SeqCst) { Err(outage()) } else { committed }
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        self.store.commit_once(write, audit, once).await
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        self.store.remembered(name, now).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        self.store.token(id).await
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        self.store.token_by_hash(sha256).await
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        self.store.tokens(page).await
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        self.store.last_used(keys).await
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        self.store.add_usage(batch, keep).await
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.store.usage_number(source).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.store.usage(query).await
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        self.store.pepper_counts(now).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.store.account(id).await
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.store.app(id).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.store.key(id).await
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        self.store.accounts(page).await
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        self.store.apps(account, page).await
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        self.store.keys(app, page).await
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        self.store.audit(page).await
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        self.store.peppers(now).await
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        self.store.import(records, audit).await
    }
}
