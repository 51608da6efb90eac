//! The file of counters, mapped into memory: what is counted there is in the kernel's hands at once, and
//! so outlives a process that is killed. It grows by segments whose space is taken from the disk first: a
//! full disk is an error then, and no fault of memory later. Knows nothing of who counts, or of stores.

mod slot;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use keygate_core::{KeyId, UnixMillis};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use vm_memory::{FileOffset, MmapRegion};

pub use self::slot::RouteNumber;
use self::slot::{SLOT_BYTES, word_at};
pub(super) use self::slot::{Slot, Tag, Totals};

/// The newest format that is read here.
const FORMAT: u64 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"kg tally");
const HEADER_BYTES: usize = 4096;
const SEGMENT_BYTES: usize = 4 << 20;
pub(super) const SEGMENT_SLOTS: usize = SEGMENT_BYTES / SLOT_BYTES;
/// The most segments of one file: 1 GiB, for 8 million keys and routes.
const SEGMENTS_MAX: usize = 256;
/// The most slots of one file.
pub(super) const SLOTS_MAX: usize = SEGMENTS_MAX * SEGMENT_SLOTS;

/// The words of the header, by their places.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const FORMAT: usize = 8;
    pub(super) const MINUTE: usize = 16;
    pub(super) const NUMBER: usize = 24;
}

/// A file of counters.
pub(super) struct Tally {
    /// Which of its source's files it is.
    pub(super) generation: u64,
    file: File,
    header: MmapRegion,
    segments: Box<[OnceLock<MmapRegion>]>,
    /// How many slots were given away.
    used: AtomicU32,
    giving: Mutex<()>,
    /// Not the same, so that nobody who is given a slot waits for the disk.
    growing: Mutex<()>,
    /// How often a request had to make the file grow.
    grown_late: AtomicU32,
    /// Whether the disk had no room, so that not every new key asks it.
    is_full: AtomicBool,
}

impl Tally {
    /// Makes a file that is not there yet.
    pub(super) fn create(path: &Path, generation: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        allocate(&file, 0, HEADER_BYTES)?;
        let tally = Self::of_file(file, generation)?;
        tally.add_segment(0)?;
        tally.word(header::FORMAT).store(FORMAT, Relaxed);
        tally.word(header::MAGIC).store(MAGIC, Relaxed);
        Ok(tally)
    }

    /// Opens what another process has left. None if that was killed while it made the file: then
    /// nothing was counted there.
    pub(super) fn open(path: &Path, generation: u64) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let Some(bytes) = length.checked_sub(HEADER_BYTES) else { return Ok(None) };
        let tally = Self::of_file(file, generation)?;
        match (tally.word(header::MAGIC).load(Relaxed), tally.word(header::FORMAT).load(Relaxed)) {
            (0, _) => return Ok(None),
            (MAGIC, FORMAT) => {}
            _ => {
                let why = "it is no file of counters of this version";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        let segments = (bytes / SEGMENT_BYTES).min(SEGMENTS_MAX);
        for segment in 0..segments {
            tally.map_segment(segment)?;
        }
        let slots = u32::try_from(segments * SEGMENT_SLOTS).unwrap_or(u32::MAX);
        tally.used.store(slots, Relaxed);
        Ok(Some(tally))
    }

    fn of_file(file: File, generation: u64) -> io::Result<Self> {
        Ok(Self {
            generation,
            header: map(&file, 0, HEADER_BYTES)?,
            file,
            segments: std::iter::repeat_with(OnceLock::new).take(SEGMENTS_MAX).collect(),
            used: AtomicU32::new(0),
            giving: Mutex::default(),
            growing: Mutex::default(),
            grown_late: AtomicU32::new(0),
            is_full: AtomicBool::new(false),
        })
    }

    /// The slot of this number, if there is one.
    #[inline]
    pub(super) fn slot(&self, number: u32) -> Option<Slot<'_>> {
        let number = number as usize;
        let region = self.segments.get(number / SEGMENT_SLOTS)?.get()?;
        Some(Slot::new(region, number % SEGMENT_SLOTS * SLOT_BYTES))
    }

