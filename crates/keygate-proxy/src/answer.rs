//! How the gateway itself answers: refusals and failures, and the answers that routes give. Keeps the
//! connection where that is safe, whatever the client is still sending.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Version};
use keygate_core::{Access, Denial};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use crate::context::Context;
use crate::forward::X_REQUEST_ID;
use crate::limits::Told;
use crate::report;
use crate::respond::{Problem, is_grpc, write_grpc};
use crate::route_work::RouteWork;
use crate::trace;

/// How much of a refused upload is read, so that its sender stops writing and sees the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// A refused body up to this size costs less than a new connection: it is read, and the
/// connection is kept.
const KEEP_BODY_BYTES_MAX: u64 = 64 << 10;

/// Says why a request is refused.
///
/// # Errors
/// Pingora's, when the client is gone.
pub(crate) async fn refuse(
    session: &mut Session,
    ctx: &mut Context,
    denial: &Denial,
) -> pingora::Result<()> {
    report::refused(session, ctx);
    let scopes = ctx.route().and_then(|route| match &route.access {
        Access::Key(access) => Some(&access.scopes),
        Access::Public(_) => None,
    });
    let problem = Problem::of_denial(denial, scopes).telling(std::mem::take(&mut ctx.told));
    let request_id = request_id(ctx);
    let (id, code) = (request_id.to_str().unwrap_or_default(), problem.code.as_str());
    tracing::debug!(request_id = id, code, reason = ?denial, "request refused");
    tell(session, ctx, problem).await
}

/// Answers with a problem. A page that may use the route may read why not.
///
/// # Errors
/// Pingora's, when the client is gone.
pub(crate) async fn tell(
    session: &mut Session,
    ctx: &mut Context,
    problem: Problem,
) -> pingora::Result<()> {
    let request_id = request_id(ctx);
    let cors = ctx.work().and_then(|work| work.cors.as_ref());
    let problem = match cors {
        Some(cors) => problem.readable(cors.on_answer(&session.req_header().headers).collect()),
        None => problem,
    };
    if !is_grpc(session) {
        let (head, body) = problem.answer(&request_id)?;
        return send(session, ctx, head, body).await;
    }
    let unread = UnreadBody::prepare(session);
    write_grpc(session, &problem, &request_id)?;
    unread.discard(session, ctx).await;
    Ok(())
}

/// Gives the answer of a route that has one, to a request that was admitted. No upstream gets it, so it
/// costs its key nothing. Returns whether the route has one.
///
/// # Errors
/// Pingora's, when the client is gone.
pub(crate) async fn answered_by_route(
    session: &mut Session,
    ctx: &mut Context,
    told: impl FnOnce(&Context) -> Told,
) -> pingora::Result<bool> {
    let Some((mut head, body)) = ctx.work().and_then(RouteWork::answer).transpose()? else {
        return Ok(false);
    };
    ctx.end_charge();
    report::admitted(ctx);
    head.insert_header(X_REQUEST_ID, request_id(ctx))?;
    for (name, value) in told(ctx).headers() {
        head.insert_header(name, value)?;
    }
    if let Some(work) = ctx.work() {
        work.change_answer(&session.req_header().headers, &mut head)?;
    }
    send(session, ctx, head, body).await?;
    Ok(true)
}

fn request_id(ctx: &mut Context) -> HeaderValue {
    ctx.request_id.get_or_insert_with(trace::new_request_id).clone()
}

/// Sends a whole answer, and its head alone to HEAD.
///
/// # Errors
/// Pingora's, when the client is gone.
pub(crate) async fn send(
    session: &mut Session,
    ctx: &mut Context,
    head: ResponseHeader,
    body: Bytes,
) -> pingora::Result<()> {
    let unread = UnreadBody::prepare(session);
    let has_body = !body.is_empty() && session.req_header().method != Method::HEAD;
    session.write_response_header(Box::new(head)).await?;
    if has_body {
        report::moved(ctx, 0, body.len());
        session.write_response_body(body, true).await?;
    }
    unread.discard(session, ctx).await;
    Ok(())
}

/// What the client is still sending while it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnreadBody {
    None,
    /// Short enough to read and go on with the next request.
    Small,
    /// Read within a bound, so that the client can read the answer; then the connection closes.
    Large,
}

impl UnreadBody {
    /// To be called before an answer is written.
    fn prepare(session: &mut Session) -> Self {
        let unread = Self::of(session);
        if unread == Self::Small {
            session.set_close_on_response_before_downstream_finish(false);
        }
        unread
    }

    /// To be called after it.
    async fn discard(self, session: &mut Session, ctx: &mut Context) {
        if self != Self::None {
            discard_body(session, ctx).await;
        }
    }

    fn of(session: &mut Session) -> Self {
        let request = session.req_header();
        let expects = request.headers.contains_key(EXPECT);
        let chunked = request.headers.contains_key(TRANSFER_ENCODING);
        let length = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse::<u64>().ok());
        let is_h2 = request.version == Version::HTTP_2;
        match length {
            Some(0) => Self::None,
            // Who waits for `100 Continue` sends no body once refused: reading on would take the
            // next request for one.
            Some(length) if length <= KEEP_BODY_BYTES_MAX && !expects => Self::Small,
            Some(_) => Self::Large,
            None if chunked => Self::Large,
            None if is_h2 && !session.is_body_done() => Self::Large,
            None => Self::None,
        }
    }
}

async fn discard_body(session: &mut Session, ctx: &mut Context) {
    let read = async {
        let mut bytes = 0;
        loop {
            match session.read_request_body().await {
                Ok(Some(piece)) => {
                    bytes += piece.len();
                    report::discarded(ctx, piece.len());
                    if bytes > DISCARD_BYTES_MAX {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(_) => {
                    // Behind a fault in chunks, what follows is thrown away in one more reading.
                    drop(session.read_request_body().await);
                    return false;
                }
            }
        }
    };
    let finished = tokio::time::timeout(DISCARD_TIMEOUT, read).await.unwrap_or(false);
    if !finished {
        session.set_keepalive(None);
    }
}
