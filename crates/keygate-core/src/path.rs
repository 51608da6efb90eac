//! One reading of a path and of a host. What two parsers could read differently is refused, since
//! a gateway that decides on one reading and an upstream that serves another have no gate.

use std::borrow::Cow;

use crate::decide::Denial;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is no path at all.
    #[error("{0}")]
    Malformed(&'static str),
    /// Two parsers could read it differently.
    #[error("{0}")]
    Ambiguous(&'static str),
}

impl From<PathError> for Denial {
    fn from(error: PathError) -> Self {
        match error {
            PathError::Malformed(why) => Self::BadRequest(why),
            PathError::Ambiguous(why) => Self::AmbiguousPath(why),
        }
    }
}

/// Brings a path to its one form: unreserved characters plain, other escapes in upper case
/// (RFC 3986 sections 6.2.2.1 and 6.2.2.2). Borrows when that changes nothing.
///
/// # Errors
/// [`PathError::Malformed`] for what is no path at all, [`PathError::Ambiguous`] for dot segments,
/// empty segments, `;` and `\` plain or encoded, encoded slashes and control characters, broken
/// escapes, and escapes that are not UTF-8.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Malformed("the request target is not a path"));
    }
    // One pass tells nearly every path that there is nothing to do.
    let bytes = path.as_bytes();
    let (mut classes, mut has_pair, mut before) = (PLAIN, false, 0);
    for &byte in bytes {
        classes |= class(byte);
        has_pair |= (before == b'/') & ((byte == b'/') | (byte == b'.'));
        before = byte;
    }
    if classes == PLAIN && !has_pair {
        return Ok(Cow::Borrowed(path));
    }
    check_bytes(bytes)?;
    let escaped = classes & ESCAPE != 0;
    let normal = if escaped { decode_unreserved(path)? } else { Cow::Borrowed(path) };
    check_segments(&normal)?;
    Ok(normal)
}

const PLAIN: u8 = 0;
const ESCAPE: u8 = 1;
const REFUSED: u8 = 2;
/// Printable, and yet no part of a path unless escaped (RFC 3986 section 3.3). `;` is legal, but
/// some servers cut a segment there.
const NOT_IN_A_PATH: &[u8] = b";\\\"<>[]^`{|}";

