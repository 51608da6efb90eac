//! A client's connection as Pingora has it: buffered, and with what it is asked about the other end.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use keygate_core::chunks::{BadChunks, Chunks};
use pingora::protocols::l4::socket::SocketAddr as AnyAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
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

/// Of what a client sends behind a fault in its body's framing, no more is read.
const BROKEN_BYTES_MAX: usize = 1 << 20;

pub(crate) struct ClientStream {
    io: BufWriter<Transport>,
    /// What was read and put back.
    unread: BytesMut,
    address: Arc<SocketDigest>,
    /// The body that is being read, if it comes in chunks.
    chunks: Option<Watched>,
}

/// A body in chunks, of which Pingora gets nothing that the strict reading has not passed.
enum Watched {
    Reading(Chunks),
    /// It is none: nothing more is handed on, and so much was thrown away since.
    Broken {
        fault: BadChunks,
        discarded: usize,
    },
}

impl ClientStream {
    /// A connection to which Pingora has given another name, which every connection is.
    pub(crate) fn of(stream: Stream) -> Option<Box<Self>> {
        stream.into_any().downcast().ok()
    }

    /// The same, with a body to come in chunks, of which so much was read.
    pub(crate) fn watched(stream: Stream, chunks: Chunks) -> Option<Stream> {
        let mut stream = Self::of(stream)?;
        stream.chunks = Some(Watched::Reading(chunks));
        Some(stream)
    }

    /// Whether no body in chunks is under way, by the strict reading.
    pub(crate) fn is_between_requests(stream: &Stream) -> bool {
        stream.as_any().downcast_ref::<Self>().is_some_and(|stream| stream.chunks.is_none())
    }

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
        Self { io, unread: BytesMut::new(), address: Arc::new(digest), chunks: None }
    }

    /// Puts back what was read.
    pub(crate) fn put_back(&mut self, read: BytesMut) {
        self.unread = read;
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
        if self.chunks.is_some() {
            return self.poll_read_chunks(cx, buffer);
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl ClientStream {
    /// Reads on in a body in chunks. Of a read with a fault in it Pingora gets nothing, so that it never
    /// sees an end that the strict reading does not see; what comes after is thrown away within a bound,
    /// so that the client can read what it is told.
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let fault = loop {
            ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            match &mut self.chunks {
                Some(Watched::Reading(chunks)) => match chunks.advance(fresh) {
                    Ok(None) => return Poll::Ready(Ok(())),
                    Ok(Some(_)) => break None,
                    Err(fault) => {
                        self.chunks = Some(Watched::Broken { fault, discarded: 0 });
                        break Some(fault);
                    }
                },
                Some(Watched::Broken { fault, discarded }) => {
                    *discarded += fresh.len();
                    if fresh.is_empty() || *discarded > BROKEN_BYTES_MAX {
                        break Some(*fault);
                    }
                    buffer.set_filled(before);
                }
                None => break None,
            }
        };
        Poll::Ready(if let Some(fault) = fault {
            buffer.set_filled(before);
            Err(io::Error::new(io::ErrorKind::InvalidData, fault))
        } else {
            // What is behind the end is no body.
            self.chunks = None;
            Ok(())
        })
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

impl Ssl for ClientStream {}

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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A client, and its connection as Pingora has it while a body in chunks is read.
    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, address) = listener.accept().await.unwrap();
        let socket = Socket::new(Arc::new(server), BytesMut::new());
        let stream = Box::new(ClientStream::plain(socket, address));
        (client, ClientStream::watched(stream, Chunks::default()).unwrap())
    }

    #[tokio::test]
    async fn a_body_in_chunks_passes_and_what_is_behind_it_as_it_is() {
        let (mut client, mut stream) = pair().await;
        let sent = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n\n\0 no chunk";
        let sender = tokio::spawn(async move {
            for byte in sent {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        sender.await.unwrap();
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn of_a_read_with_a_fault_and_behind_it_nothing_passes() {
        let (mut client, mut stream) = pair().await;
        let mut buffer = [b'.'; 64];
        client.write_all(b"5\r\nhel").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 6);
        client.write_all(b"lo\r\n0\n\r\n").await.unwrap();
        let error = stream.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        client.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        // What came is thrown away up to the client's end.
        let error = stream.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn behind_a_fault_so_much_is_read_and_no_more() {
        let (mut client, mut stream) = pair().await;
        client.write_all(b"x").await.unwrap();
        let mut buffer = vec![0; 64 << 10];
        assert!(stream.read(&mut buffer).await.is_err());
        let sender = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok(length) = client.write(&[b'0'; 64 << 10]).await {
                sent += length;
            }
            sent
        });
        // Ends, though the client does not.
        assert!(stream.read(&mut buffer).await.is_err());
        drop(stream);
        assert!(sender.await.unwrap() > BROKEN_BYTES_MAX);
    }
}
