//! The express lane: plain requests from HTTP/1.1 to HTTP/1.1, served on Pingora's sessions without its
//! proxy. The phases are the gateway's own, in the order in which the proxy would call them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version, request};
use keygate_config::Upstream;
use keygate_store::keys::KeyStore;
use keygate_telemetry::WayMetrics;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::authority::validate_request_authority;
use pingora::protocols::http::v1::client::HttpSession as ClientSession;
use pingora::protocols::http::v1::server::HttpSession as Http1Session;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType};

use crate::context::Context;
use crate::facts::RequestFacts;
use crate::gateway::Gateway;
use crate::head::{Shape, address};
use crate::snapshot::{Bounds, Snapshot, Snapshots};

mod idle;

use idle::{IdleConnections, Place};

/// The longest body that is taken along.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What serves plain requests.
pub(crate) struct Lane<S: KeyStore> {
    gateway: Arc<Gateway<S>>,
    snapshots: Snapshots,
    connector: TransportConnector,
    idle: IdleConnections,
    ways: WayMetrics,
}

impl<S: KeyStore> Lane<S> {
    /// Keeps at most so many connections to upstreams that wait for a next request.
    pub(crate) fn new(gateway: Arc<Gateway<S>>, conf: &ServerConf, idle_max: usize) -> Self {
        let connector = TransportConnector::new(Some(ConnectorOptions::from_server_conf(conf)));
        let (snapshots, metrics) = (gateway.snapshots(), gateway.metrics());
        let ways = metrics.ways();
        let idle = IdleConnections::new(idle_max, ways.clone());
        let counted = idle.clone();
        metrics.gauge_fn(
            "keygate_express_idle_connections",
            "Connections to upstreams that wait for a next request by the express lane.",
            Box::new(move || counted.count()),
        );
        Self { gateway, snapshots, connector, idle, ways }
    }

    /// To be called once the runtime is there.
    pub(crate) fn begin(&self) {
        drop(tokio::spawn(self.idle.clone().keep_tidy()));
    }

    /// By what a request is served, if it may go by the lane: `shape` is its head's length and what it
    /// needs, and nothing of it has been consumed. That is decided by what serves it, which may be newer
    /// than what its head was read by.
    pub(crate) fn enter(
        &self,
        read: &[u8],
        (head, shape): (usize, Shape),
        bounds: &Bounds,
    ) -> Option<Arc<Snapshot>> {
        let Shape::Plain { length } = shape else { return None };
        if !bounds.has_lane || length > BODY_BYTES_MAX || head + length != read.len() {
            return None;
        }
        let current = self.snapshots.current();
        let fits = current.speaks_http1_only || has_http1_behind(read, &current);
        (fits && current.bounds.has_lane).then_some(current)
    }

