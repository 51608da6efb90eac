//! What `verify` says is what the gateway would decide.

use serde_json::json;

use super::*;

struct Case {
    api: Api,
    app: String,
    key: String,
    key_id: String,
}

async fn case(more: Value) -> Case {
    let api = Api::start().await;
    let app = api.app().await;
    let created = api.key(&app, more).await;
    let key = created["key"].as_str().unwrap().to_owned();
    Case { api, app, key, key_id: id(&created) }
}

impl Case {
    async fn verify(&self, more: Value) -> Value {
        self.ask(&self.api, more).await
    }

    async fn ask(&self, api: &Api, more: Value) -> Value {
        let mut body = json!({ "key": self.key });
        merge(&mut body, more);
        let answer = api.post("/v1/keys/verify", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    async fn code(&self, more: Value) -> Value {
        let answer = self.verify(more).await;
        assert_eq!(answer["valid"], answer["code"].is_null());
        answer["code"].clone()
    }
}

fn get_orders() -> Value {
    json!({ "method": "GET", "path": "/v1/orders" })
}

#[tokio::test]
async fn a_good_key_is_valid_on_its_own_and_for_its_call() {
    let case = case(json!({})).await;
    let yes = json!({
        "valid": true, "code": null, "key_id": case.key_id, "scopes": ["read:orders"],
    });
    assert_eq!(case.verify(json!({})).await, yes);
    assert_eq!(case.verify(get_orders()).await, yes);
    let deeper = json!({ "method": "GET", "path": "/v1/orders/%37?a=b", "host": "x.example:80" });
    assert_eq!(case.verify(deeper).await, yes);
    assert_eq!(case.verify(json!({ "method": "GET", "path": "/status" })).await, yes);
}

#[tokio::test]
async fn a_refusal_has_the_gateways_code() {
    let case = case(json!({})).await;
    for (more, code) in [
        (json!({ "method": "GET", "path": "/nothing" }), "route_not_found"),
        (json!({ "method": "POST", "path": "/v1/orders" }), "method_not_allowed"),
        (json!({ "method": "get", "path": "/v1/orders" }), "method_not_allowed"),
        (json!({ "method": "GET", "path": "/v1/orders/../x" }), "ambiguous_path"),
        (json!({ "method": "GET", "path": "v1/orders" }), "bad_request"),
        (json!({ "method": "GET", "path": "/v1/orders", "host": "a b" }), "bad_request"),
        (json!({ "method": "GET", "path": "/v1/sandbox" }), "environment_mismatch"),
        (
            json!({ "method": "GET", "path": "/v1/orders", "host": "INTERNAL.example:443" }),
            "permission_denied",
        ),
    ] {
        assert_eq!(case.code(more.clone()).await, code, "{more}");
    }
}

#[tokio::test]
async fn what_is_no_key_of_ours_is_invalid_and_looked_up_nowhere() {
    let mut case = case(json!({})).await;
    let no = json!({ "valid": false, "code": "api_key_invalid", "key_id": null, "scopes": [] });
    case.api.cache.store().down.store(true, Ordering::SeqCst);
    let cut = case.key[..57].to_owned();
    let last = if case.key.ends_with('a') { "b" } else { "a" };
    for wrong in [String::new(), "x".into(), format!("{cut}{last}"), "x".repeat(1_000), cut] {
        case.key = wrong;
        assert_eq!(case.verify(json!({})).await, no, "{}", case.key);
    }
}

#[tokio::test]
async fn a_revocation_takes_effect_at_once_on_a_key_that_is_cached() {
    let case = case(json!({})).await;
    assert_eq!(case.code(get_orders()).await, Value::Null);
    case.api.post(&format!("/v1/keys/{}/revoke", case.key_id), json!({})).await;
    let answer = case.verify(get_orders()).await;
    assert_eq!(answer["code"], "api_key_invalid");
    assert_eq!(answer["key_id"], case.key_id, "an operator may know which key it was");
}

#[tokio::test]
async fn switching_off_key_app_or_account_takes_effect_at_once_and_back() {
    let case = case(json!({})).await;
    let app = case.api.get(&format!("/v1/apps/{}", case.app)).await.json();
    let account = app["account_id"].as_str().unwrap();
    for (path, off) in [
        (format!("/v1/keys/{}", case.key_id), "disabled"),
        (format!("/v1/apps/{}", case.app), "disabled"),
        (format!("/v1/accounts/{account}"), "suspended"),
    ] {
        assert_eq!(case.code(json!({})).await, Value::Null);
        case.api.patch(&path, json!({ "status": off })).await;
        assert_eq!(case.code(json!({})).await, "api_key_invalid", "{path}");
        assert_eq!(case.code(get_orders()).await, "api_key_invalid", "{path}");
        case.api.patch(&path, json!({ "status": "active" })).await;
    }
    assert_eq!(case.code(get_orders()).await, Value::Null);
}

#[tokio::test]
async fn a_scope_that_the_app_loses_is_lost_to_its_keys_at_once() {
    let case = case(json!({})).await;
    assert_eq!(case.code(get_orders()).await, Value::Null);
    let change = json!({ "granted_scopes": ["write:orders"] });
    case.api.patch(&format!("/v1/apps/{}", case.app), change).await;
    let answer = case.verify(get_orders()).await;
    assert_eq!((&answer["code"], &answer["scopes"]), (&json!("permission_denied"), &json!([])));
}

#[tokio::test]
async fn an_expired_key_says_so() {
    let case = case(json!({ "ttl": "1d" })).await;
    assert_eq!(case.code(json!({})).await, Value::Null);
    let then = case.api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    assert_eq!(case.ask(&then, json!({})).await["code"], "api_key_expired");
    assert_eq!(case.ask(&then, get_orders()).await["code"], "api_key_expired");
}

#[tokio::test]
async fn addresses_and_origins_count_and_an_unsaid_one_is_not_allowed() {
    let bound = json!({
        "kind": "pk", "allowed_cidrs": ["203.0.113.0/24"],
        "allowed_origins": ["https://shop.example"],
    });
    let case = case(bound).await;
    let with = |more: Value| {
        let mut call = get_orders();
        merge(&mut call, more);
        call
    };
    let (inside, outside) = ("203.0.113.9", "198.51.100.1");
    let origin = "https://shop.example";
    assert_eq!(case.code(with(json!({ "ip": inside, "origin": origin }))).await, Value::Null);
    assert_eq!(case.code(with(json!({ "ip": outside, "origin": origin }))).await, "ip_not_allowed");
    assert_eq!(case.code(with(json!({ "origin": origin }))).await, "ip_not_allowed");
    assert_eq!(case.code(with(json!({ "ip": inside }))).await, "origin_not_allowed");
    assert_eq!(case.code(json!({ "ip": inside })).await, Value::Null);
    assert_eq!(case.code(json!({ "ip": outside })).await, "ip_not_allowed");
    assert_eq!(case.code(json!({})).await, Value::Null);
}

#[tokio::test]
async fn half_a_call_is_refused_and_so_is_what_would_be_passed_over() {
    let case = case(json!({})).await;
    for (more, field) in [
        (json!({ "method": "GET" }), "path"),
        (json!({ "path": "/v1/orders" }), "method"),
        (json!({ "host": "a.example" }), "host"),
        (json!({ "origin": "https://a.example" }), "origin"),
        (json!({ "ip": "203.0.113.9:80" }), "ip"),
    ] {
        let mut body = json!({ "key": case.key });
        merge(&mut body, more);
        let answer = case.api.post("/v1/keys/verify", body).await;
        assert_problem(&answer, 422, "invalid_field");
        assert_eq!(answer.json()["field"], field);
    }
}
