//! What the tests of the counters share.

use super::Moment;
use super::tally::{Charged, Windows};
use super::terms::{Limits, RateLimit, Terms};
use crate::time::UnixMillis;

/// A request of which it only matters that it ends.
pub(super) const SOME: Charged = Charged {
    cost: 1,
    at: Moment { mono_ns: 0, unix: UnixMillis(0) },
    takes_slot: true,
    rate: None,
    windows: Windows::NONE,
};

pub(super) fn at(ms: u64) -> Moment {
    Moment { mono_ns: ms * 1_000_000, unix: UnixMillis(1_800_000_000_000 + ms) }
}

pub(super) fn limits(
    rate: Option<(&str, u64)>,
    quotas: &[&str],
    concurrency: Option<u64>,
) -> Limits {
    Limits {
        rate: rate.map(|(rate, burst)| RateLimit::new(rate.parse().unwrap(), Some(burst))),
        quotas: quotas.iter().map(|quota| quota.parse().unwrap()).collect(),
        concurrency,
        ..Limits::default()
    }
}

pub(super) fn terms(limits: &Limits) -> Terms<'_> {
    Terms::of(Some(limits), None).unwrap()
}
