//! How the admin API says no: RFC 9457, one code for each reason. The codes are in `problem/code.rs`.

mod code;

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use keygate_store::keys::StoreError;
use keygate_telemetry::logging::mask;
use keygate_telemetry::{AdminMetrics, AdminOutcome};
use serde_json::{Map, Value, json};

pub(crate) use self::code::ProblemCode;

use crate::auth::OPEN_PATHS;
use crate::limits;
use crate::registry::{Made, RegistryError, Retire, list};
use crate::times;

/// The most of a detail that is sent, in characters: some of them quote the request.
const DETAIL_LENGTH_MAX: usize = 400;
const REQUEST_ID_LENGTH_MAX: usize = 128;
/// When a caller may try again what the store did not do.
const RETRY_AFTER_STORE: Duration = Duration::from_secs(1);
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What an answer says besides.
#[derive(Clone, Copy, Debug)]
enum ProblemHeader {
    Challenge(&'static str),
    RetryAfter { seconds: u64 },
}

/// One refusal. Becomes an answer in [`finish`], which knows the request's id.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    code: ProblemCode,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    header: Option<ProblemHeader>,
    /// For the log alone.
    cause: Option<Arc<RegistryError>>,
}

impl Problem {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), members: Map::new(), header: None, cause: None }
    }

    /// A field's value breaks a rule. The detail says the rule, never the value.
    pub(crate) fn field(field: &'static str, rule: impl std::fmt::Display) -> Self {
        Self::new(ProblemCode::InvalidField, format!("`{field}`: {rule}.")).with("field", field)
    }

    /// For an answer that tells of several.
    pub(crate) fn code(&self) -> &'static str {
        self.code.row().0
    }

    pub(crate) fn detail(&self) -> String {
        mask(&self.detail).chars().take(DETAIL_LENGTH_MAX).collect()
    }

    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    pub(crate) fn challenged(mut self, challenge: &'static str) -> Self {
        self.header = Some(ProblemHeader::Challenge(challenge));
        self
    }

    /// `wait` is rounded up to whole seconds, all that the header can say.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header = Some(ProblemHeader::RetryAfter { seconds });
        self
    }

    fn body(&self, request_id: &str) -> String {
        let (code, status, title) = self.code.row();
        let mut body = Map::new();
        body.insert("type".into(), format!("urn:keygate:problem:{code}").into());
        body.insert("title".into(), title.into());
        body.insert("status".into(), status.as_u16().into());
        body.insert("detail".into(), self.detail().into());
        body.insert("code".into(), code.into());
        body.insert("request_id".into(), request_id.into());
        body.extend(self.members.clone());
        Value::Object(body).to_string()
    }

    fn log(&self, request_id: &str) {
        if let Some(cause) = &self.cause {
            let chain = chain(&**cause);
            tracing::error!(request_id, cause = chain, "an admin request failed");
        }
    }
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, _) = self.code.row();
        let mut response = status.into_response();
        let headers = response.headers_mut();
        match self.header {
            Some(ProblemHeader::Challenge(challenge)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Some(ProblemHeader::RetryAfter { seconds }) => {
                headers.insert(RETRY_AFTER, seconds.into());
            }
            None => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer: gives the request an id, writes problems out, and keeps every answer out of
/// caches.
pub(crate) async fn finish(
    State(metrics): State<AdminMetrics>,
    request: Request,
    next: Next,
) -> Response {
    let request_id = request_id(&request);
    // The pattern, never the path: a path holds whatever the caller put there, such as a key.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = method_name(request.method());
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.log(&request_id);
        *response.body_mut() = Body::from(problem.body(&request_id));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // The length of what the body was before.
        headers.remove(CONTENT_LENGTH);
    }
    let status = response.status();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    if !OPEN_PATHS.contains(&route) {
        metrics.count(outcome(status));
    }
    tracing::debug!(method, route, status = status.as_u16(), request_id, "admin request");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::try_from(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    response
}

/// A method is any word that the caller likes.
pub(crate) fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn outcome(status: StatusCode) -> AdminOutcome {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => AdminOutcome::Unauthorized,
        status if status.is_server_error() => AdminOutcome::Failed,
        status if status.is_client_error() => AdminOutcome::Refused,
        _ => AdminOutcome::Ok,
    }
}

/// The client's id for the request if it is usable, or a new one.
fn request_id(request: &Request) -> String {
    let usable = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            // It is repeated in the answer and in the log.
            && matches!(mask(id), Cow::Borrowed(_))
    };
    let sent = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
    sent.filter(usable).map_or_else(new_request_id, ToOwned::to_owned)
}

