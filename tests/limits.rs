//! Limits as a client meets them: what passes, what is refused and with which words, what is charged
//! and what is not.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Answer, Gateway, Key, KeySpec, Request, Setup, Upstream, Wire, alone, assert_refused,
    free_address, get,
};

/// So slow that nothing comes back during a test.
const SMALL: &str = "[tiers.small]\nrate = \"3/hour\"\nburst = 3\nquotas = [\"10/month\"]\n";

fn start(tables: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).tables(tables).start(), upstream)
}

fn spec(tier: &str) -> KeySpec {
    KeySpec::new(&["read:orders"]).with("tier", json!(tier))
}

fn key_in(gateway: &Gateway, tier: &str) -> String {
    gateway.key_with(&spec(tier)).key
}

fn orders(key: &str) -> Request {
    get("/v1/orders").bearer(key)
}

/// The statuses of so many calls, one after the other.
fn statuses(gateway: &Gateway, request: &Request, count: usize) -> Vec<u16> {
    let mut caller = gateway.caller();
    std::iter::repeat_with(|| caller.send(request).status).take(count).collect()
}

/// What `RateLimit` says is left of a policy, and the seconds until it is whole again.
#[track_caller]
fn left(answer: &Answer, policy: &str) -> (u64, u64) {
    let text = answer.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {answer:?}"));
    let item = text.split(", ").find_map(|item| item.strip_prefix(&format!("\"{policy}\";r=")));
    let (left, seconds) = item.and_then(|item| item.split_once(";t=")).expect(text);
    (left.parse().unwrap(), seconds.parse().unwrap())
}

/// The wait that a refusal's body asks for.
#[track_caller]
fn wait_of(refusal: &Answer) -> Duration {
    let wait = refusal.json()["retry_after_s"].as_f64();
    Duration::from_secs_f64(wait.unwrap_or_else(|| panic!("no wait: {}", refusal.text())))
}

#[test]
fn a_burst_passes_and_the_next_request_is_told_what_is_in_its_way_and_for_how_long() {
    let (gateway, upstream) = start(SMALL);
    let key = key_in(&gateway, "small");
    for (wire, rest) in [(Wire::H1, 2), (Wire::H2c, 1), (Wire::H1, 0)] {
        let answer = gateway.send_over(wire, &orders(&key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let policy = "\"rate\";q=3;w=3600, \"month\";q=10;w=2592000";
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
        let (rate, month) = (left(&answer, "rate"), left(&answer, "month"));
        assert_eq!((rate.0, month.0), (rest, rest + 7));
        assert!((3 - rest) * 1_200 - rate.1 < 60 && month.1 <= 31 * 86_400, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), None, "it was not asked for");
    }
    upstream.forget();
    for wire in Wire::BOTH {
        let refusal = gateway.send_over(wire, &orders(&key));
        assert_refused(&refusal, 429, "rate_limit_exceeded");
        let problem = refusal.json();
        assert_eq!(problem["violated_policies"], json!(["rate"]), "{problem}");
        let wait = wait_of(&refusal);
        assert!(Duration::from_secs(1_140) < wait && wait <= Duration::from_secs(1_200));
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        assert_eq!(refusal.header("retry-after"), Some(&*whole.to_string()));
        assert_eq!((left(&refusal, "rate").0, left(&refusal, "month").0), (0, 7));
        assert!(refusal.header("ratelimit-policy").is_some());
    }
    upstream.saw_nothing();
}

#[test]
fn a_refused_request_is_charged_to_no_limit() {
    let (gateway, _upstream) =
        start("[tiers.two]\nrate = \"2/hour\"\nburst = 9\nquotas = [\"2/month\", \"100/day\"]\n");
    let key = key_in(&gateway, "two");
    assert_eq!(statuses(&gateway, &orders(&key), 8)[..3], [200, 200, 429]);
    let refusal = gateway.send(&orders(&key));
    assert_refused(&refusal, 429, "quota_exceeded");
    assert_eq!(refusal.json()["violated_policies"], json!(["month"]));
    assert_eq!((left(&refusal, "rate").0, left(&refusal, "day").0), (7, 98));
    assert!(wait_of(&refusal) <= Duration::from_secs(31 * 86_400));
}

#[test]
fn limits_come_last_so_a_request_that_is_refused_before_costs_nothing_and_tells_nothing() {
    let (gateway, _upstream) = start(SMALL);
    let key = key_in(&gateway, "small");
    for (path, status, code) in
        [("/v1/transfers", 403, "permission_denied"), ("/nowhere", 404, "route_not_found")]
    {
        for _ in 0..5 {
            let refusal = gateway.send(&get(path).bearer(&key));
            assert_refused(&refusal, status, code);
            assert_eq!(refusal.header("ratelimit"), None);
        }
    }
    assert_eq!(left(&gateway.send(&orders(&key)), "rate").0, 2);
}

#[test]
fn a_grpc_call_over_its_limit_is_refused_in_grpcs_own_way() {
    let (gateway, _upstream) = start(SMALL);
    let key = key_in(&gateway, "small");
    assert_eq!(statuses(&gateway, &orders(&key), 3), [200, 200, 200]);
    let call = orders(&key).header("Content-Type", "application/grpc");
    let answer = gateway.send_over(Wire::H2c, &call);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("8"));
    assert_eq!(answer.header("grpc-message"), Some("rate_limit_exceeded"));
    assert!(answer.ended_with_head, "trailers-only");
    assert_eq!(left(&answer, "rate").0, 0);
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn the_operator_says_which_headers_tell_of_limits() {
    let talkative = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let own = [("RateLimit", "its own"), ("RateLimit", "twice"), ("X-RateLimit-Limit", "7")];
        exchange.answer(200, &own, b"served")
    });
    let gateway =
        |tables: &str| Setup::in_front_of(&talkative).tables(&format!("{SMALL}{tables}")).start();
    let old = gateway("[limits]\nheaders = false\nx_headers = true\n");
    let key = key_in(&old, "small");
    let answer = old.send(&orders(&key));
    assert_eq!(answer.header("x-ratelimit-limit"), Some("3"), "{answer:?}");
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("2"));
    let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!((1_140..=1_200).contains(&reset), "{reset}");
    assert_eq!(answer.header("ratelimit-policy"), None);
    assert!(answer.headers.iter().any(|(_, value)| value == "its own"), "{answer:?}");

    let usual = gateway("");
    let limited = usual.send(&orders(&key_in(&usual, "small")));
    assert_eq!(left(&limited, "rate").0, 2, "the gateway's take the place of the upstream's");
    assert_eq!(limited.header("x-ratelimit-limit"), Some("7"), "not ours, so it passes");
    let free = usual.send(&orders(&usual.key(&["read:orders"])));
    assert!(free.headers.iter().any(|(_, value)| value == "its own"), "{free:?}");
    assert_eq!(free.header("ratelimit-policy"), None, "a key in no tier has no limits");
}

