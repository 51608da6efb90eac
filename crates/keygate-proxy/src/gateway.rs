//! A request's whole life, top to bottom: the phases in the order in which Pingora calls them, and
//! `admit`, where every way to be refused is one `?`.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{HOST, ORIGIN, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};
use keygate_core::credential::{Credential, Places};
use keygate_core::route::KeyAccess;
use keygate_core::{Access, Caller, Denial, KeyDigest, KeyKind, Permit, UnixMillis, decide};
use keygate_store::keys::KeyStore;
use keygate_telemetry::{
    DecisionTimer, ImportedKeyMetrics, InFlight, Metrics, Outcome, RouteMetrics,
};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::proxy::FailToProxy;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use quanta::Instant;

use crate::answer;
use crate::attempts::Attempts;
use crate::bodies;
use crate::calendar::Calendar;
use crate::client::CLIENT_WRITE_TIMEOUT;
use crate::context::{Admitted, Context, Strip};
use crate::cors;
use crate::expiry;
use crate::facts::RequestFacts;
use crate::failure::{failure_code, log_failure};
use crate::forward::{self, Peer, X_REQUEST_ID};
use crate::identify::{identify, recall};
use crate::limits::{Charged, KeyLimits, Told};
use crate::line::{self, Lines};
use crate::lookup::Lookup;
use crate::pace;
use crate::report::{self, End, Story};
use crate::respond::{Problem, final_response, is_final};
use crate::snapshot::{InUse, Snapshot, Snapshots};
use crate::trace;
use crate::upgrade;
use crate::upstreams::retry::{self, Connection};
use crate::upstreams::{Tries, Upkeep};

mod parts;
mod slow;

pub(crate) use slow::Shared;

pub use parts::{GatewayParts, Groundwork};

/// What a `request_filter` answers when there is nothing left to forward.
const ANSWERED: bool = true;

/// The data plane: everything that a request needs to be decided and forwarded.
pub struct Gateway<S: KeyStore> {
    snapshots: Snapshots,
    upkeep: Upkeep,
    lookup: Lookup<S>,
    attempts: Attempts,
    limits: KeyLimits,
    unrouted: RouteMetrics,
    decision: DecisionTimer,
    in_flight: InFlight,
    lines: Lines,
    imported: ImportedKeyMetrics,
    metrics: Metrics,
    clock: fn() -> UnixMillis,
    calendar: Calendar,
}

impl<S: KeyStore> Gateway<S> {
    /// Every check, in order. Each `?` is one way to be refused.
    async fn admit(
        &self,
        head: &RequestHeader,
        peer: IpAddr,
        ctx: &mut Context,
    ) -> Result<Admitted, Denial> {
        let snapshot = &*ctx.snapshot;
        let request = RequestFacts::read(head, peer, &snapshot.config.server)?; // 400, 431
        ctx.story.client = Some(request.client);
        let place = snapshot.config.routes.place(&request.host, &request.path, request.method)?; // 404, 405
        ctx.route = Some(place);
        let route = snapshot.route(place).ok_or(Denial::RouteNotFound)?;
        bodies::check_declared(request.length, snapshot, place)?; // 413
        ctx.promise = bodies::promise(head, request.length);
        let rewrite = snapshot.work(place).and_then(|work| work.path.as_ref());
        let access = match &route.access {
            Access::Public(public) => {
                let further = snapshot.config.keys.credentials.further_headers();
                let strip = forward::strip_on_public_route(&request, further);
                let permit = public.permit();
                return Ok(Admitted::new(permit, None, strip, None, rewrite, head, &request));
            }
            Access::Key(access) => access,
        };
        let noted = (&mut ctx.has_imported_key, &mut ctx.story);
        let came = ctx.started;
        let decided = self.authenticate_and_decide(access, &request, snapshot, came, noted).await; // 401, 403, 503
        let decided = decided.map_err(|denial| self.attempts.weigh(denial, request.client));
        let Decided { permit, strip, digest, at } = decided?; // 429
        let now = self.limits.moment(ctx.started, at);
        let told = &mut ctx.told;
        let charged = self.limits.charge(snapshot, &permit, access.cost, now, told).await;
        let charged = charged.map_err(|denial| ctx.story.refuses(&permit, denial))?; // 429
        if let Some(key) = permit.record() {
            if charged.as_ref().is_some_and(Charged::has_waited) {
                let waited = &mut ctx.story.lookup;
                let again = self.lookup.check_again(digest, key, self.clock, waited).await;
                again.map_err(|denial| ctx.story.refuses(&permit, denial))?; // 401, 503
            }
            if route.ends_when_revoked {
                line::bind(digest, key);
            }
        }
        let param = access.query_param.as_deref();
        Ok(Admitted::new(permit, charged, strip, param, rewrite, head, &request))
    }

