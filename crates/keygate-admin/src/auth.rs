//! Who may call: holders of the admin token, and no browser. Every path but the three that are
//! listed here asks for the token, so that a new one cannot be left open by mistake.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use keygate_core::key::sha256;
use subtle::ConstantTimeEq;

use crate::problem::{Problem, ProblemCode};
use crate::registry::Actor;

/// What probes and Prometheus ask for. Nothing in their answers is anybody's.
pub(crate) const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// How the audit log names the token that the first start wrote.
const TOKEN_ACTOR: &str = "token:bootstrap";
/// A longer credential is no token of ours, and is not hashed.
const TOKEN_LENGTH_MAX: usize = 512;

/// Knows the token's hash.
#[derive(Clone)]
pub(crate) struct Guard {
    token_sha256: Arc<[u8; 32]>,
}

impl Guard {
    pub(crate) fn new(token_sha256: [u8; 32]) -> Self {
        Self { token_sha256: Arc::new(token_sha256) }
    }

    /// # Errors
    /// 401, the same for every reason but that no token was sent at all.
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (sent.next(), sent.next());
        let Some(first) = first else {
            let detail = "Send the admin token as `Authorization: Bearer <token>`. \
                          It is in the file that `[admin] token_file` names.";
            return Err(unauthorized(detail, "Bearer realm=\"keygate-admin\""));
        };
        let presented = bearer(first.as_bytes()).filter(|_| more.is_none());
        // Comparing hashes leaves no time to learn from, whatever the lengths.
        let known = presented.is_some_and(|token| sha256(token).ct_eq(&*self.token_sha256).into());
        if known {
            return Ok(());
        }
        let challenge = "Bearer realm=\"keygate-admin\", error=\"invalid_token\"";
        Err(unauthorized("The admin token is not valid.", challenge))
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
    if let Err(problem) = guard.check(request.headers()) {
        return problem.into_response();
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = peer.map(|ConnectInfo(address)| address.ip().to_canonical());
    request.extensions_mut().insert(Actor { name: TOKEN_ACTOR.to_owned(), from });
    next.run(request).await
}
