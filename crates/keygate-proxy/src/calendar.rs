//! What time it is for a request, to the millisecond, without asking the system each time: the processor's
//! own counter, which is read anyway, tells whether what the system said last will still do.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use keygate_core::UnixMillis;
use quanta::Instant;

/// How long a reading of the system's clock serves: a request may take it to be so much earlier than it is.
const SERVES: Duration = Duration::from_millis(1);

/// A clock that is read once in a while.
pub(crate) struct Calendar {
    clock: fn() -> UnixMillis,
    /// Tells it from all others of this process.
    number: u64,
}

/// What a thread has read last.
#[derive(Clone, Copy)]
struct Reading {
    of: u64,
    serves_until: Instant,
    unix: UnixMillis,
}

thread_local! {
    static LAST: Cell<Option<Reading>> = const { Cell::new(None) };
}

impl Calendar {
    pub(crate) fn of(clock: fn() -> UnixMillis) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self { clock, number: NUMBERS.fetch_add(1, Relaxed) }
    }

    /// The time of a moment that was just now.
    #[inline]
    pub(crate) fn at(&self, moment: Instant) -> UnixMillis {
        let serves = |last: &Reading| last.of == self.number && moment < last.serves_until;
        match LAST.get().filter(serves) {
            Some(last) => last.unix,
            None => self.read(moment),
        }
    }

    #[cold]
    fn read(&self, moment: Instant) -> UnixMillis {
        let unix = (self.clock)();
        LAST.set(Some(Reading { of: self.number, serves_until: moment + SERVES, unix }));
        unix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_serves_for_a_millisecond_and_its_own_clock() {
        static READINGS: AtomicU64 = AtomicU64::new(0);
        let clock = Calendar::of(|| UnixMillis(READINGS.fetch_add(1, Relaxed)));
        let other = Calendar::of(|| UnixMillis(1_000));
        let began = Instant::now();
        let at = |micros| clock.at(began + Duration::from_micros(micros)).0;
        assert_eq!([at(0), at(999), at(1_000), at(1_999), at(2_000)], [0, 0, 1, 1, 2]);
        assert_eq!(other.at(began), UnixMillis(1_000));
        assert_eq!(at(2_001), 3, "what was read of another clock is no answer");
    }
}
