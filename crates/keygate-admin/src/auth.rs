//! Who may call: holders of the admin token, and no browser. Every path but the four that are
//! listed here asks for the token, so that a new one cannot be left open by mistake.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use keygate_core::key::sha256;
use keygate_core::network::ClientNetwork;
use keygate_store::failures::FailureLimiter;
use keygate_store::records::Role;
use subtle::ConstantTimeEq;

use crate::problem::{Problem, ProblemCode};
use crate::registry::Actor;

/// What probes and Prometheus ask for, and what the API can do. Nothing in their answers is
/// anybody's.
pub(crate) const OPEN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/openapi.json"];
/// How the audit log names the token that the first start wrote.
const TOKEN_ACTOR: &str = "token:bootstrap";
/// A longer credential is no token of ours, and is not hashed.
const TOKEN_LENGTH_MAX: usize = 512;

/// The shortest time between two lines about wrong tokens.
const ALARM_EVERY: Duration = Duration::from_secs(1);

/// Knows the token's hash, and who has sent wrong ones.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Inner>);

struct Inner {
    token_sha256: [u8; 32],
    failures: Arc<FailureLimiter>,
    alarm: Alarm,
    /// The zero of the times that the limiter and the alarm are told.
    start: Instant,
}

impl Guard {
    pub(crate) fn new(token_sha256: [u8; 32], failures: Arc<FailureLimiter>) -> Self {
        let (alarm, start) = (Alarm::default(), Instant::now());
        Self(Arc::new(Inner { token_sha256, failures, alarm, start }))
    }

    /// # Errors
    /// 401, the same for every reason but that no token was sent at all; 429 to who has sent too
    /// many wrong ones. The right token always works.
    fn check(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Result<(), Problem> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (sent.next(), sent.next());
        let Some(first) = first else {
            let detail = "Send the admin token as `Authorization: Bearer <token>`. \
                          It is in the file that `[admin] token_file` names.";
            return Err(unauthorized(detail, "Bearer realm=\"keygate-admin\""));
        };
        let presented = bearer(first.as_bytes()).filter(|_| more.is_none());
        // Comparing hashes leaves no time to learn from, whatever the lengths.
        let ours = &self.0.token_sha256;
        let known = presented.is_some_and(|token| sha256(token).ct_eq(ours).into());
        if known {
            return Ok(());
        }
        Err(self.refuse_wrong_token(from))
    }

    fn refuse_wrong_token(&self, from: Option<IpAddr>) -> Problem {
        let Inner { failures, alarm, start, .. } = &*self.0;
        let now_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(more) = alarm.raise(now_ns) {
            let peer = from.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
            tracing::warn!(peer, more, "a wrong admin token was sent");
        }
        let client = from.map(ClientNetwork::from);
        if let Some(wait) = client.and_then(|client| failures.blocked_for(client, now_ns)) {
            let detail = "Wait, then send the right token: it works at any time.";
            return Problem::new(ProblemCode::TooManyFailures, detail).retry_after(wait);
        }
        if let Some(client) = client {
            failures.record(client, now_ns);
        }
        let challenge = "Bearer realm=\"keygate-admin\", error=\"invalid_token\"";
        unauthorized("The admin token is not valid.", challenge)
    }
}

/// Says when to write a line, so that whoever guesses cannot fill the log.
#[derive(Default)]
struct Alarm {
    /// When the last line was written, and one more; 0 if none was.
    last_ns: AtomicU64,
    unsaid: AtomicU64,
}

impl Alarm {
    /// Counts one occurrence. If it is time for a line: how many others there were since the last.
    fn raise(&self, now_ns: u64) -> Option<u64> {
        let last = self.last_ns.load(Relaxed);
        let every = u64::try_from(ALARM_EVERY.as_nanos()).unwrap_or(u64::MAX);
        let is_time = last == 0 || now_ns.saturating_sub(last - 1) >= every;
        let next = now_ns.saturating_add(1);
        let ours = is_time && self.last_ns.compare_exchange(last, next, Relaxed, Relaxed).is_ok();
        if ours {
            return Some(self.unsaid.swap(0, Relaxed));
        }
        self.unsaid.fetch_add(1, Relaxed);
        None
    }
}

fn unauthorized(detail: &'static str, challenge: &'static str) -> Problem {
    Problem::new(ProblemCode::Unauthorized, detail).challenged(challenge)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    let fits = (1..=TOKEN_LENGTH_MAX).contains(&token.len());
    (scheme.eq_ignore_ascii_case(b"bearer ") && fits).then_some(token)
}

/// Lets a request through, with the [`Actor`] that it is made by, or answers it.
pub(crate) async fn guard(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    // A page in the operator's browser could reach a listener on loopback; programs send no origin.
    if request.headers().contains_key(ORIGIN) {
        let detail = "Call it from a program, without an `Origin` header.";
        return Problem::new(ProblemCode::BrowserNotAllowed, detail).into_response();
    }
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = peer.map(|ConnectInfo(address)| address.ip().to_canonical());
    if let Err(problem) = guard.check(request.headers(), from) {
        return problem.into_response();
    }
    request.extensions_mut().insert(Actor {
        name: TOKEN_ACTOR.to_owned(),
        from,
        role: Role::Admin,
    });
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_writes_one_line_a_second_that_says_how_many() {
        const SECOND: u64 = 1_000_000_000;
        let alarm = Alarm::default();
        assert_eq!(alarm.raise(0), Some(0));
        for now in 1..=99 {
            assert_eq!(alarm.raise(now), None);
        }
        assert_eq!(alarm.raise(SECOND), Some(99));
        assert_eq!(alarm.raise(2 * SECOND - 1), None);
        assert_eq!(alarm.raise(2 * SECOND), Some(1));
    }
}
