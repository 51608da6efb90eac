//! CORS as browsers speak it: preflights without a key, and answers that a page may read, refusals too.
//! A model of the Fetch standard's checks stands in for the browser.

use crate::harness::{
    Answer, Gateway, KeySpec, Request, Setup, Upstream, Wire, assert_refused, get, post, request,
};

const APP: &str = "https://app.example.com";
const OTHER: &str = "https://evil.example";

const ROUTES: [&str; 5] = [
    r#"
name = "shop.read"
path = "/shop"
methods = ["GET", "HEAD"]
upstream = "main"
auth = "key"
scopes = ["read:orders"]
[routes.cors]
origins = ["https://app.example.com", "http://localhost:3000"]
credentials = true
max_age = "5m"
"#,
    r#"
name = "shop.write"
path = "/shop"
methods = ["POST", "PUT"]
upstream = "main"
auth = "key"
scopes = ["write:orders"]
[routes.cors]
origins = ["https://app.example.com"]
methods = ["POST"]
headers = ["authorization", "content-type", "x-trace"]
expose_headers = ["x-request-id", "x-total"]
"#,
    r#"
name = "shop.delete"
path = "/shop"
methods = ["DELETE"]
upstream = "main"
auth = "key"
"#,
    r#"
name = "open"
path = "/open"
upstream = "main"
auth = "public"
[routes.cors]
origins = ["*"]
"#,
    r#"
name = "note"
path = "/note"
auth = "public"
respond = { body = "hello" }
[routes.cors]
origins = ["https://app.example.com"]
"#,
];
const TIERS: &str = "[tiers.few]\nquotas = [\"3/day\"]\n";

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        // What an upstream says of CORS must not get through.
        let headers = [
            ("Access-Control-Allow-Origin", "https://evil.example"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Methods", "DELETE"),
            ("access-control-expose-headers", "x-internal"),
            ("Vary", "Accept-Encoding"),
            ("X-Total", "7"),
        ];
        exchange.answer(200, &headers, b"goods")
    });
    let setup = Setup::in_front_of(&upstream).tables(TIERS);
    (ROUTES.iter().fold(setup, |setup, route| setup.route(route)).start(), upstream)
}

fn preflight(target: &str, origin: &str, method: &str) -> Request {
    request("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", method)
}

fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let named = answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    named.map(|(_, value)| &**value).collect()
}

fn words(value: Option<&str>) -> Vec<String> {
    let words = value.unwrap_or_default().split(',').map(|word| word.trim().to_lowercase());
    words.filter(|word| !word.is_empty()).collect()
}

/// Fetch, section 4.9 "CORS check": whether a page of this origin may read the answer.
fn may_read(answer: &Answer, origin: &str, with_cookies: bool) -> bool {
    match answer.header("access-control-allow-origin") {
        Some("*") => !with_cookies,
        Some(allowed) if allowed == origin => {
            !with_cookies || answer.header("access-control-allow-credentials") == Some("true")
        }
        Some(_) | None => false,
    }
}

/// Fetch, section 4.8 "CORS-preflight fetch": whether the browser goes on to send the request.
fn may_send(answer: &Answer, origin: &str, cookies: bool, method: &str, headers: &[&str]) -> bool {
    let is_ok = (200..300).contains(&answer.status);
    if !is_ok || !may_read(answer, origin, cookies) {
        return false;
    }
    let methods = answer.header("access-control-allow-methods").unwrap_or_default();
    let methods: Vec<&str> = methods.split(',').map(str::trim).collect();
    let allowed = words(answer.header("access-control-allow-headers"));
    let is_simple = ["GET", "HEAD", "POST"].contains(&method);
    let any = |word: &str| word == "*" && !cookies;
    let method_passes = is_simple || methods.iter().any(|m| *m == method || any(m));
    let passes = |name: &&str| {
        allowed.iter().any(|one| one == name || (any(one) && *name != "authorization"))
    };
    method_passes && headers.iter().all(passes)
}

fn is_silent(answer: &Answer) -> bool {
    !answer.headers.iter().any(|(name, _)| name.to_lowercase().starts_with("access-control-"))
}

