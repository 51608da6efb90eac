//! What the access log is told of one request: plain data, with the texts of its head in one allocation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keygate_config::{ClientAddress, QueryShown};
use keygate_core::{AccountId, AppId, Code, KeyId, SpanId, TraceId, UnixMillis};

use crate::mask::{mask_encoded, may_begin_secret};

/// One request, once it has ended.
#[derive(Debug)]
pub struct Record<'a> {
    /// When it began.
    pub began: UnixMillis,
    /// The name that it has for its client and its upstream too; empty if it has none.
    pub request_id: &'a [u8],
    pub texts: &'a Texts,
    pub route: Option<&'a Name>,
    /// Whom it was sent to, if to anybody.
    pub upstream: Option<&'a Name>,
    /// Once it is known whose key it came with.
    pub holder: Option<Holder<'a>>,
    pub query: QueryShown,
    pub protocol: Protocol,
    pub is_tls: bool,
    /// As far as it is to be shown: see [`shown_address`].
    pub client: Option<IpAddr>,
    pub decision: Decision,
    /// Why one that was admitted was answered by the gateway.
    pub failure: Option<Code>,
    pub cut: Option<CutShort>,
    /// That of its answer, if it got one.
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub times: Times,
    pub target: Option<SocketAddr>,
    pub attempts: usize,
    pub trace: Option<TraceId>,
    /// That of the request itself, if it is traced.
    pub span: Option<SpanId>,
}

/// How long its phases took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub total: Duration,
    /// From its beginning to its permit or denial.
    pub decision: Option<Duration>,
    /// For which the store was waited for. A part of the decision.
    pub lookup: Option<Duration>,
    /// From choosing the last target to having a connection to it.
    pub connect: Option<Duration>,
    /// From there to the first byte of its answer.
    pub first_byte: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Admitted,
    Refused(Code),
    /// It was a CORS preflight, about which there is nothing to decide.
    Preflight,
    /// It was gone before that.
    Undecided,
}

/// Why a request ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutShort {
    /// Its key was revoked or disabled, or the app or account of it.
    Revoked,
    Expired,
    /// Its body did not come on, or it did not read its answer.
    SlowClient,
    TotalTimeout,
    ClientLeft,
    /// The gateway ended before it, or failed.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    /// Its head was not clear enough to tell.
    Unknown,
}

/// What a client wrote into a head, as it is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    pub method: &'a [u8],
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub user_agent: &'a [u8],
    pub query: &'a [u8],
}

/// The texts of a head, by what they are, in the order in which they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Apart from the others, since it has a mask of its own.
    Query,
    Method,
    Host,
    Path,
    UserAgent,
}

const TEXTS: usize = Text::UserAgent as usize + 1;

impl Text {
    /// The most bytes of it that are kept. What a client can make as long as it likes is bounded so that
    /// a line has room for it.
    pub(super) const fn length_max(self) -> usize {
        match self {
            Self::Method => 32,
            Self::Path | Self::Query => 1_024,
            Self::Host | Self::UserAgent => 256,
        }
    }
}

/// Stands between two texts, so that no key begins in one and ends in the other.
const BETWEEN: u8 = 0x7f;
/// How many bytes are looked at, or copied, at once: what is left over would be one by one.
pub(super) const LANE: usize = 32;

/// A head's texts, copied for when it is gone, each up to its bound, and filled up so that they are whole
/// lanes behind the query. Allocates once.
#[derive(Debug, Default)]
pub struct Texts {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: [u16; TEXTS],
}

impl Texts {
    #[must_use]
    pub fn of(head: &Head<'_>) -> Self {
        let Head { method, host, path, user_agent, query } = *head;
        let texts = [
            cut(query, Text::Query),
            cut(method, Text::Method),
            cut(host, Text::Host),
            cut(path, Text::Path),
            cut(user_agent, Text::UserAgent),
        ];
        // Behind the first one, and what stands between it and the second, whole lanes, and one more, so
        // that each text is followed by as much.
        let [query, shown @ ..] = &texts;
        let searched = shown.iter().map(|text| text.len() + 1).sum::<usize>();
        let mut bytes = vec![BETWEEN; query.len() + 1 + searched.next_multiple_of(LANE) + LANE];
        let (mut ends, mut end) = ([0; TEXTS], 0);
        let mut left = &mut *bytes;
        for (text, text_end) in texts.into_iter().zip(&mut ends) {
            let Some((place, rest)) = left.split_at_mut_checked(text.len()) else { break };
            place.copy_from_slice(text);
            left = rest.get_mut(1..).unwrap_or_default();
            end += text.len();
            // All of them together are bounded far below that.
            *text_end = u16::try_from(end).unwrap_or(u16::MAX);
            end += 1;
        }
        Self { bytes, ends }
    }

