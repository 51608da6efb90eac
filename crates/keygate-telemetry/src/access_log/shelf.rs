//! Lines that wait to be written. Each thread that serves requests has a shelf of its own, on which it makes
//! its lines behind a lock that it nearly always has to itself; the thread that writes clears them.
//! Knows no sink.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use keygate_core::cells::{thread_number, thread_places};

use super::line::Lines;
use super::lock;
use super::record::Record;

/// What an empty shelf may hold on to: some ten times what a busy thread writes between two looks. With
/// less, the kernel would be asked for memory again and again, which costs more than all else does.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// How much is written at once. As soon as there is so much on a shelf it is taken, so that its memory
/// stays in the processor's second cache. With a quarter of that, the thread that writes took a third more,
/// and stood in the way of requests four times as often.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// There was no room.
    Nothing,
    Line,
    /// There is as much on the shelf as is written at once.
    LastOfPiece,
}

pub(super) struct Shelves {
    shelves: Box<[Shelf]>,
    /// Lines that are neither written nor lost.
    waiting: AtomicUsize,
    most: usize,
}

/// Apart from its neighbours in the processor's caches.
#[repr(align(128))]
#[derive(Default)]
struct Shelf(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    lines: Lines,
    text: Vec<u8>,
}

impl Shelves {
    /// Room for so many lines in all, from when they are made to when they are written.
    pub(super) fn new(most: usize) -> Self {
        let shelves = (0..thread_places()).map(|_| Shelf::default());
        Self { shelves: shelves.collect(), waiting: AtomicUsize::new(0), most }
    }

    /// Makes a line and puts it on this thread's shelf, if there is room.
    pub(super) fn add(&self, record: &Record<'_>) -> Added {
        let Some(shelf) = self.shelves.get(thread_number() % self.shelves.len()) else {
            return Added::Nothing;
        };
        if self.waiting.fetch_add(1, Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Relaxed);
            return Added::Nothing;
        }
        let mut shelf = lock(&shelf.0);
        let Waiting { lines, text } = &mut *shelf;
        let before = text.len() / PIECE_BYTES;
        lines.add(record, text);
        if text.len() / PIECE_BYTES > before { Added::LastOfPiece } else { Added::Line }
    }

    /// From now on these query parameters hold keys too. What held keys until now still does, in the
    /// requests that began before.
    pub(super) fn hide(&self, key_params: &[Box<str>]) {
        for shelf in &self.shelves {
            lock(&shelf.0).lines.hide(key_params);
        }
    }

    /// Moves lines to `out` until it has so many bytes, if there are as many; false if there were less.
    pub(super) fn take(&self, out: &mut Vec<u8>, enough: usize) -> bool {
        for shelf in &self.shelves {
            if out.len() >= enough {
                return true;
            }
            let mut shelf = lock(&shelf.0);
            let text = &mut shelf.text;
            if out.is_empty() {
                // The shelf has the other's room from now on.
                std::mem::swap(out, text);
            } else {
                out.append(text);
            }
            text.shrink_to(SPARE_BYTES_MAX);
        }
        out.len() >= enough
    }

    /// So many of the lines that were taken are written or lost: there is room for others.
    pub(super) fn done(&self, lines: u64) {
        self.waiting.fetch_sub(usize::try_from(lines).unwrap_or(usize::MAX), Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }
}
