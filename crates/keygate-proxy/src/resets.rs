//! How many of its requests the client of one HTTP/2 connection may take back. Browsers and clients with
//! deadlines do that all the time; who does hardly anything else has us work without ever waiting for an
//! answer, however few streams may be open at once (CVE-2023-44487).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quanta::Instant;

/// So many requests may be taken back at once, which is two pages and a half that are left while as many
/// of their streams are open as may be. Each request that is not taken back gives one back.
const RESETS_MAX: u32 = 250;
/// So many come back with each second, for clients with short deadlines whose upstream is down.
const RESETS_PER_SECOND: u32 = 33;
/// Who waited so long was not rapid: the number of streams that may be open at once bounds these.
const RAPID: Duration = Duration::from_secs(1);

/// What the client of one connection may still take back.
pub(crate) struct Resets {
    /// Requests that came to their end since one was taken back.
    finished: AtomicU32,
    left: Mutex<Left>,
}

struct Left {
    count: f64,
    at: Instant,
}

impl Resets {
    pub(crate) fn new(now: Instant) -> Self {
        let left = Left { count: f64::from(RESETS_MAX), at: now };
        Self { finished: AtomicU32::default(), left: Mutex::new(left) }
    }

    /// A request was not taken back.
    pub(crate) fn finished(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }

    /// One was that began at this time. Says whether the client may do so.
    pub(crate) fn may_take_back(&self, began: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(began) >= RAPID {
            return true;
        }
        let finished = self.finished.swap(0, Ordering::Relaxed);
        // Nothing here is left half done by a panic.
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take(finished, now)
    }
}

impl Left {
    fn take(&mut self, finished: u32, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        let back = f64::from(finished) + seconds * f64::from(RESETS_PER_SECOND);
        self.at = now.max(self.at);
        self.count = (self.count + back).min(f64::from(RESETS_MAX));
        let may = self.count >= 1.0;
        if may {
            self.count -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_back_at_once(resets: &Resets, now: Instant) -> u32 {
        let mut count = 0;
        while resets.may_take_back(now, now) {
            count += 1;
            assert!(count <= RESETS_MAX);
        }
        count
    }

    #[test]
    fn so_many_may_be_taken_back_at_once_and_so_many_more_each_second() {
        let now = Instant::now();
        let resets = Resets::new(now);
        assert_eq!(taken_back_at_once(&resets, now), RESETS_MAX);
        let later = now + Duration::from_secs(2);
        assert_eq!(taken_back_at_once(&resets, later), 2 * RESETS_PER_SECOND);
        let much_later = later + Duration::from_secs(3_600);
        assert_eq!(taken_back_at_once(&resets, much_later), RESETS_MAX);
    }

    #[test]
    fn every_second_request_may_be_taken_back_for_ever() {
        let now = Instant::now();
        let resets = Resets::new(now);
        assert_eq!(taken_back_at_once(&resets, now), RESETS_MAX);
        for _ in 0..10 * RESETS_MAX {
            resets.finished();
            assert!(resets.may_take_back(now, now));
        }
        assert!(!resets.may_take_back(now, now));
    }

    #[test]
    fn no_more_than_all_comes_back() {
        let now = Instant::now();
        let resets = Resets::new(now);
        (0..10 * RESETS_MAX).for_each(|_| resets.finished());
        assert_eq!(taken_back_at_once(&resets, now), RESETS_MAX);
    }

    #[test]
    fn a_request_that_is_given_up_after_a_while_is_free() {
        let now = Instant::now();
        let resets = Resets::new(now);
        assert_eq!(taken_back_at_once(&resets, now), RESETS_MAX);
        // As long as it takes to be free, so many come back as well.
        let later = now + RAPID;
        for _ in 0..10 * RESETS_MAX {
            assert!(resets.may_take_back(now, later));
        }
        assert_eq!(taken_back_at_once(&resets, later), RESETS_PER_SECOND);
    }
}
