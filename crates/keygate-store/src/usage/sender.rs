//! Sends the batches of one gateway: its own, and those of processes that are gone, whose folders it takes
//! over.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::flow::Sending;
use super::folder::Stuck;
use super::outbox::{Outbox, SendError, Sent, Sink};
use super::recover::{self, Recovered, Taken};
use crate::keys::StoreError;

/// How often it is seen whether another process has left something.
const ADOPT_EVERY: Duration = Duration::from_secs(5);

/// Sends the batches of this process and of those that it has taken over.
pub(super) struct Sender {
    own: Outbox,
    /// What is ours, but was not read: the store has yet to say how much of it it has.
    waiting: Vec<Taken>,
    adopted: Vec<Adopted>,
    /// Folders that could not be taken over when it was last tried.
    stuck: usize,
    /// Those of which that was said.
    told: HashSet<PathBuf>,
    looked_at: Option<Instant>,
    /// Uses that had to be given up, and were not told.
    nameless: u64,
    is_failing: bool,
}

/// What an earlier process has left.
struct Adopted {
    outbox: Outbox,
    /// Whether all that was counted there is in batches.
    is_whole: bool,
}

impl Sender {
    pub(super) fn new(own: Outbox) -> Self {
        Self {
            own,
            waiting: Vec::new(),
            adopted: Vec::new(),
            stuck: 0,
            told: HashSet::new(),
            looked_at: None,
            nameless: 0,
            is_failing: false,
        }
    }

    /// How many batches the store is not known to have.
    pub(super) fn backlog(&self) -> u64 {
        let waiting: u64 = self.waiting.iter().map(|taken| taken.batches).sum();
        waiting + self.outboxes().map(|outbox| outbox.unsent() as u64).sum::<u64>()
    }

    /// When the oldest of those was sealed, in seconds.
    pub(super) fn oldest_unsent(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter_map(|taken| taken.oldest);
        waiting.chain(self.outboxes().filter_map(Outbox::oldest_unsent)).min()
    }

    pub(super) fn own_unsent(&self) -> u64 {
        self.own.unsent() as u64
    }

    /// Folders of which not all could be taken over.
    pub(super) fn stuck(&self) -> u64 {
        (self.stuck + self.adopted.iter().filter(|adopted| !adopted.is_whole).count()) as u64
    }

    pub(super) fn take_nameless(&mut self) -> u64 {
        std::mem::take(&mut self.nameless)
    }

    fn outboxes(&self) -> impl Iterator<Item = &Outbox> {
        self.adopted.iter().map(|adopted| &adopted.outbox).chain([&self.own])
    }

    /// Takes over what nobody owns, as far as the store says what it has of it.
    pub(super) async fn adopt(
        &mut self,
        root: &Path,
        store: &impl Sink,
        sent: &Sent,
    ) -> Result<(), SendError> {
        self.look(root).await;
        let (mut done, mut is_away) = (Ok(()), false);
        for taken in std::mem::take(&mut self.waiting) {
            if is_away {
                self.waiting.push(taken);
                continue;
            }
            match store.number(taken.folder.source).await {
                Ok(has) => self.recover(taken, has).await,
                Err(error) => {
                    is_away = matches!(error, StoreError::Unavailable(_));
                    sent.failed.fetch_add(1, Relaxed);
                    done = done.and(Err(error.into()));
                    self.waiting.push(taken);
                }
            }
        }
        if is_away {
            // The next time another one is first.
            self.waiting.rotate_left(1);
        }
        done
    }

    /// Looks now and then whether another process has left something.
    async fn look(&mut self, root: &Path) {
        if self.looked_at.is_some_and(|at| at.elapsed() < ADOPT_EVERY) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let root = root.to_owned();
        let taken = tokio::task::spawn_blocking(move || recover::take(&root)).await;
        let (taken, stuck) = taken.unwrap_or_else(|error| {
            tracing::error!(%error, "what earlier processes counted was not read");
            (Vec::new(), Vec::new())
        });
        self.stuck = stuck.len();
        stuck.into_iter().for_each(|one| self.tell_stuck(one));
        self.waiting.extend(taken);
    }

    async fn recover(&mut self, taken: Taken, has: u64) {
        let recovered = tokio::task::spawn_blocking(move || recover::recover(taken.folder, has));
        match recovered.await {
            Ok(Ok(Recovered { outbox, nameless, unsealed })) => {
                self.nameless += nameless;
                let is_whole = unsealed.is_none();
                match unsealed {
                    Some(one) => self.tell_stuck(one),
                    None => drop(self.told.remove(outbox.folder.path())),
                }
                self.adopted.push(Adopted { outbox, is_whole });
            }
            Ok(Err(one)) => {
                self.stuck += 1;
                self.tell_stuck(one);
            }
            Err(error) => tracing::error!(%error, "what an earlier process counted was not read"),
        }
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
    pub(super) async fn send(
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

    pub(super) fn tell(&mut self, done: Result<(), SendError>) {
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
