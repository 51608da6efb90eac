//! Names of a request: the id that clients and logs share, and the W3C trace it belongs to.

use http::HeaderValue;

/// The longest `X-Request-Id` of a client that is kept, in bytes.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// The client's id for the request if it is harmless, else a new one.
pub(crate) fn request_id(sent: Option<&HeaderValue>) -> HeaderValue {
    match sent {
        Some(id) if is_harmless_id(id.as_bytes()) => id.clone(),
        Some(_) | None => new_request_id(),
    }
}

pub(crate) fn new_request_id() -> HeaderValue {
    // Unique is enough: nothing is decided by a request id.
    let mut text = [0; 32];
    write_hex(&mut text, &fastrand::u128(1..).to_be_bytes());
    header_value(&text)
}

fn is_harmless_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !holds_a_key(id)
}

/// An id is sent back, forwarded and logged, so a key that was put there by mistake may not be one, nor
/// may an admin token.
fn holds_a_key(id: &[u8]) -> bool {
    let parts = [&b"k_live_"[..], b"k_test_", b"kga_", b"kgat_"];
    parts.iter().any(|part| memchr::memmem::find(id, part).is_some())
}

/// A new W3C trace: version 00, random ids (never zero), not sampled.
pub(crate) fn new_traceparent() -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let [_, _, _, trace @ .., _, _, _] = &mut text;
    let (trace, parent) = trace.split_at_mut(32);
    write_hex(trace, &fastrand::u128(1..).to_be_bytes());
    write_hex(parent.get_mut(1..).unwrap_or_default(), &fastrand::u64(1..).to_be_bytes());
    header_value(&text)
}

/// Whether a `traceparent` is well formed (W3C Trace Context, section 3.2).
pub(crate) fn is_traceparent(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let mut parts = text.splitn(5, '-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_id = |id: &str, length| is_hex(id, length) && id.bytes().any(|b| b != b'0');
    let more = parts.next().is_some();
    // Version 00 ends here; a later one may go on. ff is forbidden.
    is_hex(version, 2)
        && version != "ff"
        && (version != "00" || !more)
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Two digits for each byte. Formatting with `{:x}` costs ten times as much.
fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(byte & 0xf));
        }
    }
}

fn header_value(text: &[u8]) -> HeaderValue {
    // Hex digits and dashes always are one.
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_well_formed_and_differ() {
        assert!(is_traceparent(new_traceparent().as_bytes()));
        assert_ne!(new_traceparent(), new_traceparent());
        assert_ne!(new_request_id(), new_request_id());
        assert_eq!(new_request_id().len(), 32);
    }

    #[test]
    fn a_harmless_id_is_kept_and_any_other_replaced() {
        let kept = |text: &str| request_id(HeaderValue::from_str(text).ok().as_ref()) == text;
        assert!(kept("abc-1.2_3"));
        assert!(kept(&"a".repeat(128)));
        for wrong in
            ["", "a b", "a\"b", "a/b", "a-sk_live_1", "kga_1", "a-kgat_1", &"a".repeat(129)]
        {
            assert!(!kept(wrong), "{wrong}");
        }
    }

    #[test]
    fn malformed_traces_are_told_from_good_ones() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = [format!("00-{trace}-{parent}-01"), format!("cc-{trace}-{parent}-01-more")];
        for text in good {
            assert!(is_traceparent(text.as_bytes()), "{text}");
        }
        let bad = [
            String::new(),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-1"),
        ];
        for text in bad {
            assert!(!is_traceparent(text.as_bytes()), "{text}");
        }
    }
}
