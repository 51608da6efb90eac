//! What quotas have been used, in a file that outlives this process however it ends. One slot for
//! each window of each party, written in place with one write that waits for no disk: the system has
//! it when the request goes on, and the disk within about a second. So a killed process forgets
//! nothing, and a machine without power what was used in that second.
//!
//! One process at a time: the store that it lies beside is locked before this file is opened.

mod file;
mod slot;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use keygate_core::UnixMillis;
use keygate_core::limit::Unit;
use keygate_core::limit::terms::Party;

use self::file::Disk;
pub use self::file::MarksError;
use self::slot::{Held, Mark, MarkId, UNITS};

/// Of what a quota allows, so much is put on record ahead of its use, so that not every request has
/// to write. It is what a killed process wastes.
const SPARE_OF: u64 = 1_000;
const SPARE_MAX: u64 = 1_000;
/// How often somebody looks whether the file is still there.
const LOOK_EVERY_MS: u64 = 1_000;
/// One for each value of a byte: two threads with different parties seldom meet, and none waits long
/// for a walk through a part of a million.
const SHARDS: usize = 256;

/// How much is put on record ahead of use: nothing of a quota below a thousand.
pub(super) const fn spare(quota: u64) -> u64 {
    let spare = quota / SPARE_OF;
    if spare < SPARE_MAX { spare } else { SPARE_MAX }
}

/// The marks of all parties. Cheap to clone.
pub(super) struct Marks<D: Disk = File>(Arc<Inner<D>>);

impl<D: Disk> Clone for Marks<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<D> {
    path: PathBuf,
    disk: D,
    shards: Box<[Mutex<Shard>]>,
    slots: Mutex<Slots>,
    /// Windows that end by then are over, and what they say is worth nothing.
    tidied_to: AtomicU64,
    /// When the next window is over, at the latest.
    next_end: AtomicU64,
    /// Something was written that may not be on the disk.
    is_dirty: AtomicBool,
    /// Another process has the file by now: nothing is written any more.
    is_given_away: AtomicBool,
    /// Some shard has marks that could not be written.
    is_behind: AtomicBool,
    /// The log has it that writing fails.
    is_failing: AtomicBool,
    /// The log has it that the file is not where a restart looks for it.
    is_lost: AtomicBool,
    /// When that was last looked at.
    looked_at: AtomicU64,
    /// One at a time brings things to the disk.
    syncing: Mutex<()>,
}

/// A part of the marks. All of a party's are in the same one, and whoever writes a slot has it
/// locked: so each slot ends up as its mark is here, and is given away only when no write is under way.
#[derive(Default)]
struct Shard {
    marks: HashMap<MarkId, Placed>,
    behind: HashSet<MarkId>,
}

/// A mark and its slot.
struct Placed {
    slot: u64,
    mark: Mark,
}

/// The slots that hold nothing.
struct Slots {
    free: Vec<u64>,
    /// From here on all are.
    end: u64,
}

impl Slots {
    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        })
    }
}

impl Marks {
    /// Opens the file, and makes it if there is none. What it says of windows that are over by `now`
    /// is dropped. Blocks.
    pub(super) fn open(path: &Path, now: UnixMillis) -> Result<Self, MarksError> {
        let file = file::open(path)?;
        let found = Found::read(&file, now);
        let found = found.map_err(|source| MarksError::Io { path: path.into(), source })?;
        if found.garbage > 0 {
            tracing::warn!(
                path = %path.display(),
                slots = found.garbage,
                "the file of quotas has damaged slots; what was used by those is forgotten"
            );
        }
        Ok(Self::new(path, file, found, now))
    }
}

impl<D: Disk> Marks<D> {
    fn new(path: &Path, disk: D, found: Found, now: UnixMillis) -> Self {
        Self(Arc::new(Inner {
            path: path.into(),
            disk,
            shards: found.shards.into_iter().map(Mutex::new).collect(),
            slots: Mutex::new(found.slots),
            tidied_to: AtomicU64::new(now.0),
            next_end: AtomicU64::new(found.next_end),
            is_dirty: AtomicBool::new(false),
            is_given_away: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            looked_at: AtomicU64::new(now.0),
            syncing: Mutex::default(),
        }))
    }

