//! What was marked is there again when the file is opened again, whatever happened in between.

mod any_history;
mod limiter;
mod trouble;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use keygate_core::limit::terms::Share;
use tempfile::TempDir;

use super::slot::{SLOT_BYTES, header_of};
use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn at(ms: u64) -> UnixMillis {
    UnixMillis(NOW.0 + ms)
}

fn party(n: u8) -> Party {
    Party::from_parts(Share::Key, [n; 16])
}

/// A file of quotas in a folder of its own.
struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("keygate.db.quotas"), _folder: folder }
    }

    fn open(&self) -> Marks {
        self.open_at(NOW)
    }

    #[track_caller]
    fn open_at(&self, now: UnixMillis) -> Marks {
        Marks::open(&self.path, now).unwrap()
    }

    fn error(&self) -> MarksError {
        match Marks::open(&self.path, NOW) {
            Ok(_) => panic!("it was opened"),
            Err(error) => error,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).unwrap();
    }

    /// How many slots the file has, used or not.
    fn slots(&self) -> usize {
        let slots = self.bytes().len() / SLOT_BYTES;
        slots.checked_sub(1).expect("a header")
    }
}

#[test]
fn what_was_marked_is_there_after_a_restart() {
    let place = Place::new();
    let marks = place.open();
    let shares = [Share::Key, Share::App, Share::Account];
    let parties = shares.map(|share| Party::from_parts(share, [7; 16]));
    let mut n = 0;
    for party in parties {
        for unit in UNITS {
            n += 1;
            marks.mark(party, unit, at(n * 1_000), n);
        }
    }
    let before = parties.map(|party| marks.of(party));
    // As a killed process leaves it: nothing was synced, or closed.
    let after = place.open();
    assert_eq!(parties.map(|party| after.of(party)), before);
    assert_eq!(before[1][0], (Unit::Second, at(6_000), 6));
    assert_eq!(after.of(party(8)), []);
}

#[test]
fn the_last_mark_of_a_window_counts_also_when_it_is_lower() {
    let place = Place::new();
    let marks = place.open();
    for used in [1, 2, 900, 17] {
        marks.mark(party(1), Unit::Day, at(5), used);
    }
    assert_eq!(place.open().of(party(1)), [(Unit::Day, at(5), 17)]);
    assert_eq!(place.slots(), 1);
}

#[test]
fn windows_that_are_over_are_not_read_back() {
    let place = Place::new();
    let marks = place.open();
    marks.mark(party(1), Unit::Minute, at(10), 1);
    marks.mark(party(1), Unit::Day, at(20), 2);
    marks.mark(party(1), Unit::Month, UnixMillis(u64::MAX), 3);
    let units = |now| place.open_at(now).of(party(1)).iter().map(|one| one.0).collect::<Vec<_>>();
    assert_eq!(units(at(9)), [Unit::Minute, Unit::Day, Unit::Month]);
    assert_eq!(units(at(10)), [Unit::Day, Unit::Month]);
    assert_eq!(units(at(20)), [Unit::Month]);
}

#[test]
fn windows_that_are_over_leave_memory_too_and_are_not_put_on_record() {
    let place = Place::new();
    let marks = place.open();
    marks.mark(party(1), Unit::Minute, at(10), 1);
    marks.tidy(at(9));
    assert_eq!(marks.of(party(1)).len(), 1);
    marks.tidy(at(10));
    assert_eq!(marks.of(party(1)), []);
    marks.mark(party(1), Unit::Minute, at(10), 2);
    assert_eq!(marks.of(party(1)), []);
}

#[test]
fn slots_are_used_again_so_that_the_file_does_not_grow_with_windows() {
    let place = Place::new();
    let marks = place.open();
    for window in 0..100 {
        let ends_at = at((window + 1) * 10);
        // Others come by each time.
        for n in 0..10 {
            let visitor = u8::try_from(window * 2 % 200 + n).unwrap();
            marks.mark(party(visitor), Unit::Minute, ends_at, window + 1);
        }
        marks.tidy(ends_at);
    }
    assert!(place.slots() <= 10, "{} slots", place.slots());
}

