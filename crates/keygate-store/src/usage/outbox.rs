//! The batches of one source on their way to the store: in order, each until the store surely has it. What
//! a store has acknowledged it may yet lose with its last seconds; so such a batch stays for a while, and
//! is sent again if the store turns out to have fewer.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::batch_file::{self, Sealed, Unreadable};
use super::folder::Folder;
use super::records::{Retention, SourceId, UsageBatch};
use crate::keys::{KeyStore, StoreError};

/// How often the store is asked whether it still has what it has acknowledged.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often in a row the store may say that it has less than it said.
const CONFLICTS_MAX: u32 = 3;

/// Between two batches a store is left alone for as long as it took for the first, and no longer than this:
/// those of a minute in which many keys were used come all at once, and are in nobody's way so.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// With more batches than this to come there are none: a store that was away is to have them soon.
const PAUSED_BATCHES_MAX: u64 = 4_096;

/// Where batches go. A store does; a test has one that fails.
pub(super) trait Sink: Send + Sync {
    fn add(
        &self,
        batch: UsageBatch,
        keep: Retention,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn number(&self, source: SourceId) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

impl<S: KeyStore> Sink for S {
    fn add(
        &self,
        batch: UsageBatch,
        keep: Retention,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.add_usage(Arc::new(batch), keep)
    }

    fn number(&self, source: SourceId) -> impl Future<Output = Result<u64, StoreError>> + Send {
        self.usage_number(source)
    }
}

/// What is told of batches on their way, and what is told to who sends them.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) stored: AtomicU64,
    pub(super) again: AtomicU64,
    /// Tries of which the store did not take a batch, or did not say how many it has.
    pub(super) failed: AtomicU64,
    /// The process ends: the store is left alone no more between batches.
    pub(super) is_hurried: AtomicBool,
    /// Nothing is sent any more.
    pub(super) is_held: AtomicBool,
}

impl Sent {
    /// Batches that the store took.
    pub(super) fn taken(&self) -> u64 {
        self.stored.load(Relaxed) + self.again.load(Relaxed)
    }
}

/// Why not all of a source's batches are in the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the store did not take what was used")]
    Store(#[from] StoreError),
    #[error("the folder of what was used cannot be read and written")]
    Folder(#[from] io::Error),
    #[error("a batch of what was used cannot be read here, and waits for who can")]
    Newer(#[source] Unreadable),
}

/// What became of a batch.
enum Done {
    Taken,
    SetAside,
}

/// The files of a source: who seals adds to them, and who sends removes.
#[derive(Default)]
pub(super) struct Files(Mutex<BTreeMap<u64, u64>>);

impl Files {
    /// The numbers after `before` up to `last` are new, and so many bytes together.
    pub(super) fn add(&self, before: u64, last: u64, bytes: u64) {
        let mut files = self.lock();
        let each = bytes / last.saturating_sub(before).max(1);
        files.extend((before + 1..=last).map(|number| (number, each)));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().values().sum()
    }

    fn first(&self) -> Option<u64> {
        self.lock().keys().next().copied()
    }

    fn last(&self) -> u64 {
        self.lock().keys().next_back().copied().unwrap_or_default()
    }

    pub(super) fn from(&self, number: u64) -> usize {
        self.lock().range(number..).count()
    }

    fn next(&self, from: u64) -> Option<u64> {
        self.lock().range(from..).next().map(|(&number, _)| number)
    }

    fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one source has to send.
pub(super) struct Outbox {
    pub(super) folder: Arc<Folder>,
    pub(super) files: Arc<Files>,
    /// The first that the store is not known to have. None before it was asked.
    next: Option<u64>,
    /// What the store has acknowledged, and when: a number, and all before it.
    acknowledged: Vec<(u64, Instant)>,
    /// The highest that was ever sent.
    tried: u64,
    asked_at: Option<Instant>,
    /// The first batch here, if the store lacks some before it that nobody has any more.
    after_loss: Option<u64>,
}

impl Outbox {
    pub(super) fn new(folder: Arc<Folder>, files: Arc<Files>) -> Self {
        Self {
            folder,
            files,
            next: None,
            acknowledged: Vec::new(),
            tried: 0,
            asked_at: None,
            after_loss: None,
        }
    }

    /// How many batches the store is not known to have.
    pub(super) fn unsent(&self) -> usize {
        self.files.from(self.next.unwrap_or_default())
    }

    /// When the oldest batch was sealed that the store is not known to have, in seconds.
    pub(super) fn oldest_unsent(&self) -> Option<u64> {
        self.folder.sealed_at(self.files.next(self.next.unwrap_or_default())?)
    }

    /// Whether the store surely has all.
    pub(super) fn is_empty(&self) -> bool {
        self.files.first().is_none()
    }

    /// Sends what there is, and removes what the store has had for `keep_for`.
    pub(super) async fn send(
        &mut self,
        store: &impl Sink,
        keep: Retention,
        keep_for: Duration,
        sent: &Sent,
    ) -> Result<(), SendError> {
        let mut conflicts = 0;
        while !sent.is_held.load(Acquire) {
            self.ask_if_due(store, keep_for, sent).await?;
            let Some(number) = self.next.and_then(|next| self.files.next(next)) else { break };
            let began = Instant::now();
            match self.send_one(store, number, keep).await {
                Ok(Done::SetAside) => {
                    sent.failed.fetch_add(1, Relaxed);
                    self.next = Some(number + 1);
                }
                Ok(Done::Taken) => {
                    let count = if number <= self.tried { &sent.again } else { &sent.stored };
                    count.fetch_add(1, Relaxed);
                    self.tried = self.tried.max(number);
                    self.next = Some(number + 1);
                    self.acknowledged.push((number, Instant::now()));
                    self.forget(keep_for)?;
                    let left = self.files.last().saturating_sub(number);
                    let is_calm = left <= PAUSED_BATCHES_MAX && !sent.is_hurried.load(Acquire);
                    if is_calm && self.files.next(number + 1).is_some() {
                        sleep(began.elapsed().min(PAUSE_MAX)).await;
                    }
                }
                // It has fewer than it had acknowledged: it is asked how many.
                Err(SendError::Store(StoreError::Conflict)) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    sent.failed.fetch_add(1, Relaxed);
                    self.tried = self.tried.max(number);
                    self.next = None;
                }
                // It has it, and may lose it: the file stays until one after it is durable.
                Err(SendError::Store(StoreError::NotDurable { .. })) => {
                    sent.failed.fetch_add(1, Relaxed);
                    self.tried = self.tried.max(number);
                    self.next = Some(number + 1);
                }
                Err(error) => {
                    sent.failed.fetch_add(1, Relaxed);
                    self.tried = self.tried.max(number);
                    return Err(error);
                }
            }
        }
        self.forget(keep_for)
    }

    async fn send_one(
        &self,
        store: &impl Sink,
        number: u64,
        keep: Retention,
    ) -> Result<Done, SendError> {
        let path = self.folder.batch(number);
        let read = tokio::task::spawn_blocking(move || batch_file::read(&path)).await;
        let Sealed { minute, rows, slots: _ } = match read.map_err(io::Error::other)?? {
            Ok(sealed) => sealed,
            Err(why @ Unreadable::Newer) => return Err(SendError::Newer(why)),
            Err(why @ Unreadable::Damaged) => return self.set_aside(number, why),
        };
        let after_loss = self.after_loss == Some(number);
        let batch = UsageBatch { source: self.folder.source, number, after_loss, minute, rows };
        store.add(batch, keep).await?;
        Ok(Done::Taken)
    }

    /// What cannot be read must not hold up what comes after it.
    fn set_aside(&self, number: u64, why: Unreadable) -> Result<Done, SendError> {
        let path = self.folder.batch(number);
        let aside = self.folder.aside(number);
        tracing::error!(
            error = %why, path = %aside.display(),
            "a batch of what keys used cannot be read: it is kept there, and not counted"
        );
        std::fs::rename(&path, &aside)?;
        self.files.remove(number);
        Ok(Done::SetAside)
    }

    /// Asks the store how far it is, if that is not known, or if batches that it has acknowledged are
    /// still here.
    async fn ask_if_due(
        &mut self,
        store: &impl Sink,
        keep_for: Duration,
        sent: &Sent,
    ) -> Result<(), SendError> {
        let is_recent = self.asked_at.is_some_and(|at| at.elapsed() < ASK_EVERY);
        let is_doubtful = !keep_for.is_zero() && !self.acknowledged.is_empty() && !is_recent;
        if self.next.is_some() && !is_doubtful {
            return Ok(());
        }
        let has = store.number(self.folder.source).await.inspect_err(|_| {
            // There may be nothing that waits for the answer.
            sent.failed.fetch_add(u64::from(!self.is_empty()), Relaxed);
        })?;
        self.asked_at = Some(Instant::now());
        let known = self.acknowledged.last().map_or(0, |&(number, _)| number);
        if has < known {
            tracing::warn!(
                batches = known - has,
                "the store has lost what it had acknowledged of keys' use: it is sent again"
            );
        }
        self.acknowledged.retain(|&(number, _)| number <= has);
        let next = self.files.next(has + 1);
        self.after_loss = next.filter(|&next| next > has + 1);
        if self.next.is_none() && has > known {
            // An earlier process has sent it.
            let newest = has.min(self.files.last().max(known));
            self.acknowledged.push((newest, Instant::now()));
        }
        self.next = Some(has + 1);
        Ok(())
    }

    /// Removes what the store has had for long enough.
    fn forget(&mut self, keep_for: Duration) -> Result<(), SendError> {
        let old = |&(_, at): &(u64, Instant)| at.elapsed() >= keep_for;
        let until = self.acknowledged.iter().take_while(|one| old(one)).last();
        let Some(&(until, _)) = until else { return Ok(()) };
        while let Some(number) = self.files.first().filter(|&number| number <= until) {
            match std::fs::remove_file(self.folder.batch(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => self.files.remove(number),
            }
        }
        self.acknowledged.retain(|&(number, _)| number > until);
        Ok(())
    }
}
