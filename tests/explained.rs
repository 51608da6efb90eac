//! `explain` says what the proxy does: thousands of random pairs of a key and a request, each
//! explained and then sent. `EXPLAIN_PAIRS` says how many.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{
    Gateway, Key, KeySpec, Redis, Request, Setup, Upstream, alone, post, request, scale,
};

/// So slow that nothing comes back while a test runs.
const TIERS: &str = r#"
[tiers.tight]
rate = "1/hour"
burst = 40
quotas = ["60/month"]
[tiers.wide]
rate = "1000000/s"
"#;
const COSTLY: &str = r#"
name = "costly"
path = "/costly"
upstream = "main"
auth = "key"
environment = "live"
cost = 7
"#;
const HOSTED: &str = r#"
name = "hosted"
host = "api.example"
path = "/hosted/{id}/x"
methods = ["GET"]
upstream = "main"
auth = "key"
environment = "live"
scopes = ["write:orders"]
"#;
const SCOPES: [&str; 6] =
    ["read:orders", "write:orders", "admin:orders", "read:*", "write:money", "read:accounts"];

fn setup(upstream: &Upstream) -> Setup {
    Setup::in_front_of(upstream)
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .keys("keys_max_live = 100")
        .tables(TIERS)
        .route(COSTLY)
        .route(HOSTED)
        .log("info")
}

fn some<'a>(random: &mut Rng, of: &[&'a str]) -> Vec<&'a str> {
    of.iter().copied().filter(|_| random.bool()).collect()
}

fn one<'a>(random: &mut Rng, of: &[&'a str]) -> &'a str {
    of[random.usize(..of.len())]
}

/// Keys in every state, under apps and accounts in every state.
fn keys(gateway: &Gateway, random: &mut Rng) -> Vec<Key> {
    let admin = gateway.admin();
    let mut keys = Vec::new();
    for _ in 0..12 {
        let environment = if random.u8(..4) == 0 { "test" } else { "live" };
        let granted = [some(random, &SCOPES), vec!["read:reports"]].concat();
        let cidrs = if random.u8(..3) == 0 { vec!["10.0.0.0/8", "2001:db8::/32"] } else { vec![] };
        let tier = [Value::Null, json!("tight"), json!("wide")][random.usize(..3)].clone();
        let spec = KeySpec::new(&granted)
            .environment(environment)
            .app("allowed_cidrs", json!(cidrs))
            .app("tier", tier);
        let account = admin.account();
        let app = admin.app(&account, &spec);
        for _ in 0..5 {
            keys.push(key(gateway, random, (&account, &app), &spec, &granted));
        }
        if random.u8(..5) == 0 {
            // Scopes that keys name and the app no longer grants.
            let change = json!({ "granted_scopes": ["read:reports"] });
            admin.patch(&format!("/v1/apps/{app}"), &change);
        }
        match random.u8(..8) {
            0 => drop(admin.patch(&format!("/v1/apps/{app}"), &json!({ "status": "disabled" }))),
            1 => drop(
                admin.patch(&format!("/v1/accounts/{account}"), &json!({ "status": "suspended" })),
            ),
            _ => {}
        }
    }
    keys
}