#[test]
fn who_waits_as_long_as_the_refusal_says_passes() {
    let (gateway, _upstream) = start("[tiers.quick]\nrate = \"20/s\"\nburst = 2\n");
    let key = key_in(&gateway, "quick");
    let mut caller = gateway.caller();
    let mut refused = 0;
    for _ in 0..200 {
        let answer = caller.send(&orders(&key));
        if answer.status == 200 {
            continue;
        }
        assert_refused(&answer, 429, "rate_limit_exceeded");
        refused += 1;
        // The wait is what is being tried out.
        std::thread::sleep(wait_of(&answer));
        let next = caller.send(&orders(&key));
        assert_eq!(next.status, 200, "after the wait in {}: {}", answer.text(), next.text());
        if refused == 20 {
            return;
        }
    }
    panic!("only {refused} of 200 requests were refused");
}

#[test]
fn who_hammers_gets_the_limit_through_and_recovers_when_he_slows() {
    const RATE: u64 = 40;
    const BURST: u64 = 10;
    let _alone = alone();
    let (gateway, _upstream) = start("[tiers.quick]\nrate = \"40/s\"\nburst = 10\n");
    let key = key_in(&gateway, "quick");
    let start = Instant::now();
    let passed: u64 = std::thread::scope(|scope| {
        let hammers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut caller = gateway.caller();
                    let mut passed = 0;
                    while start.elapsed() < Duration::from_secs(2) {
                        // Ten times the limit, between the two.
                        std::thread::sleep(Duration::from_millis(1));
                        passed += u64::from(caller.send(&orders(&key)).status == 200);
                    }
                    passed
                })
            })
            .collect();
        hammers.into_iter().map(|hammer| hammer.join().unwrap()).sum()
    });
    let seconds = start.elapsed().as_secs_f64();
    let most = BURST as f64 + RATE as f64 * seconds;
    println!("{passed} passed in {seconds:.3} s; the limit is {most:.1}");
    assert!(passed as f64 <= most + 1.0, "{passed} passed, {most} may");

    let mut caller = gateway.caller();
    let last = caller.send(&orders(&key));
    let pace = Duration::from_secs(1) / u32::try_from(RATE).unwrap();
    // Who was refused, however often, waits no longer than for one unit. Who passed may have taken
    // the only one.
    let pause = if last.status == 429 { wait_of(&last) } else { pace };
    assert!(pause <= pace, "{pause:?}: refused requests cost");
    std::thread::sleep(pause);
    for _ in 0..10 {
        assert_eq!(caller.send(&orders(&key)).status, 200, "at the limit's own pace");
        std::thread::sleep(pace);
    }
}

