//! `/v1/admin-tokens`: who may call this API. The only answer that holds a token is the one that
//! creates it.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::{AccountId, TokenId, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::{AdminToken, Role, TokenStatus};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use crate::etag::{IfMatch, Tagged, TaggedNew, tagged, tagged_new};
use crate::idempotency::Creation;
use crate::openapi::{self, Conflict, PageParams, Time};
use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::tokens::status;
use crate::registry::{Actor, CreatedToken, NewToken, Registry};
use crate::request::{BodyOrDefault, Id};
use crate::times::rfc3339;
use crate::{fields, times};

/// The most accounts that one token may be for.
const ACCOUNTS_MAX: usize = 100;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .routes(routes!(all, create))
        .routes(routes!(one))
        .routes(routes!(revoke))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminTokenCreate)]
struct CreateRequest {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[schema(value_type = openapi::Role)]
    role: String,
    /// For an issuer: the accounts whose keys it handles. Refused for other roles.
    #[schema(value_type = Option<Vec<openapi::AccountId>>, max_items = 100)]
    accounts: Option<Vec<String>>,
    #[schema(value_type = Option<Time>)]
    expires_at: Option<String>,
    /// Instead of `expires_at`: how long it works from now on, such as `30d`.
    ttl: Option<String>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminTokenRevoke)]
struct RevokeRequest {
    /// For the audit log.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminToken)]
struct Answer {
    #[schema(value_type = openapi::TokenId)]
    id: String,
    name: String,
    #[schema(value_type = openapi::Role)]
    role: &'static str,
    /// Of an issuer.
    #[schema(value_type = Option<Vec<openapi::AccountId>>)]
    accounts: Option<Vec<String>>,
    #[schema(value_type = openapi::TokenStatus)]
    status: &'static str,
    #[schema(value_type = Option<Time>)]
    expires_at: Option<String>,
    #[schema(value_type = Option<Time>)]
    revoked_at: Option<String>,
    #[schema(value_type = Time)]
    created_at: String,
    #[schema(value_type = Time)]
    updated_at: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminTokenCreated)]
struct CreatedAnswer {
    /// The token itself: shown here, and nowhere else ever. `null` in the answer to a repeated call.
    #[schema(value_type = Option<String>)]
    token: Option<ShownOnce>,
    #[serde(flatten)]
    record: Answer,
    /// Whether the same call, by its `Idempotency-Key`, had made it before.
    replayed: bool,
}

/// The token's text, wiped when the answer has been written.
struct ShownOnce(Zeroizing<String>);

impl Serialize for ShownOnce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Answer {
    fn new(token: AdminToken, now: UnixMillis) -> Self {
        let status = status(&token, now);
        let (role, accounts) = match &token.role {
            Role::Viewer => ("viewer", None),
            Role::Issuer(accounts) => {
                ("issuer", Some(accounts.iter().map(AccountId::to_string).collect()))
            }
            Role::Admin => ("admin", None),
        };
        Self {
            id: token.id.to_string(),
            name: token.name,
            role,
            accounts,
            status,
            expires_at: token.expires_at.map(rfc3339),
            revoked_at: match token.status {
                TokenStatus::Revoked { at } => Some(rfc3339(at)),
                TokenStatus::Active => None,
            },
            created_at: rfc3339(token.created_at),
            updated_at: rfc3339(token.updated_at),
        }
    }
}

/// Makes an admin token
#[utoipa::path(
    post, path = "/v1/admin-tokens", operation_id = "tokens.create", tag = "tokens",
    params(openapi::IdempotencyKey), request_body = CreateRequest,
    responses((
        status = 201, description = "The token, shown this once", body = CreatedAnswer,
        headers(("ETag" = String), ("Location" = String)),
    )),
)]
async fn create<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Creation { body: request, asked }: Creation<CreateRequest>,
) -> Result<TaggedNew<CreatedAnswer>, Problem> {
    let now = registry.now();
    let new = NewToken {
        name: fields::name(request.name)?,
        role: read_role(&request.role, request.accounts.as_deref())?,
        expires_at: read_end(request.expires_at.as_deref(), request.ttl.as_deref(), now)?,
    };
    let CreatedToken { record, token } = registry.create_token(&by, new, asked.as_ref()).await?;
    let (version, location) = (record.version, format!("/v1/admin-tokens/{}", record.id));
    let (replayed, token) = (token.is_none(), token.map(ShownOnce));
    let answer = CreatedAnswer { token, record: Answer::new(record, now), replayed };
    Ok(tagged_new(version, location, answer))
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

/// The role, with the accounts that it is for.
fn read_role(role: &str, accounts: Option<&[String]>) -> Result<Role, Problem> {
    const FIELD: &str = "accounts";
    let role = match role {
        "issuer" => {
            let named = accounts.unwrap_or_default();
            if !(1..=ACCOUNTS_MAX).contains(&named.len()) {
                let rule =
                    format!("name 1 to {ACCOUNTS_MAX} accounts whose keys an issuer handles");
                return Err(Problem::field(FIELD, rule));
            }
            let read = |id: &str| id.parse().map_err(|error| Problem::field(FIELD, error));
            return fields::once_each(named, read).map(Role::Issuer);
        }
        "viewer" => Role::Viewer,
        "admin" => Role::Admin,
        _ => return Err(Problem::field("role", "write viewer, issuer or admin")),
    };
    match accounts {
        None => Ok(role),
        Some(_) => Err(Problem::field(FIELD, "leave it out: it is for issuers alone")),
    }
}

/// All admin tokens
///
/// Those that are revoked or expired included; the one of the first start is not among them.
#[utoipa::path(
    get, path = "/v1/admin-tokens", operation_id = "tokens.list", tag = "tokens",
    params(PageParams),
    responses((status = 200, description = "A page of tokens", body = List<Answer>)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    paging: Paging<TokenId>,
) -> Result<Json<List<Answer>>, Problem> {
    let tokens = registry.tokens(&by, paging.page()).await?;
    let now = registry.now();
    Ok(Json(paging.answer(tokens, |token| token.id.to_string(), |token| Answer::new(token, now))))
}

/// One admin token
#[utoipa::path(
    get, path = "/v1/admin-tokens/{id}", operation_id = "tokens.show", tag = "tokens",
    params(("id" = openapi::TokenId, Path)),
    responses((
        status = 200, description = "The token", body = Answer, headers(("ETag" = String)),
    )),
)]
async fn one<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<TokenId>,
) -> Result<Tagged<Answer>, Problem> {
    let token = registry.token(&by, id).await?;
    Ok(tagged(token.version, Answer::new(token, registry.now())))
}

/// Revokes an admin token, for good
///
/// It is refused from the answer on, by every gateway.
#[utoipa::path(
    post, path = "/v1/admin-tokens/{id}/revoke", operation_id = "tokens.revoke", tag = "tokens",
    params(("id" = openapi::TokenId, Path), openapi::IfMatch),
    request_body = Option<RevokeRequest>,
    responses(
        (
            status = 200, description = "The token, revoked", body = Answer,
            headers(("ETag" = String)),
        ),
        Conflict,
    ),
)]
async fn revoke<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<TokenId>,
    IfMatch(expected): IfMatch,
    BodyOrDefault(request): BodyOrDefault<RevokeRequest>,
) -> Result<Tagged<Answer>, Problem> {
    let reason = request.reason.map(fields::reason).transpose()?;
    let token = registry.revoke_token(&by, id, reason.as_deref(), &expected).await?;
    Ok(tagged(token.version, Answer::new(token, registry.now())))
}