fn key(
    gateway: &Gateway,
    random: &mut Rng,
    (account, app): (&str, &str),
    spec: &KeySpec,
    granted: &[&str],
) -> Key {
    let admin = gateway.admin();
    let kind = one(random, &["sk", "pk", "rk"]);
    let mut spec = spec.clone();
    spec.key = json!({ "kind": kind, "scopes": some(random, granted) });
    if kind == "pk" && random.bool() {
        spec = spec.with("allowed_origins", json!(["https://shop.example"]));
    }
    if random.u8(..3) == 0 {
        spec = spec.with("allowed_cidrs", json!(["10.1.0.0/16", "127.0.0.0/8"]));
    }
    if random.u8(..4) == 0 {
        spec = spec.with("limits", json!({ "rate": "1/hour", "burst": random.u8(1..20) }));
    }
    let key = admin.key_of(account, app, &spec);
    match random.u8(..10) {
        0 => admin.revoke(&key),
        1 => drop(admin.patch(&format!("/v1/keys/{}", key.id), &json!({ "status": "disabled" }))),
        2 => {
            let rotate = post(&format!("/v1/keys/{}/rotate", key.id), r#"{"overlap":"0s"}"#);
            assert_eq!(admin.create(&rotate).status, 201);
        }
        _ => {}
    }
    key
}

/// A request, and the question that is the same.
fn pair(random: &mut Rng, key: &Key) -> (Request, Value) {
    let method = one(random, &["GET", "POST", "DELETE", "HEAD"]);
    let path = one(
        random,
        &[
            "/v1/orders",
            "/v1/orders/7?a=b",
            "/v1/%6Frders",
            "/v1/transfers",
            "/v1/reports",
            "/v1/sandbox/x",
            "/v1/nothing",
            "/any",
            "/costly",
            "/hosted/7/x",
            "/public",
            "/v1/../v1/orders",
            "/v1//orders",
            "/v1/orders%2f7",
            "/v1/orders;a=b",
        ],
    );
    let host = one(random, &["gateway.test", "api.example", "API.Example:8080"]);
    let ip = one(random, &["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::7", "::ffff:10.1.2.3"]);
    let mut sent = request(method, path).host(host).bearer(&key.key).header("X-Forwarded-For", ip);
    let mut asked = json!({ "method": method, "path": path, "host": host, "ip": ip });
    match random.bool() {
        true => asked["key_id"] = json!(key.id),
        false => asked["key"] = json!(key.key),
    }
    if random.bool() {
        let origin = one(random, &["https://shop.example", "https://SHOP.example", "null"]);
        sent = sent.header("Origin", origin);
        asked["origin"] = json!(origin);
    }
    (sent, asked)
}

fn explained(gateway: &Gateway, upstream: &Upstream) {
    let _alone = alone();
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("KEYGATE_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let keys = keys(gateway, &mut random);
    let admin = gateway.admin();
    let mut caller = gateway.caller();
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..scale("EXPLAIN_PAIRS", 2_500) {
        let key = &keys[random.usize(..keys.len())];
        let (sent, asked) = pair(&mut random, key);
        let explain = post("/v1/explain", asked.to_string());
        let said = admin.send(&explain);
        assert_eq!(said.status, 200, "{asked}: {}", said.text());
        let said = said.json();
        // Asked again, it is so still: asking costs nothing.
        let again = admin.send(&explain).json();
        assert_eq!(again["code"], said["code"], "{asked}");
        let answer = caller.send(&sent);
        let code = match sent.method.as_str() {
            // A refusal without a body has no code.
            "HEAD" if answer.status != 200 => said["code"].as_str().unwrap_or_default().to_owned(),
            _ => answer.code(),
        };
        let done = if answer.status == 200 { Value::Null } else { json!(code) };
        assert_eq!(said["code"], done, "pair {n}, {asked}: {said:#} but {answer:?}");
        assert_eq!(said["admitted"], json!(answer.status == 200), "pair {n}, {asked}: {said:#}");
        let fails = said["steps"].as_array().unwrap().iter().find(|step| step["result"] == "fail");
        assert_eq!(fails.is_none(), answer.status == 200, "pair {n}, {asked}: {said:#}");
        *seen.entry(if answer.status == 200 { "admitted".into() } else { code }).or_insert(0) += 1;
        upstream.forget();
    }
    println!("{seen:?}");
    for outcome in ["admitted", "api_key_invalid", "permission_denied", "ip_not_allowed"] {
        assert!(seen.contains_key(outcome), "never met {outcome}: {seen:?}");
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let upstream = Upstream::start();
    explained(&setup(&upstream).start(), &upstream);
}

#[test]
fn what_is_explained_is_what_happens_on_redis() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    explained(&setup(&upstream).redis(&redis).start(), &upstream);
}