#[test]
fn what_no_upstream_was_sent_costs_nothing_and_what_one_failed_at_does() {
    let failing = Upstream::answering(|exchange| {
        exchange.read_body()?;
        match &*exchange.request.target {
            "/v1/orders/500" => exchange.answer(500, &[], b"failed"),
            "/v1/orders/cut" => Err(std::io::ErrorKind::BrokenPipe.into()),
            _ => exchange.answer(200, &[], b"served"),
        }
    });
    let dead = format!("[upstreams.dead]\ntargets = [\"{}\"]\n", free_address());
    let gateway = Setup::in_front_of(&failing)
        .tables(&format!("{SMALL}{dead}"))
        .route("name = \"dead\"\npath = \"/dead\"\nupstream = \"dead\"\nauth = \"key\"")
        .start();
    let key = key_in(&gateway, "small");
    for _ in 0..5 {
        let answer = gateway.send(&get("/dead").bearer(&key));
        assert_refused(&answer, 502, "upstream_error");
        assert_eq!((left(&answer, "rate").0, left(&answer, "month").0), (3, 10));
    }
    let failed = gateway.send(&get("/v1/orders/500").bearer(&key));
    assert_eq!((failed.status, left(&failed, "rate").0), (500, 2));
    let cut = gateway.send(&get("/v1/orders/cut").bearer(&key));
    assert_refused(&cut, 502, "upstream_error");
    assert_eq!(left(&cut, "rate").0, 1);
    assert_eq!(statuses(&gateway, &orders(&key), 2), [200, 429]);
}

#[test]
fn a_route_says_what_its_requests_cost() {
    let upstream = Upstream::start();
    let route = |name: &str, cost: u64| {
        format!(
            "name = \"{name}\"\npath = \"/{name}\"\nupstream = \"main\"\nauth = \"key\"\ncost = {cost}"
        )
    };
    let gateway = Setup::in_front_of(&upstream)
        .tables(&format!("{SMALL}[tiers.large]\nrate = \"1/hour\"\nburst = 10\n"))
        .route(&route("two", 2))
        .route(&route("five", 5))
        .start();
    let key = key_in(&gateway, "small");
    let two = get("/two").bearer(&key);
    let answer = gateway.send(&two);
    assert_eq!((answer.status, left(&answer, "rate").0, left(&answer, "month").0), (200, 1, 8));
    assert_refused(&gateway.send(&two), 429, "rate_limit_exceeded");
    assert_eq!(gateway.send(&orders(&key)).status, 200, "one unit is left");

    let never = gateway.send(&get("/five").bearer(&key_in(&gateway, "small")));
    assert_refused(&never, 429, "rate_limit_exceeded");
    assert_eq!(never.header("retry-after"), None, "no wait helps");
    let problem = never.json();
    assert!(problem.get("retry_after_s").is_none(), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("can never pass"), "{problem}");
    let large = get("/five").bearer(&key_in(&gateway, "large"));
    assert_eq!(statuses(&gateway, &large, 3), [200, 200, 429]);
}

#[test]
fn keys_share_their_limits_as_their_tier_says() {
    let tier = |share: &str| {
        format!("[tiers.{share}]\nrate = \"3/hour\"\nburst = 3\nshare = \"{share}\"\n")
    };
    let (gateway, _upstream) = start(&["key", "app", "account"].map(tier).concat());
    let admin = gateway.admin();
    for (share, same_app, same_account) in
        [("key", 200, 200), ("app", 429, 200), ("account", 429, 429)]
    {
        let (account, spec) = (admin.account(), spec(share));
        let (one_app, other_app) = (admin.app(&account, &spec), admin.app(&account, &spec));
        let key_of = |app: &str| admin.key_of(&account, app, &spec).key;
        assert_eq!(statuses(&gateway, &orders(&key_of(&one_app)), 4), [200, 200, 200, 429]);
        let others = [key_of(&one_app), key_of(&other_app), key_in(&gateway, share)];
        let others = others.map(|key| gateway.send(&orders(&key)).status);
        assert_eq!(others, [same_app, same_account, 200], "share = {share}");
    }
}

#[test]
fn a_keys_own_limits_count_at_once_and_what_it_used_stays_used() {
    let (gateway, _upstream) = start(SMALL);
    let made = gateway.key_with(&spec("small"));
    let Key { id, key, .. } = &made;
    assert_eq!(statuses(&gateway, &orders(key), 4), [200, 200, 200, 429]);
    let path = format!("/v1/keys/{id}");
    gateway.admin().patch(&path, &json!({ "limits": { "rate": "1/hour", "burst": 5 } }));
    let answer = gateway.send(&orders(key));
    assert_eq!(answer.status, 200, "5 of which 3 are used: {}", answer.text());
    let policy = "\"rate\";q=5;w=18000, \"month\";q=10;w=2592000";
    assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    assert_eq!((left(&answer, "rate").0, left(&answer, "month").0), (1, 6));
    gateway.admin().patch(&path, &json!({ "limits": null }));
    assert_eq!(gateway.send(&orders(key)).status, 429, "3 of which 4 are used");
}

#[test]
fn an_operator_gives_a_key_its_limits_back() {
    let (gateway, _upstream) = start(SMALL);
    let made = gateway.key_with(&spec("small"));
    assert_eq!(statuses(&gateway, &orders(&made.key), 4), [200, 200, 200, 429]);
    let reset = crate::harness::post(&format!("/v1/keys/{}/limits/reset", made.id), "");
    assert_eq!(gateway.admin().send(&reset).status, 200);
    let answer = gateway.send(&orders(&made.key));
    assert_eq!((left(&answer, "rate").0, left(&answer, "month").0), (2, 9));
}