#[test]
fn a_preflight_is_answered_without_a_key_and_goes_no_further() {
    let (gateway, upstream) = start();
    for wire in Wire::BOTH {
        let asking = preflight("/shop/7?x=1", APP, "GET")
            .header("Access-Control-Request-Headers", "authorization,x-api-key");
        let answer = gateway.send_over(wire, &asking);
        assert_eq!((answer.status, &*answer.text()), (204, ""), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD"));
        let headers = answer.header("access-control-allow-headers");
        assert_eq!(headers, Some("authorization, content-type, x-api-key"));
        assert_eq!(answer.header("access-control-max-age"), Some("300"));
        assert_eq!(answer.header("vary"), Some("origin"));
        assert!(!answer.request_id().is_empty());
        let headers = ["authorization", "x-api-key"];
        assert!(may_send(&answer, APP, true, "GET", &headers));
    }
    upstream.saw_nothing();
    assert_eq!(
        gateway.metric("keygate_requests_total{outcome=\"preflight\",route=\"shop.read\"}"),
        2.0
    );
    assert_eq!(gateway.metric("keygate_requests_total{outcome=\"admitted\""), 0.0);
    assert_eq!(gateway.metric("keygate_responses_total{class=\"2xx\",route=\"shop.read\"}"), 2.0);
}

#[test]
fn preflights_share_a_connection_with_requests() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let mut connection = gateway.connect();
    for _ in 0..3 {
        assert_eq!(connection.exchange(&preflight("/shop", APP, "GET")).unwrap().status, 204);
        let answer = connection.exchange(&get("/shop").bearer(&key).header("Origin", APP));
        assert_eq!(answer.unwrap().status, 200);
        // A browser sends no body with one; somebody else might.
        let odd = Request { body: b"a body".to_vec(), ..preflight("/shop", APP, "GET") };
        assert_eq!(connection.exchange(&odd).unwrap().status, 204);
    }
    assert_eq!(upstream.count(), 3);
}

#[test]
fn what_a_page_may_not_the_browser_does_not_do() {
    let (gateway, upstream) = start();
    let ask = |origin: &str, cookies: bool, method: &str, headers: &[&str]| {
        let asking = preflight("/shop", origin, method);
        let asking = match headers {
            [] => asking,
            some => asking.header("Access-Control-Request-Headers", &some.join(",")),
        };
        let [one, other] = Wire::BOTH.map(|wire| {
            let answer = gateway.send_over(wire, &asking);
            may_send(&answer, origin, cookies, method, headers)
        });
        assert_eq!(one, other);
        one
    };
    assert!(ask(APP, true, "GET", &[]));
    assert!(ask("http://localhost:3000", true, "GET", &["authorization"]));
    assert!(ask(APP, false, "POST", &["authorization", "content-type", "x-trace"]));
    for origin in [OTHER, "http://app.example.com", "https://app.example.com:444", "null", "*"] {
        assert!(!ask(origin, false, "GET", &[]), "{origin}");
        assert!(!ask(origin, false, "POST", &[]), "{origin}");
    }
    assert!(!ask(APP, true, "GET", &["x-unknown"]), "a header that is not listed");
    assert!(!ask(APP, false, "GET", &["x-trace"]), "one that is listed for another method");
    assert!(!ask("http://localhost:3000", false, "POST", &[]), "a page of another method");
    assert!(!ask(APP, true, "POST", &[]), "cookies where there are to be none");
    assert!(!ask(APP, false, "PUT", &[]), "a method that the route has and pages may not use");
    assert!(!ask(APP, false, "DELETE", &[]), "a method whose route has no `cors`");
    assert!(!ask(APP, false, "PATCH", &[]), "a method that there is not");
    upstream.saw_nothing();
}

#[test]
fn a_page_that_may_not_is_told_of_nothing() {
    let (gateway, _upstream) = start();
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, &preflight("/shop", OTHER, "GET"));
        assert_eq!(answer.status, 204);
        assert!(is_silent(&answer), "{answer:?}");
        assert_eq!(answer.header("vary"), Some("origin"), "a cache must not mix them up");
        // One that may, with a method or header that it may not, is told what there is.
        let answer = gateway.send_over(wire, &preflight("/shop", APP, "PUT"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    }
}

