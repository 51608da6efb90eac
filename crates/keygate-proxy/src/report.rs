//! What is told of a request besides its answer. `Story` is noted as the request goes; when it has ended,
//! each of those who are told gets it once, whatever way it ended. None of them makes a request wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use keygate_core::problem::Code;
use keygate_core::{Denial, KeyRecord, Permit, UnixMillis};
use keygate_telemetry::access_log::CutShort;
use pingora::Error;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::upstreams::peer::{HttpPeer, Peer};

use crate::context::Context;
use crate::facts::client_address;
use crate::gateway::peer_address;
use crate::lookup::Waited;
use crate::snapshot::Snapshot;

mod access_log;
mod top;
mod traces;
mod usage;

pub use access_log::AccessLog;
pub(crate) use access_log::{Rules as LogRules, client_fault};
pub use top::TopKeys;
pub(crate) use traces::Noted;
pub use traces::Traces;
pub use usage::Usage;
pub(crate) use usage::UsageRoute;

/// Those who are told of requests. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Reporters {
    pub usage: Usage,
    pub access_log: AccessLog,
    pub traces: Traces,
    pub top: TopKeys,
}

/// What happened to a request so far.
#[derive(Default)]
pub(crate) struct Story {
    /// Who sent it, behind the proxies that are believed; once that is known.
    pub client: Option<IpAddr>,
    /// Why it was refused, or failed.
    pub code: Option<Code>,
    /// Whose key was refused. That of an admitted request is in its permit.
    pub refused: Option<Arc<KeyRecord>>,
    /// When it was decided, if it has a key.
    pub decided_at: Option<UnixMillis>,
    /// From its beginning to its permit or denial.
    pub decision: Option<Duration>,
    /// How long the store was waited for, if it was asked.
    pub lookup: Option<Waited>,
    /// From its beginning to when the last attempt had a connection to an upstream, if it got one.
    pub connected: Option<Duration>,
    /// From its beginning to the first byte of an upstream's answer.
    pub first_byte: Option<Duration>,
    /// Whom the last attempt was sent to.
    pub target: Option<SocketAddr>,
    /// Bytes of the request's body, or of a tunnel from the client.
    pub bytes_in: u64,
    /// Those of them that were passed on in this attempt: one more begins at the beginning.
    pub resent: u64,
    /// Bytes of the answer's body, or of a tunnel to the client.
    pub bytes_out: u64,
    /// Why it ended before its time, if that was its client's doing.
    pub cut: Option<CutShort>,
    pub usage: usage::Noted,
    pub trace: Noted,
    pub log: access_log::Noted,
}

impl Story {
    /// A request that has a permit is refused all the same.
    pub(crate) fn refuses(&mut self, permit: &Permit, denial: Denial) -> Denial {
        self.refused = permit.record().cloned();
        denial
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With its answer, or without one because its client or upstream went away.
    Finished,
    /// It was dropped midway: see `line.rs`.
    Cut,
}

/// A request has come in: nothing is decided yet.
pub(crate) fn begun(head: &RequestHeader, ctx: &mut Context) {
    let reporters = &ctx.snapshot.reporters;
    reporters.traces.begun(head, &ctx.snapshot.config.tracing, &mut ctx.story);
    reporters.access_log.begun(head, &ctx.snapshot, &mut ctx.story);
}

/// A request goes on its way, or gets the answer of its route: from here on it counts as used.
pub(crate) fn admitted(ctx: &mut Context) {
    let Context { snapshot, story, admitted, route, .. } = ctx;
    if let (Some(admitted), Some(route)) = (admitted, *route) {
        snapshot.reporters.usage.admitted(&admitted.permit, snapshot, route, story);
    }
}

/// A request is refused, maybe before it was known who sent it. Its client is not told yet.
pub(crate) fn refused(session: &Session, ctx: &mut Context) {
    let server = &ctx.snapshot.config.server;
    let address = || client_address(&session.req_header().headers, peer_address(session), server);
    ctx.story.client.get_or_insert_with(address);
    ctx.snapshot.reporters.usage.refused(&ctx.snapshot, ctx.route, &ctx.story);
}

/// A target was chosen for the next attempt.
pub(crate) fn sent_to(peer: &HttpPeer, ctx: &mut Context) {
    let Context { story, started, .. } = ctx;
    story.target = peer.address().as_inet().copied();
    story.connected = None;
    story.resent = 0;
    story.trace.sent_to(story.target, || started.elapsed());
}

/// There is a connection to the target: the request is about to be written to it.
pub(crate) fn connected(ctx: &mut Context) {
    ctx.story.connected = Some(ctx.started.elapsed());
}

/// The attempt has failed, or its client has left.
pub(crate) fn attempt_failed(ctx: &mut Context, error: &Error) {
    traces::failed(ctx, error);
}

/// So many bytes more have come from the client, or go to it.
pub(crate) fn moved(ctx: &mut Context, bytes_in: usize, bytes_out: usize) {
    let Context { snapshot, story, admitted, route, .. } = ctx;
    story.resent = story.resent.saturating_add(bytes_in as u64);
    let (new, bytes_out) = (story.resent.saturating_sub(story.bytes_in), bytes_out as u64);
    story.bytes_in = story.bytes_in.saturating_add(new);
    story.bytes_out = story.bytes_out.saturating_add(bytes_out);
    let key = admitted.as_ref().and_then(|admitted| admitted.permit.key());
    if let (Some(key), Some(route)) = (key, *route) {
        snapshot.reporters.usage.moved((key, story), (snapshot, route), new, bytes_out);
    }
}

/// So many bytes more have come from the client, and go nowhere.
pub(crate) fn discarded(ctx: &mut Context, bytes_in: usize) {
    // They come after all that came before, however much of that the last attempt has had.
    ctx.story.resent = ctx.story.bytes_in;
    moved(ctx, bytes_in, 0);
}

/// The last word on a request that had a head. `status` is that of its answer.
pub(crate) fn ended(ctx: &mut Context, status: Option<u16>, end: End) {
    let took = ctx.started.elapsed();
    let reporters = &ctx.snapshot.reporters;
    reporters.top.ended(ctx);
    reporters.traces.ended(ctx, status, end, took);
    log_line(ctx, status, end, took);
}

/// A request is dropped midway, and nobody has cut it off: the gateway ends.
pub(crate) fn aborted(ctx: &mut Context, status: Option<u16>) {
    let took = ctx.started.elapsed();
    ctx.snapshot.reporters.traces.ended(ctx, status, End::Cut, took);
    log_line(ctx, status, End::Cut, took);
}

fn log_line(ctx: &mut Context, status: Option<u16>, end: End, took: Duration) {
    let noted = std::mem::take(&mut ctx.story.log);
    ctx.snapshot.reporters.access_log.ended(noted, ctx, status, end, took);
}

/// A head that was refused before it was parsed.
pub(crate) struct RefusedHead<'a> {
    /// Nobody knows whom a proxy sent it for.
    pub client: Option<IpAddr>,
    pub is_tls: bool,
    pub denial: &'a Denial,
    pub request_id: &'a HeaderValue,
    /// Of the answer's body.
    pub bytes_out: usize,
}

pub(crate) fn head_refused(snapshot: &Snapshot, refused: &RefusedHead<'_>) {
    let Reporters { top, access_log, .. } = &snapshot.reporters;
    top.head_refused(refused.client, refused.denial.code());
    access_log.head_refused(snapshot, refused);
}
