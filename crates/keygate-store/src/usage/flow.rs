//! The tasks that take what was counted to the store: one seals at its times, one sends.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use keygate_core::UnixMillis;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};

use super::UsageCounter;
use super::folder::Stuck;
use super::outbox::{Outbox, SendError, Sent, Sink};
use super::records::{Retention, Step};
use super::recover::{self, Recovered};
use crate::cached::CachedKeys;
use crate::keys::KeyStore;

/// How often the store is tried that did not take something.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How often it is seen whether another process has left something.
const ADOPT_EVERY: Duration = Duration::from_secs(5);
/// How long a gateway that stops may take to send what is left. The rest the next one sends.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// What may change while a gateway runs.
#[derive(Clone, Copy, Debug)]
pub struct FlushSettings {
    pub interval: Duration,
    pub keep: Retention,
}

/// How a gateway sends what was used.
pub struct Sending {
    pub settings: Box<dyn Fn() -> FlushSettings + Send + Sync>,
    /// For how long a store may lose what it has acknowledged.
    pub settled_after: Duration,
    pub clock: fn() -> UnixMillis,
}

/// How much is on its way, and how it went, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Batches that the store took.
    pub stored: u64,
    /// Batches that had to be sent once more.
    pub again: u64,
    pub failed: u64,
    /// Batches that the store has yet to take.
    pub backlog: u64,
    /// When the oldest of them was made, in seconds, or what cannot be made into one began; 0 if there is
    /// none.
    pub oldest_unsent: u64,
    /// Uses that could not be counted.
    pub dropped: u64,
    /// Folders of earlier processes of which not all could be read.
    pub stuck: u64,
}

/// What the tasks share with who asks.
#[derive(Default)]
pub(super) struct Shared {
    sent: Sent,
    backlog: AtomicU64,
    oldest_unsent: AtomicU64,
    /// When that began, in seconds, which cannot be made into batches; 0 if it can.
    unsealed_since: AtomicU64,
    stuck: AtomicU64,
    /// Of this process's own batches.
    unsent: AtomicU64,
    sender: Mutex<Option<Sender>>,
    sealed: Notify,
    /// Whether nothing is sent any more.
    is_held: AtomicBool,
}

impl Shared {
    pub(super) fn sealed(&self, batches: u64) {
        if batches > 0 {
            self.unsent.fetch_add(batches, Relaxed);
            self.backlog.fetch_add(batches, Relaxed);
            self.sealed.notify_one();
        }
    }
}

/// Sends the batches of this process and of those that it has taken over.
struct Sender {
    own: Outbox,
    adopted: Vec<Adopted>,
    /// Folders that could not be taken over when it was last tried.
    stuck: usize,
    /// Those of which that was said.
    told: HashSet<PathBuf>,
    looked_at: Option<Instant>,
    is_failing: bool,
}

/// What an earlier process has left.
struct Adopted {
    outbox: Outbox,
    /// Whether all that was counted there is in batches.
    is_whole: bool,
}

impl UsageCounter {
    /// Seals and sends for as long as the runtime lives.
    pub async fn run<S: KeyStore>(self, keys: Arc<CachedKeys<S>>, by: Arc<Sending>) {
        tokio::join!(self.keep_sealing(&by), self.keep_sending(keys.store(), &by));
    }

    /// How it goes.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let shared = &self.0.flow;
        Flow {
            stored: shared.sent.stored.load(Relaxed),
            again: shared.sent.again.load(Relaxed),
            failed: shared.sent.failed.load(Relaxed),
            backlog: shared.backlog.load(Relaxed),
            oldest_unsent: [&shared.oldest_unsent, &shared.unsealed_since]
                .into_iter()
                .map(|since| since.load(Relaxed))
                .filter(|&since| since > 0)
                .min()
                .unwrap_or_default(),
            dropped: self.0.dropped.load(Relaxed),
            stuck: shared.stuck.load(Relaxed),
        }
    }

    /// Sends what there is, within a bound, and nothing after that: the store is about to be closed, or
    /// given away. What is still counted, and what was not sent, another process sends once this one has
    /// ended.
    pub async fn finish(&self, store: &impl KeyStore, by: &Sending) {
        let flush = async {
            self.seal_beside(by).await;
            self.send(store, by).await;
        };
        if timeout(GOODBYE_MAX, flush).await.is_err() {
            tracing::info!("not all of what keys used was sent in time: the next process does it");
        }
        self.0.flow.is_held.store(true, Release);
    }

    async fn keep_sealing(&self, by: &Sending) {
        let mut last = Instant::now();
        let mut is_failing = false;
        loop {
            let interval = (by.settings)().interval;
            let now = (by.clock)();
            let turn = self.minute().0.saturating_add(Step::Minute.millis());
            let mut wait = interval.saturating_sub(last.elapsed());
            if turn > now.0 {
                wait = wait.min(Duration::from_millis(turn - now.0));
            }
            sleep(wait).await;
            let is_turn = Step::Minute.start((by.clock)()) != self.minute();
            if !is_turn && last.elapsed() < interval {
                continue;
            }
            last = Instant::now();
            // Within a minute the store gets more only if it has what it was sent before.
            if !is_turn && self.0.flow.unsent.load(Relaxed) > 0 {
                self.make_room_now().await;
                continue;
            }
            let sealed = self.seal_now(by).await;
            let since = if sealed.is_ok() { 0 } else { self.minute().0 / 1000 };
            self.0.flow.unsealed_since.store(since, Relaxed);
            is_failing = match sealed {
                Ok(()) if is_failing => {
                    tracing::info!("what keys use is put into batches again");
                    false
                }
                Err(error) if !is_failing => {
                    tracing::error!(
                        %error,
                        "what keys use is counted, but cannot be written for the store: see [usage] path"
                    );
                    true
                }
                Ok(()) => false,
                Err(_) => true,
            };
        }
    }

    async fn seal_now(&self, by: &Sending) -> io::Result<()> {
        let (counter, now) = (self.clone(), (by.clock)());
        tokio::task::spawn_blocking(move || counter.seal(now)).await.map_err(io::Error::other)?
    }

    /// What fails here fails again when it is sealed, and is said then.
    async fn make_room_now(&self) {
        let counter = self.clone();
        drop(tokio::task::spawn_blocking(move || counter.make_room()).await);
    }

    async fn seal_beside(&self, by: &Sending) {
        if let Err(error) = self.seal_now(by).await {
            tracing::warn!(%error, "what keys used last stays in the counters, for the next process");
        }
    }

    async fn keep_sending(&self, store: &impl Sink, by: &Sending) {
        let shared = &self.0.flow;
        while !shared.is_held.load(Acquire) {
            self.send(store, by).await;
            drop(timeout(TRY_EVERY, shared.sealed.notified()).await);
        }
    }

    /// Sends what there is, unless nothing is to be sent any more.
    pub(super) async fn send(&self, store: &impl Sink, by: &Sending) {
        let shared = &self.0.flow;
        let mut sender = shared.sender.lock().await;
        if shared.is_held.load(Acquire) {
            return;
        }
        let sender = sender.get_or_insert_with(|| Sender {
            own: Outbox::new(Arc::clone(&self.0.folder), Arc::clone(&self.0.files)),
            adopted: Vec::new(),
            stuck: 0,
            told: HashSet::new(),
            looked_at: None,
            is_failing: false,
        });
        let nameless = sender.adopt(&self.0.root).await;
        self.0.dropped.fetch_add(nameless, Relaxed);
        let done = sender.send(store, by, &shared.sent).await;
        sender.tell(done);
        let backlog: usize = sender.outboxes().map(|outbox| outbox.unsent()).sum();
        let oldest = sender.outboxes().filter_map(|outbox| outbox.oldest_unsent()).min();
        shared.unsent.store(sender.own.unsent() as u64, Relaxed);
        shared.backlog.store(backlog as u64, Relaxed);
        shared.oldest_unsent.store(oldest.unwrap_or_default(), Relaxed);
        shared.stuck.store(sender.stuck() as u64, Relaxed);
    }
}

