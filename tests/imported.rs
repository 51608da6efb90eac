//! Keys that other systems made: let in only where the operator says so, wherever those systems took
//! them, and never sent on. And what clients and operators are told of a key's use and end.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Answer, Gateway, Key, KeySpec, Redis, Request, Setup, Upstream, Wire, assert_refused,
    eventually, get, post,
};

/// As another gateway makes them.
const OLD: &str = "0f8bC41d-7a7e4QbWxyz90-legacy-key";
const JWT: &str = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
const ON: &str = "accept_imported = true\nimported_headers = [\"apikey\", \"X-Auth-Key\"]";

/// Imports a key of this text into an app of its own; the key, in its new place.
#[track_caller]
fn import(gateway: &Gateway, text: &str, scopes: &[&str]) -> Key {
    let admin = gateway.admin();
    gateway.leaks().token("an imported key", text);
    let account = admin.account();
    let app = admin.app(&account, &KeySpec::new(scopes));
    let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = json!({ "sha256": hash, "app_id": app, "scopes": scopes });
    let import = json!({ "source": "csv", "keys": [key] }).to_string();
    let answer = admin.send(&post("/v1/keys/import", import));
    let landed = answer.json()["results"][0].clone();
    assert_eq!(landed["result"], "created", "{}", answer.text());
    Key { id: landed["id"].as_str().unwrap().into(), app, account, key: text.into() }
}

/// A request with the key in each place that may carry it, and what is beside it.
fn places() -> Vec<(&'static str, Request)> {
    let percent = OLD.replace('-', "%2D");
    vec![
        ("X-API-Key", get("/v1/orders").api_key(OLD)),
        ("Bearer", get("/v1/orders").bearer(OLD)),
        ("Basic", get("/v1/orders").basic(&format!("{OLD}:"))),
        ("bare", get("/v1/orders").header("Authorization", OLD)),
        ("apikey", get("/v1/orders").header("ApiKey", OLD)),
        ("X-Auth-Key", get("/v1/orders").header("x-auth-key", OLD)),
        ("X-API-Key beside a JWT", get("/v1/orders").api_key(OLD).header("Authorization", JWT)),
        (
            "apikey beside a JWT",
            get("/v1/orders").header("apikey", OLD).header("Authorization", JWT),
        ),
        ("query", get(&format!("/v1/feed?a=b&api_key={OLD}&c=d"))),
        ("query, escaped", get(&format!("/v1/feed?a=b&api%5fkey={percent}&c=d"))),
    ]
}

#[test]
fn an_imported_key_works_wherever_its_system_took_it_and_no_upstream_sees_it() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).start();
    let key = import(&gateway, OLD, &["read:orders"]);
    for wire in Wire::BOTH {
        for (place, request) in places() {
            let answer = gateway.send_over(wire, &request);
            assert_eq!(answer.status, 200, "{place} {wire:?}: {}", answer.text());
            let seen = upstream.only();
            assert_eq!(seen.header("x-keygate-key-id"), Some(&*key.id), "{place}");
            for name in ["x-api-key", "apikey", "x-auth-key"] {
                assert_eq!(seen.header(name), None, "{place}");
            }
            let beside = place.ends_with("JWT").then_some(JWT);
            assert_eq!(seen.header("authorization"), beside, "{place}");
            if place.starts_with("query") {
                assert_eq!(seen.target, "/v1/feed?a=b&c=d");
            }
            upstream.forget();
        }
    }
}

#[test]
fn with_the_setting_off_an_imported_key_is_no_key() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    import(&gateway, OLD, &["read:orders"]);
    let before = gateway.metric("keygate_store_seconds_count{op=\"find\"}");
    for (place, request) in places() {
        let code = match place {
            "bare" | "apikey" | "X-Auth-Key" => "api_key_missing",
            _ => "api_key_invalid",
        };
        assert_refused(&gateway.send(&request), 401, code);
    }
    upstream.saw_nothing();
    assert_eq!(gateway.metric("keygate_store_seconds_count{op=\"find\"}"), before, "no look-up");
    assert_eq!(gateway.metric("keygate_imported_key_requests_total"), 0.0);
}

