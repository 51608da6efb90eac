//! A client's TCP connection, shared between whoever reads and writes and whoever watches for its end.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long a client may read nothing of what it is sent. Pingora bounds how long a piece of a body may
/// take; heads and ends of bodies it writes for as long as it takes.
pub(crate) const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads and writes a connection that others hold too. There is one of these for each.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    /// What was read of it and given back.
    unread: BytesMut,
    /// Runs while the client reads nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// A connection whose first bytes were read already.
    pub(super) fn new(stream: Arc<TcpStream>, unread: BytesMut) -> Self {
        // An empty one may hold room that nobody needs any more.
        let unread = if unread.is_empty() { BytesMut::new() } else { unread };
        Self { stream, unread, stalled: None }
    }

    pub(super) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// As tokio's own stream does it, which cannot be shared: a read that does not fill the buffer has
    /// taken all that there was, so the next one waits without asking the kernel.
    fn try_read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = buffer.remaining();
        let mut read = None;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            let length = self.stream.try_read_buf(buffer)?;
            read = Some(());
            if (1..room).contains(&length) { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        read.map_or(outcome, Ok)
    }
}

/// Gives back what was put back. Says whether there was anything.
pub(super) fn read_again(unread: &mut BytesMut, buffer: &mut ReadBuf<'_>) -> bool {
    if unread.is_empty() {
        return false;
    }
    let length = unread.len().min(buffer.remaining());
    buffer.put_slice(&unread.split_to(length));
    if unread.is_empty() {
        // Its memory is for this once only.
        *unread = BytesMut::new();
    }
    true
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if read_again(&mut self.unread, buffer) || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.try_read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl Socket {
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let Poll::Ready(is_ready) = self.stream.poll_write_ready(cx) else {
                return self.poll_stalled(cx);
            };
            is_ready?;
            match write(&self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => {
                    self.stalled = None;
                    return Poll::Ready(outcome);
                }
            }
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(CLIENT_WRITE_TIMEOUT)));
        stalled.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.stream, Shutdown::Write) {
            // The client was faster.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::Client;

    async fn pair() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Arc::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn nothing_is_lost_between_reads_of_any_size() {
        let (mut client, server) = pair().await;
        let mut socket = Socket::new(server, BytesMut::from(&b"before "[..]));
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let text = sent.clone();
        let sender = tokio::spawn(async move {
            for piece in text.chunks(7_001) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        for size in (1..=4096).cycle() {
            match socket.read(&mut buffer[..size]).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&buffer[..length]),
            }
        }
        sender.await.unwrap();
        assert!(read == [&b"before "[..], &sent[..]].concat());
    }

    #[tokio::test]
    async fn a_client_that_closes_is_seen_behind_what_nobody_has_read() {
        let (mut client, server) = pair().await;
        let watched = Client::of_connection(Arc::clone(&server));
        let mut leaving = Box::pin(watched.leaving().unwrap());
        client.write_all(b"more").await.unwrap();
        server.readable().await.unwrap();
        assert!(futures_now(leaving.as_mut()).await.is_none(), "bytes are no end");
        client.shutdown().await.unwrap();
        leaving.await;
        let mut unread = [0; 4];
        assert_eq!(server.try_read(&mut unread).unwrap(), 4);
    }

    /// Writes until the client, who reads nothing, has let this long pass. Says how much it was.
    async fn fill(socket: &mut Socket, at_most: Duration) -> (usize, Option<ErrorKind>) {
        let mut length = 0;
        loop {
            match tokio::time::timeout(at_most, socket.write(&[0; 64 << 10])).await {
                Ok(Ok(written)) => length += written,
                Ok(Err(error)) => return (length, Some(error.kind())),
                Err(_) => return (length, None),
            }
        }
    }

    /// The test's clock stands still while anything can be done, and then goes to the next timer.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (_client, server) = pair().await;
        let mut socket = Socket::new(server, BytesMut::new());
        let begun = tokio::time::Instant::now();
        let (_, error) = fill(&mut socket, Duration::MAX).await;
        assert_eq!(error, Some(ErrorKind::TimedOut));
        assert_eq!(begun.elapsed().as_secs(), CLIENT_WRITE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_has_all_its_time_again() {
        let (mut client, server) = pair().await;
        let mut socket = Socket::new(server, BytesMut::new());
        let nearly = CLIENT_WRITE_TIMEOUT - Duration::from_secs(1);
        for _ in 0..3 {
            let (length, error) = fill(&mut socket, nearly).await;
            assert_eq!(error, None);
            assert!(socket.stalled.is_some());
            client.read_exact(&mut vec![0; length]).await.unwrap();
            assert_eq!(socket.write(b"more").await.unwrap(), 4);
            client.read_exact(&mut [0; 4]).await.unwrap();
            assert!(socket.stalled.is_none());
        }
    }

    async fn futures_now<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
