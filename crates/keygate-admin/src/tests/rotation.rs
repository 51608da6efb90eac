//! A new key in the place of an old one.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;

const HOUR_MS: u64 = 3_600_000;

async fn is_valid(api: &Api, key: &Value) -> bool {
    let verdict = api.post("/v1/keys/verify", json!({ "key": key["key"] })).await;
    verdict.json()["valid"].as_bool().unwrap()
}

async fn rotate(api: &Api, key: &str, body: Value) -> Answer {
    api.call_with("POST", &format!("/v1/keys/{key}/rotate"), &[], body).await
}

#[tokio::test]
async fn the_successor_has_all_that_the_key_had_and_each_names_the_other() {
    let api = Api::start().await;
    let app = api.app().await;
    let old = api
        .key(
            &app,
            json!({
                "kind": "pk", "name": "shop", "owner": "team web", "purpose": "checkout",
                "tier": "free", "limits": { "rate": "5/s" }, "allowed_cidrs": ["192.0.2.0/24"],
                "allowed_origins": ["https://shop.example"], "metadata": { "a": "b" },
                "ttl": "30d",
            }),
        )
        .await;
    let later = api.at(|| UnixMillis(NOW.0 + 10 * DAY_MS)).await;
    let answer = rotate(&later, &id(&old), json!({})).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let new = answer.json();
    assert_eq!(answer.header("location"), format!("/v1/keys/{}", id(&new)));
    let mut expected = old.clone();
    for (member, value) in [
        ("id", new["id"].clone()),
        ("key", new["key"].clone()),
        ("hint", new["hint"].clone()),
        ("rotated_from", old["id"].clone()),
        // As long as the old one was made for, from now on.
        ("expires_at", json!("2030-02-10T00:00:00Z")),
        ("created_at", json!("2030-01-11T00:00:00Z")),
        ("updated_at", json!("2030-01-11T00:00:00Z")),
    ] {
        expected[member] = value;
    }
    assert_eq!(new, expected);
    assert_ne!(new["key"], old["key"]);
    let shown = later.get(&format!("/v1/keys/{}", id(&old))).await.json();
    assert_eq!([&shown["rotated_to"], &shown["status"]], [&new["id"], &json!("active")]);
    assert_eq!(shown["expires_at"], "2030-01-12T00:00:00Z", "a day, if nothing else is said");
    let audit = later.get("/v1/audit?limit=200").await.json();
    let entry = audit["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!([&entry["action"], &entry["subject"]], [&json!("key.rotate"), &old["id"]]);
    assert!(api.metrics.render().contains("\nkeygate_keys_rotated_total 1\n"));
}

#[tokio::test]
async fn the_old_key_works_until_the_overlap_ends_and_the_new_one_at_once() {
    let api = Api::start().await;
    let old = api.key(&api.app().await, json!({})).await;
    let new = rotate(&api, &id(&old), json!({ "overlap": "2h" })).await.json();
    assert!(new["expires_at"].is_null());
    assert!(is_valid(&api, &old).await && is_valid(&api, &new).await);
    let just_before = api.at(|| UnixMillis(NOW.0 + 2 * HOUR_MS - 1)).await;
    assert!(is_valid(&just_before, &old).await);
    let then = api.at(|| UnixMillis(NOW.0 + 2 * HOUR_MS)).await;
    assert!(!is_valid(&then, &old).await && is_valid(&then, &new).await);
    let shown = then.get(&format!("/v1/keys/{}", id(&old))).await.json();
    assert_eq!(shown["status"], "expired");
}

#[tokio::test]
async fn without_an_overlap_the_old_key_ends_at_once() {
    let api = Api::start().await;
    let old = api.key(&api.app().await, json!({})).await;
    let new = rotate(&api, &id(&old), json!({ "overlap": "0s" })).await.json();
    assert!(!is_valid(&api, &old).await && is_valid(&api, &new).await);
}

#[tokio::test]
async fn an_overlap_never_lengthens_a_life() {
    let api = Api::start().await;
    let old = api.key(&api.app().await, json!({ "ttl": "1h" })).await;
    let new = rotate(&api, &id(&old), json!({ "overlap": "90d" })).await.json();
    let shown = api.get(&format!("/v1/keys/{}", id(&old))).await.json();
    assert_eq!(shown["expires_at"], old["expires_at"]);
    assert_eq!(new["expires_at"], old["expires_at"], "an hour from now too");
}

#[tokio::test]
async fn only_an_active_key_without_a_successor_is_rotated() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    let path = format!("/v1/keys/{}", id(&key));
    api.patch(&path, json!({ "status": "disabled" })).await;
    let disabled = rotate(&api, &id(&key), json!({})).await;
    assert!(assert_problem(&disabled, 409, "key_not_active").contains("disabled"));
    api.patch(&path, json!({ "status": "active" })).await;
    let new = rotate(&api, &id(&key), json!({})).await.json();
    let again = rotate(&api, &id(&key), json!({})).await;
    assert!(assert_problem(&again, 409, "key_rotated").contains(&id(&new)));
    assert_eq!(again.json()["rotated_to"], new["id"]);
    api.post(&format!("{path}/revoke"), json!({})).await;
    assert_problem(&rotate(&api, &id(&key), json!({})).await, 409, "key_revoked");
    let short = api.key(&app, json!({ "ttl": "1h" })).await;
    let later = api.at(|| UnixMillis(NOW.0 + HOUR_MS)).await;
    let expired = rotate(&later, &id(&short), json!({})).await;
    assert!(assert_problem(&expired, 409, "key_not_active").contains("expired"));
    let third = rotate(&api, &id(&new), json!({})).await;
    assert_eq!((third.status, &third.json()["rotated_from"]), (201, &new["id"]));
}

