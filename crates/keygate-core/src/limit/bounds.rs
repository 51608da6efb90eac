//! What limits may be, wherever they are written: in a tier, or at a key.

use std::time::Duration;

use super::Rate;
use super::terms::RateLimit;

/// Above this a nanosecond clock cannot tell two requests apart.
pub const RATE_COUNT_MAX: u64 = 1_000_000_000;
pub const BURST_MAX: u64 = 1_000_000_000;
/// Sums of such counts are exact wherever they are reckoned, in floating point too.
pub const QUOTA_COUNT_MAX: u64 = 1_000_000_000_000;
/// One for each unit.
pub const QUOTAS_MAX: usize = 5;
pub const CONCURRENCY_MAX: u64 = 1_000_000;
/// The longest that a bucket may take to fill: ten years. A clock of nanoseconds in 64 bits has room
/// for that beside any uptime.
pub const REFILL_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// The bucket of a rate takes longer than [`REFILL_MAX`] to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bucket of this `burst` takes more than ten years to fill at this `rate`")]
pub struct SlowBucket;

/// A rate with its bucket; without a burst it holds one second's worth, at least 1. The counts are
/// within their own bounds already.
///
/// # Errors
/// [`SlowBucket`].
pub fn rate_limit(rate: Rate, burst: Option<u64>) -> Result<RateLimit, SlowBucket> {
    let limit = RateLimit::new(rate, burst);
    if limit.refill() <= REFILL_MAX { Ok(limit) } else { Err(SlowBucket) }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// A bucket that is let in holds what it says, on a clock that has run for centuries too.
        #[test]
        fn no_bucket_that_is_let_in_overflows_its_clock(
            count in 1..=RATE_COUNT_MAX,
            unit in proptest::sample::select(vec!["s", "m", "h", "d", "month"]),
            burst in 1..=BURST_MAX,
            uptime_ns in 0..=u64::MAX / 2,
        ) {
            let rate = format!("{count}/{unit}").parse().unwrap();
            if let Ok(limit) = rate_limit(rate, Some(burst)) {
                let gcra = limit.gcra();
                proptest::prop_assert_eq!(gcra.burst(), burst);
                let state = gcra.take(0, uptime_ns, burst).unwrap();
                proptest::prop_assert_eq!(gcra.available(state, uptime_ns), 0);
                proptest::prop_assert!(gcra.take(state, uptime_ns, 1).is_err());
            } else {
                proptest::prop_assert!(burst / count > 100);
            }
        }
    }

    #[test]
    fn a_bucket_fills_within_ten_years() {
        let limit = |text: &str, burst| rate_limit(text.parse().unwrap(), Some(burst)).is_ok();
        assert!(limit("1/month", 121) && !limit("1/month", 122));
        assert!(limit("1/s", 315_360_000) && !limit("1/s", BURST_MAX));
        assert!(limit("1000000000/s", BURST_MAX) && !limit("1/month", BURST_MAX));
        assert!(rate_limit("1/month".parse().unwrap(), None).is_ok());
    }
}
