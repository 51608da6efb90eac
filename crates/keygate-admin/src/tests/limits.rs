//! A key's own limits, what is used of them, and how that is forgotten.

use std::sync::atomic::Ordering;

use keygate_core::KeyId;
use keygate_core::limit::terms::Terms;
use keygate_core::limit::{Moment, policy::Over};
use keygate_store::keys::KeyStore;
use keygate_store::limits::Charge;
use serde_json::json;

use super::*;

/// Charges as the gateway does, with what it knows of the key now.
async fn charge(api: &Api, key: &str, cost: u64) -> Result<Charge, Over> {
    let id: KeyId = key.parse().unwrap();
    let digest = api.cache.store().key(id).await.unwrap().unwrap().digest;
    let record = api.cache.load(digest).await.unwrap().unwrap();
    let config = config();
    let tier = record.tier.as_deref().and_then(|tier| config.tier(tier));
    let terms = Terms::of(tier, record.overrides()).unwrap();
    let now: Moment = api.limiter.moment(quanta::Instant::now(), NOW);
    let mut charge = api.limiter.charge(&record, &terms, cost, now).await?;
    charge.keep();
    Ok(charge)
}

async fn current_use(api: &Api, key: &str) -> Value {
    api.get(&format!("/v1/keys/{key}")).await.json()["current_use"].clone()
}

/// What is used of each policy, by name.
async fn used(api: &Api, key: &str) -> Value {
    let uses = current_use(api, key).await;
    let uses = uses.as_array().unwrap().iter();
    uses.map(|one| (one["policy"].as_str().unwrap().to_owned(), one["used"].clone())).collect()
}

fn no_problem<T>(result: Result<T, Over>) -> T {
    result.unwrap_or_else(|over| panic!("{over:?}"))
}

#[tokio::test]
async fn a_keys_own_limits_are_shown_as_they_were_given() {
    let api = Api::start().await;
    let app = api.app().await;
    let given = json!({
        "rate": "100/s", "burst": 50, "quotas": ["20000/month", "1000/d"], "concurrency": 5,
    });
    let shown = json!({
        "rate": "100/second", "burst": 50, "quotas": ["1000/day", "20000/month"], "concurrency": 5,
    });
    let created = api.key(&app, json!({ "limits": given })).await;
    assert_eq!(created["limits"], shown);
    let path = format!("/v1/keys/{}", id(&created));
    assert_eq!(api.get(&path).await.json()["limits"], shown);
    assert_eq!(api.get(&format!("/v1/apps/{app}/keys")).await.json()["items"][0]["limits"], shown);
    // As with every field that is not a list of its own, what is left out stays.
    assert_eq!(api.patch(&path, json!({ "name": "n" })).await.json()["limits"], shown);
    assert!(api.patch(&path, json!({ "limits": null })).await.json()["limits"].is_null());
}

#[tokio::test]
async fn a_change_of_limits_is_merged_into_those_that_the_key_has() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    for (change, limits) in [
        // rate, burst, quotas, concurrency
        (json!({}), json!(null)),
        (json!({ "concurrency": 3 }), json!([null, null, null, 3])),
        (json!({ "quotas": ["9/day"] }), json!([null, null, ["9/day"], 3])),
        (json!({ "rate": "100/s", "burst": 5 }), json!(["100/second", 5, ["9/day"], 3])),
        (json!({}), json!(["100/second", 5, ["9/day"], 3])),
        (json!({ "burst": 7 }), json!(["100/second", 7, ["9/day"], 3])),
        (json!({ "rate": "20/s" }), json!(["20/second", 20, ["9/day"], 3])),
        (json!({ "burst": 6 }), json!(["20/second", 6, ["9/day"], 3])),
        (json!({ "burst": null }), json!(["20/second", 20, ["9/day"], 3])),
        (json!({ "rate": "2/minute", "burst": null }), json!(["2/minute", 1, ["9/day"], 3])),
        (json!({ "quotas": [] }), json!(["2/minute", 1, [], 3])),
        (json!({ "quotas": null, "rate": null }), json!([null, null, null, 3])),
        (json!({ "concurrency": null }), json!(null)),
    ] {
        let answer = api.patch(&path, json!({ "limits": change })).await;
        assert_eq!(answer.status, 200, "{change}: {}", answer.text);
        let shown = answer.json()["limits"].clone();
        assert_eq!(shown.is_null(), limits.is_null(), "{change}");
        for (place, part) in ["rate", "burst", "quotas", "concurrency"].iter().enumerate() {
            assert_eq!(shown[part], limits[place], "{part} after {change}");
        }
    }
    api.patch(&path, json!({ "limits": { "rate": "1/s" } })).await;
    let no_rate = api.patch(&path, json!({ "limits": { "rate": null, "burst": 5 } })).await;
    assert_problem(&no_rate, 422, "invalid_field");
    assert_eq!(no_rate.json()["field"], "limits.burst");
    let long = api.patch(&path, json!({ "limits": { "burst": 1_000_000_000 } })).await;
    assert_problem(&long, 422, "invalid_field");
}

