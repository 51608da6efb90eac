//! Whichever store the configuration names, as one type: the program is built once for both.

use std::sync::Arc;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

use crate::embedded::EmbeddedStore;
use crate::fleet::Fleet;
use crate::heir::HeirLink;
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::redis::RedisStore;
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// A store of either kind.
pub enum Store {
    Embedded(EmbeddedStore),
    Redis(RedisStore),
}

impl Store {
    /// Lets another process open the store, if only one can at a time.
    pub async fn give_away(&self) {
        match self {
            Self::Embedded(store) => store.give_away().await,
            Self::Redis(_) => {}
        }
    }

    /// Asks another process about keys from now on, if the store was given away to it.
    pub fn follow(&self, heir: HeirLink) {
        match self {
            Self::Embedded(store) => store.follow(heir),
            Self::Redis(_) => {}
        }
    }
}

/// Asks the store that it is.
macro_rules! ask {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Embedded($store) => $call.await,
            Self::Redis($store) => $call.await,
        }
    };
}

impl KeyStore for Store {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        ask!(self, store => store.find(digest))
    }

    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        ask!(self, store => store.commit(write, audit))
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        ask!(self, store => store.commit_once(write, audit, once))
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        ask!(self, store => store.remembered(name, now))
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        ask!(self, store => store.token(id))
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        ask!(self, store => store.token_by_hash(sha256))
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        ask!(self, store => store.tokens(page))
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        ask!(self, store => store.last_used(keys))
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        ask!(self, store => store.add_usage(batch, keep))
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        ask!(self, store => store.usage_number(source))
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        ask!(self, store => store.usage(query))
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        ask!(self, store => store.pepper_counts(now))
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        ask!(self, store => store.account(id))
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        ask!(self, store => store.app(id))
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        ask!(self, store => store.key(id))
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        ask!(self, store => store.accounts(page))
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        ask!(self, store => store.apps(account, page))
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        ask!(self, store => store.keys(app, page))
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        ask!(self, store => store.audit(page))
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        ask!(self, store => store.peppers(now))
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        ask!(self, store => store.import(records, audit))
    }

    async fn settle(&self) -> Result<(), StoreError> {
        ask!(self, store => store.settle())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        ask!(self, store => store.leave())
    }

    async fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        ask!(self, store => store.fleet())
    }

    async fn newest(&self) -> Result<Option<ChangeNumber>, StoreError> {
        ask!(self, store => store.newest())
    }
}
