//! HTTP/2: a connection's streams, each with a line and a task of its own. Pingora makes requests of them;
//! that they are accepted here, as it does it itself, is for the sake of clients that take back what they
//! ask for: nothing is done for a stream that is over already, and who overdoes it is told to stop.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::Connection;
use keygate_store::keys::KeyStore;
use keygate_telemetry::ConnectionMetrics;
use pingora::Error;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession, handshake};
use pingora::protocols::{Digest, GetSocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::time::{sleep, timeout};
use quanta::Instant;
use tokio::sync::Notify;

use crate::client::{Client, ClientStream};
use crate::gateway::Shared;
use crate::line::Lines;
use crate::resets::Resets;

/// So many streams of a connection may be served at once: ten times as many as may be open. All others
/// have been reset, and whoever serves them has not seen it yet: while a key is looked up or an upstream
/// connected to, nobody looks at the client.
const SERVED_MAX: usize = 1_000;
/// How long a client that is told to stop may take to take note of that.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// One HTTP/2 connection.
pub(crate) struct Streams<S: KeyStore> {
    parts: StreamsParts<S>,
    running: AtomicUsize,
    /// Told when nothing runs any more.
    idle: Notify,
    resets: Resets,
    /// Told when the client has taken back too much.
    overdone: Notify,
}

/// What a connection's streams need.
pub(crate) struct StreamsParts<S: KeyStore> {
    pub proxy: Arc<HttpProxy<Shared<S>>>,
    pub lines: Lines,
    pub client: Client,
    pub metrics: ConnectionMetrics,
    pub idle_timeout: Duration,
}

/// The client has taken back more than it may, or the h2 library has seen it overdo something else.
struct Overdone;

impl<S: KeyStore> Streams<S> {
    pub(crate) fn new(parts: StreamsParts<S>) -> Self {
        Self {
            parts,
            running: AtomicUsize::default(),
            idle: Notify::new(),
            resets: Resets::new(Instant::now()),
            overdone: Notify::new(),
        }
    }

    /// Serves the connection to its end.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        stream: Box<ClientStream>,
        shutdown: &ShutdownWatch,
    ) {
        let socket_digest = stream.get_socket_digest();
        let digest = Arc::new(Digest { socket_digest, ..Digest::default() });
        let mut connection = match handshake(stream, self.parts.proxy.h2_options()).await {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "a client's HTTP/2 did not begin"),
        };
        let Err(Overdone) = self.accept(&mut connection, &digest, shutdown).await else { return };
        self.parts.metrics.reset_flood();
        tracing::debug!("a client of HTTP/2 overdid it");
        // What runs ends with it.
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let told = timeout(GOODBYE_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
        tracing::trace!(?told, "it was told so");
    }

    /// Accepts streams until the connection is over, or idle.
    async fn accept(
        self: &Arc<Self>,
        connection: &mut Connection<Stream, Bytes>,
        digest: &Arc<Digest>,
        shutdown: &ShutdownWatch,
    ) -> Result<(), Overdone> {
        let mut watch = shutdown.clone();
        let mut stopping = pin!(async move { drop(watch.wait_for(|stop| *stop).await) });
        let mut is_stopping = false;
        let mut overdone = pin!(self.overdone.notified());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopping, if !is_stopping => {
                    // Streams that are on their way are served still.
                    connection.graceful_shutdown();
                    is_stopping = true;
                    continue;
                }
                () = &mut overdone => return Err(Overdone),
                // This is what moves the connection. Nothing is lost if it is dropped midway.
                accepted = HttpSession::from_h2_conn(connection, Arc::clone(digest)) => accepted,
                () = self.is_idle(), if !is_stopping => return Ok(()),
            };
            match accepted {
                Ok(Some(H2Accept::Session(mut session))) => {
                    if is_over(&mut session) {
                        self.taken_back(Instant::now())?;
                    } else {
                        self.begin(session, shutdown)?;
                    }
                }
                // Malformed, and answered: that is no more of a request.
                Ok(Some(H2Accept::Rejected)) => self.taken_back(Instant::now())?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "a client's HTTP/2 connection is over");
                    return if is_calmed(&error) { Err(Overdone) } else { Ok(()) };
                }
            }
        }
    }

    /// Serves one stream, on a task of its own.
    fn begin(
        self: &Arc<Self>,
        session: HttpSession,
        shutdown: &ShutdownWatch,
    ) -> Result<(), Overdone> {
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        let (stream, shutdown) = (RunningStream(Arc::clone(self)), shutdown.clone());
        if running >= SERVED_MAX {
            return Err(Overdone);
        }
        drop(tokio::spawn(async move { stream.0.run(session, &shutdown).await }));
        Ok(())
    }

    /// If its line is cut the session is dropped, and the h2 library then resets this stream, and no other.
    async fn run(&self, session: HttpSession, shutdown: &ShutdownWatch) {
        let began = Instant::now();
        let StreamsParts { proxy, lines, client, .. } = &self.parts;
        let mut line = lines.open(client.clone());
        let session = ServerSession::new_http2(session);
        let ran = line.run(proxy.process_new_http(session, shutdown)).await;
        if line.is_taken_back() {
            if self.taken_back(began).is_err() {
                self.overdone.notify_one();
            }
        } else if ran.is_some() {
            self.resets.finished();
        }
    }

    /// A request that began at this time was taken back.
    fn taken_back(&self, began: Instant) -> Result<(), Overdone> {
        self.resets.may_take_back(began, Instant::now()).then_some(()).ok_or(Overdone)
    }

    /// Ends when nothing has run for so long.
    async fn is_idle(&self) {
        while self.running.load(Ordering::Relaxed) != 0 {
            self.idle.notified().await;
        }
        sleep(self.parts.idle_timeout).await;
    }
}

/// Whether the client has taken the stream back before anything was done for it, which is seen when both came
/// in what was read last.
fn is_over(session: &mut HttpSession) -> bool {
    pin!(session.idle()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Whether the h2 library has told the client to stop, by its own bounds.
fn is_calmed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    let is_ours = |cause: &&h2::Error| cause.is_go_away() && cause.is_library();
    cause.filter(is_ours).and_then(h2::Error::reason) == Some(Reason::ENHANCE_YOUR_CALM)
}

/// Counts a stream as running until it is dropped, whatever way it ends.
struct RunningStream<S: KeyStore>(Arc<Streams<S>>);

impl<S: KeyStore> Drop for RunningStream<S> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}
