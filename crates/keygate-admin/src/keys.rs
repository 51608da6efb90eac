//! `/v1/keys/{id}` and an app's keys: the HTTP face of keys.

mod answers;
mod requests;

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::{AppId, KeyId, UnixMillis};
use keygate_store::keys::KeyStore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::answers::{ListedAnswer, ShownAnswer};

use self::answers::{Answer, CreatedAnswer};
use self::requests::{ChangeRequest, CreateRequest, RevokeRequest, RotateRequest};
use crate::all_keys::{FilterParams, KeysQuery};
use crate::etag::{IfMatch, Tagged, TaggedNew, tagged, tagged_new};
use crate::idempotency::{Creation, CreationOrDefault};
use crate::openapi::{self, Conflict, PageParams};
use crate::page::List;
use crate::problem::Problem;
use crate::registry::{Actor, CreatedKey, Registry, Within};
use crate::request::{Body, BodyOrDefault, Id};
use crate::{all_keys, fields};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .routes(routes!(all, create))
        .routes(routes!(one, change))
        .routes(routes!(revoke))
        .routes(routes!(rotate))
}

/// Create a key
#[utoipa::path(
    post, path = "/v1/apps/{id}/keys", operation_id = "keys.create", tag = "keys",
    params(("id" = openapi::AppId, Path), openapi::IdempotencyKey), request_body = CreateRequest,
    responses(
        (
            status = 201, description = "The key, shown this once", body = CreatedAnswer,
            headers(("ETag" = String), ("Location" = String)),
        ),
        Conflict,
    ),
)]
async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(app): Id<AppId>,
    Creation { body: request, asked }: Creation<CreateRequest>,
) -> Result<TaggedNew<CreatedAnswer>, Problem> {
    let now = registry.now();
    let created = registry.create_key(&by, app, request.read(now)?, asked.as_ref()).await?;
    Ok(made(created, now))
}

fn made(created: CreatedKey, now: UnixMillis) -> TaggedNew<CreatedAnswer> {
    let location = format!("/v1/keys/{}", created.record.id);
    tagged_new(created.record.version, location, CreatedAnswer::new(created, now))
}

/// List an app's keys
#[utoipa::path(
    get, path = "/v1/apps/{id}/keys", operation_id = "keys.list_of_app", tag = "keys",
    params(("id" = openapi::AppId, Path), FilterParams, PageParams),
    responses((status = 200, description = "Keys, the oldest first", body = List<ListedAnswer>)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(app): Id<AppId>,
    query: KeysQuery,
) -> Result<Json<List<ListedAnswer>>, Problem> {
    registry.app(&by, app).await?;
    let search = query.search(Some(Within::App(app)), registry.now())?;
    all_keys::found(&registry, &by, &search).await
}

/// Show a key, and what is used of its limits
#[utoipa::path(
    get, path = "/v1/keys/{id}", operation_id = "keys.show", tag = "keys",
    params(("id" = openapi::KeyId, Path)),
    responses((
        status = 200, description = "The key's record", body = ShownAnswer,
        headers(("ETag" = String)),
    )),
)]
async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
) -> Result<Tagged<ShownAnswer>, Problem> {
    let key = registry.key(&by, id).await?;
    Ok(tagged(key.version, ShownAnswer::new(&registry, key).await))
}

/// Change, disable or enable a key
#[utoipa::path(
    patch, path = "/v1/keys/{id}", operation_id = "keys.change", tag = "keys",
    params(("id" = openapi::KeyId, Path), openapi::IfMatch), request_body = ChangeRequest,
    responses(
        (status = 200, description = "The key's record", body = Answer, headers(("ETag" = String))),
        Conflict,
    ),
)]
async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    IfMatch(expected): IfMatch,
    Body(request): Body<ChangeRequest>,
) -> Result<Tagged<Answer>, Problem> {
    let key = registry.change_key(&by, id, &request.read()?, &expected).await?;
    Ok(tagged(key.version, Answer::new(key, registry.now())))
}

/// Revoke a key, for good
#[utoipa::path(
    post, path = "/v1/keys/{id}/revoke", operation_id = "keys.revoke", tag = "keys",
    params(("id" = openapi::KeyId, Path), openapi::IfMatch),
    request_body = Option<RevokeRequest>,
    responses(
        (status = 200, description = "The key's record", body = Answer, headers(("ETag" = String))),
        Conflict,
    ),
)]
async fn revoke<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    IfMatch(expected): IfMatch,
    BodyOrDefault(request): BodyOrDefault<RevokeRequest>,
) -> Result<Tagged<Answer>, Problem> {
    let reason = request.reason.map(fields::reason).transpose()?;
    let key = registry.revoke_key(&by, id, reason.as_deref(), &expected).await?;
    Ok(tagged(key.version, Answer::new(key, registry.now())))
}

/// Put a new key in the place of this one
///
/// The old one goes on working until the overlap ends.
#[utoipa::path(
    post, path = "/v1/keys/{id}/rotate", operation_id = "keys.rotate", tag = "keys",
    params(("id" = openapi::KeyId, Path), openapi::IfMatch, openapi::IdempotencyKey),
    request_body = Option<RotateRequest>,
    responses(
        (
            status = 201, description = "The new key, shown this once", body = CreatedAnswer,
            headers(("ETag" = String), ("Location" = String)),
        ),
        Conflict,
    ),
)]
async fn rotate<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    IfMatch(expected): IfMatch,
    CreationOrDefault(Creation { body: request, asked }): CreationOrDefault<RotateRequest>,
) -> Result<TaggedNew<CreatedAnswer>, Problem> {
    let overlap = request.read()?;
    let created = registry.rotate_key(&by, id, overlap, &expected, asked.as_ref()).await?;
    Ok(made(created, registry.now()))
}
