//! The attempts of one request: which endpoints had it, whether another may have it after a failure,
//! and how much time is left. A request that may have reached anybody is sent again only if that does
//! no harm.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use pingora::protocols::http::ServerSession as Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, RetryType};
use quanta::Instant;

use super::state::{Busy, Endpoint};
use super::{Caller, UpstreamPeers, WAIT_MIN};
use crate::context::Context;
use crate::failure::has_stalled;
use crate::line;

/// The kind of the error that ends a request whose time is over.
pub(crate) const TOTAL_TIMEOUT: &str = "TotalTimeout";

/// How long after that the request is cut off, if nothing else has ended it.
const CUT_AFTER: Duration = Duration::from_millis(100);

/// What one request has tried.
#[derive(Default)]
pub(crate) struct Tries {
    count: usize,
    /// Who has it now. Nobody in particular if there is no choice.
    current: Option<Busy>,
    failed: Vec<Arc<Endpoint>>,
    /// What whoever has it gets as `Host`, unless that is the client's.
    host: Option<HeaderValue>,
    /// When all has to be over.
    deadline: Option<Instant>,
}

impl Tries {
    /// How often the request was sent to somebody, or was about to be.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Those who had the request and failed.
    pub(super) fn failed(&self) -> &[Arc<Endpoint>] {
        &self.failed
    }

    pub(super) fn begin(&mut self, current: Option<Busy>, host: Option<HeaderValue>) {
        self.count += 1;
        self.current = current;
        self.host = host;
    }

    /// What the one who gets the request is to see as its host, unless that is the client's.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// The head of an answer is there.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if let Some(current) = &self.current {
            current.0.answered();
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // A tunnel has no end that was agreed on.
            if self.deadline.take().is_some() {
                line::answer_due(None);
            }
        }
    }

    /// Nothing of this attempt may take longer than what is left.
    pub(crate) fn bound(&self, peer: &mut HttpPeer, now: Instant) {
        let Some(deadline) = self.deadline else { return };
        let left = deadline.saturating_duration_since(now).max(WAIT_MIN);
        let options = &mut peer.options;
        let timeouts = [
            &mut options.connection_timeout,
            &mut options.total_connection_timeout,
            &mut options.read_timeout,
            &mut options.write_timeout,
        ];
        for timeout in timeouts {
            *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
    }

    /// # Errors
    /// One of the kind [`TOTAL_TIMEOUT`] when the request's time is over.
    pub(crate) fn check_time(&self) -> pingora::Result<()> {
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(overdue()),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the request from whoever has it. Whether somebody else could have it.
    fn take_away(&mut self, upstream: &UpstreamPeers, fault: Fault, now: Instant) -> bool {
        let Some(Busy(ref endpoint)) = self.current else { return false };
        let endpoint = Arc::clone(endpoint);
        self.current = None;
        match fault {
            Fault::Target => upstream.has_failed(&endpoint, now),
            Fault::Nobody => {}
        }
        self.failed.push(endpoint);
        upstream.has_other(&self.failed, now)
    }

    /// Whether one more attempt is within the bounds. It is counted then.
    fn may_go_on(&self, upstream: &UpstreamPeers, now: Instant) -> bool {
        let settings = upstream.settings();
        let is_over = self.deadline.is_some_and(|deadline| deadline <= now);
        // The first attempt is none of the further ones.
        if self.count > settings.retries || is_over {
            return false;
        }
        let (percent, metrics) = (settings.retry_budget_percent, &upstream.metrics);
        let is_affordable = upstream.state.take_attempt(percent, metrics.answered(), now);
        if is_affordable {
            metrics.retried()
        } else {
            metrics.over_budget()
        }
        is_affordable
    }
}

/// Whose doing a failure is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Target,
    Nobody,
}

fn overdue() -> Box<Error> {
    Error::explain(ErrorType::Custom(TOTAL_TIMEOUT), "the total timeout is over").into_up()
}

