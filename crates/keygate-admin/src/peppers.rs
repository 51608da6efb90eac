//! `/v1/peppers`: what live keys depend on, who has it, and what new keys are made under. Ids only.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_store::keys::KeyStore;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{PepperId, PepperUse};
use crate::problem::Problem;
use crate::registry::{Actor, GatewayName, PepperView, Registry};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Peppers)]
struct Answer {
    /// Those of the gateway that answers, the current one first; then those that it lacks and that
    /// live keys depend on.
    peppers: Vec<PepperAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Pepper)]
struct PepperAnswer {
    #[schema(value_type = PepperId)]
    id: String,
    /// What it is to the gateway that answers.
    #[serde(rename = "use")]
    #[schema(value_type = PepperUse)]
    role: &'static str,
    /// How many keys that are neither revoked nor expired were made under it.
    live_keys: u64,
    /// Whether new keys are made under it.
    minting: bool,
    /// The gateways of the fleet that do not have it. A key that was made under it is unknown to them.
    gateways_without: Vec<GatewayAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = GatewayName)]
struct GatewayAnswer {
    id: String,
    name: String,
}

impl From<PepperView> for PepperAnswer {
    fn from(view: PepperView) -> Self {
        let PepperView { id, role, live_keys, is_minting, gateways_without } = view;
        let show = |GatewayName { id, name }| GatewayAnswer { id, name };
        Self {
            id: id.to_string(),
            role: role.as_str(),
            live_keys,
            minting: is_minting,
            gateways_without: gateways_without.into_iter().map(show).collect(),
        }
    }
}

/// The peppers that keys depend on
#[utoipa::path(
    get, path = "/v1/peppers", operation_id = "peppers.list", tag = "run",
    responses((status = 200, description = "The peppers, by their ids", body = Answer)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
) -> Result<Json<Answer>, Problem> {
    let views = registry.pepper_views(&by).await?;
    Ok(Json(Answer { peppers: views.into_iter().map(PepperAnswer::from).collect() }))
}
