//! What was used is told exactly: by window, route and key, in pages and as CSV.

use keygate_core::KeyId;
use keygate_core::problem::Code;
use keygate_store::keys::KeyStore;
use keygate_store::usage::records::{
    BATCH_ROWS_MAX, LastUse, Retention, SourceId, UsageBatch, UsageCounts, UsageRow,
};

use super::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A gateway with two apps of one account and one of another, and their keys in the order of their ids.
struct Used {
    api: Api,
    account: String,
    apps: [String; 3],
    keys: [String; 4],
}

fn row(key: &str, route: &str, requests: u64) -> UsageRow {
    let refused = vec![(Code::PermissionDenied, 1), (Code::QuotaExceeded, requests)];
    let counts = UsageCounts {
        requests,
        cost: 5 * requests,
        bytes_in: 10 * requests,
        bytes_out: 100 * requests,
        refused,
    };
    UsageRow { key: key.parse().unwrap(), route: route.into(), counts, last: None }
}

impl Used {
    async fn start() -> Self {
        let api = Api::start().await;
        let first = api.app().await;
        let app = api.get(&format!("/v1/apps/{first}")).await.json();
        let account = app["account_id"].as_str().unwrap().to_owned();
        let more = json!({ "name": "b", "environment": "live", "granted_scopes": ["read:orders"] });
        let second = api.post(&format!("/v1/accounts/{account}/apps"), more).await.json();
        let apps = [first, id(&second), api.app().await];
        let mut keys = Vec::new();
        for app in [&apps[0], &apps[0], &apps[1], &apps[2]] {
            keys.push(id(&api.key(app, json!({})).await));
        }
        keys[..3].sort_unstable();
        Self { api, account, apps, keys: keys.try_into().unwrap() }
    }

    /// Adds batches, each of a minute before now and its rows.
    async fn add(&self, batches: Vec<(u64, Vec<UsageRow>)>) {
        let day = 86_400_000;
        let keep = Retention { minutes: day, hours: 99 * day, days: 999 * day };
        for (number, (ago, rows)) in (1..).zip(batches) {
            let (source, minute) = (SourceId(1), UnixMillis(NOW.0 - ago));
            let batch = UsageBatch { source, number, after_loss: false, minute, rows };
            self.api.cache.store().add_usage(Arc::new(batch), keep).await.unwrap();
        }
    }

