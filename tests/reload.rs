//! A changed `gateway.toml` is taken over whole or not at all, and no request notices more of it than
//! that the next one goes by it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Gateway, KeySpec, Setup, Upstream, assert_refused, eventually, get, post,
};

fn start(upstream: &Upstream, tables: &str) -> Gateway {
    Setup::in_front_of(upstream).tables(tables).log("info").start()
}

/// The members of a successful reload.
#[track_caller]
fn reloaded(gateway: &Gateway) -> Value {
    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn text_of(gateway: &Gateway) -> String {
    gateway.read("gateway.toml")
}

const PUBLIC: &str = r#"
    name = "extra"
    path = "/extra"
    upstream = "main"
    auth = "public"
"#;

#[test]
fn twenty_reloads_under_load_drop_no_request_and_close_no_connection() {
    const RELOADS: usize = 20;
    const CLIENTS: usize = 4;
    let upstreams = [Upstream::start(), Upstream::start()];
    let mut gateway = start(&upstreams[0], "");
    let key = gateway.key(&["read:orders"]);
    let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (mut connection, request) = (gateway.connect(), get("/v1/orders").bearer(&key));
            let (ended, sent) = (&ended, &sent);
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    let answer = connection.exchange(&request).expect("an open connection");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Also when an assertion fails here: the scope waits for all threads.
        let at_the_end = Ends(&ended);
        for n in 1..=RELOADS {
            let now = &upstreams[n % 2];
            gateway.rewrite(|setup| {
                let tier = format!("[tiers.free]\nrate = \"{n}000/s\"\n");
                setup.target(now.address()).tables(&tier)
            });
            if n % 3 == 0 {
                assert!(gateway.hang_up());
            } else {
                assert_eq!(reloaded(&gateway)["changed"], true);
            }
            // From the acknowledgement on, requests go by it.
            let before = now.count();
            assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
            assert!(now.count() > before);
            let seen = sent.load(Ordering::SeqCst);
            let enough = || sent.load(Ordering::SeqCst) > seen + 20;
            eventually("some load", || enough().then_some(()));
        }
        drop(at_the_end);
    });
    assert_eq!(gateway.metric("keygate_config_reloads_total{result=\"success\"}"), RELOADS as f64);
    assert!(sent.load(Ordering::SeqCst) > 0);
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn routes_come_and_go_and_a_request_that_runs_keeps_its_own() {
    let slow = Upstream::answering(|exchange| {
        exchange.read_body()?;
        thread::sleep(Duration::from_millis(300));
        exchange.answer(200, &[], b"slow")
    });
    let mut gateway = start(&slow, "");
    assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");
    gateway.rewrite(|setup| setup.route(PUBLIC));
    assert_eq!(reloaded(&gateway)["changed"], true);
    thread::scope(|scope| {
        let running = scope.spawn(|| gateway.connect().exchange(&get("/extra")).unwrap());
        eventually("the request at the upstream", || (slow.count() > 0).then_some(()));
        let without = text_of(&gateway).replace("path = \"/extra\"", "path = \"/other\"");
        gateway.write(&without);
        assert!(gateway.hang_up());
        assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");
        assert_eq!(running.join().unwrap().status, 200);
    });
    assert_eq!(gateway.send(&get("/other")).status, 200);
}

