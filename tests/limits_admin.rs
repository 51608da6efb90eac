//! Limits as an operator meets them: what is used of them, changed while requests come, given back,
//! and written down.

use serde_json::{Value, json};

use crate::harness::{
    Exit, Fleet, Gateway, Key, KeySpec, Redis, Request, Setup, Upstream, assert_refused,
    eventually, get, post, run,
};

/// So slow that nothing comes back during a test.
fn limits(burst: u64, quota: u64) -> Value {
    json!({ "rate": "1/hour", "burst": burst, "quotas": [format!("{quota}/month")], "concurrency": 9 })
}

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

fn key(gateway: &Gateway, limits: Value) -> Key {
    gateway.key_with(&KeySpec::new(&["read:orders"]).with("limits", limits))
}

fn orders(key: &Key) -> Request {
    get("/v1/orders").bearer(&key.key)
}

#[track_caller]
fn pass(gateway: &Gateway, key: &Key, count: usize) {
    let mut caller = gateway.caller();
    for n in 0..count {
        let answer = caller.send(&orders(key));
        assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
    }
}

fn path(key: &Key) -> String {
    format!("/v1/keys/{}", key.id)
}

/// What is used of each policy, by name.
fn used(gateway: &Gateway, key: &Key) -> Value {
    let record = gateway.admin().read(&path(key));
    let uses = record["current_use"].as_array().unwrap_or_else(|| panic!("{record}")).iter();
    uses.map(|one| {
        let number = |member: &str| one[member].as_u64().unwrap();
        assert_eq!(number("used") + number("remaining"), number("limit"), "{one}");
        (one["policy"].as_str().unwrap().to_owned(), one["used"].clone())
    })
    .collect()
}

/// Waits until the requests that were answered count no longer as running.
fn used_at_rest(gateway: &Gateway, key: &Key) -> Value {
    eventually("requests that are over", || {
        let used = used(gateway, key);
        (used.get("concurrency") != Some(&json!(1))).then_some(used)
    })
}

