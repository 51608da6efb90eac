//! What one request carries from phase to phase.

use std::borrow::Cow;
use std::net::IpAddr;
use std::thread;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use keygate_core::credential::{FURTHER_HEADERS_MAX, Place, holds_param, without_param};
use keygate_core::rewrite::PathRewrite;
use keygate_core::{Code, Permit, Route};
use keygate_telemetry::InFlightGuard;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession as Session;
use quanta::Instant;

use crate::facts::RequestFacts;
use crate::limits::{Charged, Told};
use crate::line::{self, Cut};
use crate::report::{self, End, Story};
use crate::route_work::RouteWork;
use crate::snapshot::InUse;
use crate::upstreams::{Tries, UpstreamPeers};

/// One request's state. It sees the configuration that was current when it began, and no other.
pub(crate) struct Context {
    pub(crate) snapshot: InUse,
    pub(crate) started: Instant,
    /// For those who are told of the request.
    pub(crate) story: Story,
    /// The route's place in the snapshot's table, once it is found.
    pub(crate) route: Option<usize>,
    /// The name that the client, the upstream and our logs share for this request.
    pub(crate) request_id: Option<HeaderValue>,
    /// Whether the key is one that another system made.
    pub(crate) has_imported_key: bool,
    /// The proof that the request was admitted. Without it there is no peer to forward to.
    pub(crate) admitted: Option<Admitted>,
    /// What the client is told of the limits that refuse this request.
    pub(crate) told: Told,
    /// Bytes of the request's body so far.
    pub(crate) body_bytes: u64,
    /// What a length over HTTP/2 says of the body, and how far that is so.
    pub(crate) promise: Option<Promise>,
    /// Bytes of the answer's body so far, if its route bounds them.
    pub(crate) answer_bytes: u64,
    /// Who was asked to answer.
    pub(crate) tries: Tries,
    pub(crate) forwarded_at: Option<Instant>,
    /// That of the answer, once the client is being sent it.
    pub(crate) status: Option<StatusCode>,
    /// Whether the last word on the request was said.
    pub(crate) is_logged: bool,
    /// Counts the request as running until it is dropped, whatever way it ends.
    pub(crate) _in_flight: InFlightGuard,
}

/// A body over HTTP/2 with a length. Its stream may go on beyond it (RFC 9113 section 8.1.1).
pub(crate) struct Promise {
    pub(crate) length: u64,
    /// The piece that reaches the length, until the stream has ended.
    pub(crate) held: Option<Bytes>,
}

impl Context {
    pub(crate) fn route(&self) -> Option<&Route> {
        self.snapshot.route(self.route?)
    }

    /// What the route has done to the request and its answer.
    pub(crate) fn work(&self) -> Option<&RouteWork> {
        self.snapshot.work(self.route?)
    }

    pub(crate) fn upstream(&self) -> Option<&UpstreamPeers> {
        self.snapshot.upstream_of(self.route?)
    }

    fn charged(&mut self) -> Option<&mut Charged> {
        self.admitted.as_mut()?.charged.as_mut()
    }

    /// An upstream is about to be sent the request: if its key has limits, it costs from here on.
    pub(crate) fn keep_charge(&mut self) {
        if let Some(charged) = self.charged() {
            charged.keep();
        }
    }

    /// Nothing more is done on behalf of the key: its slot is free, even if its client has yet to be
    /// answered.
    pub(crate) fn end_charge(&mut self) {
        if let Some(charged) = self.charged() {
            charged.end();
        }
    }

    /// The upstream has said its last word, which the client has yet to get: a client that counts its
    /// own requests must never find us one behind. Not while it still sends, or has a tunnel.
    pub(crate) fn upstream_is_done(&mut self, session: &mut Session) {
        if !session.was_upgraded() && session.is_body_done() {
            self.end_charge();
        }
    }
}

impl Drop for Context {
    /// The last word on a request that was cut off, or in which we panicked: Pingora is dropped midway,
    /// and says none.
    fn drop(&mut self) {
        if self.is_logged {
            return;
        }
        let status = self.status.map(|status| status.as_u16());
        let reason = line::cut_by();
        let failure = failure(reason.as_ref(), thread::panicking());
        if reason.is_none() && failure.is_none() {
            return report::aborted(self, status);
        }
        // What has failed before is counted already.
        let failure = failure.filter(|_| self.story.code.is_none());
        self.story.code = self.story.code.or(failure);
        if let Some(metrics) = self.route.and_then(|place| self.snapshot.route_metrics(place)) {
            if let Some(status) = status {
                metrics.response(status);
            }
            if let Some(code) = failure {
                metrics.failed(code);
            }
            metrics.request_seconds(self.started.elapsed());
        }
        report::ended(self, status, End::Cut);
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        let key = self.admitted.as_ref().and_then(|admitted| admitted.permit.key());
        let key_id = key.map(|key| tracing::field::display(key.id));
        let reason = reason.as_ref().map(tracing::field::debug);
        tracing::debug!(request_id, key_id, reason, "request cut off");
    }
}

