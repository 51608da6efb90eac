//! What probes and Prometheus ask, without a token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::{Json, Router};
use keygate_telemetry::Metrics;
use serde::Serialize;

use crate::Readiness;
use crate::problem::{Problem, ProblemCode};

type Ready = Arc<dyn Fn() -> Readiness + Send + Sync>;

pub(crate) fn routes(metrics: Metrics, ready: Ready) -> Router {
    Router::new()
        .route("/metrics", get(render).with_state(metrics))
        .route("/readyz", get(readiness).with_state(ready))
        .route("/healthz", get(async || Json(Answer { status: "alive" })))
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
}

async fn readiness(State(ready): State<Ready>) -> Result<Json<Answer>, Problem> {
    match ready() {
        Readiness::Ready => Ok(Json(Answer { status: "ready" })),
        Readiness::NotReady(why) => Err(Problem::new(ProblemCode::NotReady, why)),
    }
}

async fn render(State(metrics): State<Metrics>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
