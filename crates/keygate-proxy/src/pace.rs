//! How long a request's body may take, and what is watched once it is whole.

use std::time::Duration;

use http::StatusCode;
use keygate_telemetry::Metrics;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorSource, ErrorType};

use crate::context::Context;
use crate::line;

/// Bounds the wait for each piece of an admitted request's body, if it has one.
pub(crate) fn expect(session: &mut Session, ctx: &Context) {
    let timeout = ctx.snapshot.config.server.body_timeout;
    if session.is_http2() {
        if !session.is_body_done() {
            line::body_due(due(timeout));
        }
    } else {
        session.set_read_timeout(Some(timeout));
    }
}

/// Waits for the end of a stream of HTTP/2 that promises an empty body: Pingora believes that, and an
/// upstream would have the whole request before more than nothing is seen.
///
/// # Errors
/// Pingora's, when there is more, or the client is gone.
pub(crate) async fn see_the_end(session: &mut Session, ctx: &Context) -> pingora::Result<()> {
    line::body_due(due(ctx.snapshot.config.server.body_timeout));
    while session.read_request_body().await.map_err(|error| error.into_down())?.is_some() {}
    line::body_due(line::NEVER);
    Ok(())
}

/// What comes through a tunnel is no body. Until there is one, a request that only asks for it has a
/// body like any other.
pub(crate) fn answered(session: &mut Session, status: StatusCode) {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        session.set_read_timeout(None);
    }
}

/// Takes note of a piece that came.
pub(crate) async fn note(session: &Session, ctx: &Context, is_last: bool) {
    if session.was_upgraded() {
        return;
    }
    if session.is_http2() {
        // Pingora has no such timeout for HTTP/2. What it has for HTTP/1 does not count the time in
        // which the upstream takes nothing; this does.
        let timeout = ctx.snapshot.config.server.body_timeout;
        line::body_due(if is_last { line::NEVER } else { due(timeout) });
    }
    if is_last && ctx.body_bytes > 0 {
        // If this last piece fills the pipe to the upstream, Pingora forgets to watch for a client
        // that leaves. From here on the line does.
        line::uploaded();
        if session.is_http2() {
            // Nobody but Pingora sees a stream's reset. The pipe's other end has its turn here, and
            // makes room, so that Pingora looks.
            tokio::task::yield_now().await;
        }
    }
}

/// Counts a failure that is a slow client's.
pub(crate) fn tell_if_slow(error: &Error, metrics: &Metrics) {
    if *error.esource() == ErrorSource::Downstream && *error.etype() == ErrorType::ReadTimedout {
        metrics.connections().slow_body();
    }
}

fn due(timeout: Duration) -> u64 {
    line::now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}
