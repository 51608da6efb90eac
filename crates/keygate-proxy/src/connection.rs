//! One client connection, from its first byte to its last: reads each request's head itself, within
//! a deadline and a bound, and hands what is clear to Pingora.

use std::future::Future;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use keygate_core::Denial;
use keygate_store::keys::KeyStore;
use keygate_telemetry::{InFlight, Outcome, RouteMetrics};
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession as Http1Session;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
// Pingora's timers cost next to nothing when they do not fire, which is nearly always.
use pingora::time::timeout;
use quanta::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::gateway::Gateway;
use crate::head::{H2_PREFACE_HEAD, H2_PREFACE_REST, HeadScan, Progress, inspect};
use crate::line::Lines;
use crate::replay::Replay;
use crate::respond::{Problem, raw_http1};
use crate::snapshot::{Bounds, Snapshots};
use crate::streams::Streams;
use crate::trace::new_request_id;

/// What a head is read into at first; nearly all fit.
const HEAD_BUFFER_BYTES: usize = 4096;
/// What is read and thrown away after a malformed head, so that its sender sees the answer.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that was just accepted may take to say something while we shut down.
const FIRST_BYTES_GRACE: Duration = Duration::from_millis(500);

/// The same for a next request: one that was on its way finds us there.
const NEXT_BYTES_GRACE: Duration = Duration::from_millis(50);
/// From the listeners' closing until every accepted connection has been counted as open.
const LAST_ACCEPT_GRACE: Duration = Duration::from_millis(50);

/// Every client connection of the data plane.
pub(crate) struct Connections<S: KeyStore>(Arc<Inner<S>>);

impl<S: KeyStore> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S: KeyStore> {
    proxy: Arc<HttpProxy<Gateway<S>>>,
    lines: Lines,
    /// For the bounds on a connection, which are asked for before each request.
    snapshots: Snapshots,
    unrouted: RouteMetrics,
    open: OpenConnections,
}

impl<S: KeyStore> Connections<S> {
    pub(crate) fn new(
        proxy: HttpProxy<Gateway<S>>,
        lines: Lines,
        snapshots: Snapshots,
        unrouted: RouteMetrics,
        open: OpenConnections,
    ) -> Self {
        Self(Arc::new(Inner { proxy: Arc::new(proxy), lines, snapshots, unrouted, open }))
    }

    /// Serves what waits to be accepted when the accept loop has ended: its clients are connected
    /// and may have sent a request. Then closes the listener.
    pub(crate) fn serve_the_rest(&self, listener: TcpListener, shutdown: &ShutdownWatch) {
        // Non-blocking: an error means that there is nobody, or no more.
        while let Ok((stream, _)) = listener.accept() {
            let (connections, shutdown) = (self.clone(), shutdown.clone());
            drop(tokio::spawn(async move {
                match accepted(stream) {
                    Ok(stream) => connections.0.serve(stream, &shutdown).await,
                    Err(error) => tracing::warn!(%error, "the last connection was not accepted"),
                }
            }));
        }
    }

    /// To be called when no listener can bring anything new.
    pub(crate) async fn listeners_closed(&self) {
        // What was accepted last may not have been counted yet.
        tokio::time::sleep(LAST_ACCEPT_GRACE).await;
        self.0.open.listeners_closed();
    }
}

/// A connection as Pingora's own listener would have handed it over.
fn accepted(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let mut stream = L4Stream::from(tokio::net::TcpStream::from_std(stream)?);
    stream.set_socket_digest(digest);
    Ok(Box::new(stream))
}

#[async_trait]
impl<S: KeyStore> ServerApp for Connections<S> {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.0.serve(stream, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.0.proxy.http_cleanup().await;
    }
}

