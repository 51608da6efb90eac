//! The file outlives whoever counts in it, grows, and is refused if it is something else.

use keygate_core::problem::Code;

use super::*;
use crate::usage::wire;

fn key(n: u128) -> KeyId {
    wire::key_id(n << 90 | n)
}

#[test]
fn what_was_counted_is_there_when_the_file_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tally");
    let tally = Tally::create(&path, 3).unwrap();
    let tag = Tag::admitted(RouteNumber(70_000));
    let number = tally.give(key(1), tag).unwrap();
    let refused = Tag::refused(RouteNumber(2), Code::Internal);
    let other = tally.give(key(2), refused).unwrap();
    let slot = tally.slot(number).unwrap();
    slot.add_request(5);
    slot.add_request(0);
    slot.add_bytes(7, 0);
    slot.add_bytes(0, 9);
    slot.note_use(UnixMillis(50), "192.0.2.1".parse().unwrap());
    slot.note_use(UnixMillis(40), "2001:db8::9".parse().unwrap());
    let totals = Totals { requests: 1, cost: 5, bytes_in: 0, bytes_out: 0 };
    slot.seal(totals);
    slot.seal(Totals::default());
    tally.set_number(8);
    tally.set_number(7);
    tally.set_minute(UnixMillis(60_000));
    std::mem::forget(tally);

    let tally = Tally::open(&path, 3).unwrap().unwrap();
    assert_eq!((tally.number(), tally.minute()), (8, UnixMillis(60_000)));
    let written: Vec<u32> =
        tally.slots().filter(|(_, slot)| slot.tag().is_some()).map(|(number, _)| number).collect();
    assert_eq!(written, [number, other]);
    let slot = tally.slot(number).unwrap();
    assert!(slot.is_of(key(1), tag) && !slot.is_of(key(2), tag));
    assert_eq!(slot.key(), key(1));
    assert_eq!(
        (slot.tag().unwrap().route(), slot.tag().unwrap().code()),
        (RouteNumber(70_000), Ok(None))
    );
    assert_eq!(slot.totals(), Totals { requests: 2, cost: 5, bytes_in: 7, bytes_out: 9 });
    assert_eq!(slot.sealed(), totals);
    assert_eq!(slot.last(), UnixMillis(50));
    assert_eq!(slot.address(), Some("2001:db8::9".parse().unwrap()));
    let tag = tally.slot(other).unwrap().tag().unwrap();
    assert_eq!((tag.route(), tag.code()), (RouteNumber(2), Ok(Some(Code::Internal))));
}

#[test]
fn it_grows_by_segments_ahead_of_need() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tally");
    let tally = Tally::create(&path, 0).unwrap();
    let length = || usize::try_from(path.metadata().unwrap().len()).unwrap();
    assert_eq!(length(), HEADER_BYTES + SEGMENT_BYTES);
    let slots = u32::try_from(SEGMENT_SLOTS).unwrap();
    for n in 0..slots * 3 / 4 {
        assert_eq!(tally.give(key(n.into()), Tag::admitted(RouteNumber(1))).unwrap(), n);
    }
    tally.make_room().unwrap();
    tally.make_room().unwrap();
    assert_eq!(length(), HEADER_BYTES + 2 * SEGMENT_BYTES);
    for n in slots * 3 / 4..=slots * 2 {
        assert_eq!(tally.give(key(n.into()), Tag::admitted(RouteNumber(1))).unwrap(), n);
    }
    assert_eq!(length(), HEADER_BYTES + 3 * SEGMENT_BYTES);
    assert_eq!(tally.slots().count(), slots as usize * 2 + 1);
}

#[test]
fn a_file_that_was_just_being_made_is_none_and_another_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tally");
    for length in [0, 100, HEADER_BYTES, HEADER_BYTES + SEGMENT_BYTES] {
        std::fs::write(&path, vec![0; length]).unwrap();
        assert!(Tally::open(&path, 0).unwrap().is_none(), "{length}");
    }
    std::fs::write(&path, vec![b'x'; HEADER_BYTES]).unwrap();
    assert!(Tally::open(&path, 0).is_err());
}
