//! Tells an observer about every call to a store: which, how long, and whether it failed. Knows
//! nothing of metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

use crate::fleet::Fleet;
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// Who wants to know about the calls to a store. Called on the caller's task: it must not block.
pub trait Observer: Send + Sync + 'static {
    fn store_call(&self, op: Op, took: Duration, outcome: CallOutcome);
}

/// The kinds of calls that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A key with its app and account: what a request waits for.
    Find,
    Commit,
    /// One record by its id.
    Read,
    /// A part of a list, the log, or the peppers in use.
    List,
}

impl Op {
    pub const ALL: [Self; 4] = [Self::Find, Self::Commit, Self::Read, Self::List];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Commit => "commit",
            Self::Read => "read",
            Self::List => "list",
        }
    }
}

/// Whether a store did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It answered; a refusal, such as a conflict, is an answer.
    Answered,
    /// It could not be reached, or what it holds cannot be read.
    Failed,
}

/// A store whose calls are watched.
pub struct Observed<S> {
    store: S,
    observer: Arc<dyn Observer>,
}

impl<S: KeyStore> Observed<S> {
    #[must_use]
    pub fn new(store: S, observer: Arc<dyn Observer>) -> Self {
        Self { store, observer }
    }

    /// The store itself.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.store
    }

    async fn watch<T>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let result = call.await;
        self.observer.store_call(op, start.elapsed(), outcome(&result));
        result
    }
}

fn outcome<T>(result: &Result<T, StoreError>) -> CallOutcome {
    match result {
        Ok(_)
        | Err(
            StoreError::Conflict
            | StoreError::AlreadyExists
            | StoreError::NotFound(_)
            | StoreError::TooManyLiveKeys { .. },
        ) => CallOutcome::Answered,
        Err(
            StoreError::Unavailable(_) | StoreError::Unreadable(_) | StoreError::NotDurable { .. },
        ) => CallOutcome::Failed,
    }
}

impl<S: KeyStore> KeyStore for Observed<S> {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        self.watch(Op::Find, self.store.find(digest)).await
    }

    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        self.watch(Op::Commit, self.store.commit(write, audit)).await
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        self.watch(Op::Commit, self.store.commit_once(write, audit, once)).await
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        self.watch(Op::Read, self.store.remembered(name, now)).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        self.watch(Op::Read, self.store.token(id)).await
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        self.watch(Op::Read, self.store.token_by_hash(sha256)).await
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        self.watch(Op::List, self.store.tokens(page)).await
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        self.watch(Op::List, self.store.last_used(keys)).await
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        self.watch(Op::Commit, self.store.add_usage(batch, keep)).await
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.watch(Op::Read, self.store.usage_number(source)).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.watch(Op::List, self.store.usage(query)).await
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        self.watch(Op::List, self.store.pepper_counts(now)).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.watch(Op::Read, self.store.account(id)).await
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.watch(Op::Read, self.store.app(id)).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.watch(Op::Read, self.store.key(id)).await
    }

    async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        self.watch(Op::List, self.store.accounts(page)).await
    }

    async fn apps(&self, account: AccountId, page: Page<AppId>) -> Result<Vec<App>, StoreError> {
        self.watch(Op::List, self.store.apps(account, page)).await
    }

    async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        self.watch(Op::List, self.store.keys(app, page)).await
    }

    async fn audit(&self, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        self.watch(Op::List, self.store.audit(page)).await
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        self.watch(Op::List, self.store.peppers(now)).await
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        self.watch(Op::Commit, self.store.import(records, audit)).await
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.watch(Op::Commit, self.store.settle()).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.store.leave().await
    }

    async fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        self.watch(Op::List, self.store.fleet()).await
    }

    async fn newest(&self) -> Result<Option<ChangeNumber>, StoreError> {
        self.watch(Op::List, self.store.newest()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::testing::{MemoryStore, account, audit, digest, seed};

    #[derive(Default)]
    struct Notes(Mutex<Vec<(Op, CallOutcome)>>);

    impl Observer for Notes {
        fn store_call(&self, op: Op, _: Duration, outcome: CallOutcome) {
            self.0.lock().unwrap().push((op, outcome));
        }
    }

    #[tokio::test]
    async fn every_call_is_seen_and_a_refusal_is_no_failure() {
        let notes = Arc::new(Notes::default());
        let observer: Arc<dyn Observer> = Arc::<Notes>::clone(&notes);
        let store = Observed::new(MemoryStore::default(), observer);
        seed(&store).await;
        assert!(store.find(digest(1)).await.unwrap().is_some());
        assert!(store.find(digest(2)).await.unwrap().is_none());
        store.commit(Write::UpdateAccount(account(9)), audit("update")).await.unwrap_err();
        store.account(account(1).id).await.unwrap();
        store.accounts(Page { after: None, limit: 1 }).await.unwrap();
        use CallOutcome::Answered;
        assert_eq!(
            *notes.0.lock().unwrap(),
            [
                Op::Commit,
                Op::Commit,
                Op::Commit,
                Op::Find,
                Op::Find,
                Op::Commit,
                Op::Read,
                Op::List
            ]
            .map(|op| (op, Answered))
        );
    }

    #[test]
    fn an_outage_and_damage_are_failures() {
        let error = || Box::new(std::io::Error::other("made by the test"));
        assert_eq!(outcome::<()>(&Err(StoreError::Unavailable(error()))), CallOutcome::Failed);
        assert_eq!(outcome::<()>(&Err(StoreError::Unreadable(error()))), CallOutcome::Failed);
        assert_eq!(outcome::<()>(&Err(StoreError::Conflict)), CallOutcome::Answered);
    }
}