#[test]
fn what_is_no_preflight_for_a_route_with_cors_is_a_request_like_any_other() {
    let (gateway, upstream) = start();
    let mut options = Vec::new();
    for wire in Wire::BOTH {
        // Not for this method, and not without what makes it one.
        for asking in [
            preflight("/shop", APP, "DELETE"),
            preflight("/shop", APP, "get"),
            preflight("/shop", APP, ""),
            request("OPTIONS", "/shop").header("Origin", APP),
            request("OPTIONS", "/shop").header("Access-Control-Request-Method", "GET"),
            preflight("/shop", APP, "GET").header("Access-Control-Request-Method", "POST"),
            preflight("/shop", APP, "GET").header("Origin", OTHER),
        ] {
            assert_refused(&gateway.send_over(wire, &asking), 405, "method_not_allowed");
        }
        assert_refused(
            &gateway.send_over(wire, &preflight("/nowhere", APP, "GET")),
            404,
            "route_not_found",
        );
        assert_refused(
            &gateway.send_over(wire, &preflight("/shop//x", APP, "GET")),
            400,
            "ambiguous_path",
        );
        assert_refused(
            &gateway.send_over(wire, &preflight("/v1/feed", APP, "GET")),
            401,
            "api_key_missing",
        );
        upstream.saw_nothing();
        // The operator's own OPTIONS.
        options.push(gateway.send_over(wire, &request("OPTIONS", "/open")));
        assert_eq!(upstream.only().method, "OPTIONS");
        upstream.forget();
    }
    assert!(options.iter().all(|answer| answer.status == 200 && answer.text() == "goods"));
}

#[test]
fn a_page_may_read_the_answer_and_the_upstream_has_no_say_in_it() {
    let (gateway, _upstream) = start();
    let key = gateway.key(&["read:orders", "write:orders"]);
    for wire in Wire::BOTH {
        let from = |origin: &str| get("/shop").bearer(&key).header("Origin", origin);
        let answer = gateway.send_over(wire, &from(APP));
        assert_eq!((answer.status, &*answer.text()), (200, "goods"));
        assert!(may_read(&answer, APP, true), "{answer:?}");
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(exposed, Some("x-request-id, ratelimit, ratelimit-policy, retry-after"));
        assert_eq!(values(&answer, "vary"), ["Accept-Encoding", "origin"], "appended");
        assert_eq!(answer.header("access-control-allow-methods"), None);
        let written = post("/shop", "x").bearer(&key).header("Origin", APP);
        let answer = gateway.send_over(wire, &written);
        assert!(may_read(&answer, APP, false) && !may_read(&answer, APP, true));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-request-id, x-total"));
        for answer in [
            gateway.send_over(wire, &from(OTHER)),
            gateway.send_over(wire, &get("/shop").bearer(&key)),
            gateway.send_over(wire, &from(APP).header("Origin", APP)),
        ] {
            assert_eq!(answer.status, 200, "CORS keeps nobody out but browsers");
            assert!(is_silent(&answer), "{answer:?}");
            assert_eq!(values(&answer, "vary"), ["Accept-Encoding", "origin"]);
        }
        // Without `cors` the upstream's word is passed on.
        let answer = gateway.send_over(wire, &get("/public").header("Origin", OTHER));
        assert!(may_read(&answer, OTHER, true));
    }
}

#[test]
fn where_any_page_may_nothing_varies() {
    let (gateway, _upstream) = start();
    for wire in Wire::BOTH {
        for asking in [get("/open").header("Origin", OTHER), get("/open")] {
            let answer = gateway.send_over(wire, &asking);
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(values(&answer, "vary"), ["Accept-Encoding"]);
        }
        let answer = gateway.send_over(wire, &preflight("/open/x", OTHER, "PURGE"));
        assert!(may_send(&answer, OTHER, false, "PURGE", &["authorization"]), "{answer:?}");
    }
}