impl<S: KeyStore> Inner<S> {
    /// Serves a connection to its end.
    async fn serve(&self, mut stream: Stream, shutdown: &ShutdownWatch) {
        let open = self.open.enter();
        let mut line = self.lines.open();
        let mut watch = shutdown.clone();
        let mut stopping = pin!(async move { drop(watch.wait_for(|stop| *stop).await) });
        let mut bounds = self.snapshots.bounds();
        let mut idle = pin!(IdleTimer::new(bounds.header_timeout));
        let mut stopping_grace = FIRST_BYTES_GRACE;
        loop {
            let stopped = *shutdown.borrow();
            let wait = Wait { idle: idle.as_mut(), stopped, stopping_grace };
            match self.read_head(&mut stream, stopping.as_mut(), wait, &mut bounds).await {
                Head::Http1(bytes) => {
                    let mut session = Http1Session::new(stream);
                    session.set_pipelined_prefix(bytes);
                    let mut session = ServerSession::H1(session);
                    session.set_keepalive(Some(bounds.keepalive_timeout.as_secs().max(1)));
                    match line.run(self.proxy.process_new_http(session, shutdown)).await {
                        Some(Some(reusable)) => (stream, _) = reusable.consume(),
                        // Not to be used again, or cut.
                        Some(None) | None => return,
                    }
                }
                Head::Http2(bytes) => {
                    let timeout = bounds.header_timeout;
                    let replay = Box::new(Replay { bytes, stream, timeout });
                    let (proxy, lines) = (Arc::clone(&self.proxy), self.lines.clone());
                    let streams = Arc::new(Streams::new(proxy, lines, bounds.keepalive_timeout));
                    // An HTTP/2 client may stay as long as it likes. Its requests count; it does not,
                    // once it has had time to send the first.
                    let settled = async {
                        tokio::time::sleep(FIRST_BYTES_GRACE).await;
                        drop(open);
                    };
                    tokio::join!(streams.process_new(replay, shutdown), settled);
                    return;
                }
                Head::Refused(denial) => {
                    self.unrouted.count(Outcome::Refused(denial.code()));
                    self.unrouted.response(denial.code().status());
                    tracing::debug!(reason = ?denial, "a request's head was refused");
                    return refuse(stream, &denial).await;
                }
                Head::None => return,
            }
            idle.as_mut().restart(bounds.keepalive_timeout);
            stopping_grace = NEXT_BYTES_GRACE;
        }
    }
}

/// What a connection said.
enum Head {
    /// A clear head, and what came with it of its body.
    Http1(BytesMut),
    /// The beginning of HTTP/2's preface.
    Http2(BytesMut),
    Refused(Denial),
    /// Nothing, in time.
    None,
}

/// How long to wait for a request to begin.
struct Wait<'a> {
    idle: Pin<&'a mut IdleTimer>,
    /// Whether the gateway is stopping already.
    stopped: bool,
    /// How long once it is.
    stopping_grace: Duration,
}

pin_project_lite::pin_project! {
    /// Ends when nothing has begun for too long. Restarting it costs one reading of the clock: the
    /// timer underneath is moved only when it goes off, which on a busy connection is hardly ever.
    struct IdleTimer {
        ends_at: Instant,
        // When the timer underneath goes off: not after `ends_at`.
        set_for: Instant,
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl IdleTimer {
    fn new(idle: Duration) -> Self {
        let ends_at = Instant::now() + idle;
        Self { ends_at, set_for: ends_at, sleep: tokio::time::sleep(idle) }
    }

    fn restart(self: Pin<&mut Self>, idle: Duration) {
        let mut this = self.project();
        *this.ends_at = Instant::now() + idle;
        // One that goes off too early is noticed; too late would be too late.
        if this.sleep.is_elapsed() || *this.ends_at < *this.set_for {
            *this.set_for = *this.ends_at;
            this.sleep.as_mut().reset(tokio::time::Instant::now() + idle);
        }
    }
}

impl Future for IdleTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.sleep.as_mut().poll(cx).is_ready() {
            let left = this.ends_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            *this.set_for = *this.ends_at;
            this.sleep.as_mut().reset(tokio::time::Instant::now() + left);
        }
        Poll::Pending
    }
}

impl<S: KeyStore> Inner<S> {
    async fn read_head(
        &self,
        stream: &mut Stream,
        stopping: Pin<&mut impl Future<Output = ()>>,
        wait: Wait<'_>,
        bounds: &mut Bounds,
    ) -> Head {
        let mut buffer = BytesMut::with_capacity(HEAD_BUFFER_BYTES);
        let began = if wait.stopped {
            has_read(&timeout(wait.stopping_grace, stream.read_buf(&mut buffer)).await)
        } else {
            tokio::select! {
            // Biased: a request that is here already is served, even if we are stopping.
            biased;
            read = stream.read_buf(&mut buffer) => matches!(read, Ok(1..)),
            () = wait.idle => false,
            () = stopping => {
                has_read(&timeout(wait.stopping_grace, stream.read_buf(&mut buffer)).await)
            }
            }
        };
        if !began {
            return Head::None;
        }
        // They may have changed while nothing came.
        *bounds = self.snapshots.bounds();
        // The head's deadline begins with its first byte, and no later byte extends it.
        match finish_head(stream, &mut buffer, *bounds).await {
            Ok(Some(H2_PREFACE_LENGTH)) if buffer.starts_with(H2_PREFACE_HEAD) => {
                finish_preface(stream, buffer, *bounds).await
            }
            Ok(Some(length)) => {
                match inspect(buffer.get(..length).unwrap_or_default(), bounds.head) {
                    Ok(()) => Head::Http1(buffer),
                    Err(denial) => Head::Refused(denial),
                }
            }
            Ok(None) => Head::None,
            Err(denial) => Head::Refused(denial),
        }
    }
}

