//! The seam: what every store of keys can do. One contract suite holds them all to it.

use std::future::Future;
use std::sync::Arc;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

use crate::fleet::Fleet;
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey};
use crate::usage::records::{LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery};

/// A store of accounts, apps and keys.
///
/// A write that returned `Ok` survives a crash. One that returned an error may or may not have
/// happened: [`StoreError::Unavailable`] says so, the others mean that nothing changed.
pub trait KeyStore: Send + Sync + 'static {
    /// The key of this digest with its app and account, in one round trip.
    fn find(
        &self,
        digest: KeyDigest,
    ) -> impl Future<Output = Result<Option<OwnedKey>, StoreError>> + Send;

    /// Carries out one change and logs it, in one atomic step. Returns the change's number, which
    /// only grows.
    fn commit(
        &self,
        write: Write,
        audit: AuditEntry,
    ) -> impl Future<Output = Result<ChangeNumber, StoreError>> + Send;

    /// Carries out a change that makes a record, unless one with this name was carried out already:
    /// then nothing is written, and what that one made is returned. However often and from wherever
    /// the same is sent at one time, it is done once. A change that makes no record is
    /// [`StoreError::NotFound`]. One that is refused is not remembered.
    fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> impl Future<Output = Result<Done, StoreError>> + Send;

    /// What the change of this name made, if it was carried out and is still remembered at `now`. For
    /// one who has a reason not to carry it out, and has to know whether that is because it was.
    fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> impl Future<Output = Result<Option<Remembered>, StoreError>> + Send;

    fn account(
        &self,
        id: AccountId,
    ) -> impl Future<Output = Result<Option<Account>, StoreError>> + Send;

    fn app(&self, id: AppId) -> impl Future<Output = Result<Option<App>, StoreError>> + Send;

    fn key(&self, id: KeyId) -> impl Future<Output = Result<Option<Key>, StoreError>> + Send;

    /// Accounts in the order of their ids, from the first after `page.after`.
    fn accounts(
        &self,
        page: Page<AccountId>,
    ) -> impl Future<Output = Result<Vec<Account>, StoreError>> + Send;

    fn apps(
        &self,
        account: AccountId,
        page: Page<AppId>,
    ) -> impl Future<Output = Result<Vec<App>, StoreError>> + Send;

    fn keys(
        &self,
        app: AppId,
        page: Page<KeyId>,
    ) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send;

    fn token(
        &self,
        id: TokenId,
    ) -> impl Future<Output = Result<Option<AdminToken>, StoreError>> + Send;

    /// The admin token with this hash.
    fn token_by_hash(
        &self,
        sha256: [u8; 32],
    ) -> impl Future<Output = Result<Option<AdminToken>, StoreError>> + Send;

    fn tokens(
        &self,
        page: Page<TokenId>,
    ) -> impl Future<Output = Result<Vec<AdminToken>, StoreError>> + Send;

    /// The last use of each of these keys, as far as it was noted, in their order.
    fn last_used(
        &self,
        keys: Vec<KeyId>,
    ) -> impl Future<Output = Result<Vec<Option<LastUse>>, StoreError>> + Send;

    /// Adds what was used, to every step that is kept, in one atomic step with the note that the store has
    /// this batch. One whose number the store has already, or a higher one, changes nothing, and is `Ok`:
    /// so a batch may be sent until it is acknowledged. Also notes the last use of keys, if it is later
    /// than the one noted. Not logged.
    ///
    /// What was added survives a crash as far as the store keeps its word: Redis may lose its last second,
    /// or more in a failover or a restore. The store then has a lower number than its source was told, and
    /// refuses the next batch. The source asks for [`usage_number`](Self::usage_number) and sends again
    /// from there. If it no longer has the batch that comes next, it sends the first that it has with
    /// `after_loss`: the gap passes, and the store logs it as an error. Nothing is counted twice by that,
    /// since what has a higher number than the store's is not in the store.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the batch before it is missing, and nobody says that it is lost:
    /// nothing was changed. After [`StoreError::NotDurable`] it is to be sent again.
    fn add_usage(
        &self,
        batch: Arc<UsageBatch>,
        keep: Retention,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The number of the newest batch of this source that the store has; 0 for none, or if the source has
    /// sent nothing for [`SOURCE_KEPT`](crate::usage::records::SOURCE_KEPT).
    fn usage_number(
        &self,
        source: SourceId,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// What was used, in the order of the spenders asked for, then of windows, then of routes' names.
    fn usage(
        &self,
        query: UsageQuery,
    ) -> impl Future<Output = Result<Vec<UsagePoint>, StoreError>> + Send;

    /// Entries of the audit log, in order, from the first after `page.after`. One that cannot be read
    /// is [`AuditEntry::unreadable`], and no error: those after it are not lost with it.
    fn audit(
        &self,
        page: Page<ChangeNumber>,
    ) -> impl Future<Output = Result<Vec<Logged>, StoreError>> + Send;

    /// The peppers that live keys were made under, in order. Live: neither revoked nor expired at
    /// `now`. A pepper that is not among them can be retired: no key depends on it any more.
    fn peppers(
        &self,
        now: UnixMillis,
    ) -> impl Future<Output = Result<Vec<PepperId>, StoreError>> + Send;

    /// How many live keys were made under each pepper, in the peppers' order. Those with none may be
    /// left out.
    fn pepper_counts(
        &self,
        now: UnixMillis,
    ) -> impl Future<Output = Result<Vec<(PepperId, u64)>, StoreError>> + Send;

    /// Writes records as they are, parents before children, without a cap on live keys. What is
    /// there already stays as it is. If anything was written, that is one change, to
    /// [`Subject::Unknown`], with this entry in the log. May be called again with the same records.
    fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> impl Future<Output = Result<Imported, StoreError>> + Send;

    /// Returns once everything that was read from this store is as durable as an acknowledged write.
    /// A caller whose write turns out to be done already, by an earlier try that ended in
    /// [`StoreError::NotDurable`], has to ask before it says so.
    fn settle(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// Says that this gateway stops, and follows the store's changes no longer.
    fn leave(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// The gateways that use this store. None for a store that only one can use.
    fn fleet(&self) -> impl Future<Output = Result<Option<Fleet>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// The number of the newest change as the store counts, whatever has become of its entry in the log.
    /// None if it does not count apart from the log.
    fn newest(&self) -> impl Future<Output = Result<Option<ChangeNumber>, StoreError>> + Send {
        async { Ok(self.fleet().await?.map(|fleet| fleet.newest)) }
    }
}

/// A record to be written as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are keys, which are the largest")]
pub enum StoredRecord {
    Account(Account),
    App(App),
    Key(Key),
}

/// What became of records that were imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub created: u64,
    /// They were there, the same.
    pub unchanged: u64,
    /// Ids of those that are there and differ; they were left as they are.
    pub different: Vec<String>,
}

/// The place of a change in the store's log. The first change is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChangeNumber(pub u64);

/// One change to one record.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "an operator's change: few at a time")]
pub enum Write {
    CreateAccount(Account),
    CreateApp(App),
    CreateKey {
        key: Key,
        /// The most live keys that the app may then have. Live: neither revoked nor expired at
        /// `now`. A disabled key is live, since it can be enabled.
        live_max: u32,
        now: UnixMillis,
    },
    /// Replaces the record if its stored version is still the given record's `version`; stores it
    /// with the version after that.
    UpdateAccount(Account),
    UpdateApp(App),
    /// The cap is that of [`CreateKey`](Self::CreateKey). It matters if the change makes a key live
    /// that is not, such as one that has expired and gets a later end.
    UpdateKey {
        key: Key,
        live_max: u32,
        now: UnixMillis,
    },
    /// Replaces `old` as [`UpdateKey`](Self::UpdateKey) does, and makes `new`, in one step. `old`, which
    /// names its successor, counts no more: if it did, `new` takes its place whatever the cap, which may
    /// have been lowered, or exceeded by an import. If it did not, the cap holds.
    RotateKey {
        old: Key,
        new: Key,
        live_max: u32,
        now: UnixMillis,
    },
    CreateToken(AdminToken),
    UpdateToken(AdminToken),
    /// Changes nothing: an entry in the log, such as of an attempt that was refused.
    Note,
}

/// The name of a change that is to be carried out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// A hash of who asks, for what, and of the name that they gave it.
    pub name: [u8; 32],
    /// A hash of all that was asked for.
    pub request: [u8; 32],
    pub now: UnixMillis,
    /// Until when it is remembered.
    pub until: UnixMillis,
}

/// What became of a change that is to be carried out once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an operator's change: few at a time")]
pub enum Done {
    Now(ChangeNumber),
    /// It was carried out before.
    Before(Remembered),
}

/// A change that was carried out once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What was asked for: the same name for anything else is a mistake.
    pub request: [u8; 32],
    /// As it was made, whatever has become of it since.
    pub made: MadeRecord,
}

