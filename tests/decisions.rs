//! Every way to be refused, and the ways to be let through, over both protocols: what the client
//! is told, and that nothing refused reaches the upstream.

use serde_json::json;

use crate::harness::{
    Answer, Gateway, KeySpec, Request, Setup, Upstream, Wire, assert_refused, delete, get, post,
    request,
};

/// Sends a request over each protocol, and asserts that it is refused and forwarded nowhere.
#[track_caller]
fn refused(gateway: &Gateway, upstream: &Upstream, request: &Request, status: u16, code: &str) {
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, request);
        assert_refused(&answer, status, code);
        upstream.saw_nothing();
    }
}

/// Sends a request over each protocol, and asserts that it reaches the upstream without any key.
#[track_caller]
fn admitted(gateway: &Gateway, upstream: &Upstream, request: &Request, key: &str) {
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, request);
        assert_eq!(answer.status, 200, "{wire:?} {request:?}: {}", answer.text());
        let seen = upstream.only();
        let raw = String::from_utf8_lossy(&seen.raw);
        assert!(key.is_empty() || !raw.contains(key), "the key was forwarded over {wire:?}");
        upstream.forget();
    }
}

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

/// A key of the right shape that nobody made.
fn made_up() -> String {
    format!("sk_live_{}{}", "7".repeat(44), "0Aa1Bb")
}

#[test]
fn a_key_with_the_scope_is_let_through() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&key), &key);
    admitted(&gateway, &upstream, &request("HEAD", "/v1/orders/7?a=b").bearer(&key), &key);
}

#[test]
fn a_key_is_taken_from_each_place_and_from_there_removed() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let orders = || get("/v1/orders");
    for request in [
        orders().bearer(&key),
        orders().header("authorization", &format!("bEaReR   {key}")),
        orders().basic(&format!("{key}:")),
        orders().api_key(&key),
        get(&format!("/v1/feed?api_key={key}")),
        get(&format!("/v1/feed?a=1&api%5Fkey={}&b=2", key.replace('_', "%5F"))),
    ] {
        admitted(&gateway, &upstream, &request, &key);
    }
}

#[test]
fn the_rest_of_a_query_is_forwarded_as_it_was() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    gateway.send(&get(&format!("/v1/feed?a=1&api_key={key}&b=%20x")));
    assert_eq!(upstream.only().target, "/v1/feed?a=1&b=%20x");
    upstream.forget();
    gateway.send(&get(&format!("/v1/feed?api_key={key}")));
    assert_eq!(upstream.only().target, "/v1/feed");
}

#[test]
fn no_key_is_missing_and_says_how_to_send_one() {
    let (gateway, upstream) = start();
    let missing = |request| refused(&gateway, &upstream, &request, 401, "api_key_missing");
    missing(get("/v1/orders"));
    missing(get("/v1/orders").header("Authorization", ""));
    missing(get("/v1/orders").header("Authorization", "Digest username=x"));
    missing(get("/v1/orders").header("X-API-Key", ""));
    missing(get("/v1/feed?api_key="));
    // A parameter is a place for a key only where the route says so.
    missing(get("/v1/orders?api_key=abc"));
}

#[test]
fn what_is_not_a_key_of_ours_is_invalid() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let orders = || get("/v1/orders");
    let invalid = |request| refused(&gateway, &upstream, &request, 401, "api_key_invalid");
    invalid(orders().bearer(&made_up()));
    invalid(orders().bearer("eyJhbGciOi.eyJzdWI.sig"));
    invalid(orders().api_key("nonsense"));
    invalid(orders().api_key(&"x".repeat(600)));
    invalid(orders().bearer(&"x".repeat(600)));
    invalid(orders().bearer(&key[..50]));
    invalid(orders().bearer(&format!("{key}a")));
    invalid(orders().basic(&format!("{key}:password")));
    invalid(orders().basic(&key));
    invalid(get(&format!("/v1/feed?api_key={}", made_up())));
    invalid(get("/v1/feed?api_key=%zz"));
}

