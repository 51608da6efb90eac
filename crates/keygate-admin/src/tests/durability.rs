//! A write that too few replicas have: never acknowledged, and the way on is said and is safe.

use std::sync::atomic::Ordering;

use super::*;

fn replicas_are_away(api: &Api, away: bool) {
    api.cache.store().no_replica.store(away, Ordering::SeqCst);
}

#[track_caller]
fn assert_not_durable(answer: &Answer) -> String {
    let detail = assert_problem(answer, 503, "not_durable");
    assert_eq!(answer.header("retry-after"), "1");
    assert!(detail.contains("0 replicas") && detail.contains("`wait_replicas` is 1"), "{detail}");
    assert!(detail.ends_with('.'), "the whole detail fits: {detail}");
    detail
}

#[tokio::test]
async fn a_revocation_is_acknowledged_only_once_replicas_have_it_however_often_it_is_sent() {
    let api = Api::start().await;
    let key = api.key(&api.app().await, json!({})).await;
    let path = format!("/v1/keys/{}/revoke", id(&key));
    replicas_are_away(&api, true);
    for _ in 0..3 {
        let detail = assert_not_durable(&api.post(&path, json!({ "reason": "leaked" })).await);
        assert!(detail.contains("same call again"), "{detail}");
    }
    // It takes effect all the same: refusing too early does no harm.
    let verdict = api.post("/v1/keys/verify", json!({ "key": key["key"] })).await.json();
    assert_eq!(verdict["valid"], false);
    replicas_are_away(&api, false);
    let answer = api.post(&path, json!({ "reason": "leaked" })).await;
    assert_eq!((answer.status, answer.json()["revoke_reason"].as_str()), (200, Some("leaked")));
    let revocations = api.actions().await.iter().filter(|action| *action == "key.revoke").count();
    assert_eq!(revocations, 1, "it was done once");
    assert!(api.metrics.render().contains("\nkeygate_keys_revoked_total 1\n"));
}

#[tokio::test]
async fn a_change_that_is_so_already_is_acknowledged_only_once_replicas_have_it() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({})).await);
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let changes = [
        (format!("/v1/accounts/{}", account.as_str().unwrap()), json!({ "status": "suspended" })),
        (format!("/v1/apps/{app}"), json!({ "status": "disabled" })),
        (format!("/v1/keys/{key}"), json!({ "status": "disabled" })),
    ];
    for (path, change) in changes {
        replicas_are_away(&api, true);
        let seen = api.get(&path).await.header("etag").to_owned();
        let tag = [("if-match", seen.as_str())];
        let send = || api.call_with("PATCH", &path, &tag, change.clone());
        for _ in 0..2 {
            assert_not_durable(&send().await);
        }
        replicas_are_away(&api, false);
        let answer = send().await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &change["status"]));
    }
    let made = ["account.create", "app.create", "key.create"];
    let changed = ["account.suspend", "app.disable", "key.disable"];
    assert_eq!(api.actions().await, [made, changed].concat(), "each was done once");
}

#[tokio::test]
async fn a_key_that_nobody_was_shown_does_not_live_on_nor_count() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    replicas_are_away(&api, true);
    for _ in 0..7 {
        let detail = assert_not_durable(&api.post(&path, json!({ "scopes": [] })).await);
        assert!(detail.contains("revoked") && detail.contains("another key"), "{detail}");
    }
    replicas_are_away(&api, false);
    let keys = api.get(&path).await.json();
    let keys = keys["items"].as_array().unwrap();
    assert_eq!(keys.len(), 7);
    for key in keys {
        assert_eq!(key["status"], "revoked");
        assert_eq!(key["revoke_reason"], "never shown: the write was not durable");
    }
    for _ in 0..5 {
        api.key(&app, json!({})).await;
    }
}

#[tokio::test]
async fn a_record_that_may_be_lost_is_named_with_the_call_that_confirms_it() {
    let api = Api::start().await;
    let account = api.account().await;
    let app = json!({ "name": "web", "environment": "live", "granted_scopes": ["read:a"] });
    let creates = [
        ("/v1/accounts".to_owned(), json!({ "name": "Acme" }), "accounts"),
        (format!("/v1/accounts/{account}/apps"), app, "apps"),
    ];
    for (path, body, kind) in creates {
        replicas_are_away(&api, true);
        let answer = api.post(&path, body).await;
        let detail = assert_not_durable(&answer);
        let record = format!("/v1/{kind}/{}", id(&answer.json()));
        assert!(detail.contains("Do not create it again"), "{detail}");
        assert!(detail.contains(&format!("PATCH {record} with `{{}}`")), "{detail}");
        assert_not_durable(&api.patch(&record, json!({})).await);
        replicas_are_away(&api, false);
        let confirmed = api.patch(&record, json!({})).await;
        assert_eq!((confirmed.status, confirmed.json()["id"] == answer.json()["id"]), (200, true));
    }
}
