//! The request as the upstream gets it: without the key, with the caller's identity, and with
//! nothing that a client could have forged.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keygate_core::credential::CredentialRules;
use keygate_core::{Environment, KeyRecord, TraceParent};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::context::{Admitted, Strip};
use crate::facts::{RequestFacts, X_FORWARDED_FOR};
use crate::line;
use crate::report::Noted;
use crate::trace::{TRACEPARENT, TRACESTATE, parent};

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEY_ID: HeaderName = HeaderName::from_static("x-keygate-key-id");
const APP_ID: HeaderName = HeaderName::from_static("x-keygate-app-id");
const ACCOUNT_ID: HeaderName = HeaderName::from_static("x-keygate-account-id");
const ENVIRONMENT: HeaderName = HeaderName::from_static("x-keygate-environment");
const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-keygate-client-subject");
const SCOPES: HeaderName = HeaderName::from_static("x-keygate-scopes");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Whether the peer's `X-Forwarded-*` headers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Trusted(IpAddr),
    Untrusted(IpAddr),
}

/// Rewrites an admitted request for its upstream. Runs after the hop-by-hop headers, and whatever
/// `Connection` named, are gone: a client cannot have what is set here taken away.
///
/// # Errors
/// Pingora's, when the target that was decided on is not one.
pub(crate) fn rewrite(
    request: &mut RequestHeader,
    admitted: &Admitted,
    caller: Caller<'_>,
) -> pingora::Result<()> {
    if let (Some(authority), false) = (request.uri.authority(), request.headers.contains_key(HOST))
    {
        // HTTP/2 has the host in its target, which may be another below.
        let host = Bytes::copy_from_slice(authority.as_str().as_bytes());
        request.insert_header(HOST, header_value(host))?;
    }
    if let Some(target) = &admitted.target {
        request.set_raw_path(target.as_bytes())?;
    }
    // Taken apart, because editing plain parts skips Pingora's second map, which only remembers
    // the spelling of names; RFC 9110 section 5.1 has them case-insensitive.
    let mut parts: http::request::Parts =
        std::mem::replace(request, RequestHeader::from(empty_parts())).into();
    let forwarded = Forwarded::new(&parts.headers, admitted, caller);
    let gone: Vec<HeaderName> =
        parts.headers.keys().filter(|name| !forwarded.keeps(name)).cloned().collect();
    let mut ours = Vec::with_capacity(HEADERS_ADDED);
    forwarded.add_to(|name, value| {
        ours.push((name.clone(), header_value(Bytes::copy_from_slice(value))));
    });
    for name in gone {
        parts.headers.remove(name);
    }
    parts.headers.extend(ours);
    *request = RequestHeader::from(parts);
    Ok(())
}

/// As many as are added for nearly every request.
const HEADERS_ADDED: usize = 11;

fn empty_parts() -> http::request::Parts {
    http::Request::new(()).into_parts().0
}

/// Where a request comes from, besides what is in it.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub peer: Peer,
    pub request_id: &'a HeaderValue,
    pub trace: &'a Noted,
    /// The headers besides our own in which keys may come.
    pub further: &'a [Box<str>],
}

/// The headers as an upstream gets them, whoever writes them: which of the client's stay, and ours.
pub(crate) struct Forwarded<'a> {
    sent: &'a HeaderMap,
    strip: Strip,
    key: Option<&'a KeyRecord>,
    caller: Caller<'a>,
    /// Unless it is as the client has sent it.
    trace: Option<TraceParent>,
    has_crumbs: bool,
}

impl<'a> Forwarded<'a> {
    pub(crate) fn new(sent: &'a HeaderMap, admitted: &'a Admitted, caller: Caller<'a>) -> Self {
        let next = caller.trace.next();
        let mut cookies = sent.get_all(COOKIE).iter();
        Self {
            sent,
            strip: admitted.strip,
            key: admitted.permit.key(),
            caller,
            // Whoever records a trace is the parent of what the upstream does; otherwise the client is.
            trace: (parent(sent) != Some(next)).then_some(next),
            has_crumbs: cookies.next().is_some() && cookies.next().is_some(),
        }
    }

