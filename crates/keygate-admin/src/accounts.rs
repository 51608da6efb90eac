//! `/v1/accounts`: the HTTP face of accounts.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::AccountId;
use keygate_store::keys::KeyStore;
use keygate_store::records::{Account, AccountStatus, Metadata};
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
use crate::registry::{AccountChange, Actor, NewAccount, Registry};
use crate::request::{Body, Id, given};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all, create)).routes(routes!(one, change))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AccountCreate)]
struct CreateRequest {
    name: String,
    /// Who answers for it, such as a team or an address.
    owner: Option<String>,
    purpose: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

/// What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AccountChange)]
struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    owner: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    purpose: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, value_type = Option<openapi::AccountStatus>)]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
struct Answer {
    #[schema(value_type = openapi::AccountId)]
    id: String,
    name: String,
    owner: Option<String>,
    purpose: Option<String>,
    #[schema(value_type = openapi::AccountStatus)]
    status: &'static str,
    metadata: Metadata,
    #[schema(value_type = Time)]
    created_at: String,
    #[schema(value_type = Time)]
    updated_at: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreatedAccount)]
struct CreatedAnswer {
    #[serde(flatten)]
    record: Answer,
    /// Whether the same call had made it before.
    replayed: bool,
}

impl From<Account> for Answer {
    fn from(account: Account) -> Self {
        Self {
            id: account.id.to_string(),
            name: account.name,
            owner: account.owner,
            purpose: account.purpose,
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

/// Create an account
#[utoipa::path(
    post, path = "/v1/accounts", operation_id = "accounts.create", tag = "accounts",
    params(openapi::IdempotencyKey), request_body = CreateRequest,
    responses((
        status = 201, description = "The account", body = CreatedAnswer,
        headers(("ETag" = String), ("Location" = String)),
    )),
)]
async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Creation { body: request, asked }: Creation<CreateRequest>,
) -> Result<TaggedNew<CreatedAnswer>, Problem> {
    let new = NewAccount {
        name: fields::name(request.name)?,
        owner: request.owner.map(fields::owner).transpose()?,
        purpose: request.purpose.map(fields::purpose).transpose()?,
        metadata: fields::metadata(request.metadata)?,
    };
    let created = registry.create_account(&by, new, asked.as_ref()).await?;
    let version = created.record.version;
    let location = format!("/v1/accounts/{}", created.record.id);
    let answer = CreatedAnswer { record: created.record.into(), replayed: created.replayed };
    Ok(tagged_new(version, location, answer))
}

/// List the accounts that the token may see
#[utoipa::path(
    get, path = "/v1/accounts", operation_id = "accounts.list", tag = "accounts",
    params(PageParams),
    responses((status = 200, description = "Accounts, the oldest first", body = List<Answer>)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    paging: Paging<AccountId>,
) -> Result<Json<List<Answer>>, Problem> {
    let accounts = registry.accounts(&by, paging.page()).await?;
    Ok(Json(paging.answer(accounts, |account| account.id.to_string(), Answer::from)))
}

/// Show an account
#[utoipa::path(
    get, path = "/v1/accounts/{id}", operation_id = "accounts.show", tag = "accounts",
    params(("id" = openapi::AccountId, Path)),
    responses((
        status = 200, description = "The account", body = Answer, headers(("ETag" = String)),
    )),
)]
async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AccountId>,
) -> Result<Tagged<Answer>, Problem> {
    let account = registry.account(&by, id).await?;
    Ok(tagged(account.version, account.into()))
}

/// Change, suspend or activate an account
#[utoipa::path(
    patch, path = "/v1/accounts/{id}", operation_id = "accounts.change", tag = "accounts",
    params(("id" = openapi::AccountId, Path), openapi::IfMatch), request_body = ChangeRequest,
    responses(
        (status = 200, description = "The account", body = Answer, headers(("ETag" = String))),
        Conflict,
    ),
)]
async fn change<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<AccountId>,
    IfMatch(expected): IfMatch,
    Body(request): Body<ChangeRequest>,
) -> Result<Tagged<Answer>, Problem> {
    let change = AccountChange {
        name: request.name.map(fields::name).transpose()?,
        owner: fields::or_null(request.owner, fields::owner)?,
        purpose: fields::or_null(request.purpose, fields::purpose)?,
        status: request.status.as_deref().map(read_status).transpose()?,
        metadata: request.metadata.map(fields::metadata).transpose()?,
    };
    let account = registry.change_account(&by, id, &change, &expected).await?;
    Ok(tagged(account.version, account.into()))
}

fn read_status(word: &str) -> Result<AccountStatus, Problem> {
    match word {
        "active" => Ok(AccountStatus::Active),
        "suspended" => Ok(AccountStatus::Suspended),
        _ => Err(Problem::field("status", "write active or suspended")),
    }
}
