//! Bodies that are not what they should be: a 4xx that says what to write, and nothing is stored.

use serde_json::json;

use super::*;

async fn send_json(api: &Api, method: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    api.send(method, path, &headers, body).await
}

#[tokio::test]
async fn what_is_not_the_json_that_is_asked_for_is_400() {
    let api = Api::start().await;
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}1{}", "{\"name\":".repeat(5_000), "}".repeat(5_000));
    for body in [
        "",
        "{",
        "null",
        "[]",
        "1",
        "\"\"",
        "{\"name\":1}",
        "{\"name\":null}",
        "{\"name\":\"a\"}x",
        "{\"name\":\"a\",\"name\":\"b\"}",
        "{\"name\":\"\u{0}\"}",
        "{\"name\":\"\\ud800\"}",
        "{\"name\":\"a\",\"metadata\":{\"a\":1}}",
        "{\"name\":\"a\",\"metadata\":[]}",
        &deep,
        &deep_object,
    ] {
        let answer = send_json(&api, "POST", "/v1/accounts", body).await;
        assert_problem(&answer, 400, "bad_request");
    }
    assert!(api.actions().await.is_empty());
}

#[tokio::test]
async fn an_unknown_field_is_named_with_those_that_are_allowed() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({})).await);
    for (method, path, body, allowed) in [
        ("POST", "/v1/accounts".into(), json!({ "nam": "a" }), "`owner`"),
        ("PATCH", format!("/v1/apps/{app}"), json!({ "environment": "live" }), "`granted_scopes`"),
        ("POST", format!("/v1/apps/{app}/keys"), json!({ "scope": [] }), "`scopes`"),
        ("PATCH", format!("/v1/keys/{key}"), json!({ "kind": "sk" }), "`scopes`"),
        ("POST", format!("/v1/keys/{key}/revoke"), json!({ "why": "" }), "`reason`"),
        ("POST", "/v1/keys/verify".into(), json!({ "key_id": "" }), "`key`"),
    ] {
        let answer = send_json(&api, method, &path, &body.to_string()).await;
        let detail = assert_problem(&answer, 400, "bad_request");
        let unknown = body.as_object().unwrap().keys().next().unwrap();
        assert!(detail.contains(&format!("`{unknown}`")) && detail.contains(allowed), "{detail}");
    }
}

#[tokio::test]
async fn null_is_refused_where_there_is_nothing_to_take_away() {
    let api = Api::start().await;
    let app = api.app().await;
    for field in ["name", "granted_scopes", "allowed_cidrs", "status", "metadata"] {
        let answer = api.patch(&format!("/v1/apps/{app}"), json!({ (field): null })).await;
        assert_problem(&answer, 400, "bad_request");
    }
}

