//! A number for each thread, by which those that count or write much get places of their own.

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// More threads than this share places.
const PLACES_MAX: usize = 64;

/// How many places are worth having here: some to spare for threads that serve no requests.
#[must_use]
pub fn thread_places() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    threads.saturating_mul(2).min(PLACES_MAX)
}

/// This thread's number, given to it when it first asks.
#[inline]
#[must_use]
pub fn thread_number() -> usize {
    const NONE: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    }
    NUMBER.with(|number| {
        if number.get() == NONE {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}