#[tokio::test]
async fn the_end_of_a_key_that_has_a_successor_only_comes_nearer() {
    let api = Api::start().await;
    let old = id(&api.key(&api.app().await, json!({})).await);
    rotate(&api, &old, json!({ "overlap": "2h" })).await;
    let path = format!("/v1/keys/{old}");
    for later in [json!("2030-01-01T02:00:00.001Z"), json!("2031-01-01T00:00:00Z"), Value::Null] {
        let answer = api.patch(&path, json!({ "expires_at": later })).await;
        assert_problem(&answer, 422, "invalid_field");
        assert_eq!(answer.json()["field"], "expires_at");
    }
    let earlier = api.patch(&path, json!({ "expires_at": "2030-01-01T01:00:00Z" })).await;
    assert_eq!(earlier.json()["expires_at"], "2030-01-01T01:00:00Z");
    let same = api.patch(&path, json!({ "name": "old", "status": "disabled" })).await;
    assert_eq!(same.status, 200, "all else may change");
}

#[tokio::test]
async fn a_key_in_its_overlap_does_not_count_against_the_cap() {
    let api = Api::start().await;
    let app = api.app().await;
    let mut newest = Vec::new();
    for _ in 0..5 {
        newest.push(id(&api.key(&app, json!({})).await));
    }
    for key in &newest {
        assert_eq!(rotate(&api, key, json!({})).await.status, 201);
    }
    let path = format!("/v1/apps/{app}/keys");
    let sixth = api.post(&path, json!({ "scopes": [] })).await;
    assert_problem(&sixth, 422, "too_many_live_keys");
}

/// There are more than there may be where the cap was lowered, or keys were imported.
#[tokio::test]
async fn a_key_of_an_app_that_has_too_many_can_be_rotated() {
    use keygate_core::{KeyDigest, KeyId};
    use keygate_store::keys::{KeyStore, StoredRecord};
    use keygate_store::records::Key;
    let api = Api::start().await;
    let app = api.app().await;
    let first = id(&api.key(&app, json!({})).await);
    let store = api.cache.store();
    let one = store.key(first.parse().unwrap()).await.unwrap().unwrap();
    let imported = (1..=6).map(|n| {
        let digest = KeyDigest::of_imported(&sha256(&[n]));
        StoredRecord::Key(Key { id: KeyId::new(NOW, [n; 10]), digest, pepper: None, ..one.clone() })
    });
    store.import(imported.collect(), search::imported()).await.unwrap();
    let full = api.post(&format!("/v1/apps/{app}/keys"), json!({ "scopes": [] })).await;
    let detail = assert_problem(&full, 422, "too_many_live_keys");
    assert!(detail.contains("has 7 live keys; the most is 5. Revoke 3 first"), "{detail}");
    let new = rotate(&api, &first, json!({})).await;
    assert_eq!(new.status, 201, "{}", new.text);
    store.no_replica.store(true, Ordering::SeqCst);
    assert_problem(&rotate(&api, &id(&new.json()), json!({})).await, 503, "not_durable");
    store.no_replica.store(false, Ordering::SeqCst);
    assert!(is_valid(&api, &new.json()).await);
    let shown = api.get(&format!("/v1/keys/{}", id(&new.json()))).await.json();
    assert_eq!([&shown["rotated_to"], &shown["expires_at"]], [&Value::Null, &Value::Null]);
}

#[tokio::test]
async fn of_two_rotations_at_one_time_one_is_made() {
    let api = Api::start().await;
    let app = api.app().await;
    for _ in 0..4 {
        let old = id(&api.key(&app, json!({})).await);
        let (one, other) =
            tokio::join!(rotate(&api, &old, json!({})), rotate(&api, &old, json!({})));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{} {}", one.text, other.text);
    }
}