#[test]
fn the_empty_end_of_a_file_is_cut_off_at_the_next_start() {
    let place = Place::new();
    let marks = place.open();
    for n in 0..100 {
        let ends_at = if n == 3 { at(1_000) } else { at(10) };
        marks.mark(party(n), Unit::Minute, ends_at, 1);
    }
    let marks = place.open_at(at(10));
    assert_eq!(place.slots(), 4);
    // The free ones before it come first.
    for n in 10..13 {
        marks.mark(party(n), Unit::Minute, at(1_000), 1);
    }
    assert_eq!(place.slots(), 4);
    marks.mark(party(13), Unit::Minute, at(1_000), 1);
    assert_eq!(place.slots(), 5);
    drop(place.open_at(at(1_000)));
    assert_eq!(place.slots(), 0);
}

#[test]
fn what_is_forgotten_stays_forgotten_and_nothing_else_is() {
    let place = Place::new();
    let marks = place.open();
    for n in 0..3 {
        marks.mark(party(n), Unit::Day, at(5), 1);
        marks.mark(party(n), Unit::Month, at(9), 1);
    }
    marks.forget(party(1)).unwrap();
    assert_eq!(marks.of(party(1)), []);
    let marks = place.open();
    assert_eq!([0, 1, 2].map(|n| marks.of(party(n)).len()), [2, 0, 2]);
    // Its slots are free.
    marks.mark(party(3), Unit::Day, at(5), 1);
    marks.mark(party(3), Unit::Month, at(9), 1);
    assert_eq!(place.slots(), 6);
}

#[tokio::test]
async fn a_runtime_is_not_held_up_by_the_disk() {
    let place = Place::new();
    let marks = place.open();
    marks.mark(party(1), Unit::Day, at(50), 1);
    let turn = lock(&marks.0.syncing);
    // Would wait for ever if it were done here.
    marks.tidy(at(1));
    marks.mark(party(1), Unit::Day, at(50), 2);
    drop(turn);
    marks.settle().await.unwrap();
    assert!(!marks.0.is_dirty.load(Ordering::Acquire));
}

#[test]
fn a_slot_that_was_torn_anywhere_is_skipped_and_the_others_survive() {
    let place = Place::new();
    let marks = place.open();
    for n in 0..3 {
        marks.mark(party(n), Unit::Day, at(5), 1);
    }
    let old = place.bytes();
    marks.mark(party(1), Unit::Day, at(5), 0x0102_0304_0506_0708);
    let new = place.bytes();
    let middle = 2 * SLOT_BYTES;
    for length in 0..=SLOT_BYTES {
        let torn = [&new[..middle + length], &old[middle + length..]].concat();
        place.write(&torn);
        let marks = place.open();
        let used = |n| marks.of(party(n)).first().map(|one| one.2);
        assert_eq!((used(0), used(2)), (Some(1), Some(1)), "{length}");
        match used(1) {
            None => assert!(torn != old && torn != new, "{length}: lost for nothing"),
            Some(1) => assert_eq!(torn, old, "{length}"),
            Some(used) => assert_eq!((used, &torn), (0x0102_0304_0506_0708, &new), "{length}"),
        }
    }
}

#[test]
fn a_file_that_was_cut_off_anywhere_keeps_the_slots_before() {
    let place = Place::new();
    let marks = place.open();
    for n in 0..3 {
        marks.mark(party(n), Unit::Day, at(5), 1);
    }
    let whole = place.bytes();
    for length in 0..=whole.len() {
        place.write(&whole[..length]);
        let marks = place.open();
        let survivors = (length / SLOT_BYTES).saturating_sub(1);
        let known = (0..3).filter(|&n| !marks.of(party(n)).is_empty()).count();
        assert_eq!(known, survivors, "{length}");
        // And it goes on.
        marks.mark(party(9), Unit::Day, at(5), 9);
        assert_eq!(place.open().of(party(9)), [(Unit::Day, at(5), 9)], "{length}");
    }
}