#[test]
fn a_page_may_read_why_it_is_refused() {
    let (gateway, upstream) = start();
    let reader = gateway.key(&["read:orders"]);
    let spec = KeySpec::new(&["read:orders"]).with("tier", "few".into());
    let few = gateway.key_with(&spec).key;
    for _ in 0..3 {
        assert_eq!(gateway.send(&get("/shop").bearer(&few)).status, 200);
    }
    upstream.forget();
    for wire in Wire::BOTH {
        let page = |request: Request| gateway.send_over(wire, &request.header("Origin", APP));
        let check = |answer: &Answer, status, code| {
            assert_refused(answer, status, code);
            assert!(may_read(answer, APP, false), "{answer:?}");
            assert!(answer.header("access-control-expose-headers").is_some());
            assert_eq!(values(answer, "vary"), ["origin"]);
        };
        check(&page(get("/shop")), 401, "api_key_missing");
        check(&page(get("/shop").bearer("nonsense")), 401, "api_key_invalid");
        check(&page(post("/shop", "x").bearer(&reader)), 403, "permission_denied");
        let limited = page(get("/shop").bearer(&few));
        check(&limited, 429, "quota_exceeded");
        assert!(limited.header("retry-after").is_some());
        let other = gateway.send_over(wire, &get("/shop").header("Origin", OTHER));
        assert_refused(&other, 401, "api_key_missing");
        assert!(is_silent(&other), "{other:?}");
        // A route's own answer is one too.
        let note = page(get("/note"));
        assert_eq!((note.status, &*note.text()), (200, "hello"));
        assert!(may_read(&note, APP, false));
    }
    upstream.saw_nothing();
}

#[test]
fn a_page_may_read_that_the_upstream_failed_or_the_body_was_too_large() {
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let setup = Setup::in_front_of_address(nowhere).server("body_bytes_max = \"1KiB\"");
    let gateway = ROUTES.iter().fold(setup.tables(TIERS), |s, route| s.route(route)).start();
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, &get("/open").header("Origin", APP));
        assert_refused(&answer, 502, "upstream_error");
        assert!(may_read(&answer, APP, false), "{answer:?}");
        let large = post("/open", vec![b'x'; 2_000]).header("Origin", APP);
        let answer = gateway.send_over(wire, &large);
        assert_refused(&answer, 413, "payload_too_large");
        assert!(may_read(&answer, APP, false), "{answer:?}");
    }
}

/// What a page with a publishable key goes through, from beginning to end.
#[test]
fn a_page_with_a_publishable_key_gets_what_it_asks_for() {
    let (gateway, upstream) = start();
    let spec = KeySpec::new(&["read:orders"])
        .with("kind", "pk".into())
        .with("allowed_origins", serde_json::json!([APP]));
    let key = gateway.key_with(&spec).key;
    for wire in Wire::BOTH {
        upstream.forget();
        let asking = preflight("/shop/7", APP, "GET")
            .header("Access-Control-Request-Headers", "authorization");
        let allowed = gateway.send_over(wire, &asking);
        assert!(may_send(&allowed, APP, false, "GET", &["authorization"]));
        let sent = get("/shop/7").bearer(&key).header("Origin", APP);
        let answer = gateway.send_over(wire, &sent);
        assert_eq!(answer.status, 200);
        assert!(may_read(&answer, APP, false));
        assert_eq!(upstream.count(), 1);
        // The route lets this page in and the key does not: the page may read that.
        let local = "http://localhost:3000";
        let answer = gateway.send_over(wire, &get("/shop/7").bearer(&key).header("Origin", local));
        assert_refused(&answer, 403, "origin_not_allowed");
        assert!(may_read(&answer, local, false), "{answer:?}");
    }
}

/// An answer without a key is an offer to everybody: it must not cost more than a refusal.
#[test]
fn a_flood_of_preflights_asks_nobody() {
    let (gateway, upstream) = start();
    let mut connection = gateway.connect();
    for n in 0..500 {
        let asking = preflight(&format!("/shop/{n}"), &format!("https://{n}.example"), "GET");
        assert_eq!(connection.exchange(&asking).unwrap().status, 204);
    }
    assert_eq!(gateway.metric("keygate_store_seconds_count{op=\"find\"}"), 0.0);
    upstream.saw_nothing();
}
