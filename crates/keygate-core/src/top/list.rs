//! What is told of those at the top.

use std::time::Duration;

use super::{Counts, Measure, Who, Window};
use crate::id::KeyId;
use crate::network::ClientNetwork;
use crate::time::UnixMillis;

/// What is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopQuery {
    pub window: Window,
    pub by: Measure,
    /// How many at most, of keys and of clients.
    pub limit: usize,
}

/// What one gateway has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopList {
    /// When it was counted last: at most a second or two ago.
    pub as_of: UnixMillis,
    /// For how long until then: the window, or less if the gateway has not run that long.
    pub covers: Duration,
    /// All requests, those of nobody's key included.
    pub all: Counts,
    /// The most that a key has that is not followed, by each measure.
    pub missed_max: Counts,
    /// The loudest first.
    pub keys: Vec<TopKey>,
    /// Those whose requests were refused most often without a key that is known, the loudest first.
    pub clients: Vec<TopClient>,
}

/// A key at the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopKey {
    pub id: KeyId,
    pub who: Who,
    /// What it has for certain.
    pub counts: Counts,
    /// The most that it has beside that.
    pub missed: Counts,
    /// What it had in each of the last seconds by the measure that was asked for, the last one last. Zero
    /// where many others had more in that second.
    pub series: Vec<u64>,
}

/// A client at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopClient {
    pub network: ClientNetwork,
    pub refusals: u64,
    pub missed: u64,
}