#[test]
fn a_slot_of_garbage_is_skipped_and_used_again() {
    let place = Place::new();
    let marks = place.open();
    for n in 0..3 {
        marks.mark(party(n), Unit::Day, at(5), 1);
    }
    let mut bytes = place.bytes();
    bytes[2 * SLOT_BYTES..3 * SLOT_BYTES].fill(0xa5);
    place.write(&bytes);
    let marks = place.open();
    assert_eq!([0, 1, 2].map(|n| marks.of(party(n)).len()), [1, 0, 1]);
    marks.mark(party(7), Unit::Day, at(5), 7);
    assert_eq!(place.slots(), 3);
    assert_eq!([0, 7, 2].map(|n| place.open().of(party(n)).len()), [1, 1, 1]);
}

#[test]
fn of_two_slots_about_the_same_the_later_window_counts_and_the_greater_use() {
    let place = Place::new();
    let id = MarkId::new(party(1), Unit::Day);
    let slot = |ends_at, used| slot::encode(&id, Mark { ends_at, used });
    for slots in [
        [slot(at(5), 900), slot(at(9), 2), slot(at(9), 3)],
        [slot(at(9), 3), slot(at(5), 900), slot(at(9), 2)],
    ] {
        place.write(&[&slot::header(), slots.as_flattened()].concat());
        let marks = place.open();
        assert_eq!(marks.of(party(1)), [(Unit::Day, at(9), 3)]);
        // Not one of the others comes back in its place.
        marks.forget(party(1)).unwrap();
        assert_eq!(place.open().of(party(1)), []);
    }
}

#[test]
fn the_file_is_for_its_owner_alone() {
    let place = Place::new();
    drop(place.open());
    let mode = fs::metadata(&place.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_is_not_ours_is_named_and_left_as_it_is() {
    let place = Place::new();
    let mut damaged = slot::header();
    damaged[30] = 1;
    let long = [b'x'; 1_000];
    let foreign = "is not a file of quotas; move it away";
    let newer = "newer version: format 7, and this one reads up to 1; run that version";
    for (bytes, complaint) in [
        (&b"hello"[..], foreign),
        (&long, foreign),
        (&header_of(7), newer),
        (&damaged, "damaged at its beginning; move it away"),
        (&[0; 4_096], "is not a file of quotas; move it away"),
    ] {
        place.write(bytes);
        let error = place.error().to_string();
        let name = place.path.display().to_string();
        assert!(error.starts_with(&name) && error.contains(complaint), "{error}");
        assert_eq!(place.bytes(), bytes, "the file was changed");
    }
}

#[test]
fn what_is_no_file_is_named() {
    let place = Place::new();
    fs::create_dir(&place.path).unwrap();
    assert!(matches!(place.error(), MarksError::NotQuotas { .. }));
    let place = Place { path: place.path.join("no such folder").join("file"), ..place };
    let error = place.error();
    assert!(matches!(error, MarksError::Io { .. }), "{error}");
    assert!(error.to_string().contains("no such folder"), "{error}");
}

#[test]
fn marks_of_many_threads_are_all_there() {
    let place = Place::new();
    let marks = place.open();
    let threads = 8;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let marks = marks.clone();
            scope.spawn(move || {
                for n in 1..=500 {
                    // One of its own, and one in a shard that all of them use.
                    let own = Party::from_parts(Share::Key, [thread; 16]);
                    let mut id = [thread; 16];
                    id[15] = 0;
                    let near = Party::from_parts(Share::App, id);
                    marks.mark(own, Unit::Day, at(1_000_000), n);
                    marks.mark(near, Unit::Minute, at(n), n);
                }
            });
        }
        // Windows end, slots go from one to the next, and the disk is written meanwhile.
        for n in 0..400 {
            marks.tidy(at(n));
        }
    });
    let found = place.open_at(at(499));
    for thread in 0..threads {
        let own = Party::from_parts(Share::Key, [thread; 16]);
        assert_eq!(found.of(own), [(Unit::Day, at(1_000_000), 500)]);
        let mut id = [thread; 16];
        id[15] = 0;
        let near = Party::from_parts(Share::App, id);
        assert_eq!(found.of(near), [(Unit::Minute, at(500), 500)]);
    }
    assert!(place.slots() <= 16, "{} slots", place.slots());
}
