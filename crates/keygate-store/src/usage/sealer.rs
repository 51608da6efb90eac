//! When a source's counters become batches, and when its tally gives way to another one.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};

use keygate_core::UnixMillis;

use super::live::Live;
use super::records::Step;
use super::seal::{self, Made};
use super::steps;
use super::tally::{SEGMENT_SLOTS, SLOTS_MAX, Tally};
use super::{Inner, UsageCounter};

/// The most bytes of batches that wait on the disk. Beyond it nothing is sealed: counters go on, and what
/// they have counted meanwhile is one minute's.
const BACKLOG_BYTES_MAX: u64 = 1 << 30;
/// How often it is seen whether most slots are idle, and for how long such a slot was not used.
const IDLE_MILLIS: u64 = 10 * 60 * 1000;

pub(super) struct Sealer {
    /// What is in no batch was used within this minute.
    minute: UnixMillis,
    /// The number of the newest batch.
    last: u64,
    /// Tallies that gave way, while somebody may still count there.
    retired: Vec<Arc<Live>>,
    looked_at: UnixMillis,
    is_paused: bool,
    /// That the last seal has made; none if it failed, or found no room.
    rows: usize,
}

impl Sealer {
    pub(super) fn new(now: UnixMillis) -> Self {
        let minute = Step::Minute.start(now);
        Self { minute, last: 0, retired: Vec::new(), looked_at: now, is_paused: false, rows: 0 }
    }

    pub(super) fn minute(&self) -> UnixMillis {
        self.minute
    }
}

impl UsageCounter {
    /// Puts what was counted into batches. What it cannot, it leaves counted. Blocks.
    pub(super) fn seal(&self, now: UnixMillis, rows_max: usize) -> io::Result<()> {
        let Inner { folder, files, routes, live, .. } = &*self.0;
        let mut sealer = self.sealer();
        // Until it is known: what fails is soon tried again.
        sealer.rows = 0;
        // Whatever becomes of the rest.
        let roomy = self.make_room();
        if !sealer.has_room(files.bytes()) {
            return roomy;
        }
        let replaced = sealer.replace_if_idle(self, now);
        // Nobody counts any more in what only the sealer holds.
        let is_left = |live: &mut Arc<Live>| Arc::get_mut(live).is_some();
        let left: Vec<bool> = sealer.retired.iter_mut().map(is_left).collect();
        let current = live.load_full();
        let Sealer { minute, last, retired, rows, .. } = &mut *sealer;
        let tallies: Vec<&Tally> =
            retired.iter().chain([&current]).map(|live| &live.tally).collect();
        let mut made = Made::default();
        let of = (*minute, rows_max);
        let sealed = seal::seal(folder, &tallies, || routes.names(), of, *last, &mut made);
        self.0.dropped.fetch_add(made.nameless, Relaxed);
        files.add(*last, made.last, made.bytes);
        self.0.flow.sealed(made.last - *last);
        *last = made.last;
        sealed?;
        *rows = made.rows;
        *minute = Step::Minute.start(now);
        tallies.iter().for_each(|tally| tally.set_minute(*minute));
        let mut left = left.into_iter();
        let gone = sealer.retired.extract_if(.., |_| left.next().unwrap_or_default());
        for live in gone.collect::<Vec<_>>() {
            steps::pass();
            std::fs::remove_file(folder.tally(live.tally.generation))?;
        }
        replaced?;
        roomy
    }

    /// Sees to it that new keys find room, so that no request has to wait for the disk. Blocks.
    pub(super) fn make_room(&self) -> io::Result<()> {
        self.0.live.load_full().tally.make_room()
    }

    /// Has another tally take the place of the one that is counted in.
    #[cfg(test)]
    pub(super) fn replace(&self) -> io::Result<()> {
        self.sealer().replace(self)
    }

    /// The minute that is being counted.
    pub(super) fn minute(&self) -> UnixMillis {
        self.sealer().minute
    }

    /// How many rows the last seal has made, if it has made all.
    pub(super) fn rows(&self) -> usize {
        self.sealer().rows
    }

    /// Whether new keys find no room before another tally takes the place of this one.
    pub(super) fn is_full(&self) -> bool {
        self.0.live.load().tally.used() as usize >= SLOTS_MAX
    }

    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        self.0.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sealer {
    fn has_room(&mut self, bytes: u64) -> bool {
        let is_full = bytes >= BACKLOG_BYTES_MAX;
        if is_full && !self.is_paused {
            tracing::error!(
                bytes,
                "the store takes nothing of what keys use, and much waits on the disk: counting goes \
                 on, but the minutes are lost until it does"
            );
        }
        self.is_paused = is_full;
        !is_full
    }

    /// Has another tally take the place of one whose slots are mostly idle.
    fn replace_if_idle(&mut self, counter: &UsageCounter, now: UnixMillis) -> io::Result<()> {
        let current = counter.0.live.load_full();
        let used = current.tally.used() as usize;
        let is_due = now.0.abs_diff(self.looked_at.0) >= IDLE_MILLIS && used > SEGMENT_SLOTS;
        if !is_due && used < SLOTS_MAX {
            return Ok(());
        }
        self.looked_at = now;
        let busy = current.used_since(UnixMillis(now.0.saturating_sub(IDLE_MILLIS)));
        let is_idle = if used < SLOTS_MAX { busy < used / 2 } else { busy < used };
        if is_idle { self.replace(counter) } else { Ok(()) }
    }

    fn replace(&mut self, counter: &UsageCounter) -> io::Result<()> {
        let Inner { folder, live, .. } = &*counter.0;
        let generation = live.load().tally.generation + 1;
        let path = folder.tally(generation);
        // One that could not be made whole before.
        drop(std::fs::remove_file(&path));
        let next = Tally::create(&path, generation)?;
        next.set_minute(self.minute);
        next.set_number(self.last);
        steps::pass();
        self.retired.push(live.swap(Arc::new(Live::new(next))));
        steps::pass();
        Ok(())
    }
}
