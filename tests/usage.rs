//! What was used shows up exactly: by key, app, account and route, by minute, hour and day, as JSON, as CSV
//! and on the command line, whichever the store.

use serde_json::{Value, json};

use crate::harness::{
    Gateway, Key, KeySpec, Redis, Setup, Upstream, assert_refused, eventually, get, post, run,
};

/// What the upstream answers to each request.
const ANSWER_BYTES: u64 = 15;
const BODY: &str = "twenty bytes of body";

const BULK: &str = r#"
name = "bulk"
path = "/v1/bulk"
methods = ["POST"]
upstream = "main"
auth = "key"
environment = "live"
scopes = ["read:orders"]
cost = 5
"#;

const TABLES: &str = "[tiers.tiny]\nquotas = [\"5/month\"]\n[usage]\nflush_interval = \"100ms\"";

fn setup(upstream: &Upstream) -> Setup {
    Setup::in_front_of(upstream).route(BULK).tables(TABLES)
}

/// A gateway with two keys of one app, and one of another account that may send little.
struct Stage {
    gateway: Gateway,
    first: Key,
    second: Key,
    tiny: Key,
}

impl Stage {
    fn set(setup: Setup) -> Self {
        let gateway = setup.start();
        let spec = KeySpec::new(&["read:orders"]);
        let first = gateway.key_with(&spec);
        let second = gateway.admin().key_of(&first.account, &first.app, &spec);
        let tiny = gateway.key_with(&spec.clone().with("tier", json!("tiny")));
        Self { gateway, first, second, tiny }
    }

    fn usage(&self, query: &str) -> Value {
        self.gateway.admin().read(&format!("/v1/usage?{query}"))
    }

    /// The totals of what is asked for, without the codes of refusals that did not happen.
    fn totals(&self, query: &str) -> Value {
        let mut sums = self.usage(query)["totals"].clone();
        sums.as_object_mut().unwrap().retain(|_, sum| *sum != json!({}));
        sums
    }

    /// Sends requests that are known, and waits until they are counted.
    fn play(&self) {
        let Self { gateway, first, second, tiny } = self;
        for _ in 0..3 {
            assert_eq!(gateway.send(&get("/v1/orders").bearer(&first.key)).status, 200);
        }
        for key in [first, second] {
            assert_eq!(gateway.send(&post("/v1/bulk", BODY).bearer(&key.key)).status, 200);
        }
        let refused = gateway.send(&post("/v1/orders", BODY).bearer(&second.key));
        assert_refused(&refused, 403, "permission_denied");
        for status in [200, 200, 200, 200, 200, 429, 429] {
            assert_eq!(gateway.send(&get("/v1/orders").bearer(&tiny.key)).status, status);
        }
        // Without a key that is known, nobody has used anything.
        assert_eq!(gateway.send(&get("/v1/orders")).status, 401);
        assert_eq!(gateway.send(&get("/public")).status, 200);
        eventually("what was used is told", || {
            let totals = &self.usage("")["totals"];
            let refused = totals["refused"]["quota_exceeded"].as_u64();
            (totals["requests"] == 10 && refused == Some(2)).then_some(())
        });
    }
}

fn sums(requests: u64, cost: u64, bodies: u64, refused: Value) -> Value {
    let mut sums = json!({
        "requests": requests,
        "cost": cost,
        "bytes_in": bodies * BODY.len() as u64,
        "bytes_out": requests * ANSWER_BYTES,
    });
    if refused != json!({}) {
        sums["refused"] = refused;
    }
    sums
}

fn on_each_store(test: impl Fn(&dyn Fn() -> Setup)) {
    let upstream = Upstream::start();
    test(&|| setup(&upstream));
    let redis = Redis::start();
    test(&|| setup(&upstream).redis(&redis));
}

