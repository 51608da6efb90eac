//! How large bodies may be: those of requests by the server's bound or the route's own, those of answers
//! by the route's. A tunnel has no body.

use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};
use keygate_core::{Code, Denial};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};

use crate::context::Context;
use crate::forward::has_no_body;
use crate::snapshot::Snapshot;

/// What an answer that is too large is called where failures are told.
const TOO_LARGE: ErrorType = ErrorType::new("ResponseTooLarge");

/// Refuses a body whose declared length is too much for the route at this place.
///
/// # Errors
/// [`Denial::PayloadTooLarge`].
pub(crate) fn check_declared(
    length: Option<u64>,
    snapshot: &Snapshot,
    place: usize,
) -> Result<(), Denial> {
    match length {
        Some(length) if length > request_max(snapshot, Some(place)) => Err(Denial::PayloadTooLarge),
        Some(_) | None => Ok(()),
    }
}

/// Counts a piece of a request's body, and holds a body without a declared length to the same bound as
/// one with it.
///
/// # Errors
/// The one that makes a 413.
pub(crate) fn count_request(
    session: &Session,
    ctx: &mut Context,
    piece: usize,
) -> pingora::Result<()> {
    if session.was_upgraded() {
        return Ok(());
    }
    ctx.body_bytes = ctx.body_bytes.saturating_add(piece as u64);
    if ctx.body_bytes > request_max(&ctx.snapshot, ctx.route) {
        let status = ErrorType::HTTPStatus(Code::PayloadTooLarge.status());
        return Err(Error::explain(status, "the body is too large").into_down());
    }
    Ok(())
}

fn request_max(snapshot: &Snapshot, place: Option<usize>) -> u64 {
    let of_route = place.and_then(|place| snapshot.work(place)?.body_bytes_max);
    of_route.unwrap_or(snapshot.config.server.body_bytes_max)
}

/// Refuses an answer that says itself that it is too large: nothing of it has been sent.
///
/// # Errors
/// The one that makes a 502.
pub(crate) fn check_answer(
    ctx: &Context,
    method: &Method,
    response: &ResponseHeader,
) -> pingora::Result<()> {
    let Some(max) = answer_max(ctx) else { return Ok(()) };
    let length = response.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse::<u64>().ok());
    let is_tunnel = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if length.is_some_and(|length| length > max) && !is_tunnel && !has_no_body(method, response) {
        return Err(too_large(ctx));
    }
    Ok(())
}

/// Counts a piece of an answer's body before it is sent. One piece too much, and the answer breaks off:
/// its client must not take what it has for the whole.
///
/// # Errors
/// The one that ends the connection, or the stream.
pub(crate) fn count_answer(
    session: &Session,
    ctx: &mut Context,
    piece: usize,
) -> pingora::Result<()> {
    let Some(max) = answer_max(ctx) else { return Ok(()) };
    if session.was_upgraded() {
        return Ok(());
    }
    ctx.answer_bytes = ctx.answer_bytes.saturating_add(piece as u64);
    if ctx.answer_bytes > max { Err(too_large(ctx)) } else { Ok(()) }
}

fn answer_max(ctx: &Context) -> Option<u64> {
    ctx.work()?.response_bytes_max
}

fn too_large(ctx: &Context) -> Box<Error> {
    if let Some(metrics) = ctx.route.and_then(|place| ctx.snapshot.route_metrics(place)) {
        metrics.answer_too_large();
    }
    Error::explain(TOO_LARGE, "the answer is too large").into_up()
}