    /// Whether the client's headers of this name stay.
    pub(crate) fn keeps(&self, name: &HeaderName) -> bool {
        if *name == AUTHORIZATION {
            return !self.strip.authorization && !self.is_further_key(name);
        }
        if *name == COOKIE {
            return !self.has_crumbs && !self.is_further_key(name);
        }
        let is_dropped = match name.as_str().as_bytes().first() {
            Some(b'x') => self.drops_x(name),
            Some(b't') if *name == TRACEPARENT => self.trace.is_some(),
            // It belongs to the trace that was refused (W3C Trace Context section 3.3).
            Some(b't') if *name == TRACESTATE => self.caller.trace.is_new(),
            _ => false,
        };
        !is_dropped && !self.is_further_key(name)
    }

    fn drops_x(&self, name: &HeaderName) -> bool {
        let is_trusted = matches!(self.caller.peer, Peer::Trusted(_));
        if *name == X_API_KEY {
            self.strip.x_api_key
        } else if *name == X_FORWARDED_PROTO || *name == X_FORWARDED_HOST {
            !is_trusted
        } else {
            *name == X_FORWARDED_FOR || *name == X_REQUEST_ID || is_forgery(name.as_str())
        }
    }

    /// Whether it is one of the further headers, and a key came in it.
    fn is_further_key(&self, name: &HeaderName) -> bool {
        !self.strip.further.is_empty()
            && self.caller.further.iter().enumerate().any(|(place, further)| {
                self.strip.further.holds(place) && name.as_str().eq_ignore_ascii_case(further)
            })
    }

    /// Gives each of ours: the client's of their names are gone by then.
    pub(crate) fn add_to(&self, mut add: impl FnMut(&HeaderName, &[u8])) {
        if self.has_crumbs {
            // HTTP/2 lets a client split its cookies; HTTP/1 has one line (RFC 9113 section 8.2.3).
            let crumbs = self.sent.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
            add(&COOKIE, &crumbs.collect::<Vec<_>>().join(&b"; "[..]));
        }
        self.add_forwarded(&mut add);
        if let Some(trace) = self.trace {
            add(&TRACEPARENT, &trace.text());
        }
        add(&X_REQUEST_ID, self.caller.request_id.as_bytes());
        if let Some(key) = self.key {
            add(&KEY_ID, &key.id.text());
            add(&APP_ID, &key.app.text());
            add(&ACCOUNT_ID, &key.account.text());
            add(&SCOPES, key.scopes.as_str().as_bytes());
            let environment: &[u8] = match key.environment {
                Environment::Live => b"live",
                Environment::Test => b"test",
            };
            add(&ENVIRONMENT, environment);
        }
    }

    /// `X-Forwarded-For` and its kin: believed from a proxy of ours, replaced from anybody else.
    fn add_forwarded(&self, add: &mut impl FnMut(&HeaderName, &[u8])) {
        let is_tls = line::with_client(|client| {
            if let Some(subject) = client.tls().and_then(|tls| tls.subject.as_ref()) {
                add(&CLIENT_SUBJECT, subject.as_bytes());
            }
            client.tls().is_some()
        });
        let proto: &[u8] = if is_tls == Some(true) { b"https" } else { b"http" };
        let is_trusted = match self.caller.peer {
            Peer::Untrusted(address) => {
                AddressText::of(address).read(|text| add(&X_FORWARDED_FOR, text));
                false
            }
            Peer::Trusted(address) => {
                add(&X_FORWARDED_FOR, forwarded_chain(self.sent, address).as_bytes());
                true
            }
        };
        let is_told = |name| is_trusted && self.sent.contains_key(name);
        if !is_told(X_FORWARDED_PROTO) {
            add(&X_FORWARDED_PROTO, proto);
        }
        if let Some(host) = self.sent.get(HOST)
            && !is_told(X_FORWARDED_HOST)
        {
            add(&X_FORWARDED_HOST, host.as_bytes());
        }
    }
}