#[tokio::test]
async fn a_rotation_that_may_be_lost_leaves_the_old_key_as_it_was() {
    let api = Api::start().await;
    let app = api.app().await;
    let mut old = api.key(&app, json!({ "ttl": "30d" })).await;
    for _ in 0..4 {
        api.key(&app, json!({})).await;
    }
    api.cache.store().no_replica.store(true, Ordering::SeqCst);
    let answer = rotate(&api, &id(&old), json!({ "overlap": "0s" })).await;
    assert_problem(&answer, 503, "not_durable");
    api.cache.store().no_replica.store(false, Ordering::SeqCst);
    assert!(is_valid(&api, &old).await);
    let mut shown = api.get(&format!("/v1/keys/{}", id(&old))).await.json();
    shown.as_object_mut().unwrap().remove("current_use");
    for member in ["key", "replayed"] {
        old.as_object_mut().unwrap().remove(member);
    }
    assert_eq!(shown, old);
    let keys = api.get(&format!("/v1/apps/{app}/keys?status=revoked")).await.json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 1, "its successor");
    assert_eq!(rotate(&api, &id(&old), json!({})).await.status, 201);
}

#[tokio::test]
async fn an_end_that_was_set_meanwhile_outlives_a_rotation_that_may_be_lost() {
    let api = Api::start().await;
    let old = id(&api.key(&api.app().await, json!({})).await);
    let store = api.cache.store();
    store.no_replica.store(true, Ordering::SeqCst);
    *store.shortens.lock().unwrap() = Some(UnixMillis(NOW.0 + HOUR_MS));
    assert_problem(&rotate(&api, &old, json!({})).await, 503, "not_durable");
    store.no_replica.store(false, Ordering::SeqCst);
    let shown = api.get(&format!("/v1/keys/{old}")).await.json();
    assert_eq!(
        [&shown["rotated_to"], &shown["expires_at"]],
        [&Value::Null, &json!("2030-01-01T01:00:00Z")]
    );
}

#[tokio::test]
async fn a_rotation_that_may_be_lost_is_undone_even_if_its_caller_goes_away() {
    let api = Api::start().await;
    let old = id(&api.key(&api.app().await, json!({})).await);
    let store = api.cache.store();
    store.no_replica.store(true, Ordering::SeqCst);
    let record = async || store.key(old.parse().unwrap()).await.unwrap().unwrap();
    let is_rotated = async {
        while record().await.rotated_to.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = is_rotated => {}
        _ = rotate(&api, &old, json!({ "overlap": "0s" })) => {}
    }
    while record().await.rotated_to.is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(record().await.expires_at, None);
}

/// The way off another system's keys.
#[tokio::test]
async fn the_successor_of_an_imported_key_is_one_of_ours() {
    use keygate_core::{KeyDigest, KeyId};
    use keygate_store::keys::{KeyStore, StoredRecord};
    use keygate_store::records::Key;
    let api = Api::start().await;
    let app = api.app().await;
    let store = api.cache.store();
    let ours = api.key(&app, json!({})).await;
    let ours = store.key(id(&ours).parse().unwrap()).await.unwrap().unwrap();
    let old = KeyId::new(NOW, [3; 10]);
    let digest = KeyDigest::of_imported(&sha256(b"legacy"));
    let imported = Key { id: old, digest, pepper: None, hint: "legac".into(), ..ours };
    store.import(vec![StoredRecord::Key(imported)], search::imported()).await.unwrap();
    let found = api.get("/v1/keys?imported=true").await.json();
    assert_eq!(found["items"][0]["id"], old.to_string());
    assert_eq!(api.registry(|| NOW).census().await.unwrap().imported, 1);
    let new = rotate(&api, &old.to_string(), json!({})).await.json();
    assert_eq!([&new["imported"], &new["rotated_from"]], [&json!(false), &json!(old.to_string())]);
    assert!(new["key"].as_str().unwrap().starts_with("sk_live_"));
    assert!(is_valid(&api, &new).await);
}

#[tokio::test]
async fn usage_says_when_a_key_was_last_used() {
    let nothing = json!({ "requests": 0, "cost": 0, "bytes_in": 0, "bytes_out": 0, "refused": {} });
    let api = Api::start().await;
    let old = id(&api.key(&api.app().await, json!({})).await);
    let new = id(&rotate(&api, &old, json!({})).await.json());
    let path = format!("/v1/keys/{old}/usage");
    let expected = json!({
        "key_id": old, "last_used_at": null, "last_used_from": null, "last_used_route": null, "today": nothing, "this_month": nothing, "idle_s": null, "as_of": "2030-01-01T00:00:00Z",
        "rotated_from": null, "rotated_to": new,
    });
    assert_eq!(api.get(&path).await.json(), expected);
    api.mark_used(&[(old.parse().unwrap(), NOW)]).await;
    let later = api.at(|| UnixMillis(NOW.0 + 90_999)).await.get(&path).await.json();
    let expected = json!({
        "key_id": old, "last_used_at": "2030-01-01T00:00:00Z", "last_used_from": null, "last_used_route": null, "today": nothing, "this_month": nothing, "idle_s": 90,
        "as_of": "2030-01-01T00:01:30.999Z", "rotated_from": null, "rotated_to": new,
    });
    assert_eq!(later, expected);
    let unknown = api.get("/v1/keys/key_01ARZ3NDEKTSV4RRFFQ69G5FAV/usage").await;
    assert_problem(&unknown, 404, "not_found");
    api.cache.store().down.store(true, Ordering::SeqCst);
    assert_problem(&api.get(&path).await, 503, "store_unavailable");
}