fn class(byte: u8) -> u8 {
    #[expect(clippy::indexing_slicing, reason = "a wrong index fails the build")]
    const TABLE: [u8; 256] = {
        let mut table = [PLAIN; 256];
        let mut byte = 0;
        while byte < 256 {
            if byte <= 0x20 || byte >= 0x7f {
                table[byte] = REFUSED;
            }
            byte += 1;
        }
        table[b'%' as usize] = ESCAPE;
        let mut at = 0;
        while at < NOT_IN_A_PATH.len() {
            table[NOT_IN_A_PATH[at] as usize] = REFUSED;
            at += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).copied().unwrap_or(REFUSED)
}

fn check_bytes(bytes: &[u8]) -> Result<(), PathError> {
    for byte in bytes {
        match byte {
            b';' => return Err(PathError::Ambiguous("a path may not hold `;`")),
            b'\\' => return Err(PathError::Ambiguous("a path may not hold a backslash")),
            byte if class(*byte) == REFUSED => {
                return Err(PathError::Malformed("the path holds a byte that must be escaped"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The form of a normal path that routes are matched by: an upstream reads `%3A` as `:`, so a
/// route for the one is a route for the other. What is forwarded keeps the client's spelling, as
/// RFC 3986 section 2.2 asks for reserved characters.
pub(crate) fn matching_form(normal: &str) -> Cow<'_, str> {
    const RESERVED_IN_PATH: &[u8] = b":@!$&'()*+,=";
    // By hand: paths are short, and a search costs more to set up than to do.
    if normal.bytes().all(|byte| byte != b'%') {
        return Cow::Borrowed(normal);
    }
    let mut out = String::with_capacity(normal.len());
    let mut rest = normal;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (digits, next) = after.split_at_checked(2).unwrap_or((after, ""));
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if RESERVED_IN_PATH.contains(&byte) => out.push(char::from(byte)),
            Ok(_) | Err(_) => {
                out.push('%');
                out.push_str(digits);
            }
        }
        rest = next;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let mut rest = path.get(1..).unwrap_or_default();
    // A trailing slash leaves one empty segment at the end, which is no ambiguity.
    while let Some((segment, next)) = rest.split_once('/') {
        if segment.is_empty() {
            return Err(PathError::Ambiguous("a path may not hold `//`"));
        }
        check_dots(segment)?;
        rest = next;
    }
    check_dots(rest)
}

fn check_dots(segment: &str) -> Result<(), PathError> {
    // Windows, and so whoever opens a file there, drops spaces at a name's end.
    let name = if segment.starts_with('.') { segment.trim_end_matches("%20") } else { segment };
    if name == "." || name == ".." {
        return Err(PathError::Ambiguous("a path may not hold `.` or `..` segments"));
    }
    Ok(())
}

/// Decodes what needs no escape, once, and writes every other escape in upper case.
fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, PathError> {
    let mut out = String::with_capacity(path.len());
    // The bytes above 0x7f that neighbouring escapes stand for: together they must be UTF-8.
    let mut beyond_ascii = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            check_utf8(&mut beyond_ascii)?;
            out.push(char::from(byte));
            continue;
        }
        let decoded = match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(PathError::Ambiguous("`%` is not followed by two hex digits")),
        };
        if decoded < 0x80 {
            check_utf8(&mut beyond_ascii)?;
        }
        match decoded {
            b'/' | b'\\' | b';' => {
                return Err(PathError::Ambiguous("a path may not hold %2F, %5C or %3B"));
            }
            0..0x20 | 0x7f => {
                return Err(PathError::Ambiguous("a path may not hold control characters"));
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(decoded));
            }
            _ => {
                if decoded >= 0x80 {
                    beyond_ascii.push(decoded);
                }
                out.push('%');
                for digit in [decoded >> 4, decoded & 0xf] {
                    out.extend(char::from_digit(digit.into(), 16).map(|c| c.to_ascii_uppercase()));
                }
            }
        }
    }
    check_utf8(&mut beyond_ascii)?;
    Ok(if out == path { Cow::Borrowed(path) } else { Cow::Owned(out) })
}

/// Overlong and broken UTF-8 is what lenient decoders turn into slashes and dots (RFC 3629 section 10).
fn check_utf8(bytes: &mut Vec<u8>) -> Result<(), PathError> {
    let valid = std::str::from_utf8(bytes).is_ok();
    bytes.clear();
    if valid { Ok(()) } else { Err(PathError::Ambiguous("the path's escapes are not UTF-8")) }
}

pub(crate) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The host of a `Host` header or `:authority`, without its port, in lower case.
///
/// # Errors
/// [`Denial::BadRequest`] when it is not a host (RFC 3986 section 3.2.2).
pub fn canonical_host(authority: &str) -> Result<Cow<'_, str>, Denial> {
    const WRONG: Denial = Denial::BadRequest("the host is malformed");
    // One pass tells nearly every host that it is canonical.
    let is_plain = authority.bytes().fold(true, |all, byte| all & is_plain_in_host(byte));
    if is_plain && !authority.is_empty() && !authority.ends_with('.') {
        return Ok(Cow::Borrowed(authority));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (inside, after) = v6.split_once(']').ok_or(WRONG)?;
            inside.parse::<std::net::Ipv6Addr>().map_err(|_| WRONG)?;
            let host = authority.get(..inside.len() + 2).ok_or(WRONG)?;
            (host, after.strip_prefix(':').or_else(|| after.is_empty().then_some("")).ok_or(WRONG)?)
        }
        None => {
            let end = authority.bytes().position(|b| b == b':').unwrap_or(authority.len());
            let host = authority.get(..end).unwrap_or_default();
            let is_name_byte =
                |b: u8| b.is_ascii_alphanumeric() | (b == b'-') | (b == b'.') | (b == b'_');
            if !host.bytes().fold(true, |all, b| all & is_name_byte(b)) {
                return Err(WRONG);
            }
            (host, authority.get(end + 1..).unwrap_or_default())
        }
    };
    // A port may be left out after its colon.
    if !port.is_empty() && (port.starts_with('+') || port.parse::<u16>().is_err()) {
        return Err(WRONG);
    }
    // The root's dot names the same host (RFC 1034 section 3.1).
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(WRONG);
    }
    if host.bytes().fold(false, |any, b| any | b.is_ascii_uppercase()) {
        Ok(Cow::Owned(host.to_ascii_lowercase()))
    } else {
        Ok(Cow::Borrowed(host))
    }
}