/// Whether a header is one of ours, or one that an upstream could take for ours: CGI and its heirs read
/// `_` and `-` alike, and some of them `.` and whatever else is no letter.
fn is_forgery(name: &str) -> bool {
    const IDENTITY: &str = "x-keygate-";
    // Those that are set under their exact name are known by that.
    const OTHERS: [&str; 5] =
        ["x-request-id", "x-api-key", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    if !name.starts_with('x') {
        return false;
    }
    let alike = |(a, b): (u8, u8)| a == b || (a == b'-' && !b.is_ascii_alphanumeric());
    let same = |ours: &str, theirs: &str| {
        ours.len() == theirs.len() && ours.bytes().zip(theirs.bytes()).all(alike)
    };
    name.get(..IDENTITY.len()).is_some_and(|start| same(IDENTITY, start))
        || OTHERS.iter().any(|ours| same(ours, name) && *ours != name)
}

/// What the proxies before us said, with the one that told us at the end.
fn forwarded_chain(headers: &HeaderMap, address: IpAddr) -> String {
    let sent = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let mut chain: Vec<&str> = sent.collect();
    let address = address.to_string();
    chain.push(&address);
    chain.join(", ")
}

/// An address as it is written, without an allocation if it is short.
enum AddressText {
    V4([u8; 15], usize),
    V6(String),
}

impl AddressText {
    fn of(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { return Self::V6(address.to_string()) };
        let mut text = [0; 15];
        let mut length = 0;
        let mut push = |part: &[u8]| {
            if let Some(room) = text.get_mut(length..length + part.len()) {
                room.copy_from_slice(part);
                length += part.len();
            }
        };
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                push(b".");
            }
            push(itoa::Buffer::new().format(octet).as_bytes());
        }
        Self::V4(text, length)
    }

    fn read(&self, read: impl FnOnce(&[u8])) {
        match self {
            Self::V4(text, length) => read(text.get(..*length).unwrap_or_default()),
            Self::V6(text) => read(text.as_bytes()),
        }
    }
}

/// Ids, scopes and addresses consist of characters that a header value may hold.
fn header_value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
}

/// What an answer's `Connection` names is between the upstream and us (RFC 9110 section 7.6.1). Not what
/// says where the answer ends, nor which protocol the connection is switched to.
pub(crate) fn remove_nominated(response: &mut ResponseHeader) {
    const KEPT: [HeaderName; 5] = [CONNECTION, UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];
    let headers = &response.headers;
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(str::trim);
    // Nearly always there is nothing by such a name: `keep-alive`, `close`.
    let there = words.filter(|word| headers.contains_key(*word));
    let names = there.filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok());
    for name in names.filter(|name| !KEPT.contains(name)).collect::<Vec<_>>() {
        response.remove_header(&name);
    }
}

/// Whether an upstream's answer ends with its head (RFC 9112 section 6.3). A 101 never does, whatever
/// length it says: the tunnel comes behind it.
pub(crate) fn has_no_body(method: &Method, response: &ResponseHeader) -> bool {
    response.status != StatusCode::SWITCHING_PROTOCOLS
        && (method == Method::HEAD
            || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0"))
}

/// What has to go from a public route's request: a key of ours that somebody sent along, and the headers
/// that are for other systems' keys alone.
pub(crate) fn strip_on_public_route(request: &RequestFacts<'_>, further: &[Box<str>]) -> Strip {
    let any = |name: HeaderName, is_ours: fn(&[u8]) -> bool| {
        request.headers.get_all(name).iter().any(|value| is_ours(value.as_bytes()))
    };
    let mut strip = Strip {
        authorization: any(AUTHORIZATION, CredentialRules::authorization_is_ours),
        x_api_key: any(X_API_KEY, CredentialRules::x_api_key_is_ours),
        ..Strip::default()
    };
    for (place, _) in request.further_values(further) {
        strip.further.add(place);
    }
    strip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_pass_for_ours_is_a_forgery() {
        for name in [
            "x-keygate-key-id",
            "x_keygate_key_id",
            "x-keygate_anything",
            "x-keygate-",
            "x_keygate_",
            "x_request_id",
            "x-request_id",
            "x_forwarded_for",
            "x_api_key",
        ] {
            assert!(is_forgery(name), "{name}");
        }
        for name in ["x-keygat", "x-request-id", "x-other", "accept", "x_other", "x-api-key"] {
            assert!(!is_forgery(name), "{name}");
        }
    }
    #[test]
    fn an_address_is_written_as_everybody_writes_it() {
        for text in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "10.2.30.4", "2001:db8::1", "::1"] {
            AddressText::of(text.parse().unwrap()).read(|written| {
                assert_eq!(std::str::from_utf8(written), Ok(text));
            });
        }
    }
}
