//! The store for one machine: everything in one crash-safe file. Knows the database; no other part
//! of the program does.

mod held;
mod open;
mod read;
mod tables;
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, UnixMillis};
use redb::Database;
use tokio::sync::Mutex;

pub use open::OpenError;

use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, Write};
use crate::records::{Account, App, AuditEntry, Key, OwnedKey};

/// A store in one file. One process at a time has it open.
pub struct EmbeddedStore {
    /// There until the store is dropped.
    db: Option<Arc<Database>>,
    /// Writers wait here, not on threads: the database lets one write at a time.
    writing: Arc<Mutex<()>>,
}

impl EmbeddedStore {
    /// Opens the store at `path`, and makes it, and its folder, if there is none. Blocks.
    ///
    /// # Errors
    /// Each kind of [`OpenError`]. What is there is left as it is then, to the byte.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        open::open(path).map(Self::of)
    }

    fn of(db: Database) -> Self {
        Self { db: Some(Arc::new(db)), writing: Arc::default() }
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let db = self.db.clone();
        let work = move || match db {
            Some(db) => work(&db),
            None => Err(StoreError::Unavailable(Box::new(BrokenOff))),
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            // The database panics on some damaged pages. That is this call's failure, not the
            // process's.
            Err(_) => Err(StoreError::Unavailable(Box::new(BrokenOff))),
        }
    }
}

/// Closing writes down what makes the next start quick. A failure loses nothing: what was
/// acknowledged is on the disk.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let Some(db) = self.db.take().and_then(Arc::into_inner) else { return };
        let closed = catch_unwind(AssertUnwindSafe(|| db.close()));
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the store did not close cleanly; the next start will check it");
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the embedded database broke off")]
struct BrokenOff;

impl KeyStore for EmbeddedStore {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        self.blocking(move |db| read::find(db, &digest)).await
    }

    /// Dropping the future before the write began means that it never happens; after that, that it
    /// happens unheard.
    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        self.blocking(move |db| {
            let result = write::commit(db, write, &audit);
            drop(turn);
            result
        })
        .await
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

    async fn audit(
        &self,
        page: Page<ChangeNumber>,
    ) -> Result<Vec<(ChangeNumber, AuditEntry)>, StoreError> {
        self.blocking(move |db| read::audit(db, page)).await
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        self.blocking(move |db| read::peppers(db, now)).await
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