#[tokio::test]
async fn a_body_must_be_declared_as_json() {
    let api = Api::start().await;
    let bearer = format!("Bearer {TOKEN}");
    let body = json!({ "name": "a" }).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "", "é"] {
        let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
        let answer = api.send("POST", "/v1/accounts", &headers, &body).await;
        assert_problem(&answer, 415, "unsupported_media_type");
    }
    let none = [("authorization", bearer.as_str())];
    let answer = api.send("POST", "/v1/accounts", &none, &body).await;
    assert_problem(&answer, 415, "unsupported_media_type");
    let with_charset =
        [("authorization", bearer.as_str()), ("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(api.send("POST", "/v1/accounts", &with_charset, &body).await.status, 201);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413() {
    let api = Api::start().await;
    let of_length = |length: usize| {
        let frame = json!({ "name": "" }).to_string().len();
        json!({ "name": "x".repeat(length - frame) }).to_string()
    };
    let most = send_json(&api, "POST", "/v1/accounts", &of_length(64 * 1024)).await;
    assert_problem(&most, 422, "invalid_field");
    for length in [64 * 1024 + 1, 1 << 20] {
        let answer = send_json(&api, "POST", "/v1/accounts", &of_length(length)).await;
        assert!(assert_problem(&answer, 413, "payload_too_large").contains("64 KiB"));
    }
}

#[tokio::test]
async fn a_value_that_breaks_a_rule_is_422_and_names_its_field() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({ "kind": "pk" })).await);
    let account = api.account().await;
    let (apps, keys) = (format!("/v1/accounts/{account}/apps"), format!("/v1/apps/{app}/keys"));
    let with = |base: &Value, more: Value| {
        let mut body = base.clone();
        merge(&mut body, more);
        body
    };
    let new_app = json!({ "name": "a", "environment": "live", "granted_scopes": ["read:a"] });
    let new_key = json!({ "scopes": ["read:orders"] });
    let (key, account) = (format!("/v1/keys/{key}"), format!("/v1/accounts/{account}"));
    let before = api.actions().await;
    for (method, path, body, field) in [
        ("POST", "/v1/accounts", json!({ "name": "a\nb" }), "name"),
        ("POST", "/v1/accounts", json!({ "name": "a", "metadata": { "": "" } }), "metadata"),
        ("POST", "/v1/accounts", json!({ "name": "a", "owner": "" }), "owner"),
        ("PATCH", &account, json!({ "purpose": "x".repeat(101) }), "purpose"),
        ("POST", &apps, with(&new_app, json!({ "max_age": "90" })), "max_age"),
        ("POST", &format!("{key}/rotate"), json!({ "overlap": "91d" }), "overlap"),
        ("PATCH", &account, json!({ "status": "closed" }), "status"),
        ("POST", &apps, with(&new_app, json!({ "environment": "prod" })), "environment"),
        ("POST", &apps, with(&new_app, json!({ "granted_scopes": ["READ:a"] })), "granted_scopes"),
        (
            "POST",
            &apps,
            with(&new_app, json!({ "allowed_cidrs": ["10.0.0.1/8"] })),
            "allowed_cidrs",
        ),
        ("POST", &keys, with(&new_key, json!({ "kind": "xk" })), "kind"),
        ("POST", &keys, with(&new_key, json!({ "name": "" })), "name"),
        ("POST", &keys, with(&new_key, json!({ "allowed_origins": ["*"] })), "allowed_origins"),
        ("PATCH", &key, json!({ "status": "revoked" }), "status"),
        ("PATCH", &key, json!({ "allowed_origins": ["null"] }), "allowed_origins"),
        ("POST", &format!("{key}/revoke"), json!({ "reason": "a\u{7}" }), "reason"),
    ] {
        let answer = api.call(method, path, Some(&body)).await;
        assert_problem(&answer, 422, "invalid_field");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    assert_eq!(api.actions().await, before);
}

#[tokio::test]
async fn a_key_in_the_wrong_place_is_neither_stored_nor_repeated() {
    let api = Api::start().await;
    let app = api.app().await;
    let created = api.key(&app, json!({})).await;
    let (key, key_id) = (created["key"].as_str().unwrap(), id(&created));
    for (method, path, body) in [
        ("POST", "/v1/accounts".into(), json!({ "name": key })),
        ("POST", "/v1/accounts".into(), json!({ "name": "a", (key): 1 })),
        ("POST", "/v1/accounts".into(), json!({ "name": "a", "metadata": key })),
        ("POST", format!("/v1/keys/{key_id}/revoke"), json!({ "reason": key })),
        ("PATCH", format!("/v1/apps/{app}"), json!({ "granted_scopes": [key] })),
        ("PATCH", format!("/v1/apps/{app}"), json!({ "tier": key })),
        ("POST", "/v1/keys/verify".into(), json!({ "key": [key] })),
        ("POST", "/v1/keys/verify".into(), json!({ "key": key, "ip": key })),
        ("GET", format!("/v1/keys/{key}"), json!({})),
        ("GET", format!("/v1/{key}"), json!({})),
        ("GET", format!("/v1/audit?{key}=1"), json!({})),
        ("GET", format!("/v1/audit?cursor={key}"), json!({})),
    ] {
        let answer = api.call(method, &path, Some(&body)).await;
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.text);
    }
    assert_eq!(api.actions().await.len(), 3);
}

/// Derived code reads an object's fields from an array too, by their places.
#[tokio::test]
async fn an_array_is_not_taken_for_an_object() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = json!({ "scopes": ["read:orders"], "limits": ["10/s", 20, null, null] });
    let import = json!({ "source": "csv", "accounts": [["ref", "name", null, null]] });
    let calls = [
        ("/v1/accounts".to_owned(), json!(["Acme", {}])),
        (format!("/v1/apps/{app}/keys"), key),
        ("/v1/keys/import".to_owned(), import),
        ("/v1/reload".to_owned(), json!([])),
    ];
    for (path, body) in calls {
        let answer = api.post(&path, body).await;
        let detail = assert_problem(&answer, 400, "bad_request");
        assert!(detail.contains("expected an object"), "{path}: {detail}");
    }
}