#[test]
fn an_imported_key_is_a_key_like_any_other() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).start();
    let (admin, key) = (gateway.admin(), import(&gateway, OLD, &["read:orders"]));
    let call = |path: &str| gateway.send(&get(path).header("apikey", OLD));
    assert_eq!(call("/v1/orders").status, 200);
    assert_refused(&call("/v1/transfers"), 403, "permission_denied");
    assert_refused(&call("/v1/sandbox"), 403, "environment_mismatch");
    let verify = json!({ "key": OLD, "method": "GET", "path": "/v1/orders" });
    let verdict = admin.send(&post("/v1/keys/verify", verify.to_string())).json();
    assert_eq!((&verdict["valid"], &verdict["key_id"]), (&json!(true), &json!(key.id)));
    let explain = json!({ "key": OLD, "method": "GET", "path": "/v1/transfers" });
    let said = admin.send(&post("/v1/explain", explain.to_string())).json();
    assert_eq!((&said["code"], &said["key_id"]), (&json!("permission_denied"), &json!(key.id)));
    admin.revoke(&key);
    assert_refused(&call("/v1/orders"), 401, "api_key_invalid");
}

#[test]
fn a_key_of_ours_takes_the_place_of_an_imported_one_without_another_change() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).start();
    let key = gateway.key(&["read:orders"]);
    for request in [
        get("/v1/orders").header("apikey", &key),
        get("/v1/orders").header("Authorization", &key),
        get("/v1/orders").header("apikey", &key).header("Authorization", JWT),
    ] {
        assert_eq!(gateway.send(&request).status, 200);
        let seen = upstream.only();
        assert_eq!(seen.header("apikey"), None);
        assert_ne!(seen.header("authorization"), Some(&*key));
        upstream.forget();
    }
    for ambiguous in [
        get("/v1/orders").header("apikey", OLD).api_key(OLD),
        get("/v1/orders").header("apikey", OLD).header("x-auth-key", OLD),
        get("/v1/orders").header("apikey", OLD).bearer(&key),
        get("/v1/feed?api_key=other").header("apikey", &key),
    ] {
        assert_refused(&gateway.send(&ambiguous), 400, "ambiguous_credentials");
    }
    upstream.saw_nothing();
    // On a public route nobody asks for a key, and what may be one is taken out even so.
    let public = get("/public").header("apikey", &key).header("x-auth-key", OLD).api_key("other");
    assert_eq!(gateway.send(&public).status, 200);
    assert_eq!(upstream.only().header("apikey"), None);
    assert_eq!(upstream.only().header("x-auth-key"), None);
    assert_eq!(upstream.only().header("x-api-key"), Some("other"));
}

#[test]
fn an_imported_key_in_authorization_beside_another_key_reaches_no_upstream() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).start();
    let key = gateway.key(&["read:orders"]);
    import(&gateway, OLD, &["read:orders"]);
    for wire in Wire::BOTH {
        for same in [
            get("/v1/orders").api_key(OLD).bearer(OLD),
            get("/v1/orders").api_key(OLD).basic(&format!("{OLD}:")),
            get("/v1/orders").header("apikey", OLD).header("Authorization", OLD),
            get(&format!("/v1/feed?api_key={OLD}")).bearer(OLD),
        ] {
            assert_refused(&gateway.send_over(wire, &same), 400, "ambiguous_credentials");
        }
        upstream.saw_nothing();
        for beside in [
            get("/v1/orders").api_key(&key).bearer(OLD),
            get("/v1/orders").header("apikey", &key).basic(&format!("{OLD}:")),
            get("/v1/orders").api_key(&key).header("Authorization", OLD),
            get("/v1/orders").api_key(OLD).bearer("somebody's-old-key"),
        ] {
            let answer = gateway.send_over(wire, &beside);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(upstream.only().header("authorization"), None);
            upstream.forget();
        }
    }
}

#[test]
fn the_last_client_that_has_not_moved_shows_in_the_metrics() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).start();
    let key = import(&gateway, OLD, &["read:orders"]);
    let ours = gateway.key(&["read:orders"]);
    let counts = || {
        ["admitted", "refused"].map(|outcome| {
            let series = format!("keygate_imported_key_requests_total{{outcome=\"{outcome}\"}}");
            gateway.metric(&series)
        })
    };
    gateway.send(&get("/v1/orders").bearer(&ours));
    gateway.send(&get("/v1/orders").bearer("made-up"));
    assert_eq!(counts(), [0.0, 0.0], "neither ours nor made-up ones count");
    for _ in 0..3 {
        gateway.send(&get("/v1/orders").bearer(OLD));
    }
    gateway.send(&get("/v1/transfers").bearer(OLD));
    assert_eq!(counts(), [3.0, 1.0]);
    gateway.admin().revoke(&key);
    gateway.send(&get("/v1/orders").bearer(OLD));
    assert_eq!(counts(), [3.0, 2.0]);
}