#[tokio::test]
async fn a_key_whose_tier_is_shared_has_no_limits_of_its_own() {
    let api = Api::start().await;
    let (plain, shared) = (api.app().await, api.app_with(json!({ "tier": "team" })).await);
    let limits = json!({ "concurrency": 3 });
    let assert_refused = |answer: &Answer| {
        let detail = assert_problem(answer, 422, "invalid_field");
        assert!(detail.contains("tier `team` shares its limits"), "{detail}");
        assert_eq!(answer.json()["field"], "limits");
    };
    for (app, tier) in [(&plain, json!("team")), (&shared, json!(null))] {
        let new = json!({ "scopes": ["read:orders"], "tier": tier, "limits": limits });
        assert_refused(&api.post(&format!("/v1/apps/{app}/keys"), new).await);
        let path = format!("/v1/keys/{}", id(&api.key(app, json!({ "tier": tier })).await));
        assert_refused(&api.patch(&path, json!({ "limits": limits })).await);
        assert!(api.get(&path).await.json()["limits"].is_null());
        assert_eq!(api.patch(&path, json!({ "limits": {}, "name": "n" })).await.status, 200);
    }
    let path = format!("/v1/keys/{}", id(&api.key(&plain, json!({ "limits": limits })).await));
    assert_refused(&api.patch(&path, json!({ "tier": "team" })).await);
    let moved = api.patch(&path, json!({ "tier": "team", "limits": null })).await;
    assert_eq!((moved.status, &moved.json()["tier"]), (200, &json!("team")));
}

#[tokio::test]
async fn a_key_whose_tier_came_to_be_shared_can_be_changed_but_not_in_its_limits() {
    let api = Api::start().await;
    let app = api.app().await;
    let limits = json!({ "concurrency": 3 });
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({ "limits": limits })).await));
    assert_eq!(api.patch(&format!("/v1/apps/{app}"), json!({ "tier": "team" })).await.status, 200);
    assert_eq!(api.patch(&path, json!({ "name": "n" })).await.status, 200);
    let answer = api.patch(&path, json!({ "limits": { "concurrency": 4 } })).await;
    assert_problem(&answer, 422, "invalid_field");
    assert_eq!(api.patch(&path, json!({ "limits": null })).await.status, 200);
}

#[tokio::test]
async fn two_operators_who_change_different_limits_lose_neither_change() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    for _ in 0..20 {
        api.patch(&path, json!({ "limits": null })).await;
        let (one, other) = tokio::join!(
            api.patch(&path, json!({ "limits": { "concurrency": 3 } })),
            api.patch(&path, json!({ "limits": { "quotas": ["9/day"] } })),
        );
        assert_eq!((one.status, other.status), (200, 200));
        let limits = api.get(&path).await.json()["limits"].clone();
        assert_eq!((&limits["concurrency"], &limits["quotas"]), (&json!(3), &json!(["9/day"])));
    }
}

