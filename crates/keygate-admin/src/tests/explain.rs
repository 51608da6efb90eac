//! What `explain` says is what the gateway would do, and why.

use keygate_config::live::Current;
use keygate_core::Code;
use keygate_core::credential::ImportedRules;
use keygate_core::limit::terms::Terms;
use keygate_store::keys::KeyStore;
use keygate_store::records::Role;
use serde_json::json;

use super::*;
use crate::RegistryError;
use crate::registry::{About, Actor, Call, Inquiry, Question};

struct Case {
    api: Api,
    key: String,
    key_id: String,
}

async fn case(more: Value) -> Case {
    let api = Api::start().await;
    let app = api.app().await;
    let created = api.key(&app, more).await;
    let key = created["key"].as_str().unwrap().to_owned();
    Case { api, key, key_id: id(&created) }
}

fn get_orders() -> Value {
    json!({ "method": "GET", "path": "/v1/orders", "host": "api.example", "ip": "192.0.2.1" })
}

impl Case {
    /// About `GET /v1/orders` by the key's id, but for what is said otherwise.
    async fn explain(&self, more: Value) -> Value {
        let mut body = get_orders();
        body["key_id"] = json!(self.key_id);
        merge(&mut body, more);
        self.send(&body).await
    }

    async fn send(&self, body: &Value) -> Value {
        let answer = self.api.post("/v1/explain", body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let said = answer.json();
        let fails = steps(&said).find(|step| step["result"] == "fail");
        assert_eq!(said["code"], fails.map_or(Value::Null, |step| step["code"].clone()));
        assert_eq!(said["admitted"], said["code"].is_null());
        said
    }
}

fn steps(said: &Value) -> impl Iterator<Item = &Value> {
    said["steps"].as_array().unwrap().iter()
}

/// Each step with its result, but for those that pass.
fn results(said: &Value) -> Vec<String> {
    let all = steps(said).filter(|step| step["result"] != "pass");
    let text = |step: &Value, member: &str| step[member].as_str().unwrap_or("-").to_owned();
    all.map(|step| {
        format!("{} {} {}", text(step, "step"), text(step, "result"), text(step, "code"))
    })
    .collect()
}

#[track_caller]
fn detail(said: &Value, name: &str) -> String {
    let step = steps(said).find(|step| step["step"] == name);
    step.unwrap_or_else(|| panic!("no step {name} in {said}"))["detail"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn every_step_is_there_in_order_with_what_it_looked_at() {
    let case = case(json!({})).await;
    let said = case.explain(json!({})).await;
    let names: Vec<&str> = steps(&said).map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "request",
            "route",
            "failed_auth",
            "credential",
            "lookup",
            "status",
            "expiry",
            "environment",
            "network",
            "origin",
            "scopes",
            "concurrency",
            "rate",
            "quota",
            "upstream",
        ]
    );
    assert_eq!(results(&said), ["credential skip -"]);
    assert_eq!((&said["key_id"], &said["route"]), (&json!(case.key_id), &json!("orders.read")));
    assert_eq!(detail(&said, "request"), "GET /v1/orders, host api.example");
    assert_eq!(detail(&said, "route"), "orders.read, for /v1/orders");
    assert_eq!(detail(&said, "upstream"), "main");
    assert_eq!(
        detail(&said, "scopes"),
        "the route needs all of read:orders; the key and its app have read:orders"
    );
}

#[tokio::test]
async fn a_key_by_its_text_is_the_same_as_by_its_id() {
    let case = case(json!({})).await;
    let mut body = get_orders();
    body["key"] = json!(case.key);
    let said = case.send(&body).await;
    assert_eq!((results(&said), &said["key_id"]), (vec![], &json!(case.key_id)));
    let other = if case.key.ends_with('x') { 'y' } else { 'x' };
    body["key"] = json!(format!("{}{other}", &case.key[..57]));
    let said = case.send(&body).await;
    assert_eq!(said["code"], "api_key_invalid");
    assert_eq!(results(&said)[..2], ["credential fail api_key_invalid", "lookup skip -"]);
    assert_eq!(said["key_id"], Value::Null);
}

impl Api {
    /// Goes by these peppers, and lets imported keys in or not, from now on.
    fn goes_by(&self, peppers: &[u8], imported: Option<ImportedRules>) {
        let mut config = config();
        config.keys.credentials.imported = imported;
        let peppers = Arc::new(peppers::of(peppers));
        self.live.replace(Current { config: Arc::new(config), peppers, inputs: Arc::default() });
    }
}

#[tokio::test]
async fn a_key_by_its_id_is_refused_as_its_text_would_be() {
    let case = case(json!({})).await;
    case.api.goes_by(&[8], None);
    let said = case.explain(json!({})).await;
    assert_eq!(results(&said), ["credential fail api_key_invalid"]);
    let lacking = peppers::name(9);
    let why = format!("it was made under pepper {lacking}, which this gateway does not have");
    assert_eq!(detail(&said, "credential"), why);
    case.api.goes_by(&[8, 9], None);
    assert_eq!(case.explain(json!({})).await["admitted"], true);

    let app = case.api.app().await;
    let sha256: String = sha256(b"legacy-1").iter().map(|byte| format!("{byte:02x}")).collect();
    let key = json!({ "sha256": sha256, "app_id": app, "scopes": ["read:orders"] });
    let import = json!({ "source": "csv", "keys": [key] });
    let landed = case.api.post("/v1/keys/import", import).await.json();
    let imported = json!({ "key_id": landed["results"][0]["id"] });
    let said = case.explain(imported.clone()).await;
    assert_eq!(results(&said), ["credential fail api_key_invalid"]);
    let why = "another system made it, and `[keys] accept_imported` is off";
    assert_eq!(detail(&said, "credential"), why);
    case.api.goes_by(&[8], Some(ImportedRules::default()));
    assert_eq!(case.explain(imported).await["admitted"], true, "no pepper made it");
}

#[tokio::test]
async fn steps_after_one_that_fails_are_taken_too() {
    let case = case(json!({ "allowed_cidrs": ["10.0.0.0/8"] })).await;
    case.api.patch(&format!("/v1/keys/{}", case.key_id), json!({ "status": "disabled" })).await;
    let said = case.explain(json!({ "path": "/v1/sandbox" })).await;
    assert_eq!(
        results(&said),
        [
            "credential skip -",
            "status fail api_key_invalid",
            "environment fail environment_mismatch",
            "network fail ip_not_allowed",
        ]
    );
    assert_eq!(detail(&said, "status"), "the key is disabled");
    let said = case.explain(json!({ "method": "POST" })).await;
    assert_eq!(said["code"], "method_not_allowed");
    assert_eq!(said["route"], Value::Null);
    assert_eq!(
        results(&said),
        [
            "route fail method_not_allowed",
            "credential skip -",
            "status fail api_key_invalid",
            "environment skip -",
            "network fail ip_not_allowed",
            "scopes skip -",
            "upstream skip -",
        ]
    );
}

#[tokio::test]
async fn a_request_is_read_as_the_gateway_reads_it() {
    let case = case(json!({})).await;
    for (more, code) in [
        (json!({ "path": "/v1/orders/7?a=1&b" }), Value::Null),
        (json!({ "path": "/v1/%6frders#top" }), Value::Null),
        (json!({ "host": "API.Example.:8080" }), Value::Null),
        (json!({ "path": "/v1/../v1/orders" }), json!("ambiguous_path")),
        (json!({ "path": "/v1/orders%2f7" }), json!("ambiguous_path")),
        (json!({ "path": "/v1/orders;a=b" }), json!("ambiguous_path")),
        (json!({ "path": "/v1/orders?a=<b>" }), json!("bad_request")),
        (json!({ "path": "/v1/or ders" }), json!("bad_request")),
        (json!({ "path": "v1/orders" }), json!("bad_request")),
        (json!({ "path": format!("/{}", "x".repeat(40_000)) }), json!("headers_too_large")),
        (json!({ "host": "" }), json!("bad_request")),
        (json!({ "host": "a b" }), json!("bad_request")),
        (json!({ "method": "" }), json!("bad_request")),
        (json!({ "method": "GE T" }), json!("bad_request")),
        (json!({ "method": "get" }), json!("method_not_allowed")),
        (json!({ "method": "CONNECT" }), json!("method_not_allowed")),
        (json!({ "path": "/nothing" }), json!("route_not_found")),
        (json!({ "host": "internal.example" }), json!("permission_denied")),
    ] {
        assert_eq!(case.explain(more.clone()).await["code"], code, "{more}");
    }
}

#[tokio::test]
async fn without_an_address_what_depends_on_it_is_skipped() {
    let bound = case(json!({ "allowed_cidrs": ["10.0.0.0/8"] })).await;
    let said = bound.explain(json!({ "ip": null })).await;
    assert_eq!(results(&said), ["failed_auth skip -", "credential skip -", "network skip -"]);
    let mapped = bound.explain(json!({ "ip": "::ffff:10.1.2.3" })).await;
    assert_eq!(mapped["code"], Value::Null);
    assert_eq!(detail(&mapped, "network"), "from 10.1.2.3; the key allows 10.0.0.0/8, its app any");
    let free = case(json!({})).await;
    let said = free.explain(json!({ "ip": null })).await;
    assert_eq!(results(&said), ["failed_auth skip -", "credential skip -"]);
}

#[tokio::test]
async fn origins_count_for_publishable_keys_alone() {
    let origins = json!(["https://shop.example"]);
    let bound = case(json!({ "kind": "pk", "allowed_origins": origins })).await;
    for (origin, code) in [
        (json!("https://SHOP.example"), Value::Null),
        (json!("https://evil.example"), json!("origin_not_allowed")),
        (json!(""), json!("origin_not_allowed")),
        (json!(null), json!("origin_not_allowed")),
    ] {
        assert_eq!(bound.explain(json!({ "origin": origin })).await["code"], code, "{origin}");
    }
    let secret = case(json!({})).await;
    let said = secret.explain(json!({ "origin": "https://evil.example" })).await;
    assert_eq!(said["code"], Value::Null);
}

#[tokio::test]
async fn a_public_route_looks_at_no_key() {
    let case = case(json!({})).await;
    case.api.post(&format!("/v1/keys/{}/revoke", case.key_id), json!({})).await;
    let said = case.explain(json!({ "path": "/status", "ip": BLOCKED })).await;
    assert_eq!(said["admitted"], true);
    let passed: Vec<&str> = steps(&said)
        .filter(|step| step["result"] == "pass")
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(passed, ["request", "route", "upstream"]);
}

#[tokio::test]
async fn an_address_that_failed_too_often_is_let_in_only_with_a_key_that_is_cached() {
    let case = case(json!({})).await;
    for _ in 0..2 {
        // Explaining does not cache it.
        let said = case.explain(json!({ "ip": BLOCKED })).await;
        assert_eq!(said["code"], "too_many_failures");
        assert!(detail(&said, "failed_auth").ends_with("it waits 2 s"));
    }
    let verify = json!({ "key": case.key, "method": "GET", "path": "/v1/orders" });
    assert_eq!(case.api.post("/v1/keys/verify", verify).await.json()["valid"], true);
    assert_eq!(case.explain(json!({ "ip": BLOCKED })).await["code"], Value::Null);
    case.api.post(&format!("/v1/keys/{}/revoke", case.key_id), json!({})).await;
    assert_eq!(case.explain(json!({ "ip": BLOCKED })).await["code"], "too_many_failures");
    assert_eq!(case.explain(json!({})).await["code"], "api_key_invalid");
}

#[tokio::test]
async fn limits_say_what_is_left_and_asking_takes_nothing() {
    let case = case(json!({ "limits": { "rate": "1/hour", "burst": 3, "concurrency": 2 } })).await;
    for _ in 0..5 {
        let said = case.explain(json!({})).await;
        assert_eq!(results(&said), ["credential skip -"]);
        assert_eq!(detail(&said, "concurrency"), "concurrency: 2 of 2 left, it takes 1");
        assert_eq!(detail(&said, "rate"), "rate: 3 of 3 left, it takes 1");
        assert_eq!(detail(&said, "quota"), "no limit");
    }
    let record = case.record().await;
    let terms = Terms::of(None, record.overrides()).unwrap();
    let now = case.api.limiter.moment(quanta::Instant::now(), NOW);
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(case.api.limiter.charge(&record, &terms, 1, now).await.unwrap());
    }
    let said = case.explain(json!({})).await;
    assert_eq!(results(&said), ["credential skip -", "concurrency fail concurrency_exceeded"]);
    running.iter_mut().for_each(|charge| charge.keep());
    drop(running);
    let mut last = case.api.limiter.charge(&record, &terms, 1, now).await.unwrap();
    last.keep();
    drop(last);
    let said = case.explain(json!({})).await;
    assert_eq!(results(&said), ["credential skip -", "rate fail rate_limit_exceeded"]);
    assert_eq!(detail(&said, "rate"), "rate: 0 of 3 left, it takes 1");
}