    /// Serves one request. Gives the connection back if another may follow on it.
    pub(crate) async fn serve(
        &self,
        stream: Stream,
        read: BytesMut,
        snapshot: Arc<Snapshot>,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let mut session = Http1Session::new(stream);
        session.set_pipelined_prefix(read);
        let mut session = ServerSession::H1(session);
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                if *error.etype() == ErrorType::InvalidHTTPHeader {
                    drop(Box::pin(session.respond_error(400)).await);
                }
                session.shutdown().await;
                return None;
            }
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        self.ways.express();
        let ctx = &mut self.gateway.ctx(snapshot);
        let is_reusable = match self.answer(&mut session, ctx).await {
            Ok(is_reusable) => {
                self.gateway.logging(&mut session, None, ctx);
                is_reusable
            }
            Err(error) => {
                Box::pin(self.gateway.fail_to_proxy(&mut session, &error, ctx)).await;
                self.gateway.logging(&mut session, Some(&error), ctx);
                false
            }
        };
        if !is_reusable {
            return None;
        }
        let (stream, rest) = session.finish().await.ok()??.into_parts();
        rest.is_none().then_some(stream)
    }

    /// Whether the connection may be used again.
    async fn answer(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        if self.gateway.request_filter(session, ctx).await? {
            return Ok(true);
        }
        let mut tries = 0;
        loop {
            let peer = self.gateway.upstream_peer(session, ctx)?;
            if peer.options.alpn.get_max_http_version() > 1 {
                return Error::e_explain(ErrorType::InternalError, "the lane has no HTTP/2");
            }
            let place = Place::of(&peer);
            let error = match self.connect(&peer, place).await {
                Ok((mut client, is_reused)) => {
                    match self.exchange(session, ctx, &peer, &mut client).await {
                        Ok(Sent::Whole) => {
                            self.release(client, &peer, place).await;
                            return Ok(true);
                        }
                        Ok(Sent::InPart) => return Ok(true),
                        Err(error) => {
                            self.gateway.error_while_proxy(&peer, session, error, ctx, is_reused)
                        }
                    }
                }
                Err(mut error) => {
                    error.as_up();
                    self.gateway.fail_to_connect(session, &peer, ctx, error).into_up()
                }
            };
            tries += 1;
            if !error.retry() || tries > Upstream::RETRIES_MAX {
                return Err(error);
            }
        }
    }

    async fn connect(
        &self,
        peer: &HttpPeer,
        place: Place,
    ) -> pingora::Result<(ClientSession, bool)> {
        let (stream, is_reused) = match self.idle.take(place) {
            Some(stream) => (stream, true),
            None => (Box::pin(self.connector.new_stream(peer)).await?, false),
        };
        Ok((ClientSession::new_with_options(stream, peer), is_reused))
    }

    async fn release(&self, mut client: ClientSession, peer: &HttpPeer, place: Place) {
        client.respect_keepalive();
        if let Some(stream) = client.reuse().await {
            self.idle.put(place, stream, peer.idle_timeout());
        }
    }

    async fn exchange(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        peer: &HttpPeer,
        client: &mut ClientSession,
    ) -> pingora::Result<Sent> {
        client.read_timeout = peer.options.read_timeout;
        client.write_timeout = peer.options.write_timeout;
        let mut request = Box::new(plain(session.req_header()));
        request.set_version(Version::HTTP_11);
        self.gateway.upstream_request_filter(session, &mut request, ctx)?;
        // What was changed on the way has to be one clear request still.
        validate_request_authority(&request).map_err(|error| error.into_in())?;
        let is_framed = session.is_body_empty() || request.headers.contains_key(CONTENT_LENGTH);
        if !is_framed || !request.raw_path().starts_with(b"/") {
            return Error::e_explain(ErrorType::InternalError, "a request is plain no longer");
        }
        client.write_request_header(request).await.map_err(|e| e.into_up())?;
        let sent = self.send_body(session, ctx, client).await?;
        let is_whole = sent.is_ok();
        // Who did not get all of it may answer all the same. Else that is what went wrong.
        self.pass_answer(session, ctx, client, &mut sent.err()).await?;
        Ok(if is_whole { Sent::Whole } else { Sent::InPart })
    }

    /// Within, what kept the upstream from getting all of it.
    async fn send_body(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        client: &mut ClientSession,
    ) -> pingora::Result<pingora::Result<()>> {
        let mut sent = Ok(());
        if session.is_body_empty() {
            self.gateway.request_body_filter(session, 0, true, ctx).await?;
        } else {
            session.enable_retry_buffering();
            let body = match session.get_retry_buffer() {
                Some(body) => Some(body),
                None => session.read_request_body().await.map_err(|e| e.into_down())?,
            };
            let body = body.unwrap_or_default();
            let is_last = session.is_body_done();
            self.gateway.request_body_filter(session, body.len(), is_last, ctx).await?;
            sent = client.write_body(&body).await.and_then(|written| {
                if is_last && written == Some(body.len()) { Ok(()) } else { Err(in_part()) }
            });
        }
        let finished = client.finish_body().await;
        Ok(sent.and_then(|()| finished.map(drop)))
    }

    async fn pass_answer(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        client: &mut ClientSession,
        unsent: &mut Option<Box<Error>>,
    ) -> pingora::Result<()> {
        let mut broken = |error: Box<Error>| unsent.take().unwrap_or(error).into_up();
        let length = loop {
            tokio::select! {
                biased;
                read = client.read_response() => { read.map_err(&mut broken)?; }
                left = session.read_body_or_idle(true) => return Err(leaving(left)),
            }
            let is_done = client.is_body_done();
            let Some(head) = client.resp_header() else { return Err(no_answer()) };
            let mut head = Box::new(head.clone());
            let is_final = !head.status.is_informational();
            let has_no_body = session.req_header().method == Method::HEAD
                || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let length = head.headers.get(CONTENT_LENGTH).cloned();
            if is_final
                && !has_no_body
                && length.is_none()
                && !head.headers.contains_key(TRANSFER_ENCODING)
                && !is_done
            {
                head.set_version(Version::HTTP_11);
                head.insert_header(TRANSFER_ENCODING, "chunked")?;
            }
            self.gateway.response_filter(session, &mut head, ctx)?;
            session.write_response_header(head).await.map_err(|e| e.into_down())?;
            if is_final && is_done {
                return self.end(session).await;
            }
            if is_final {
                break length;
            }
        };
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let mut passed = 0;
        loop {
            let piece = tokio::select! {
                biased;
                read = client.read_body_ref() => read.map_err(&mut broken)?,
                left = session.read_body_or_idle(true) => return Err(leaving(left)),
            };
            let Some(piece) = piece else {
                self.gateway.response_body_filter(session, 0, true, ctx)?;
                return self.end(session).await;
            };
            passed += piece.len();
            let is_last = length == Some(passed);
            self.gateway.response_body_filter(session, piece.len(), is_last, ctx)?;
            if let (ServerSession::H1(http1), false) = (&mut *session, piece.is_empty()) {
                http1.write_body(piece).await.map_err(|e| e.into_down())?;
            }
            if is_last {
                return self.end(session).await;
            }
        }
    }

    async fn end(&self, session: &mut ServerSession) -> pingora::Result<()> {
        session.finish_body().await.map(drop).map_err(|e| e.into_down())
    }
}

