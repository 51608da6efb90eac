//! Keys: made once, shown once, changed, and revoked for good.

use keygate_core::key::{Environment, MintedKey};
use keygate_core::{KeyKind, Pepper};
use serde_json::json;

use super::*;
use crate::RegistryError;
use crate::registry::{Actor, NewKey};

#[tokio::test]
async fn a_key_is_shown_in_the_answer_that_makes_it_and_never_again() {
    let api = Api::start().await;
    let app = api.app().await;
    let created = api
        .key(
            &app,
            json!({
                "kind": "pk", "name": "browser", "scopes": ["read:orders", "read:orders"],
                "expires_at": "2031-01-01T01:00:00+01:00", "tier": "free",
                "allowed_cidrs": ["203.0.113.0/24"], "allowed_origins": ["https://Shop.example"],
                "metadata": { "team": "web" },
            }),
        )
        .await;
    let key = created["key"].as_str().unwrap();
    assert!(key.starts_with("pk_live_") && key.len() == 58);
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let mut expected = json!({
        "id": created["id"], "key": key, "hint": &key[..12], "app_id": app, "account_id": account,
        "kind": "pk", "environment": "live", "name": "browser", "owner": null, "purpose": null,
        "scopes": ["read:orders"], "replayed": false, "imported": false, "rotated_from": null,
        "rotated_to": null,
        "status": "active", "expires_at": "2031-01-01T00:00:00Z", "revoked_at": null,
        "revoke_reason": null, "tier": "free", "limits": null,
        "allowed_cidrs": ["203.0.113.0/24"],
        "allowed_origins": ["https://shop.example"], "metadata": { "team": "web" },
        "created_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z",
    });
    assert_eq!(created, expected);
    for member in ["key", "replayed"] {
        expected.as_object_mut().unwrap().remove(member);
    }
    let path = format!("/v1/keys/{}", id(&created));
    let mut shown = api.get(&path).await.json();
    assert_eq!(shown.as_object_mut().unwrap().remove("current_use").unwrap()[0]["policy"], "rate");
    assert_eq!(shown, expected);
    expected["last_used_at"] = Value::Null;
    let list = api.get(&format!("/v1/apps/{app}/keys")).await.json();
    assert_eq!(list, json!({ "items": [expected], "next": null }));
    api.patch(&path, json!({ "name": "new" })).await;
    api.post(&format!("{path}/revoke"), json!({})).await;
    api.get("/v1/audit").await;
}

#[tokio::test]
async fn a_key_has_its_apps_environment_and_defaults_to_secret() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "environment": "test" })).await;
    let path = format!("/v1/apps/{app}/keys");
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({ "scopes": ["read:orders"], "ttl": "30d" }).to_string();
    let answer = api.exchange("POST", &path, &headers, &body).await;
    let key = answer.json();
    assert!(key["key"].as_str().unwrap().starts_with("sk_test_"));
    assert_eq!(key["expires_at"], "2030-01-31T00:00:00Z");
    assert_eq!(answer.header("location"), format!("/v1/keys/{}", id(&key)));
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_key_cannot_have_more_than_its_app() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    let all = ["read:orders", "admin:orders", "read:*", "read:other"];
    let answer = api.post(&path, json!({ "scopes": all })).await;
    let detail = assert_problem(&answer, 422, "scope_not_granted");
    assert_eq!(answer.json()["scopes"], json!(["admin:orders", "read:*", "read:other"]));
    assert!(detail.contains("admin:orders, read:*, read:other"), "{detail}");
    let key = id(&api.key(&app, json!({})).await);
    let wider = api.patch(&format!("/v1/keys/{key}"), json!({ "scopes": ["read:other"] })).await;
    assert_problem(&wider, 422, "scope_not_granted");
    let admin = api.app_with(json!({ "granted_scopes": ["admin:orders"] })).await;
    api.key(&admin, json!({ "scopes": ["read:orders", "write:orders", "admin:orders"] })).await;
}

#[tokio::test]
async fn scopes_must_be_named() {
    let api = Api::start().await;
    let path = format!("/v1/apps/{}/keys", api.app().await);
    let none = api.post(&path, json!({})).await;
    assert!(assert_problem(&none, 400, "bad_request").contains("missing field `scopes`"));
    let empty = api.post(&path, json!({ "scopes": [] })).await;
    assert_eq!((empty.status, &empty.json()["scopes"]), (201, &json!([])));
}