impl Case {
    async fn record(&self) -> Arc<keygate_core::KeyRecord> {
        let key = self.api.cache.store().key(self.key_id.parse().unwrap()).await.unwrap().unwrap();
        self.api.cache.load(key.digest).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn an_outage_is_said_and_a_key_that_is_not_there_too() {
    let case = case(json!({})).await;
    let mut body = get_orders();
    body["key_id"] = json!(case.key_id.replace(&case.key_id[4..8], "0000"));
    assert_problem(&case.api.post("/v1/explain", body.clone()).await, 404, "not_found");
    case.api.cache.store().down.store(true, Ordering::SeqCst);
    body["key_id"] = json!(case.key_id);
    assert_problem(&case.api.post("/v1/explain", body).await, 503, "store_unavailable");
}

#[tokio::test]
async fn a_key_is_named_in_one_way_and_never_comes_back() {
    let case = case(json!({})).await;
    for (more, field) in [
        (json!({}), "key_id"),
        (json!({ "key": case.key, "key_id": case.key_id }), "key"),
        (json!({ "key_id": "key_nonsense" }), "key_id"),
        (json!({ "key_id": case.key_id, "ip": "1.2.3.4:80" }), "ip"),
    ] {
        let mut body = get_orders();
        merge(&mut body, more);
        let answer = case.api.post("/v1/explain", body).await;
        assert_problem(&answer, 422, "invalid_field");
        assert_eq!(answer.json()["field"], field);
    }
    // The harness looks for the key in every answer.
    let pasted = json!({ "path": format!("/v1/orders/{}", case.key), "origin": case.key });
    case.explain(pasted).await;
}

#[tokio::test]
async fn an_issuer_is_told_of_keys_of_its_accounts_alone() {
    let case = case(json!({})).await;
    let registry = case.api.registry(|| NOW);
    let inquire = async |accounts: Vec<_>, about| {
        let actor = Actor { name: "test".into(), from: None, role: Role::Issuer(accounts) };
        let call = Call { method: "GET", host: None, path: "/v1/orders" };
        let inquiry = Inquiry { about, call, ip: None, origin: None };
        registry.explain(&actor, inquiry).await
    };
    let record = case.record().await;
    let by_text = || About::Key(case.key.as_bytes());
    let its_own = inquire(vec![record.account], About::Id(record.id)).await.unwrap();
    assert_eq!(its_own.code(), None);
    assert_eq!(inquire(vec![record.account], by_text()).await.unwrap().key, Some(record.id));
    let foreign = inquire(vec![], About::Id(record.id)).await;
    assert!(matches!(foreign, Err(RegistryError::NotFound(_))));
    let foreign = inquire(vec![], by_text()).await.unwrap();
    assert_eq!(foreign.code().map(Code::as_str), Some("api_key_invalid"));
    assert_eq!(foreign.key, None);
    let nobody = Actor { name: "test".into(), from: None, role: Role::Issuer(vec![]) };
    let question = Question { key: case.key.as_bytes(), call: None, ip: None, origin: None };
    let verdict = registry.verify(&nobody, question).await.unwrap();
    assert!(verdict.key.is_none() && verdict.decision.is_err());
}
