//! Says when to write a line to the log, so that whoever can cause one cannot fill it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The shortest time between two lines.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Alarm {
    /// When the last line was written, and one more; 0 if none was.
    last_ns: AtomicU64,
    unsaid: AtomicU64,
}

impl Alarm {
    /// Counts one occurrence. If it is time for a line: how many others there were since the last.
    pub(super) fn raise(&self, now_ns: u64) -> Option<u64> {
        let last = self.last_ns.load(Relaxed);
        let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
        let is_time = last == 0 || now_ns.saturating_sub(last - 1) >= every;
        let next = now_ns.saturating_add(1);
        let ours = is_time && self.last_ns.compare_exchange(last, next, Relaxed, Relaxed).is_ok();
        if ours {
            return Some(self.unsaid.swap(0, Relaxed));
        }
        self.unsaid.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_writes_one_line_a_second_that_says_how_many() {
        const SECOND: u64 = 1_000_000_000;
        let alarm = Alarm::default();
        assert_eq!(alarm.raise(0), Some(0));
        for now in 1..=99 {
            assert_eq!(alarm.raise(now), None);
        }
        assert_eq!(alarm.raise(SECOND), Some(99));
        assert_eq!(alarm.raise(2 * SECOND - 1), None);
        assert_eq!(alarm.raise(2 * SECOND), Some(1));
    }
}