#[tokio::test]
async fn limits_out_of_bounds_are_refused_and_say_which() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    for (limits, field, says) in [
        (json!({ "rate": "fast" }), "limits.rate", "100/s"),
        (json!({ "rate": "0/s" }), "limits.rate", "100/s"),
        (json!({ "rate": "1000000001/day" }), "limits.rate", "at most 1000000000"),
        (json!({ "rate": "1/month", "burst": 122 }), "limits.burst", "ten years"),
        (json!({ "rate": "1/s", "burst": 0 }), "limits.burst", "1 to 1000000000"),
        (json!({ "rate": "1/s", "burst": 1_000_000_001 }), "limits.burst", "1 to 1000000000"),
        (json!({ "burst": 5 }), "limits.burst", "`rate`"),
        (json!({ "quotas": ["5/week"] }), "limits.quotas", "month"),
        (json!({ "quotas": ["5/day", "6/d"] }), "limits.quotas", "once"),
        (json!({ "quotas": ["1000000000001/day"] }), "limits.quotas", "1000000000000"),
        (json!({ "concurrency": 0 }), "limits.concurrency", "1 to 1000000"),
        (json!({ "concurrency": 1_000_001 }), "limits.concurrency", "1 to 1000000"),
    ] {
        let new = json!({ "scopes": ["read:orders"], "limits": limits });
        let create = api.post(&format!("/v1/apps/{app}/keys"), new).await;
        let change = api.patch(&path, json!({ "limits": limits })).await;
        for answer in [create, change] {
            let detail = assert_problem(&answer, 422, "invalid_field");
            assert_eq!(answer.json()["field"], field, "{limits}");
            assert!(detail.contains(says), "{limits}: {detail}");
        }
    }
    for limits in [
        json!("100/s"),
        json!({ "burst": -1 }),
        json!({ "concurrency": 1.5 }),
        json!({ "quotas": "1/day" }),
        json!({ "speed": 1 }),
    ] {
        let answer = api.patch(&path, json!({ "limits": limits })).await;
        assert_problem(&answer, 400, "bad_request");
    }
    assert!(api.get(&path).await.json()["limits"].is_null());
}

#[tokio::test]
async fn current_use_says_what_is_used_of_every_limit() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({ "tier": "team" })).await);
    let _running = no_problem(charge(&api, &key, 1).await);
    drop(no_problem(charge(&api, &key, 4).await));
    let uses = current_use(&api, &key).await;
    let names: Vec<&Value> = uses.as_array().unwrap().iter().map(|one| &one["policy"]).collect();
    assert_eq!(names, ["concurrency", "rate", "day"]);
    let concurrency = json!({
        "policy": "concurrency", "limit": 5, "remaining": 4, "used": 1,
        "window_s": null, "resets_in_s": null,
    });
    assert_eq!(uses[0], concurrency);
    let rate = &uses[1];
    assert_eq!((&rate["limit"], &rate["remaining"]), (&json!(10), &json!(5)));
    assert_eq!((&rate["used"], &rate["window_s"]), (&json!(5), &json!(36_000)));
    let resets_in_s = rate["resets_in_s"].as_f64().unwrap();
    assert!((17_000.0..=18_000.0).contains(&resets_in_s), "{resets_in_s}");
    let day = json!({
        "policy": "day", "limit": 1_000, "remaining": 995, "used": 5,
        "window_s": 86_400, "resets_in_s": 86_400,
    });
    assert_eq!(uses[2], day);
}

#[tokio::test]
async fn a_key_without_limits_uses_none_and_only_it_is_asked_about() {
    let api = Api::start().await;
    let app = api.app().await;
    let created = api.key(&app, json!({})).await;
    assert!(created.get("current_use").is_none());
    let key = id(&created);
    assert_eq!(current_use(&api, &key).await, json!([]));
    let list = api.get(&format!("/v1/apps/{app}/keys")).await.json();
    assert!(list["items"][0].get("current_use").is_none());
    let limited = api.app_with(json!({ "tier": "team" })).await;
    let key = id(&api.key(&limited, json!({})).await);
    assert_eq!(used(&api, &key).await, json!({ "concurrency": 0, "rate": 0, "day": 0 }));
}

#[tokio::test]
async fn a_record_is_shown_though_nobody_can_tell_what_is_used() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "tier": "team" })).await;
    let key = id(&api.key(&app, json!({})).await);
    api.cache.store().apps_down.store(true, Ordering::SeqCst);
    let shown = api.get(&format!("/v1/keys/{key}")).await;
    assert_eq!((shown.status, &shown.json()["status"]), (200, &json!("active")));
    assert_eq!(shown.json().get("current_use"), Some(&Value::Null));
}

