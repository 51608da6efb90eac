//! Names of a request: the id that clients and logs share, and the W3C trace it belongs to.

use http::{HeaderMap, HeaderName, HeaderValue};
use keygate_core::trace_context::hex;
use keygate_core::{SpanId, TraceId, TraceParent};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
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
    let text: [u8; 32] = hex(fastrand::u128(1..).to_be_bytes());
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

/// A new trace, which nobody records.
pub(crate) fn new_trace() -> TraceParent {
    TraceParent { trace: TraceId(fastrand::u128(1..)), span: new_span(), is_sampled: false }
}

pub(crate) fn new_span() -> SpanId {
    SpanId(fastrand::u64(1..))
}

/// The trace that a request comes with. Two of them are none (W3C Trace Context, section 3.2).
pub(crate) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    match (sent.next(), sent.next()) {
        (Some(value), None) => TraceParent::parse(value.as_bytes()),
        (Some(_) | None, _) => None,
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
        let trace = new_trace();
        assert_eq!(TraceParent::parse(&trace.text()), Some(trace));
        assert_ne!(new_trace(), new_trace());
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
}