    async fn authenticate_and_decide(
        &self,
        access: &KeyAccess,
        request: &RequestFacts<'_>,
        snapshot: &Snapshot,
        came: Instant,
        (is_imported, story): (&mut bool, &mut Story),
    ) -> Result<Decided, Denial> {
        let credentials = &snapshot.config.keys.credentials;
        let places = Places {
            authorization: request.authorization.values(),
            x_api_key: request.x_api_key.values(),
            further: request.further_values(credentials.further_headers()),
            query: request.query.zip(access.query_param.as_deref()),
        };
        let recall = &mut |text: &[u8]| recall(text, &snapshot.peppers);
        let Credential { key, place, drops_authorization } = credentials.extract(recall, places)?; // 400, 401
        let digest = identify(&key, &snapshot.peppers)?; // 401
        let (client, waited) = ((request.client, came), &mut story.lookup);
        let key = self.lookup.find(digest, client, &self.attempts, waited).await?; // 401, 429, 503
        *is_imported = key.is_imported;
        // Only publishable keys are bound to origins.
        let origin = || request.text(ORIGIN);
        let origin = (key.kind == KeyKind::Publishable).then(origin).flatten();
        let caller = Caller { address: request.client, origin };
        // Who has waited for the store came some time ago.
        let at = self.calendar.at(if story.lookup.is_some() { Instant::now() } else { came });
        story.decided_at = Some(at);
        let permit = decide(access, key, caller, at).map_err(|refused| {
            story.refused = Some(refused.key);
            refused.denial // 401, 403
        })?;
        let mut strip = Strip::from(place);
        strip.authorization |= drops_authorization;
        Ok(Decided { permit, strip, digest, at })
    }

    /// Decides and charges as for a real request, counts it, and forwards nothing: the hot path, for
    /// benches.
    ///
    /// # Errors
    /// Why the request would be refused.
    pub async fn rehearse(&self, head: &RequestHeader, peer: IpAddr) -> Result<(), Denial> {
        let mut ctx = self.new_ctx();
        // Nobody is told of it.
        ctx.is_logged = true;
        let decided = self.admit(head, peer, &mut ctx).await;
        self.count(&mut ctx, &decided);
        ctx.admitted = Some(decided?);
        ctx.keep_charge();
        report::admitted(&mut ctx);
        Ok(())
    }

    fn count(&self, ctx: &mut Context, decided: &Result<Admitted, Denial>) {
        let outcome = match decided {
            Ok(_) => Outcome::Admitted,
            Err(denial) => {
                ctx.story.code = Some(denial.code());
                Outcome::Refused(denial.code())
            }
        };
        self.route_metrics(ctx).count(outcome);
        if ctx.has_imported_key {
            self.imported.count(outcome);
        }
        let took = ctx.started.elapsed();
        ctx.story.decision = Some(took);
        self.decision.observe(took);
    }

