//! `/v1/fleet`: the gateways that share the store, and how far each is behind its newest change.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use keygate_store::fleet::{Gateway, Member};
use keygate_store::keys::{ChangeNumber, KeyStore};
use serde::Serialize;

use crate::problem::Problem;
use crate::registry::{FleetView, Registry};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> Router<Registry<S>> {
    Router::new().route("/v1/fleet", get(all))
}

#[derive(Serialize)]
struct Answer {
    store: &'static str,
    newest: u64,
    gateways: Vec<GatewayAnswer>,
}

#[derive(Serialize)]
struct GatewayAnswer {
    id: String,
    name: String,
    version: String,
    started_at: String,
    seen_at: String,
    link: &'static str,
    applied: u64,
    lag: u64,
    this: bool,
}

impl GatewayAnswer {
    fn new(member: Member, newest: ChangeNumber, this: &str) -> Self {
        let Member { gateway, link, applied, seen_at } = member;
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

async fn all<S: KeyStore>(State(registry): State<Registry<S>>) -> Result<Json<Answer>, Problem> {
    let FleetView { store, fleet, this } = registry.fleet().await?;
    let newest = fleet.newest;
    let show = |member| GatewayAnswer::new(member, newest, &this);
    let gateways = fleet.members.into_iter().map(show).collect();
    Ok(Json(Answer { store: store.as_str(), newest: newest.0, gateways }))
}
