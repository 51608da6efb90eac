//! `/v1/apps` and an account's apps: the HTTP face of apps.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::{AccountId, AppId, Environment, Scope};
use keygate_store::keys::KeyStore;
use keygate_store::records::{App, AppStatus, Metadata};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::etag::{IfMatch, Tagged, TaggedNew, tagged, tagged_new};
use crate::fields;
use crate::idempotency::Creation;
use crate::openapi::{self, Conflict, PageParams, Time};
use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::{Actor, AppChange, NewApp, Registry};
use crate::request::{Body, Id, given};
use crate::times::{self, rfc3339};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all, create)).routes(routes!(one, change))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppCreate)]
struct CreateRequest {
    name: String,
    /// Who answers for it, such as a team or an address.
    owner: Option<String>,
    purpose: Option<String>,
    #[serde(default = "live")]
    #[schema(value_type = openapi::Environment)]
    environment: String,
    /// What its keys may be given.
    granted_scopes: Vec<String>,
    /// For keys that name none.
    tier: Option<String>,
    /// How old its keys may get, such as `90d`.
    max_age: Option<String>,
    #[serde(default)]
    allowed_cidrs: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
}

fn live() -> String {
    Environment::Live.as_str().to_owned()
}

/// What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppChange)]
struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    owner: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    purpose: Option<Option<String>>,
    /// What is no longer granted, its keys lose at once.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    granted_scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    tier: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    max_age: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    allowed_cidrs: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, value_type = Option<openapi::AppStatus>)]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = App)]
struct Answer {
    #[schema(value_type = openapi::AppId)]
    id: String,
    #[schema(value_type = openapi::AccountId)]
    account_id: String,
    name: String,
    owner: Option<String>,
    purpose: Option<String>,
    #[schema(value_type = openapi::Environment)]
    environment: &'static str,
    granted_scopes: Vec<String>,
    tier: Option<String>,
    max_age: Option<String>,
    allowed_cidrs: Vec<String>,
    #[schema(value_type = openapi::AppStatus)]
    status: &'static str,
    metadata: Metadata,
    #[schema(value_type = Time)]
    created_at: String,
    #[schema(value_type = Time)]
    updated_at: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreatedApp)]
struct CreatedAnswer {
    #[serde(flatten)]
    record: Answer,
    /// Whether the same call had made it before.
    replayed: bool,
}

impl From<App> for Answer {
    fn from(app: App) -> Self {
        Self {
            id: app.id.to_string(),
            account_id: app.account.to_string(),
            name: app.name,
            owner: app.owner,
            purpose: app.purpose,
            environment: app.environment.as_str(),
            granted_scopes: app.granted_scopes.iter().map(Scope::to_string).collect(),
            tier: app.tier,
            max_age: app.max_age.map(times::in_words),
            allowed_cidrs: app.allowed_cidrs.iter().map(ToString::to_string).collect(),
            status: match app.status {
                AppStatus::Active => "active",
                AppStatus::Disabled => "disabled",
            },
            metadata: app.metadata,
            created_at: rfc3339(app.created_at),
            updated_at: rfc3339(app.updated_at),
        }
    }
}

/// Create an app
#[utoipa::path(
    post, path = "/v1/accounts/{id}/apps", operation_id = "apps.create", tag = "apps",
    params(("id" = openapi::AccountId, Path), openapi::IdempotencyKey),
    request_body = CreateRequest,
    responses((
        status = 201, description = "The app", body = CreatedAnswer,
        headers(("ETag" = String), ("Location" = String)),
    )),
)]
async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(account): Id<AccountId>,
    Creation { body: request, asked }: Creation<CreateRequest>,
) -> Result<TaggedNew<CreatedAnswer>, Problem> {
    let environment = request.environment.parse();
    let new = NewApp {
        name: fields::name(request.name)?,
        owner: request.owner.map(fields::owner).transpose()?,
        purpose: request.purpose.map(fields::purpose).transpose()?,
        environment: environment.map_err(|error| Problem::field("environment", error))?,
        granted_scopes: fields::scopes("granted_scopes", &request.granted_scopes)?,
        tier: request.tier,
        max_age: request.max_age.as_deref().map(times::max_age).transpose()?,
        allowed_cidrs: fields::cidrs(&request.allowed_cidrs)?,
        metadata: fields::metadata(request.metadata)?,
    };
    let created = registry.create_app(&by, account, new, asked.as_ref()).await?;
    let version = created.record.version;
    let location = format!("/v1/apps/{}", created.record.id);
    let answer = CreatedAnswer { record: created.record.into(), replayed: created.replayed };
    Ok(tagged_new(version, location, answer))
}

/// List an account's apps
#[utoipa::path(
    get, path = "/v1/accounts/{id}/apps", operation_id = "apps.list", tag = "apps",
    params(("id" = openapi::AccountId, Path), PageParams),
    responses((status = 200, description = "Apps, the oldest first", body = List<Answer>)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(account): Id<AccountId>,
    paging: Paging<AppId>,
) -> Result<Json<List<Answer>>, Problem> {
    let apps = registry.apps(&by, account, paging.page()).await?;
    Ok(Json(paging.answer(apps, |app| app.id.to_string(), Answer::from)))
}

/// Show an app
#[utoipa::path(
    get, path = "/v1/apps/{id}", operation_id = "apps.show", tag = "apps",
    params(("id" = openapi::AppId, Path)),
    responses((
        status = 200, description = "The app", body = Answer, headers(("ETag" = String)),
    )),
)]
async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AppId>,
) -> Result<Tagged<Answer>, Problem> {
    let app = registry.app(&by, id).await?;
    Ok(tagged(app.version, app.into()))
}

/// Change, disable or enable an app
#[utoipa::path(
    patch, path = "/v1/apps/{id}", operation_id = "apps.change", tag = "apps",
    params(("id" = openapi::AppId, Path), openapi::IfMatch), request_body = ChangeRequest,
    responses(
        (status = 200, description = "The app", body = Answer, headers(("ETag" = String))),
        Conflict,
    ),
)]
async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AppId>,
    IfMatch(expected): IfMatch,
    Body(request): Body<ChangeRequest>,
) -> Result<Tagged<Answer>, Problem> {
    let granted = request.granted_scopes.as_deref();
    let change = AppChange {
        name: request.name.map(fields::name).transpose()?,
        owner: fields::or_null(request.owner, fields::owner)?,
        purpose: fields::or_null(request.purpose, fields::purpose)?,
        granted_scopes: granted.map(|all| fields::scopes("granted_scopes", all)).transpose()?,
        tier: request.tier,
        max_age: fields::or_null(request.max_age, |text| times::max_age(&text))?,
        allowed_cidrs: request.allowed_cidrs.as_deref().map(fields::cidrs).transpose()?,
        status: request.status.as_deref().map(read_status).transpose()?,
        metadata: request.metadata.map(fields::metadata).transpose()?,
    };
    let app = registry.change_app(&by, id, &change, &expected).await?;
    Ok(tagged(app.version, app.into()))
}

fn read_status(word: &str) -> Result<AppStatus, Problem> {
    match word {
        "active" => Ok(AppStatus::Active),
        "disabled" => Ok(AppStatus::Disabled),
        _ => Err(Problem::field("status", "write active or disabled")),
    }
}
