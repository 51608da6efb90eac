//! Who is told what of those at the top.

use std::time::Duration;

use keygate_core::top::{Counts, Hint, TopClient, TopKey, TopList, TopQuery, Who, Window};
use keygate_core::{AccountId, AppId, KeyId};

use super::*;

/// What the gateway has counted: one key and one client, and what was asked for.
pub(super) fn of(query: TopQuery) -> TopList {
    let who = Who {
        app: AppId::new(NOW, [2; 10]),
        account: AccountId::new(NOW, [3; 10]),
        hint: Hint::new("sk_live_abcd"),
    };
    let key = TopKey {
        id: KeyId::new(NOW, [1; 10]),
        who,
        counts: Counts { requests: 50, refusals: 5, bytes: 1_000 },
        missed: Counts { requests: 1, refusals: 0, bytes: 20 },
        series: vec![0, 7],
    };
    let network = "2001:db8::7".parse::<IpAddr>().unwrap().into();
    TopList {
        as_of: NOW,
        covers: match query.window {
            Window::Minute => Duration::from_millis(65_500),
            Window::TenMinutes | Window::Hour => Duration::from_secs(3),
        },
        all: Counts { requests: 150, refusals: 15, bytes: 1_000 },
        missed_max: Counts { requests: 2, refusals: 1, bytes: 90 },
        keys: vec![key; query.limit.min(1)],
        clients: vec![TopClient { network, refusals: 10, missed: 4 }],
    }
}

#[tokio::test]
async fn those_at_the_top_are_told_with_their_errors_and_shares() {
    let api = Api::start().await;
    let key = KeyId::new(NOW, [1; 10]).to_string();
    let expected = json!({
        "gateway": "gw_1",
        "started_at": "2030-01-01T00:00:00Z",
        "window": "1m",
        "by": "requests",
        "from": "2029-12-31T23:58:54.5Z",
        "as_of": "2030-01-01T00:00:00Z",
        "seconds": 65.5,
        "totals": { "requests": 150, "refusals": 15, "bytes": 1_000 },
        "error_max": { "requests": 2, "refusals": 1, "bytes": 90 },
        "items": [{
            "key_id": key,
            "hint": "sk_live_abcd",
            "app_id": AppId::new(NOW, [2; 10]).to_string(),
            "account_id": AccountId::new(NOW, [3; 10]).to_string(),
            "requests": 50, "refusals": 5, "bytes": 1_000,
            "error": { "requests": 1, "refusals": 0, "bytes": 20 },
            "share": 0.3333,
            "series": [0, 7],
        }],
        "clients": [{ "network": "2001:db8::/64", "refusals": 10, "error": 4, "share": 0.6667 }],
    });
    let answer = api.get("/v1/top").await;
    assert_eq!((answer.status, answer.json()), (200, expected));
    let bytes = api.get("/v1/top?window=10m&by=bytes&limit=200").await.json();
    assert_eq!((&bytes["window"], &bytes["by"]), (&json!("10m"), &json!("bytes")));
    assert_eq!((&bytes["items"][0]["share"], &bytes["seconds"]), (&json!(1.0), &json!(3.0)));
}

#[tokio::test]
async fn what_is_not_counted_is_not_guessed() {
    let api = Api::start().await;
    for query in [
        "window=2m",
        "window=60s",
        "by=cost",
        "by=Requests",
        "limit=0",
        "limit=201",
        "limit=x",
        "order=asc",
        "by=bytes&by=bytes",
    ] {
        assert_problem(&api.get(&format!("/v1/top?{query}")).await, 400, "bad_request");
    }
}
