//! What a cache and whoever follows its store's changes share: which entries a change ended, and
//! since when nobody can say whether there were changes. Knows no entries and no store.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use keygate_core::{AccountId, AppId, KeyDigest};
use quanta::Instant;
use tokio::sync::broadcast::{self, Receiver, Sender};

use crate::epochs::Epochs;
use crate::keys::Subject;

/// How long after the last sign of the store's changes what is read may still be put into the
/// cache. Beyond it nobody would hear that an entry has stopped being true.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Changes that whoever is told of them may be behind. Who is further behind has missed some.
const UNTOLD_MAX: usize = 1_024;

/// Shared by a [`CachedKeys`](crate::cached::CachedKeys) and its store.
pub struct Coherence {
    epochs: Epochs,
    /// Where the nanoseconds begin.
    began: Instant,
    stale_max: Duration,
    /// Until when what is cached may be used, and added to.
    usable_until: AtomicU64,
    keepable_until: AtomicU64,
    /// Who is told of every change, if anybody ever asked to be.
    told: OnceLock<Sender<Subject>>,
}

impl Coherence {
    /// For a store that nobody else writes to: all changes are our own.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(Duration::MAX, u64::MAX)
    }

    /// For a store that others write to as well. Nothing is kept before the first
    /// [`confirm`](Self::confirm), and nothing is used later than `stale_max` after the last one.
    #[must_use]
    pub fn followed(stale_max: Duration) -> Self {
        Self::new(stale_max, 0)
    }

    fn new(stale_max: Duration, until: u64) -> Self {
        Self {
            epochs: Epochs::new(),
            began: Instant::now(),
            stale_max,
            usable_until: AtomicU64::new(until),
            keepable_until: AtomicU64::new(until),
            told: OnceLock::new(),
        }
    }

    /// Ends the validity of everything about `subject` that was read before this call.
    pub fn invalidate(&self, subject: Subject) {
        self.epochs.invalidate(subject);
        if let Some(told) = self.told.get() {
            // The error says that nobody listens any more.
            told.send(subject).ok();
        }
    }

    /// Tells of every invalidation from now on, in order.
    pub fn invalidations(&self) -> Receiver<Subject> {
        self.told.get_or_init(|| broadcast::channel(UNTOLD_MAX).0).subscribe()
    }

    /// Says that every change that was acknowledged before `asked_at` has been applied here.
    pub fn confirm(&self, asked_at: Instant) {
        let asked_at = asked_at.saturating_duration_since(self.began);
        let until = |more: Duration| nanos(asked_at.saturating_add(more));
        self.usable_until.fetch_max(until(self.stale_max), SeqCst);
        self.keepable_until.fetch_max(until(SILENCE_MAX), SeqCst);
    }

    /// Whether nobody else writes to the store.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.stale_max == Duration::MAX
    }

    /// Whether the store's changes are being followed, or there is nothing to follow.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.may_keep(self.now())
    }

    /// Whether what is cached may be used: the store was followed no longer than `stale_max` ago.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.may_use(self.now())
    }

    /// Nanoseconds on this cache's own clock.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// A moment that was read already, as all times here are counted.
    pub(crate) fn at(&self, moment: Instant) -> u64 {
        nanos(moment.saturating_duration_since(self.began))
    }

    pub(crate) fn may_use(&self, now: u64) -> bool {
        now < self.usable_until.load(SeqCst)
    }

    pub(crate) fn may_keep(&self, now: u64) -> bool {
        now < self.keepable_until.load(SeqCst)
    }

    /// What a load notes before it reads the store.
    pub(crate) fn epoch(&self) -> u64 {
        self.epochs.now()
    }

    pub(crate) fn holds(
        &self,
        digest: &KeyDigest,
        app: AppId,
        account: AccountId,
        read_at: u64,
    ) -> bool {
        self.epochs.hold(digest, app, account, read_at)
    }

    pub(crate) fn holds_unknown(&self, digest: &KeyDigest, read_at: u64) -> bool {
        self.epochs.holds_unknown(digest, read_at)
    }
}

#[cfg(test)]
impl Coherence {
    /// As if the last confirmation were long ago.
    pub(crate) fn forget_confirmations(&self) {
        self.usable_until.store(0, SeqCst);
        self.keepable_until.store(0, SeqCst);
    }

    /// As if the last confirmation were longer ago than [`SILENCE_MAX`].
    pub(crate) fn let_silence_begin(&self) {
        self.keepable_until.store(0, SeqCst);
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE_MAX: Duration = Duration::from_secs(600);

    #[test]
    fn nothing_is_used_or_kept_before_the_store_was_followed() {
        let coherence = Coherence::followed(STALE_MAX);
        assert!(!coherence.is_usable() && !coherence.is_followed());
    }

    #[test]
    fn silence_first_stops_what_comes_in_and_then_what_is_there() {
        let coherence = Coherence::followed(STALE_MAX);
        coherence.confirm(coherence.began);
        let (silence_max, stale_max) = (nanos(SILENCE_MAX), nanos(STALE_MAX));
        assert!(coherence.may_keep(silence_max - 1) && !coherence.may_keep(silence_max));
        assert!(coherence.may_use(stale_max - 1) && !coherence.may_use(stale_max));
    }

    #[test]
    fn an_older_answer_that_comes_late_shortens_nothing() {
        let coherence = Coherence::followed(STALE_MAX);
        coherence.confirm(coherence.began + Duration::from_secs(5));
        coherence.confirm(coherence.began);
        assert!(coherence.may_keep(nanos(Duration::from_secs(5))));
    }

    #[test]
    fn who_writes_alone_knows_all_changes() {
        let coherence = Coherence::alone();
        assert!(coherence.may_keep(u64::MAX - 1) && coherence.may_use(u64::MAX - 1));
    }
}
