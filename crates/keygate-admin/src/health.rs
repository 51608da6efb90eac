//! What probes and Prometheus ask, without a token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::{Json, Router};
use keygate_store::keys::KeyStore;
use keygate_telemetry::Metrics;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::Readiness;
use crate::problem::{Problem, ProblemCode, chain};
use crate::registry::{Registry, RegistryError};

/// How long one answer of the store stands for all who ask: whoever can reach the listener may ask.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);
/// A store that takes longer to answer is not one that requests can wait for.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn routes<S: KeyStore>(metrics: Metrics, probe: Probe<S>) -> Router {
    Router::new()
        .route("/metrics", get(render).with_state(metrics))
        .route("/readyz", get(readiness).with_state(Arc::new(probe)))
        .route("/healthz", get(async || Json(Answer { status: "alive" })))
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
}

async fn readiness<S: KeyStore>(
    State(probe): State<Arc<Probe<S>>>,
) -> Result<Json<Answer>, Problem> {
    match probe.ask().await {
        Readiness::Ready => Ok(Json(Answer { status: "ready" })),
        Readiness::NotReady(why) => Err(Problem::new(ProblemCode::NotReady, why)),
    }
}

/// Asks the gateway, then the store.
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

    async fn ask(&self) -> Readiness {
        match (self.gateway)() {
            Readiness::Ready => self.ask_store().await,
            not_ready @ Readiness::NotReady(_) => not_ready,
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

async fn render(State(metrics): State<Metrics>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