#[tokio::test]
async fn an_app_has_at_most_its_live_keys_and_a_revoked_one_makes_room() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    let first = id(&api.key(&app, json!({})).await);
    let short = json!({ "ttl": "1d" });
    for more in [json!({}), json!({}), json!({}), short] {
        api.key(&app, more).await;
    }
    let new = json!({ "scopes": ["read:orders"] });
    let sixth = api.post(&path, new.clone()).await;
    let detail = assert_problem(&sixth, 422, "too_many_live_keys");
    assert!(detail.contains("5 live keys") && detail.contains("Revoke one"), "{detail}");
    api.post(&format!("/v1/keys/{first}/revoke"), json!({})).await;
    api.key(&app, json!({})).await;
    assert_problem(&api.post(&path, new).await, 422, "too_many_live_keys");
    let after_expiry = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    after_expiry.key(&app, json!({})).await;
}

#[tokio::test]
async fn an_end_is_given_once_and_lies_ahead() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}/keys");
    let key = format!("/v1/keys/{}", id(&api.key(&app, json!({ "ttl": "1h" })).await));
    for end in [
        json!({ "ttl": "30d", "expires_at": "2031-01-01T00:00:00Z" }),
        json!({ "ttl": "30" }),
        json!({ "ttl": "0s" }),
        json!({ "expires_at": "tomorrow" }),
        json!({ "expires_at": "2030-01-01T00:00:00Z" }),
    ] {
        let mut body = json!({ "scopes": ["read:orders"] });
        merge(&mut body, end);
        assert_problem(&api.post(&path, body).await, 422, "invalid_field");
    }
    let past = api.patch(&key, json!({ "expires_at": "2029-01-01T00:00:00Z" })).await;
    assert_problem(&past, 422, "invalid_field");
    let later = api.patch(&key, json!({ "expires_at": "2032-01-01T00:00:00Z" })).await.json();
    assert_eq!(later["expires_at"], "2032-01-01T00:00:00Z");
    assert!(api.patch(&key, json!({ "expires_at": null })).await.json()["expires_at"].is_null());
}

#[tokio::test]
async fn only_a_publishable_key_has_origins() {
    let api = Api::start().await;
    let app = api.app().await;
    let origins = json!(["https://shop.example"]);
    for kind in ["sk", "rk"] {
        let body = json!({ "kind": kind, "scopes": ["read:orders"], "allowed_origins": origins });
        let answer = api.post(&format!("/v1/apps/{app}/keys"), body).await;
        assert_problem(&answer, 422, "invalid_field");
        let key = id(&api.key(&app, json!({ "kind": kind })).await);
        let change = json!({ "allowed_origins": origins });
        let answer = api.patch(&format!("/v1/keys/{key}"), change).await;
        assert_problem(&answer, 422, "invalid_field");
    }
}

#[tokio::test]
async fn a_key_is_changed_switched_off_and_on() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({ "kind": "pk" })).await));
    let change = json!({
        "name": "web", "scopes": ["write:orders"], "tier": "free",
        "allowed_cidrs": ["10.0.0.0/8"], "allowed_origins": ["https://a.example"],
        "metadata": { "a": "b" }, "status": "disabled",
    });
    let changed = api.patch(&path, change.clone()).await.json();
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(changed[field], *value, "{field}");
    }
    let on = api.patch(&path, json!({ "status": "active", "name": null })).await.json();
    assert!(on["status"] == "active" && on["name"].is_null() && on["tier"] == "free");
    let actions = api.actions().await;
    assert_eq!(actions[2..], ["key.create", "key.disable", "key.enable"]);
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_whatever_is_asked() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    let revoked = api.post(&format!("{path}/revoke"), json!({ "reason": "leaked" })).await;
    assert_eq!(revoked.status, 200);
    let record = revoked.json();
    assert_eq!([&record["status"], &record["revoke_reason"]], ["revoked", "leaked"]);
    assert_eq!(record["revoked_at"], "2030-01-01T00:00:00Z");
    let later = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    let again = later.post(&format!("{path}/revoke"), json!({ "reason": "other" })).await;
    assert_eq!((again.status, again.json()), (200, record.clone()));
    for change in [json!({ "status": "active" }), json!({ "name": "x" }), json!({})] {
        assert_problem(&api.patch(&path, change).await, 409, "key_revoked");
    }
    let mut shown = api.get(&path).await.json();
    assert_eq!(shown.as_object_mut().unwrap().remove("current_use"), Some(json!([])));
    assert_eq!(shown, record);
    assert_eq!(api.actions().await.iter().filter(|one| *one == "key.revoke").count(), 1);
}