impl Sender {
    fn outboxes(&self) -> impl Iterator<Item = &Outbox> {
        self.adopted.iter().map(|adopted| &adopted.outbox).chain([&self.own])
    }

    /// Folders of which not all could be taken over.
    fn stuck(&self) -> usize {
        self.stuck + self.adopted.iter().filter(|adopted| !adopted.is_whole).count()
    }

    /// Takes over what nobody owns. The uses are told that had to be given up.
    async fn adopt(&mut self, root: &Path) -> u64 {
        if self.looked_at.is_some_and(|at| at.elapsed() < ADOPT_EVERY) {
            return 0;
        }
        self.looked_at = Some(Instant::now());
        let root = root.to_owned();
        let recovered = tokio::task::spawn_blocking(move || recover::adopt(&root)).await;
        let (recovered, stuck) = recovered.unwrap_or_else(|error| {
            tracing::error!(%error, "what earlier processes counted was not read");
            (Vec::new(), Vec::new())
        });
        self.stuck = stuck.len();
        stuck.into_iter().for_each(|one| self.tell_stuck(one));
        let mut dropped = 0;
        for Recovered { outbox, nameless, unsealed } in recovered {
            dropped += nameless;
            let is_whole = unsealed.is_none();
            match unsealed {
                Some(one) => self.tell_stuck(one),
                None => drop(self.told.remove(outbox.folder.path())),
            }
            self.adopted.push(Adopted { outbox, is_whole });
        }
        dropped
    }

    /// Says once of each folder what is wrong with it.
    fn tell_stuck(&mut self, Stuck { path, error }: Stuck) {
        if !self.told.contains(&path) {
            tracing::error!(
                %error, path = %path.display(),
                "what an earlier process has counted cannot all be read: it stays there, and is tried \
                 again; this user must be able to read and write it"
            );
            self.told.insert(path);
        }
    }

    /// What was left behind first: it is older. What fails holds up nothing else; the first error is told.
    async fn send(
        &mut self,
        store: &impl Sink,
        by: &Sending,
        sent: &Sent,
    ) -> Result<(), SendError> {
        let keep = (by.settings)().keep;
        let mut done = Ok(());
        for Adopted { outbox, .. } in &mut self.adopted {
            done = done.and(outbox.send(store, keep, by.settled_after, sent).await);
        }
        let emptied: Vec<_> = self.adopted.extract_if(.., |one| one.outbox.is_empty()).collect();
        for Adopted { outbox, is_whole } in emptied {
            // What is not whole is left to be taken over again.
            self.stuck += usize::from(!is_whole);
            if is_whole && let Some(folder) = Arc::into_inner(outbox.folder) {
                let removed = folder.remove().map_err(SendError::from);
                done = done.and(removed);
            }
        }
        done.and(self.own.send(store, keep, by.settled_after, sent).await)
    }

    fn tell(&mut self, done: Result<(), SendError>) {
        match done {
            Ok(()) if self.is_failing => {
                tracing::info!("the store takes what keys use again");
                self.is_failing = false;
            }
            Err(error) if !self.is_failing => {
                tracing::warn!(
                    error = format!("{:#}", chain(&error)),
                    "the store does not take what keys use: it is kept"
                );
                self.is_failing = true;
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// An error with its causes, for the log.
fn chain(error: &SendError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