/// What a request that is dropped midway failed of, if that is anybody's fault but its client's.
fn failure(cut: Option<&Cut>, is_panicking: bool) -> Option<Code> {
    match cut {
        _ if is_panicking => Some(Code::Internal),
        Some(Cut::TotalTimeout) => Some(Code::UpstreamTimeout),
        Some(Cut::Key(_) | Cut::SlowBody | Cut::ClientLeft | Cut::Stopped) | None => None,
    }
}

/// An admitted request: the permit, and what has to change on the way to the upstream.
pub(crate) struct Admitted {
    pub permit: Permit,
    /// Who sent it, behind the proxies that are believed.
    pub client: IpAddr,
    /// If its key has limits.
    pub charged: Option<Charged>,
    pub strip: Strip,
    /// The target to send, if it is not the one that was sent: a path that was normalised or is
    /// rewritten, or a query without the key.
    pub target: Option<String>,
}

impl Admitted {
    pub(crate) fn new(
        permit: Permit,
        charged: Option<Charged>,
        strip: Strip,
        query_param: Option<&str>,
        rewrite: Option<&PathRewrite>,
        head: &RequestHeader,
        request: &RequestFacts<'_>,
    ) -> Self {
        let target = changed_target(query_param, rewrite, head, request);
        Self { permit, client: request.client, charged, strip, target }
    }
}

/// The target to send, unless it is the one that was sent.
fn changed_target(
    query_param: Option<&str>,
    rewrite: Option<&PathRewrite>,
    head: &RequestHeader,
    request: &RequestFacts<'_>,
) -> Option<String> {
    let query = request.query.unwrap_or_default();
    let has_param = query_param.filter(|param| holds_param(query, param));
    let is_as_sent = rewrite.is_none()
        && request.path == head.uri.path()
        && has_param.is_none()
        && head.raw_path().starts_with(b"/");
    (!is_as_sent).then(|| {
        let query = match (request.query, has_param) {
            (Some(query), Some(param)) => without_param(query, param),
            (query, _) => query.map(str::to_owned),
        };
        let path = match rewrite {
            Some(rewrite) => rewrite.apply(&request.path),
            None => Cow::Borrowed(&*request.path),
        };
        match query {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        }
    })
}

/// The credentials that are ours and so are not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strip {
    pub authorization: bool,
    pub x_api_key: bool,
    pub further: Further,
}

/// Some of the further headers that may carry a key: a bit for each, by its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Further(u8);

const _: () = assert!(FURTHER_HEADERS_MAX <= u8::BITS as usize, "each has a bit");

impl Further {
    pub(crate) fn add(&mut self, place: usize) {
        self.0 |= 1 << (place % u8::BITS as usize);
    }

    pub(crate) fn holds(self, place: usize) -> bool {
        self.0 & 1 << (place % u8::BITS as usize) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Place> for Strip {
    fn from(place: Place) -> Self {
        let mut strip = Self::default();
        match place {
            Place::Authorization => strip.authorization = true,
            Place::XApiKey => strip.x_api_key = true,
            Place::Further(place) => strip.further.add(place),
            // What is forwarded is another target then.
            Place::Query => {}
        }
        strip
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use keygate_telemetry::Metrics;

    use super::*;
    use crate::report::Reporters;
    use crate::snapshot::Snapshots;
    use crate::snapshot::tests::current;
    use crate::upstreams::Upkeep;

    fn context(metrics: &Metrics) -> Context {
        let (first, reporters) = (current("127.0.0.1:1", 10, 1), Reporters::default());
        let snapshots = Snapshots::first(first, metrics, &Upkeep::default(), &reporters).unwrap();
        Context {
            snapshot: snapshots.of_request(),
            started: Instant::now(),
            story: Story::default(),
            route: Some(0),
            request_id: None,
            has_imported_key: false,
            admitted: None,
            told: Told::default(),
            body_bytes: 0,
            promise: None,
            answer_bytes: 0,
            tries: Tries::default(),
            forwarded_at: None,
            status: None,
            is_logged: false,
            _in_flight: metrics.in_flight().enter(),
        }
    }

    fn failed(metrics: &Metrics) -> String {
        let text = metrics.render();
        let series = "keygate_requests_failed_total{code=\"internal\",route=\"all\"} ";
        text.lines().find_map(|line| line.strip_prefix(series)).unwrap().to_owned()
    }

    #[test]
    fn a_request_in_which_we_panic_has_failed_and_one_that_is_only_dropped_has_not() {
        let metrics = Metrics::new("test");
        drop(context(&metrics));
        assert_eq!(failed(&metrics), "0");
        let running = context(&metrics);
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _running = running;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert_eq!(failed(&metrics), "1");
    }

    #[test]
    fn of_those_that_are_cut_off_only_one_that_takes_too_long_has_failed() {
        for cut in [Cut::SlowBody, Cut::ClientLeft, Cut::Stopped] {
            assert_eq!(failure(Some(&cut), false), None);
        }
        assert_eq!(failure(Some(&Cut::TotalTimeout), false), Some(Code::UpstreamTimeout));
        assert_eq!(failure(None, false), None);
    }
}
