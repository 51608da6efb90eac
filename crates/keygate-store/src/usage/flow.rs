//! The tasks that take what was counted to the store: one seals at its times, one sends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use keygate_core::UnixMillis;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::UsageCounter;
use super::outbox::{Outbox, Sent, Sink};
use super::records::{Retention, SourceId, Step};
use super::sender::Sender;
use crate::cached::CachedKeys;
use crate::keys::KeyStore;

/// How often the store is tried that did not take something.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// So many rows each `interval` are sent as they come. Of more of them each costs the store something, and
/// most of what one key uses within a minute can be one row: then the store is told so much less often, but
/// at the turn of each minute in any case.
const ROWS_EACH_INTERVAL: usize = 1_000;
/// All gateways seal at the turn of the minute. With many rows each waits for a part of this before it sends
/// them, so that they do not all come to the store at once.
const SPREAD_MAX: Duration = Duration::from_secs(5);
/// A gateway that stops sends no more when the store has taken nothing for so long.
const GOODBYE_STILL: Duration = Duration::from_secs(2);

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
    /// The most rows of one batch: what the store carries out in one step, while it answers nobody else.
    pub rows_max: usize,
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
    /// New keys soon find no room.
    pub(super) wants_room: Notify,
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

impl UsageCounter {
    /// Seals and sends for as long as the runtime lives.
    pub async fn run<S: KeyStore>(self, keys: Arc<CachedKeys<S>>, by: Arc<Sending>) {
        let sending = self.keep_sending(keys.store(), &by);
        tokio::join!(self.keep_sealing(&by), sending, self.keep_room());
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

    /// Sends what there is, for so long at most, and nothing after that: the store is about to be closed,
    /// or given away. What is still counted, and what was not sent, another process sends once this one has
    /// ended.
    pub async fn finish(&self, store: &impl KeyStore, by: &Sending, longest: Duration) {
        self.send_last(store, by, longest).await;
    }

    pub(super) async fn send_last(&self, store: &impl Sink, by: &Sending, longest: Duration) {
        let sent = &self.0.flow.sent;
        let end = Instant::now() + longest;
        sent.is_hurried.store(true, Release);
        let mut is_done = false;
        if timeout_at(end, self.seal_beside(by)).await.is_ok() {
            let mut sending = std::pin::pin!(self.send(store, by));
            let mut before = None;
            // Whoever sends already goes on, and that counts as well.
            while before != Some(sent.taken()) && !is_done {
                before = Some(sent.taken());
                let until = end.min(Instant::now() + GOODBYE_STILL);
                is_done = timeout_at(until, sending.as_mut()).await.is_ok();
            }
        }
        if !is_done {
            tracing::info!("not all of what keys used was sent in time: the next process does it");
        }
        sent.is_held.store(true, Release);
    }

    pub(super) async fn keep_sealing(&self, by: &Sending) {
        let mut last = Instant::now();
        let mut is_failing = false;
        loop {
            let interval = (by.settings)().interval;
            // Only a seal makes room when there is none.
            let due = if self.is_full() { interval } else { stretched(interval, self.rows()) };
            // The clock may be set, and a turn may have failed: no sleep is longer than the interval.
            let wait = due.saturating_sub(last.elapsed()).min(interval);
            sleep(self.to_turn(by).map_or(wait, |turn| wait.min(turn))).await;
            let is_turn = Step::Minute.start((by.clock)()) != self.minute();
            if !is_turn && last.elapsed() < due {
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

    /// How long the minute still takes that is being counted. None if it is over.
    fn to_turn(&self, by: &Sending) -> Option<Duration> {
        let turn = self.minute().0.saturating_add(Step::Minute.millis());
        let left = turn.checked_sub((by.clock)().0).filter(|&left| left > 0);
        left.map(Duration::from_millis)
    }

    async fn seal_now(&self, by: &Sending) -> io::Result<()> {
        let (counter, now, rows_max) = (self.clone(), (by.clock)(), by.rows_max);
        tokio::task::spawn_blocking(move || counter.seal(now, rows_max))
            .await
            .map_err(io::Error::other)?
    }

    /// Makes room for new keys when they ask for it: they may come faster than it is sealed.
    pub(super) async fn keep_room(&self) {
        loop {
            self.0.flow.wants_room.notified().await;
            self.make_room_now().await;
        }
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
        while !shared.sent.is_held.load(Acquire) {
            self.send(store, by).await;
            if timeout(TRY_EVERY, shared.sealed.notified()).await.is_ok() {
                let interval = (by.settings)().interval;
                sleep(spread(self.0.folder.source, interval, self.rows())).await;
            }
        }
    }

    /// Sends what there is, unless nothing is to be sent any more.
    pub(super) async fn send(&self, store: &impl Sink, by: &Sending) {
        let shared = &self.0.flow;
        let mut sender = shared.sender.lock().await;
        if shared.sent.is_held.load(Acquire) {
            return;
        }
        let sender = sender.get_or_insert_with(|| {
            Sender::new(Outbox::new(Arc::clone(&self.0.folder), Arc::clone(&self.0.files)))
        });
        let adopted = sender.adopt(&self.0.root, store, &shared.sent).await;
        self.0.dropped.fetch_add(sender.take_nameless(), Relaxed);
        let done = sender.send(store, by, &shared.sent).await;
        sender.tell(adopted.and(done));
        shared.unsent.store(sender.own_unsent(), Relaxed);
        shared.backlog.store(sender.backlog(), Relaxed);
        shared.oldest_unsent.store(sender.oldest_unsent().unwrap_or_default(), Relaxed);
        shared.stuck.store(sender.stuck(), Relaxed);
    }
}

/// How long to wait after a seal that made so many rows, unless the minute turns.
fn stretched(interval: Duration, rows: usize) -> Duration {
    let times = rows.div_ceil(ROWS_EACH_INTERVAL).max(1);
    let stretched = interval.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
    stretched.min(Duration::from_mins(1)).max(interval)
}

/// How long this source waits before it sends so many rows.
fn spread(source: SourceId, interval: Duration, rows: usize) -> Duration {
    if rows <= ROWS_EACH_INTERVAL {
        return Duration::ZERO;
    }
    let within = (stretched(interval, rows) / 4).min(SPREAD_MAX);
    let millis = source.0 % within.as_millis().max(1);
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_are_sent_by_each_source_at_a_time_of_its_own_and_few_at_once() {
        let interval = Duration::from_secs(2);
        let waits = |rows| (0..60).map(move |n| spread(SourceId(n * 987_654_321), interval, rows));
        assert!(waits(1_000).all(|wait| wait.is_zero()));
        for (rows, below) in [(1_001, Duration::from_secs(1)), (1_000_000, SPREAD_MAX)] {
            assert!(waits(rows).all(|wait| wait < below));
            let early = waits(rows).filter(|&wait| wait < below / 2).count();
            assert!((15..=45).contains(&early), "{early}");
        }
    }

    #[test]
    fn few_rows_are_sent_as_they_come_and_many_with_the_minute() {
        let interval = Duration::from_secs(2);
        for (rows, wait) in [(0, 2), (1_000, 2), (1_001, 4), (10_000, 20), (100_000, 60)] {
            assert_eq!(stretched(interval, rows), Duration::from_secs(wait), "{rows}");
        }
        assert_eq!(stretched(interval, usize::MAX), Duration::from_mins(1));
    }
}
