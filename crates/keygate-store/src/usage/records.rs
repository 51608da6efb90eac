//! What keys have used, as it goes to a store and comes back: batches that can be sent again without
//! counting twice, and questions.

use std::net::IpAddr;
use std::sync::Arc;

use keygate_core::problem::Code;
use keygate_core::{AccountId, AppId, KeyId, UnixMillis};

/// The most rows of one batch: what a store carries out in one step.
pub const BATCH_ROWS_MAX: usize = 1_000;

/// Who counted: one file of counters. Another process gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u128);

/// What was used within one minute, or in a part of it, as far as one source has counted it. A store adds
/// the batch of a number once, however often it is sent: the numbers of a source are 1, 2, 3 and so on, and
/// it sends none before the store has the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageBatch {
    pub source: SourceId,
    pub number: u64,
    /// When the minute began.
    pub minute: UnixMillis,
    /// At most [`BATCH_ROWS_MAX`]; no two of the same key and route.
    pub rows: Vec<UsageRow>,
}

/// What one key has used of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub key: KeyId,
    pub app: AppId,
    pub account: AccountId,
    /// By its name.
    pub route: Arc<str>,
    pub counts: UsageCounts,
    /// The last request that was admitted, if any was.
    pub last: Option<LastUse>,
}

/// The last time that a key was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUse {
    pub at: UnixMillis,
    /// The client's. None if only the time is known.
    pub address: Option<IpAddr>,
    pub route: Option<Arc<str>>,
}

/// What was used. All of it only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Requests that were admitted.
    pub requests: u64,
    /// What they cost, in the routes' units.
    pub cost: u64,
    /// Bytes of requests' bodies, and of a tunnel from the client.
    pub bytes_in: u64,
    /// Bytes of answers' bodies, and of a tunnel to the client.
    pub bytes_out: u64,
    /// Requests that were refused, by why: none twice, none with zero, in the order of the codes.
    pub refused: Vec<(Code, u64)>,
}

/// Whose use is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spender {
    Everybody,
    Account(AccountId),
    App(AppId),
    Key(KeyId),
}

/// How finely use is kept. Days are UTC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Minute,
    Hour,
    Day,
}

impl Step {
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    #[must_use]
    pub const fn millis(self) -> u64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    /// When the window began that `at` is in.
    #[must_use]
    pub const fn start(self, at: UnixMillis) -> UnixMillis {
        UnixMillis(at.0 - at.0 % self.millis())
    }
}

/// A question about use: of every window that begins at or after `from` and before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    pub who: Spender,
    /// Of all routes if none is named.
    pub route: Option<Box<str>>,
    pub step: Step,
    pub from: UnixMillis,
    pub to: UnixMillis,
}

/// The use of one route in one window, by all of those who were asked for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePoint {
    pub start: UnixMillis,
    pub route: Arc<str>,
    pub counts: UsageCounts,
}

/// How long use is kept, in milliseconds; zero is not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
}
