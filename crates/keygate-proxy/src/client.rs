//! Clients' connections, from the listener to the first byte of HTTP: who is at the other end, and
//! what every request on the connection may know of that. Knows no HTTP.

use std::sync::Arc;

use http::HeaderValue;
use tokio::io::Interest;
use tokio::net::TcpStream;

pub(crate) mod accept;
mod by_name;
pub(crate) mod establish;
pub(crate) mod places;
mod proxy_header;
mod socket;
mod stream;
mod subject;
pub(crate) mod tls;

pub(crate) use socket::CLIENT_WRITE_TIMEOUT;
pub(crate) use stream::ClientStream;

/// Who is at the other end of a connection, besides the address, which Pingora carries.
#[derive(Clone, Default)]
pub(crate) struct Client {
    /// Its socket, if the connection carries one request at a time.
    socket: Option<Arc<TcpStream>>,
    tls: Option<Arc<ClientTls>>,
}

/// What is known of a client that connected with TLS.
#[derive(Debug, Default)]
pub(crate) struct ClientTls {
    /// Whose certificate it has, if it was verified.
    pub subject: Option<HeaderValue>,
}

impl Client {
    /// A client whose connection carries one request at a time.
    pub(crate) fn of_connection(socket: Arc<TcpStream>) -> Self {
        Self { socket: Some(socket), tls: None }
    }

    /// The same client as one of many streams on its connection has it.
    pub(crate) fn of_stream(&self) -> Self {
        Self { socket: None, tls: self.tls.clone() }
    }

    pub(crate) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_deref()
    }

    /// Ends when the client has closed its side of the connection, whatever of it has been read; for
    /// one of many streams there is nothing to wait for.
    pub(crate) fn leaving(&self) -> Option<impl Future<Output = ()> + use<>> {
        let socket = Arc::clone(self.socket.as_ref()?);
        Some(async move {
            // Nobody registers for urgent data, so all that this can tell is the end. Unlike a read,
            // it tells it even if there are bytes before it.
            if let Err(error) = socket.ready(Interest::PRIORITY).await {
                tracing::debug!(%error, "a client's connection is watched no more");
            }
        })
    }
}