#[tokio::test]
async fn a_change_of_limits_forgets_nothing_of_what_was_used() {
    let api = Api::start().await;
    let app = api.app().await;
    let limits = json!({ "rate": "1/hour", "burst": 10, "quotas": ["10/day"] });
    let key = id(&api.key(&app, json!({ "limits": limits })).await);
    drop(no_problem(charge(&api, &key, 4).await));
    let path = format!("/v1/keys/{key}");
    let tighter = json!({ "rate": "1/hour", "burst": 6, "quotas": ["5/day"] });
    api.patch(&path, json!({ "limits": tighter })).await;
    assert_eq!(used(&api, &key).await, json!({ "rate": 4, "day": 4 }));
    assert!(charge(&api, &key, 2).await.is_err());
    drop(no_problem(charge(&api, &key, 1).await));
    api.patch(&path, json!({ "limits": { "rate": null, "quotas": ["100/day"] } })).await;
    assert_eq!(used(&api, &key).await, json!({ "day": 5 }));
}

#[tokio::test]
async fn a_reset_gives_everything_back_but_what_runs_and_is_in_the_log() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({ "tier": "team" })).await);
    let _running = no_problem(charge(&api, &key, 10).await);
    assert!(charge(&api, &key, 1).await.is_err());
    let path = format!("/v1/keys/{key}");
    let before = api.get(&path).await.json();
    let reset = format!("{path}/limits/reset");
    let answer = api.post(&reset, json!({ "reason": "a false alarm" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json(), api.get(&path).await.json());
    assert_eq!(used(&api, &key).await, json!({ "concurrency": 1, "rate": 0, "day": 0 }));
    assert_eq!(answer.json()["updated_at"], before["updated_at"], "the record is as it was");
    drop(no_problem(charge(&api, &key, 10).await));
    let log = api.get("/v1/audit?tail=1").await.json()["items"][0].clone();
    assert_eq!([&log["action"], &log["subject"]], ["key.limits.reset", key.as_str()]);
    assert_eq!((&log["reason"], &log["hint"]), (&json!("a false alarm"), &before["hint"]));
    // The reason may be left out, and so may the body.
    assert_eq!(api.call("POST", &reset, None).await.status, 200);
    assert_problem(&api.post(&reset, json!({ "why": 1 })).await, 400, "bad_request");
}

#[tokio::test]
async fn a_reset_is_for_all_who_share_the_limits() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "tier": "team" })).await;
    let (one, other) = (id(&api.key(&app, json!({})).await), id(&api.key(&app, json!({})).await));
    drop(no_problem(charge(&api, &one, 6).await));
    drop(no_problem(charge(&api, &other, 4).await));
    assert!(charge(&api, &other, 1).await.is_err());
    api.post(&format!("/v1/keys/{one}/limits/reset"), json!({})).await;
    for key in [&one, &other] {
        assert_eq!(used(&api, key).await, json!({ "concurrency": 0, "rate": 0, "day": 0 }));
    }
    drop(no_problem(charge(&api, &other, 10).await));
}

#[tokio::test]
async fn what_is_not_there_or_revoked_is_not_reset() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({})).await);
    let path = format!("/v1/keys/{key}/limits/reset");
    let detail = assert_problem(&api.post(&path, json!({})).await, 409, "no_limits");
    assert!(detail.contains("tier"), "{detail}");
    api.post(&format!("/v1/keys/{key}/revoke"), json!({})).await;
    assert_problem(&api.post(&path, json!({})).await, 409, "key_revoked");
    let nobody = "/v1/keys/key_01ARZ3NDEKTSV4RRFFQ69G5FAV/limits/reset";
    assert_problem(&api.post(nobody, json!({})).await, 404, "not_found");
    let actions = api.actions().await;
    assert!(actions.iter().all(|one| one != "key.limits.reset"), "{actions:?}");
}

#[tokio::test]
async fn nothing_is_reset_that_the_log_does_not_hold_for_good() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = id(&api.key(&app, json!({ "tier": "team" })).await);
    drop(no_problem(charge(&api, &key, 3).await));
    let path = format!("/v1/keys/{key}/limits/reset");
    api.cache.store().no_replica.store(true, Ordering::SeqCst);
    assert_problem(&api.post(&path, json!({})).await, 503, "not_durable");
    assert_eq!(used(&api, &key).await["rate"], 3);
    api.cache.store().no_replica.store(false, Ordering::SeqCst);
    assert_eq!(api.post(&path, json!({})).await.status, 200);
    assert_eq!(used(&api, &key).await["rate"], 0);
}
