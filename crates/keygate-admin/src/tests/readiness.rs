//! `/readyz` of a gateway that shares its store: it goes by what the gateway may use, so that an
//! outage does not make a whole fleet leave its load balancer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keygate_store::coherence::SILENCE_MAX;
use quanta::Instant;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

async fn ready(api: &Api) -> Answer {
    api.send("GET", "/readyz", &[], "").await
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_it_has_followed_its_store() {
    let api = Api::start_with(Coherence::followed(HOUR)).await;
    let why = assert_problem(&ready(&api).await, 503, "not_ready");
    assert!(why.contains("store"), "{why}");
    assert_eq!(api.send("GET", "/healthz", &[], "").await.status, 200);
    api.cache.coherence().confirm(Instant::now());
    let answer = ready(&api).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "ready" })));
}

#[tokio::test]
async fn a_gateway_whose_store_went_away_stays_ready_and_says_so() {
    let api = Api::start_with(Coherence::followed(HOUR)).await;
    api.cache.coherence().confirm(Instant::now());
    api.cache.store().down.store(true, Ordering::SeqCst);
    assert_eq!(ready(&api).await.status, 200, "at once");
    let answer = api.until_ready(|answer| answer.json()["store"] == "away").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("ready")));
    api.cache.coherence().confirm(Instant::now());
    assert_eq!(ready(&api).await.json(), json!({ "status": "ready" }));
}

#[tokio::test]
async fn a_gateway_whose_knowledge_is_too_old_is_not_ready() {
    let api = Api::start_with(Coherence::followed(SILENCE_MAX)).await;
    api.cache.coherence().confirm(Instant::now());
    assert_eq!(ready(&api).await.status, 200);
    let why = assert_problem(&api.until_ready_is(503).await, 503, "not_ready");
    assert!(why.contains("stale_max"), "{why}");
    api.cache.coherence().confirm(Instant::now());
    assert_eq!(ready(&api).await.status, 200);
}

#[tokio::test]
async fn a_gateway_that_stops_is_not_ready_whatever_it_knows() {
    let api = Api::start_with(Coherence::followed(HOUR)).await;
    api.cache.coherence().confirm(Instant::now());
    let stopping = api.not_ready("the gateway is stopping").await;
    let why = assert_problem(&ready(&stopping).await, 503, "not_ready");
    assert_eq!(why, "the gateway is stopping");
}