#[test]
fn a_changed_character_anywhere_makes_a_key_invalid() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for at in [8, 20, 51, 52, 57] {
        let mut bytes = key.clone().into_bytes();
        bytes[at] = if bytes[at] == b'2' { b'3' } else { b'2' };
        let changed = String::from_utf8(bytes).unwrap();
        refused(&gateway, &upstream, &get("/v1/orders").bearer(&changed), 401, "api_key_invalid");
    }
}

#[test]
fn more_than_one_key_is_ambiguous_even_if_they_are_equal() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let orders = || get("/v1/orders").bearer(&key);
    let ambiguous = |request| refused(&gateway, &upstream, &request, 400, "ambiguous_credentials");
    ambiguous(orders().bearer(&key));
    ambiguous(orders().api_key(&key));
    ambiguous(orders().basic(&format!("{key}:")));
    ambiguous(get("/v1/orders").api_key(&key).api_key(&key));
    ambiguous(orders().api_key("nonsense"));
    ambiguous(get(&format!("/v1/feed?api_key={key}")).bearer(&key));
    ambiguous(get(&format!("/v1/feed?api_key={key}&api_key={key}")));
}

#[test]
fn a_token_for_the_upstream_beside_a_key_is_forwarded_untouched() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for foreign in ["Bearer eyJhbGciOi.eyJzdWI.sig", "Digest username=x", "Basic dXNlcjpwYXNz"] {
        for wire in Wire::BOTH {
            let request = get("/v1/orders").api_key(&key).header("Authorization", foreign);
            assert_eq!(gateway.send_over(wire, &request).status, 200);
            let seen = upstream.only();
            assert_eq!(seen.header("authorization"), Some(foreign));
            assert_eq!(seen.header("x-api-key"), None);
            upstream.forget();
        }
    }
}

#[test]
fn a_public_route_takes_no_key_and_forwards_none() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    admitted(&gateway, &upstream, &get("/public"), "");
    for request in [
        get("/public").bearer(&key),
        get("/public").basic(&format!("{key}:x")),
        get("/public").api_key(&key),
        get("/public").header("Authorization", &key),
    ] {
        admitted(&gateway, &upstream, &request, &key);
    }
    gateway.send(&get("/public").bearer("eyJhbGciOi.eyJzdWI.sig").api_key("their-own"));
    let seen = upstream.only();
    assert_eq!(seen.header("authorization"), Some("Bearer eyJhbGciOi.eyJzdWI.sig"));
    assert_eq!(seen.header("x-api-key"), Some("their-own"));
    let identity =
        seen.headers.iter().any(|(name, _)| name.to_lowercase().starts_with("x-keygate"));
    assert!(!identity, "{seen:?}");
}

#[test]
fn all_keys_that_cannot_be_used_get_the_same_bytes() {
    let (gateway, upstream) = start();
    let admin = gateway.admin();
    let spec = KeySpec::new(&["read:orders"]);
    let [revoked, disabled, app_disabled, suspended] = [(); 4].map(|()| admin.key(&spec));
    let keys = [&revoked, &disabled, &app_disabled, &suspended];
    for key in keys {
        admitted(&gateway, &upstream, &get("/v1/orders").bearer(&key.key), &key.key);
    }
    admin.revoke(&revoked);
    admin.patch(&format!("/v1/keys/{}", disabled.id), &json!({ "status": "disabled" }));
    admin.patch(&format!("/v1/apps/{}", app_disabled.app), &json!({ "status": "disabled" }));
    let account = format!("/v1/accounts/{}", suspended.account);
    admin.patch(&account, &json!({ "status": "suspended" }));
    for wire in Wire::BOTH {
        let answer = |key: &str| -> Answer {
            let answer = gateway.send_over(wire, &get("/v1/orders").bearer(key));
            assert_refused(&answer, 401, "api_key_invalid");
            answer
        };
        let unknown = answer(&made_up());
        for key in keys {
            assert_eq!(answer(&key.key).blanked(), unknown.blanked());
            assert_eq!(answer(&key.key).request_id().len(), unknown.request_id().len());
        }
    }
    upstream.saw_nothing();
}