    /// What the client of an admitted request is told of its limits, and of its key's end.
    pub(crate) fn told(&self, ctx: &Context) -> Told {
        let admitted = ctx.admitted.as_ref();
        let known = admitted.and_then(|a| Some((a.permit.key()?, a.charged.as_ref())));
        let Some((key, charged)) = known else { return Told::default() };
        let told = charged.map(|charged| self.limits.told(&ctx.snapshot, key, charged));
        let span = ctx.snapshot.config.keys.expiry_notice;
        told.unwrap_or_default().of_end(expiry::notice(key, span, self.clock))
    }

    fn route_metrics<'a>(&'a self, ctx: &'a Context) -> &'a RouteMetrics {
        let of_route = ctx.route.and_then(|place| ctx.snapshot.route_metrics(place));
        of_route.unwrap_or(&self.unrouted)
    }
}

/// The phases, by the names that Pingora has for them.
impl<S: KeyStore> Gateway<S> {
    pub(crate) fn new_ctx(&self) -> Context {
        self.ctx(self.snapshots.of_request())
    }

    pub(crate) fn ctx(&self, snapshot: InUse) -> Context {
        Context {
            snapshot,
            started: Instant::now(),
            story: Story::default(),
            route: None,
            request_id: None,
            admitted: None,
            has_imported_key: false,
            told: Told::default(),
            body_bytes: 0,
            promise: None,
            answer_bytes: 0,
            tries: Tries::default(),
            forwarded_at: None,
            status: None,
            is_logged: false,
            _in_flight: self.in_flight.enter(),
        }
    }