    /// What is on record of a party: of each window its end, and how much of it is used at most.
    pub(super) fn of(&self, party: Party) -> Vec<(Unit, UnixMillis, u64)> {
        let ids = UNITS.map(|unit| (unit, MarkId::new(party, unit)));
        let shard = self.0.shard_of(party);
        let known = ids.iter().filter_map(|(unit, id)| {
            let mark = shard.marks.get(id)?.mark;
            Some((*unit, mark.ends_at, mark.used))
        });
        known.collect()
    }

    /// Puts on record that so much is used at most. A killed process will have said it; if the file
    /// cannot be written, that is logged and tried again later.
    pub(super) fn mark(&self, party: Party, unit: Unit, ends_at: UnixMillis, used: u64) {
        let inner = &*self.0;
        if ends_at.0 <= inner.tidied_to.load(Ordering::Relaxed) {
            return;
        }
        let (id, mark) = (MarkId::new(party, unit), Mark { ends_at, used });
        let mut shard = inner.shard_of(party);
        if inner.is_given_away() {
            return;
        }
        let slot = match shard.marks.entry(id) {
            Entry::Occupied(known) if known.get().mark == mark => return,
            Entry::Occupied(mut known) => {
                known.get_mut().mark = mark;
                known.get().slot
            }
            Entry::Vacant(_) if used == 0 => return,
            Entry::Vacant(free) => free.insert(Placed { slot: inner.slots().take(), mark }).slot,
        };
        inner.next_end.fetch_min(ends_at.0, Ordering::Relaxed);
        if let Err(error) = inner.write(slot, &slot::encode(&id, mark)) {
            shard.behind.insert(id);
            drop(shard);
            inner.fell_behind(&error);
        }
    }

    /// Takes a party's marks out of the file. Whoever must know that the disk has it
    /// [settles](Self::settle) afterwards.
    ///
    /// # Errors
    /// [`MarksError::Io`]: some may still be there.
    pub(super) fn forget(&self, party: Party) -> Result<(), MarksError> {
        let inner = &*self.0;
        let mut shard = inner.shard_of(party);
        for id in UNITS.map(|unit| MarkId::new(party, unit)) {
            let Entry::Occupied(known) = shard.marks.entry(id) else { continue };
            inner.write(known.get().slot, &slot::blank()).map_err(|error| inner.unusable(error))?;
            inner.slots().free.push(known.remove().slot);
        }
        Ok(())
    }

    /// Returns once everything so far is on the disk.
    ///
    /// # Errors
    /// [`MarksError::Io`]: it may not be.
    pub(super) async fn settle(&self) -> Result<(), MarksError> {
        let inner = Arc::clone(&self.0);
        let synced = tokio::task::spawn_blocking(move || {
            let turn = lock(&inner.syncing);
            inner.sync(&turn)
        });
        let synced = synced.await.unwrap_or_else(|broken_off| Err(io::Error::other(broken_off)));
        synced.map_err(|error| self.0.unusable(error))
    }

    /// Frees the slots of windows that are over, and brings everything to the disk, on a thread where
    /// that may take its time. To be called about once a second.
    pub(super) fn tidy(&self, now: UnixMillis) {
        self.0.tidied_to.store(now.0, Ordering::Relaxed);
        if self.0.is_given_away() || !self.0.has_work(now) {
            return;
        }
        let inner = Arc::clone(&self.0);
        let tidy = move || match inner.syncing.try_lock() {
            Ok(turn) => inner.tidy(now, &turn),
            // Still at it since the last time: this disk is slow.
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Poisoned(turn)) => inner.tidy(now, &turn.into_inner()),
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(tidy)),
            Err(_) => tidy(),
        }
    }

    /// Writes nothing any more: from now on the file is another process's.
    pub(super) fn give_away(&self) {
        // Whoever is at it may finish.
        let _turn = lock(&self.0.syncing);
        self.0.is_given_away.store(true, Ordering::SeqCst);
        // A write that is under way has its shard locked.
        self.0.shards.iter().for_each(|shard| drop(lock(shard)));
    }

    /// Brings everything to the disk. Blocks.
    pub(super) fn sync(&self) {
        let turn = lock(&self.0.syncing);
        self.0.catch_up(&turn);
    }
}