#[test]
fn what_was_disabled_or_suspended_works_again_when_it_is_active_again() {
    let (gateway, upstream) = start();
    let admin = gateway.admin();
    let key = admin.key(&KeySpec::new(&["read:orders"]));
    let request = get("/v1/orders").bearer(&key.key);
    for (path, off) in [
        (format!("/v1/keys/{}", key.id), "disabled"),
        (format!("/v1/apps/{}", key.app), "disabled"),
        (format!("/v1/accounts/{}", key.account), "suspended"),
    ] {
        admitted(&gateway, &upstream, &request, &key.key);
        admin.patch(&path, &json!({ "status": off }));
        refused(&gateway, &upstream, &request, 401, "api_key_invalid");
        admin.patch(&path, &json!({ "status": "active" }));
    }
    admitted(&gateway, &upstream, &request, &key.key);
}

#[test]
fn a_revocation_that_was_acknowledged_holds_for_the_next_request() {
    let (gateway, upstream) = start();
    let admin = gateway.admin();
    for _ in 0..20 {
        let key = admin.key(&KeySpec::new(&["read:orders"]));
        let request = get("/v1/orders").bearer(&key.key);
        admitted(&gateway, &upstream, &request, &key.key);
        admin.revoke(&key);
        refused(&gateway, &upstream, &request, 401, "api_key_invalid");
    }
}

#[test]
fn a_new_key_works_at_once() {
    let (gateway, upstream) = start();
    for _ in 0..10 {
        let key = gateway.key(&["read:orders"]);
        admitted(&gateway, &upstream, &get("/v1/orders").bearer(&key), &key);
    }
}

#[test]
fn an_expired_key_says_so() {
    let (gateway, upstream) = start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("ttl", json!("1s")));
    let request = get("/v1/orders").bearer(&key.key);
    crate::harness::eventually("the key's end", || {
        (gateway.send(&request).code() == "api_key_expired").then_some(())
    });
    upstream.forget();
    refused(&gateway, &upstream, &request, 401, "api_key_expired");
}

#[test]
fn a_key_of_the_other_environment_is_refused() {
    let (gateway, upstream) = start();
    let live = gateway.key(&["read:orders"]);
    let test = gateway.key_with(&KeySpec::new(&["read:orders"]).environment("test")).key;
    assert!(test.starts_with("sk_test_"), "the environment shows");
    let mismatch = |request| refused(&gateway, &upstream, &request, 403, "environment_mismatch");
    mismatch(get("/v1/orders").bearer(&test));
    mismatch(get("/v1/sandbox").bearer(&live));
    admitted(&gateway, &upstream, &get("/v1/sandbox").bearer(&test), &test);
}

#[test]
fn both_lists_of_networks_must_allow_the_client() {
    let (gateway, upstream) = start();
    let (here, elsewhere) = (json!(["127.0.0.0/8"]), json!(["192.0.2.0/24", "2001:db8::/32"]));
    let key = |app: &serde_json::Value, key: &serde_json::Value| {
        let spec = KeySpec::new(&["read:orders"]);
        gateway
            .key_with(&spec.app("allowed_cidrs", app.clone()).with("allowed_cidrs", key.clone()))
            .key
    };
    let both = key(&here, &here);
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&both), &both);
    for lists in [(&here, &elsewhere), (&elsewhere, &here), (&elsewhere, &json!([]))] {
        let request = get("/v1/orders").bearer(&key(lists.0, lists.1));
        refused(&gateway, &upstream, &request, 403, "ip_not_allowed");
        // A client cannot talk itself into a network.
        let lying = request.header("X-Forwarded-For", "192.0.2.7");
        refused(&gateway, &upstream, &lying, 403, "ip_not_allowed");
    }
}

#[test]
fn a_publishable_key_needs_one_of_its_origins() {
    let (gateway, upstream) = start();
    let origins = json!(["https://shop.example"]);
    let spec = KeySpec::new(&["read:orders"]).with("allowed_origins", origins);
    let key = gateway.key_with(&spec.with("kind", json!("pk"))).key;
    let request = || get("/v1/orders").bearer(&key);
    admitted(&gateway, &upstream, &request().header("Origin", "https://shop.example"), &key);
    let not_allowed = |request| refused(&gateway, &upstream, &request, 403, "origin_not_allowed");
    not_allowed(request());
    not_allowed(request().header("Origin", "https://evil.example"));
    not_allowed(request().header("Origin", "https://shop.example.evil.example"));
    not_allowed(request().header("Origin", "null"));
    let anywhere = gateway.key_with(&KeySpec::new(&["read:orders"]).with("kind", json!("pk"))).key;
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&anywhere), &anywhere);
}

