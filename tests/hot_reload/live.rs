//! Whatever a request meets can change while the gateway runs: each thing is changed on a gateway that
//! serves, seen to hold from the next request on, and seen to be gone again.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Answer, Gateway, KeySpec, Setup, Upstream, eventually, get, post, request};

/// A gateway, its upstream, and a key of the tier `small`.
struct Stage {
    gateway: Gateway,
    upstream: Upstream,
    key: String,
}

type Change = fn(Setup) -> Setup;
type Holds = fn(&Stage) -> bool;

const TIER: &str = "[tiers.small]\nrate = \"1000/s\"\n";

impl Stage {
    fn orders(&self) -> Answer {
        self.gateway.send(&get("/v1/orders").bearer(&self.key))
    }

    /// What the upstream saw of a request.
    fn seen(&self, path: &str, header: &str) -> (String, Option<String>) {
        self.upstream.forget();
        self.gateway.send(&get(path).header("X-Forwarded-For", "198.51.100.7"));
        let seen = self.upstream.seen().into_iter().find(|seen| seen.target != "/probe");
        seen.map(|seen| (seen.target.clone(), seen.header(header).map(ToOwned::to_owned)))
            .unwrap_or_default()
    }
}

/// A route below the public one, with more lines.
fn with_route(setup: Setup, lines: &str) -> Setup {
    let route = "name = \"more\"\npath = \"/public/more\"\nauth = \"public\"";
    setup.route(&format!("{route}\n{lines}"))
}

/// What is changed, how, and how that is seen.
const CHANGES: &[(&str, Change, Holds)] = &[
    (
        "the rate of a tier",
        |setup| setup.tables("[tiers.small]\nrate = \"77/s\"\n"),
        |stage| stage.orders().header("ratelimit-policy").is_some_and(|p| p.contains("q=77;")),
    ),
    (
        "whether limits are told",
        |setup| setup.tables(&format!("{TIER}[limits]\nheaders = false\n")),
        |stage| stage.orders().header("ratelimit-policy").is_none(),
    ),
    (
        "where keys are looked for",
        |setup| setup.keys("sources = [\"x-api-key\"]"),
        |stage| stage.orders().status == 401,
    ),
    (
        "an answer of the gateway's own",
        |setup| with_route(setup, "respond = { status = 503, body = \"closed\" }"),
        |stage| stage.gateway.send(&get("/public/more")).text() == "closed",
    ),
    (
        "the path that the upstream sees",
        |setup| {
            let lines = "upstream = \"main\"\nstrip_prefix = \"/public\"\nadd_prefix = \"/v2\"";
            with_route(setup, lines)
        },
        |stage| stage.seen("/public/more/7", "host").0 == "/v2/more/7",
    ),
    (
        "a header that the upstream sees",
        |setup| {
            with_route(setup, "upstream = \"main\"\nrequest_headers = { set = { X-A = \"b\" } }")
        },
        |stage| stage.seen("/public/more", "x-a").1.as_deref() == Some("b"),
    ),
    (
        "the host that the upstream sees",
        |setup| setup.upstream("host = \"target\""),
        |stage| stage.seen("/public", "host").1 == Some(stage.upstream.address().to_string()),
    ),
    (
        "whose word on addresses counts",
        |setup| setup.server("trusted_proxies = [\"127.0.0.0/8\"]"),
        |stage| {
            let seen = stage.seen("/public", "x-forwarded-for").1;
            seen.is_some_and(|addresses| addresses.starts_with("198.51.100.7"))
        },
    ),
    (
        "pages that may call from a browser",
        |setup| {
            with_route(setup, "upstream = \"main\"\ncors = { origins = [\"https://app.test\"] }")
        },
        |stage| {
            let preflight = request("OPTIONS", "/public/more")
                .header("Origin", "https://app.test")
                .header("Access-Control-Request-Method", "GET");
            let allowed = stage.gateway.send(&preflight);
            allowed.header("access-control-allow-origin") == Some("https://app.test")
        },
    ),
    (
        "how long a body may be",
        |setup| with_route(setup, "upstream = \"main\"\nbody_bytes_max = \"10B\""),
        |stage| stage.gateway.send(&post("/public/more", "x".repeat(11))).status == 413,
    ),
    (
        "how long the upstream may take",
        |setup| setup.upstream("read_timeout = \"50ms\""),
        |stage| stage.gateway.send(&get("/public/slow")).status == 504,
    ),
    (
        "how long all of it may take",
        |setup| setup.upstream("total_timeout = \"50ms\""),
        |stage| stage.gateway.send(&get("/public/slow")).status == 504,
    ),
    (
        "how many connections an address may have",
        |setup| setup.server("connections_per_address_max = 1"),
        |stage| {
            let _one = stage.gateway.connect();
            stage.gateway.connect().exchange(&get("/public")).is_err()
        },
    ),
    (
        "whose connections begin with a PROXY header",
        |setup| setup.server("proxy_protocol_from = [\"127.0.0.0/8\"]"),
        |stage| stage.gateway.connect().exchange(&get("/public")).is_err(),
    ),
    (
        "how the targets are checked",
        |setup| setup.upstream("health_check = { path = \"/probe\", interval = \"10ms\" }"),
        |stage| stage.upstream.seen().iter().any(|seen| seen.target == "/probe"),
    ),
];

#[test]
fn whatever_a_request_meets_changes_live_and_back() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        if exchange.request.target.ends_with("/slow") {
            std::thread::sleep(Duration::from_millis(400));
        }
        exchange.answer(200, &[], b"served")
    });
    let base = Setup::in_front_of(&upstream).tables(TIER).log("info");
    let gateway = base.clone().start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("tier", json!("small"))).key;
    let mut stage = Stage { gateway, upstream, key };
    let mut all_along = stage.gateway.connect();
    for (what, change, holds) in CHANGES {
        assert!(!holds(&stage), "{what}: it is so already");
        stage.gateway.rewrite(|_| change(base.clone()));
        let answer = stage.gateway.reload();
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert_eq!(answer.json()["needs_restart"], json!([]), "{what}");
        // A probe has its own pace; all else is so from the answer on.
        eventually(what, || holds(&stage).then_some(()));
        stage.gateway.rewrite(|_| base.clone());
        assert_eq!(stage.gateway.reload().json()["changed"], true, "{what}");
        // The word that one connection is gone may come after the answer on another.
        eventually(what, || {
            stage.upstream.forget();
            (!holds(&stage)).then_some(())
        });
        let answer = all_along.exchange(&get("/public")).expect("the connection is open");
        assert_eq!((answer.status, &*answer.body), (200, &b"served"[..]), "{what}");
    }
    // A target that is no longer checked hears nothing more.
    eventually("the last probe", || {
        stage.upstream.forget();
        std::thread::sleep(Duration::from_millis(200));
        (stage.upstream.count() == 0).then_some(())
    });
    stage.gateway.is_alive_and_well();
}
