//! `/v1/keys` and an app's keys: the HTTP face of keys. The only answer that holds a key is the one
//! that creates it.

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json};
use keygate_core::{AppId, KeyId, Scope, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::{Key, KeyStatus, Metadata};
use serde::{Deserialize, Serialize, Serializer};
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use crate::limits::{LimitsAnswer, LimitsChangeRequest, LimitsRequest, UseAnswer};
use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::{Actor, KeyChange, KeySwitch, NewKey, Registry};
use crate::request::{Body, BodyOrDefault, Id, given};
use crate::times::rfc3339;
use crate::{fields, limits, times};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .route("/v1/apps/{id}/keys", get(all).post(create))
        .route("/v1/keys/{id}", get(one).patch(change))
        .route("/v1/keys/{id}/revoke", post(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    #[serde(default = "secret_kind")]
    kind: String,
    name: Option<String>,
    scopes: Vec<String>,
    expires_at: Option<String>,
    ttl: Option<String>,
    tier: Option<String>,
    limits: Option<LimitsRequest>,
    #[serde(default)]
    allowed_cidrs: Vec<String>,
    #[serde(default)]
    allowed_origins: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
}

fn secret_kind() -> String {
    "sk".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    tier: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    limits: Option<Option<LimitsChangeRequest>>,
    #[serde(default, deserialize_with = "given")]
    allowed_cidrs: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    allowed_origins: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Metadata>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    reason: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    id: String,
    hint: String,
    app_id: String,
    account_id: String,
    kind: &'static str,
    environment: &'static str,
    name: Option<String>,
    scopes: Vec<String>,
    status: &'static str,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    revoke_reason: Option<String>,
    tier: Option<String>,
    limits: Option<LimitsAnswer>,
    allowed_cidrs: Vec<String>,
    allowed_origins: Vec<String>,
    metadata: Metadata,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
struct CreatedAnswer {
    key: ShownOnce,
    #[serde(flatten)]
    record: Answer,
}

/// A record with what is used of its limits.
#[derive(Serialize)]
pub(crate) struct ShownAnswer {
    #[serde(flatten)]
    record: Answer,
    current_use: Option<Vec<UseAnswer>>,
}

impl ShownAnswer {
    pub(crate) async fn new<S: KeyStore>(registry: &Registry<S>, key: Key) -> Self {
        let current_use = limits::current_use(registry, &key).await;
        Self { record: Answer::new(key, registry.now()), current_use }
    }
}

/// The key's text, wiped when the answer has been written.
struct ShownOnce(Zeroizing<String>);

impl Serialize for ShownOnce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Answer {
    fn new(key: Key, now: UnixMillis) -> Self {
        let status = status(&key, now);
        let (revoked_at, revoke_reason) = match key.status {
            KeyStatus::Revoked { at, reason } => (Some(rfc3339(at)), reason),
            KeyStatus::Active | KeyStatus::Disabled => (None, None),
        };
        Self {
            id: key.id.to_string(),
            hint: key.hint,
            app_id: key.app.to_string(),
            account_id: key.account.to_string(),
            kind: key.kind.as_str(),
            environment: key.environment.as_str(),
            name: key.name,
            scopes: key.scopes.iter().map(Scope::to_string).collect(),
            status,
            expires_at: key.expires_at.map(rfc3339),
            revoked_at,
            revoke_reason,
            tier: key.tier,
            limits: key.limits.as_deref().map(LimitsAnswer::new),
            allowed_cidrs: key.allowed_cidrs.iter().map(ToString::to_string).collect(),
            allowed_origins: key.allowed_origins,
            metadata: key.metadata,
            created_at: rfc3339(key.created_at),
            updated_at: rfc3339(key.updated_at),
        }
    }
}

/// In the order in which a decision would refuse the key.
fn status(key: &Key, now: UnixMillis) -> &'static str {
    match key.status {
        KeyStatus::Revoked { .. } => "revoked",
        KeyStatus::Disabled => "disabled",
        KeyStatus::Active if key.expires_at.is_some_and(|end| end <= now) => "expired",
        KeyStatus::Active => "active",
    }
}

async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(app): Id<AppId>,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<CreatedAnswer>), Problem> {
    let now = registry.now();
    let new = NewKey {
        kind: request.kind.parse().map_err(|error| Problem::field("kind", error))?,
        name: request.name.map(fields::name).transpose()?,
        scopes: fields::scopes("scopes", &request.scopes)?,
        expires_at: read_end(request.expires_at.as_deref(), request.ttl.as_deref(), now)?,
        tier: request.tier,
        limits: request.limits.map(limits::read).transpose()?.flatten(),
        allowed_cidrs: fields::cidrs(&request.allowed_cidrs)?,
        allowed_origins: fields::origins(&request.allowed_origins)?,
        metadata: fields::metadata(request.metadata)?,
    };
    let created = registry.create_key(&by, app, new).await?;
    let record = Answer::new(created.record, now);
    let location = [(LOCATION, format!("/v1/keys/{}", record.id))];
    let answer = CreatedAnswer { key: ShownOnce(created.key), record };
    Ok((StatusCode::CREATED, location, Json(answer)))
}

fn read_end(
    expires_at: Option<&str>,
    ttl: Option<&str>,
    now: UnixMillis,
) -> Result<Option<UnixMillis>, Problem> {
    match (expires_at, ttl) {
        (Some(_), Some(_)) => Err(Problem::field("ttl", "send `ttl` or `expires_at`, not both")),
        (Some(at), None) => times::expires_at(at).map(Some),
        (None, Some(span)) => times::ttl(span, now).map(Some),
        (None, None) => Ok(None),
    }
}

async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Id(app): Id<AppId>,
    paging: Paging<KeyId>,
) -> Result<Json<List<Answer>>, Problem> {
    let keys = registry.keys(app, paging.page()).await?;
    let now = registry.now();
    Ok(Json(paging.answer(keys, |key| key.id.to_string(), |key| Answer::new(key, now))))
}

