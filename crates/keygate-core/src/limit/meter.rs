//! The counters of one party behind a lock that is held for nanoseconds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::leased::Leased;
use super::tally::Tally;
use super::terms::Party;

/// What one party has used, and may use here.
#[derive(Debug)]
pub struct Meter {
    party: Party,
    counters: Mutex<Counters>,
}

/// Who keeps count.
#[derive(Debug)]
pub enum Counters {
    /// This gateway alone.
    Local(Tally),
    /// The store that a fleet shares, which lets this gateway use a part.
    Leased(Box<Leased>),
}

impl Meter {
    #[must_use]
    pub fn new(party: Party, counters: Counters) -> Self {
        Self { party, counters: Mutex::new(counters) }
    }

    #[must_use]
    pub const fn party(&self) -> Party {
        self.party
    }

    /// The counters, to be used and let go at once.
    pub fn lock(&self) -> MutexGuard<'_, Counters> {
        // Each change is made whole or not at all, so a panic elsewhere leaves nothing half done.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