    async fn ask(&self, query: &str) -> Value {
        let answer = self.api.get(&format!("/v1/usage?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        answer.json()
    }
}

/// Start, route, key and requests of each row.
fn rows(answer: &Value) -> Vec<(String, String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |row: &Value| {
        let requests = row["requests"].as_u64().unwrap();
        (text(&row["start"]), text(&row["route"]), text(&row["key_id"]), requests)
    };
    answer["items"].as_array().unwrap().iter().map(row).collect()
}

fn is(rows: &[(String, String, String, u64)], expected: &[(&str, &str, &str, u64)]) {
    let found: Vec<_> = rows.iter().map(|(a, b, c, n)| (&**a, &**b, &**c, *n)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn use_is_told_by_route_by_key_and_in_all_with_its_totals() {
    let used = Used::start().await;
    let [a, b, c, other] = &used.keys;
    let early = vec![row(a, "x", 1), row(a, "y", 2), row(b, "x", 4), row(other, "x", 8)];
    used.add(vec![(2 * HOUR, early), (HOUR, vec![row(c, "y", 16)]), (0, vec![row(a, "x", 32)])])
        .await;
    let (ten, eleven, now) =
        ("2029-12-31T22:00:00Z", "2029-12-31T23:00:00Z", "2030-01-01T00:00:00Z");

    let account = format!("account_id={}", used.account);
    let answer = used.ask(&account).await;
    let of_account =
        [(ten, "x", "-", 5), (ten, "y", "-", 2), (eleven, "y", "-", 16), (now, "x", "-", 32)];
    is(&rows(&answer), &of_account);
    assert_eq!(
        answer["totals"],
        json!({ "requests": 55, "cost": 275, "bytes_in": 550, "bytes_out": 5500,
                "refused": { "permission_denied": 5, "quota_exceeded": 55 } })
    );
    assert_eq!(
        answer["items"][0],
        json!({
            "start": ten, "route": "x", "key_id": null, "requests": 5, "cost": 25, "bytes_in": 50,
            "bytes_out": 500, "refused": { "permission_denied": 2, "quota_exceeded": 5 },
        })
    );
    assert_eq!((&answer["by"], &answer["group"]), (&json!("hour"), &json!("route")));
    assert_eq!((&answer["as_of"], &answer["next"]), (&json!(now), &Value::Null));

    let answer = used.ask(&format!("{account}&group=key")).await;
    let by_key = [(ten, "-", &**a, 3), (now, "-", a, 32), (ten, "-", b, 4), (eleven, "-", c, 16)];
    is(&rows(&answer), &by_key);
    let answer = used.ask(&format!("{account}&group=none&by=day")).await;
    is(&rows(&answer), &[("2029-12-31T00:00:00Z", "-", "-", 23), (now, "-", "-", 32)]);
    is(&rows(&used.ask(&format!("key_id={a}&route=y")).await), &[(ten, "y", "-", 2)]);
    let of_app = used.ask(&format!("app_id={}&group=key", used.apps[2])).await;
    is(&rows(&of_app), &[(ten, "-", other, 8)]);
    let all = used.ask("route=x&by=day&group=none").await;
    is(&rows(&all), &[("2029-12-31T00:00:00Z", "-", "-", 13), (now, "-", "-", 32)]);
    // The last hour, by the minute, and a time of one's own.
    is(&rows(&used.ask("by=minute").await), &[(now, "x", "-", 32)]);
    let span = format!("by=minute&from={ten}&to={eleven}");
    assert_eq!(used.ask(&span).await["totals"]["requests"], 15);
    is(&rows(&used.ask("from=2030-01-01T00:00:00Z&to=2030-01-01T00:00:00Z").await), &[]);
}

#[tokio::test]
async fn pages_join_up_to_the_whole_answer() {
    let used = Used::start().await;
    let [a, b, c, _] = &used.keys;
    let batches = (0..50).rev().map(|hour| {
        let rows =
            [a, b, c].into_iter().flat_map(|key| ["x", "y"].map(|route| row(key, route, hour + 1)));
        (hour * HOUR, rows.collect())
    });
    used.add(batches.collect()).await;
    for group in ["route", "key", "none"] {
        let span = "from=2029-12-29T23:00:00Z";
        let query = format!("account_id={}&group={group}&{span}", used.account);
        let whole = used.ask(&format!("{query}&limit=1000")).await;
        assert_eq!(whole["totals"]["requests"], 6 * 50 * 51 / 2);
        let sum: u64 = rows(&whole).iter().map(|row| row.3).sum();
        assert_eq!(sum, 6 * 50 * 51 / 2);
        for limit in [1, 7, 49, 50, 51, 149, 150] {
            let (mut joined, mut page) =
                (Vec::new(), used.ask(&format!("{query}&limit={limit}")).await);
            assert_eq!(page["totals"], whole["totals"]);
            loop {
                joined.extend(rows(&page));
                let Some(next) = page["next"].as_str() else { break };
                assert_eq!(rows(&page).len(), limit);
                page = used.ask(&format!("{query}&limit={limit}&cursor={next}")).await;
                assert_eq!(page["totals"], Value::Null);
            }
            assert_eq!(joined, rows(&whole), "{group} {limit}");
        }
    }
}

#[tokio::test]
async fn csv_is_whole_and_says_the_same() {
    let used = Used::start().await;
    let [a, b, ..] = &used.keys;
    let many = |key: &str| (0..250).map(|n| row(key, &format!("r{n:03}"), n + 1)).collect();
    used.add(vec![(HOUR, many(a)), (HOUR, many(b))]).await;
    let query = format!("/v1/usage?account_id={}&format=csv", used.account);
    let answer = used.api.get(&query).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/csv"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let lines: Vec<&str> = answer.text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 251);
    assert!(lines[0].starts_with("start,key_id,route,requests,cost,bytes_in,bytes_out,refused,"));
    assert!(lines[0].contains(",refused_quota_exceeded,"), "{}", lines[0]);
    assert!(
        lines[8].starts_with("2029-12-31T23:00:00Z,,r007,16,80,160,1600,18,0,"),
        "{}",
        lines[8]
    );
    let bearer = format!("Bearer {TOKEN}");
    let accept =
        |form: &'static str| [("authorization", bearer.clone()), ("accept", form.to_owned())];
    for (form, is_csv) in
        [("text/csv", true), ("text/csv;q=0.9, */*", true), ("application/json, text/csv", false)]
    {
        let headers = accept(form);
        let headers = headers.each_ref().map(|(name, value)| (*name, &**value));
        let answer = used.api.send("GET", "/v1/usage", &headers, "").await;
        assert_eq!(answer.header("content-type").starts_with("text/csv"), is_csv, "{form}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_says_what_to_ask_instead() {
    let used = Used::start().await;
    let (key, app) = (&used.keys[0], &used.apps[0]);
    for (query, says) in [
        (format!("key_id={key}&app_id={app}"), "one of"),
        ("key_id=sk_live_x".to_owned(), "with its prefix"),
        ("group=key".to_owned(), "goes with"),
        ("group=app".to_owned(), "`route`, `key` or `none`"),
        ("by=week".to_owned(), "`minute`, `hour` or `day`"),
        ("from=yesterday".to_owned(), "RFC 3339"),
        ("from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z".to_owned(), "later than"),
        ("limit=0".to_owned(), "from 1 to 1000"),
        ("limit=1001".to_owned(), "from 1 to 1000"),
        ("cursor=nonsense".to_owned(), "`next` of the page before"),
        ("format=xml".to_owned(), "`json` or `csv`"),
        ("format=csv&limit=5".to_owned(), "no pages"),
        ("by=minute&from=2020-01-01T00:00:00Z".to_owned(), "shorter time"),
        ("since=now".to_owned(), "unknown field"),
    ] {
        let answer = used.api.get(&format!("/v1/usage?{query}")).await;
        let detail = assert_problem(&answer, 400, "bad_request");
        assert!(detail.contains(says), "{query}: {detail}");
    }
    for nobody in [
        "key_id=key_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "app_id=app_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "account_id=acct_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ] {
        assert_problem(&used.api.get(&format!("/v1/usage?{nobody}")).await, 404, "not_found");
    }
    used.api.cache.store().down.store(true, Ordering::SeqCst);
    assert_eq!(used.api.get("/v1/usage").await.status, 503);
}

#[tokio::test]
async fn a_key_tells_where_it_was_last_used_and_how_much_lately() {
    let used = Used::start().await;
    let key = &used.keys[0];
    let last = LastUse {
        at: UnixMillis(NOW.0 - 1),
        address: Some("2001:db8::7".parse().unwrap()),
        route: Some("orders.read".into()),
    };
    let late = UsageRow { last: Some(last), ..row(key, "x", 1) };
    used.add(vec![(48 * HOUR, vec![row(key, "x", 4)]), (0, vec![late, row(key, "y", 2)])]).await;
    let usage = used.api.get(&format!("/v1/keys/{key}/usage")).await.json();
    assert_eq!(usage["last_used_at"], "2029-12-31T23:59:59.999Z");
    assert_eq!(usage["last_used_from"], "2001:db8::7");
    assert_eq!(usage["last_used_route"], "orders.read");
    // The month has just begun.
    assert_eq!(usage["today"]["requests"], 3);
    assert_eq!(usage["this_month"], usage["today"]);
    let earlier = used.api.at(|| UnixMillis(NOW.0 - HOUR)).await;
    let usage = earlier.get(&format!("/v1/keys/{key}/usage")).await.json();
    assert_eq!(
        (&usage["today"]["requests"], &usage["this_month"]["requests"]),
        (&json!(0), &json!(4))
    );
    let never: KeyId = used.keys[1].parse().unwrap();
    let usage = used.api.get(&format!("/v1/keys/{never}/usage")).await.json();
    assert_eq!((&usage["last_used_from"], &usage["today"]["requests"]), (&Value::Null, &json!(0)));
}

#[tokio::test]
async fn a_thousand_keys_by_the_day_are_one_csv() {
    let used = Used::start().await;
    let (days, each) = (30u64, 2u64);
    let app = &used.apps[2];
    let mut keys = vec![used.keys[3].clone()];
    // Of so many keys; the whole thousand where there is time.
    #[expect(clippy::disallowed_methods, reason = "how long the test runs, not what it tests")]
    let count = std::env::var("USAGE_KEYS").map_or(40, |count| count.parse().unwrap());
    while keys.len() < count {
        let made = used.api.key(app, json!({})).await;
        used.api.post(&format!("/v1/keys/{}/revoke", id(&made)), json!({})).await;
        keys.push(id(&made));
    }
    let batches = (0..days).rev().flat_map(|day| {
        let rows = keys.chunks(BATCH_ROWS_MAX).map(move |keys| {
            (day * 24 * HOUR, keys.iter().map(|key| row(key, "x", each)).collect())
        });
        rows.collect::<Vec<_>>()
    });
    used.add(batches.collect()).await;
    let answer = used.api.get(&format!("/v1/usage?app_id={app}&group=key&by=day&format=csv")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.text.lines().count(), 1 + keys.len() * usize::try_from(days).unwrap());
    let began = std::time::Instant::now();
    let answer = used.ask(&format!("app_id={app}&by=hour&from=2029-12-02T00:00:00Z")).await;
    assert_eq!(answer["totals"]["requests"], days * each * keys.len() as u64);
    println!("{} keys by the hour: {:?}", keys.len(), began.elapsed());
}