/// A record that a change makes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an operator's change: few at a time")]
pub enum MadeRecord {
    Account(Account),
    App(App),
    Key(Key),
    Token(AdminToken),
}

impl Write {
    /// Whose cached decisions the change may alter.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::CreateAccount(account) | Self::UpdateAccount(account) => {
                Subject::Account(account.id)
            }
            Self::CreateApp(app) | Self::UpdateApp(app) => Subject::App(app.id),
            Self::CreateKey { key, .. } | Self::UpdateKey { key, .. } => Subject::Key(key.digest),
            // Two keys; one subject that both are under.
            Self::RotateKey { new, .. } => Subject::App(new.app),
            Self::CreateToken(_) | Self::UpdateToken(_) | Self::Note => Subject::Nothing,
        }
    }

    /// The record that the change makes, if it makes one.
    #[must_use]
    pub fn made(&self) -> Option<MadeRecord> {
        match self {
            Self::CreateAccount(account) => Some(MadeRecord::Account(account.clone())),
            Self::CreateApp(app) => Some(MadeRecord::App(app.clone())),
            Self::CreateKey { key, .. } | Self::RotateKey { new: key, .. } => {
                Some(MadeRecord::Key(key.clone()))
            }
            Self::CreateToken(token) => Some(MadeRecord::Token(token.clone())),
            Self::UpdateAccount(_)
            | Self::UpdateApp(_)
            | Self::UpdateKey { .. }
            | Self::UpdateToken(_)
            | Self::Note => None,
        }
    }
}

/// What an invalidation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Key(KeyDigest),
    App(AppId),
    Account(AccountId),
    /// No key.
    Nothing,
    /// Keys that were unknown: records were added, and none that was there has changed.
    Unknown,
    /// Everything: the log could not be followed.
    All,
}

/// A part of a list: at most `limit` items, after the one named.
#[derive(Clone, Copy, Debug)]
pub struct Page<T> {
    pub after: Option<T>,
    pub limit: usize,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An outage. Says nothing about any key: it must never be answered as one that is unknown.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the record was changed by somebody else")]
    Conflict,
    #[error("the record exists already")]
    AlreadyExists,
    #[error("{0} does not exist")]
    NotFound(&'static str),
    #[error("the app has {live} live keys, the most it may have")]
    TooManyLiveKeys { live: u32 },
    /// The change was made, but fewer replicas have it than have to: it may be lost yet. To try
    /// again does no harm.
    #[error("{replicas} of {wanted} replicas have the change")]
    NotDurable { replicas: u64, wanted: u32 },
    /// Written by a newer version, or damaged. The record is left as it is.
    #[error("a stored record cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