/// Reads the rest of HTTP/2's preface: with anything else in its place it is no protocol.
async fn finish_preface(stream: &mut Stream, mut buffer: BytesMut, bounds: Bounds) -> Head {
    let missing = |buffer: &BytesMut| buffer.len() < H2_PREFACE_LENGTH + H2_PREFACE_REST.len();
    while missing(&buffer) {
        if !has_read(&timeout(bounds.header_timeout, stream.read_buf(&mut buffer)).await) {
            return Head::None;
        }
    }
    if preface_follows(&buffer) {
        Head::Http2(buffer)
    } else {
        Head::Refused(Denial::BadRequest("the HTTP version is not 1.0 or 1.1"))
    }
}

/// Reads on until the head is complete: its length, or nothing if it never will be.
async fn finish_head(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    bounds: Bounds,
) -> Result<Option<usize>, Denial> {
    // RFC 9112 section 2.2: an empty line before the request line is ignored. One is.
    let mut may_be_empty = true;
    let mut scan = HeadScan::default();
    let mut seen = 0;
    let mut deadline = None;
    loop {
        match scan.advance(buffer, seen, bounds.head)? {
            Progress::Complete(2) if may_be_empty => {
                may_be_empty = false;
                buffer.advance(2);
                (scan, seen) = (HeadScan::default(), 0);
                continue;
            }
            Progress::Complete(length) => return Ok(Some(length)),
            Progress::NeedMore => seen = buffer.len(),
        }
        // Set only when a head does not come whole: reading the clock is not free.
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + bounds.header_timeout);
        let left = deadline.saturating_duration_since(now);
        if !has_read(&timeout(left, stream.read_buf(buffer)).await) {
            return Ok(None);
        }
    }
}

const H2_PREFACE_LENGTH: usize = H2_PREFACE_HEAD.len();

fn preface_follows(bytes: &[u8]) -> bool {
    bytes.get(H2_PREFACE_LENGTH..).is_some_and(|rest| rest.starts_with(H2_PREFACE_REST))
}

fn has_read<E>(read: &Result<io::Result<usize>, E>) -> bool {
    matches!(read, Ok(Ok(length)) if *length > 0)
}

/// Answers a head that is not clear enough to be parsed, and closes. What the client is still
/// sending is read within a bound: closing on unread bytes would reset the answer away.
async fn refuse(mut stream: Stream, denial: &Denial) {
    let answer = raw_http1(&Problem::of_denial(denial, None), &new_request_id());
    let work = async {
        stream.write_all(&answer).await?;
        AsyncWriteExt::shutdown(&mut stream).await?;
        let mut scratch = BytesMut::with_capacity(HEAD_BUFFER_BYTES);
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX {
            scratch.clear();
            match stream.read_buf(&mut scratch).await? {
                0 => break,
                length => bytes += length,
            }
        }
        io::Result::Ok(())
    };
    match timeout(LINGER_TIMEOUT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => tracing::debug!("a refused client left before its answer"),
    }
}

/// How much would be lost if the process ended now.
#[derive(Clone)]
pub(crate) struct OpenConnections {
    connections: Arc<AtomicUsize>,
    requests: InFlight,
}

/// The listeners count as one connection until they are closed: what they will accept is unknown.
const LISTENERS: usize = 1;

impl OpenConnections {
    pub(crate) fn new(requests: InFlight) -> Self {
        Self { connections: Arc::new(AtomicUsize::new(LISTENERS)), requests }
    }

    /// HTTP/1 connections, including those that wait for a next request, and running requests.
    pub(crate) fn count(&self) -> usize {
        let requests = usize::try_from(self.requests.count()).unwrap_or(0);
        self.connections.load(Ordering::Acquire) + requests
    }

    fn enter(&self) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::AcqRel);
        OpenConnection(Arc::clone(&self.connections))
    }

    fn listeners_closed(&self) {
        self.connections.fetch_sub(LISTENERS, Ordering::AcqRel);
    }
}

struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's idle time is measured from its last request, whatever the timer was set to.
    #[tokio::test]
    async fn an_idle_timer_ends_after_its_last_restart() {
        let (first, shortest) = (Duration::from_millis(400), Duration::from_millis(50));
        let began = Instant::now();
        let mut timer = pin!(IdleTimer::new(first));
        timer.as_mut().await;
        assert!(began.elapsed() >= first);
        let restarted = Instant::now();
        timer.as_mut().restart(shortest);
        timer.as_mut().await;
        assert!(restarted.elapsed() >= shortest);
    }
}
