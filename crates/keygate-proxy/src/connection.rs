//! One client connection, from its first byte to its last: reads each request's head itself, within
//! a deadline and a bound, and hands what is clear to Pingora.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use keygate_core::Denial;
use keygate_store::keys::KeyStore;
use keygate_telemetry::{ConnectionMetrics, InFlight, Outcome, RouteMetrics};
use pingora::apps::HttpServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession as Http1Session;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
// Pingora's timers cost next to nothing when they do not fire, which is nearly always.
use pingora::time::timeout;
use quanta::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::establish::{Established, Speaks, establish};
use crate::client::places::{Place, Places};
use crate::client::{Client, ClientStream};
use crate::express::Lane;
use crate::facts::client_of_head;
use crate::gateway::Shared;
use crate::head::{H2_PREFACE_HEAD, H2_PREFACE_REST, HeadScan, Progress, Shape, inspect};
use crate::line::Lines;
use crate::report;
use crate::respond::{Problem, raw_http1};
use crate::snapshot::{Bounds, Snapshots};
use crate::streams::{Streams, StreamsParts};
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

/// Every client connection of the data plane.
pub(crate) struct Connections<S: KeyStore>(Arc<Inner<S>>);

impl<S: KeyStore> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S: KeyStore> {
    proxy: Arc<HttpProxy<Shared<S>>>,
    lane: Lane<S>,
    lines: Lines,
    /// For the bounds on a connection, which are asked for before each request.
    snapshots: Snapshots,
    unrouted: RouteMetrics,
    metrics: ConnectionMetrics,
    places: Places,
    open: OpenConnections,
}

/// What connections need of a gateway.
pub(crate) struct ConnectionParts<S: KeyStore> {
    pub proxy: HttpProxy<Shared<S>>,
    pub lane: Lane<S>,
    pub lines: Lines,
    pub snapshots: Snapshots,
    pub unrouted: RouteMetrics,
    pub metrics: ConnectionMetrics,
    pub open: OpenConnections,
}

/// A connection that was just accepted.
pub(crate) struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// The `[[server.tls]]` by which it has to speak, if it has to.
    pub tls: Option<SocketAddr>,
    pub place: Place,
}

impl<S: KeyStore> Connections<S> {
    pub(crate) fn new(parts: ConnectionParts<S>) -> Self {
        let ConnectionParts { proxy, lane, lines, snapshots, unrouted, metrics, open } = parts;
        let (proxy, places) = (Arc::new(proxy), Places::new(metrics.clone()));
        Self(Arc::new(Inner { proxy, lane, lines, snapshots, unrouted, metrics, places, open }))
    }

    /// Serves a connection on a task of its own: what goes wrong there ends no other.
    pub(crate) fn serve(&self, accepted: Accepted, shutdown: ShutdownWatch) {
        let (inner, open) = (Arc::clone(&self.0), self.0.open.enter());
        drop(tokio::spawn(async move { inner.serve(accepted, open, &shutdown).await }));
    }

    /// To be called once the runtime is there.
    pub(crate) fn begin(&self) {
        self.0.lane.begin();
    }

    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    pub(crate) fn most(&self) -> usize {
        self.0.snapshots.bounds().connections_max
    }

    /// To be called when nothing more is accepted in the usual way: Pingora lets go of what is idle.
    pub(crate) async fn cleanup(&self) {
        self.0.proxy.http_cleanup().await;
    }

    /// To be called when no listener can bring anything new.
    pub(crate) fn listeners_closed(&self) {
        self.0.open.listeners_closed();
    }
}

