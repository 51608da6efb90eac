//! The express lane: plain requests from HTTP/1.1 to HTTP/1.1, served without Pingora's proxy. The phases
//! are the gateway's own, in the order in which the proxy would call them. Heads are read and written here
//! as long as all is plain; whatever is not goes on with Pingora's sessions (`sessions.rs`).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::BytesMut;
use http::Method;
use http::header::HOST;
use keygate_store::keys::KeyStore;
use keygate_telemetry::WayMetrics;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType};

use crate::facts::RequestFacts;
use crate::gateway::Gateway;
use crate::head::{Shape, address};
use crate::route_work::RouteWork;
use crate::snapshot::{Bounds, InUse, Snapshot, Snapshots};

mod again;
mod heads;
mod idle;
mod plain;
mod sessions;

use idle::{IdleConnections, Place};
use plain::{Client, Served};
use sessions::From;

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
    ) -> Option<InUse> {
        let Shape::Plain { length } = shape else { return None };
        if !bounds.has_lane || length > BODY_BYTES_MAX || head + length != read.len() {
            return None;
        }
        let current = self.snapshots.of_request();
        let fits = current.speaks_http1_only || has_http1_behind(read, &current);
        (fits && current.bounds.has_lane).then_some(current)
    }

    /// Serves one request, whose head is the first so many bytes. Gives the connection back if another may
    /// follow on it.
    pub(crate) async fn serve(
        &self,
        stream: Stream,
        (read, head): (BytesMut, usize),
        snapshot: InUse,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.ways.express();
        let ctx = &mut self.gateway.ctx(snapshot);
        let mut client = Client::new(stream, read.freeze(), head, *shutdown.borrow());
        let request = heads::read_request(client.sent(), head);
        let is_plain = |request: &RequestHeader| {
            request.method != Method::HEAD && request.method != Method::OPTIONS
        };
        let Some(request) = request.filter(is_plain) else {
            return Box::pin(self.serve_on(client, From::TheBeginning, ctx)).await;
        };
        self.gateway.begin(&request, ctx);
        let decided = self.gateway.decide(&request, client.address(), ctx).await;
        if decided.is_err() || !ctx.work().is_none_or(RouteWork::leaves_headers) {
            return Box::pin(self.serve_on(client, From::Decided(decided), ctx)).await;
        }
        let from = match self.forward_plain(&request, &mut client, ctx).await {
            Ok(Served::Whole) => {
                self.gateway.last_word(ctx.status, ctx);
                return client.finish().await;
            }
            Ok(Served::Odd(asked)) => From::Asked(asked),
            Err(error) if client.has_answer() => {
                // Its end is all that can still be told.
                drop(self.gateway.failed(&error, ctx));
                self.gateway.last_word(ctx.status.filter(|_| client.has_head()), ctx);
                return None;
            }
            Err(error) => From::Failed(error),
        };
        Box::pin(self.serve_on(client, from, ctx)).await
    }

    /// One that waits, or a new one; and which it is.
    async fn connect(&self, to: &To) -> pingora::Result<(Stream, bool)> {
        match self.idle.take(to.place) {
            Some(stream) => Ok((stream, true)),
            None => Ok((Box::pin(self.connector.new_stream(&*to.peer)).await?, false)),
        }
    }

    /// For a next request.
    fn keep(&self, stream: Stream, to: &To) {
        self.idle.put(to.place, stream, to.peer.idle_timeout());
    }
}

/// Who was chosen for a request.
struct To {
    peer: Box<HttpPeer>,
    place: Place,
}

impl To {
    fn of(peer: Box<HttpPeer>) -> pingora::Result<Self> {
        if peer.options.alpn.get_max_http_version() > 1 {
            return Error::e_explain(ErrorType::InternalError, "the lane has no HTTP/2");
        }
        let place = Place::of(&peer);
        Ok(Self { peer, place })
    }
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

fn leaving<T>(left: pingora::Result<T>) -> Box<Error> {
    match left {
        Err(error) => error.into_down(),
        Ok(_) => Error::explain(ErrorType::ConnectError, "a client went on").into_down(),
    }
}
