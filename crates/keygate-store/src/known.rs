//! The cached records of known keys. A look-up reads a lock-free map; that a record was used is a bit in
//! the entry that it found anyway. Of too many, one goes that was not used since it was last looked at
//! (the clock algorithm): what that takes is eight bytes a key. A cache that keeps lists for it took more
//! memory than the records do, and could be told of one use in 64 only.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keygate_core::{KeyDigest, KeyRecord};
use papaya::Equivalent;

use crate::cached::DigestHasher;
use crate::coherence::nanos;

/// How long after a record was found to be due the next use may find it so again, if it has not
/// been replaced by then: in an outage each key is asked for this often and no oftener.
const DUE_AGAIN: Duration = Duration::from_secs(5);

/// How many records that are in use may be passed over before one goes all the same: a new key waits for
/// no walk through a million of them.
const PASSED_MAX: usize = 64;
/// How many entries each new one looks at, for those that are past their time, and how many whoever counts
/// them.
const SWEPT: usize = 4;
const SWEPT_BY_COUNT: usize = 1_024;

/// Records by digest, at most so many, each for at most so long.
pub(crate) struct KnownKeys {
    index: Index,
    /// Each entry once, in the order in which they are looked at when room is needed.
    order: Mutex<VecDeque<Prefix>>,
    keys_max: usize,
    ages: Ages,
    /// Is called for each record that had to make room for another.
    on_eviction: Box<dyn Fn() + Send + Sync>,
}

/// How old records may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ages {
    /// From here on the next use is a reason to read the record again.
    pub(crate) due: Duration,
    /// From here on the record is of no use.
    pub(crate) end: Duration,
}

type Index = papaya::HashMap<KeyDigest, Entry, DigestHasher>;

struct Entry {
    key: Arc<KeyRecord>,
    /// In nanoseconds of the cache's clock, as every time here.
    due_at: AtomicU64,
    ends_at: u64,
    /// Since it was last looked at for room.
    is_used: AtomicBool,
}

/// A part of a digest that tells it from all others: should two ever have the same, one may go in place of
/// the other.
#[derive(Clone, Copy)]
struct Prefix(u64);

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Equivalent<KeyDigest> for Prefix {
    fn equivalent(&self, digest: &KeyDigest) -> bool {
        self.0 == digest.prefix()
    }
}

/// A record that was found.
pub(crate) struct Found {
    pub(crate) key: Arc<KeyRecord>,
    /// It is time to read it again, and this use is the one to see to it.
    pub(crate) is_due: bool,
}

