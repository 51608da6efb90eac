//! Windows of the UTC calendar. A window is known by its end: two moments before the same end, of
//! the same unit, lie in the same window.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::Unit;
use crate::time::UnixMillis;

/// The end of the window that holds `at`: the first moment that is no longer in it.
///
/// Leap seconds do not exist here, as in POSIX time. Beyond the year 9999 the last window has no end.
#[must_use]
pub fn window_end(unit: Unit, at: UnixMillis) -> UnixMillis {
    match unit {
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Day => {
            let length = u64::try_from(unit.duration().as_millis()).unwrap_or(u64::MAX);
            UnixMillis((at.0 / length).saturating_add(1).saturating_mul(length))
        }
        Unit::Month => month_end(at).unwrap_or(UnixMillis(u64::MAX)),
    }
}

fn month_end(at: UnixMillis) -> Option<UnixMillis> {
    let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    let today: Date = at.to_zoned(TimeZone::UTC).date();
    let next = today.first_of_month().checked_add(1.month()).ok()?;
    let end = next.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    u64::try_from(end).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> UnixMillis {
        let at: Timestamp = text.parse().unwrap();
        UnixMillis(u64::try_from(at.as_millisecond()).unwrap())
    }

    fn check(unit: Unit, at: &str, end: &str) {
        assert_eq!(window_end(unit, millis(at)), millis(end), "{unit:?} {at}");
    }

    #[test]
    fn windows_end_where_the_calendar_says() {
        check(Unit::Second, "2026-11-22T10:20:30.999Z", "2026-11-22T10:20:31Z");
        check(Unit::Minute, "2026-11-22T10:20:30Z", "2026-11-22T10:21:00Z");
        check(Unit::Hour, "2026-11-22T23:59:59.999Z", "2026-11-23T00:00:00Z");
        check(Unit::Day, "2026-11-22T23:59:59.999Z", "2026-11-23T00:00:00Z");
        check(Unit::Day, "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z");
        check(Unit::Month, "2026-11-30T23:59:59.999Z", "2026-12-01T00:00:00Z");
        check(Unit::Month, "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_leap_day_belongs_to_its_month() {
        check(Unit::Day, "2028-02-28T23:59:59Z", "2028-02-29T00:00:00Z");
        check(Unit::Day, "2028-02-29T10:00:00Z", "2028-03-01T00:00:00Z");
        check(Unit::Month, "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z");
        check(Unit::Month, "2027-02-28T23:59:59Z", "2027-03-01T00:00:00Z");
        check(Unit::Month, "2100-02-28T23:59:59Z", "2100-03-01T00:00:00Z");
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        for unit in [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month] {
            assert!(window_end(unit, UnixMillis(u64::MAX)).0 > u64::MAX / 2);
        }
    }

    proptest::proptest! {
        /// A window's end lies after every moment in it, and the moment before the end is in it.
        #[test]
        fn windows_follow_each_other(at in 0u64..200_000_000_000_000) {
            for unit in [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month] {
                let end = window_end(unit, UnixMillis(at));
                proptest::prop_assert!(end.0 > at);
                proptest::prop_assert_eq!(window_end(unit, UnixMillis(end.0 - 1)), end);
                proptest::prop_assert!(window_end(unit, end) > end);
            }
        }
    }
}
