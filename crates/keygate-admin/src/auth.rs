//! Who may call: holders of an admin token, and no browser. Every path but the four that are listed
//! here asks for a token, so that a new one cannot be left open by mistake.

mod alarm;
mod proven;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use keygate_core::key::sha256;
use keygate_core::limit::Gcra;
use keygate_core::network::ClientNetwork;
use keygate_core::{AccountId, AppId, KeyId, TokenId};
use keygate_store::failures::FailureLimiter;
use keygate_store::keys::KeyStore;
use keygate_store::records::Role;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::alarm::Alarm;
use self::proven::Proven;
use crate::problem::{Problem, ProblemCode, method_name};
use crate::refused::{Attempt, Refusals};
use crate::registry::tokens::has_shape_of_token;
use crate::registry::{Actor, Registry};

/// What probes and Prometheus ask for, and what the API can do. Nothing in their answers is
/// anybody's.
pub(crate) const OPEN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/openapi.json"];
/// They ask, and change nothing, whatever their method.
const QUESTIONS: [&str; 2] = ["/v1/keys/verify", "/v1/explain"];
/// How the audit log names the token that the first start wrote.
const TOKEN_ACTOR: &str = "token:bootstrap";
/// A longer credential is no token of ours, and is not hashed.
const TOKEN_LENGTH_MAX: usize = 512;
/// The most look-ups of tokens at one time: whoever guesses must not keep the store busy.
const LOOKUPS_MAX: usize = 32;
/// The look-ups a second for all addresses that have sent too many wrong tokens: a gateway that has just
/// started knows no token that was right before, and keeps nobody out for long whose neighbour guesses.
const BLOCKED_LOOKUPS: u64 = 4;
/// How long a request waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Knows the hash of the first token, whom to ask about others, and who has sent wrong ones.
pub(crate) struct Guard<S: KeyStore>(Arc<Inner<S>>);

impl<S: KeyStore> Clone for Guard<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S: KeyStore> {
    token_sha256: [u8; 32],
    registry: Registry<S>,
    refusals: Refusals,
    failures: Arc<FailureLimiter>,
    /// Tokens that were right: they are looked up for an address that sends too many wrong ones, too.
    proven: Proven,
    /// What is left of [`BLOCKED_LOOKUPS`].
    blocked_lookups: Mutex<u64>,
    lookups: Semaphore,
    wrong: Alarm,
    unasked: Alarm,
    /// The zero of the times that the limiter and the alarms are told.
    start: Instant,
}

impl<S: KeyStore> Guard<S> {
    pub(crate) fn new(
        token_sha256: [u8; 32],
        failures: Arc<FailureLimiter>,
        registry: Registry<S>,
        refusals: Refusals,
    ) -> Self {
        Self(Arc::new(Inner {
            token_sha256,
            registry,
            refusals,
            failures,
            proven: Proven::default(),
            blocked_lookups: Mutex::default(),
            lookups: Semaphore::new(LOOKUPS_MAX),
            wrong: Alarm::default(),
            unasked: Alarm::default(),
            start: Instant::now(),
        }))
    }

    /// Who makes a request with these headers.
    ///
    /// # Errors
    /// 401, the same for every reason but that no token was sent at all; 429 to who has sent too many
    /// wrong ones; 503 if the store cannot say. The first token, and one that was right before, are
    /// never refused for what others behind the same address send.
    async fn check(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Result<Actor, Refusal> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (sent.next(), sent.next());
        let Some(first) = first else {
            let detail = "Send an admin token as `Authorization: Bearer <token>`. \
                          The first one is in the file that `[admin] token_file` names.";
            let challenge = "Bearer realm=\"keygate-admin\"";
            return Err(Refusal::silent(unauthorized(detail, challenge)));
        };
        let presented = bearer(first.as_bytes()).filter(|_| more.is_none());
        let Some(presented) = presented else { return Err(self.refuse_wrong_token(from)) };
        let hash = sha256(presented);
        // Comparing hashes leaves no time to learn from, whatever the lengths.
        if hash.ct_eq(&self.0.token_sha256).into() {
            return Ok(Actor { name: TOKEN_ACTOR.to_owned(), from, role: Role::Admin });
        }
        if !has_shape_of_token(presented) || !self.may_look_up(from, &hash) {
            return Err(self.refuse_wrong_token(from));
        }
        match self.look_up(hash).await? {
            Some((id, role)) => {
                self.0.proven.add(hash);
                Ok(Actor { name: format!("token:{id}"), from, role })
            }
            None => {
                self.0.proven.remove(&hash);
                Err(self.refuse_wrong_token(from))
            }
        }
    }

    async fn look_up(&self, hash: [u8; 32]) -> Result<Option<(TokenId, Role)>, Refusal> {
        let Inner { lookups, registry, .. } = &*self.0;
        // Held until the store has answered. A caller that goes away gives it back.
        let Ok(Ok(_turn)) = timeout(TURN_WAIT_MAX, lookups.acquire()).await else {
            return Err(self.refuse_unasked("too many tokens are being looked up"));
        };
        registry
            .holder_of(hash)
            .await
            .map_err(|error| self.refuse_unasked(&crate::problem::chain(&error)))
    }

