//! `/v1/accounts`: the HTTP face of accounts.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json};
use keygate_core::AccountId;
use keygate_store::keys::KeyStore;
use keygate_store::records::{Account, AccountStatus, Metadata};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use crate::fields;
use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::{AccountChange, Actor, NewAccount, Registry};
use crate::request::{Body, Id, given};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .route("/v1/accounts", get(all).post(create))
        .route("/v1/accounts/{id}", get(one).patch(change))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
struct Answer {
    id: String,
    name: String,
    status: &'static str,
    metadata: Metadata,
    created_at: String,
    updated_at: String,
}

impl From<Account> for Answer {
    fn from(account: Account) -> Self {
        Self {
            id: account.id.to_string(),
            name: account.name,
            status: match account.status {
                AccountStatus::Active => "active",
                AccountStatus::Suspended => "suspended",
            },
            metadata: account.metadata,
            created_at: rfc3339(account.created_at),
            updated_at: rfc3339(account.updated_at),
        }
    }
}

async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let new = NewAccount {
        name: fields::name(request.name)?,
        metadata: fields::metadata(request.metadata)?,
    };
    let account = registry.create_account(&by, new).await?;
    Ok((StatusCode::CREATED, Json(account.into())))
}

async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    paging: Paging<AccountId>,
) -> Result<Json<List<Answer>>, Problem> {
    let accounts = registry.accounts(paging.page()).await?;
    Ok(Json(paging.answer(accounts, |account| account.id.to_string(), Answer::from)))
}

async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Id(id): Id<AccountId>,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(registry.account(id).await?.into()))
}

async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AccountId>,
    Body(request): Body<ChangeRequest>,
) -> Result<Json<Answer>, Problem> {
    let change = AccountChange {
        name: request.name.map(fields::name).transpose()?,
        status: request.status.as_deref().map(read_status).transpose()?,
        metadata: request.metadata.map(fields::metadata).transpose()?,
    };
    Ok(Json(registry.change_account(&by, id, &change).await?.into()))
}

fn read_status(word: &str) -> Result<AccountStatus, Problem> {
    match word {
        "active" => Ok(AccountStatus::Active),
        "suspended" => Ok(AccountStatus::Suspended),
        _ => Err(Problem::field("status", "write active or suspended")),
    }
}
