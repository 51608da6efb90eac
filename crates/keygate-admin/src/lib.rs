//! Manages: accounts, apps and keys, through HTTP or from inside the process.
//!
//! [`Registry`] holds the rules and knows no HTTP; [`router`] is the admin API around it. Nothing
//! here decides about a request's key but by asking the core.

mod accounts;
mod all_keys;
mod apps;
mod audit;
mod auth;
mod config;
mod etag;
mod explain;
mod fields;
mod fleet;
mod health;
mod idempotency;
mod import;
mod keys;
mod limits;
mod openapi;
mod page;
mod peppers;
mod problem;
mod refused;
pub mod registry;
mod reload;
mod request;
mod times;
mod tokens;
mod top;
mod usage;
mod verify;

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::{Extension, Router, middleware};
use keygate_store::failures::FailureLimiter;
use keygate_store::keys::KeyStore;
use keygate_telemetry::Metrics;
use utoipa_axum::router::OpenApiRouter;

pub use audit::AuditLine;
pub use registry::{Actor, Registry, RegistryError, RegistryParts, Reloader};

use crate::openapi::Document;
use crate::problem::{Problem, ProblemCode};

/// The longest body of a request, in bytes.
const BODY_LENGTH_MAX: usize = 64 * 1024;

/// What the admin API is made of.
pub struct AdminParts<S: KeyStore> {
    pub registry: Registry<S>,
    pub reloader: Reloader<S>,
    /// Of the token that the first start made, which the store does not know.
    pub token_sha256: [u8; 32],
    /// How often a client may send a wrong token.
    pub failures: Arc<FailureLimiter>,
    /// Asked at each `/readyz`, first. Must not block.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    pub metrics: Metrics,
}

/// Whether the gateway can decide about requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Says why, for an operator.
    NotReady(Cow<'static, str>),
}

/// The admin API. To be served with `into_make_service_with_connect_info::<SocketAddr>()`, so that
/// the audit log can say where a change came from. To be called on a runtime: attempts that are refused
/// are written by a task.
pub fn router<S: KeyStore>(parts: AdminParts<S>) -> Router {
    let AdminParts { registry, reloader, token_sha256, failures, ready, metrics } = parts;
    let refusals = refused::Refusals::start(registry.clone());
    metrics.counter_fn(
        "keygate_audit_dropped_total",
        "Refused attempts that are not in the audit log because the store did not take them.",
        refusals.dropped(),
    );
    let guard = auth::Guard::new(token_sha256, failures, registry.clone(), refusals);
    let waiting = Arc::new(audit::Waiting::new(Arc::clone(&ready)));
    let counts = metrics.admin();
    let probe = health::Probe::new(ready, registry.clone());
    let health = health::Health { metrics, probe: Arc::new(probe) };
    let document = Document::new(openapi::api::<S>());
    let open = health::routes().with_state(health).merge(openapi::routes().with_state(document));
    let managed = managed().layer(Extension(waiting)).with_state(registry);
    let run = reload::routes().merge(config::routes());
    let managed = managed.merge(run.with_state(reloader));
    // The layers see every request, those that match no route included.
    Router::from(open.merge(managed))
        .fallback(async || Problem::new(ProblemCode::NotFound, "Check the path."))
        .method_not_allowed_fallback(async || {
            Problem::new(ProblemCode::MethodNotAllowed, "Use one of the methods in `Allow`.")
        })
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .layer(middleware::from_fn_with_state(guard, auth::guard::<S>))
        .layer(middleware::from_fn_with_state(counts, problem::finish))
}

/// What asks for a token, all of it documented.
fn managed<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default()
        .merge(accounts::routes())
        .merge(apps::routes())
        .merge(keys::routes())
        .merge(import::routes())
        .merge(all_keys::routes())
        .merge(usage::routes())
        .merge(limits::routes())
        .merge(verify::routes())
        .merge(explain::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
        .merge(fleet::routes())
        .merge(top::routes())
        .merge(peppers::routes())
}

#[cfg(test)]
mod tests;
