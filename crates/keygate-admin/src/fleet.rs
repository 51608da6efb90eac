//! `/v1/fleet`: the gateways that share the store, and how far each is behind its newest change.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_store::fleet::{Gateway, Member};
use keygate_store::keys::{ChangeNumber, KeyStore};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{LinkState, StoreKind, Time};
use crate::problem::Problem;
use crate::registry::{Actor, FleetView, Registry};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Fleet)]
struct Answer {
    #[schema(value_type = StoreKind)]
    store: &'static str,
    /// The number of the store's newest change.
    newest: u64,
    gateways: Vec<GatewayAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Gateway)]
struct GatewayAnswer {
    id: String,
    name: String,
    version: String,
    #[schema(value_type = Time)]
    started_at: String,
    #[schema(value_type = Time)]
    seen_at: String,
    #[schema(value_type = LinkState)]
    link: &'static str,
    /// The number of the newest change that it has applied.
    applied: u64,
    /// How many changes it is behind.
    lag: u64,
    /// Whether it is the one that answers.
    this: bool,
}

impl GatewayAnswer {
    fn new(member: Member, newest: ChangeNumber, this: &str) -> Self {
        let Member { gateway, link, applied, peppers: _, seen_at } = member;
        let Gateway { id, name, version, started_at } = gateway;
        Self {
            this: id == this,
            id,
            name,
            version,
            started_at: rfc3339(started_at),
            seen_at: rfc3339(seen_at),
            link: link.as_str(),
            applied: applied.0,
            // It may have reported after the newest change was read.
            lag: newest.0.saturating_sub(applied.0),
        }
    }
}

/// The gateways that share the store
#[utoipa::path(
    get, path = "/v1/fleet", operation_id = "fleet.show", tag = "watch",
    responses((status = 200, description = "The gateways", body = Answer)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
) -> Result<Json<Answer>, Problem> {
    let FleetView { store, fleet, this } = registry.fleet(&by).await?;
    let newest = fleet.newest;
    let show = |member| GatewayAnswer::new(member, newest, &this);
    let gateways = fleet.members.into_iter().map(show).collect();
    Ok(Json(Answer { store: store.as_str(), newest: newest.0, gateways }))
}
