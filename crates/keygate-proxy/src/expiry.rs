//! Tells clients of their key's end before it comes.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use keygate_core::{KeyRecord, UnixMillis};

pub(crate) const KEY_EXPIRES: HeaderName = HeaderName::from_static("x-keygate-key-expires");

/// When a key ends, as a date of HTTP (RFC 9110 section 5.6.7), if no more than `span` is left until
/// then. Reads the clock only for a key that has an end.
pub(crate) fn notice(
    key: &KeyRecord,
    span: Option<Duration>,
    now: impl FnOnce() -> UnixMillis,
) -> Option<HeaderValue> {
    let (span, end) = (span?, key.expires_at?);
    let is_near = now().saturating_add(span) >= end;
    is_near.then(|| date(end)).flatten()
}

/// To the second, and not after it.
fn date(at: UnixMillis) -> Option<HeaderValue> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.0))?;
    HeaderValue::from_str(&httpdate::fmt_http_date(at)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::line::tests::key;

    const WEEK: Duration = Duration::from_hours(7 * 24);

    fn check(end: Option<u64>, span: Option<Duration>, now: u64, expect: Option<&str>) {
        let mut key = key();
        Arc::get_mut(&mut key).unwrap().expires_at = end.map(UnixMillis);
        let told = notice(&key, span, || UnixMillis(now));
        assert_eq!(told.as_ref().map(|text| text.to_str().unwrap()), expect);
    }

    #[test]
    fn a_key_tells_of_its_end_from_so_long_before() {
        // The example of RFC 9110, and a bit of its second.
        const END: u64 = 784_111_777_250;
        const TEXT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        let from = END - 7 * 24 * 3_600_000;
        check(Some(END), Some(WEEK), from - 1, None);
        check(Some(END), Some(WEEK), from, Some(TEXT));
        check(Some(END), Some(WEEK), END + 1, Some(TEXT));
        check(Some(END), None, END - 1, None);
        check(None, Some(WEEK), END - 1, None);
    }
}