/// Whose turn it is to bring things to the disk.
type Turn<'a> = MutexGuard<'a, ()>;

impl<D: Disk> Inner<D> {
    fn is_given_away(&self) -> bool {
        self.is_given_away.load(Ordering::Relaxed)
    }

    fn has_work(&self, now: UnixMillis) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
            || self.is_behind.load(Ordering::Relaxed)
            || self.next_end.load(Ordering::Relaxed) <= now.0
            || self.is_to_look(now)
    }

    fn is_to_look(&self, now: UnixMillis) -> bool {
        // A clock that was set back is no reason not to look.
        now.0.abs_diff(self.looked_at.load(Ordering::Relaxed)) >= LOOK_EVERY_MS
    }

    fn tidy(&self, now: UnixMillis, turn: &Turn<'_>) {
        if self.is_given_away() {
            return;
        }
        self.free_what_is_over(now);
        self.catch_up(turn);
        if self.is_to_look(now) {
            self.looked_at.store(now.0, Ordering::Relaxed);
            self.look();
        }
    }

    /// A file that somebody removed or replaced can still be written, and nobody will read it. Said
    /// once, until it is back.
    fn look(&self) {
        let (path, is_lost) = (self.path.display(), !self.disk.is_at(&self.path));
        match (self.is_lost.swap(is_lost, Ordering::AcqRel), is_lost) {
            (false, true) => tracing::error!(
                %path,
                "the file of quotas was removed or replaced: a restart will forget what was used; \
                 put it back, or restart the gateway to have another made"
            ),
            (true, false) => tracing::info!(%path, "the file of quotas is in its place again"),
            (true, true) | (false, false) => {}
        }
    }

    /// Needs no write: a slot says itself when it is over.
    fn free_what_is_over(&self, now: UnixMillis) {
        if self.next_end.load(Ordering::Relaxed) > now.0 {
            return;
        }
        // Before any shard is looked at: a mark that is made meanwhile is either seen there, or says
        // its end after this.
        self.next_end.store(u64::MAX, Ordering::Relaxed);
        for shard in &self.shards {
            lock(shard).marks.retain(|_, placed| {
                let is_over = placed.mark.ends_at <= now;
                if is_over {
                    self.slots().free.push(placed.slot);
                } else {
                    self.next_end.fetch_min(placed.mark.ends_at.0, Ordering::Relaxed);
                }
                !is_over
            });
        }
    }

    /// Writes again what could not be written, and syncs.
    fn catch_up(&self, turn: &Turn<'_>) {
        if self.is_behind.swap(false, Ordering::AcqRel)
            && let Err(error) = self.shards.iter().try_for_each(|shard| self.write_behind(shard))
        {
            self.fell_behind(&error);
        }
        let is_synced = self.sync(turn).is_ok();
        if is_synced
            && !self.is_behind.load(Ordering::Acquire)
            && self.is_failing.swap(false, Ordering::AcqRel)
        {
            tracing::info!(path = %self.path.display(), "quotas are put on record again");
        }
    }

    fn write_behind(&self, shard: &Mutex<Shard>) -> io::Result<()> {
        let mut shard = lock(shard);
        let Shard { marks, behind } = &mut *shard;
        while let Some(id) = behind.iter().next().copied() {
            if let Some(placed) = marks.get(&id) {
                self.write(placed.slot, &slot::encode(&id, placed.mark))?;
            }
            behind.remove(&id);
        }
        Ok(())
    }

    fn sync(&self, _: &Turn<'_>) -> io::Result<()> {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.disk.sync().inspect_err(|error| {
            // The system counts as written what it could not write, so all of it is written again.
            for shard in &self.shards {
                let mut shard = lock(shard);
                let Shard { marks, behind } = &mut *shard;
                behind.extend(marks.keys());
            }
            self.is_dirty.store(true, Ordering::Release);
            self.fell_behind(error);
        })
    }

    fn write(&self, slot: u64, bytes: &slot::Slot) -> io::Result<()> {
        self.disk.write(bytes, file::place(slot))?;
        self.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Said once, until it works again.
    fn fell_behind(&self, error: &io::Error) {
        self.is_behind.store(true, Ordering::Release);
        if !self.is_failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                path = %self.path.display(),
                %error,
                "cannot put on record which quotas are used: a restart will forget some of it"
            );
        }
    }

    fn unusable(&self, source: io::Error) -> MarksError {
        MarksError::Io { path: self.path.clone(), source }
    }

    fn shard_of(&self, party: Party) -> MutexGuard<'_, Shard> {
        #[expect(clippy::indexing_slicing, reason = "there is one for each byte")]
        lock(&self.shards[shard_of(&party.id())])
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }
}

