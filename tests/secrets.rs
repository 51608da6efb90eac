//! No key, pepper or admin token in anything the gateway lets out, at the loudest log level.
//!
//! Every test of this binary ends with the same search of its own gateway; these drive what is
//! most likely to leak, and show that the search finds what it looks for.

use serde_json::{Value, json};

use crate::harness::{Gateway, KeySpec, Request, Setup, Upstream, Wire, get, post, request};

/// Every way in which a client or an operator may hand a secret to the gateway, right or wrong.
fn drive(gateway: &Gateway) {
    let spec = KeySpec::new(&["read:orders"]);
    let keys =
        ["sk", "pk", "rk"].map(|kind| gateway.key_with(&spec.clone().with("kind", json!(kind))));
    let test = gateway.key_with(&spec.clone().environment("test"));
    for wire in Wire::BOTH {
        for key in keys.iter().chain([&test]) {
            for request in calls(&key.key) {
                let _ = gateway.try_send_over(wire, &request);
            }
        }
    }
    let admin = gateway.admin();
    for key in &keys {
        for path in [
            format!("/v1/keys/{}", key.id),
            format!("/v1/apps/{}/keys", key.app),
            format!("/v1/apps/{}", key.app),
            format!("/v1/accounts/{}/apps", key.account),
            "/v1/accounts".into(),
            "/v1/audit".into(),
            format!("/v1/{}", key.key),
            format!("/v1/keys/{}", key.key),
            format!("/v1/keys/{}?key={}", key.id, key.key),
        ] {
            admin.send(&get(&path));
        }
        for (path, body) in [
            ("/v1/keys/verify", json!({ "key": key.key })),
            ("/v1/keys/verify", json!({ "key": key.key, "method": "GET", "path": "/v1/orders" })),
            ("/v1/keys/verify", json!({ "key": [key.key] })),
            ("/v1/keys/verify", json!({ "key": key.key, "path": format!("/{}", key.key) })),
            ("/v1/accounts", json!({ "name": 1, (key.key.as_str()): key.key })),
        ] {
            admin.send(&post(path, body.to_string()));
        }
        admin.send(&post("/v1/accounts", format!("{{\"name\": {}", key.key)));
        admin.revoke(key);
        for request in calls(&key.key) {
            let _ = gateway.try_send_over(Wire::H1, &request);
        }
    }
}

/// The same with an admin token that was made.
fn drive_with_a_token(gateway: &Gateway) {
    let admin = gateway.admin();
    let (id, holder) = admin.token(&json!({ "name": "ci", "role": "admin" }));
    let token = holder.bearer();
    let path = format!("/v1/admin-tokens/{id}");
    let requests = [
        get(&path),
        get("/v1/admin-tokens"),
        get("/v1/audit"),
        get("/v1/audit/verify"),
        get(&format!("/v1/admin-tokens/{token}")),
        get(&format!("/v1/{token}?token={token}")),
        get(&format!("/v1/audit?actor={token}&since={token}")),
        get(&format!("/v1/audit?{}=1", token.replace('_', "%5F"))),
        get(&path).header("X-Request-Id", token),
        get(&path).header("If-Match", token),
        post("/v1/admin-tokens", json!({ "name": token, "role": "viewer" }).to_string()),
        post("/v1/admin-tokens", json!({ "name": "a", "role": token }).to_string()),
        post("/v1/admin-tokens", json!({ "name": "a", token: token }).to_string()),
        post(&format!("{path}/revoke"), json!({ "reason": token }).to_string()),
        request(token, &path),
    ];
    for wrong in [token.to_owned(), format!("{token}x"), token[..40].to_owned()] {
        for request in &requests {
            let _ = holder.with_token(&wrong).try_send(request);
        }
    }
    for request in calls(token) {
        let _ = gateway.try_send_over(Wire::H1, &request);
    }
    admin.send(&post(&format!("{path}/revoke"), "{}"));
    for request in &requests {
        let _ = holder.try_send(request);
    }
}

