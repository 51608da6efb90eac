//! A store that is away: 503, never a 401 or a 404, and nothing is lost or taken back.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;

#[tokio::test]
async fn everything_that_needs_the_store_is_503_while_it_is_away() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let account = account.as_str().unwrap();
    let key_path = format!("/v1/keys/{}", id(&key));
    let new_app = json!({ "name": "a", "environment": "live", "granted_scopes": ["read:a"] });
    let new_key = json!({ "scopes": ["read:orders"] });
    let name = json!({ "name": "new" });
    let calls: Vec<(&str, String, Option<Value>)> = vec![
        ("GET", "/v1/accounts".into(), None),
        ("POST", "/v1/accounts".into(), Some(name.clone())),
        ("GET", format!("/v1/accounts/{account}"), None),
        ("PATCH", format!("/v1/accounts/{account}"), Some(name.clone())),
        ("GET", format!("/v1/accounts/{account}/apps"), None),
        ("POST", format!("/v1/accounts/{account}/apps"), Some(new_app)),
        ("GET", format!("/v1/apps/{app}"), None),
        ("PATCH", format!("/v1/apps/{app}"), Some(name.clone())),
        ("GET", format!("/v1/apps/{app}/keys"), None),
        ("POST", format!("/v1/apps/{app}/keys"), Some(new_key)),
        ("GET", key_path.clone(), None),
        ("PATCH", key_path.clone(), Some(name)),
        ("POST", format!("{key_path}/revoke"), Some(json!({}))),
        ("POST", format!("{key_path}/limits/reset"), None),
        ("POST", "/v1/keys/verify".into(), Some(json!({ "key": key["key"] }))),
        ("GET", "/v1/audit".into(), None),
        ("GET", "/v1/fleet".into(), None),
    ];
    api.cache.store().down.store(true, Ordering::SeqCst);
    for (method, path, body) in &calls {
        let answer = api.call(method, path, body.as_ref()).await;
        assert_problem(&answer, 503, "store_unavailable");
        assert_eq!(answer.header("retry-after"), "1", "{method} {path}");
        assert!(!answer.text.contains("switched off"), "a cause is the log's: {}", answer.text);
    }
    for path in ["/healthz", "/metrics"] {
        assert_eq!(api.send("GET", path, &[], "").await.status, 200);
    }
    api.cache.store().down.store(false, Ordering::SeqCst);
    assert_eq!(api.get(&key_path).await.json()["status"], "active");
    assert_eq!(api.actions().await, ["account.create", "app.create", "key.create"]);
}

#[tokio::test]
async fn a_key_in_the_cache_can_be_verified_without_the_store() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await["key"].clone();
    let body = json!({ "key": key });
    assert_eq!(api.post("/v1/keys/verify", body.clone()).await.status, 200);
    api.cache.store().down.store(true, Ordering::SeqCst);
    assert_eq!(api.post("/v1/keys/verify", body).await.json()["valid"], true);
}

#[tokio::test]
async fn a_gateway_whose_store_is_away_is_not_ready_until_it_is_back() {
    let api = Api::start().await;
    api.until_ready_is(200).await;
    api.cache.store().down.store(true, Ordering::SeqCst);
    let why = assert_problem(&api.until_ready_is(503).await, 503, "not_ready");
    assert!(why.contains("store"), "{why}");
    api.cache.store().down.store(false, Ordering::SeqCst);
    api.until_ready_is(200).await;
}
