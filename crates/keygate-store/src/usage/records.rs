//! What keys have used, as it goes to a store and comes back: batches that can be sent again without
//! counting twice, and questions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::problem::Code;
use keygate_core::{KeyId, UnixMillis};

/// The most rows of one batch for any store, which carries it out in one step, while nobody else is
/// answered: a thousand took Redis 10 ms and more. Who sends to a store of its own may make larger ones.
pub const BATCH_ROWS_MAX: usize = 250;

/// A source is remembered for at least so long after it has sent something.
const SOURCE_KEPT: Duration = Duration::from_hours(90 * 24);

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
    /// The source says that those before it which the store lacks are gone for good: they are not waited
    /// for. Never set but after [`StoreError::Conflict`](crate::keys::StoreError::Conflict).
    pub after_loss: bool,
    /// When the minute began.
    pub minute: UnixMillis,
    /// [`BATCH_ROWS_MAX`], or as many as who sends has decided on, at most; no two of the same key and route.
    pub rows: Vec<UsageRow>,
}

impl UsageBatch {
    /// The last use of each key that has one, in the order of the keys.
    pub(crate) fn last_uses(&self) -> BTreeMap<KeyId, &LastUse> {
        let mut uses: BTreeMap<KeyId, &LastUse> = BTreeMap::new();
        for row in &self.rows {
            let Some(last) = &row.last else { continue };
            let noted = uses.entry(row.key).or_insert(last);
            if noted.at < last.at {
                *noted = last;
            }
        }
        uses
    }

    /// Says that what was counted is lost.
    pub(crate) fn log_loss(&self, had: u64) {
        let (source, first, last) = (self.source.0, had + 1, self.number - 1);
        tracing::error!(
            source = format!("{source:032x}"),
            first,
            last,
            "the store lost use that was counted, and nobody has it any more: sums are too low"
        );
    }
}

/// What one key has used of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub key: KeyId,
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

impl LastUse {
    pub(crate) const NAME: &str = "last use";
}

/// What was used. All of it only grows. Stores add up exactly up to 2^53 in one window.
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

impl UsageCounts {
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.cost = self.cost.saturating_add(other.cost);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        for (code, more) in &other.refused {
            let at = self.refused.binary_search_by_key(&(*code as usize), |(one, _)| *one as usize);
            match at {
                Ok(at) => {
                    if let Some((_, count)) = self.refused.get_mut(at) {
                        *count = count.saturating_add(*more);
                    }
                }
                Err(at) => self.refused.insert(at, (*code, *more)),
            }
        }
    }
}

/// Whose use is asked for. Stores keep no sums of apps and accounts: those are added up when somebody
/// asks, or every request of everybody would be written three times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spender {
    Everybody,
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

    /// How many windows lie together in a store: whoever asks for many asks for runs of so many.
    #[must_use]
    pub const fn together(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::Day => 32,
        }
    }

    /// When the window began that `at` is in.
    #[must_use]
    pub const fn start(self, at: UnixMillis) -> UnixMillis {
        UnixMillis(at.0 - at.0 % self.millis())
    }
}

/// A question about use: of every window that begins at or after `from` and before `to`. Whoever asks
/// bounds how many that are, times how many spenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    /// None twice.
    pub of: Vec<Spender>,
    /// Of all routes if none is named.
    pub route: Option<Box<str>>,
    pub step: Step,
    pub from: UnixMillis,
    pub to: UnixMillis,
}

impl UsageQuery {
    /// The beginnings of the windows asked for.
    pub(crate) fn windows(&self) -> impl Iterator<Item = UnixMillis> + use<> {
        let (step, to) = (self.step.millis(), self.to.0);
        let first = self.from.0.checked_next_multiple_of(step);
        let next = move |start: &u64| start.checked_add(step);
        std::iter::successors(first, next).take_while(move |start| *start < to).map(UnixMillis)
    }
}

/// The use of one route in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePoint {
    pub of: Spender,
    pub start: UnixMillis,
    pub route: Arc<str>,
    pub counts: UsageCounts,
}

/// How long use is kept after its window, in milliseconds, at least; zero is not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
}

impl Retention {
    #[must_use]
    pub const fn of(&self, step: Step) -> u64 {
        match step {
            Step::Minute => self.minutes,
            Step::Hour => self.hours,
            Step::Day => self.days,
        }
    }

    /// How long a source is remembered, in milliseconds. It outlives all windows of its batches: one that
    /// comes back after that, and sends its last batches again, adds to nothing that anybody sees.
    pub(crate) fn of_sources(&self) -> u64 {
        let least = u64::try_from(SOURCE_KEPT.as_millis()).unwrap_or(u64::MAX);
        let of = |step: Step| self.of(step).saturating_add(step.together() * step.millis());
        Step::ALL.into_iter().map(of).fold(least, u64::max)
    }
}