    /// All slots that were given away, with their numbers.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, Slot<'_>)> {
        (0..self.used()).filter_map(|number| Some((number, self.slot(number)?)))
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Gives a slot away for good.
    ///
    /// # Errors
    /// When the file is at its bound, or the disk is full.
    pub(super) fn give(&self, key: KeyId, tag: Tag) -> io::Result<u32> {
        let _one_at_a_time = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.used();
        let segment = number as usize / SEGMENT_SLOTS;
        if segment >= SEGMENTS_MAX {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the file is at its bound"));
        }
        if self.slot(number).is_none() {
            self.grow_late(segment)?;
        }
        if let Some(slot) = self.slot(number) {
            slot.write(key, tag);
        }
        self.used.store(number + 1, Relaxed);
        Ok(number)
    }

    /// For a request that found no room, which nobody had made ahead.
    #[cold]
    fn grow_late(&self, segment: usize) -> io::Result<()> {
        if self.is_full.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk has no room"));
        }
        if self.add_segment(segment).inspect_err(|_| self.is_full.store(true, Relaxed))? {
            let times = self.grown_late.fetch_add(1, Relaxed) + 1;
            tracing::warn!(times, "a request had to wait until there was room to count its key");
        }
        Ok(())
    }

    /// Whether new keys soon find no room, and more could be made.
    pub(super) fn wants_room(&self) -> bool {
        let next = self.segments.get(self.ahead());
        next.is_some_and(|next| next.get().is_none()) && !self.is_full.load(Relaxed)
    }

    /// Sees to it that new keys find room for a while, so that no request has to wait for the disk. To be
    /// called again and again.
    pub(super) fn make_room(&self) -> io::Result<()> {
        let ahead = self.ahead();
        let made = if ahead < SEGMENTS_MAX { self.add_segment(ahead) } else { Ok(false) };
        self.is_full.store(made.is_err(), Relaxed);
        made.map(drop)
    }

    /// The segment that has to be there: the next one, once half of the newest is given away.
    fn ahead(&self) -> usize {
        (self.used() as usize + SEGMENT_SLOTS / 2) / SEGMENT_SLOTS
    }

    /// Adds a segment unless it is there. Whether it did is said.
    fn add_segment(&self, segment: usize) -> io::Result<bool> {
        let _one_at_a_time = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.segments.get(segment).is_some_and(|segment| segment.get().is_some()) {
            return Ok(false);
        }
        allocate(&self.file, HEADER_BYTES + segment * SEGMENT_BYTES, SEGMENT_BYTES)?;
        self.map_segment(segment)?;
        Ok(true)
    }

    #[cfg(test)]
    pub(super) fn grown_late(&self) -> u32 {
        self.grown_late.load(Relaxed)
    }

    fn map_segment(&self, segment: usize) -> io::Result<()> {
        let region = map(&self.file, HEADER_BYTES + segment * SEGMENT_BYTES, SEGMENT_BYTES)?;
        // Its pages are there before a request needs one.
        for page in (0..SEGMENT_BYTES).step_by(4096) {
            word_at(&region, page).fetch_or(0, Relaxed);
        }
        if let Some(place) = self.segments.get(segment) {
            place.get_or_init(|| region);
        }
        Ok(())
    }

    /// The minute that what is in no batch belongs to.
    pub(super) fn minute(&self) -> UnixMillis {
        UnixMillis(self.word(header::MINUTE).load(Relaxed))
    }

    pub(super) fn set_minute(&self, minute: UnixMillis) {
        self.word(header::MINUTE).store(minute.0, Relaxed);
    }

    /// That of the newest batch.
    pub(super) fn number(&self) -> u64 {
        self.word(header::NUMBER).load(Relaxed)
    }

    pub(super) fn set_number(&self, number: u64) {
        self.word(header::NUMBER).fetch_max(number, Relaxed);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        word_at(&self.header, at)
    }
}

/// Takes space from the disk. What is there already stays.
fn allocate(file: &File, at: usize, bytes: usize) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), at as u64, bytes as u64) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    // Not every file system can. What is written has its space too.
    let zeros = vec![0; 1 << 16];
    let end = (at + bytes) as u64;
    let mut next = file.metadata()?.len().max(at as u64);
    while next < end {
        let piece = usize::try_from(end - next).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..piece).unwrap_or_default(), next)?;
        next += piece as u64;
    }
    Ok(())
}

fn map(file: &File, at: usize, bytes: usize) -> io::Result<MmapRegion> {
    let place = FileOffset::new(file.try_clone()?, at as u64);
    MmapRegion::from_file(place, bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