#[test]
fn a_missing_scope_is_named() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders", "write:money"]);
    let denied = |request: Request, scopes: &[&str]| {
        refused(&gateway, &upstream, &request, 403, "permission_denied");
        let answer = gateway.send(&request);
        assert_eq!(answer.json()["required_scopes"], json!(scopes));
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains(&format!("scope=\"{}\"", scopes.join(" "))), "{challenge}");
    };
    denied(post("/v1/orders", "{}").bearer(&key), &["write:orders"]);
    denied(get("/v1/transfers").bearer(&key), &["write:money", "read:accounts"]);
    denied(get("/v1/reports").bearer(&key), &["read:reports", "read:audit"]);
}

#[test]
fn scopes_imply_what_they_promise_and_no_more() {
    let (gateway, upstream) = start();
    let check = |scopes: &[&str], request: Request, allowed: bool| {
        let key = gateway.key(scopes);
        let request = request.bearer(&key);
        if allowed {
            admitted(&gateway, &upstream, &request, &key);
        } else {
            refused(&gateway, &upstream, &request, 403, "permission_denied");
        }
    };
    check(&["admin:orders"], get("/v1/orders"), true);
    check(&["admin:orders"], post("/v1/orders", "{}"), true);
    check(&["admin:other"], get("/v1/orders"), false);
    check(&["read:*"], get("/v1/orders"), true);
    check(&["read:*"], post("/v1/orders", "{}"), false);
    check(&["read:audit"], get("/v1/reports"), true);
    check(&["write:money", "read:accounts"], get("/v1/transfers"), true);
    check(&["read:other"], get("/any"), true);
}

#[test]
fn a_key_has_no_more_than_its_app_was_granted() {
    let (gateway, upstream) = start();
    let admin = gateway.admin();
    let key = admin.key(&KeySpec::new(&["read:orders", "write:orders"]));
    let request = post("/v1/orders", "{}").bearer(&key.key);
    admitted(&gateway, &upstream, &request, &key.key);
    let narrower = json!({ "granted_scopes": ["read:orders"] });
    admin.patch(&format!("/v1/apps/{}", key.app), &narrower);
    refused(&gateway, &upstream, &request, 403, "permission_denied");
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&key.key), &key.key);
}

#[test]
fn an_unknown_path_or_method_is_refused_before_any_key_is_looked_at() {
    let (gateway, upstream) = start();
    refused(&gateway, &upstream, &get("/nowhere"), 404, "route_not_found");
    refused(&gateway, &upstream, &get("/v1/ordersabc"), 404, "route_not_found");
    refused(&gateway, &upstream, &delete("/v1/orders"), 405, "method_not_allowed");
    refused(&gateway, &upstream, &request("BREW", "/v1/orders"), 405, "method_not_allowed");
    let answer = gateway.send(&delete("/v1/orders"));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"));
}

#[test]
fn paths_that_two_parsers_may_read_differently_are_refused() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for path in [
        "/v1/orders/../transfers",
        "/v1/./orders",
        "/public/%2e%2e/v1/orders",
        "/public/.%2E/v1/orders",
        "//v1/orders",
        "/v1//orders",
        "/v1/orders%2f7",
        "/v1/orders%5c7",
        "/v1/orders%00",
        "/v1/orders;x=1",
        "/v1/orders;/7",
        "/v1/orders%",
        "/v1/orders%zz",
        "/v1/orders/%c0%ae%c0%ae/x",
    ] {
        refused(&gateway, &upstream, &get(path).bearer(&key), 400, "ambiguous_path");
    }
}

