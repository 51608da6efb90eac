//! The embedded store, with faults that a test can switch on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};
use keygate_store::embedded::EmbeddedStore;
use keygate_store::fleet::Fleet;
use keygate_store::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use keygate_store::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use keygate_store::usage::records::{
    LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery,
};

pub(super) struct FaultyStore {
    store: EmbeddedStore,
    pub(super) down: AtomicBool,
    /// Whether apps alone cannot be read.
    pub(super) apps_down: AtomicBool,
    /// How many of the next commits somebody else gets ahead of.
    pub(super) conflicts: AtomicUsize,
    /// Whether writes reach no replica, of the one that has to have them.
    pub(super) no_replica: AtomicBool,
    /// An end that somebody else gives to the next key that is rotated, as soon as it is.
    pub(super) shortens: Mutex<Option<UnixMillis>>,
    pub(super) fleet: Mutex<Option<Fleet>>,
    /// How often it was asked for a token by its hash.
    pub(super) token_lookups: AtomicUsize,
}

impl FaultyStore {
    pub(super) fn new(store: EmbeddedStore) -> Self {
        Self {
            store,
            down: AtomicBool::new(false),
            apps_down: AtomicBool::new(false),
            conflicts: AtomicUsize::new(0),
            no_replica: AtomicBool::new(false),
            shortens: Mutex::new(None),
            fleet: Mutex::new(None),
            token_lookups: AtomicUsize::new(0),
        }
    }

    fn up(&self) -> Result<&EmbeddedStore, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("switched off".into()));
        }
        Ok(&self.store)
    }

    fn replicate(&self) -> Result<(), StoreError> {
        match self.no_replica.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::NotDurable { replicas: 0, wanted: 1 }),
        }
    }
}

impl KeyStore for FaultyStore {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        self.up()?.find(digest).await
    }

    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.conflicts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(StoreError::Conflict);
        }
        let rotated = if let Write::RotateKey { old, .. } = &write { Some(old.id) } else { None };
        let number = self.up()?.commit(write, audit.clone()).await?;
        let shorter =
            rotated.and_then(|id| self.shortens.lock().unwrap().take().map(|at| (id, at)));
        if let Some((id, at)) = shorter {
            let key = self.store.key(id).await?.unwrap();
            let key = Key { expires_at: Some(at), ..key };
            let write = Write::UpdateKey { key, live_max: u32::MAX, now: UnixMillis(0) };
            self.store.commit(write, audit).await?;
        }
        self.replicate()?;
        Ok(number)
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.conflicts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(StoreError::Conflict);
        }
        let done = self.up()?.commit_once(write, audit, once).await?;
        self.replicate()?;
        Ok(done)
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        self.up()?.remembered(name, now).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        self.up()?.token(id).await
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        self.token_lookups.fetch_add(1, Ordering::SeqCst);
        self.up()?.token_by_hash(sha256).await
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        self.up()?.tokens(page).await
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        self.up()?.last_used(keys).await
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        self.up()?.add_usage(batch, keep).await
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.up()?.usage_number(source).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.up()?.usage(query).await
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        self.up()?.pepper_counts(now).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.up()?.account(id).await
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        if self.apps_down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("apps are switched off".into()));
        }
        self.up()?.app(id).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.up()?.key(id).await
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        self.up()?.accounts(page).await
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        self.up()?.apps(account, page).await
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        self.up()?.keys(app, page).await
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        self.up()?.audit(page).await
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        self.up()?.peppers(now).await
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        self.up()?.import(records, audit).await
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.up()?;
        self.replicate()
    }

    async fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        self.up()?;
        Ok(self.fleet.lock().unwrap().clone())
    }
}