impl KnownKeys {
    /// `on_eviction` is called for each record that had to make room for another.
    pub(crate) fn new(
        keys_max: u64,
        ages: Ages,
        on_eviction: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            index: Index::with_hasher(DigestHasher::default()),
            order: Mutex::default(),
            keys_max: usize::try_from(keys_max).unwrap_or(usize::MAX),
            ages,
            on_eviction: Box::new(on_eviction),
        }
    }

    /// The record, if there is one that has not outlived its time and `holds`.
    pub(crate) fn get(
        &self,
        digest: &KeyDigest,
        now: u64,
        holds: impl FnOnce(&KeyRecord) -> bool,
    ) -> Option<Found> {
        let index = self.index.pin();
        let entry = index.get(digest).filter(|entry| now < entry.ends_at && holds(&entry.key))?;
        // Who only reads leaves the line of memory to other threads, too.
        if !entry.is_used.load(Relaxed) {
            entry.is_used.store(true, Relaxed);
        }
        let due_at = entry.due_at.load(Relaxed);
        // Of all who find it due at the same time one does.
        let is_due = now >= due_at && {
            let again = now.saturating_add(nanos(DUE_AGAIN));
            entry.due_at.compare_exchange(due_at, again, Relaxed, Relaxed).is_ok()
        };
        Some(Found { key: Arc::clone(&entry.key), is_due })
    }

    pub(crate) fn insert(&self, digest: KeyDigest, key: Arc<KeyRecord>, now: u64) {
        let index = self.index.pin();
        let is_used = |entry: &Entry| entry.is_used.load(Relaxed);
        let entry = Entry {
            key,
            due_at: AtomicU64::new(now.saturating_add(nanos(self.ages.due))),
            ends_at: now.saturating_add(nanos(self.ages.end)),
            // One that is read again is in use as it was.
            is_used: AtomicBool::new(index.get(&digest).is_some_and(is_used)),
        };
        let is_new = index.insert(digest, entry).is_none();
        let mut order = self.order();
        if is_new {
            // What comes in from now on is not what goes.
            if order.len() >= self.keys_max {
                self.make_room(&mut order, now);
            }
            order.push_back(Prefix(digest.prefix()));
        }
        self.sweep(&mut order, now, SWEPT);
    }

    /// How many there are. Looks for some that are past their time, so it is not for the hot path.
    pub(crate) fn count(&self, now: u64) -> u64 {
        let mut order = self.order();
        self.sweep(&mut order, now, SWEPT_BY_COUNT);
        order.len() as u64
    }

    /// Lets one go.
    fn make_room(&self, order: &mut VecDeque<Prefix>, now: u64) {
        let index = self.index.pin();
        for passed in 0..=PASSED_MAX {
            let Some(prefix) = order.pop_front() else { return };
            let Some(entry) = index.get(&prefix) else { return };
            let is_over = now >= entry.ends_at;
            if !is_over && passed < PASSED_MAX && entry.is_used.swap(false, Relaxed) {
                order.push_back(prefix);
                continue;
            }
            index.remove(&prefix);
            if !is_over {
                (self.on_eviction)();
            }
            return;
        }
    }

    /// Looks at so many, and takes away those that are past their time.
    fn sweep(&self, order: &mut VecDeque<Prefix>, now: u64, most: usize) {
        // Where records go for the room that they take, nobody need look for others; and what is looked at
        // here goes to the end of the line.
        if order.len() >= self.keys_max {
            return;
        }
        let index = self.index.pin();
        for _ in 0..most.min(order.len()) {
            let Some(prefix) = order.pop_front() else { return };
            let is_over = |_: &KeyDigest, entry: &Entry| now >= entry.ends_at;
            match index.remove_if(&prefix, is_over) {
                // It is gone, or was.
                Ok(_) => {}
                Err(_) => order.push_back(prefix),
            }
        }
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<Prefix>> {
        // Whatever breaks off leaves at most one entry that is found by its digest only, and replaced by it.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boil::boil;
    use crate::records::OwnedKey;
    use crate::testing::{account, app, digest, key};

    const AGES: Ages = Ages { due: Duration::from_secs(60), end: Duration::from_secs(600) };

    fn record(n: u64) -> (KeyDigest, Arc<KeyRecord>) {
        let account = account(1);
        let app = app(1, &account);
        let owned = OwnedKey { key: key(n, &app), app, account };
        (digest(n), Arc::new(boil(owned, 0)))
    }

    #[test]
    fn of_too_many_some_go_and_each_is_told() {
        let evicted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&evicted);
        let count = move || {
            counter.fetch_add(1, Relaxed);
        };
        let known = KnownKeys::new(10, AGES, count);
        for n in 0..500 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
        }
        assert_eq!((known.count(0), known.index.len()), (10, 10));
        assert_eq!(evicted.load(Relaxed), 490);
    }

    #[test]
    fn an_idle_one_makes_room_and_those_in_use_stay() {
        let known = KnownKeys::new(17, AGES, || {});
        let is_there = |n| known.get(&digest(n), 0, |_| true).is_some();
        for n in 0..17 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
        }
        assert!((0..17).filter(|&n| n != 5).all(is_there));
        let (_, key) = record(17);
        known.insert(digest(17), key, 0);
        assert_eq!(known.count(0), 17);
        assert!(!is_there(5), "the idle one makes room");
        assert!((0..=17).filter(|&n| n != 5).all(is_there));
    }

    #[test]
    fn a_scan_of_keys_that_are_used_once_pushes_out_no_key_in_use() {
        let known = KnownKeys::new(1_000, AGES, || {});
        let is_there = |n| known.get(&digest(n), 0, |_| true).is_some();
        for n in 0..10_000 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
            assert!((0..100.min(n)).all(is_there), "{n}");
        }
    }

    #[test]
    fn a_new_key_finds_room_among_so_many_in_use_that_not_all_are_looked_at() {
        let known = KnownKeys::new(10 * PASSED_MAX as u64, AGES, || {});
        for n in 0..20 * PASSED_MAX as u64 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
            assert!(known.get(&digest, 0, |_| true).is_some());
        }
        assert_eq!(known.count(0), 10 * PASSED_MAX as u64);
        assert_eq!(known.index.len(), 10 * PASSED_MAX);
    }

    #[test]
    fn what_is_past_its_time_goes_when_others_come_and_when_it_is_counted() {
        let evicted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&evicted);
        let known = KnownKeys::new(10_000, AGES, move || {
            counter.fetch_add(1, Relaxed);
        });
        let end = nanos(AGES.end);
        for n in 0..2_000 {
            let (digest, key) = record(n);
            known.insert(digest, key, 0);
        }
        for n in 2_000..2_100 {
            let (digest, key) = record(n);
            known.insert(digest, key, end);
        }
        assert!(known.index.len() <= 2_100 - 3 * 100, "{}", known.index.len());
        for _ in 0..4 {
            known.count(end);
        }
        assert_eq!((known.count(end), known.index.len()), (100, 100));
        assert_eq!(evicted.load(Relaxed), 0, "none had to make room");
    }

    #[test]
    fn a_record_outlives_no_end() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, key) = record(1);
        known.insert(digest, key, 7);
        let end = 7 + nanos(AGES.end);
        assert!(known.get(&digest, end - 1, |_| true).is_some());
        assert!(known.get(&digest, end, |_| true).is_none());
    }

    #[test]
    fn one_use_of_many_finds_a_record_due_and_the_next_only_after_a_while() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, key) = record(1);
        known.insert(digest, key, 0);
        let is_due = |now| known.get(&digest, now, |_| true).is_some_and(|found| found.is_due);
        let due = nanos(AGES.due);
        assert!(!is_due(due - 1));
        assert!(is_due(due));
        let again = due + nanos(DUE_AGAIN);
        assert!(!is_due(due) && !is_due(again - 1));
        assert!(is_due(again));
    }

    #[test]
    fn a_record_can_be_replaced() {
        let known = KnownKeys::new(10, AGES, || {});
        let (digest, first) = record(1);
        let second = record(1).1;
        known.insert(digest, first, 0);
        known.insert(digest, Arc::clone(&second), 0);
        assert_eq!((known.count(0), known.index.len()), (1, 1));
        assert!(
            known.get(&digest, 0, |_| true).is_some_and(|found| Arc::ptr_eq(&found.key, &second))
        );
    }
}