/// Chooses who gets the request, for the first time or again.
///
/// # Errors
/// 503 when nobody is well, and [`TOTAL_TIMEOUT`] when it is too late.
pub(crate) fn next(ctx: &mut Context, now: Instant) -> pingora::Result<Box<HttpPeer>> {
    let Context { snapshot, route, tries, admitted, .. } = ctx;
    let upstream = route.and_then(|route| snapshot.upstream_of(route));
    let (Some(upstream), Some(admitted)) = (upstream, admitted) else {
        return Error::e_explain(ErrorType::InternalError, "a request has nowhere to go");
    };
    if let Some(total) = upstream.settings().total_timeout {
        let deadline = *tries.deadline.get_or_insert_with(|| {
            // The timeouts of reading end it before that, with an answer if there can be one.
            let latest = total.saturating_add(CUT_AFTER).as_millis();
            let due = u128::from(line::now_ms()).saturating_add(latest);
            line::answer_due(u64::try_from(due).ok());
            now + total
        });
        if deadline <= now {
            return Err(overdue());
        }
    }
    let caller = Caller { key: admitted.permit.key(), address: admitted.client };
    let chosen = upstream.choose(caller, tries, now);
    chosen.ok_or_else(|| Error::explain(ErrorType::HTTPStatus(503), "no target is healthy"))
}

/// No connection could be made, so nothing was sent: whatever the request is, somebody else may have it.
pub(crate) fn not_connected(ctx: &mut Context, error: &mut Error) {
    let Context { snapshot, route, tries, .. } = ctx;
    let Some(upstream) = route.and_then(|route| snapshot.upstream_of(route)) else {
        return error.set_retry(false);
    };
    upstream.metrics.not_connected();
    let now = Instant::now();
    let is_useful = tries.take_away(upstream, Fault::Target, now);
    error.set_retry(is_useful && tries.may_go_on(upstream, now));
}

/// Something went wrong after there was a connection. `error` says whose doing it was, and whether the
/// upstream promised that it did nothing with the request.
pub(crate) fn broken_off(
    sent: &Sent<'_>,
    ctx: &mut Context,
    error: &mut Error,
    connection: Connection,
) {
    let promised =
        matches!(error.retry, RetryType::Decided(true)) && *error.etype() != ErrorType::InvalidH2;
    // Pingora panics if this stays undecided.
    error.set_retry(false);
    let Context { snapshot, route, tries, status, .. } = ctx;
    let upstream = route.and_then(|route| snapshot.upstream_of(route));
    let (ErrorSource::Upstream, Some(upstream)) = (error.esource(), upstream) else { return };
    if status.is_some() || sent.is_answered {
        return;
    }
    let now = Instant::now();
    let is_slow = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let is_over = *error.etype() == ErrorType::Custom(TOTAL_TIMEOUT);
    if is_over || (is_slow && !sent.is_body_done) {
        // Maybe it is the client that is slow: nobody can tell.
        return;
    }
    // On HTTP/2 nearly every request finds a connection, and one that is refused alone was not idle.
    let is_of_stream = *error.etype() == ErrorType::H2Error;
    let is_quick = !is_slow && !has_stalled(error);
    let was_idle = connection == Connection::Reused && is_quick && !is_of_stream;
    let fault = if promised || was_idle { Fault::Nobody } else { Fault::Target };
    let has_other = tries.take_away(upstream, fault, now);
    let is_harmless = promised || sent.method.is_idempotent();
    // One that was idle too long is no reason to avoid its target.
    let is_useful = has_other || promised || was_idle;
    let again = is_harmless && is_useful && sent.is_kept && tries.may_go_on(upstream, now);
    error.set_retry(again);
}

/// What decides, besides its context, whether a request can be sent again.
pub(crate) struct Sent<'a> {
    pub method: &'a Method,
    /// Whether its client has got anything.
    pub is_answered: bool,
    /// Whether all of its body is here, and whether all that was sent of it is kept.
    pub is_body_done: bool,
    pub is_kept: bool,
}

impl<'a> Sent<'a> {
    pub(crate) fn of(session: &'a mut Session) -> Self {
        Self {
            is_answered: session.response_written().is_some(),
            is_body_done: session.is_body_done(),
            is_kept: !session.retry_buffer_truncated(),
            method: &session.req_header().method,
        }
    }
}

/// What a request was sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    New,
    /// Which the target may have closed just then.
    Reused,
}

impl Connection {
    pub(crate) fn from_reused(is_reused: bool) -> Self {
        if is_reused { Self::Reused } else { Self::New }
    }
}

/// How soon it is worth trying again when nobody is well: checks come at least as often.
pub(crate) const NOBODY_WELL_RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Whoever has the request fails it.
    pub(in crate::upstreams) fn fail(tries: &mut Tries, upstream: &UpstreamPeers, now: Instant) {
        tries.take_away(upstream, Fault::Nobody, now);
    }
}