/// One key in every place where a request has room for one.
fn calls(key: &str) -> Vec<Request> {
    vec![
        get("/v1/orders").bearer(key),
        get("/v1/orders").basic(&format!("{key}:")),
        get("/v1/orders").basic(&format!("{key}:password")),
        get("/v1/orders").api_key(key),
        get("/v1/orders").bearer(key).api_key(key),
        get(&format!("/v1/feed?api_key={key}")),
        get(&format!("/v1/feed?api_key={}", key.replace('_', "%5F"))),
        get("/v1/sandbox").bearer(key),
        get("/v1/transfers").bearer(key),
        post("/v1/orders", key).bearer(key),
        get("/public").bearer(key),
        // Places where a key has no business, and gets to all the same.
        get(&format!("/{key}")),
        get(&format!("/v1/orders/{key}")),
        get(&format!("/nowhere?key={key}")),
        get("/v1/orders").header("User-Agent", key),
        get("/v1/orders").header("X-Request-Id", key),
        get("/v1/orders").header("X-Other", key),
        get("/v1/orders").header("Cookie", &format!("session={key}")),
        get("/v1/orders").header("Authorization", key),
        get("/v1/orders").header("Authorization", &format!("Token {key}")),
        get("/v1/orders").bearer(&format!("{key}x")),
        get("/v1/orders").bearer(&format!("x{key}")),
        get("/v1/orders").host(&format!("{key}.test")),
        request(key, "/v1/orders"),
    ]
}

#[test]
fn no_secret_leaves_the_gateway_at_the_loudest_log_level() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    drive(&gateway);
    drive_with_a_token(&gateway);
    gateway.metrics();
    gateway.kill();
    // The places above where a key has no business are forwarded as the client wrote them; what
    // reaches the upstream is searched in the tests that send keys where they belong.
    upstream.forget();
    gateway.leaks().capture_files(gateway.folder());
    gateway.leaks().assert_none();
}

#[test]
fn no_secret_is_in_the_complaints_of_an_upstream_that_fails() {
    let upstream = Upstream::answering(|exchange| {
        exchange.close();
        exchange.write(b"nonsense")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    for wire in Wire::BOTH {
        for request in [get("/v1/orders").bearer(&key), get(&format!("/v1/feed?api_key={key}"))] {
            assert_eq!(gateway.send_over(wire, &request).code(), "upstream_error");
        }
    }
}

#[test]
fn a_stored_key_is_known_by_its_digest_alone() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let shown = gateway.admin().read(&format!("/v1/keys/{}", key.id));
    assert_eq!(shown["hint"], Value::from(&key.key[..12]));
    assert!(shown.get("key").is_none_or(Value::is_null), "{shown}");
    gateway.kill();
    gateway.leaks().capture_files(gateway.folder());
    gateway.leaks().assert_none();
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let leaks = crate::harness::Leaks::default();
    leaks.key(&key);
    leaks.pepper(&gateway.read("data/pepper"));
    leaks.token("the admin token", &gateway.admin_token());
    let (_, holder) = gateway.admin().token(&json!({ "name": "ci", "role": "viewer" }));
    leaks.token("a made token", holder.bearer());
    leaks.capture("clean", format!("{} is only the hint", &key[..12]).as_bytes());
    leaks.assert_none();
    for leak in [
        format!("key={key} "),
        format!("...{}", &key[30..]),
        crate::harness::basic(&format!("{key}:")),
        format!("{:?}", &key.as_bytes()[5..40]),
        format!("token {}", gateway.admin_token()),
        gateway.read("data/pepper"),
        gateway.read("data/pepper").to_uppercase(),
        format!("a made token {}", holder.bearer()),
        holder.bearer()[30..].to_owned(),
        // Any character may be escaped, and escaped again.
        key.replacen("k_", "%6B_", 1),
        key.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        key.bytes().map(|byte| format!("%25{byte:02x}")).collect(),
        format!("{}%{:02x}{}", &key[..30], key.as_bytes()[30], &key[31..]),
    ] {
        let leaks = leaks.with(&leak);
        assert!(!leaks.found().is_empty(), "not found");
    }
}