fn new_request_id() -> String {
    let mut bytes = [0; 16];
    // An id of zeros is no worse than no answer, and nothing depends on its being unique.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; 16];
    }
    format!("{:032x}", u128::from_be_bytes(bytes))
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        use ProblemCode as C;
        match &error {
            RegistryError::NotFound(what) => {
                Self::new(C::NotFound, format!("{what} does not exist. Check the id."))
            }
            RegistryError::Conflict => {
                Self::new(C::Conflict, "Others keep changing the same record. Try again.")
            }
            RegistryError::AlreadyExists => Self::new(C::Conflict, "The record exists already."),
            RegistryError::Forbidden { needs } => {
                let detail = format!("Your token's role does not allow this: it needs `{needs}`.");
                Self::new(C::Forbidden, detail).with("required_role", *needs)
            }
            RegistryError::PreconditionFailed => Self::new(
                C::PreconditionFailed,
                "The record is at another version than `If-Match` says: somebody has changed it. Read it \
                 again, see whether your change still fits, and send that with the new `ETag`.",
            ),
            RegistryError::RequestReused => Self::new(
                C::IdempotencyKeyReused,
                "Another request was sent with this `Idempotency-Key` within 24 hours. Send a new key with \
                 each new request.",
            ),
            RegistryError::NeverShown => Self::new(
                C::KeyNotShown,
                "What the first call with this `Idempotency-Key` made is revoked: it could not be sure that \
                 it lasts. Send the call with another `Idempotency-Key`.",
            ),
            RegistryError::TokenRevoked => Self::new(
                C::KeyNotShown,
                "The admin token that the first call with this `Idempotency-Key` made is revoked by now, by an \
                 operator or because that call could not be sure that it lasts. For a new token, send the \
                 call with another `Idempotency-Key`.",
            ),
            RegistryError::KeyNotActive { status } => Self::new(
                C::KeyNotActive,
                format!(
                    "The key is {status}, and only an active one can be rotated. Create a new one."
                ),
            ),
            RegistryError::KeyRotated { to } => Self::new(
                C::KeyRotated,
                format!("The key has a successor already: {to}. Rotate that one."),
            )
            .with("rotated_to", to.to_string()),
            RegistryError::EndOnlyEarlier => Self::field(
                "expires_at",
                "the key has a successor: its end can only be moved earlier",
            ),
            RegistryError::BeyondMaxAge { latest, max_age } => {
                let (age, latest) = (times::in_words(*max_age), times::rfc3339(*latest));
                let why = format!(
                    "by the `max_age` of its tier or app the key may get {age} old: write a time up to \
                     {latest}"
                );
                Self::field("expires_at", why).with("latest", latest)
            }
            RegistryError::KeyRevoked => {
                Self::new(C::KeyRevoked, "A revoked key cannot be changed. Create a new one.")
            }
            RegistryError::ScopeNotGranted(scopes) => {
                let names: Vec<&str> = scopes.iter().map(keygate_core::Scope::as_str).collect();
                let detail = format!(
                    "Not granted to the app: {}. Grant it to the app first, or leave it out.",
                    list(scopes)
                );
                Self::new(C::ScopeNotGranted, detail).with("scopes", json!(names))
            }
            RegistryError::UnknownTier { known } => {
                let detail = match known.as_slice() {
                    [] => "The configuration has no tiers; add `[tiers.NAME]` to it.".to_owned(),
                    known => format!("Use one of the configuration's tiers: {}.", known.join(", ")),
                };
                Self::new(C::UnknownTier, detail).with("field", "tier")
            }
            RegistryError::InvalidLimits(error) => Self::field(limits::field(*error), error),
            RegistryError::NoLimits => Self::new(
                C::NoLimits,
                "There is nothing to reset: neither the key nor a tier of the configuration that it is \
                 in has limits.",
            ),
            RegistryError::SharedTier { tier } => {
                let why = format!(
                    "tier `{tier}` shares its limits among the keys of an app or account: put this \
                     key into another tier to limit it by itself"
                );
                Self::field("limits", why)
            }
            RegistryError::UnknownAccount(id) => {
                Self::field("accounts", format!("{id} does not exist"))
            }
            RegistryError::ExpiryInPast => {
                Self::field("expires_at", "write a time to come; to end a key now, revoke it")
            }
            RegistryError::OriginsNeedPublishableKey => {
                Self::field("allowed_origins", "only publishable keys (kind pk) have origins")
            }
            RegistryError::TooManyLiveKeys { live, most, retire } => {
                too_many_live_keys(*live, *most, retire.as_deref())
            }
            RegistryError::TooMuchUsage { windows, keys, most } => {
                let detail = format!(
                    "That is {windows} windows of {keys} keys, and one answer adds up {most} at most. Ask for a \
                     shorter time, for longer windows (`by=day`), or for an app or a key."
                );
                Self::new(C::BadRequest, detail)
            }
            RegistryError::TooManyKeysForUsage { most } => {
                let detail =
                    format!("It has more than {most} keys. Ask for each app, or for keys.");
                Self::new(C::BadRequest, detail)
            }
            RegistryError::UsageNotKept { setting } => {
                let detail = format!(
                    "Use is not kept that finely: `{setting}` is `0s` in `[usage]`. Ask for longer windows \
                     (`by=day`)."
                );
                Self::new(C::BadRequest, detail)
            }
            RegistryError::NotDurable { made, replicas, wanted } => {
                not_durable(*made, *replicas, *wanted).caused_by(error)
            }
            RegistryError::Store(store) => store_problem(store).caused_by(error),
            RegistryError::NoRandomness(_) | RegistryError::BrokenOff => {
                Self::new(C::Internal, "Tell the operator the request id.").caused_by(error)
            }
        }
    }
}

