//! How large bodies may be: those of requests by the server's bound or the route's own, those of answers
//! by the route's. A tunnel has no body. And over HTTP/2, that a body is as long as its head says.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode, Version};
use keygate_core::{Code, Denial};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};

use crate::context::{Context, Promise};
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

/// What the length of a body over HTTP/2 promises; over HTTP/1 it is how long the body is.
pub(crate) fn promise(head: &RequestHeader, length: Option<u64>) -> Option<Promise> {
    let is_http2 = head.version == Version::HTTP_2;
    length.filter(|_| is_http2).map(|length| Promise { length, held: None })
}

/// Keeps the piece that makes a body over HTTP/2 as long as promised until its stream has ended: if that
/// goes on, the request is malformed (RFC 9113 section 8.1.1) and its stream reset, and an upstream must
/// not have the whole of it by then.
pub(crate) fn hold_back(body: &mut Option<Bytes>, is_end: bool, ctx: &mut Context) {
    let Some(promise) = &mut ctx.promise else { return };
    if is_end || body.is_none() {
        // Nothing is held back when the end comes with a piece: what is longer than promised has none.
        let held = promise.held.take();
        if body.as_ref().is_none_or(Bytes::is_empty) && held.is_some() {
            *body = held;
        }
    } else if ctx.body_bytes >= promise.length
        && let Some(piece) = body
        && !piece.is_empty()
    {
        promise.held = Some(std::mem::take(piece));
    }
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
