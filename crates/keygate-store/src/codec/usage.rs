//! Use as stores keep it: a line of numbers. Short, since there are many of them, and text, since a
//! script in Redis adds them up.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use keygate_core::UnixMillis;
use keygate_core::problem::Code;

use crate::usage::records::{LastUse, UsageCounts};

#[derive(Debug, thiserror::Error)]
#[error("a line of use cannot be read")]
pub(crate) struct BadUsage;

/// `requests cost bytes_in bytes_out`, then ` code=count` for each refusal.
pub(crate) fn encode_counts(counts: &UsageCounts) -> String {
    use std::fmt::Write;

    let UsageCounts { requests, cost, bytes_in, bytes_out, refused } = counts;
    let mut line = format!("{requests} {cost} {bytes_in} {bytes_out}");
    for (code, count) in refused {
        // Writing to a string does not fail.
        write!(line, " {}={count}", number(*code)).ok();
    }
    line
}

/// Codes in any order, as whoever added them up left them.
pub(crate) fn decode_counts(line: &[u8]) -> Result<UsageCounts, BadUsage> {
    let mut words = str::from_utf8(line).map_err(|_| BadUsage)?.split(' ');
    let mut next = || parse(words.next());
    let mut counts = UsageCounts {
        requests: next()?,
        cost: next()?,
        bytes_in: next()?,
        bytes_out: next()?,
        refused: Vec::new(),
    };
    for word in words {
        let (code, count) = word.split_once('=').ok_or(BadUsage)?;
        let (code, count) = (code_of(parse(Some(code))?)?, parse(Some(count))?);
        counts.add(&UsageCounts { refused: vec![(code, count)], ..UsageCounts::default() });
    }
    Ok(counts)
}

/// `time address route`: `-` for an address that is not known, and nothing for a route that is not.
pub(crate) fn encode_last(last: &LastUse) -> String {
    let address = last.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    match &last.route {
        Some(route) => format!("{} {address} {route}", last.at.0),
        None => format!("{} {address}", last.at.0),
    }
}

pub(crate) fn decode_last(line: &[u8]) -> Result<LastUse, BadUsage> {
    let mut words = str::from_utf8(line).map_err(|_| BadUsage)?.splitn(3, ' ');
    let at = UnixMillis(parse(words.next())?);
    let address = match words.next() {
        Some("-") => None,
        other => Some(parse::<IpAddr>(other)?),
    };
    Ok(LastUse { at, address, route: words.next().map(Arc::from) })
}

fn parse<T: FromStr>(word: Option<&str>) -> Result<T, BadUsage> {
    word.and_then(|word| word.parse().ok()).ok_or(BadUsage)
}

/// What stands for a code. Never given to another one.
const fn number(code: Code) -> u8 {
    match code {
        Code::BadRequest => 0,
        Code::AmbiguousPath => 1,
        Code::AmbiguousCredentials => 2,
        Code::ApiKeyMissing => 3,
        Code::ApiKeyInvalid => 4,
        Code::ApiKeyExpired => 5,
        Code::EnvironmentMismatch => 6,
        Code::IpNotAllowed => 7,
        Code::OriginNotAllowed => 8,
        Code::PermissionDenied => 9,
        Code::RouteNotFound => 10,
        Code::MethodNotAllowed => 11,
        Code::PayloadTooLarge => 12,
        Code::HeadersTooLarge => 13,
        Code::TooManyFailures => 14,
        Code::ConcurrencyExceeded => 15,
        Code::RateLimitExceeded => 16,
        Code::QuotaExceeded => 17,
        Code::KeyStoreUnavailable => 18,
        Code::UpstreamError => 19,
        Code::UpstreamUnavailable => 20,
        Code::UpstreamTimeout => 21,
        Code::Internal => 22,
    }
}

/// A number that is not known is a newer version's.
fn code_of(wanted: u8) -> Result<Code, BadUsage> {
    Code::ALL.into_iter().find(|code| number(*code) == wanted).ok_or(BadUsage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_were_written() {
        let refused = Code::ALL.map(|code| (code, u64::MAX)).to_vec();
        for counts in [
            UsageCounts::default(),
            UsageCounts { requests: 1, cost: 2, bytes_in: 3, bytes_out: u64::MAX, refused },
        ] {
            let line = encode_counts(&counts);
            assert_eq!(decode_counts(line.as_bytes()).unwrap(), counts, "{line}");
        }
        let counts = UsageCounts { requests: 12, cost: 60, ..UsageCounts::default() };
        let refused = vec![(Code::ApiKeyExpired, 2), (Code::QuotaExceeded, 3)];
        assert_eq!(encode_counts(&UsageCounts { refused, ..counts }), "12 60 0 0 5=2 17=3");
    }

    #[test]
    fn what_a_newer_version_wrote_is_not_misread() {
        for line in ["", "1 2 3", "1 2 3 4 200=1", "1 2 3 4 5", "1 2 3 -4", "1 2 3 4 ", "1.0 2 3 4"]
        {
            assert!(decode_counts(line.as_bytes()).is_err(), "{line:?}");
        }
        for line in ["", "x", "1", "1 nowhere", "1  route"] {
            assert!(decode_last(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn last_uses_are_read_as_they_were_written() {
        let address = Some("2001:db8::1".parse().unwrap());
        for route in [None, Some(""), Some(" - "), Some("orders \"read\"\n\u{1f511} 7")] {
            for address in [None, address] {
                let last = LastUse { at: UnixMillis(7), address, route: route.map(Arc::from) };
                assert_eq!(decode_last(encode_last(&last).as_bytes()).unwrap(), last);
            }
        }
    }
}