    /// The decision. Whatever the request is, an upgrade or HTTP/2 or anything, it comes by here.
    pub(crate) async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        // Each piece of a body; for all else there is the connection's own.
        session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
        self.begin(session.req_header(), ctx);
        // What is rare is kept apart, so that what is not stays small.
        if session.req_header().method == Method::OPTIONS
            && Box::pin(cors::answered_preflight(session, ctx)).await?
        {
            return Ok(ANSWERED);
        }
        let peer = peer_address(session);
        let decided = self.decide(session.req_header(), peer, ctx).await;
        self.carry_out(session, decided, ctx).await
    }

    /// A request has come in: nothing is decided yet.
    pub(crate) fn begin(&self, head: &RequestHeader, ctx: &mut Context) {
        ctx.request_id = Some(trace::request_id(head.headers.get(X_REQUEST_ID)));
        report::begun(head, ctx);
    }

    /// Decides, and counts that. Who is admitted has a permit from here on.
    pub(crate) async fn decide(
        &self,
        head: &RequestHeader,
        peer: IpAddr,
        ctx: &mut Context,
    ) -> Result<(), Denial> {
        let decided = self.admit(head, peer, ctx).await;
        self.count(ctx, &decided);
        ctx.admitted = Some(decided?);
        Ok(())
    }

    /// Answers a request that no upstream gets: one that is refused, or that its route answers itself.
    pub(crate) async fn carry_out(
        &self,
        session: &mut Session,
        decided: Result<(), Denial>,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        if let Err(denial) = decided {
            Box::pin(answer::refuse(session, ctx, &denial)).await?;
            return Ok(ANSWERED);
        }
        pace::expect(session, ctx);
        if ctx.work().is_none_or(|work| !work.answers()) {
            if ctx.promise.as_ref().is_some_and(|promise| promise.length == 0) {
                Box::pin(pace::see_the_end(session, ctx)).await?;
            }
            return Ok(!ANSWERED);
        }
        Box::pin(answer::answered_by_route(session, ctx, |ctx| self.told(ctx))).await
    }

    /// Chooses the target. Takes the permit: a request that nobody decided has nowhere to go.
    pub(crate) fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        let (mut peer, now) = next_peer(ctx)?;
        if session.is_upgrade_req() {
            upgrade::prepare(&mut peer, session.req_header())?;
        }
        report::sent_to(&peer, ctx);
        if !upgrade::is_forwarded(session) {
            ctx.tries.bound(&mut peer, now);
        }
        Ok(peer)
    }

    /// The same for a request that is plain.
    pub(crate) fn plain_peer(&self, ctx: &mut Context) -> pingora::Result<Box<HttpPeer>> {
        let (mut peer, now) = next_peer(ctx)?;
        report::sent_to(&peer, ctx);
        ctx.tries.bound(&mut peer, now);
        Ok(peer)
    }

    /// The request as the upstream gets it.
    pub(crate) fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let (admitted, caller) = forwarded(ctx, peer_address(session))?;
        forward::rewrite(request, admitted, caller)?;
        upgrade::forward(session, request)?;
        if let Some(host) = ctx.tries.host() {
            // HTTP/2 has it as `:authority`, which Pingora makes of this.
            request.insert_header(HOST, host)?;
        }
        if let Some(work) = ctx.work() {
            work.change_request(request)?;
        }
        self.goes_on(ctx);
        Ok(())
    }

    /// A request's head is ready for its upstream, to which there is a connection.
    pub(crate) fn goes_on(&self, ctx: &mut Context) {
        ctx.keep_charge();
        report::connected(ctx);
        report::admitted(ctx);
    }

    /// Holds a body without a declared length to the same bound as one with it.
    pub(crate) async fn request_body_filter(
        &self,
        session: &mut Session,
        piece: usize,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        ctx.tries.check_time()?;
        report::moved(ctx, piece, 0);
        bodies::count_request(session, ctx, piece)?;
        pace::note(session, ctx, end_of_stream).await;
        Ok(())
    }

    /// The answer as the client gets it.
    pub(crate) fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        upgrade::check_answer(session, response)?;
        forward::remove_nominated(response);
        if let Some(id) = &ctx.request_id {
            response.insert_header(X_REQUEST_ID, id.clone())?;
        }
        // A `100 Continue` before the body is no reason to close the connection behind it.
        let is_first_word = response.status.is_informational();
        session.set_close_on_response_before_downstream_finish(!is_first_word);
        if is_final(response.status) {
            self.answered(response.status, ctx);
            pace::answered(session, response.status);
            for (name, value) in self.told(ctx).headers() {
                response.insert_header(name, value)?;
            }
            if let Some(work) = ctx.work() {
                bodies::check_answer(ctx, &session.req_header().method, response)?;
                work.change_answer(&session.req_header().headers, response)?;
            }
            if forward::has_no_body(&session.req_header().method, response) {
                ctx.upstream_is_done(session);
            }
        }
        if !response.status.is_informational() {
            self.observe(ctx);
        }
        let is_chunked = response.headers.contains_key(TRANSFER_ENCODING);
        if session.req_header().version == Version::HTTP_10 && is_chunked {
            // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// The head of the answer that counts is there.
    pub(crate) fn answered(&self, status: StatusCode, ctx: &mut Context) {
        ctx.status = Some(status);
        ctx.story.first_byte = Some(ctx.started.elapsed());
        ctx.tries.answered(status);
    }

    /// How long the upstream took.
    pub(crate) fn observe(&self, ctx: &Context) {
        if let (Some(upstream), Some(since)) = (ctx.upstream(), ctx.forwarded_at) {
            upstream.metrics.observe(since.elapsed());
        }
    }

    /// Piece by piece, each before its client gets it.
    pub(crate) fn response_body_filter(
        &self,
        session: &mut Session,
        piece: usize,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        report::moved(ctx, 0, piece);
        bodies::count_answer(session, ctx, piece)?;
        if end_of_stream {
            ctx.upstream_is_done(session);
        } else {
            ctx.tries.check_time()?;
        }
        Ok(())
    }

    pub(crate) fn fail_to_connect(&self, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
        report::attempt_failed(ctx, &error);
        retry::not_connected(ctx, &mut error);
        error
    }

    pub(crate) fn error_while_proxy(
        &self,
        sent: &retry::Sent<'_>,
        mut error: Box<Error>,
        ctx: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        report::attempt_failed(ctx, &error);
        retry::broken_off(sent, ctx, &mut error, Connection::from_reused(is_reused));
        error
    }

    /// Tells the client what went wrong with an admitted request, if it can still be told.
    pub(crate) async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let Some(problem) = self.failed(error, ctx) else {
            line::taken_back();
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let error_code = problem.code.status();
        if final_response(session).is_none() {
            // The connection is in an unknown state: the answer is its last.
            session.set_keepalive(None);
            if let Err(gone) = answer::tell(session, ctx, problem).await {
                line::taken_back();
                tracing::debug!(kind = gone.etype().as_str(), "the client left before the answer");
            }
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Takes note of what went wrong. What to tell the client, if it is not the one that has left.
    pub(crate) fn failed(&self, error: &Error, ctx: &mut Context) -> Option<Problem> {
        let Some(code) = failure_code(error) else {
            pace::tell_if_slow(error, &self.metrics);
            ctx.story.cut = Some(report::client_fault(error));
            return None;
        };
        let request_id = ctx.request_id.get_or_insert_with(trace::new_request_id).clone();
        log_failure(error, code, &request_id, ctx.route());
        ctx.story.code = Some(code);
        self.route_metrics(ctx).failed(code);
        ctx.end_charge();
        Some(Problem::of_code(code).telling(self.told(ctx)))
    }

    /// The last word on every request that had a head and was not cut off.
    pub(crate) fn logging(&self, session: &mut Session, ctx: &mut Context) {
        let status = final_response(session).map(|response| response.status);
        self.last_word(status, ctx);
    }

    /// The same, where the answer's status is known.
    pub(crate) fn last_word(&self, status: Option<StatusCode>, ctx: &mut Context) {
        let metrics = self.route_metrics(ctx);
        let status = status.map(|status| status.as_u16());
        if let Some(status) = status {
            metrics.response(status);
        }
        metrics.request_seconds(ctx.started.elapsed());
        ctx.is_logged = true;
        report::ended(ctx, status, End::Finished);
    }
}

/// What the checks of a key have come to.
struct Decided {
    permit: Permit,
    strip: Strip,
    digest: KeyDigest,
    /// When it was decided.
    at: UnixMillis,
}

/// Who is to have the request next. A request that nobody decided has nowhere to go.
fn next_peer(ctx: &mut Context) -> pingora::Result<(Box<HttpPeer>, Instant)> {
    if ctx.admitted.is_none() {
        return Error::e_explain(ErrorType::InternalError, "a request was not decided");
    }
    // A second attempt is sent the body from its beginning.
    ctx.body_bytes = 0;
    if let Some(promise) = &mut ctx.promise {
        promise.held = None;
    }
    let now = Instant::now();
    ctx.forwarded_at = Some(now);
    Ok((retry::next(ctx, now)?, now))
}

/// What the headers of a request that came from `address` are rewritten by.
pub(crate) fn forwarded(
    ctx: &Context,
    address: IpAddr,
) -> pingora::Result<(&Admitted, forward::Caller<'_>)> {
    let (Some(admitted), Some(request_id)) = (&ctx.admitted, &ctx.request_id) else {
        return Error::e_explain(ErrorType::InternalError, "a request was not decided");
    };
    let address = address.to_canonical();
    let peer = if ctx.snapshot.config.server.trusted_proxies.contains(address) {
        Peer::Trusted(address)
    } else {
        Peer::Untrusted(address)
    };
    let further = ctx.snapshot.config.keys.credentials.further_headers();
    Ok((admitted, forward::Caller { peer, request_id, trace: &ctx.story.trace, further }))
}

pub(crate) fn peer_address(session: &Session) -> IpAddr {
    let address = session.client_addr().and_then(|address| address.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), std::net::SocketAddr::ip)
}
