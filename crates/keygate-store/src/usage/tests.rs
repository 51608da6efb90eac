//! Uses that are noted reach the store, unless there are too many.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::boil::boil;
use crate::cached::tests::gated::Gated;
use crate::records::OwnedKey;
use crate::testing::{MemoryStore, account, app, key, key_id, last_times};

fn record(n: u64) -> KeyRecord {
    let account = account(1);
    let app = app(1, &account);
    boil(OwnedKey { key: key(n, &app), app, account }, 0)
}

fn store() -> Gated {
    Gated::new(MemoryStore::default())
}

async fn last_used(store: &Gated, n: u64) -> Option<u64> {
    last_times(store, vec![key_id(n)]).await[0].map(|at| at.0)
}

#[tokio::test]
async fn one_use_in_five_seconds_is_noted_and_told() {
    let (uses, store, key) = (Uses::default(), store(), record(1));
    for at in [10_000, 10_001, 14_999] {
        uses.note(&key, UnixMillis(at));
    }
    assert_eq!(last_used(&store, 1).await, None, "not told yet");
    uses.flush(&store).await.unwrap();
    assert_eq!(last_used(&store, 1).await, Some(10_000));
    uses.note(&key, UnixMillis(15_000));
    uses.flush(&store).await.unwrap();
    assert_eq!(last_used(&store, 1).await, Some(15_000));
    assert_eq!(last_used(&store, 2).await, None);
}

#[tokio::test]
async fn a_record_that_is_read_again_notes_no_earlier_use() {
    let (uses, store) = (Uses::default(), store());
    uses.note(&record(1), UnixMillis(20_000));
    uses.note(&record(1), UnixMillis(19_000));
    uses.flush(&store).await.unwrap();
    assert_eq!(last_used(&store, 1).await, Some(20_000));
}

#[tokio::test]
async fn what_the_store_does_not_take_is_kept_and_merged_with_what_comes() {
    let (uses, store) = (Uses::default(), store());
    let keys: Vec<KeyRecord> = (0..3_500).map(record).collect();
    keys.iter().for_each(|key| uses.note(key, UnixMillis(10_000)));
    store.mood.mark_fails.store(true, SeqCst);
    assert!(uses.flush(&store).await.is_err());
    uses.note(&keys[7], UnixMillis(60_000));
    store.mood.mark_fails.store(false, SeqCst);
    uses.flush(&store).await.unwrap();
    for n in 0..3_500 {
        let expected = if n == 7 { 60_000 } else { 10_000 };
        assert_eq!(last_used(&store, n).await, Some(expected), "{n}");
    }
    assert_eq!(uses.dropped(), 0);
}

#[tokio::test]
async fn telling_that_is_dropped_midway_loses_nothing() {
    let (uses, store, key) = (Uses::default(), store(), record(1));
    uses.note(&key, UnixMillis(10_000));
    store.mark_gate.forget_permits(usize::MAX);
    let told = timeout(Duration::from_millis(1), uses.flush(&store)).await;
    assert!(told.is_err(), "the store does not answer");
    store.mark_gate.add_permits(1);
    uses.stop(&store).await;
    assert_eq!(last_used(&store, 1).await, Some(10_000));
}

#[tokio::test]
async fn a_store_that_does_not_answer_does_not_hold_up_the_end() {
    tokio::time::pause();
    let (uses, store) = (Uses::default(), store());
    uses.note(&record(1), UnixMillis(10_000));
    store.mark_gate.forget_permits(usize::MAX);
    uses.stop(&store).await;
}

#[tokio::test]
async fn too_many_uses_are_counted_and_take_no_more_memory() {
    let (uses, store) = (Uses::default(), store());
    let more = USES_MAX as u64 * 2;
    for n in 0..more {
        uses.put(key_id(n), UnixMillis(10_000));
    }
    let kept = uses.take().len() as u64;
    assert!(kept <= USES_MAX as u64 && kept > USES_MAX as u64 / 2);
    assert_eq!(uses.dropped(), more - kept);
    uses.flush(&store).await.unwrap();
}

#[test]
fn ids_are_spread_over_a_shards_whole_table() {
    use std::hash::BuildHasher;

    let hasher = Shard::default().hasher().clone();
    let mut entropy = [0; 10];
    let hashes: std::collections::HashSet<u64> = (0..100_000)
        .map(|_| {
            fastrand::fill(&mut entropy);
            // All of one shard.
            entropy[9] &= 0b1100_0000;
            hasher.hash_one(KeyId::new(UnixMillis(1), entropy)) % 1_024
        })
        .collect();
    assert_eq!(hashes.len(), 1_024);
}