#[test]
fn a_broken_file_changes_nothing_and_says_where_and_what_to_do() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "[tiers.free]\nrate = \"9/s\"\n");
    let key = gateway.key(&["read:orders"]);
    let whole = text_of(&gateway);
    let broken =
        whole.replace("\"9/s\"", "\"9/sec\"").replace("auth = \"public\"", "auth = \"pubic\"");
    gateway.write(&broken);
    let line = |of: &str| {
        let at = broken.lines().position(|line| line.contains(of)).unwrap();
        u64::try_from(at + 1).unwrap()
    };
    let refused = gateway.reload();
    assert_refused(&refused, 422, "invalid_config");
    let problem = refused.json();
    let problems = problem["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{problem}");
    assert_eq!(problems[0]["line"], line("9/sec"));
    assert_eq!(problems[0]["setting"], "tiers.free.rate");
    assert_eq!(problems[1]["line"], line("pubic"));
    assert!(problems[1]["message"].as_str().unwrap().contains("public"), "{problem}");

    assert!(!gateway.hang_up());
    let told = format!("gateway.toml:{}: tiers.free.rate", line("9/sec"));
    eventually("the log", || (gateway.output().matches(&told).count() == 2).then_some(()));
    let counted = gateway.metric("keygate_config_reloads_total{result=\"failure\"}");
    assert_eq!(counted, 2.0);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    assert_eq!(gateway.send(&get("/public")).status, 200);

    // An upstream that cannot be found is seen before anything is changed, too.
    gateway.rewrite(|setup| setup.route(PUBLIC));
    let nowhere = text_of(&gateway)
        .replace(&format!("[\"{}\"]", upstream.address()), "[\"nowhere.invalid:80\"]");
    gateway.write(&nowhere);
    let refused = gateway.reload();
    assert_refused(&refused, 422, "invalid_config");
    assert_eq!(refused.json()["problems"][0]["setting"], "upstreams.main.targets");
    assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");

    gateway.write(&whole);
    assert_eq!(reloaded(&gateway)["changed"], false);
    gateway.is_alive_and_well();
}

#[test]
fn what_cannot_change_while_it_runs_is_named_and_the_rest_is_taken_over() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    gateway.rewrite(|setup| setup.route(PUBLIC).server("threads = 3"));
    let text = text_of(&gateway).replace("data/keygate.db", "data/other.db");
    gateway.write(&text);
    for changed in [true, false] {
        let answer = reloaded(&gateway);
        let named = json!(["[server] threads", "[store] path"]);
        assert_eq!((&answer["changed"], &answer["needs_restart"]), (&json!(changed), &named));
    }
    eventually("what has to wait is told", || {
        gateway.output().contains("takes effect at the next start").then_some(())
    });
    assert_eq!(gateway.send(&get("/extra")).status, 200);
    assert!(!gateway.path("data/other.db").exists());
}

fn left(answer: &Answer, policy: &str) -> u64 {
    let text = answer.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {answer:?}"));
    let item = text.split(", ").find_map(|item| item.strip_prefix(&format!("\"{policy}\";r=")));
    item.and_then(|item| item.split(';').next()).expect(text).parse().unwrap()
}

#[test]
fn a_changed_tier_counts_from_the_next_request_on_and_what_was_used_stays_used() {
    let upstream = Upstream::start();
    let tier = |quota: u32| format!("[tiers.small]\nquotas = [\"{quota}/month\"]\n");
    let mut gateway = start(&upstream, &tier(10));
    let spec = KeySpec::new(&["read:orders"]).with("tier", json!("small"));
    let orders = get("/v1/orders").bearer(&gateway.key_with(&spec).key);
    for rest in (6..10).rev() {
        assert_eq!(left(&gateway.send(&orders), "month"), rest);
    }
    gateway.rewrite(|setup| setup.tables(&tier(5)));
    reloaded(&gateway);
    assert_eq!(left(&gateway.send(&orders), "month"), 0);
    assert_refused(&gateway.send(&orders), 429, "quota_exceeded");
    gateway.rewrite(|setup| setup.tables(&tier(100)));
    reloaded(&gateway);
    assert_eq!(left(&gateway.send(&orders), "month"), 94);
}