impl<S: KeyStore> Inner<S> {
    /// Serves a connection to its end.
    async fn serve(&self, accepted: Accepted, open: OpenConnection, shutdown: &ShutdownWatch) {
        let Accepted { stream, peer, tls, mut place } = accepted;
        let established = establish(stream, peer, tls, &self.snapshots, &mut place).await;
        let Established { stream, client, speaks } = match established {
            Ok(established) => established,
            Err(refused) => return refused.tell(&self.metrics),
        };
        let mut stream: Stream = Box::new(stream);
        let mut line = self.lines.open(client.clone());
        let mut watch = shutdown.clone();
        let mut stopping = pin!(async move { drop(watch.wait_for(|stop| *stop).await) });
        let mut bounds = self.snapshots.bounds();
        let mut idle = pin!(IdleTimer::new(bounds.header_timeout));
        let mut stopping_grace = FIRST_BYTES_GRACE;
        loop {
            let stopped = *shutdown.borrow();
            let wait = Wait { idle: idle.as_mut(), stopped, stopping_grace };
            let head = self.read_head(&mut stream, stopping.as_mut(), wait, &mut bounds).await;
            match head.spoken(speaks) {
                Head::Http1(bytes, shape) => {
                    if let Some(current) = self.lane.enter(&bytes, shape, &bounds) {
                        let request = (bytes, shape.0);
                        match line.run(self.lane.serve(stream, request, current, shutdown)).await {
                            Some(Some(reusable)) => stream = reusable,
                            Some(None) | None => return,
                        }
                        idle.as_mut().restart(bounds.keepalive_timeout);
                        stopping_grace = NEXT_BYTES_GRACE;
                        continue;
                    }
                    if let Shape::Chunked(chunks) = shape.1 {
                        let Some(watched) = ClientStream::watched(stream, chunks) else { return };
                        stream = watched;
                    }
                    let mut session = Http1Session::new(stream);
                    session.set_pipelined_prefix(bytes);
                    let mut session = ServerSession::H1(session);
                    session.set_keepalive(Some(bounds.keepalive_timeout.as_secs().max(1)));
                    match line.run(self.proxy.process_new_http(session, shutdown)).await {
                        Some(Some(reusable)) => (stream, _) = reusable.consume(),
                        // Not to be used again, or cut.
                        Some(None) | None => return,
                    }
                    if !ClientStream::is_between_requests(&stream) {
                        return;
                    }
                }
                Head::Http2(bytes) => {
                    // Its streams have lines of their own.
                    drop(line);
                    return self.serve_streams(stream, bytes, client, open, shutdown).await;
                }
                Head::Refused(denial) => {
                    self.unrouted.count(Outcome::Refused(denial.code()));
                    self.unrouted.response(denial.code().status());
                    tracing::debug!(reason = ?denial, "a request's head was refused");
                    let current = self.snapshots.current();
                    let request_id = new_request_id();
                    let problem = Problem::of_denial(&denial, None);
                    let (answer, body_bytes) = raw_http1(&problem, &request_id);
                    let refused = report::RefusedHead {
                        client: client_of_head(
                            address(&stream).unwrap_or_else(|| peer.ip()),
                            &current.config.server,
                        ),
                        is_tls: client.tls().is_some(),
                        denial: &denial,
                        request_id: &request_id,
                        bytes_out: body_bytes,
                    };
                    report::head_refused(&current, &refused);
                    return refuse(stream, &answer).await;
                }
                Head::None => return,
            }
            idle.as_mut().restart(bounds.keepalive_timeout);
            stopping_grace = NEXT_BYTES_GRACE;
        }
    }

    /// Serves a connection on which HTTP/2 is spoken.
    async fn serve_streams(
        &self,
        stream: Stream,
        read: BytesMut,
        client: Client,
        open: OpenConnection,
        shutdown: &ShutdownWatch,
    ) {
        let Some(mut stream) = ClientStream::of(stream) else { return };
        stream.put_back(read);
        let streams = Arc::new(Streams::new(StreamsParts {
            proxy: Arc::clone(&self.proxy),
            lines: self.lines.clone(),
            client: client.of_stream(),
            metrics: self.metrics.clone(),
            idle_timeout: self.snapshots.bounds().keepalive_timeout,
        }));
        // An HTTP/2 client may stay as long as it likes. Its requests count; it does not, once it has
        // had time to send the first.
        let settled = async {
            tokio::time::sleep(FIRST_BYTES_GRACE).await;
            drop(open);
        };
        tokio::join!(streams.serve(stream, shutdown), settled);
    }
}

/// What a connection said.
enum Head {
    /// A clear head, and what came with it of its body.
    Http1(BytesMut, (usize, Shape)),
    /// The beginning of HTTP/2's preface.
    Http2(BytesMut),
    Refused(Denial),
    /// Nothing, in time.
    None,
}

impl Head {
    /// Holds a client to the protocol that was agreed on in its TLS handshake.
    fn spoken(self, speaks: Speaks) -> Self {
        match (self, speaks) {
            (Self::Http2(_), Speaks::Http1) => Self::Refused(NO_HTTP1),
            (Self::Http1(..) | Self::Refused(_), Speaks::Http2) => Self::None,
            (head, Speaks::Either | Speaks::Http1 | Speaks::Http2) => head,
        }
    }
}

const NO_HTTP1: Denial = Denial::BadRequest("the HTTP version is not 1.0 or 1.1");

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
                let (head, behind) = buffer.split_at(length);
                let shape = inspect(head, bounds.head).and_then(|shape| shape.with_body(behind));
                match shape {
                    Ok(shape) => Head::Http1(buffer, (length, shape)),
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
    let read = async {
        while missing(&buffer) {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    if !timeout(bounds.header_timeout, read).await.unwrap_or(false) {
        return Head::None;
    }
    if preface_follows(&buffer) { Head::Http2(buffer) } else { Head::Refused(NO_HTTP1) }
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

/// The client's address, which a PROXY header may have told.
fn address(stream: &Stream) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    digest.peer_addr()?.as_inet().map(SocketAddr::ip)
}

/// Answers a head that is not clear enough to be parsed, and closes. What the client is still
/// sending is read within a bound: closing on unread bytes would reset the answer away.
async fn refuse(mut stream: Stream, answer: &[u8]) {
    let work = async {
        stream.write_all(answer).await?;
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
        let requests = usize::try_from(self.requests.count()).unwrap_or(usize::MAX);
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
