//! Times as people write them: RFC 3339, and spans such as `30d`.

use std::time::Duration;

use jiff::Timestamp;
use keygate_core::UnixMillis;

use crate::problem::Problem;
use crate::registry::OVERLAP_MAX;

/// As in the configuration's tiers.
const AGE_MAX: Duration = Duration::from_secs(3_650 * 86_400);
/// The longest `ttl`: who wants more wants a key that does not expire.
const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Writes a time in UTC.
pub(crate) fn rfc3339(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_string()
}

/// # Errors
/// The text is no time with an offset, or one before 1970, or one after 9999-12-30T22:00Z: the
/// last that every offset can show.
pub(crate) fn expires_at(text: &str) -> Result<UnixMillis, Problem> {
    time(text).ok_or_else(|| Problem::field("expires_at", TIME_RULE))
}

/// What to write for a time.
pub(crate) const TIME_RULE: &str =
    "write a time as RFC 3339 has it, from 1970 to 9999-12-30: `2031-12-31T23:59:59Z`";

pub(crate) fn time(text: &str) -> Option<UnixMillis> {
    let parsed = text.parse::<Timestamp>().ok()?;
    u64::try_from(parsed.as_millisecond()).ok().map(UnixMillis)
}

/// The moment that lies `text` after `now`.
///
/// # Errors
/// The text is no span, or one of nothing, or longer than [`TTL_MAX`].
pub(crate) fn ttl(text: &str, now: UnixMillis) -> Result<UnixMillis, Problem> {
    match humantime::parse_duration(text) {
        Ok(span) if (Duration::from_millis(1)..=TTL_MAX).contains(&span) => {
            Ok(now.saturating_add(span))
        }
        Ok(_) => Err(Problem::field("ttl", "write a span above 0 and of at most 100 years")),
        Err(_) => Err(Problem::field("ttl", "write a span with its unit: `12h` or `30d`")),
    }
}

/// How old an app's keys may get, to the second.
pub(crate) fn max_age(text: &str) -> Result<Duration, Problem> {
    let fits = |span: &Duration| {
        (Duration::from_secs(1)..=AGE_MAX).contains(span) && span.subsec_nanos() == 0
    };
    span(text).filter(fits).ok_or_else(|| {
        Problem::field("max_age", "write whole seconds or more, at most `3650d`: `12h` or `90d`")
    })
}

/// How long a key goes on working that has a successor.
pub(crate) fn overlap(text: &str) -> Result<Duration, Problem> {
    span(text).filter(|span| *span <= OVERLAP_MAX).ok_or_else(|| {
        Problem::field("overlap", "write a span from `0s` to `90d`: `24h`, or `0s` for none")
    })
}

/// A span with its unit.
pub(crate) fn span(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Writes a span of whole seconds in the largest unit that leaves nothing over.
pub(crate) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let unit = units.iter().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is_read() {
        for text in ["2031-12-31T23:59:59Z", "2031-12-31T23:59:59.5Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(rfc3339(expires_at(text).unwrap()), text);
        }
        let with_offset = expires_at("2032-01-01T00:59:59+01:00").unwrap();
        assert_eq!(rfc3339(with_offset), "2031-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "tomorrow", "2031-12-31", "2031-12-31T23:59:59", "1969-12-31T00:00:00Z"] {
            assert!(expires_at(text).is_err(), "{text}");
        }
        assert!(expires_at("9999-12-30T21:59:59Z").is_ok());
        let beyond = expires_at("9999-12-31T23:59:59Z").unwrap_err();
        assert!(format!("{beyond:?}").contains("9999-12-30"), "{beyond:?}");
        assert_eq!(rfc3339(UnixMillis(u64::MAX)), Timestamp::MAX.to_string());
    }

    #[test]
    fn a_span_needs_a_unit_and_has_bounds() {
        let now = UnixMillis(1_000);
        assert_eq!(ttl("30d", now).unwrap(), UnixMillis(1_000 + 30 * 86_400_000));
        assert_eq!(ttl("12h", now).unwrap(), UnixMillis(1_000 + 12 * 3_600_000));
        for text in ["", "30", "0s", "1ns", "-1h", "soon", "200y", "99999999999999999999d"] {
            assert!(ttl(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_and_an_overlap_are_read_as_they_are_written() {
        for (text, seconds) in
            [("90d", 90 * 86_400), ("36h", 36 * 3_600), ("90m", 5_400), ("61s", 61)]
        {
            assert_eq!(max_age(text).unwrap(), Duration::from_secs(seconds));
            assert_eq!(in_words(max_age(text).unwrap()), text);
        }
        assert_eq!(in_words(max_age("24h").unwrap()), "1d");
        for text in ["", "90", "0s", "999ms", "1s 1ms", "3651d", "-1d", "soon"] {
            assert!(max_age(text).is_err(), "{text}");
        }
        assert_eq!(overlap("0s").unwrap(), Duration::ZERO);
        assert_eq!(overlap("90d").unwrap(), OVERLAP_MAX);
        for text in ["", "1", "91d", "-1s"] {
            assert!(overlap(text).is_err(), "{text}");
        }
    }
}