impl Problem {
    fn caused_by(mut self, error: RegistryError) -> Self {
        self.cause = Some(Arc::new(error));
        self
    }
}

/// Says which key to give up.
fn too_many_live_keys(live: u32, most: u32, retire: Option<&Retire>) -> Problem {
    let first = match live.saturating_sub(most).saturating_add(1) {
        1 => "one".to_owned(),
        too_many => too_many.to_string(),
    };
    let most = format!("The app has {live} live keys; the most is {most}. Revoke {first} first");
    let Some(Retire { id, hint, name, last_used_at }) = retire else {
        return Problem::new(ProblemCode::TooManyLiveKeys, format!("{most}."));
    };
    let since = match last_used_at {
        Some(at) => format!("was last used at {}", times::rfc3339(*at)),
        None => "was not used that anybody knows".to_owned(),
    };
    let detail = format!("{most}, such as {id} ({hint}…), which {since}.");
    let last_used_at = last_used_at.map(times::rfc3339);
    let retire =
        json!({"id": id.to_string(), "hint": hint, "name": name, "last_used_at": last_used_at});
    Problem::new(ProblemCode::TooManyLiveKeys, detail).with("retire", retire)
}

/// Says what is so now, and the call that is safe.
fn not_durable(made: Made, replicas: u64, wanted: u32) -> Problem {
    let problem = |what: &str, next: &str| {
        let detail = format!(
            "{what} was made, but {replicas} replicas have it and `wait_replicas` is {wanted}: it may \
             be lost if the primary fails. {next}"
        );
        Problem::new(ProblemCode::NotDurable, detail).retry_after(RETRY_AFTER_STORE)
    };
    match made {
        Made::Change => problem(
            "The change",
            "Send the same call again until it succeeds: that does it once, however often it is sent.",
        ),
        Made::Account(id) => {
            problem("The account", &confirm(&format!("accounts/{id}"))).with("id", id.to_string())
        }
        Made::App(id) => {
            problem("The app", &confirm(&format!("apps/{id}"))).with("id", id.to_string())
        }
        Made::Key => problem(
            "The key",
            "Nobody was shown it, so it was revoked. Send the call again for another key, with another \
             `Idempotency-Key` if it had one.",
        ),
        Made::Token => problem(
            "The admin token",
            "Nobody was shown it, so it was revoked. Send the call again for another one, with another \
             `Idempotency-Key` if it had one.",
        ),
    }
}

fn confirm(path: &str) -> String {
    format!("Do not create it again: send PATCH /v1/{path} with `{{}}` until that succeeds.")
}

fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Unreadable(_) => Problem::new(
            ProblemCode::Internal,
            "A stored record cannot be read. Tell the operator the request id.",
        ),
        StoreError::Unavailable(_)
        | StoreError::Conflict
        | StoreError::AlreadyExists
        | StoreError::NotFound(_)
        | StoreError::TooManyLiveKeys { .. }
        | StoreError::NotDurable { .. } => Problem::new(
            ProblemCode::StoreUnavailable,
            "A change may or may not have been made. Look, or try again shortly.",
        )
        .retry_after(RETRY_AFTER_STORE),
    }
}