/// How much of a request the upstream has got, that has answered it.
enum Sent {
    Whole,
    InPart,
}

/// Whether the upstream of a request's route speaks HTTP/1, by the same reading as that by which it is
/// decided. What no route serves is refused by either way.
fn has_http1_behind(head: &[u8], snapshot: &Snapshot) -> bool {
    let request = address(head).and_then(|(method, target, host)| {
        let mut request = RequestHeader::build_no_case(method, target.as_bytes(), Some(1)).ok()?;
        request.insert_header(HOST, host).ok()?;
        Some(request)
    });
    let Some(request) = request else { return false };
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let facts = RequestFacts::read(&request, nobody, &snapshot.config.server);
    let routes = &snapshot.config.routes;
    let place = facts.and_then(|facts| routes.place(&facts.host, &facts.path, facts.method));
    place.map_or(true, |place| snapshot.speaks_http1(place))
}

/// Without the spelling of names, and without the one header that a plain request may have for us alone.
fn plain(sent: &RequestHeader) -> RequestHeader {
    let sent: &request::Parts = sent;
    let mut parts = sent.clone();
    parts.headers.remove(CONNECTION);
    RequestHeader::from(parts)
}

fn leaving<T>(left: pingora::Result<T>) -> Box<Error> {
    match left {
        Err(error) => error.into_down(),
        Ok(_) => Error::explain(ErrorType::ConnectError, "a client went on").into_down(),
    }
}

fn in_part() -> Box<Error> {
    Error::explain(ErrorType::WriteError, "an upstream took part of a body").into_up()
}

fn no_answer() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "an upstream has no answer").into_up()
}
