//! `/v1/apps` and an account's apps: the HTTP face of apps.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json};
use keygate_core::{AccountId, AppId, Environment, Scope};
use keygate_store::keys::KeyStore;
use keygate_store::records::{App, AppStatus, Metadata};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use crate::fields;
use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::{Actor, AppChange, NewApp, Registry};
use crate::request::{Body, Id, given};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .route("/v1/accounts/{id}/apps", get(all).post(create))
        .route("/v1/apps/{id}", get(one).patch(change))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    #[serde(default = "live")]
    environment: String,
    granted_scopes: Vec<String>,
    tier: Option<String>,
    #[serde(default)]
    allowed_cidrs: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
}

fn live() -> String {
    Environment::Live.as_str().to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    granted_scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    tier: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    allowed_cidrs: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
struct Answer {
    id: String,
    account_id: String,
    name: String,
    environment: &'static str,
    granted_scopes: Vec<String>,
    tier: Option<String>,
    allowed_cidrs: Vec<String>,
    status: &'static str,
    metadata: Metadata,
    created_at: String,
    updated_at: String,
}

impl From<App> for Answer {
    fn from(app: App) -> Self {
        Self {
            id: app.id.to_string(),
            account_id: app.account.to_string(),
            name: app.name,
            environment: app.environment.as_str(),
            granted_scopes: app.granted_scopes.iter().map(Scope::to_string).collect(),
            tier: app.tier,
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

async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(account): Id<AccountId>,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let environment = request.environment.parse();
    let new = NewApp {
        name: fields::name(request.name)?,
        environment: environment.map_err(|error| Problem::field("environment", error))?,
        granted_scopes: fields::scopes("granted_scopes", &request.granted_scopes)?,
        tier: request.tier,
        allowed_cidrs: fields::cidrs(&request.allowed_cidrs)?,
        metadata: fields::metadata(request.metadata)?,
    };
    let app = registry.create_app(&by, account, new).await?;
    Ok((StatusCode::CREATED, Json(app.into())))
}

async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Id(account): Id<AccountId>,
    paging: Paging<AppId>,
) -> Result<Json<List<Answer>>, Problem> {
    let apps = registry.apps(account, paging.page()).await?;
    Ok(Json(paging.answer(apps, |app| app.id.to_string(), Answer::from)))
}

async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Id(id): Id<AppId>,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(registry.app(id).await?.into()))
}

async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AppId>,
    Body(request): Body<ChangeRequest>,
) -> Result<Json<Answer>, Problem> {
    let granted = request.granted_scopes.as_deref();
    let change = AppChange {
        name: request.name.map(fields::name).transpose()?,
        granted_scopes: granted.map(|all| fields::scopes("granted_scopes", all)).transpose()?,
        tier: request.tier,
        allowed_cidrs: request.allowed_cidrs.as_deref().map(fields::cidrs).transpose()?,
        status: request.status.as_deref().map(read_status).transpose()?,
        metadata: request.metadata.map(fields::metadata).transpose()?,
    };
    Ok(Json(registry.change_app(&by, id, &change).await?.into()))
}

fn read_status(word: &str) -> Result<AppStatus, Problem> {
    match word {
        "active" => Ok(AppStatus::Active),
        "disabled" => Ok(AppStatus::Disabled),
        _ => Err(Problem::field("status", "write active or disabled")),
    }
}
