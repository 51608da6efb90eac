//! The request as the upstream gets it: without the key, with the caller's identity, and with
//! nothing that a client could have forged.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keygate_core::credential::CredentialRules;
use keygate_core::{Environment, KeyRecord};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::context::{Admitted, Strip};
use crate::facts::{RequestFacts, X_FORWARDED_FOR};
use crate::line;
use crate::report::Noted;
use crate::trace::{TRACEPARENT, TRACESTATE, parent, traceparent};

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
/// As many as are inserted below for nearly every request, so that the map grows once.
const HEADERS_ADDED: usize = 10;

/// Whether the peer's `X-Forwarded-*` headers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Trusted(IpAddr),
    Untrusted(IpAddr),
}

/// Rewrites an admitted request for its upstream. Runs after the hop-by-hop headers, and whatever
/// `Connection` named, are gone: a client cannot have what is set here taken away. `further` are the
/// headers besides our own in which keys may come.
///
/// # Errors
/// Pingora's, when the target that was decided on is not one.
pub(crate) fn rewrite(
    request: &mut RequestHeader,
    admitted: &Admitted,
    trace: &Noted,
    further: &[Box<str>],
    peer: Peer,
    request_id: HeaderValue,
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
    let headers = &mut parts.headers;
    headers.reserve(HEADERS_ADDED);
    remove_credentials(headers, admitted.strip, further);
    remove_forgeries(headers);
    join_cookies(headers);
    let proto = insert_client(headers);
    insert_forwarded(headers, peer, proto);
    insert_trace(headers, trace);
    headers.insert(X_REQUEST_ID, request_id);
    if let Some(key) = admitted.permit.key() {
        insert_identity(headers, key);
    }
    *request = RequestHeader::from(parts);
    Ok(())
}

fn empty_parts() -> http::request::Parts {
    http::Request::new(()).into_parts().0
}

fn remove_credentials(headers: &mut HeaderMap, strip: Strip, further: &[Box<str>]) {
    if strip.authorization {
        headers.remove(AUTHORIZATION);
    }
    if strip.x_api_key {
        headers.remove(X_API_KEY);
    }
    if !strip.further.is_empty() {
        let stripped = further.iter().enumerate().filter(|(place, _)| strip.further.holds(*place));
        stripped.for_each(|(_, name)| drop(headers.remove(&**name)));
    }
}

/// Drops every header that is one of ours, or that an upstream could take for one: CGI and its
/// heirs read `_` and `-` alike, and some of them `.` and whatever else is no letter.
fn remove_forgeries(headers: &mut HeaderMap) {
    // One at a time: there is nearly never any.
    while let Some(name) = headers.keys().find(|name| is_forgery(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn is_forgery(name: &str) -> bool {
    const IDENTITY: &str = "x-keygate-";
    // Those that are set below under their exact name are overwritten there.
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

/// HTTP/2 lets a client split its cookies; HTTP/1 has one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut sent = headers.get_all(COOKIE).iter();
    if sent.next().is_some() && sent.next().is_some() {
        let crumbs: Vec<&[u8]> =
            headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        headers.insert(COOKIE, header_value(crumbs.join(&b"; "[..]).into()));
    }
}

/// What the client's connection says of it: by which protocol it came, and whose certificate it has.
fn insert_client(headers: &mut HeaderMap) -> HeaderValue {
    let is_tls = line::with_client(|client| {
        if let Some(subject) = client.tls().and_then(|tls| tls.subject.as_ref()) {
            headers.insert(CLIENT_SUBJECT, subject.clone());
        }
        client.tls().is_some()
    });
    HeaderValue::from_static(if is_tls == Some(true) { "https" } else { "http" })
}

/// `X-Forwarded-For` and its kin: believed from a proxy of ours, replaced from anybody else.
fn insert_forwarded(headers: &mut HeaderMap, peer: Peer, proto: HeaderValue) {
    let host = headers.get(HOST).cloned();
    match peer {
        Peer::Untrusted(address) => {
            headers.insert(X_FORWARDED_FOR, address_value(address));
            headers.insert(X_FORWARDED_PROTO, proto);
            insert_or_remove(headers, X_FORWARDED_HOST, host);
        }
        Peer::Trusted(address) => {
            let chain = forwarded_chain(headers, address);
            headers.insert(X_FORWARDED_FOR, chain);
            headers.entry(X_FORWARDED_PROTO).or_insert(proto);
            if let Some(host) = host {
                headers.entry(X_FORWARDED_HOST).or_insert(host);
            }
        }
    }
}

fn insert_or_remove(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// What the proxies before us said, with the one that told us at the end.
fn forwarded_chain(headers: &HeaderMap, address: IpAddr) -> HeaderValue {
    let sent = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let mut chain: Vec<&str> = sent.collect();
    let address = address.to_string();
    chain.push(&address);
    header_value(chain.join(", ").into())
}

fn address_value(address: IpAddr) -> HeaderValue {
    header_value(address.to_string().into())
}

/// Whoever records a trace is the parent of what the upstream does; otherwise the client is.
fn insert_trace(headers: &mut HeaderMap, trace: &Noted) {
    if trace.is_new() {
        // It belongs to the trace that was refused (W3C Trace Context section 3.3).
        headers.remove(TRACESTATE);
    }
    let next = trace.next();
    if parent(headers) != Some(next) {
        headers.insert(TRACEPARENT, traceparent(next));
    }
}

fn insert_identity(headers: &mut HeaderMap, key: &KeyRecord) {
    let [id, app, account] = key.shared_ids();
    headers.insert(KEY_ID, header_value(id));
    headers.insert(APP_ID, header_value(app));
    headers.insert(ACCOUNT_ID, header_value(account));
    headers.insert(SCOPES, header_value(Bytes::copy_from_slice(key.scopes.as_str().as_bytes())));
    headers.insert(
        ENVIRONMENT,
        match key.environment {
            Environment::Live => HeaderValue::from_static("live"),
            Environment::Test => HeaderValue::from_static("test"),
        },
    );
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
}