    /// Nobody knows whether the token is right: that is never a 401.
    fn refuse_unasked(&self, cause: &str) -> Refusal {
        if let Some(more) = self.0.unasked.raise(self.now_ns()) {
            tracing::error!(cause, more, "an admin token could not be looked up");
        }
        let detail = "The store could not be asked about the admin token. Try again shortly.";
        let problem = Problem::new(ProblemCode::StoreUnavailable, detail).retry_after(RETRY_AFTER);
        Refusal::silent(problem)
    }

    fn may_look_up(&self, from: Option<IpAddr>, hash: &[u8; 32]) -> bool {
        !self.is_blocked(from) || self.0.proven.has(hash) || self.takes_blocked_lookup()
    }

    fn takes_blocked_lookup(&self) -> bool {
        let ration = Gcra::new(BLOCKED_LOOKUPS, Duration::from_secs(1), BLOCKED_LOOKUPS);
        let mut state = self.0.blocked_lookups.lock().unwrap_or_else(PoisonError::into_inner);
        match ration.take(*state, self.now_ns(), 1) {
            Ok(next) => {
                *state = next;
                true
            }
            Err(_) => false,
        }
    }

    fn is_blocked(&self, from: Option<IpAddr>) -> bool {
        let client = from.map(ClientNetwork::from);
        client.is_some_and(|client| self.0.failures.blocked_for(client, self.now_ns()).is_some())
    }

    fn refuse_wrong_token(&self, from: Option<IpAddr>) -> Refusal {
        let Inner { failures, wrong, .. } = &*self.0;
        let now_ns = self.now_ns();
        if let Some(more) = wrong.raise(now_ns) {
            let peer = from.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
            tracing::warn!(peer, more, "a wrong admin token was sent");
        }
        let client = from.map(ClientNetwork::from);
        if let Some(wait) = client.and_then(|client| failures.blocked_for(client, now_ns)) {
            let detail =
                "Wait, then send the right token. One that was right before works at any time.";
            let problem = Problem::new(ProblemCode::TooManyFailures, detail).retry_after(wait);
            return Refusal::noted(problem);
        }
        if let Some(client) = client {
            failures.record(client, now_ns);
        }
        let challenge = "Bearer realm=\"keygate-admin\", error=\"invalid_token\"";
        Refusal::noted(unauthorized("The admin token is not valid.", challenge))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Has an attempt written down that was refused.
    fn note(&self, asked: Asked, actor: Option<String>, problem: &Problem) {
        let (at, code) = (self.0.registry.now(), problem.code());
        let Asked { subject, from, .. } = asked;
        self.0.refusals.note(Attempt { at, actor, subject, code, from });
    }
}

/// A request that was not let in.
struct Refusal {
    problem: Problem,
    /// Whether that is worth an entry in the audit log.
    is_noted: bool,
}

impl Refusal {
    fn noted(problem: Problem) -> Self {
        Self { problem, is_noted: true }
    }

    fn silent(problem: Problem) -> Self {
        Self { problem, is_noted: false }
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

/// What is known of a request once it has gone on to its handler.
struct Asked {
    subject: String,
    /// Whether it would change something.
    is_change: bool,
    from: Option<IpAddr>,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        // The pattern, never the path: a path holds whatever the caller put there, such as a key.
        let route = request.extensions().get::<MatchedPath>();
        let route = route.map_or("none", MatchedPath::as_str);
        let method = method_name(request.method());
        let id = request.uri().path().split('/').find(|part| is_id(part));
        let shown = id.map_or_else(|| route.to_owned(), |id| route.replacen("{id}", id, 1));
        Self {
            subject: format!("{method} {shown}"),
            is_change: !matches!(method, "GET" | "HEAD") && !QUESTIONS.contains(&route),
            from: peer.map(|ConnectInfo(address)| address.ip().to_canonical()),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.parse::<KeyId>().is_ok()
        || text.parse::<AppId>().is_ok()
        || text.parse::<AccountId>().is_ok()
        || text.parse::<TokenId>().is_ok()
}

/// Lets a request through, with the [`Actor`] that it is made by, or answers it. Has written down what
/// was refused, here or later.
pub(crate) async fn guard<S: KeyStore>(
    State(guard): State<Guard<S>>,
    mut request: Request,
    next: Next,
) -> Response {
    let asked = Asked::of(&request);
    // A page in the operator's browser could reach a listener on loopback; programs send no origin.
    if request.headers().contains_key(ORIGIN) {
        let detail = "Call it from a program, without an `Origin` header.";
        let problem = Problem::new(ProblemCode::BrowserNotAllowed, detail);
        guard.note(asked, None, &problem);
        return problem.into_response();
    }
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let actor = match guard.check(request.headers(), asked.from).await {
        Ok(actor) => actor,
        Err(Refusal { problem, is_noted }) => {
            if is_noted {
                guard.note(asked, None, &problem);
            }
            return problem.into_response();
        }
    };
    let name = actor.name.clone();
    request.extensions_mut().insert(actor);
    let response = next.run(request).await;
    let (status, problem) = (response.status(), response.extensions().get::<Problem>());
    let is_refused = status.as_u16() == 403 || (asked.is_change && status.is_client_error());
    if let Some(problem) = problem.filter(|_| is_refused) {
        guard.note(asked, Some(name), problem);
    }
    response
}
