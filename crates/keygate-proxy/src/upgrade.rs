//! Connections for requests that ask the upstream to switch protocols, such as WebSockets.
//!
//! Pingora 0.9 takes the end of such a request's empty body for the end of the tunnel if it reads
//! the upstream's 101 first (cloudflare/pingora issue 946): the client gets the 101, and then the
//! connection closes. A near upstream is fast enough once in a hundred times. So the first that the
//! upstream says is held back for one turn, in which Pingora gets the request's end out of the way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora::connectors::l4::Connect;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::upstreams::WAIT_MIN;

/// Has the upstream connected to in this module's way, over HTTP/1.1, on a connection of its own: one
/// that was used before would read at once, and one that is virtual does not belong in a pool.
///
/// # Errors
/// When a WebSocket is asked of an upstream that speaks HTTP/2 only: Pingora does not know RFC 8441.
pub(crate) fn prepare(peer: &mut HttpPeer, request: &RequestHeader) -> pingora::Result<()> {
    if peer.options.alpn.get_min_http_version() > 1 {
        if is_websocket(request) {
            return Err(Error::explain(NO_WEBSOCKET, "a WebSocket needs HTTP/1.1").into_up());
        }
        // Whoever offers to switch to something else is content with an answer.
        return Ok(());
    }
    peer.options.set_http_version(1, 1);
    peer.options.custom_l4 = Some(Arc::new(Dial));
    peer.options.idle_timeout = Some(WAIT_MIN);
    peer.group_key = fastrand::u64(1..);
    Ok(())
}

/// What the log calls it.
const NO_WEBSOCKET: ErrorType = ErrorType::Custom("NoWebSocketOverHttp2");

fn is_websocket(request: &RequestHeader) -> bool {
    words(&request.headers, &UPGRADE).any(|protocol| {
        let name = protocol.split('/').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("websocket")
    })
}

/// Says again what a client asks to switch to, which Pingora forwards for WebSockets alone: whatever
/// else its `Connection` named stays with the gateway.
///
/// # Errors
/// Pingora's, when a header is not one.
pub(crate) fn forward(session: &Session, request: &mut RequestHeader) -> pingora::Result<()> {
    if request.version == Version::HTTP_11
        && let Some(protocol) = forwarded(session)
    {
        request.insert_header(CONNECTION, "Upgrade")?;
        request.insert_header(UPGRADE, protocol)?;
    }
    Ok(())
}

/// Whether the upstream is asked to switch protocols: what follows may have no end.
pub(crate) fn is_forwarded(session: &Session) -> bool {
    forwarded(session).is_some() || (session.is_upgrade_req() && is_websocket(session.req_header()))
}

/// Pingora passes on what follows a 101 as it comes, even if nobody asked for one.
///
/// # Errors
/// The one that makes a 502.
pub(crate) fn check_answer(session: &Session, response: &ResponseHeader) -> pingora::Result<()> {
    if response.status == StatusCode::SWITCHING_PROTOCOLS && !is_forwarded(session) {
        let reason = "an upstream switched protocols unasked";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, reason).into_up());
    }
    Ok(())
}

/// What the upstream is asked to switch to.
fn forwarded(session: &Session) -> Option<&HeaderValue> {
    let sent = session.req_header();
    let mut asked = session.is_upgrade_req().then(|| sent.headers.get_all(UPGRADE).iter())?;
    let (Some(protocol), None) = (asked.next(), asked.next()) else { return None };
    let is_asked = words(&sent.headers, &CONNECTION).any(|w| w.eq_ignore_ascii_case("upgrade"));
    let is_other = || words(&sent.headers, &UPGRADE).all(is_not_http);
    (is_asked && is_other()).then_some(protocol)
}

/// Behind a switch to HTTP there would be requests that nobody decides (`Upgrade: h2c`), and behind one
/// to TLS the same unseen (RFC 2817).
fn is_not_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    !["h2c", "h2", "h3", "http", "https", "tls", "ssl"]
        .iter()
        .any(|http| name.eq_ignore_ascii_case(http))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    // What is no text is no word that is known.
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("http"));
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

#[derive(Debug)]
struct Dial;

#[async_trait]
impl Connect for Dial {
    /// The peer's `total_connection_timeout` bounds this.
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "an upstream has no IP address");
        };
        let stream = TcpStream::connect(address).await.map_err(|error| {
            Error::because(ErrorType::ConnectError, "connecting for an upgrade", error)
        })?;
        let delayed = Box::new(Delayed { stream, has_to_wait: true });
        Ok(VirtualSocketStream::new(delayed).into())
    }
}

/// A connection that waits for one turn of its task before it reads what may answer a write. Over TLS
/// the request is not the first that is written, so it is each.
#[derive(Debug)]
struct Delayed {
    stream: TcpStream,
    has_to_wait: bool,
}

impl AsyncRead for Delayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.has_to_wait) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_to_wait = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Delayed {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        // Nothing else is asked for by our peers.
        if matches!(option, VirtualSockOpt::NoDelay) {
            self.stream.set_nodelay(true)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_in_which_requests_could_hide_is_told_from_others() {
        for protocol in ["h2c", "H2C", "HTTP/2.0", "http", "TLS/1.0", "h2c/1", "h3"] {
            assert!(!is_not_http(protocol), "{protocol}");
        }
        for protocol in ["websocket", "irc/6.9", "tailscale-control-protocol", "SPDY", "httpx"] {
            assert!(is_not_http(protocol), "{protocol}");
        }
    }
}