#[tokio::test]
async fn revoking_needs_no_body() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}/revoke", id(&api.key(&app, json!({})).await));
    let revoked = api.call("POST", &path, None).await;
    assert_eq!((revoked.status, revoked.json()["status"].clone()), (200, json!("revoked")));
}

#[tokio::test]
async fn status_says_expired_once_a_key_is() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({ "ttl": "1d" })).await));
    let just_before = api.at(|| UnixMillis(NOW.0 + DAY_MS - 1)).await;
    assert_eq!(just_before.get(&path).await.json()["status"], "active");
    let then = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    assert_eq!(then.get(&path).await.json()["status"], "expired");
    then.patch(&path, json!({ "status": "disabled" })).await;
    assert_eq!(then.get(&path).await.json()["status"], "disabled");
    then.post(&format!("{path}/revoke"), json!({})).await;
    assert_eq!(then.get(&path).await.json()["status"], "revoked");
}

#[tokio::test]
async fn a_change_gets_through_though_others_come_first() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    let conflicts = |count| api.cache.store().conflicts.store(count, Ordering::SeqCst);
    conflicts(3);
    assert_eq!(api.patch(&path, json!({ "name": "x" })).await.json()["name"], "x");
    conflicts(1_000);
    assert_problem(&api.patch(&path, json!({ "name": "y" })).await, 409, "conflict");
    assert_problem(&api.post(&format!("{path}/revoke"), json!({})).await, 409, "conflict");
    conflicts(0);
    assert_eq!(api.get(&path).await.json()["name"], "x");
}

#[tokio::test]
async fn changes_at_the_same_time_all_come_through() {
    let api = Api::start().await;
    let app = api.app().await;
    let path = format!("/v1/apps/{app}");
    let (name, tier, cidrs) = tokio::join!(
        api.patch(&path, json!({ "name": "new" })),
        api.patch(&path, json!({ "tier": "free" })),
        api.patch(&path, json!({ "allowed_cidrs": ["10.0.0.0/8"] })),
    );
    assert_eq!([name.status, tier.status, cidrs.status], [200; 3]);
    let app = api.get(&path).await.json();
    assert_eq!(
        [&app["name"], &app["tier"], &app["allowed_cidrs"][0]],
        ["new", "free", "10.0.0.0/8"]
    );
}

#[tokio::test]
async fn the_same_entropy_makes_the_same_key_and_only_once() {
    let api = Api::start().await;
    let app = api.app().await.parse().unwrap();
    let registry = api.registry(|| NOW);
    let by = Actor { name: "demo".into(), from: None, role: keygate_store::records::Role::Admin };
    let pepper = Pepper::new(&[9; 32]);
    let entropy = pepper.derive("demo");
    let new = NewKey {
        kind: KeyKind::Secret,
        name: None,
        owner: None,
        purpose: None,
        scopes: vec!["read:orders".parse().unwrap()],
        expires_at: None,
        tier: None,
        limits: None,
        allowed_cidrs: Vec::new(),
        allowed_origins: Vec::new(),
        metadata: Default::default(),
    };
    let made = registry.create_key_with_entropy(&by, app, new.clone(), None, &entropy).await;
    let made = made.unwrap_or_else(|error| panic!("{error}"));
    let same = MintedKey::mint(KeyKind::Secret, Environment::Live, None, &pepper, &entropy);
    assert!(made.record.digest == same.digest && *made.key.unwrap() == *same.reveal());
    let again = registry.create_key_with_entropy(&by, app, new, None, &entropy).await;
    assert!(matches!(again, Err(RegistryError::AlreadyExists)));
}