#[test]
fn what_was_used_shows_up_exactly_whoever_asks_for_it_and_how() {
    on_each_store(|setup| {
        let stage = Stage::set(setup());
        stage.play();
        let Stage { gateway, first, second, tiny } = &stage;
        let denied = json!({ "permission_denied": 1 });
        let quota = json!({ "quota_exceeded": 2 });
        let all = json!({ "permission_denied": 1, "quota_exceeded": 2 });
        for by in ["minute", "hour", "day"] {
            let of = |who: &str| stage.totals(&format!("{who}&by={by}"));
            assert_eq!(of(""), sums(10, 18, 2, all.clone()), "{by}");
            assert_eq!(of(&format!("key_id={}", first.id)), sums(4, 8, 1, json!({})));
            assert_eq!(of(&format!("key_id={}", second.id)), sums(1, 5, 1, denied.clone()));
            assert_eq!(of(&format!("app_id={}", first.app)), sums(5, 13, 2, denied.clone()));
            assert_eq!(
                of(&format!("account_id={}", first.account)),
                sums(5, 13, 2, denied.clone())
            );
            assert_eq!(of(&format!("account_id={}", tiny.account)), sums(5, 5, 0, quota.clone()));
            assert_eq!(of("route=bulk"), sums(2, 10, 2, json!({})));
            assert_eq!(of("route=orders.read"), sums(8, 8, 0, quota.clone()));
            assert_eq!(of("route=orders.write"), sums(0, 0, 0, denied.clone()));
            assert_eq!(of("route=public"), sums(0, 0, 0, json!({})));
        }

        // CSV and the command line say the same.
        let csv =
            |words: &[&str]| run(gateway.folder(), &[&["usage", "--csv"], words].concat(), &[]);
        let text = csv(&["--account", &first.account, "--by", "day", "--group", "key"]).success();
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let at = |name: &str| header.iter().position(|column| *column == name).unwrap();
        let lines: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        for (key, expected) in [(first, ["4", "8", "0"]), (second, ["1", "5", "1"])] {
            let line = lines.iter().find(|line| line[at("key_id")] == key.id).unwrap();
            let columns =
                ["requests", "cost", "refused_permission_denied"].map(|name| line[at(name)]);
            assert_eq!(columns, expected, "{text}");
        }
        let shown = run(gateway.folder(), &["usage", "--key", &first.id], &[]).success();
        assert!(shown.starts_with("START"), "{shown}");
        let words: Vec<&str> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words, ["total", "-", "4", "8", "20", "60", "-"], "{shown}");
        let json = run(gateway.folder(), &["usage", "--route", "bulk", "--json"], &[]).success();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["totals"]["cost"], 10);
        let both = ["usage", "--key", &first.id, "--app", &first.app];
        assert_eq!(run(gateway.folder(), &both, &[]).code, Some(2));
        let nobody = ["usage", "--key", "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"];
        assert_eq!(run(gateway.folder(), &nobody, &[]).code, Some(3));

        // Where and on which route a key was used last: that it was refused elsewhere is no use.
        for (key, route, requests) in [(second, "bulk", 1), (tiny, "orders.read", 5)] {
            let usage = gateway.admin().read(&format!("/v1/keys/{}/usage", key.id));
            assert_eq!(usage["last_used_from"], "127.0.0.1");
            assert_eq!(usage["last_used_route"], route);
            assert_eq!(usage["this_month"]["requests"], requests, "{usage}");
        }
    });
}

#[test]
fn what_was_used_outlives_a_restart_and_is_kept_for_as_long_as_the_configuration_says() {
    on_each_store(|setup| {
        let mut stage = Stage::set(setup());
        stage.play();
        let before = stage.totals("by=day");
        stage.gateway.process().signal("TERM");
        stage.gateway.process().wait_for_exit();
        stage.gateway.start_again();
        assert_eq!(stage.totals("by=day"), before);

        // Use by the minute is not kept any more; that of hours and days is.
        stage.gateway.rewrite(|setup| setup.tables(&format!("{TABLES}\nkeep_minutes = \"0s\"")));
        assert_eq!(stage.gateway.reload().status, 200);
        let admin = stage.gateway.admin();
        let answer = admin.send(&get("/v1/usage?by=minute"));
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("keep_minutes"), "{}", answer.text());
        let (_, viewer) = admin.token(&json!({ "name": "v", "role": "viewer" }));
        assert_eq!(viewer.send(&get("/v1/usage?by=day")).status, 200);
        let (_, issuer) = admin
            .token(&json!({ "name": "i", "role": "issuer", "accounts": [stage.tiny.account] }));
        assert_eq!(issuer.send(&get("/v1/usage")).status, 403);
        let own = format!("/v1/usage?account_id={}", stage.tiny.account);
        assert_eq!(issuer.send(&get(&own)).json()["totals"]["requests"], 5);
        let others = format!("/v1/usage?account_id={}", stage.first.account);
        assert_eq!(issuer.send(&get(&others)).status, 404);
    });
}
