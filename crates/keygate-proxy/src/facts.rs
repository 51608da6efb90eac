//! What a request says, read once: one method, one host, one path, one client address.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use keygate_config::Server;
use keygate_core::Denial;
use keygate_core::path::{canonical_host, normalize};
use pingora::http::RequestHeader;

use crate::forward::X_API_KEY;
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
    pub authorization: FirstTwo<'a>,
    pub x_api_key: FirstTwo<'a>,
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
        let Asked { host, length, authorization, x_api_key } = Asked::of(&request.headers);
        Ok(Self {
            method: request.method.as_str(),
            host: read_host(request, host)?,
            path: normalize(request.uri.path())?,
            query: request.uri.query(),
            headers: &request.headers,
            authorization,
            x_api_key,
            length: declared_length(length)?,
            client: client_address(&request.headers, peer, server),
        })
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

/// The headers that every decision asks for, found in one pass: to look for each costs a hash.
#[derive(Default)]
struct Asked<'a> {
    host: FirstTwo<'a>,
    length: FirstTwo<'a>,
    authorization: FirstTwo<'a>,
    x_api_key: FirstTwo<'a>,
}

impl<'a> Asked<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers {
            if *name == HOST {
                asked.host.add(value);
            } else if *name == AUTHORIZATION {
                asked.authorization.add(value);
            } else if *name == CONTENT_LENGTH {
                asked.length.add(value);
            } else if *name == X_API_KEY {
                asked.x_api_key.add(value);
            }
        }
        asked
    }
}

/// The values of a header that may come once: a second one is as wrong as all after it.
#[derive(Clone, Copy, Default)]
pub(crate) struct FirstTwo<'a> {
    first: Option<&'a HeaderValue>,
    second: Option<&'a HeaderValue>,
}

impl<'a> FirstTwo<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        if self.first.is_none() {
            self.first = Some(value);
        } else {
            self.second = Some(value);
        }
    }

    pub(crate) fn values(self) -> impl Iterator<Item = &'a [u8]> {
        self.first.into_iter().chain(self.second).map(HeaderValue::as_bytes)
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

fn declared_length(sent: FirstTwo<'_>) -> Result<Option<u64>, Denial> {
    const WRONG: Denial = Denial::BadRequest("`Content-Length` is not a number");
    let Some(length) = sent.first else { return Ok(None) };
    if sent.second.is_some() {
        // HTTP/2 lets equal ones through; in HTTP/1 behind us they would be two.
        return Err(Denial::BadRequest("more than one `Content-Length`"));
    }
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Some).ok_or(WRONG)
}

/// `:authority` or `Host`; both only if they agree (RFC 9113 section 8.3.1).
fn read_host<'a>(request: &'a RequestHeader, sent: FirstTwo<'a>) -> Result<Cow<'a, str>, Denial> {
    const MISSING: Denial = Denial::BadRequest("`Host` is missing");
    if sent.second.is_some() {
        return Err(Denial::BadRequest("more than one `Host`"));
    }
    let header = sent.first.map(HeaderValue::to_str).transpose();
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
    fn a_length_is_one_number() {
        let length = |sent: &[&'static str]| {
            let header = |value: &&'static str| (CONTENT_LENGTH, HeaderValue::from_static(value));
            declared_length(Asked::of(&sent.iter().map(header).collect()).length)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["5"]), Ok(Some(5)));
        for wrong in [&["5", "5"][..], &["+5"], &["-5"], &[""], &["5, 5"], &["0x5"]] {
            assert!(length(wrong).is_err(), "{wrong:?}");
        }
    }

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
