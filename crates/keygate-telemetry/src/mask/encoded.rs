//! The mask for text that may be percent-encoded: any character of a key may have been escaped, and
//! escaped again.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::{SECRET, mask};

/// How often text is decoded that goes on being encoded. Of what is encoded further, nothing is shown.
const LAYERS_MAX: usize = 6;

#[expect(clippy::expect_used, reason = "the same pattern was compiled for text")]
static SECRET_BYTES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(SECRET.as_str()).expect("the pattern is well formed"));

/// As [`mask`], and finds keys of which any character is escaped.
#[must_use]
pub fn mask_encoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return mask(text);
    }
    let Some(decoded) = decode(text) else {
        let shown = text.split('%').next().unwrap_or_default();
        return Cow::Owned(format!("{}…", mask(shown)));
    };
    hide(text, &decoded).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Whether [`mask_encoded`] has anything to look at more closely.
pub(crate) fn may_hold_secret(text: &str) -> bool {
    let [first, rest @ ..] = text.as_bytes() else { return false };
    // Most texts hold none and are spared the search; this one has no early end, so that many bytes are
    // looked at at once.
    let pairs = text.bytes().zip(rest);
    let found =
        pairs.fold(0, |found, (byte, &next)| found | u8::from(may_begin_secret(byte, next)));
    (found != 0 || *first == b'%') && (text.contains('%') || SECRET.is_match(text))
}

/// Whether a secret may be where these two are: a key has `k_` in it and a token `kg`,
/// unless they are escaped.
#[inline]
pub(crate) fn may_begin_secret(byte: u8, next: u8) -> bool {
    (next == b'%') | ((byte == b'k') & ((next == b'_') | (next == b'g')))
}

/// The text with nothing escaped; nothing if it goes on being escaped.
pub(crate) fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes: Vec<u8> = decode(text)?.iter().map(|decoded| decoded.byte).collect();
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A byte of a decoded text, and where in the text it came from.
#[derive(Clone, Copy)]
struct Decoded {
    byte: u8,
    from: usize,
}

/// The text with nothing escaped; nothing if it has too many layers.
fn decode(text: &str) -> Option<Vec<Decoded>> {
    let bytes = text.bytes().enumerate();
    let mut decoded: Vec<_> = bytes.map(|(from, byte)| Decoded { byte, from }).collect();
    for _ in 0..LAYERS_MAX {
        let peeled = peel(&decoded);
        if peeled.len() == decoded.len() {
            return Some(decoded);
        }
        decoded = peeled;
    }
    None
}

/// Takes one layer off.
fn peel(text: &[Decoded]) -> Vec<Decoded> {
    let mut peeled = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped = match after {
            [high, low, ..] if first.byte == b'%' => digit(high.byte).zip(digit(low.byte)),
            _ => None,
        };
        let byte = match escaped {
            Some((high, low)) => {
                rest = after.get(2..).unwrap_or_default();
                high << 4 | low
            }
            None => first.byte,
        };
        peeled.push(Decoded { byte, from: first.from });
    }
    peeled
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The text with what follows the hint of each key in it replaced; nothing if it holds none.
fn hide(text: &str, decoded: &[Decoded]) -> Option<String> {
    let bytes: Vec<u8> = decoded.iter().map(|decoded| decoded.byte).collect();
    let from = |at: usize| decoded.get(at).map_or(text.len(), |decoded| decoded.from);
    let mut hidden = String::new();
    let mut shown_from = 0;
    for found in SECRET_BYTES.captures_iter(&bytes) {
        let (Some(whole), Some(hint)) = (found.get(0), found.get(1)) else { continue };
        hidden.push_str(text.get(shown_from..from(hint.end())).unwrap_or_default());
        hidden.push('…');
        shown_from = from(whole.end());
    }
    if hidden.is_empty() {
        return None;
    }
    hidden.push_str(text.get(shown_from..).unwrap_or_default());
    Some(hidden)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";

    fn escaped(text: &str, which: impl Fn(usize) -> bool) -> String {
        let escape = |(at, byte): (usize, u8)| match which(at) {
            true => format!("%{byte:02x}"),
            false => char::from(byte).to_string(),
        };
        text.bytes().enumerate().map(escape).collect()
    }

    #[test]
    fn a_key_that_is_escaped_to_its_last_character_is_cut_to_its_hint() {
        let hint = escaped(&KEY[..12], |_| true);
        assert_eq!(mask_encoded(&escaped(KEY, |_| true)), format!("{hint}…"));
        let text = format!("/a%20b/{}/%C3%A9?x=%2F", escaped(KEY, |at| at % 3 == 0));
        let hint = escaped(&KEY[..12], |at| at % 3 == 0);
        assert_eq!(mask_encoded(&text), format!("/a%20b/{hint}…/%C3%A9?x=%2F"));
    }

    #[test]
    fn what_holds_no_key_is_left_alone() {
        for text in
            ["", "/v1/orders", "/100%/x", "/a%20b%2Fc?next=%252Fx", "%", "%4", "%zz", "é%e9"]
        {
            assert!(matches!(mask_encoded(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn whatever_would_be_masked_is_looked_at() {
        let token = "kga_0123456789";
        for secret in
            [KEY, token, "kgat_0123456789", "pk_test_abcdefgh", "rk_live_abcde", "%", "a%"]
        {
            for (before, after) in [("", ""), ("/v1/", "/x"), ("k", "k"), ("é", "é"), ("%", "")] {
                let text = format!("{before}{secret}{after}");
                assert!(may_hold_secret(&text), "{text}");
            }
        }
        for text in ["", "k", "key_01JD2K8Q", "/v1/orders?page=2", "ask_", "task_list", "kg"] {
            assert!(!may_hold_secret(text), "{text}");
        }
    }

    #[test]
    fn of_what_never_ends_being_encoded_nothing_is_shown() {
        let text = format!("/a/%{}5Fb", "25".repeat(LAYERS_MAX));
        assert_eq!(mask_encoded(&text), "/a/…");
    }

    proptest! {
        #[test]
        fn what_is_not_looked_at_holds_nothing(text in "[spr]?[kgat]{0,4}(_|%5F)?(live|test)?[_a-z%]{0,8}") {
            prop_assert!(may_hold_secret(&text) || matches!(mask_encoded(&text), Cow::Borrowed(_)));
        }

        #[test]
        fn a_key_is_hidden_whatever_of_it_is_escaped_and_however_often(
            escapes in proptest::collection::vec(any::<u64>(), 1..4),
            before in "[a-z/?=&%é]{0,8}",
            after in "[/?=&]?[a-z/?=&%é]{0,8}",
        ) {
            let mut key = KEY.to_owned();
            for escape in escapes {
                key = escaped(&key, |at| escape >> (at % 64) & 1 == 1);
            }
            let masked = mask_encoded(&format!("{before}{key}{after}")).into_owned();
            let decoded = decode(&masked).unwrap_or_default();
            let shown: Vec<u8> = decoded.iter().map(|decoded| decoded.byte).collect();
            let has = |part: &[u8]| shown.windows(part.len()).any(|window| window == part);
            prop_assert!(!has(&KEY.as_bytes()[..13]) && !has(&KEY.as_bytes()[20..30]), "{}", masked);
        }
    }
}
