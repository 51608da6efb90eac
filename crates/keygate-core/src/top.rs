//! Who calls most: how often, how often in vain, how many bytes; over the last minute, ten minutes and
//! hour; in memory that is bounded whatever comes. `sketch.rs` counts, `windows.rs` forgets.
//!
//! A window is counted in slots that begin at multiples of their length. It is the slot that runs and so
//! many before it that it is never shorter than its name says, and longer by at most a slot.

mod list;
mod sketch;
mod slot;
mod windows;

pub use list::{TopClient, TopKey, TopList, TopQuery};
pub use sketch::{Followed, Sketch};
pub use slot::{Ended, Hint, Slot, Who};
pub use windows::Windows;

/// The keys that a slot follows. A key is followed for sure if its share of the slot's requests, refusals
/// or bytes is above one in [`SHARE_MIN`].
pub const KEYS_MAX: usize = 4_096;
/// The clients that a slot follows.
pub const CLIENTS_MAX: usize = 2_048;
/// Whoever has more than one in so many of all is followed: see [`Sketch`] for why.
pub const SHARE_MIN: u64 = 1_024;
/// The keys of which one can tell what they did in one second.
pub const SECOND_KEYS_MAX: usize = 512;
/// The seconds of which one can tell it.
pub const SERIES_SECONDS: usize = 60;

/// What requests come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    pub refusals: u64,
    /// Of bodies, both ways.
    pub bytes: u64,
}

impl Counts {
    #[must_use]
    pub fn of(self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Refusals => self.refusals,
            Measure::Bytes => self.bytes,
        }
    }

    fn add(&mut self, more: Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.refusals = self.refusals.saturating_add(more.refusals);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    fn weights(self) -> [u64; 3] {
        [self.requests, self.refusals, self.bytes]
    }

    fn from_weights([requests, refusals, bytes]: [u64; 3]) -> Self {
        Self { requests, refusals, bytes }
    }
}

/// What somebody is at the top by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Requests,
    Refusals,
    Bytes,
}

impl Measure {
    pub const ALL: [Self; 3] = [Self::Requests, Self::Refusals, Self::Bytes];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Refusals => "refusals",
            Self::Bytes => "bytes",
        }
    }

    /// Its place among the weights.
    const fn place(self) -> usize {
        self as usize
    }
}

/// The spans that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    #[default]
    Minute,
    TenMinutes,
    Hour,
}

impl Window {
    pub const ALL: [Self; 3] = [Self::Minute, Self::TenMinutes, Self::Hour];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::TenMinutes => "10m",
            Self::Hour => "1h",
        }
    }

    /// The length of a slot in seconds, and how many whole ones make the window.
    const fn slots(self) -> (u64, u64) {
        match self {
            Self::Minute => (10, 6),
            Self::TenMinutes => (60, 10),
            Self::Hour => (300, 12),
        }
    }
}

#[cfg(test)]
mod tests;
