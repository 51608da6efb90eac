//! A call that is sent again under the same name makes nothing again.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;

const FIRST: (&str, &str) = ("idempotency-key", "first");

/// Calls that make something: path, body, another body.
async fn calls(api: &Api) -> Vec<(String, Value, Value)> {
    let app = api.app().await;
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let key = id(&api.key(&app, json!({})).await);
    let new_app = json!({ "name": "web", "granted_scopes": ["read:a"], "metadata": { "a": "b" } });
    vec![
        ("/v1/accounts".into(), json!({ "name": "Acme" }), json!({ "name": "Acme Ltd" })),
        (
            format!("/v1/accounts/{}/apps", account.as_str().unwrap()),
            new_app,
            json!({ "name": "web", "granted_scopes": ["read:a"], "metadata": { "a": "c" } }),
        ),
        (
            format!("/v1/apps/{app}/keys"),
            json!({ "scopes": [], "ttl": "30d" }),
            json!({ "scopes": [] }),
        ),
        (format!("/v1/keys/{key}/rotate"), json!({}), json!({ "overlap": "1h" })),
    ]
}

#[tokio::test]
async fn the_same_call_again_is_answered_as_before_without_the_key_and_makes_nothing() {
    let api = Api::start().await;
    for (path, body, other) in calls(&api).await {
        let first = api.call_with("POST", &path, &[FIRST], body.clone()).await;
        assert_eq!(first.status, 201, "{path}: {}", first.text);
        assert_eq!(first.json()["replayed"], false);
        let actions = api.actions().await;
        let mut expected = first.json();
        expected["replayed"] = json!(true);
        if expected.get("key").is_some() {
            expected["key"] = Value::Null;
        }
        // Whatever has become of the record since.
        if let Some(of_key) = first.header("location").strip_prefix("/v1/keys/") {
            api.post(&format!("/v1/keys/{of_key}/revoke"), json!({ "reason": "lost" })).await;
        }
        let again = api.call_with("POST", &path, &[FIRST], body.clone()).await;
        assert_eq!((again.status, again.json()), (201, expected), "{path}");
        for header in ["location", "etag"] {
            assert_eq!(again.header(header), first.header(header));
        }
        let reused = api.call_with("POST", &path, &[FIRST], other).await;
        assert_problem(&reused, 422, "idempotency_key_reused");
        let made = |all: &[String]| all.iter().filter(|one| *one != "key.revoke").count();
        assert_eq!(made(&api.actions().await), made(&actions));
    }
}

#[tokio::test]
async fn a_name_is_its_senders_own_and_that_of_one_call() {
    let api = Api::start().await;
    let mut made = std::collections::BTreeSet::new();
    for name in ["a", "b", "a b", "\"a\"", &"x".repeat(255)] {
        let headers = [("idempotency-key", name)];
        let body = json!({ "name": "Acme" });
        let account = api.call_with("POST", "/v1/accounts", &headers, body).await.json();
        assert!(made.insert(id(&account)), "{name}");
        let path = format!("/v1/accounts/{}/apps", id(&account));
        let body = json!({ "name": "web", "granted_scopes": ["read:a"] });
        let app = api.call_with("POST", &path, &headers, body).await;
        assert_eq!((app.status, &app.json()["replayed"]), (201, &json!(false)));
    }
}

#[tokio::test]
async fn a_name_is_forgotten_after_a_day() {
    let api = Api::start().await;
    let body = json!({ "name": "Acme" });
    let first = api.call_with("POST", "/v1/accounts", &[FIRST], body.clone()).await.json();
    let before = api.at(|| UnixMillis(NOW.0 + DAY_MS - 1)).await;
    let again = before.call_with("POST", "/v1/accounts", &[FIRST], body.clone()).await.json();
    assert_eq!((id(&again), &again["replayed"]), (id(&first), &json!(true)));
    let after = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    let new = after.call_with("POST", "/v1/accounts", &[FIRST], body).await.json();
    assert_eq!((id(&new) == id(&first), &new["replayed"]), (false, &json!(false)));
}

#[tokio::test]
async fn many_of_the_same_call_at_one_time_make_one() {
    let api = Arc::new(Api::start().await);
    for (path, body, _) in calls(&api).await {
        let sent = (0..20).map(|_| {
            let (api, path, body) = (Arc::clone(&api), path.clone(), body.clone());
            tokio::spawn(async move { api.call_with("POST", &path, &[FIRST], body).await })
        });
        let mut answers = Vec::new();
        for answer in sent.collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, 201, "{path}: {}", answer.text);
            answers.push(answer.json());
        }
        assert!(answers.iter().all(|answer| answer["id"] == answers[0]["id"]), "{path}");
        let first: Vec<_> = answers.iter().filter(|one| one["replayed"] == false).collect();
        assert_eq!(first.len(), 1, "{path}");
        assert_ne!(first[0].get("key"), Some(&Value::Null));
    }
}

/// What was asked for may be impossible by now, often because it was done.
#[tokio::test]
async fn a_call_that_was_done_is_answered_even_if_it_could_not_be_done_again() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    let body = json!({ "scopes": ["read:orders"], "expires_at": "2030-01-01T01:00:00Z" });
    let first = api.call_with("POST", &path, &[FIRST], body.clone()).await.json();
    for _ in 0..4 {
        api.key(&app, json!({})).await;
    }
    let full = api.call_with("POST", &path, &[FIRST], body.clone()).await;
    assert_eq!((full.status, id(&full.json())), (201, id(&first)), "{}", full.text);
    api.patch(&format!("/v1/apps/{app}"), json!({ "granted_scopes": [] })).await;
    let later = api.at(|| UnixMillis(NOW.0 + DAY_MS / 2)).await;
    let again = later.call_with("POST", &path, &[FIRST], body.clone()).await;
    assert_eq!((again.status, id(&again.json())), (201, id(&first)), "{}", again.text);
    let others = [("idempotency-key", "second")];
    let refused = later.call_with("POST", &path, &others, body).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
}

