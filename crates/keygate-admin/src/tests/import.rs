//! Keys that other systems made.

use keygate_core::KeyDigest;
use serde_json::json;

use super::*;

fn hash(key: &str) -> String {
    sha256(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(name: &str, scopes: &[&str]) -> Value {
    json!({ "sha256": hash(name), "app_ref": "shop", "scopes": scopes, "name": name })
}

fn batch(keys: &[Value]) -> Value {
    json!({
        "source": "kong",
        "accounts": [{ "ref": "acme", "name": "Acme" }],
        "apps": [{ "ref": "shop", "account_ref": "acme", "name": "Shop", "environment": "live" }],
        "keys": keys,
    })
}

async fn import(api: &Api, body: Value) -> Value {
    let answer = api.post("/v1/keys/import", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn counts(answer: &Value) -> [u64; 3] {
    ["created", "existing", "failed"].map(|name| answer[name].as_u64().unwrap())
}

#[tokio::test]
async fn imported_keys_are_found_by_the_hash_of_what_clients_send() {
    let api = Api::start().await;
    let body = batch(&[key("legacy-1", &["read:orders"]), key("legacy-2", &["write:orders"])]);
    let answer = import(&api, body).await;
    assert_eq!((counts(&answer), &answer["dry_run"]), ([2, 0, 0], &json!(false)));
    assert_eq!(answer["accepted"], false, "the configuration does not say so");

    let found = api.cache.load(KeyDigest::of_imported(&sha256(b"legacy-1"))).await.unwrap();
    let id = answer["results"][0]["id"].as_str().unwrap();
    assert_eq!(found.unwrap().id.to_string(), id);
    let shown = api.get(&format!("/v1/keys/{id}")).await.json();
    assert_eq!([&shown["status"], &shown["name"]], ["active", "legacy-1"]);
    assert!(shown["hint"].as_str().unwrap().starts_with("imported_"), "{shown}");
    assert!(!shown.to_string().contains(&hash("legacy-1")), "{shown}");
    let app = api.get(&format!("/v1/apps/{}", shown["app_id"].as_str().unwrap())).await.json();
    assert_eq!(app["granted_scopes"], json!(["read:orders", "write:orders"]));
    let audit = api.get("/v1/audit").await.json();
    let entry = &audit["items"][0];
    assert_eq!([&entry["action"], &entry["reason"]], ["keys.import", "from kong"]);
    assert_eq!(audit["items"].as_array().unwrap().len(), 1);
    let made: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    let app = shown["app_id"].as_str().unwrap();
    assert_eq!(entry["changes"]["keys"][1][app], json!(made), "{entry}");
    assert_eq!(entry["changes"]["apps"][1], json!([app]));
    assert_eq!(entry["changes"]["accounts"][1], json!([answer["accounts"][0]["id"]]));
}

#[tokio::test]
async fn an_id_says_nothing_about_the_key() {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let api = Api::start().await;
        let answer = import(&api, batch(&[key("legacy-1", &["read:orders"])])).await;
        ids.push(answer["results"][0]["id"].clone());
    }
    assert_ne!(ids[0], ids[1], "the same key, and ids that have nothing in common");
}

#[tokio::test]
async fn imports_of_the_same_key_at_the_same_time_make_one_key() {
    let api = Api::start().await;
    let body = batch(&[key("legacy-1", &["read:orders"]), key("legacy-2", &["read:orders"])]);
    let answers = four_at_once(&api, &body).await;
    let ids = |answer: &Value| {
        let results = answer["results"].as_array().unwrap().iter();
        results.map(|key| key["id"].clone()).collect::<Vec<_>>()
    };
    assert!(answers.iter().all(|answer| ids(answer) == ids(&answers[0])), "{answers:?}");
    let created: u64 = answers.iter().map(|answer| counts(answer)[0]).sum();
    assert_eq!(created, 2);
}

async fn four_at_once(api: &Api, body: &Value) -> [Value; 4] {
    let one = || import(api, body.clone());
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    [a, b, c, d]
}

#[tokio::test]
async fn other_limits_another_tier_or_being_enabled_is_a_difference() {
    let api = Api::start().await;
    let plain = key("legacy-1", &["read:orders"]);
    for more in [json!({ "enabled": false }), json!({ "limits": { "rate": "5/s" } })] {
        let mut other = plain.clone();
        merge(&mut other, more);
        let answer = import(&api, batch(&[plain.clone(), other])).await;
        let differs = [0, 1].map(|at| answer["results"][at]["differs"].as_bool().unwrap());
        assert_eq!(differs, [false, true], "{answer}");
    }
}

#[tokio::test]
async fn the_same_import_again_whole_or_in_part_makes_nothing_twice() {
    let api = Api::start().await;
    let keys: Vec<Value> = (0..20).map(|n| key(&format!("k{n}"), &["read:orders"])).collect();
    assert_eq!(counts(&import(&api, batch(&keys[..7])).await), [7, 0, 0]);
    let whole = import(&api, batch(&keys)).await;
    assert_eq!(counts(&whole), [13, 7, 0]);
    assert_eq!(
        (&whole["apps"][0]["result"], &whole["accounts"][0]["result"]),
        (&json!("existing"), &json!("existing"))
    );
    let again = import(&api, batch(&keys)).await;
    assert_eq!(counts(&again), [0, 20, 0]);
    let ids = |answer: &Value| -> Vec<Value> {
        answer["results"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect()
    };
    assert_eq!(ids(&again), ids(&whole));
    assert!(again["results"].as_array().unwrap().iter().all(|one| one["differs"] == false));
    assert_eq!(api.actions().await, ["keys.import", "keys.import"], "nothing was written last");
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let api = Api::start().await;
    let mut body = batch(&[key("k1", &["read:orders"]), key("k1", &["read:orders"])]);
    body["dry_run"] = json!(true);
    let answer = import(&api, body).await;
    assert_eq!((counts(&answer), &answer["dry_run"]), ([1, 1, 0], &json!(true)));
    assert_eq!(answer["apps"][0]["result"], "created");
    assert_eq!(api.actions().await, [""; 0]);
    assert_eq!(api.get("/v1/accounts").await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_is_there_with_other_grants_is_left_as_it_is_and_told() {
    let api = Api::start().await;
    let grants = json!(["read:orders", "write:orders"]);
    let wide = |keys: &[Value]| {
        let mut body = batch(keys);
        body["apps"][0]["granted_scopes"] = grants.clone();
        body
    };
    let mut relative = key("k2", &["read:orders"]);
    relative["ttl"] = json!("30d");
    let before = import(&api, wide(&[key("k1", &["read:orders"]), relative.clone()])).await;
    let later = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    let after = import(&later, wide(&[key("k1", &["write:orders"]), relative])).await;
    assert_eq!(counts(&after), [0, 2, 0]);
    assert_eq!(
        (&after["results"][0]["differs"], &after["results"][1]["differs"]),
        (&json!(true), &json!(false))
    );
    let id = before["results"][0]["id"].as_str().unwrap();
    let shown = api.get(&format!("/v1/keys/{id}")).await.json();
    assert_eq!(shown["scopes"], json!(["read:orders"]));
    api.post(&format!("/v1/keys/{id}/revoke"), json!({})).await;
    let revived = import(&api, wide(&[key("k1", &["read:orders"])])).await;
    assert_eq!(counts(&revived), [0, 1, 0]);
    assert_eq!(api.get(&format!("/v1/keys/{id}")).await.json()["status"], "revoked");
}

#[tokio::test]
async fn each_key_that_cannot_be_imported_fails_alone_with_the_reason() {
    let api = Api::start().await;
    let app = api.app().await;
    let with = |more: Value| {
        let mut one = key("a", &["read:orders"]);
        merge(&mut one, more);
        one
    };
    let in_app = |scopes: &[&str]| json!({ "sha256": hash("b"), "app_id": app, "scopes": scopes });
    let nowhere = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let (both, absent) = (
        json!({ "sha256": hash("c"), "app_id": nowhere, "app_ref": "shop" }),
        json!({ "sha256": hash("d"), "app_id": nowhere }),
    );
    let cases = [
        (with(json!({ "sha256": "hush-hush" })), "invalid_field"),
        (with(json!({ "expires_at": "2029-12-31T00:00:00Z" })), "invalid_field"),
        (with(json!({ "ttl": "1d", "expires_at": "2031-12-31T00:00:00Z" })), "invalid_field"),
        (with(json!({ "scopes": ["Read"] })), "invalid_field"),
        (with(json!({ "name": "" })), "invalid_field"),
        (with(json!({ "tier": "none" })), "unknown_tier"),
        (with(json!({ "limits": { "burst": 5 } })), "invalid_field"),
        (with(json!({ "app_ref": "elsewhere" })), "not_found"),
        (in_app(&["admin:orders"]), "scope_not_granted"),
        (both, "invalid_field"),
        (absent, "not_found"),
        (in_app(&["read:orders"]), ""),
        (with(json!({ "enabled": false })), ""),
    ];
    let keys: Vec<Value> = cases.iter().map(|(key, _)| key.clone()).collect();
    let answer = import(&api, batch(&keys)).await;
    assert_eq!(counts(&answer), [2, 0, 11], "{answer}");
    for (index, ((key, code), result)) in
        cases.iter().zip(answer["results"].as_array().unwrap()).enumerate()
    {
        assert_eq!(result["index"], index);
        let failed = !code.is_empty();
        assert_eq!(result["error"]["code"].as_str().unwrap_or_default(), *code, "{key} {result}");
        assert_eq!((result["result"] == "failed", result["id"].is_null()), (failed, failed));
        assert!(!result.to_string().contains("hush-hush"), "{result}");
    }
    let id = answer["results"][12]["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/keys/{id}")).await.json()["status"], "disabled");
}

#[tokio::test]
async fn an_app_that_cannot_be_made_fails_with_its_keys() {
    let api = Api::start().await;
    let mut body = batch(&[key("k1", &["read:orders"])]);
    body["apps"][0]["name"] = json!("");
    let answer = import(&api, body).await;
    assert_eq!(counts(&answer), [0, 0, 1]);
    assert_eq!(answer["apps"][0]["error"]["code"], "invalid_field");
    assert_eq!(answer["results"][0]["error"]["code"], "not_found");
}

#[tokio::test]
async fn names_of_one_account_environment_or_system_are_not_those_of_another() {
    let api = Api::start().await;
    let mut apps = Vec::new();
    for (source, account, environment) in
        [("kong", "a", "live"), ("kong", "a", "test"), ("kong", "b", "live"), ("tyk", "a", "live")]
    {
        let mut body = batch(&[]);
        body["source"] = json!(source);
        body["accounts"][0]["ref"] = json!(account);
        body["apps"][0]["account_ref"] = json!(account);
        body["apps"][0]["environment"] = json!(environment);
        let answer = import(&api, body).await;
        assert_eq!(answer["apps"][0]["result"], "created");
        apps.push(answer["apps"][0]["id"].clone());
    }
    apps.sort_by_key(Value::to_string);
    apps.dedup();
    assert_eq!(apps.len(), 4);
}

#[tokio::test]
async fn an_import_may_be_longer_than_other_requests_and_has_bounds() {
    let api = Api::start().await;
    let keys: Vec<Value> = (0..500).map(|n| key(&format!("k{n}"), &["read:orders"])).collect();
    assert_eq!(counts(&import(&api, batch(&keys)).await), [500, 0, 0]);
    let more: Vec<Value> = (0..501).map(|n| key(&format!("k{n}"), &[])).collect();
    assert_problem(&api.post("/v1/keys/import", batch(&more)).await, 422, "invalid_field");
    let long = json!({ "source": "csv", "keys": [], "accounts": [{ "ref": "a", "name": "x".repeat(1 << 20) }] });
    let detail = assert_problem(&api.post("/v1/keys/import", long).await, 413, "payload_too_large");
    assert!(detail.contains("1024 KiB"), "{detail}");
    for wrong in [json!({ "source": "elsewhere" }), json!({ "source": "csv", "keys": [{}] })] {
        let status = api.post("/v1/keys/import", wrong).await.status;
        assert!([400, 422].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn a_key_that_nobody_knew_works_as_soon_as_it_is_imported() {
    let api = Api::start().await;
    let digest = KeyDigest::of_imported(&sha256(b"late"));
    assert!(api.cache.load(digest).await.unwrap().is_none());
    import(&api, batch(&[key("late", &["read:orders"])])).await;
    assert!(api.cache.load(digest).await.unwrap().is_some());
}
