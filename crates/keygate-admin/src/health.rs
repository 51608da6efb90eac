//! What probes and Prometheus ask, without a token.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use keygate_store::keys::KeyStore;
use keygate_telemetry::Metrics;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Readiness;
use crate::openapi::ServiceUnavailable;
use crate::problem::{Problem, ProblemCode, chain};
use crate::registry::{Registry, RegistryError};

/// How long one answer of the store stands for all who ask: whoever can reach the listener may ask.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);
/// A store that takes longer to answer is not one that requests can wait for.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);
const NOT_FOLLOWED: &str = "The store has been away since the start, or for longer than \
    `[cache] stale_max`: no key can be decided about.";

/// What the probes ask.
pub(crate) struct Health<S: KeyStore> {
    pub(crate) metrics: Metrics,
    pub(crate) probe: Arc<Probe<S>>,
}

impl<S: KeyStore> Clone for Health<S> {
    fn clone(&self) -> Self {
        Self { metrics: self.metrics.clone(), probe: Arc::clone(&self.probe) }
    }
}

impl<S: KeyStore> FromRef<Health<S>> for Metrics {
    fn from_ref(health: &Health<S>) -> Self {
        health.metrics.clone()
    }
}

impl<S: KeyStore> FromRef<Health<S>> for Arc<Probe<S>> {
    fn from_ref(health: &Health<S>) -> Self {
        Arc::clone(&health.probe)
    }
}

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Health<S>> {
    OpenApiRouter::default()
        .routes(routes!(render))
        .routes(routes!(readiness))
        .routes(routes!(liveness))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct Answer {
    status: &'static str,
    /// `away` if known keys work and unknown ones do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    store: Option<&'static str>,
}

const ALIVE: Answer = Answer { status: "alive", store: None };
const READY: Answer = Answer { status: "ready", store: None };
/// Known keys work, unknown ones do not.
const READY_WITHOUT_STORE: Answer = Answer { status: "ready", store: Some("away") };

/// Whether the process is alive
#[utoipa::path(
    get, path = "/healthz", operation_id = "health.alive", tag = "watch",
    responses((status = 200, description = "It is", body = Answer)),
)]
async fn liveness() -> Json<Answer> {
    Json(ALIVE)
}

/// Whether requests can be decided about
#[utoipa::path(
    get, path = "/readyz", operation_id = "health.ready", tag = "watch",
    responses((status = 200, description = "They can", body = Answer), ServiceUnavailable),
)]
async fn readiness<S: KeyStore>(
    State(probe): State<Arc<Probe<S>>>,
) -> Result<Json<Answer>, Problem> {
    probe.ask().await.map(Json).map_err(|why| Problem::new(ProblemCode::NotReady, why))
}

/// Asks the gateway, and then whether it can decide about keys. With a store of its own: whether
/// that can be read. With one that others share: whether what it knows may be used, so that an
/// outage of the store does not make all gateways of a fleet leave their load balancer at once.
pub(crate) struct Probe<S: KeyStore> {
    gateway: Arc<dyn Fn() -> Readiness + Send + Sync>,
    registry: Registry<S>,
    store: Mutex<LastAnswer>,
}

#[derive(Default)]
struct LastAnswer {
    given: Option<(Instant, Readiness)>,
    /// A question that the store has not answered in time: no other is asked until it has.
    pending: Option<JoinHandle<Result<(), RegistryError>>>,
}

impl<S: KeyStore> Probe<S> {
    pub(crate) fn new(
        gateway: Arc<dyn Fn() -> Readiness + Send + Sync>,
        registry: Registry<S>,
    ) -> Self {
        Self { gateway, registry, store: Mutex::default() }
    }

    async fn ask(&self) -> Result<Answer, Cow<'static, str>> {
        if let Readiness::NotReady(why) = (self.gateway)() {
            return Err(why);
        }
        let coherence = self.registry.coherence();
        if coherence.is_alone() {
            return match self.ask_store().await {
                Readiness::Ready => Ok(READY),
                Readiness::NotReady(why) => Err(why),
            };
        }
        // Whoever follows the store asks it several times a second: one more question here would
        // tell no more, and would keep a probe waiting.
        match (coherence.is_followed(), coherence.is_usable()) {
            (true, _) => Ok(READY),
            (false, true) => Ok(READY_WITHOUT_STORE),
            (false, false) => Err(NOT_FOLLOWED.into()),
        }
    }

    async fn ask_store(&self) -> Readiness {
        // One asks, the others wait for its answer.
        let mut last = self.store.lock().await;
        if let Some((at, readiness)) = &last.given
            && at.elapsed() < ANSWER_AGE_MAX
        {
            return readiness.clone();
        }
        let registry = self.registry.clone();
        let ask = || tokio::spawn(async move { registry.check_store().await });
        let mut question = last.pending.take().unwrap_or_else(ask);
        let readiness = match timeout(STORE_TIMEOUT, &mut question).await {
            Ok(Ok(Ok(()))) => Readiness::Ready,
            Ok(Ok(Err(error))) => {
                tracing::warn!(cause = chain(&error), "not ready: the store cannot be read");
                Readiness::NotReady("The store cannot be read.".into())
            }
            Ok(Err(_broke_off)) => Readiness::NotReady("The store cannot be asked.".into()),
            Err(_late) => {
                last.pending = Some(question);
                Readiness::NotReady("The store does not answer in time.".into())
            }
        };
        last.given = Some((Instant::now(), readiness.clone()));
        readiness
    }
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics.show", tag = "watch",
    responses((status = 200, description = "In its text format", body = String, content_type = "text/plain")),
)]
async fn render(State(metrics): State<Metrics>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