#[tokio::test]
async fn a_call_that_was_refused_may_be_sent_again_under_its_name() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    let body = json!({ "scopes": ["read:reports"] });
    let refused = api.call_with("POST", &path, &[FIRST], body.clone()).await;
    assert_problem(&refused, 422, "scope_not_granted");
    api.patch(&format!("/v1/apps/{app}"), json!({ "granted_scopes": ["read:reports"] })).await;
    let made = api.call_with("POST", &path, &[FIRST], body).await;
    assert_eq!((made.status, &made.json()["replayed"]), (201, &json!(false)));
}

#[tokio::test]
async fn a_name_that_is_none_is_400_and_one_on_other_calls_does_not_matter() {
    let api = Api::start().await;
    let body = json!({ "name": "Acme" });
    for name in ["", " ", "é", "a\tb", &"x".repeat(256)] {
        let answer =
            api.call_with("POST", "/v1/accounts", &[("idempotency-key", name)], body.clone()).await;
        assert!(assert_problem(&answer, 400, "bad_request").contains("Idempotency-Key"));
    }
    let twice = [FIRST, ("idempotency-key", "second")];
    let answer = api.call_with("POST", "/v1/accounts", &twice, body.clone()).await;
    assert_problem(&answer, 400, "bad_request");
    assert!(api.actions().await.is_empty());
    let path = format!("/v1/accounts/{}", api.account().await);
    for name in ["one", "two"] {
        let changed = api.call_with("PATCH", &path, &[FIRST], json!({ "name": name })).await;
        assert_eq!((changed.status, &changed.json()["name"]), (200, &json!(name)));
    }
}

#[tokio::test]
async fn a_key_that_was_taken_back_is_never_handed_out_by_a_replay() {
    let api = Api::start().await;
    let app = api.app().await;
    let old = id(&api.key(&app, json!({})).await);
    let calls = [
        (format!("/v1/apps/{app}/keys"), json!({ "scopes": [] })),
        (format!("/v1/keys/{old}/rotate"), json!({})),
    ];
    for (path, body) in calls {
        api.cache.store().no_replica.store(true, Ordering::SeqCst);
        let first = api.call_with("POST", &path, &[FIRST], body.clone()).await;
        let detail = assert_problem(&first, 503, "not_durable");
        assert!(detail.contains("another `Idempotency-Key`"), "{detail}");
        let counted = api.metrics.render();
        let again = api.call_with("POST", &path, &[FIRST], body.clone()).await;
        assert_problem(&again, 503, "not_durable");
        let created = |text: &str| {
            let lines = text.lines().filter(|line| line.starts_with("keygate_keys_"));
            lines.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(created(&api.metrics.render()), created(&counted), "it made none");
        api.cache.store().no_replica.store(false, Ordering::SeqCst);
        let replayed = api.call_with("POST", &path, &[FIRST], body.clone()).await;
        let detail = assert_problem(&replayed, 409, "key_not_shown");
        assert!(detail.contains("another `Idempotency-Key`"), "{detail}");
        let second = [("idempotency-key", "second")];
        let made = api.call_with("POST", &path, &second, body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        assert!(made.json()["key"].is_string());
    }
}

#[tokio::test]
async fn an_account_that_too_few_replicas_had_is_acknowledged_by_a_replay_once_they_have_it() {
    let api = Api::start().await;
    let body = json!({ "name": "Acme" });
    api.cache.store().no_replica.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let answer = api.call_with("POST", "/v1/accounts", &[FIRST], body.clone()).await;
        assert_problem(&answer, 503, "not_durable");
    }
    api.cache.store().no_replica.store(false, Ordering::SeqCst);
    let made = api.call_with("POST", "/v1/accounts", &[FIRST], body).await;
    assert_eq!((made.status, &made.json()["replayed"]), (201, &json!(true)));
    assert_eq!(api.actions().await, ["account.create"]);
}

#[tokio::test]
async fn a_repeated_call_whose_record_may_be_lost_names_the_record_that_there_is() {
    let api = Api::start().await;
    let account = api.account().await;
    let app = json!({ "name": "web", "environment": "live", "granted_scopes": ["read:a"] });
    let calls = [
        ("/v1/accounts".to_owned(), json!({ "name": "Acme" }), "accounts"),
        (format!("/v1/accounts/{account}/apps"), app, "apps"),
    ];
    for (path, body, kind) in calls {
        api.cache.store().no_replica.store(true, Ordering::SeqCst);
        let mut named = Vec::new();
        for _ in 0..3 {
            let answer = api.call_with("POST", &path, &[FIRST], body.clone()).await;
            assert_problem(&answer, 503, "not_durable");
            named.push(id(&answer.json()));
        }
        assert!(named.iter().all(|id| *id == named[0]), "{named:?}");
        assert_eq!(api.get(&format!("/v1/{kind}/{}", named[0])).await.status, 200);
        api.cache.store().no_replica.store(false, Ordering::SeqCst);
        let made = api.call_with("POST", &path, &[FIRST], body.clone()).await.json();
        assert_eq!((id(&made), &made["replayed"]), (named[0].clone(), &json!(true)));
    }
}
