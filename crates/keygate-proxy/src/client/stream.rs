//! A client's connection as Pingora has it: buffered, and with what it is asked about the other end.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::l4::socket::SocketAddr as AnyAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::{Socket, read_again};

/// A connection's bytes, as they are sent or as TLS has them.
enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<BufReader<Socket>>>),
}

/// One packet's usual payload: an answer's head and its short body leave together.
const WRITE_BUFFER_BYTES: usize = 1460;

pub(crate) struct ClientStream {
    io: BufWriter<Transport>,
    /// What was read and put back.
    unread: BytesMut,
    address: Arc<SocketDigest>,
    is_http2: bool,
}

impl ClientStream {
    /// A connection from this address, which a PROXY header may have told.
    pub(super) fn plain(socket: Socket, address: SocketAddr) -> Self {
        Self::new(Transport::Plain(socket), address)
    }

    /// The same with TLS.
    pub(super) fn secured(stream: TlsStream<BufReader<Socket>>, address: SocketAddr) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), address)
    }

    fn new(transport: Transport, address: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(transport.socket().stream().as_raw_fd());
        // The cell is empty: it was made in the line before.
        digest.peer_addr.get_or_init(|| Some(AnyAddress::Inet(address)));
        let io = BufWriter::with_capacity(WRITE_BUFFER_BYTES, transport);
        Self { io, unread: BytesMut::new(), address: Arc::new(digest), is_http2: false }
    }

    /// Has HTTP/2 spoken on the connection, beginning with what was read of it already.
    pub(crate) fn as_http2(&mut self, read: BytesMut) {
        self.unread = read;
        self.is_http2 = true;
    }
}

impl Transport {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }
}

impl fmt::Debug for ClientStream {
    /// Without the bytes: they are a client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for ClientStream {
    /// Pingora may drop a connection after a last write. What fits into the socket's buffer goes out.
    fn drop(&mut self) {
        if !self.io.buffer().is_empty() {
            let flushed =
                Pin::new(&mut self.io).poll_flush(&mut Context::from_waker(Waker::noop()));
            tracing::trace!(?flushed, "a client's connection was dropped with bytes to write");
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if read_again(&mut self.unread, buffer) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!(%error, "a client's connection was closed without a goodbye");
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().socket().stream().as_raw_fd()
    }
}

impl Ssl for ClientStream {
    /// Pingora speaks HTTP/2 on what says so, and looks for no preface then.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_http2.then_some(ALPN::H2)
    }
}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.address))
    }
}
