//! From an accepted connection to one on which HTTP is spoken: a PROXY header, if its peer has to send
//! one, then TLS, if its listener has it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use keygate_telemetry::{ConnectionMetrics, ConnectionRefusal};
use pingora::time::timeout;
use rustls::ServerConfig;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::places::Place;
use super::proxy_header::{self, HeaderError};
use super::socket::Socket;
use super::subject::{SubjectError, subject};
use super::tls::HTTP2;
use super::{Client, ClientStream, ClientTls};
use crate::failure::ErrorChain;
use crate::snapshot::{Snapshot, Snapshots};

/// TLS takes small bites; this has the kernel asked less often.
const TLS_READ_BUFFER_BYTES: usize = 16 << 10;

/// A connection that is ready for HTTP.
pub(crate) struct Established {
    pub stream: ClientStream,
    pub client: Client,
    pub speaks: Speaks,
}

/// What a client has said that it will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Nothing: its first bytes tell.
    Either,
    Http1,
    Http2,
}

/// Why a connection comes to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("its address has too many connections")]
    PerAddress,
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("its PROXY header took too long")]
    HeaderTimeout,
    #[error("its TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("its TLS handshake took too long")]
    HandshakeTimeout,
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// Nobody's fault: it has said nothing.
    #[error("it ended before it began")]
    Left,
    /// A listener with TLS always has one.
    #[error("its listener has no certificate")]
    NoCertificate,
}

impl Refused {
    pub(crate) fn tell(&self, metrics: &ConnectionMetrics) {
        let counted = match self {
            Self::PerAddress => Some(ConnectionRefusal::PerAddress),
            Self::Header(_) | Self::HeaderTimeout => Some(ConnectionRefusal::ProxyHeader),
            Self::Handshake(_)
            | Self::HandshakeTimeout
            | Self::Subject(_)
            | Self::NoCertificate => Some(ConnectionRefusal::Handshake),
            Self::Left => None,
        };
        if let Some(counted) = counted {
            metrics.refused(counted);
        }
        let reason = ErrorChain(self);
        tracing::debug!(%reason, "a connection was closed before its first request");
    }
}

/// Readies a connection for HTTP.
///
/// # Errors
/// Why it is to be closed.
pub(crate) async fn establish(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<SocketAddr>,
    snapshots: &Snapshots,
    place: &mut Place,
) -> Result<Established, Refused> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection may be slow");
    }
    let snapshot = snapshots.current();
    let has_header = snapshot.config.server.proxy_protocol_from.contains(peer.ip());
    if tls.is_none() && !has_header {
        return plain(stream, peer, BytesMut::new(), &snapshot, place);
    }
    // Boxed, so that the many connections without it do not pay for it with their size.
    Box::pin(shake_hands(stream, peer, tls, has_header, &snapshot, place)).await
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<SocketAddr>,
    has_header: bool,
    snapshot: &Snapshot,
    place: &mut Place,
) -> Result<Established, Refused> {
    let deadline = tokio::time::Instant::now() + snapshot.config.server.handshake_timeout;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
    let (address, behind) = if has_header {
        let read = timeout(left(), proxy_header::read(&stream)).await;
        let (source, behind) = read.map_err(|_| Refused::HeaderTimeout)??;
        (source.unwrap_or(peer), behind)
    } else {
        (peer, BytesMut::new())
    };
    let Some(tls) = tls else { return plain(stream, address, behind, snapshot, place) };
    // Before the handshake: that is what is dear.
    admit(address, snapshot, place)?;
    let config = snapshot.tls.at(tls).ok_or(Refused::NoCertificate)?;
    let stream = Arc::new(stream);
    let socket = Socket::new(Arc::clone(&stream), behind);
    let shaken = timeout(left(), accept(config, socket)).await;
    let secured = shaken.map_err(|_| Refused::HandshakeTimeout)??;
    let (_, connection) = secured.get_ref();
    let speaks = match connection.alpn_protocol() {
        Some(HTTP2) => Speaks::Http2,
        // HTTP/2 over TLS is agreed on or not spoken (RFC 9113 section 3.3).
        Some(_) | None => Speaks::Http1,
    };
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.map(|own| subject(own)).transpose()?.flatten();
    let client = Client { socket: Some(stream), tls: Some(Arc::new(ClientTls { subject })) };
    Ok(Established { stream: ClientStream::secured(secured, address), client, speaks })
}

async fn accept(
    config: Arc<ServerConfig>,
    socket: Socket,
) -> Result<TlsStream<BufReader<Socket>>, Refused> {
    let socket = BufReader::with_capacity(TLS_READ_BUFFER_BYTES, socket);
    TlsAcceptor::from(config).accept(socket).await.map_err(|error| {
        use io::ErrorKind::{ConnectionReset, UnexpectedEof};
        if matches!(error.kind(), UnexpectedEof | ConnectionReset) {
            Refused::Left
        } else {
            Refused::Handshake(error)
        }
    })
}

fn plain(
    stream: TcpStream,
    address: SocketAddr,
    behind: BytesMut,
    snapshot: &Snapshot,
    place: &mut Place,
) -> Result<Established, Refused> {
    admit(address, snapshot, place)?;
    let stream = Arc::new(stream);
    let client = Client::of_connection(Arc::clone(&stream));
    let stream = ClientStream::plain(Socket::new(stream, behind), address);
    Ok(Established { stream, client, speaks: Speaks::Either })
}

fn admit(address: SocketAddr, snapshot: &Snapshot, place: &mut Place) -> Result<(), Refused> {
    match snapshot.bounds.connections_per_address_max {
        Some(most) if !place.belongs_to(address.ip(), most) => Err(Refused::PerAddress),
        Some(_) | None => Ok(()),
    }
}