#[test]
fn made_up_keys_cost_no_more_look_ups_than_an_address_may_fail() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys(ON).failed_auth("rate = \"3/hour\"").start();
    let finds = || gateway.metric("keygate_store_seconds_count{op=\"find\"}");
    let before = finds();
    for n in 0..3 {
        let answer = gateway.send(&get("/v1/orders").api_key(&format!("made-up-{n}")));
        assert_refused(&answer, 401, "api_key_invalid");
    }
    for n in 3..50 {
        let answer = gateway.send(&get("/v1/orders").api_key(&format!("made-up-{n}")));
        assert_refused(&answer, 429, "too_many_failures");
    }
    assert_eq!(finds() - before, 3.0);
}

#[track_caller]
fn end_told(answer: &Answer) -> Option<String> {
    answer.header("x-keygate-key-expires").map(ToOwned::to_owned)
}

#[test]
fn answers_tell_of_a_keys_end_from_the_notice_on() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.answer(200, &[("X-Keygate-Key-Expires", "whenever")], b"")
    });
    let gateway = Setup::in_front_of(&upstream).keys("expiry_notice = \"7d\"").start();
    let spec = KeySpec::new(&["read:orders"]);
    let end = "2099-12-31T23:59:59.900Z";
    let admin = gateway.admin();
    let soon = gateway.key_with(&spec.clone().with("ttl", json!("6d")));
    let later = gateway.key_with(&spec.clone().with("expires_at", json!(end)));
    let call = |key: &Key| gateway.send(&get("/v1/orders").bearer(&key.key));
    let told = end_told(&call(&soon)).unwrap_or_default();
    let is_date = told.ends_with(" GMT") && told.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len();
    assert!(is_date, "not a date of HTTP: {told:?}");
    assert_eq!(end_told(&call(&later)).as_deref(), Some("whenever"), "nothing of ours to say");
    // A key in its overlap has an end, too.
    let rotate = post(&format!("/v1/keys/{}/rotate", later.id), r#"{"overlap":"1h"}"#);
    assert_eq!(admin.create(&rotate).status, 201);
    let told = end_told(&call(&later)).unwrap_or_default();
    assert!(told.ends_with(" GMT"), "{told:?}");
    let refused = gateway.send(&get("/v1/transfers").bearer(&soon.key));
    assert_eq!((refused.status, end_told(&refused)), (403, None));
    let public = gateway.send(&get("/public"));
    assert_eq!(end_told(&public).as_deref(), Some("whenever"));
}

#[test]
fn nothing_is_told_of_an_end_unless_the_operator_says_so() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("ttl", json!("1h")));
    let answer = gateway.send(&get("/v1/orders").bearer(&key.key));
    assert_eq!((answer.status, end_told(&answer)), (200, None));
}

fn last_used(gateway: &Gateway, key: &Key) -> Option<String> {
    let usage = gateway.admin().read(&format!("/v1/keys/{}/usage", key.id));
    usage["last_used_at"].as_str().map(ToOwned::to_owned)
}

fn uses_are_noted(setup: Setup) {
    let mut gateway = setup.start();
    let spec = KeySpec::new(&["read:orders"]);
    let [used, refused, unused] = [(); 3].map(|()| gateway.key_with(&spec));
    gateway.send(&get("/v1/transfers").bearer(&refused.key));
    gateway.send(&get("/v1/orders").bearer(&used.key));
    eventually("the use of a key", || last_used(&gateway, &used));
    // Told together with that one, if it counted.
    assert_eq!(last_used(&gateway, &refused), None, "a refused request is no use");
    assert_eq!(last_used(&gateway, &unused), None);
    // What was noted last is told at the end.
    gateway.send(&get("/v1/orders").bearer(&unused.key));
    gateway.process().signal("TERM");
    gateway.process().wait_for_exit();
    gateway.start_again();
    assert!(last_used(&gateway, &used).is_some() && last_used(&gateway, &unused).is_some());
    assert_eq!(last_used(&gateway, &refused), None);
    assert_eq!(gateway.metric("keygate_usage_dropped_total"), 0.0);
}

#[test]
fn when_a_key_was_last_used_is_known_and_survives_a_restart() {
    let upstream = Upstream::start();
    uses_are_noted(Setup::in_front_of(&upstream));
}

#[test]
fn when_a_key_was_last_used_is_known_to_the_fleet() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    uses_are_noted(Setup::in_front_of(&upstream).redis(&redis));
}
