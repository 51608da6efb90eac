//! When what was cached stopped being true: one number per invalidation, and for each subject the
//! number of the last one that concerned it. Knows no entries; it only judges them.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keygate_core::{AccountId, AppId, KeyDigest};

use crate::keys::Subject;

/// Subjects share slots by hash. Sharing costs a needless load now and then, never a stale answer.
const SLOTS: usize = 16_384;

/// Counts invalidations and stamps their subjects.
///
/// An entry carries the count as it was *before* its load read the store (`read_at`), and holds
/// while no slot that concerns it has a higher stamp. Why that is enough:
/// - A change is written to the store before [`invalidate`](Self::invalidate) is called with it.
///   A load that sees the count at or past the change's number `n` therefore began to read after
///   the change was written, and reads it.
/// - Every other load has `read_at < n`. Once `invalidate` has returned, the stamp is at least
///   `n`, and no check passes for such an entry, whenever it is or was put into the cache. Nothing
///   is deleted, so there is nothing that a load under way could undo.
/// - Until it has returned, either answer is right: nobody was told yet that the change holds.
///
/// `SeqCst` throughout: the count and the stamps are different atomics, and all threads must agree
/// on their order. A load of either costs what a plain one does on x86, and `ldar` on ARM.
pub(crate) struct Epochs {
    now: AtomicU64,
    keys: Stamps,
    apps: Stamps,
    accounts: Stamps,
    unknown: AtomicU64,
    all: AtomicU64,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self {
            now: AtomicU64::new(0),
            keys: Stamps::new(),
            apps: Stamps::new(),
            accounts: Stamps::new(),
            unknown: AtomicU64::new(0),
            all: AtomicU64::new(0),
        }
    }

    /// What a load notes before it reads the store.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    /// Ends the validity of everything about `subject` that was read before this call.
    pub(crate) fn invalidate(&self, subject: Subject) {
        let number = self.now.fetch_add(1, SeqCst) + 1;
        let stamp = match subject {
            Subject::Key(digest) => self.keys.of(digest.prefix()),
            Subject::App(app) => self.apps.of(app_hash(app)),
            Subject::Account(account) => self.accounts.of(account_hash(account)),
            Subject::Nothing => return,
            Subject::Unknown => &self.unknown,
            Subject::All => &self.all,
        };
        // Two invalidations may get here in either order; the later number must stay.
        stamp.fetch_max(number, SeqCst);
    }

    /// Whether what was read at `read_at` about a key, its app and its account still holds.
    pub(crate) fn hold(
        &self,
        digest: &KeyDigest,
        app: AppId,
        account: AccountId,
        read_at: u64,
    ) -> bool {
        self.holds_key(digest, read_at)
            && self.apps.of(app_hash(app)).load(SeqCst) <= read_at
            && self.accounts.of(account_hash(account)).load(SeqCst) <= read_at
    }

    /// Whether a key that was unknown at `read_at` may be taken to be so still.
    pub(crate) fn holds_unknown(&self, digest: &KeyDigest, read_at: u64) -> bool {
        self.holds_key(digest, read_at) && self.unknown.load(SeqCst) <= read_at
    }

    fn holds_key(&self, digest: &KeyDigest, read_at: u64) -> bool {
        self.keys.of(digest.prefix()).load(SeqCst) <= read_at && self.all.load(SeqCst) <= read_at
    }
}

/// An id ends in random bits, which are as good as a hash of it.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are the ones wanted")]
fn app_hash(app: AppId) -> u64 {
    app.as_u128() as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are the ones wanted")]
fn account_hash(account: AccountId) -> u64 {
    account.as_u128() as u64
}

struct Stamps(Box<[AtomicU64; SLOTS]>);

impl Stamps {
    fn new() -> Self {
        let zeros: Box<[AtomicU64]> = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        match zeros.try_into() {
            Ok(slots) => Self(slots),
            Err(_) => unreachable!("as many as were asked for"),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "the remainder is within the array"
    )]
    fn of(&self, hash: u64) -> &AtomicU64 {
        &self.0[(hash % SLOTS as u64) as usize]
    }
}