/// Whether a byte stands for itself in a canonical name.
fn is_plain_in_host(byte: u8) -> bool {
    #[expect(clippy::indexing_slicing, reason = "a wrong index fails the build")]
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let plain = b"abcdefghijklmnopqrstuvwxyz0123456789-._";
        let mut at = 0;
        while at < plain.len() {
            table[plain[at] as usize] = true;
            at += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expect: &str) {
        assert_eq!(normalize(path).as_deref(), Ok(expect), "{path}");
    }

    fn refused(path: &str) -> &'static str {
        match normalize(path) {
            Err(error) => Denial::from(error).code().as_str(),
            Ok(_) => "accepted",
        }
    }

    #[test]
    fn a_plain_path_is_borrowed_as_it_is() {
        for path in
            ["/", "/v1/orders", "/v1/orders/", "/a.b/..c/...", "/a%20/.a%20", "/~x/a:b@c!$&'()*+,="]
        {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn unreserved_escapes_are_decoded_once_and_others_kept() {
        check("/%41%7e%2D", "/A~-");
        check("/a%20b%c3%a9", "/a%20b%C3%A9");
        check("/%2541", "/%2541");
        check("/a%3ab%2B", "/a%3Ab%2B");
    }

    #[test]
    fn what_two_parsers_may_read_differently_is_refused() {
        for path in [
            "/a/../b",
            "/a/..",
            "/./a",
            "/%2e%2e/a",
            "/a/%2E",
            "/a/.%2e",
            "/a/..%20/b",
            "/a/%2e%20%20",
            "//a",
            "/a//b",
            "/a//",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a;b",
            "/a;b/c",
            "/;",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%0d%0ab",
            "/a%7f",
            "/%c0%ae",
            "/%c0%af",
            "/%e0%80%af",
            "/%ff",
            "/%c3",
            "/%c3x%a9",
        ] {
            assert_eq!(refused(path), "ambiguous_path", "{path}");
        }
        for path in [
            "",
            "*",
            "a",
            "http://x/",
            "/a b",
            "/a\u{1}",
            "/é",
            "/a\u{7f}",
            "/a<b",
            "/{a}",
            "/a|b",
            "/[a]",
        ] {
            assert_eq!(refused(path), "bad_request", "{path}");
        }
    }

    #[test]
    fn hosts_have_one_spelling() {
        let host = |text| canonical_host(text).map(Cow::into_owned);
        assert_eq!(host("API.Example.com:8080").as_deref(), Ok("api.example.com"));
        assert_eq!(host("example.com.").as_deref(), Ok("example.com"));
        assert_eq!(host("[::1]:80").as_deref(), Ok("[::1]"));
        assert_eq!(host("127.0.0.1:").as_deref(), Ok("127.0.0.1"));
        for wrong in [
            ".", "a:70000", "a:+1", "", ":80", "a b", "a@b", "a/b", "a:b", "a:1:2", "[::1", "[x]",
            "[::1]x", "a:999999", "é",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_escape_that_an_upstream_would_decode_is_the_character() {
        let form = |path| matching_form(path).into_owned();
        assert_eq!(form("/a%3Ab%40%2B"), "/a:b@+");
        assert_eq!(form("/a%20%C3%A9%25"), "/a%20%C3%A9%25");
        assert_eq!(form("/a"), "/a");
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in "/[a-zA-Z0-9%./;~-]{0,40}") {
            if let Ok(once) = normalize(&path) {
                let twice = normalize(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }

        /// Whatever passes means the same to a reader that decodes everything and then resolves dots.
        #[test]
        fn nothing_that_passes_resolves_elsewhere(path in "/[a-c%2eEfF5c./]{0,30}") {
            if let Ok(normal) = normalize(&path) {
                let decoded = decode_all(&normal);
                prop_assert!(!decoded.contains("//") && !decoded.contains('\\'));
                prop_assert!(decoded.split('/').all(|s| s != "." && s != ".."));
                prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
            }
        }

        #[test]
        fn any_text_is_refused_or_accepted(text in "\\PC{0,40}") {
            drop(normalize(&text));
            drop(canonical_host(&text));
        }
    }

    /// The naive reader: decodes every escape.
    fn decode_all(path: &str) -> String {
        let mut out = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'%' => {
                    hex(bytes.next().unwrap()).unwrap() << 4 | hex(bytes.next().unwrap()).unwrap()
                }
                other => other,
            });
        }
        String::from_utf8(out).unwrap()
    }
}