/// By a part of the id that is random.
fn shard_of([.., last]: &[u8; 16]) -> usize {
    usize::from(*last)
}

/// What a file said when it was opened.
struct Found {
    shards: Vec<Shard>,
    next_end: u64,
    slots: Slots,
    /// Slots that could not be read.
    garbage: u64,
}

impl Found {
    fn nothing() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let slots = Slots { free: Vec::new(), end: 0 };
        Self { shards, next_end: u64::MAX, slots, garbage: 0 }
    }

    /// Reads all marks of windows that are not over, and cuts off the end of the file that has none.
    fn read(file: &File, now: UnixMillis) -> io::Result<Self> {
        let (mut found, mut doubles) = (Self::nothing(), Vec::new());
        let tail = file::read(file, |slot, bytes| match slot::decode(bytes) {
            Held::Mark(id, mark) if mark.ends_at > now => {
                doubles.extend(found.keep_later(id, Placed { slot, mark }));
            }
            Held::Mark(..) | Held::Nothing => found.slots.free.push(slot),
            Held::Garbage => {
                found.garbage += 1;
                found.slots.free.push(slot);
            }
        })?;
        found.garbage += u64::from(tail.is_torn);
        for &slot in &doubles {
            Disk::write(file, &slot::blank(), file::place(slot))?;
        }
        let Slots { free, end } = &mut found.slots;
        free.extend(doubles);
        free.retain(|slot| slot < end);
        // The first ones are taken first, so that the end has a chance to become empty.
        free.sort_unstable_by(|a, b| b.cmp(a));
        if *end < tail.slots || tail.is_torn {
            file::cut(file, *end)?;
        }
        Ok(found)
    }

    /// A clock that was set back can bring back a slot that was given up as over, beside the one that
    /// took its place. The later window counts, or of the same window the greater use. Returns the
    /// slot that does not count.
    fn keep_later(&mut self, id: MarkId, found: Placed) -> Option<u64> {
        self.next_end = self.next_end.min(found.mark.ends_at.0);
        self.slots.end = self.slots.end.max(found.slot + 1);
        #[expect(clippy::indexing_slicing, reason = "there is one for each byte")]
        let marks = &mut self.shards[shard_of(id.party())].marks;
        match marks.entry(id) {
            Entry::Vacant(free) => {
                free.insert(found);
                None
            }
            Entry::Occupied(mut known) => {
                let order = |placed: &Placed| (placed.mark.ends_at, placed.mark.used);
                let is_later = order(&found) > order(known.get());
                Some(if is_later { known.insert(found).slot } else { found.slot })
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
#[cfg(test)]
mod tests;