    /// Whether a line has all of them but the query as they are: nothing to hide, nothing to escape, nothing
    /// that is no text. Nearly always so, and seen in one search for all of them, which has no
    /// early end, so that many bytes are looked at at once.
    pub(super) fn are_plain(&self) -> bool {
        // From what stands behind the query, and the last lane is nothing's.
        let [query_end, ..] = self.ends;
        let until = self.bytes.len().saturating_sub(LANE);
        let Some(searched @ [_, nexts @ ..]) = self.bytes.get(query_end.into()..until) else {
            return true;
        };
        // Or is no ASCII.
        let is_odd = |byte: u8, next| {
            (byte.cast_signed() < b' '.cast_signed())
                | is_quote_or_backslash(byte)
                | may_begin_secret(byte, next)
        };
        let pairs = searched.iter().zip(nexts);
        pairs.fold(0, |found, (&byte, &next)| found | u8::from(is_odd(byte, next))) == 0
    }

    /// One of them, with whatever behind it, and its length; unless it is long.
    #[inline]
    pub(super) fn short(&self, which: Text) -> Option<(&[u8; LANE], usize)> {
        let (begin, end) = self.place(which);
        let lane = self.bytes.get(begin..)?.first_chunk()?;
        (end.saturating_sub(begin) <= LANE).then_some((lane, end.saturating_sub(begin)))
    }

    /// One of them; empty if there is none.
    #[inline]
    pub(super) fn of_kind(&self, which: Text) -> &[u8] {
        let (begin, end) = self.place(which);
        self.bytes.get(begin..end).unwrap_or_default()
    }

    /// Where it begins and ends.
    #[inline]
    fn place(&self, which: Text) -> (usize, usize) {
        let before = (which as usize).checked_sub(1).and_then(|at| self.ends.get(at));
        let begin = before.map_or(0, |&end| usize::from(end) + 1);
        (begin, self.ends.get(which as usize).copied().unwrap_or_default().into())
    }
}

/// As much of a text as is kept, without half a character at its end.
fn cut(text: &[u8], which: Text) -> &[u8] {
    let length = which.length_max();
    let Some((kept, [next, ..])) = text.split_at_checked(length) else { return text };
    let is_within = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    if !is_within(*next) {
        return kept;
    }
    // A character has three of these bytes at most.
    let begun = kept.iter().rev().take(4).position(|&byte| !is_within(byte));
    kept.get(..length - begun.map_or(0, |at| at + 1)).unwrap_or(kept)
}

/// Whether JSON has to escape it.
#[inline]
fn needs_escape(byte: u8) -> bool {
    (byte < b' ') | is_quote_or_backslash(byte)
}

#[inline]
fn is_quote_or_backslash(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\')
}

/// Whether JSON has a text as it is. Looks to its end in any case, so that many bytes are looked at at once.
#[inline]
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(0, |found, &byte| found | u8::from(needs_escape(byte))) == 0
}

/// A name of the configuration as lines have it, worked out once.
#[derive(Debug)]
pub struct Name {
    /// With its quotes.
    json: Box<[u8]>,
    /// As much of it as fits, so that what is short is copied in one step.
    beginning: [u8; LANE],
}

impl Name {
    #[must_use]
    pub fn of(name: &str) -> Self {
        const LENGTH_MAX: usize = 128;
        let shown = mask_encoded(name);
        let shown = shown.get(..shown.floor_char_boundary(LENGTH_MAX)).unwrap_or_default();
        // A text cannot fail to become JSON.
        let json = serde_json::to_vec(shown).unwrap_or_else(|_| b"null".to_vec());
        let mut beginning = [0; LANE];
        beginning.iter_mut().zip(&json).for_each(|(place, byte)| *place = *byte);
        Self { json: json.into(), beginning }
    }

    #[inline]
    pub(super) fn json(&self) -> &[u8] {
        &self.json
    }

    /// The same with whatever behind it, and its length; unless it is long.
    #[inline]
    pub(super) fn short(&self) -> Option<(&[u8; LANE], usize)> {
        let length = self.json.len();
        (length <= LANE).then_some((&self.beginning, length))
    }
}

/// Whose key it was.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    pub key: KeyId,
    pub app: AppId,
    pub account: AccountId,
    pub hint: &'a str,
}

const HINT_LENGTH: usize = "sk_live_abcd".len();

