//! Numbers that every request adds to. Each thread has cells of its own, to which it adds without the locked
//! operation that a number shared with others costs; whoever reads adds them up.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

mod threads;

pub use threads::{thread_number, thread_places};

/// So many numbers, which only grow.
pub struct Cells<const N: usize> {
    own: Box<[Place<N>]>,
    /// Of threads beyond those that have places of their own.
    shared: Place<N>,
}

/// Apart from its neighbours in the processor's caches.
#[repr(align(128))]
struct Place<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Place<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Cells<N> {
    #[must_use]
    pub fn new() -> Self {
        let own = (0..thread_places()).map(|_| Place::default()).collect();
        Self { own, shared: Place::default() }
    }

    /// Adds to some of the numbers, by their places.
    #[inline]
    pub fn add<const M: usize>(&self, amounts: [(usize, u64); M]) {
        match self.own.get(thread_number()) {
            Some(place) => {
                for (which, amount) in amounts {
                    if let Some(cell) = place.0.get(which) {
                        // Nobody else has this thread's number, and so nobody else writes here.
                        cell.store(cell.load(Relaxed).wrapping_add(amount), Release);
                    }
                }
            }
            None => {
                for (which, amount) in amounts {
                    if let Some(cell) = self.shared.0.get(which) {
                        cell.fetch_add(amount, Release);
                    }
                }
            }
        }
    }

    #[must_use]
    pub fn sums(&self) -> [u64; N] {
        std::array::from_fn(|which| self.sum(which))
    }

    /// One of the numbers. Whoever reads another one after it sees all that was added to that one before
    /// what was added here.
    #[must_use]
    pub fn sum(&self, which: usize) -> u64 {
        let places = self.own.iter().chain([&self.shared]);
        let cells = places.filter_map(|place| place.0.get(which));
        cells.fold(0, |sum, cell| sum.wrapping_add(cell.load(Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_however_many_threads_add() {
        const THREADS: u64 = 200;
        const TIMES: u64 = 500;
        let cells = Cells::<2>::new();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..TIMES).for_each(|_| cells.add([(0, 1), (1, 3)])));
            }
        });
        assert_eq!(cells.sums(), [THREADS * TIMES, 3 * THREADS * TIMES]);
    }
}
