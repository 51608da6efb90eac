//! There is room for many keys, and it is there before a request asks for it.

use super::*;

#[test]
fn more_keys_than_a_batch_holds_and_than_a_segment_holds_are_all_counted() {
    let root = tempfile::tempdir().unwrap();
    let (counter, mut outbox, routes) = begin(root.path());
    let mut key = record(0);
    let keys = 40_000;
    for n in 0..keys {
        key.id = crate::testing::key_id(n);
        assert!(counter.admitted(&key, routes[0], 1, UnixMillis(1), CLIENT).is_some());
    }
    counter.seal(UnixMillis(1), BATCH_ROWS_MAX).unwrap();
    let ledger = Ledger::default();
    block_on(outbox.send(&ledger, KEEP, Duration::ZERO, &Sent::default())).unwrap();
    let used = ledger.used();
    assert_eq!(used.len() as u64, keys);
    assert!(used.values().all(|counts| counts.requests == 1));
    assert!(outbox.is_empty(), "a store that loses nothing has it at once");
}

#[test]
fn no_request_makes_the_file_grow_while_room_is_made_ahead() {
    for is_ahead in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let (counter, _, routes) = begin(root.path());
        let mut key = record(0);
        let keys = 4 * tally::SEGMENT_SLOTS as u64;
        let tally = &counter.0.live.load_full().tally;
        let count = async {
            for n in 0..keys {
                key.id = crate::testing::key_id(n);
                assert!(counter.admitted(&key, routes[0], 1, UnixMillis(1), CLIENT).is_some());
                while is_ahead && tally.wants_room() {
                    tokio::task::yield_now().await;
                }
            }
        };
        block_on(async {
            tokio::select! {
                () = count => {}
                () = counter.keep_room(), if is_ahead => {}
            }
        });
        assert_eq!(tally.grown_late(), if is_ahead { 0 } else { 3 });
        assert_eq!(counter.flow().dropped, 0);
    }
}
