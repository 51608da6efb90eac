//! Limits: what may be used ([`terms`]), what has been used on one machine ([`tally`]) or of what a
//! fleet's store lets this gateway use ([`leased`]), and the arithmetic of both. Knows no clock: every
//! moment is an argument.

pub mod bounds;
pub mod calendar;
pub mod leased;
pub mod meter;
pub mod overrides;
pub mod policy;
pub mod tally;
pub mod terms;
#[cfg(test)]
mod testing;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::time::UnixMillis;

/// One moment on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds of one monotonic clock, whatever its zero: rates and leases go by it.
    pub mono_ns: u64,
    /// Calendar windows go by it.
    pub unix: UnixMillis,
}

/// So many per so long, such as `100/s`, `60/minute` or `1000/day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub unit: Unit,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.as_str())
    }
}

/// The span that a rate or quota counts in, from the shortest to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    /// A month of the UTC calendar; 30 days where a fixed span is needed.
    Month,
}

impl Unit {
    /// Every unit, in the order of its discriminant.
    pub const ALL: [Self; 5] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Month];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Month => 30 * 86_400,
        })
    }
}

/// A text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a rate as `100/s`: a whole number above 0, then `/` and second, minute, hour, day or month"
)]
pub struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (count, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let unit = match unit {
            "s" | "second" => Unit::Second,
            "m" | "minute" => Unit::Minute,
            "h" | "hour" => Unit::Hour,
            "d" | "day" => Unit::Day,
            "month" => Unit::Month,
            _ => return Err(InvalidRate),
        };
        match count.parse() {
            Ok(count) if count > 0 => Ok(Self { count, unit }),
            Ok(_) | Err(_) => Err(InvalidRate),
        }
    }
}

/// A steady rate with a bucket: the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").
///
/// The state of one limited client is a single number, its *theoretical arrival time*: the moment,
/// in nanoseconds on any monotonic clock, when its bucket will be full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// Nanoseconds that one unit of cost takes to come back.
    interval_ns: u64,
    /// How far the theoretical arrival time may lie ahead of the clock.
    tolerance_ns: u64,
}

/// The bucket holds too little; it will hold enough after `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit {
    pub wait: Duration,
}

impl Gcra {
    /// `count` units per `period`, with a bucket of `burst` units. Zeros are read as one.
    #[must_use]
    pub fn new(count: u64, period: Duration, burst: u64) -> Self {
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: rather a billionth too little than one request too many.
        let interval_ns = period_ns.div_ceil(count.max(1)).max(1);
        Self { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst.max(1)) }
    }

    /// Takes `cost` units at `now_ns`: the new state, or how long until that would succeed.
    ///
    /// # Errors
    /// [`OverLimit`] when the bucket holds fewer than `cost` units. The state is unchanged then.
    pub fn take(self, state_ns: u64, now_ns: u64, cost: u64) -> Result<u64, OverLimit> {
        let next = state_ns.max(now_ns).saturating_add(self.interval_ns.saturating_mul(cost));
        let latest = now_ns.saturating_add(self.tolerance_ns);
        if next <= latest {
            Ok(next)
        } else {
            Err(OverLimit { wait: Duration::from_nanos(next - latest) })
        }
    }

    /// Nanoseconds that one unit of cost takes to come back.
    #[must_use]
    pub const fn interval_ns(self) -> u64 {
        self.interval_ns
    }

    /// The most units that can be taken at once.
    #[must_use]
    pub const fn burst(self) -> u64 {
        self.tolerance_ns / self.interval_ns
    }

    /// Whether so many units are more than a full bucket holds.
    #[must_use]
    pub const fn never_holds(self, cost: u64) -> bool {
        match self.interval_ns.checked_mul(cost) {
            Some(span_ns) => span_ns > self.tolerance_ns,
            None => true,
        }
    }

    /// How many units could be taken at `now_ns`.
    #[must_use]
    pub fn available(self, state_ns: u64, now_ns: u64) -> u64 {
        let taken_ns = state_ns.saturating_sub(now_ns);
        self.tolerance_ns.saturating_sub(taken_ns) / self.interval_ns
    }

    /// How long after `now_ns` a cost of one would succeed; zero means at once. Changes nothing.
    #[must_use]
    pub fn wait(self, state_ns: u64, now_ns: u64) -> Duration {
        match self.take(state_ns, now_ns, 1) {
            Ok(_) => Duration::ZERO,
            Err(over) => over.wait,
        }
    }

    /// Whether a client in this state is indistinguishable from a new one, and may be forgotten.
    #[must_use]
    pub fn is_idle(self, state_ns: u64, now_ns: u64) -> bool {
        state_ns <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn rates_are_read_with_their_unit() {
        let rate = |text: &str| text.parse::<Rate>().ok().map(|r| (r.count, r.unit.as_str()));
        assert_eq!(rate("100/s"), Some((100, "second")));
        assert_eq!(rate("20000/month"), Some((20_000, "month")));
        for wrong in ["", "100", "0/s", "-1/s", "1/week", "/s", "1/", "1.5/s"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_bucket_of_three_lets_three_through_and_refills_one_a_second() {
        let limit = Gcra::new(1, Duration::from_secs(1), 3);
        let mut state = 0;
        for _ in 0..3 {
            state = limit.take(state, 10 * SECOND_NS, 1).unwrap();
        }
        assert_eq!(
            limit.take(state, 10 * SECOND_NS, 1),
            Err(OverLimit { wait: Duration::from_secs(1) })
        );
        assert_eq!(limit.wait(state, 11 * SECOND_NS), Duration::ZERO);
        assert!(!limit.is_idle(state, 12 * SECOND_NS));
        assert!(limit.is_idle(state, 13 * SECOND_NS));
    }

    proptest::proptest! {
        /// In any span of time no more than the burst and what trickled in is let through.
        #[test]
        fn never_above_burst_plus_refill(gaps in proptest::collection::vec(0u64..400_000_000, 1..200)) {
            let limit = Gcra::new(5, Duration::from_secs(1), 7);
            let (mut state, mut now, mut passed) = (0, 1_000 * SECOND_NS, 0u64);
            let start = now;
            for gap in gaps {
                now += gap;
                if let Ok(next) = limit.take(state, now, 1) {
                    state = next;
                    passed += 1;
                }
                proptest::prop_assert!(passed <= 7 + (now - start) * 5 / SECOND_NS);
            }
        }
    }
}
