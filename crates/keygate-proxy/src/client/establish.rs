//! From an accepted connection to one on which HTTP is spoken.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use keygate_telemetry::{ConnectionMetrics, ConnectionRefusal};
use tokio::net::TcpStream;

use super::places::Place;
use super::socket::Socket;
use super::{Client, ClientStream};
use crate::snapshot::Snapshots;

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
}

impl Refused {
    pub(crate) fn tell(&self, metrics: &ConnectionMetrics) {
        let counted = match self {
            Self::PerAddress => Some(ConnectionRefusal::PerAddress),
        };
        if let Some(counted) = counted {
            metrics.refused(counted);
        }
        tracing::debug!(reason = %self, "a connection was closed before its first request");
    }
}

/// Readies a connection for HTTP.
///
/// # Errors
/// Why it is to be closed.
pub(crate) async fn establish(
    stream: TcpStream,
    peer: SocketAddr,
    _tls: Option<SocketAddr>,
    snapshots: &Snapshots,
    place: &mut Place,
) -> Result<Established, Refused> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection may be slow");
    }
    let stream = Arc::new(stream);
    let most = snapshots.bounds().connections_per_address_max;
    if most.is_some_and(|most| !place.belongs_to(peer.ip(), most)) {
        return Err(Refused::PerAddress);
    }
    let client = Client::of_connection(Arc::clone(&stream));
    let socket = Socket::new(stream, BytesMut::new());
    Ok(Established { stream: ClientStream::plain(socket, peer), client, speaks: Speaks::Either })
}
