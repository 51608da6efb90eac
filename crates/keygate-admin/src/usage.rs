//! `/v1/keys/{id}/usage`: when a key was last used, so that one sees when an old key has gone quiet.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::KeyId;
use keygate_store::keys::KeyStore;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{self, Time};
use crate::problem::Problem;
use crate::registry::{Actor, KeyUsage, Registry};
use crate::request::Id;
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(show))
}

#[derive(Serialize, ToSchema)]
#[schema(as = KeyUsage)]
struct Answer {
    #[schema(value_type = openapi::KeyId)]
    key_id: String,
    /// To a few seconds; nothing if it never was.
    #[schema(value_type = Option<Time>)]
    last_used_at: Option<String>,
    /// The client's address then, if it was noted.
    last_used_from: Option<String>,
    /// The route then, by its name.
    last_used_route: Option<String>,
    /// Since then, in whole seconds.
    idle_s: Option<u64>,
    #[schema(value_type = Time)]
    as_of: String,
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_from: Option<String>,
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_to: Option<String>,
}

impl From<KeyUsage> for Answer {
    fn from(usage: KeyUsage) -> Self {
        let KeyUsage { key, last, as_of } = usage;
        let last_used_at = last.as_ref().map(|last| last.at);
        Self {
            key_id: key.id.to_string(),
            last_used_at: last_used_at.map(rfc3339),
            last_used_from: last.as_ref().and_then(|last| Some(last.address?.to_string())),
            last_used_route: last.and_then(|last| Some(last.route?.to_string())),
            idle_s: last_used_at.map(|used| as_of.0.saturating_sub(used.0) / 1_000),
            as_of: rfc3339(as_of),
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            rotated_to: key.rotated_to.map(|id| id.to_string()),
        }
    }
}

/// Show when a key was last used
#[utoipa::path(
    get, path = "/v1/keys/{id}/usage", operation_id = "keys.usage", tag = "watch",
    params(("id" = openapi::KeyId, Path)),
    responses((status = 200, description = "Its use, as of now", body = Answer)),
)]
async fn show<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(registry.key_usage(&by, id).await?.into()))
}
