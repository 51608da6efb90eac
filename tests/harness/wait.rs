//! Waiting for a condition, never for a length of time.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it: long, since a slow machine is no bug.
pub const fn patience() -> Duration {
    Duration::from_secs(60)
}

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`patience`].
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(patience(), ask)
        .unwrap_or_else(|| panic!("waited {:?} in vain: {what}", patience()))
}

/// Asks until there is an answer, or `limit` is over.
pub fn eventually_within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
