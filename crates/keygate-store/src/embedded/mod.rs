//! The store for one machine: everything in one crash-safe file. Knows the database; no other part
//! of the program does.

mod held;
mod import;
mod keys;
mod once;
mod open;
mod read;
mod slot;
mod tables;
mod usage;
mod uses;
mod write;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};
use quanta::Instant;
use redb::Database;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

pub use open::OpenError;
use slot::Slot;

use crate::heir::HeirLink;
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// A store in one file. One process at a time has it open.
pub struct EmbeddedStore {
    slot: Arc<Slot>,
    /// Writers wait here, not on threads: the database lets one write at a time.
    writing: Arc<Mutex<()>>,
    /// Who has the file instead of us, once it was given away.
    heir: watch::Sender<Heir>,
    /// When the newest batch of use came, or the store was opened.
    added_at: Arc<std::sync::Mutex<Instant>>,
}

/// Whom to ask about keys.
enum Heir {
    /// Our own file.
    Nobody,
    /// Who was given it, and has yet to open it.
    Awaited,
    There(HeirLink),
}

/// How long a look-up waits for whoever was given the file to have opened it.
const HEIR_WAIT_MAX: Duration = Duration::from_secs(2);

impl EmbeddedStore {
    /// Opens the store at `path`, and makes it, and its folder, if there is none. Blocks.
    ///
    /// # Errors
    /// Each kind of [`OpenError`]. What is there is left as it is then, to the byte.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let db = open::open(path)?;
        let path = path.to_owned();
        Ok(Self::of(Slot::new(db, move || open::open_again(&path))))
    }

    fn of(slot: Slot) -> Self {
        Self {
            slot: Arc::new(slot),
            writing: Arc::default(),
            heir: watch::Sender::new(Heir::Nobody),
            added_at: Arc::new(Instant::now().into()),
        }
    }

    /// Closes the file, so that another process can open it. From now on nothing can be changed or
    /// listed here; look-ups wait for [`follow`](Self::follow).
    pub async fn give_away(&self) {
        // Whatever waits for its turn to write finds the file gone.
        self.heir.send_replace(Heir::Awaited);
        let slot = Arc::clone(&self.slot);
        if tokio::task::spawn_blocking(move || slot.give_away()).await.is_err() {
            tracing::error!("the store broke off while it was closed");
        }
    }

    /// Asks whoever has the file now about keys.
    pub fn follow(&self, heir: HeirLink) {
        self.heir.send_replace(Heir::There(heir));
    }

    /// Whoever can be asked about keys in place of our own file, if it was given away.
    async fn heir(&self) -> Result<Option<HeirLink>, StoreError> {
        match &*self.heir.borrow() {
            Heir::Nobody => return Ok(None),
            Heir::There(link) => return Ok(Some(link.clone())),
            Heir::Awaited => {}
        }
        let mut heir = self.heir.subscribe();
        let there = heir.wait_for(|heir| matches!(heir, Heir::There(_)));
        match timeout(HEIR_WAIT_MAX, there).await {
            Ok(Ok(heir)) => match &*heir {
                Heir::There(link) => Ok(Some(link.clone())),
                Heir::Nobody | Heir::Awaited => Ok(None),
            },
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable(Box::new(NoHeir))),
        }
    }

    /// Runs `work` where it may block. If the file has failed, it is opened again first, there
    /// too.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = Arc::clone(&self.slot);
        match tokio::task::spawn_blocking(move || slot.with(work)).await {
            Ok(result) => result,
            // The database panics on some damaged pages. That is this call's failure, not the
            // process's.
            Err(_) => Err(StoreError::Unavailable(Box::new(BrokenOff))),
        }
    }

    /// The same for a write, which waits for its turn.
    async fn writing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        self.blocking(move |db| {
            let result = work(db);
            drop(turn);
            result
        })
        .await
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the embedded database broke off")]
struct BrokenOff;

#[derive(Debug, thiserror::Error)]
#[error("the process that takes the store over has not opened it yet")]
struct NoHeir;

impl KeyStore for EmbeddedStore {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        match self.heir().await? {
            None => self.blocking(move |db| read::find(db, &digest)).await,
            Some(heir) => heir.find(digest).await,
        }
    }

    /// Dropping the future before the write began means that it never happens; after that, that it
    /// happens unheard.
    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        self.writing(move |db| write::commit(db, write, &audit)).await
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        self.writing(move |db| once::commit(db, write, &audit, &once)).await
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        self.blocking(move |db| once::remembered(db, &name, now)).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        self.blocking(move |db| read::token(db, id)).await
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        self.blocking(move |db| read::token_by_hash(db, &sha256)).await
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        self.blocking(move |db| read::tokens(db, page)).await
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        self.blocking(move |db| uses::last(db, &keys)).await
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        let added_at = Arc::clone(&self.added_at);
        self.writing(move |db| {
            let mut added_at = added_at.lock().unwrap_or_else(PoisonError::into_inner);
            usage::add(db, &batch, &keep, added_at.elapsed())?;
            *added_at = Instant::now();
            Ok(())
        })
        .await
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.blocking(move |db| usage::number(db, source)).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.blocking(move |db| usage::read(db, &query)).await
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        self.blocking(move |db| read::pepper_counts(db, now)).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.blocking(move |db| read::account(db, id)).await
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.blocking(move |db| read::app(db, id)).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.blocking(move |db| read::key(db, id)).await
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        self.blocking(move |db| read::accounts(db, page)).await
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        self.blocking(move |db| read::apps(db, account, page)).await
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        self.blocking(move |db| read::keys(db, app, page)).await
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        self.blocking(move |db| read::audit(db, page)).await
    }

    async fn newest(&self) -> Result<Option<ChangeNumber>, StoreError> {
        self.blocking(read::newest).await.map(Some)
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        self.blocking(move |db| read::peppers(db, now)).await
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        self.writing(move |db| import::import(db, &records, &audit)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStore;

    /// An empty store in a file that has no name any more, and so goes away with it.
    async fn embedded() -> EmbeddedStore {
        let folder = tempfile::tempdir().unwrap();
        EmbeddedStore::open(&folder.path().join("keygate.db")).unwrap()
    }

    mod embedded_store {
        crate::contract::contract!(super::embedded);
    }

    /// The contract's own model keeps it too, or it would prove nothing.
    mod model {
        crate::contract::contract!(async || super::MemoryStore::default());
    }
}
