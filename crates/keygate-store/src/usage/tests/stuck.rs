//! What cannot be read, or not be named, holds up nothing else.

use keygate_core::KeyId;

use super::*;
use crate::keys::StoreError;
use crate::usage::flow::{FlushSettings, Sending};
use crate::usage::outbox::Sink;
use crate::usage::records::{SourceId, UsageBatch};

fn sending() -> Sending {
    Sending {
        settings: Box::new(|| FlushSettings { interval: Duration::from_secs(1), keep: KEEP }),
        rows_max: BATCH_ROWS_MAX,
        settled_after: Duration::ZERO,
        clock: || UnixMillis(MINUTE),
    }
}

fn requests(ledger: &Ledger) -> u64 {
    ledger.used().into_values().map(|counts| counts.requests).sum()
}

/// Takes nothing of one source.
struct Against<'a>(SourceId, &'a Ledger);

impl Sink for Against<'_> {
    async fn add(&self, batch: UsageBatch, keep: Retention) -> Result<(), StoreError> {
        if batch.source == self.0 {
            return Err(StoreError::Unavailable("not this one".into()));
        }
        self.1.add(batch, keep).await
    }

    async fn number(&self, source: SourceId) -> Result<u64, StoreError> {
        self.1.number(source).await
    }
}

/// A source whose process is gone: what its key used, and where it is.
fn left_behind(root: &Path, requests: u64) -> (KeyId, SourceId) {
    let (counter, _, routes) = begin(root);
    let key = record(requests);
    for _ in 0..requests {
        counter.admitted(&key, routes[0], 1, UnixMillis(1), CLIENT).unwrap();
    }
    (key.id, counter.0.folder.source)
}

#[test]
fn a_folder_that_cannot_be_opened_holds_up_no_other() {
    let root = tempfile::tempdir().unwrap();
    left_behind(root.path(), 3);
    for name in [0_u128, u128::MAX] {
        std::fs::write(root.path().join(format!("{name:032x}")), "no folder").unwrap();
    }
    let (counter, ..) = begin(root.path());
    let ledger = Ledger::default();
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(requests(&ledger), 3);
    assert_eq!(counter.flow().stuck, 2);
}

#[test]
fn a_source_that_the_store_does_not_take_holds_up_no_other() {
    let root = tempfile::tempdir().unwrap();
    let (_, refused) = left_behind(root.path(), 2);
    left_behind(root.path(), 3);
    let (counter, _, routes) = begin(root.path());
    counter.admitted(&record(9), routes[0], 1, UnixMillis(1), CLIENT).unwrap();
    counter.seal(UnixMillis(1), BATCH_ROWS_MAX).unwrap();
    let ledger = Ledger::default();
    block_on(counter.send(&Against(refused, &ledger), &sending()));
    assert_eq!(requests(&ledger), 3 + 1);
    assert_eq!(counter.flow().backlog, 1);
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(requests(&ledger), 2 + 3 + 1);
}

#[test]
fn what_the_store_says_it_has_already_is_no_number_for_what_is_left() {
    let root = tempfile::tempdir().unwrap();
    let (counter, outbox, routes) = begin(root.path());
    let key = record(1);
    let ledger = Ledger::default();
    let admit = |times| {
        for _ in 0..times {
            counter.admitted(&key, routes[0], 1, UnixMillis(1), CLIENT).unwrap();
        }
    };
    for times in [1, 10] {
        admit(times);
        counter.seal(UnixMillis(1), BATCH_ROWS_MAX).unwrap();
        block_on(counter.send(&ledger, &sending()));
    }
    admit(100);
    let (tally, batches) = (counter.0.folder.tally(0), counter.0.folder.batches().unwrap());
    assert_eq!((requests(&ledger), batches), (11, vec![]));
    drop((counter, outbox));
    // The disk has lost that there were any batches.
    let mut bytes = std::fs::read(&tally).unwrap();
    bytes[24..32].fill(0);
    std::fs::write(&tally, bytes).unwrap();
    let (counter, ..) = begin(root.path());
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(requests(&ledger), 111);
}

#[test]
fn what_was_left_behind_waits_for_a_store_that_is_away_and_is_told_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let (counter, outbox, routes) = begin(root.path());
    let (key, ledger) = (record(1), Ledger::default());
    for at in 1..=3 {
        counter.admitted(&key, routes[0], 1, UnixMillis(at), CLIENT).unwrap();
        if at < 3 {
            counter.seal(UnixMillis(at), BATCH_ROWS_MAX).unwrap();
        }
    }
    ledger.be(ledger::Mood::Away);
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(counter.flow().failed, 1, "the store did not say what it has");
    drop((counter, outbox));
    left_behind(root.path(), 5);
    let (counter, ..) = begin(root.path());
    block_on(counter.send(&ledger, &sending()));
    let flow = counter.flow();
    assert_eq!((flow.backlog, flow.failed, flow.stuck), (2, 1, 0));
    assert!(flow.oldest_unsent > 0);
    ledger.be(ledger::Mood::Fine);
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(requests(&ledger), 3 + 5);
    assert_eq!((counter.flow().backlog, counter.flow().oldest_unsent), (0, 0));
}