fn reset(gateway: &Gateway, key: &Key) -> Value {
    let answer = gateway.admin().send(&post(&format!("{}/limits/reset", path(key)), "{}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn keygate(gateway: &Gateway, line: &str) -> Exit {
    let exit = run(gateway.folder(), &line.split_whitespace().collect::<Vec<_>>(), &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
    exit
}

#[test]
fn what_is_used_goes_up_with_requests_and_is_what_clients_are_told() {
    let (gateway, _upstream) = start();
    let key = key(&gateway, limits(5, 100));
    assert_eq!(used(&gateway, &key), json!({ "concurrency": 0, "rate": 0, "month": 0 }));
    for n in 1..=5 {
        let answer = gateway.send(&orders(&key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let left = answer.header("ratelimit").unwrap();
        let expected = [format!("\"rate\";r={}", 5 - n), format!("\"month\";r={}", 100 - n)];
        assert!(expected.iter().all(|item| left.contains(item)), "{left}");
        let used = used_at_rest(&gateway, &key);
        assert_eq!(used, json!({ "concurrency": 0, "rate": n, "month": n }));
    }
    // A refused request is charged to none.
    assert_refused(&gateway.send(&orders(&key)), 429, "rate_limit_exceeded");
    let used = used_at_rest(&gateway, &key);
    assert_eq!(used, json!({ "concurrency": 0, "rate": 5, "month": 5 }));
    let uses = gateway.admin().read(&path(&key))["current_use"].clone();
    assert_eq!((&uses[1]["policy"], &uses[1]["window_s"]), (&json!("rate"), &json!(18_000)));
    let resets_in_s = uses[1]["resets_in_s"].as_f64().unwrap();
    assert!((17_000.0..=18_000.0).contains(&resets_in_s), "{uses}");
}

#[test]
fn a_reset_gives_all_back_at_once_and_is_in_the_audit_log() {
    let (gateway, _upstream) = start();
    let (one, other) = (key(&gateway, limits(3, 100)), key(&gateway, limits(3, 100)));
    for key in [&one, &other] {
        pass(&gateway, key, 3);
        assert_refused(&gateway.send(&orders(key)), 429, "rate_limit_exceeded");
    }
    let record = reset(&gateway, &one);
    assert_eq!(record["current_use"][1]["used"], 0, "{record}");
    assert_eq!((&record["id"], &record["status"]), (&json!(one.id), &json!("active")));
    pass(&gateway, &one, 3);
    // Another key's limits are its own.
    assert_refused(&gateway.send(&orders(&other)), 429, "rate_limit_exceeded");
    let log = gateway.admin().read("/v1/audit?tail=1")["items"][0].clone();
    assert_eq!((&log["action"], &log["subject"]), (&json!("key.limits.reset"), &json!(one.id)));
    assert_eq!(log["from"], "127.0.0.1");
}

#[test]
fn a_quota_that_was_reset_stays_so_over_a_restart() {
    let (mut gateway, _upstream) = start();
    let key = key(&gateway, json!({ "quotas": ["4/month"] }));
    pass(&gateway, &key, 4);
    reset(&gateway, &key);
    pass(&gateway, &key, 1);
    gateway.kill();
    gateway.start_again();
    assert_eq!(used(&gateway, &key), json!({ "month": 1 }));
    pass(&gateway, &key, 3);
    assert_refused(&gateway.send(&orders(&key)), 429, "quota_exceeded");
}

#[test]
fn changed_limits_hold_from_the_next_request_on_and_forget_nothing() {
    let (gateway, _upstream) = start();
    let admin = gateway.admin();
    let key = key(&gateway, limits(10, 100));
    pass(&gateway, &key, 4);
    let change = |limits: Value| admin.patch(&path(&key), &json!({ "limits": limits }));
    change(limits(10, 4));
    assert_refused(&gateway.send(&orders(&key)), 429, "quota_exceeded");
    change(limits(10, 5));
    pass(&gateway, &key, 1);
    assert_refused(&gateway.send(&orders(&key)), 429, "quota_exceeded");
    change(limits(6, 100));
    let used = used_at_rest(&gateway, &key);
    assert_eq!(used, json!({ "concurrency": 0, "rate": 5, "month": 5 }));
    pass(&gateway, &key, 1);
    assert_refused(&gateway.send(&orders(&key)), 429, "rate_limit_exceeded");
    change(Value::Null);
    let answer = gateway.send(&orders(&key));
    assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
    assert_eq!(admin.read(&path(&key))["current_use"], json!([]));
}

#[test]
fn limits_out_of_bounds_are_refused_and_nothing_changes() {
    let (gateway, _upstream) = start();
    let admin = gateway.admin();
    let key = key(&gateway, limits(3, 100));
    let before = admin.read(&path(&key))["limits"].clone();
    for (wrong, field) in [
        (json!({ "rate": "10/fortnight" }), "limits.rate"),
        (json!({ "rate": "10/s", "burst": 0 }), "limits.burst"),
        (json!({ "rate": null, "burst": 5 }), "limits.burst"),
        (json!({ "quotas": ["1/day", "2/day"] }), "limits.quotas"),
        (json!({ "concurrency": 1_000_001 }), "limits.concurrency"),
    ] {
        let body = json!({ "limits": wrong }).to_string();
        let patch = Request { method: "PATCH".into(), ..post(&path(&key), body) };
        let answer = admin.send(&patch);
        assert_eq!((answer.status, &*answer.code()), (422, "invalid_field"), "{}", answer.text());
        assert_eq!(answer.json()["field"], field);
    }
    assert_eq!(admin.read(&path(&key))["limits"], before);
}

#[test]
fn limits_are_set_shown_and_reset_from_the_command_line() {
    let (gateway, _upstream) = start();
    let key = key(&gateway, Value::Null);
    let show =
        |options: &str| keygate(&gateway, &format!("keys show {} {options}", key.id)).success();
    assert!(show("").contains("no limits"), "{}", show(""));
    let update = |options: &str| keygate(&gateway, &format!("keys update {} {options}", key.id));
    update("--rate 1/hour --burst 3 --quota 100/month --quota 50/d").success();
    update("--concurrency 7").success();
    pass(&gateway, &key, 2);
    used_at_rest(&gateway, &key);
    let json: Value = serde_json::from_str(&show("--json")).unwrap();
    let limits = json!({
        "rate": "1/hour", "burst": 3, "quotas": ["50/day", "100/month"], "concurrency": 7,
    });
    assert_eq!(json["limits"], limits);
    assert_eq!((&json["current_use"][1]["used"], &json["id"]), (&json!(2), &json!(key.id)));
    let lines: Vec<Vec<String>> =
        show("").lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    for line in [["used.concurrency", "0/7"], ["used.rate", "2/3"], ["used.month", "2/100"]] {
        assert!(lines.iter().any(|shown| *shown == line), "{line:?}: {}", show(""));
    }
    let reset = format!("keys reset-limits {} --reason alarm --yes", key.id);
    assert!(keygate(&gateway, &reset).success().contains("0/3"));
    pass(&gateway, &key, 3);
    assert!(keygate(&gateway, "audit -n 1").success().contains("key.limits.reset"));
    assert_eq!(update("").code, Some(2));
    assert_eq!(update("--rate fast").code, Some(2));
    update("--no-limits").success();
    assert!(show("").contains("no limits"), "{}", show(""));
    let burst = update("--burst 5");
    assert_eq!(burst.code, Some(4), "{burst:?}");
    assert!(burst.stderr.contains("`rate`"), "{burst:?}");
}

#[test]
fn what_is_used_in_a_fleet_is_what_all_gateways_let_through() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = Fleet::of(2, &Setup::in_front_of(&upstream).redis(&redis));
    let key = key(&fleet[0], json!({ "quotas": ["40/month"] }));
    pass(&fleet[0], &key, 6);
    eventually("a key that the other gateway knows", || {
        (fleet[1].send(&orders(&key)).status == 200).then_some(())
    });
    pass(&fleet[1], &key, 3);
    // What was lent and is not used comes back.
    for gateway in fleet.iter() {
        eventually("ten that are used", || {
            (used(gateway, &key) == json!({ "month": 10 })).then_some(())
        });
    }
    let mut callers = fleet.callers();
    let mut passed = 10;
    while callers.iter_mut().any(|caller| caller.send(&orders(&key)).status == 200) {
        passed += 1;
        assert!(passed <= 40);
    }
    reset(&fleet[0], &key);
    for caller in &mut callers {
        eventually("units on every gateway", || {
            (caller.send(&orders(&key)).status == 200).then_some(())
        });
    }
}
