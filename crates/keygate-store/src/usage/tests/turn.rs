//! When it is sealed: what was used within a minute is that minute's, however many keys are in use. And a
//! gateway that stops sends it before.

use std::cell::Cell;

use tokio::time::{Instant, sleep, sleep_until};

use super::*;
use crate::keys::StoreError;
use crate::usage::flow::{FlushSettings, Sending};
use crate::usage::outbox::Sink;
use crate::usage::records::{SourceId, UsageBatch};

thread_local! {
    /// When the clock of a test began, and how much it was set forward since.
    static CLOCK: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

fn clock() -> UnixMillis {
    let (began, ahead) = CLOCK.get().unwrap();
    UnixMillis(u64::try_from(began.elapsed().as_millis()).unwrap() + ahead)
}

fn set_forward(millis: u64) {
    CLOCK.set(CLOCK.get().map(|(began, ahead)| (began, ahead + millis)));
}

async fn at(seconds: u64) {
    sleep_until(CLOCK.get().unwrap().0 + Duration::from_secs(seconds)).await;
}

fn sending(interval: u64, rows_max: usize) -> Sending {
    let interval = Duration::from_secs(interval);
    Sending {
        settings: Box::new(move || FlushSettings { interval, keep: KEEP }),
        rows_max,
        settled_after: Duration::ZERO,
        clock,
    }
}

fn admit(counter: &UsageCounter, route: RouteNumber, keys: u64) {
    let mut key = record(0);
    for n in 0..keys {
        key.id = crate::testing::key_id(n);
        assert!(counter.admitted(&key, route, 1, UnixMillis(1), CLIENT).is_some());
    }
}

/// Does this while it is sealed at its times.
fn while_sealing(counter: &UsageCounter, by: &Sending, script: impl Future<Output = ()>) {
    block_on(async {
        CLOCK.set(Some((Instant::now(), 0)));
        tokio::select! {
            () = script => {}
            () = counter.keep_sealing(by) => {}
        }
    });
}

const MANY: u64 = 3_000;

#[test]
fn a_turn_that_failed_is_tried_again_after_the_interval_however_many_rows_there_are() {
    let root = tempfile::tempdir().unwrap();
    let (counter, _, routes) = begin(root.path());
    admit(&counter, routes[0], MANY);
    // No batch can be written where a folder is.
    let obstacle = counter.0.folder.path().join("batch.partial");
    while_sealing(&counter, &sending(30, 10_000), async {
        at(40).await;
        assert_eq!(counter.rows() as u64, MANY);
        admit(&counter, routes[0], MANY);
        std::fs::create_dir(&obstacle).unwrap();
        at(70).await;
        assert_eq!(counter.minute(), UnixMillis(0), "it failed");
        std::fs::remove_dir(&obstacle).unwrap();
        at(100).await;
        assert_eq!(counter.minute(), UnixMillis(MINUTE));
    });
}

#[test]
fn a_clock_that_is_set_is_seen_after_the_interval() {
    let root = tempfile::tempdir().unwrap();
    let (counter, _, routes) = begin(root.path());
    admit(&counter, routes[0], MANY);
    while_sealing(&counter, &sending(5, 10_000), async {
        at(6).await;
        assert_eq!(counter.rows() as u64, MANY);
        set_forward(MINUTE);
        at(11).await;
        assert_eq!(counter.minute(), UnixMillis(MINUTE));
    });
}

#[test]
fn many_rows_are_sealed_less_often_and_few_again_as_they_come() {
    let root = tempfile::tempdir().unwrap();
    let (counter, _, routes) = begin(root.path());
    let (by, ledger) = (sending(5, BATCH_ROWS_MAX), Ledger::default());
    admit(&counter, routes[0], MANY);
    while_sealing(&counter, &by, async {
        at(6).await;
        counter.send(&ledger, &by).await;
        admit(&counter, routes[0], 1);
        at(19).await;
        assert_eq!(counter.rows() as u64, MANY);
        at(21).await;
        assert_eq!(counter.rows(), 1);
        counter.send(&ledger, &by).await;
        admit(&counter, routes[0], 2);
        at(26).await;
        assert_eq!(counter.rows(), 2);
    });
}

#[test]
fn what_is_counted_while_batches_are_written_is_the_next_minutes() {
    let mut one = Counting::new();
    for n in 0..5 {
        one.admit(n, 0, 1);
    }
    one.now = MINUTE;
    // When the first batch is written.
    let (counter, key, route) = (one.counter.clone(), record(3), one.routes[0]);
    let mut is_first = true;
    let late = move || {
        if std::mem::take(&mut is_first) {
            counter.admitted(&key, route, 1, UnixMillis(MINUTE), CLIENT).unwrap();
        }
    };
    steps::watch(late, || one.counter.seal(UnixMillis(MINUTE), 1).unwrap());
    one.seal();
    let ledger = Ledger::default();
    block_on(one.send(&ledger));
    let requests: Vec<_> = ledger.rows().iter().map(|row| row.counts.requests).collect();
    assert_eq!(requests, [1; 6]);
    let minutes = ledger.minutes();
    assert_eq!(minutes.iter().filter(|&&minute| minute == UnixMillis(MINUTE)).count(), 1);
}

/// Takes so long for each batch.
struct Slow<'a>(Duration, &'a Ledger);

impl Sink for Slow<'_> {
    async fn add(&self, batch: UsageBatch, keep: Retention) -> Result<(), StoreError> {
        sleep(self.0).await;
        self.1.add(batch, keep).await
    }

    async fn number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.1.number(source).await
    }
}

/// What the store has, and how many seconds it took, when a gateway stops while it sends 100 batches.
fn stopped_while_sending(each: Duration) -> (usize, u64) {
    let root = tempfile::tempdir().unwrap();
    let (counter, _, routes) = begin(root.path());
    let (by, ledger) = (sending(1, 1), Ledger::default());
    let slow = Slow(each, &ledger);
    admit(&counter, routes[0], 100);
    block_on(async {
        let began = Instant::now();
        CLOCK.set(Some((began, 0)));
        counter.seal(clock(), 1).unwrap();
        let stop = async {
            sleep(Duration::from_millis(1)).await;
            counter.send_last(&slow, &by, Duration::from_secs(10)).await;
            began.elapsed().as_secs()
        };
        let ((), took) = tokio::join!(counter.send(&slow, &by), stop);
        (ledger.rows().len(), took)
    })
}

#[test]
fn a_gateway_that_stops_sends_without_pauses_for_as_long_as_the_store_takes_it() {
    assert_eq!(stopped_while_sending(Duration::from_millis(80)), (100, 8));
    let (rows, took) = stopped_while_sending(Duration::from_millis(500));
    assert!((19..=21).contains(&rows) && took == 10, "{rows} rows, {took} s");
    assert_eq!(stopped_while_sending(Duration::from_secs(60)), (1, 2), "it hangs");
}