#[test]
fn bounds_on_requests_change_on_connections_that_are_open() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    let long = "x".repeat(4_000);
    let big = get("/public").header("X-Long", &long);
    let body = post("/public", "x".repeat(4_000));
    let mut connections = [gateway.connect(), gateway.connect()];
    assert_eq!(connections[0].exchange(&big).unwrap().status, 200);
    assert_eq!(connections[1].exchange(&body).unwrap().status, 200);
    gateway.rewrite(|setup| setup.server("header_bytes_max = \"2KiB\"\nbody_bytes_max = \"2KiB\""));
    reloaded(&gateway);
    assert_refused(&connections[0].exchange(&big).unwrap(), 431, "headers_too_large");
    assert_refused(&connections[1].exchange(&body).unwrap(), 413, "payload_too_large");
}

#[test]
fn an_idle_connection_is_kept_as_long_as_the_new_file_says() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    let mut connection = gateway.connect();
    assert_eq!(connection.exchange(&get("/public")).unwrap().status, 200);
    gateway.rewrite(|setup| setup.server("keepalive_timeout = \"100ms\""));
    reloaded(&gateway);
    assert_eq!(connection.exchange(&get("/public")).unwrap().status, 200);
    assert!(connection.is_closed_within(Duration::from_secs(20)));
}

#[test]
fn the_logs_level_changes_while_it_runs() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    assert_refused(&gateway.send(&get("/v1/orders")), 401, "api_key_missing");
    gateway.rewrite(|setup| setup.log("debug"));
    reloaded(&gateway);
    assert!(!gateway.output().contains("request refused"));
    assert_refused(&gateway.send(&get("/v1/orders")), 401, "api_key_missing");
    eventually("a line", || gateway.output().contains("request refused").then_some(()));
}

#[test]
fn only_an_admin_reloads_and_it_is_in_the_audit_log() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    gateway.rewrite(|setup| setup.route(PUBLIC));
    reloaded(&gateway);
    let log = gateway.admin().read("/v1/audit?tail=1");
    assert_eq!(log["items"][0]["action"], "config.reload");
    let anybody = post("/v1/reload", "{}").host(&gateway.admin_address.to_string());
    let anybody = anybody.header("Content-Type", "application/json");
    let mut connection = crate::harness::Connection::open(gateway.admin_address);
    assert_eq!(connection.exchange(&anybody).unwrap().status, 401);
}

#[test]
fn how_often_an_address_may_fail_changes_live() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream, "");
    let key = gateway.key(&["read:orders"]);
    let gone = gateway.key_with(&KeySpec::new(&["read:orders"]));
    gateway.admin().revoke(&gone);
    let wrong = get("/v1/orders").bearer(&gone.key);
    (0..3).for_each(|_| assert_refused(&gateway.send(&wrong), 401, "api_key_invalid"));
    gateway.rewrite(|setup| setup.failed_auth("rate = \"1/day\""));
    assert_eq!(reloaded(&gateway)["needs_restart"], json!([]));
    assert_refused(&gateway.send(&wrong), 401, "api_key_invalid");
    // Another setting changes: what was counted goes on counting.
    gateway.rewrite(|setup| setup.route(PUBLIC));
    reloaded(&gateway);
    assert_refused(&gateway.send(&wrong), 429, "too_many_failures");
    gateway.rewrite(|setup| setup.failed_auth("rate = \"1000/s\""));
    reloaded(&gateway);
    assert_refused(&gateway.send(&wrong), 401, "api_key_invalid");
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
}

#[test]
fn the_drain_timeout_is_the_one_that_holds_when_the_gateway_is_told_to_stop() {
    let slow = Upstream::answering(|exchange| {
        // Never: the gateway hangs up first.
        while exchange.read(&mut [0])? > 0 {}
        Ok(())
    });
    let mut gateway = start(&slow, "");
    gateway.rewrite(|setup| setup.server("drain_timeout = \"100ms\""));
    assert_eq!(reloaded(&gateway)["needs_restart"], json!([]));
    let mut connection = gateway.connect();
    connection.send(&get("/public").to_h1()).unwrap();
    slow.wait_for(1);
    let start = std::time::Instant::now();
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
    // Far below the 30 s that it began with.
    assert!(start.elapsed() < Duration::from_secs(15), "it took {:?}", start.elapsed());
}
