//! How old keys may get.

use serde_json::json;

use super::*;

const IN_90_DAYS: &str = "2030-04-01T00:00:00Z";

#[tokio::test]
async fn a_key_that_is_made_without_an_end_ends_when_it_may_get_no_older() {
    let api = Api::start().await;
    for (app, key) in [
        (json!({}), json!({ "tier": "short" })),
        (json!({ "tier": "short" }), json!({})),
        (json!({ "max_age": "90d" }), json!({ "tier": "free" })),
        (json!({ "max_age": "100d" }), json!({ "tier": "short" })),
        (json!({ "max_age": "90d", "tier": "short" }), json!({})),
    ] {
        let made = api.key(&api.app_with(app.clone()).await, key.clone()).await;
        assert_eq!(made["expires_at"], IN_90_DAYS, "{app} {key}");
    }
    let free = api.app_with(json!({ "tier": "short" })).await;
    let made = api.key(&free, json!({ "tier": "free" })).await;
    assert!(made["expires_at"].is_null(), "its own tier says nothing");
}

#[tokio::test]
async fn a_later_end_is_refused_with_the_latest_that_is_possible() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "tier": "short" })).await;
    let path = format!("/v1/apps/{app}/keys");
    for end in [json!({ "ttl": "91d" }), json!({ "expires_at": "2030-04-01T00:00:00.001Z" })] {
        let mut body = json!({ "scopes": [] });
        merge(&mut body, end);
        let answer = api.post(&path, body).await;
        let detail = assert_problem(&answer, 422, "invalid_field");
        assert!(detail.contains("90d") && detail.contains(IN_90_DAYS), "{detail}");
        assert_eq!([&answer.json()["field"], &answer.json()["latest"]], ["expires_at", IN_90_DAYS]);
    }
    let key = api.key(&app, json!({ "ttl": "90d" })).await;
    assert_eq!(key["expires_at"], IN_90_DAYS);
    let path = format!("/v1/keys/{}", id(&key));
    for end in [json!("2030-04-02T00:00:00Z"), Value::Null] {
        let answer = api.patch(&path, json!({ "expires_at": end })).await;
        assert_problem(&answer, 422, "invalid_field");
    }
    let sooner = api.patch(&path, json!({ "expires_at": "2030-02-01T00:00:00Z" })).await;
    assert_eq!(sooner.status, 200);
    // Back, as far as is allowed.
    assert_eq!(api.patch(&path, json!({ "expires_at": IN_90_DAYS })).await.status, 200);
}

#[tokio::test]
async fn a_key_moves_into_a_tier_only_with_an_end_that_it_allows() {
    let api = Api::start().await;
    let path = format!("/v1/keys/{}", id(&api.key(&api.app().await, json!({})).await));
    let moved = api.patch(&path, json!({ "tier": "short" })).await;
    assert_problem(&moved, 422, "invalid_field");
    assert_eq!(moved.json()["field"], "expires_at");
    let change = json!({ "tier": "short", "expires_at": IN_90_DAYS });
    assert_eq!(api.patch(&path, change).await.status, 200);
    let back = json!({ "tier": null, "expires_at": null });
    assert_eq!(api.patch(&path, back).await.status, 200);
}

#[tokio::test]
async fn older_keys_go_on_working_and_are_found_and_may_be_told_to_end_sooner() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    let path = format!("/v1/keys/{}", id(&key));
    api.patch(&format!("/v1/apps/{app}"), json!({ "max_age": "30d" })).await;
    let past = async |api: &Api| {
        let found = api.get("/v1/keys?past_policy=true").await.json();
        found["items"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    assert!(past(&api).await.is_empty(), "it is not that old yet");
    let later = api.at(|| UnixMillis(NOW.0 + 30 * DAY_MS)).await;
    assert_eq!(past(&later).await, [id(&key)]);
    let others = later.get("/v1/keys?past_policy=false").await.json();
    assert_eq!(others["items"], json!([]));
    let verdict = later.post("/v1/keys/verify", json!({ "key": key["key"] })).await.json();
    assert_eq!(verdict["valid"], true);
    assert_eq!(later.patch(&path, json!({ "name": "old" })).await.status, 200);
    let soon = json!({ "expires_at": "2030-02-07T00:00:00Z" });
    assert_eq!(later.patch(&path, soon).await.status, 200);
    let no_longer = later.patch(&path, json!({ "expires_at": "2030-02-08T00:00:00Z" })).await;
    assert_problem(&no_longer, 422, "invalid_field");
    let new = later.call_with("POST", &format!("{path}/rotate"), &[], json!({})).await.json();
    assert_eq!(new["expires_at"], "2030-03-02T00:00:00Z", "30 days from then");
    later.post(&format!("{path}/revoke"), json!({})).await;
    assert!(past(&later).await.is_empty());
}
