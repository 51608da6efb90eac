//! The one place that asks what time it is. Everything else takes a clock or a moment.

use std::time::{SystemTime, UNIX_EPOCH};

use keygate_core::UnixMillis;

/// The system's time. A clock set before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "the clock that all others are handed")]
pub(crate) fn now() -> UnixMillis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::default().saturating_add(since_1970)
}