async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Id(id): Id<KeyId>,
) -> Result<Json<ShownAnswer>, Problem> {
    let key = registry.key(id).await?;
    Ok(Json(ShownAnswer::new(&registry, key).await))
}

async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    Body(request): Body<ChangeRequest>,
) -> Result<Json<Answer>, Problem> {
    let read_end = |at: Option<String>| at.as_deref().map(times::expires_at).transpose();
    let scopes = request.scopes.as_deref();
    let change = KeyChange {
        name: request.name.map(|name| name.map(fields::name).transpose()).transpose()?,
        scopes: scopes.map(|all| fields::scopes("scopes", all)).transpose()?,
        expires_at: request.expires_at.map(read_end).transpose()?,
        tier: request.tier,
        limits: request.limits.map(limits::read_change).transpose()?,
        allowed_cidrs: request.allowed_cidrs.as_deref().map(fields::cidrs).transpose()?,
        allowed_origins: request.allowed_origins.as_deref().map(fields::origins).transpose()?,
        status: request.status.as_deref().map(read_status).transpose()?,
        metadata: request.metadata.map(fields::metadata).transpose()?,
    };
    let key = registry.change_key(&by, id, &change).await?;
    Ok(Json(Answer::new(key, registry.now())))
}

fn read_status(word: &str) -> Result<KeySwitch, Problem> {
    match word {
        "active" => Ok(KeySwitch::Active),
        "disabled" => Ok(KeySwitch::Disabled),
        "revoked" => Err(Problem::field("status", "to revoke a key, post to its `revoke`")),
        _ => Err(Problem::field("status", "write active or disabled")),
    }
}

async fn revoke<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    BodyOrDefault(request): BodyOrDefault<RevokeRequest>,
) -> Result<Json<Answer>, Problem> {
    let reason = request.reason.map(fields::reason).transpose()?;
    let key = registry.revoke_key(&by, id, reason.as_deref()).await?;
    Ok(Json(Answer::new(key, registry.now())))
}
