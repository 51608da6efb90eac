//! What the access log is told of one request: plain data, with the texts of it in one allocation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keygate_config::{ClientAddress, QueryShown};
use keygate_core::{Code, SpanId, TraceId, UnixMillis};

use crate::mask::may_hold_secret;

/// One request, once it has ended.
#[derive(Debug)]
pub struct Record {
    /// When it began.
    pub began: UnixMillis,
    pub texts: Texts,
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

/// The texts of a record, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    Method,
    Host,
    Path,
    Query,
    UserAgent,
    RequestId,
    Route,
    Upstream,
    KeyId,
    Hint,
    AppId,
    AccountId,
}

const TEXTS: usize = Text::AccountId as usize + 1;

impl Text {
    /// The most bytes of it that are kept. What a client can make as long as it likes is bounded so that
    /// a line has room for it.
    #[must_use]
    pub const fn length_max(self) -> usize {
        match self {
            Self::Method => 32,
            Self::Path | Self::Query => 1_024,
            Self::Host | Self::UserAgent => 256,
            Self::RequestId | Self::Route | Self::Upstream => 128,
            Self::KeyId | Self::Hint | Self::AppId | Self::AccountId => 64,
        }
    }
}

/// Stands between two texts, so that no key begins in one and ends in the other. Needs no escape in JSON.
const BETWEEN: char = '\u{7f}';
/// What the texts that are known at a request's end take besides those of its head.
const FURTHER_BYTES: usize = 192;

/// The texts of a record. Allocates once, unless names are unusually long.
#[derive(Debug, Default)]
pub struct Texts {
    text: String,
    /// Where each begins and ends.
    spans: [(u16, u16); TEXTS],
}

impl Texts {
    /// With room for so many bytes of a head, and for what is known at the request's end.
    #[must_use]
    pub fn with_room(head_bytes: usize) -> Self {
        const HEAD_BYTES_MAX: usize = 2 * 1_024 + 2 * 256 + 128;
        let text = String::with_capacity(head_bytes.min(HEAD_BYTES_MAX) + FURTHER_BYTES);
        Self { text, spans: <[_; TEXTS]>::default() }
    }

    /// Sets one of them, which was not set before; cut at its bound.
    pub fn set(&mut self, which: Text, text: &str) {
        let kept = text.get(..text.floor_char_boundary(which.length_max())).unwrap_or_default();
        let begin = self.text.len();
        self.text.push_str(kept);
        let end = self.text.len();
        self.text.push(BETWEEN);
        // All of them together are bounded far below that.
        let place = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        if let Some(span) = self.spans.get_mut(which as usize) {
            *span = (place(begin), place(end));
        }
    }

    /// The same for what may be no text.
    pub fn set_bytes(&mut self, which: Text, bytes: &[u8]) {
        let kept = bytes.get(..which.length_max()).unwrap_or(bytes);
        match str::from_utf8(kept) {
            Ok(text) => self.set(which, text),
            // Looks at each byte by itself, where the usual text is seen to be one word by word.
            Err(_) => self.set(which, &String::from_utf8_lossy(kept)),
        }
    }

    /// Whether any of them may hold a key or a token. One search for all that stands before the hint,
    /// which looks like the beginning of a key, and is one of ours if it is no longer than that.
    pub(super) fn may_hold_secret(&self) -> bool {
        let hint = self.of(Text::Hint).unwrap_or_default();
        let all = &*self.text;
        if !is_hint_of_ours(hint) {
            return may_hold_secret(all);
        }
        let (begin, end) = self.spans.get(Text::Hint as usize).copied().unwrap_or_default();
        let before = all.get(..begin.into()).unwrap_or(all);
        let after = all.get(end.into()..).unwrap_or_default();
        may_hold_secret(before) || (after.len() > 1 && may_hold_secret(after))
    }

    /// Whether JSON has all of them as they are.
    pub(super) fn are_plain(&self) -> bool {
        is_plain(&self.text)
    }

    /// One of them, unless it is empty.
    pub(super) fn of(&self, which: Text) -> Option<&str> {
        let &(begin, end) = self.spans.get(which as usize)?;
        self.text.get(begin.into()..end.into()).filter(|text| !text.is_empty())
    }
}

/// Whether JSON has a text as it is. Looks to its end in any case, so that many bytes are looked at at once.
pub(super) fn is_plain(text: &str) -> bool {
    let is_odd = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    text.bytes().fold(0, |found, byte| found | u8::from(is_odd(byte))) == 0
}

/// A key's kind, its environment and four characters of it, as in `sk_live_abcd`: too short to hold more.
fn is_hint_of_ours(hint: &str) -> bool {
    let begins_as_ours = |word: &str| hint.get(1..).is_some_and(|rest| rest.starts_with(word));
    hint.len() == "sk_live_abcd".len() && (begins_as_ours("k_live_") || begins_as_ours("k_test_"))
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
    use super::*;

    #[test]
    fn texts_are_kept_apart_and_cut_at_their_bounds() {
        let mut texts = Texts::with_room(10);
        texts.set(Text::Path, "/v1/orders");
        texts.set(Text::Query, "");
        texts.set(Text::Host, &"é".repeat(200));
        texts.set_bytes(Text::UserAgent, b"a\xffb");
        assert_eq!(texts.of(Text::Path), Some("/v1/orders"));
        assert_eq!((texts.of(Text::Query), texts.of(Text::Hint)), (None, None));
        assert_eq!(texts.of(Text::Host), Some(&*"é".repeat(128)));
        assert_eq!(texts.of(Text::UserAgent), Some("a\u{fffd}b"));
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
