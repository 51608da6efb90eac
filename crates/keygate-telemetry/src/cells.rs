//! Numbers that every request adds to. Each thread has cells of its own, to which it adds without the locked
//! operation that a number shared with others costs; whoever reads adds them up.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::threads::{thread_number, thread_places};

/// So many numbers, which only grow.
pub(crate) struct Cells<const N: usize> {
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

impl<const N: usize> Cells<N> {
    pub(crate) fn new() -> Self {
        let own = (0..thread_places()).map(|_| Place::default()).collect();
        Self { own, shared: Place::default() }
    }

    /// Adds to some of the numbers, by their places.
    #[inline]
    pub(crate) fn add<const M: usize>(&self, amounts: [(usize, u64); M]) {
        match self.own.get(thread_number()) {
            Some(place) => {
                for (which, amount) in amounts {
                    if let Some(cell) = place.0.get(which) {
                        // Nobody else has this thread's number, and so nobody else writes here.
                        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
                    }
                }
            }
            None => {
                for (which, amount) in amounts {
                    if let Some(cell) = self.shared.0.get(which) {
                        cell.fetch_add(amount, Relaxed);
                    }
                }
            }
        }
    }

    pub(crate) fn sums(&self) -> [u64; N] {
        let mut sums = [0_u64; N];
        for place in self.own.iter().chain([&self.shared]) {
            for (sum, cell) in sums.iter_mut().zip(&place.0) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        }
        sums
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
