//! The one place that asks what time it is. Everything else takes a clock or a moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keygate_core::UnixMillis;

/// The system's time. A clock set before 1970 reads as 1970.
pub(crate) fn now() -> UnixMillis {
    UnixMillis::default().saturating_add(since_1970())
}

/// The same in nanoseconds since 1970, to be compared with what other machines have measured.
pub(crate) fn unix_nanos() -> u64 {
    u64::try_from(since_1970().as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the clock that all others are handed")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