impl Holder<'_> {
    /// The hint, if it is a key's kind, its environment and four characters of it, as in `sk_live_abcd`:
    /// too short to hold more, and with nothing to escape.
    #[inline]
    pub(super) fn hint_of_ours(&self) -> Option<&[u8; HINT_LENGTH]> {
        let hint: &[u8; HINT_LENGTH] = self.hint.as_bytes().as_array()?;
        let [kind, begin @ .., a, b, c, d] = hint;
        let is_ours =
            (begin == b"k_live_" || begin == b"k_test_") && is_plain(&[*kind, *a, *b, *c, *d]);
        is_ours.then_some(hint)
    }
}

/// As much of an address as is to be shown.
#[must_use]
pub fn shown_address(address: IpAddr, how: ClientAddress) -> Option<IpAddr> {
    match (how, address.to_canonical()) {
        (ClientAddress::Off, _) => None,
        (ClientAddress::Full, address) => Some(address),
        (ClientAddress::Masked, IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            Some(IpAddr::from([a, b, c, 0]))
        }
        (ClientAddress::Masked, IpAddr::V6(address)) => {
            let [a, b, c, ..] = address.segments();
            Some(IpAddr::from([a, b, c, 0, 0, 0, 0, 0]))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_kept_apart_and_cut_at_their_bounds() {
        let long = "é".repeat(2_000);
        // Of a character of three bytes, the first two are within the bound of a host.
        let host = format!("{}€", "a".repeat(254));
        let head = Head {
            path: b"/v1/orders",
            host: host.as_bytes(),
            user_agent: long.as_bytes(),
            query: &[0x80; 1_100],
            ..Head::default()
        };
        let texts = Texts::of(&head);
        let text = |which| String::from_utf8_lossy(texts.of_kind(which)).into_owned();
        assert_eq!(text(Text::Path), "/v1/orders");
        assert_eq!(text(Text::Method), "");
        assert_eq!(text(Text::Host), "a".repeat(254));
        assert_eq!(text(Text::UserAgent), "é".repeat(128));
        assert_eq!(texts.of_kind(Text::Query), [0x80; 1_024]);
        let host = "é".repeat(128);
        let texts = Texts::of(&Head { host: host.as_bytes(), ..head });
        assert_eq!(texts.of_kind(Text::Host), host.as_bytes());
    }

    #[test]
    fn what_may_be_masked_or_escaped_is_not_plain() {
        let are_plain = |host: &[u8], query: &[u8]| {
            Texts::of(&Head { path: b"/sk", host, query, ..Head::default() }).are_plain()
        };
        assert!(are_plain(b"api.example.com", b"key=sk_live_%22\"\xff"));
        for odd in
            [&b"a\"b"[..], b"a\\b", b"\x1f", b"\xc3\xa9", b"\xff", b"a%20b", b"k_live", b"kgat_"]
        {
            assert!(!are_plain(odd, b""), "{odd:?}");
        }
    }

    proptest! {
        /// One search over all of them sees what one byte by byte does.
        #[test]
        fn texts_are_plain_if_each_of_them_is(
            texts in proptest::collection::vec("[a-z_]{0,12}[%\"\\\\\u{1f}é]?[kg_a-z/]{0,40}", 4),
        ) {
            let [method, host, path, user_agent] = [0, 1, 2, 3].map(|at| texts[at].as_bytes());
            let all = Texts::of(&Head { method, host, path, user_agent, query: b"\"%" });
            let kept = [Text::Method, Text::Host, Text::Path, Text::UserAgent];
            let is_odd = kept.iter().map(|which| all.of_kind(*which)).any(|text| {
                let has = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
                !text.is_ascii() || text.iter().any(|byte| *byte < b' ' || b"\"\\%".contains(byte))
                    || has(b"k_") || has(b"kg")
            });
            prop_assert_eq!(all.are_plain(), !is_odd);
        }
    }

    #[test]
    fn an_address_is_shown_whole_as_its_network_or_not() {
        let shown = |address: &str, how| {
            let address = shown_address(address.parse().unwrap(), how);
            address.map(|address| address.to_string()).unwrap_or_default()
        };
        assert_eq!(shown("192.0.2.77", ClientAddress::Full), "192.0.2.77");
        assert_eq!(shown("192.0.2.77", ClientAddress::Masked), "192.0.2.0");
        assert_eq!(shown("::ffff:192.0.2.77", ClientAddress::Masked), "192.0.2.0");
        assert_eq!(shown("2001:db8:1:2:3:4:5:6", ClientAddress::Masked), "2001:db8:1::");
        assert_eq!(shown("192.0.2.77", ClientAddress::Off), "");
    }
}
