//! What a request says, read once: one method, one host, one path, one client address.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use keygate_config::Server;
use keygate_core::Denial;
use keygate_core::path::{canonical_host, normalize};
use pingora::http::RequestHeader;

use crate::head::{HeadLimits, METHODS_EVER_SERVED};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One reading of a request, for the route and the decision.
pub(crate) struct RequestFacts<'a> {
    pub method: &'a str,
    pub host: Cow<'a, str>,
    /// Normalised, and so maybe not as it was sent.
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// What the body's length is said to be.
    pub length: Option<u64>,
    pub client: IpAddr,
}

impl<'a> RequestFacts<'a> {
    /// Reads a request that came from `peer`.
    ///
    /// # Errors
    /// What makes a request unclear or too large: step 1 of its way.
    pub(crate) fn read(
        request: &'a RequestHeader,
        peer: IpAddr,
        server: &Server,
    ) -> Result<Self, Denial> {
        if request.version == Version::HTTP_2 {
            // An HTTP/1 head was measured before it was parsed.
            check_size(request, server.into())?;
        }
        if request.method == Method::CONNECT {
            return Err(Denial::MethodNotAllowed(METHODS_EVER_SERVED.into()));
        }
        if !request.raw_path_is_utf8() {
            return Err(Denial::BadRequest("the path holds a byte that must be escaped"));
        }
        Ok(Self {
            method: request.method.as_str(),
            host: read_host(request)?,
            path: normalize(request.uri.path())?,
            query: request.uri.query(),
            headers: &request.headers,
            length: declared_length(&request.headers)?,
            client: client_address(&request.headers, peer, server),
        })
    }

    /// The values of a header, as sent.
    pub(crate) fn values(&self, name: HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }

    /// Those of the further headers that may carry a key, each with its header's place among them.
    pub(crate) fn further_values(
        &self,
        further: &[Box<str>],
    ) -> impl Iterator<Item = (usize, &'a [u8])> {
        let headers = self.headers;
        further.iter().enumerate().flat_map(move |(place, name)| {
            headers.get_all(&**name).into_iter().map(move |value| (place, value.as_bytes()))
        })
    }

    /// A header's value as text, if there is one and it is text.
    pub(crate) fn text(&self, name: HeaderName) -> Option<&'a str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn check_size(request: &RequestHeader, limits: HeadLimits) -> Result<(), Denial> {
    // Each field costs its line's colon, space and CRLF, as it would in HTTP/1.
    let headers = &request.headers;
    let fields: usize = headers.iter().map(|(name, v)| name.as_str().len() + v.len() + 4).sum();
    let bytes = request.raw_path().len() + fields;
    if headers.len() > limits.headers_max || bytes > limits.bytes_max {
        return Err(Denial::HeadersTooLarge);
    }
    Ok(())
}

fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Denial> {
    const WRONG: Denial = Denial::BadRequest("`Content-Length` is not a number");
    let length = headers.get(CONTENT_LENGTH).map(|value| value.to_str().map(str::parse::<u64>));
    match length {
        None => Ok(None),
        Some(Ok(Ok(length))) => Ok(Some(length)),
        Some(Ok(Err(_)) | Err(_)) => Err(WRONG),
    }
}

/// `:authority` or `Host`; both only if they agree (RFC 9113 section 8.3.1).
fn read_host(request: &RequestHeader) -> Result<Cow<'_, str>, Denial> {
    const MISSING: Denial = Denial::BadRequest("`Host` is missing");
    let mut sent = request.headers.get_all(HOST).iter();
    let header = sent.next();
    if sent.next().is_some() {
        return Err(Denial::BadRequest("more than one `Host`"));
    }
    let header = header.map(HeaderValue::to_str).transpose();
    let header = header.map_err(|_| Denial::BadRequest("the host is malformed"))?;
    match (request.uri.authority(), header) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Denial::BadRequest("`:authority` and `Host` differ"))
        }
        (Some(authority), _) => canonical_host(authority.as_str()),
        (None, Some("") | None) => Err(MISSING),
        (None, Some(host)) => canonical_host(host),
    }
}

/// The address that counts as the client's: the nearest one that no trusted proxy vouches for.
///
/// `X-Forwarded-For` is read from its end, where our own proxies write, so that what a client put
/// at its beginning is never believed.
pub(crate) fn client_address(headers: &HeaderMap, peer: IpAddr, server: &Server) -> IpAddr {
    let peer = peer.to_canonical();
    if !server.trusted_proxies.contains(peer) {
        return peer;
    }
    let mut client = peer;
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for hop in value.to_str().unwrap_or_default().rsplit(',') {
            let Some(address) = hop_address(hop.trim()) else { return client };
            client = address.to_canonical();
            if !server.trusted_proxies.contains(client) {
                return client;
            }
        }
    }
    client
}

/// Whose a head was that cannot be read: nobody's that is known if one of our proxies has sent it.
pub(crate) fn client_of_head(peer: IpAddr, server: &Server) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    let proxies = [&server.trusted_proxies, &server.proxy_protocol_from];
    (!proxies.iter().any(|proxies| proxies.contains(peer))).then_some(peer)
}

/// A hop as proxies write it: an address, or one with a port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_may_have_a_port() {
        let hop = |text| hop_address(text).map(|address| address.to_string());
        assert_eq!(hop("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(hop("192.0.2.1:80").as_deref(), Some("192.0.2.1"));
        assert_eq!(hop("2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(hop("[2001:db8::1]").as_deref(), Some("2001:db8::1"));
        assert_eq!(hop("[2001:db8::1]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(hop("unknown"), None);
    }
}
