//! A disk that fails costs no request, is logged once, and is written to again when it works.

use std::sync::atomic::AtomicUsize;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::super::slot::Slot;
use super::*;

/// A file whose writes or syncs fail while they are told to.
#[derive(Clone)]
struct Flaky(Arc<Flaws>);

struct Flaws {
    file: File,
    no_writes: AtomicBool,
    no_syncs: AtomicBool,
    written: AtomicUsize,
}

impl Disk for Flaky {
    fn write(&self, slot: &Slot, at: u64) -> io::Result<()> {
        if self.0.no_writes.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.written.fetch_add(1, Ordering::SeqCst);
        Disk::write(&self.0.file, slot, at)
    }

    fn sync(&self) -> io::Result<()> {
        if self.0.no_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.file.sync_data()
    }

    fn is_at(&self, _: &Path) -> bool {
        true
    }
}

/// Of a new file.
fn flaky(place: &Place) -> (Marks<Flaky>, Flaky) {
    let file = file::open(&place.path).unwrap();
    let disk = Flaky(Arc::new(Flaws {
        file,
        no_writes: AtomicBool::new(false),
        no_syncs: AtomicBool::new(false),
        written: AtomicUsize::new(0),
    }));
    (on(&place.path, disk.clone()), disk)
}

fn on<D: Disk>(path: &Path, disk: D) -> Marks<D> {
    Marks::new(path, disk, Found::nothing(), NOW)
}

/// Keeps what is logged at a level that somebody looks at.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl Log {
    fn levels(&self) -> Vec<Level> {
        lock(&self.0).iter().map(|line| line.0).collect()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("keygate")
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        lock(&self.0).push((*event.metadata().level(), text.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

fn logged(work: impl FnOnce()) -> Log {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), work);
    log
}

#[test]
fn a_full_disk_is_logged_once_and_counting_goes_on() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let marks = on(Path::new("/dev/full"), full);
    let log = logged(|| {
        for used in 1..100 {
            marks.mark(party(1), Unit::Day, at(5_000), used);
            marks.mark(party(2), Unit::Day, at(5_000), used);
            marks.tidy(at(used));
        }
    });
    assert_eq!(log.levels(), [Level::ERROR]);
    assert!(lock(&log.0)[0].1.contains("No space left"), "{:?}", log.0);
    assert_eq!(marks.of(party(1)), [(Unit::Day, at(5_000), 99)]);
    assert!(matches!(marks.forget(party(1)), Err(MarksError::Io { .. })));
}

#[test]
fn a_file_that_may_only_be_read_is_logged_once_and_counting_goes_on() {
    let place = Place::new();
    drop(place.open());
    let marks = on(&place.path, File::open(&place.path).unwrap());
    let log = logged(|| {
        marks.mark(party(1), Unit::Day, at(5), 1);
        marks.mark(party(1), Unit::Day, at(5), 2);
        marks.sync();
    });
    assert_eq!(log.levels(), [Level::ERROR]);
    assert_eq!(marks.of(party(1)), [(Unit::Day, at(5), 2)]);
}

#[test]
fn a_file_that_is_removed_or_replaced_is_logged_once_until_it_is_back() {
    let place = Place::new();
    let aside = place.path.with_extension("aside");
    let marks = place.open();
    let mut second = 0;
    let mut tidy = || {
        second += 1;
        marks.tidy(at(second * 1_000));
    };
    let log = logged(|| {
        tidy();
        fs::rename(&place.path, &aside).unwrap();
        (0..3).for_each(|_| tidy());
        assert_eq!(marks.of(party(1)), []);
        // Another file of quotas is not this one.
        drop(place.open());
        (0..3).for_each(|_| tidy());
        marks.mark(party(1), Unit::Day, at(50_000), 7);
        fs::rename(&aside, &place.path).unwrap();
        (0..3).for_each(|_| tidy());
        fs::remove_file(&place.path).unwrap();
        (0..3).for_each(|_| tidy());
    });
    assert_eq!(log.levels(), [Level::ERROR, Level::INFO, Level::ERROR], "{:?}", log.0);
    assert!(lock(&log.0)[0].1.contains("removed or replaced"), "{:?}", log.0);
    assert_eq!(marks.of(party(1)), [(Unit::Day, at(50_000), 7)]);
}

#[test]
fn what_could_not_be_written_is_written_when_the_disk_works_again() {
    let place = Place::new();
    let (marks, disk) = flaky(&place);
    let log = logged(|| {
        marks.mark(party(1), Unit::Day, at(50), 1);
        disk.0.no_writes.store(true, Ordering::SeqCst);
        for n in 0..200 {
            marks.mark(party(n), Unit::Day, at(50), 7);
        }
        marks.mark(party(5), Unit::Minute, at(2), 7);
        marks.tidy(at(1));
        assert_eq!(place.open().of(party(1)), [(Unit::Day, at(50), 1)]);
        disk.0.no_writes.store(false, Ordering::SeqCst);
        // One of them is over by then.
        marks.tidy(at(2));
    });
    assert_eq!(log.levels(), [Level::ERROR, Level::INFO]);
    let found = place.open();
    for n in 0..200 {
        assert_eq!(found.of(party(n)), [(Unit::Day, at(50), 7)]);
    }
    // The next outage is news again.
    disk.0.no_writes.store(true, Ordering::SeqCst);
    let log = logged(|| marks.mark(party(1), Unit::Day, at(50), 8));
    assert_eq!(log.levels(), [Level::ERROR]);
}

#[test]
fn what_could_not_be_synced_is_written_again() {
    let place = Place::new();
    let (marks, disk) = flaky(&place);
    let log = logged(|| {
        for n in 0..10 {
            marks.mark(party(n), Unit::Day, at(50), 7);
        }
        disk.0.no_syncs.store(true, Ordering::SeqCst);
        marks.tidy(at(1));
        marks.tidy(at(2));
        disk.0.no_syncs.store(false, Ordering::SeqCst);
        let before = disk.0.written.load(Ordering::SeqCst);
        marks.tidy(at(3));
        assert_eq!(disk.0.written.load(Ordering::SeqCst), before + 10);
    });
    assert_eq!(log.levels(), [Level::ERROR, Level::INFO]);
    // Then there is nothing left to do.
    assert!(!marks.0.has_work(at(4)));
}

#[tokio::test]
async fn a_reset_that_is_not_on_the_disk_is_reported_as_failed() {
    let place = Place::new();
    let (marks, disk) = flaky(&place);
    marks.mark(party(1), Unit::Day, at(50), 1);
    disk.0.no_writes.store(true, Ordering::SeqCst);
    let error = marks.forget(party(1)).unwrap_err();
    let says = format!("cannot read and write {}", place.path.display());
    assert!(error.to_string().contains(&says), "{error}");
    disk.0.no_writes.store(false, Ordering::SeqCst);
    disk.0.no_syncs.store(true, Ordering::SeqCst);
    marks.forget(party(1)).unwrap();
    marks.settle().await.unwrap_err();
    disk.0.no_syncs.store(false, Ordering::SeqCst);
    marks.settle().await.unwrap();
}