#[test]
fn a_source_without_names_has_nothing_to_say_and_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let (counter, ..) = begin(root.path());
    let routes = counter.0.folder.routes();
    drop(counter);
    std::fs::remove_file(routes).unwrap();
    let (recovered, stuck) = take_over(root.path(), 0);
    assert_eq!((recovered.len(), stuck.len()), (1, 0));
    assert!(recovered[0].outbox.is_empty() && recovered[0].unsealed.is_none());
}

#[test]
fn uses_without_a_name_are_left_out_and_told_and_the_rest_is_sent() {
    let root = tempfile::tempdir().unwrap();
    let (counter, outbox, routes) = begin(root.path());
    let key = record(1);
    for (route, times) in routes.iter().zip([1, 10, 100]) {
        for _ in 0..times {
            counter.admitted(&key, *route, 1, UnixMillis(1), CLIENT).unwrap();
        }
    }
    let names = counter.0.folder.routes();
    drop((counter, outbox));
    // Only the first name came to the disk before its power went, and half of the second.
    let text = std::fs::read_to_string(&names).unwrap();
    let first = text.find('\n').unwrap();
    std::fs::write(&names, &text[..first + 3]).unwrap();
    let (counter, ..) = begin(root.path());
    let ledger = Ledger::default();
    block_on(counter.send(&ledger, &sending()));
    assert_eq!(requests(&ledger), 1);
    assert_eq!(counter.flow().dropped, 110);
    assert_eq!(counter.flow().stuck, 0);
}

#[test]
fn counters_that_cannot_be_made_batches_stay_while_batches_are_sent() {
    let root = tempfile::tempdir().unwrap();
    let (counter, outbox, routes) = begin(root.path());
    let key = record(1);
    counter.admitted(&key, routes[0], 1, UnixMillis(1), CLIENT).unwrap();
    counter.seal(UnixMillis(1), BATCH_ROWS_MAX).unwrap();
    counter.admitted(&key, routes[0], 1, UnixMillis(2), CLIENT).unwrap();
    // No batch can be written where a folder is.
    let obstacle = counter.0.folder.path().join("batch.partial");
    std::fs::create_dir(&obstacle).unwrap();
    drop((counter, outbox));
    let (counter, ..) = begin(root.path());
    let ledger = Ledger::default();
    block_on(counter.send(&ledger, &sending()));
    assert_eq!((requests(&ledger), counter.flow().stuck), (1, 1));
    std::fs::remove_dir(&obstacle).unwrap();
    block_on(async {
        tokio::time::advance(Duration::from_secs(60)).await;
        counter.send(&ledger, &sending()).await;
    });
    assert_eq!(requests(&ledger), 2);
    assert_eq!(counter.flow().stuck, 0);
}

#[test]
fn a_damaged_batch_is_failed_and_not_stored_and_a_newer_one_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    for is_newer in [false, true] {
        let (counter, mut outbox, routes) = begin(root.path());
        let key = record(1);
        for n in 1..=2 {
            counter.admitted(&key, routes[0], 1, UnixMillis(n), CLIENT).unwrap();
            counter.seal(UnixMillis(n), BATCH_ROWS_MAX).unwrap();
        }
        let first = counter.0.folder.batch(1);
        let mut bytes = std::fs::read(&first).unwrap();
        if is_newer {
            bytes[8] = 2;
        } else {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(&first, bytes).unwrap();
        let (ledger, sent) = (Ledger::default(), Sent::default());
        let done = block_on(outbox.send(&ledger, KEEP, Duration::ZERO, &sent));
        assert_eq!(done.is_err(), is_newer);
        assert_eq!(first.exists(), is_newer);
        let taken = sent.stored.load(Relaxed) + sent.again.load(Relaxed);
        assert_eq!(taken, u64::from(!is_newer));
        assert!(sent.failed.load(Relaxed) > 0);
        assert_eq!(requests(&ledger), u64::from(!is_newer));
        drop((counter, outbox));
        let (recovered, stuck) = take_over(root.path(), 0);
        assert_eq!((recovered.len(), stuck.len()), if is_newer { (0, 1) } else { (1, 0) });
        for one in recovered {
            Arc::into_inner(one.outbox.folder).unwrap().remove().unwrap();
        }
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_that_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = UsageCounter::open(&path, UnixMillis(0)).err().unwrap().to_string();
    assert!(error.contains("[usage] path") && error.contains("file"), "{error}");
}
