//! The audit log: what is in it, and how it is asked.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keygate_store::keys::{ChangeNumber, Write};
use keygate_store::records::AuditEntry;

use super::*;

impl Api {
    async fn entries(&self, query: &str) -> Vec<Value> {
        let list = self.get(&format!("/v1/audit?limit=200&{query}")).await;
        assert_eq!(list.status, 200, "{query}: {}", list.text);
        list.json()["items"].as_array().unwrap().clone()
    }

    /// Attempts that were refused, as soon as there are so many entries of them.
    async fn refused(&self, count: usize) -> Vec<Value> {
        let wait = async {
            loop {
                let entries = self.entries("refused=true").await;
                if entries.len() >= count {
                    return entries;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        let entries = waited.unwrap_or_else(|_| panic!("never {count} entries"));
        assert_eq!(entries.len(), count, "{entries:#?}");
        entries
    }

    /// Puts an entry into the log that no call makes.
    async fn log(&self, at: UnixMillis, action: &str, subject: &str) -> ChangeNumber {
        let entry = AuditEntry {
            at,
            actor: "test".into(),
            action: action.into(),
            subject: subject.into(),
            hint: None,
            from: None,
            reason: None,
            refused: None,
            changes: serde_json::Map::new(),
        };
        self.cache.commit(Write::Note, entry).await.unwrap()
    }
}

fn members<'a>(entry: &'a Value, names: &[&str]) -> Vec<&'a str> {
    names.iter().map(|name| entry[*name].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn what_is_refused_is_written_down_with_who_what_from_where_and_why() {
    let api = Api::start().await;
    let viewer = api.token(json!({ "name": "v", "role": "viewer" })).await;
    let token = tokens::text(&viewer);
    let key = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    api.send("GET", "/v1/accounts", &[("authorization", "Bearer x")], "").await;
    let first = api.refused(1).await;
    api.call_as(&token, "POST", "/v1/accounts", Some(&json!({ "name": "a" }))).await;
    api.post(&format!("/v1/keys/{key}/revoke"), json!({})).await;
    api.patch(&format!("/v1/keys/{key}"), json!({ "unknown": 1 })).await;
    // Asked, and not done; asked in vain; without any token.
    for (method, path) in [("GET", "/v1/keys/x"), ("GET", "/v1/nothing")] {
        api.call(method, path, None).await;
    }
    api.post("/v1/keys/verify", json!({ "key": 1 })).await;
    api.send("POST", "/v1/accounts", &[], "").await;
    let all = api.refused(4).await;
    assert_eq!(all[0], first[0]);
    let names = ["actor", "action", "subject", "refused", "from", "reason", "hint"];
    let actor = format!("token:{}", id(&viewer));
    let revoke = format!("POST /v1/keys/{key}/revoke");
    let change = format!("PATCH /v1/keys/{key}");
    let rest = ["127.0.0.1", "-", "-"];
    for (entry, expected) in all.iter().zip([
        ["anonymous", "refused", "GET /v1/accounts", "unauthorized"],
        [&actor, "refused", "POST /v1/accounts", "forbidden"],
        ["token:bootstrap", "refused", &revoke, "not_found"],
        ["token:bootstrap", "refused", &change, "bad_request"],
    ]) {
        assert_eq!(members(entry, &names), [expected.as_slice(), &rest].concat());
        assert_eq!(entry["changes"], json!({}));
    }
    let of_key = api.entries(&format!("subject={key}")).await;
    assert_eq!(of_key.len(), 2, "attempts on a record are found by its id: {of_key:#?}");
}

#[tokio::test]
async fn a_browser_that_tries_is_written_down_too() {
    let api = Api::start().await;
    api.send("GET", "/v1/accounts", &[("origin", "http://a")], "").await;
    let entry = &api.refused(1).await[0];
    let names = ["actor", "subject", "refused"];
    assert_eq!(members(entry, &names), ["anonymous", "GET /v1/accounts", "browser_not_allowed"]);
}

#[tokio::test]
async fn nothing_that_a_client_makes_up_gets_into_the_log() {
    let api = Api::start().await;
    let strange = ["/v1/keys/made-up/revoke", "/made-up", "/v1/keys/key_made-up?made-up"];
    for path in strange {
        api.call("POST", path, Some(&json!({ "made-up": 1 }))).await;
        api.call("MADE-UP", path, None).await;
    }
    let entries = api.refused(6).await;
    assert!(!json!(entries).to_string().to_lowercase().contains("made-up"), "{entries:#?}");
    let subjects: Vec<&str> = entries.iter().map(|e| e["subject"].as_str().unwrap()).collect();
    let revoke = ["POST /v1/keys/{id}/revoke", "other /v1/keys/{id}/revoke"];
    let rest = ["POST none", "other none", "POST /v1/keys/{id}", "other /v1/keys/{id}"];
    assert_eq!(subjects, [revoke.as_slice(), &rest].concat());
}

#[tokio::test]
async fn a_flood_writes_an_entry_now_and_then_that_says_how_many_there_were() {
    let api = Api::start().await;
    for _ in 0..300 {
        api.send("GET", "/v1/accounts", &[("authorization", "Bearer x")], "").await;
    }
    // What is not told at once is told within seconds.
    let told = |entries: &[Value]| -> u64 {
        let others = |entry: &Value| {
            let reason = entry["reason"].as_str()?;
            reason.split(' ').nth(1)?.parse::<u64>().ok()
        };
        entries.iter().map(|entry| 1 + others(entry).unwrap_or(0)).sum()
    };
    let wait = async {
        loop {
            let entries = api.entries("refused=true").await;
            if told(&entries) == 300 {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let start = Instant::now();
    let entries = tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!(entries.len() <= 20 + seconds, "{}", entries.len());
}

#[tokio::test]
async fn attempts_that_the_store_does_not_take_are_counted_and_hold_nobody_up() {
    let api = Api::start().await;
    api.cache.store().down.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        api.send("GET", "/v1/accounts", &[("authorization", "Bearer x")], "").await;
    }
    let wait = async {
        while !api.metrics.render().contains("keygate_audit_dropped_total 1") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test]
async fn the_log_is_filtered_by_who_what_whom_and_when() {
    let api = Api::start().await;
    let hour = |n: u64| UnixMillis(NOW.0 + n * 3_600_000);
    for (n, action) in ["key.create", "key.revoke", "app.create", "keys"].into_iter().enumerate() {
        api.log(hour(n as u64), action, &format!("s{n}")).await;
    }
    let numbers = async |query: &str| -> Vec<u64> {
        api.entries(query).await.iter().map(|entry| entry["number"].as_u64().unwrap()).collect()
    };
    for (query, expected) in [
        ("", [1, 2, 3, 4].as_slice()),
        ("action=key.revoke", &[2]),
        ("action=key.*", &[1, 2]),
        ("action=key*", &[1, 2, 4]),
        ("action=*", &[1, 2, 3, 4]),
        ("action=key", &[]),
        ("subject=s1", &[2]),
        ("actor=test&action=app.create", &[3]),
        ("actor=token:bootstrap", &[]),
        ("refused=true", &[]),
        ("refused=false", &[1, 2, 3, 4]),
        ("since=2030-01-01T01:00:00Z", &[2, 3, 4]),
        ("until=2030-01-01T01:00:00Z", &[1]),
        ("since=2030-01-01T03:00:00%2B01:00&until=2030-01-01T03:00:00Z", &[3]),
        ("after=2", &[3, 4]),
        ("cursor=2&action=key*", &[4]),
        ("after=9", &[]),
    ] {
        assert_eq!(numbers(query).await, expected, "{query}");
    }
    let newest = api.get("/v1/audit?tail=2&action=key*").await.json();
    let newest: Vec<_> = newest["items"].as_array().unwrap().iter().map(|e| &e["number"]).collect();
    assert_eq!(newest, [4, 2]);
    assert_eq!(api.get("/v1/audit?tail=9").await.json()["looked_from"], Value::Null);
    for wrong in [
        "since=yesterday",
        "until=1",
        "refused=yes",
        "after=x",
        "cursor=x",
        "after=1&cursor=1",
        "tail=1&after=1",
        "tail=1&wait=1s",
        "wait=2m",
        "wait=1",
        "limit=0",
        "unknown=1",
    ] {
        assert_problem(&api.get(&format!("/v1/audit?{wrong}")).await, 400, "bad_request");
    }
}

#[tokio::test]
async fn entries_whose_gateways_clocks_differ_are_found_by_their_own_time() {
    let api = Api::start().await;
    for minute in [0, 20, 12, 21, 30, 40] {
        api.log(UnixMillis(NOW.0 + minute * 60_000), "a", "b").await;
    }
    let found = api.entries("since=2030-01-01T00:20:00Z&until=2030-01-01T00:25:00Z").await;
    let numbers: Vec<&Value> = found.iter().map(|entry| &entry["number"]).collect();
    assert_eq!(numbers, [2, 4]);
}

#[tokio::test]
async fn who_waits_has_the_entry_as_soon_as_there_is_one() {
    let api = Api::start().await;
    api.log(NOW, "a", "x").await;
    let at_once = api.get("/v1/audit?wait=60s").await.json();
    assert_eq!(at_once["items"][0]["number"], 1);
    let follow = api.get("/v1/audit?after=1&wait=60s&action=b");
    let log = async {
        api.log(NOW, "a", "x").await;
        api.log(NOW, "b", "x").await;
    };
    let (answer, ()) = tokio::join!(follow, log);
    assert_eq!(answer.json()["items"][0]["number"], 3);
    let start = Instant::now();
    let in_vain = api.get("/v1/audit?after=3&wait=300ms").await.json();
    assert_eq!(in_vain, json!({ "items": [], "next": null, "looked_from": null }));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn no_more_than_some_wait_and_nobody_keeps_a_gateway_from_stopping() {
    let stopping = Api::start().await.not_ready("The gateway is stopping.").await;
    let start = Instant::now();
    assert_eq!(stopping.get("/v1/audit?wait=60s").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(30));
    let api = Api::start().await;
    let waiting: Vec<_> = (0..40).map(|_| api.get("/v1/audit?wait=2s")).collect();
    let mut refused = 0;
    for answer in join_all(waiting).await {
        if answer.status != 200 {
            assert_problem(&answer, 503, "too_many_waiters");
            assert_eq!(answer.header("retry-after"), "5");
            refused += 1;
        }
    }
    assert_eq!(refused, 40 - 16);
}

/// Runs futures at one time.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|ctx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(ctx)
            {
                *output = Some(value);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn an_issuer_does_not_see_the_log_and_a_viewer_does() {
    let api = Api::start().await;
    let account = api.account().await;
    let issuer = json!({ "name": "i", "role": "issuer", "accounts": [account] });
    let issuer = tokens::text(&api.token(issuer).await);
    let viewer = tokens::text(&api.token(json!({ "name": "v", "role": "viewer" })).await);
    for path in ["/v1/audit", "/v1/audit?tail=1", "/v1/audit/verify", "/v1/fleet"] {
        assert_problem(&api.call_as(&issuer, "GET", path, None).await, 403, "forbidden");
        assert_eq!(api.call_as(&viewer, "GET", path, None).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_log_that_nobody_touched_verifies_from_its_first_entry_and_from_any_other() {
    let api = Api::start().await;
    let verified = async |query: &str| api.get(&format!("/v1/audit/verify?{query}")).await.json();
    let empty = json!({
        "from": null, "to": null, "checked": 0, "link": null, "findings": [],
        "kept_from": null, "next": null,
    });
    assert_eq!(verified("").await, empty);
    for n in 1..=5_u64 {
        api.log(NOW, "a", &n.to_string()).await;
    }
    let entries = api.entries("").await;
    let hash = |n: usize| entries[n - 1]["hash"].as_str().unwrap();
    let all = json!({
        "from": 1, "to": 5, "checked": 5, "link": hash(5), "findings": [],
        "kept_from": 1, "next": null,
    });
    assert_eq!(verified("").await, all);
    let rest = json!({
        "from": 4, "to": 5, "checked": 2, "link": hash(5), "findings": [],
        "kept_from": 1, "next": null,
    });
    assert_eq!(verified(&format!("after=3&link={}", hash(3))).await, rest);
    assert_eq!(verified("after=3").await, rest);
    let nothing = verified(&format!("after=5&link={}", hash(5))).await;
    assert_eq!((&nothing["checked"], &nothing["findings"]), (&json!(0), &json!([])));
    assert_eq!(nothing["link"], hash(5));
}

#[tokio::test]
async fn a_log_that_is_not_the_one_of_before_is_found_by_a_link_that_was_kept() {
    let api = Api::start().await;
    for n in 1..=3_u64 {
        api.log(NOW, "a", &n.to_string()).await;
    }
    let kinds = async |query: &str| -> Vec<(u64, String)> {
        let answer = api.get(&format!("/v1/audit/verify?{query}")).await.json();
        let findings = answer["findings"].as_array().unwrap().iter();
        let kind = |found: &Value| {
            assert!(!found["detail"].as_str().unwrap().is_empty());
            (found["number"].as_u64().unwrap(), found["kind"].as_str().unwrap().to_owned())
        };
        findings.map(kind).collect()
    };
    let other = "7".repeat(64);
    let expected = [(2, "not_as_kept".to_owned()), (3, "altered".to_owned())];
    assert_eq!(kinds(&format!("after=2&link={other}")).await, expected);
    let newest = kinds(&format!("after=3&link={other}")).await;
    assert_eq!(newest, [(3, "not_as_kept".to_owned())]);
    let cut_off = kinds(&format!("after=5&link={other}")).await;
    assert_eq!(cut_off, [(4, "missing".to_owned())]);
    for wrong in ["link=x&after=1", &format!("link={other}"), "after=x", "from=1"] {
        let answer = api.get(&format!("/v1/audit/verify?{wrong}")).await;
        assert_problem(&answer, 400, "bad_request");
    }
}

#[tokio::test]
async fn the_log_s_end_says_how_far_it_was_looked_through() {
    let api = Api::start().await;
    api.log(NOW, "key.create", "s").await;
    for _ in 0..5_000 {
        api.log(NOW, "app.create", "s").await;
    }
    let looked_from = async |query: &str| {
        let answer = api.get(&format!("/v1/audit?{query}")).await.json();
        (answer["items"].as_array().unwrap().len(), answer["looked_from"].as_u64())
    };
    assert_eq!(looked_from("tail=1&action=key.create").await, (0, Some(2)));
    // Nothing is kept back where as many were found.
    assert_eq!(looked_from("tail=1&action=app.create").await, (1, None));
    assert_eq!(looked_from("tail=200").await, (200, None));
    assert_eq!(looked_from("limit=1&action=key.create").await, (1, None));
}
