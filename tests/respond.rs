//! A route that the gateway itself answers: as written, at no cost, and with no upstream anywhere near.

use crate::harness::{
    Gateway, KeySpec, Request, Setup, Upstream, Wire, assert_refused, get, post, request,
};

const MAINTENANCE: &str = r#"
name = "maintenance"
path = "/maintenance"
auth = "public"
respond = { status = 503, body = '{"back":"soon"}', content_type = "application/json" }
"#;
const KEYED: &str = r#"
name = "keyed"
path = "/keyed"
auth = "key"
cost = 3
scopes = ["read:orders"]
respond = { body = "pong" }
response_headers = { set = { X-Team = "edge", Cache-Control = "max-age=60" } }
"#;
const TIERS: &str = "[tiers.few]\nquotas = [\"10/day\"]\nconcurrency = 1\n";

fn empty(status: u16) -> String {
    format!(
        "name = \"empty.{status}\"\npath = \"/empty/{status}\"\nauth = \"public\"\n\
         respond = {{ status = {status}, body = \"never seen\" }}\n"
    )
}

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).tables(TIERS).route(MAINTENANCE).route(KEYED);
    let setup = [204, 205, 304].iter().fold(setup, |setup, &status| setup.route(&empty(status)));
    (setup.start(), upstream)
}

#[test]
fn the_answer_is_the_one_that_is_written() {
    let (gateway, upstream) = start();
    for wire in Wire::BOTH {
        for request in [get("/maintenance"), post("/maintenance/deep?x=1", "body")] {
            let answer = gateway.send_over(wire, &request);
            assert_eq!((answer.status, &*answer.text()), (503, "{\"back\":\"soon\"}"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.header("content-length"), Some("15"));
            assert!(!answer.request_id().is_empty());
        }
        let kept = get("/maintenance").header("X-Request-Id", "mine");
        assert_eq!(gateway.send_over(wire, &kept).request_id(), "mine");
    }
    upstream.saw_nothing();
    let metric = |series: &str| gateway.metric(series);
    assert_eq!(
        metric("keygate_requests_total{outcome=\"admitted\",route=\"maintenance\"}"),
        6.0,
        "they are requests like any other"
    );
    assert_eq!(metric("keygate_responses_total{class=\"5xx\",route=\"maintenance\"}"), 6.0);
    assert_eq!(metric("keygate_request_seconds_count{route=\"maintenance\"}"), 6.0);
}

#[test]
fn head_gets_the_head_alone_and_an_empty_answer_is_empty() {
    let (gateway, _upstream) = start();
    let mut connection = gateway.connect();
    for _ in 0..2 {
        let answer = connection.exchange(&request("HEAD", "/maintenance")).unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (503, Some("15")));
        for status in [204, 304] {
            let answer = connection.exchange(&get(&format!("/empty/{status}"))).unwrap();
            assert_eq!((answer.status, answer.header("content-length")), (status, None));
            assert_eq!(answer.header("content-type"), None);
        }
        let answer = connection.exchange(&get("/empty/205")).unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (205, Some("0")));
    }
    for target in ["/maintenance", "/empty/204", "/empty/205", "/empty/304"] {
        let answer = gateway.send_over(Wire::H2c, &request("HEAD", target));
        assert_eq!(answer.body, b"", "{target}: {answer:?}");
    }
}

#[test]
fn the_connection_goes_on() {
    let (gateway, _upstream) = start();
    let mut connection = gateway.connect();
    for _ in 0..3 {
        let small = connection.exchange(&post("/maintenance", "a small body")).unwrap();
        assert_eq!(small.status, 503);
        assert_eq!(connection.exchange(&get("/maintenance")).unwrap().status, 503);
        assert_eq!(connection.exchange(&get("/public")).unwrap().status, 200);
    }
    let large = post("/maintenance", vec![b'x'; 8 << 20]);
    for wire in Wire::BOTH {
        assert_eq!(gateway.send_over(wire, &large).status, 503, "{wire:?}");
        let streamed = Request { streamed: true, ..large.clone() };
        assert_eq!(gateway.send_over(wire, &streamed).status, 503, "{wire:?}");
    }
}

#[test]
fn a_key_is_asked_for_where_the_route_says_so() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let other = gateway.key(&["read:accounts"]);
    for wire in Wire::BOTH {
        assert_refused(&gateway.send_over(wire, &get("/keyed")), 401, "api_key_missing");
        let refused = gateway.send_over(wire, &get("/keyed").bearer(&other));
        assert_refused(&refused, 403, "permission_denied");
        let answer = gateway.send_over(wire, &get("/keyed").bearer(&key));
        assert_eq!((answer.status, &*answer.text()), (200, "pong"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("x-team"), Some("edge"));
        assert_eq!(answer.header("cache-control"), Some("max-age=60"));
    }
    upstream.saw_nothing();
}

#[test]
fn what_no_upstream_gets_is_not_charged() {
    let (gateway, upstream) = start();
    let spec = KeySpec::new(&["read:orders"]).with("tier", "few".into());
    let key = gateway.key_with(&spec).key;
    for _ in 0..20 {
        let answer = gateway.send(&get("/keyed").bearer(&key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let left = answer.header("ratelimit").unwrap_or_default();
        assert!(left.starts_with("\"day\";r=10;"), "{left}");
    }
    upstream.saw_nothing();
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    let answer = gateway.send(&get("/keyed").bearer(&key));
    assert!(answer.header("ratelimit").unwrap().starts_with("\"day\";r=9;"), "{answer:?}");
}

#[test]
fn explain_says_that_there_is_no_upstream() {
    let (gateway, _upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let call = |path: &str| {
        serde_json::json!({ "key": key, "method": "GET", "host": "a", "path": path }).to_string()
    };
    let step = |path: &str| {
        let answer = gateway.admin().send(&post("/v1/explain", call(path)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let steps = answer.json()["steps"].clone();
        let steps = steps.as_array().unwrap().clone();
        let step = steps.into_iter().find(|step| step["step"] == "upstream").unwrap();
        (step["result"].as_str().unwrap().to_owned(), step["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(step("/keyed"), ("pass".into(), "none: the route answers with 200 itself".into()));
    assert_eq!(step("/v1/orders"), ("pass".into(), "main".into()));
}