#[test]
fn a_path_is_forwarded_in_the_form_it_was_decided_on() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for (sent, forwarded) in [
        ("/v1/%6frders", "/v1/orders"),
        ("/v1/orders/%7Ea%2Db?q=%2e%2E", "/v1/orders/~a-b?q=%2e%2E"),
        ("/v1/orders/a%20b%c3%a9", "/v1/orders/a%20b%C3%A9"),
        ("/v1/orders/", "/v1/orders/"),
        ("/v1/orders?", "/v1/orders?"),
    ] {
        for wire in Wire::BOTH {
            let answer = gateway.send_over(wire, &get(sent).bearer(&key));
            assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
            let seen = upstream.only().target;
            assert_eq!(seen.trim_end_matches('?'), forwarded.trim_end_matches('?'), "{wire:?}");
            upstream.forget();
        }
    }
}

#[test]
fn too_many_failures_close_the_door_on_strangers_only() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).failed_auth("rate = \"3/hour\"").start();
    let (good, fresh) = (gateway.key(&["read:orders"]), gateway.key(&["read:orders"]));
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&good), &good);
    let failures = (0..6).map(|_| gateway.send(&get("/v1/orders").bearer(&made_up())));
    let codes: Vec<String> = failures.map(|answer| answer.code()).collect();
    let (before, after) = codes.split_at(3);
    assert!(before.iter().all(|code| code == "api_key_invalid"), "{codes:?}");
    assert!(after.iter().all(|code| code == "too_many_failures"), "{codes:?}");
    for key in [&made_up(), &fresh] {
        let request = get("/v1/orders").bearer(key);
        refused(&gateway, &upstream, &request, 429, "too_many_failures");
        let wait = gateway.send(&request).header("retry-after").map(str::parse::<u64>);
        assert!(matches!(wait, Some(Ok(1..=1_200))), "{wait:?}");
    }
    // Others behind the same address have keys that work.
    admitted(&gateway, &upstream, &get("/v1/orders").bearer(&good), &good);
    admitted(&gateway, &upstream, &get("/public"), "");
}

#[test]
fn failures_are_counted_by_client_and_not_by_the_proxy_in_between() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream)
        .failed_auth("rate = \"2/hour\"")
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .start();
    let fail = |client: &str| {
        let request = get("/v1/orders").bearer(&made_up()).header("X-Forwarded-For", client);
        gateway.send(&request).status
    };
    assert_eq!([(); 3].map(|()| fail("198.51.100.7")), [401, 401, 429]);
    assert_eq!([(); 3].map(|()| fail("198.51.100.8")), [401, 401, 429]);
    // An IPv6 client has a whole /64 to pick its address from.
    let hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3", "2001:db8:0:1::1"];
    assert_eq!(hosts.map(fail), [401, 401, 429, 401]);
    // A v4 address in its v6 dress is the same address.
    assert_eq!(fail("::ffff:198.51.100.7"), 429);
    let no_key = get("/v1/orders").header("X-Forwarded-For", "198.51.100.7");
    assert_refused(&gateway.send(&no_key), 429, "too_many_failures");
}

#[test]
fn every_refusal_is_counted_by_its_code_and_route() {
    let (gateway, _upstream) = start();
    let key = gateway.key(&["read:orders"]);
    gateway.send(&get("/v1/orders").bearer(&key));
    gateway.send(&get("/v1/orders"));
    gateway.send(&get("/v1/orders").bearer(&made_up()));
    gateway.send(&post("/v1/orders", "{}").bearer(&key));
    gateway.send(&get("/nowhere"));
    for (route, outcome) in [
        ("orders.read", "admitted"),
        ("orders.read", "api_key_missing"),
        ("orders.read", "api_key_invalid"),
        ("orders.write", "permission_denied"),
        ("none", "route_not_found"),
    ] {
        let metrics = gateway.metrics();
        let line = metrics.lines().find(|line| {
            line.starts_with("keygate_requests_total{")
                && line.contains(&format!("route=\"{route}\""))
                && line.contains(&format!("outcome=\"{outcome}\""))
        });
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{route} {outcome}: {line:?}");
    }
    assert!(gateway.metric("keygate_decision_seconds_count") >= 5.0);
}
