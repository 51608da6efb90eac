//! Which tokens have been right, by their hashes. Lets nobody in: who is among them is looked up even
//! where others behind the same address send wrong tokens.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More tokens than operators and their programs have; those used longest ago go first.
const PROVEN_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Proven(Mutex<VecDeque<[u8; 32]>>);

impl Proven {
    pub(super) fn has(&self, hash: &[u8; 32]) -> bool {
        self.list().contains(hash)
    }

    pub(super) fn add(&self, hash: [u8; 32]) {
        let mut list = self.list();
        list.retain(|other| *other != hash);
        if list.len() >= PROVEN_MAX {
            list.pop_front();
        }
        list.push_back(hash);
    }

    pub(super) fn remove(&self, hash: &[u8; 32]) {
        self.list().retain(|other| other != hash);
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<[u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_used_last_are_remembered_and_no_more_than_the_bound() {
        let proven = Proven::default();
        let hash =
            |n: usize| std::array::from_fn(|at| n.to_be_bytes().get(at).copied().unwrap_or(0));
        for n in 0..=PROVEN_MAX {
            proven.add(hash(n));
            proven.add(hash(0));
        }
        assert!(proven.has(&hash(0)), "used all the time");
        assert!(!proven.has(&hash(1)));
        assert!(proven.has(&hash(2)) && proven.has(&hash(PROVEN_MAX)));
        proven.remove(&hash(2));
        assert!(!proven.has(&hash(2)));
        assert_eq!(proven.list().len(), PROVEN_MAX - 1);
    }
}
