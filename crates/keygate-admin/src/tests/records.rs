//! Accounts, apps, lists and the audit log.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

#[tokio::test]
async fn an_account_is_made_shown_and_changed() {
    let api = Api::start().await;
    let body = json!({ "name": "Acme", "metadata": { "plan": "gold" } });
    let created = api.post("/v1/accounts", body).await;
    assert_eq!(created.status, 201);
    let mut account = created.json();
    assert_eq!(account.as_object_mut().unwrap().remove("replayed"), Some(json!(false)));
    assert_eq!(
        account,
        json!({
            "id": account["id"], "name": "Acme", "owner": null, "purpose": null,
            "status": "active", "metadata": { "plan": "gold" },
            "created_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z",
        })
    );
    assert_eq!(created.header("location"), format!("/v1/accounts/{}", id(&account)));
    let path = format!("/v1/accounts/{}", id(&account));
    assert_eq!(api.get(&path).await.json(), account);
    let later = api.at(|| UnixMillis(NOW.0 + 1_500)).await;
    let change = json!({
        "name": "Acme Ltd", "owner": "billing@acme.example", "purpose": "resale",
        "status": "suspended", "metadata": {},
    });
    let changed = later.patch(&path, change).await;
    assert_eq!(changed.status, 200);
    let expected = json!({
        "id": account["id"], "name": "Acme Ltd", "owner": "billing@acme.example",
        "purpose": "resale", "status": "suspended", "metadata": {},
        "created_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:01.5Z",
    });
    assert_eq!(changed.json(), expected);
    assert_eq!(api.get(&path).await.json(), expected);
    let back = json!({ "status": "active", "owner": null });
    let back = api.patch(&path, back).await.json();
    assert_eq!([&back["status"], &back["purpose"]], ["active", "resale"]);
    assert!(back["owner"].is_null());
    let actions = ["account.create", "account.suspend", "account.activate"];
    assert_eq!(api.actions().await, actions);
}

#[tokio::test]
async fn an_app_is_made_shown_and_changed() {
    let api = Api::start().await;
    let account = api.account().await;
    let body = json!({
        "name": "web", "owner": "team web", "purpose": "the shop", "environment": "test",
        "granted_scopes": ["read:orders", "admin:*"], "max_age": "2160h",
        "tier": "free", "allowed_cidrs": ["203.0.113.7", "2001:db8::/32"], "metadata": { "a": "b" },
    });
    let created = api.post(&format!("/v1/accounts/{account}/apps"), body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let mut app = created.json();
    assert_eq!(app.as_object_mut().unwrap().remove("replayed"), Some(json!(false)));
    let expected = json!({
        "id": app["id"], "account_id": account, "name": "web", "owner": "team web",
        "purpose": "the shop", "environment": "test",
        "granted_scopes": ["read:orders", "admin:*"], "tier": "free", "max_age": "90d",
        "allowed_cidrs": ["203.0.113.7/32", "2001:db8::/32"], "status": "active",
        "metadata": { "a": "b" },
        "created_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z",
    });
    assert_eq!(app, expected);
    let path = format!("/v1/apps/{}", id(&app));
    assert_eq!(api.get(&path).await.json(), app);
    let change = json!({
        "name": "shop", "owner": null, "purpose": null, "max_age": null,
        "granted_scopes": ["read:orders"], "tier": null, "allowed_cidrs": [],
        "status": "disabled", "metadata": {},
    });
    let changed = api.patch(&path, change).await.json();
    assert_eq!(changed["environment"], "test");
    assert_eq!([&changed["name"], &changed["status"]], ["shop", "disabled"]);
    for taken_away in ["tier", "owner", "purpose", "max_age"] {
        assert!(changed[taken_away].is_null(), "{taken_away}");
    }
    assert_eq!(changed["allowed_cidrs"], json!([]));
    assert_eq!(changed["granted_scopes"], json!(["read:orders"]));
    assert_eq!(api.get(&path).await.json(), changed);
    let enabled = api.patch(&path, json!({ "status": "active" })).await.json();
    assert_eq!(enabled["status"], "active");
    assert_eq!(enabled["name"], "shop", "what is not named stays");
    let actions = ["account.create", "app.create", "app.disable", "app.enable"];
    assert_eq!(api.actions().await, actions);
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_neither_written_nor_logged() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    let before = api.actions().await;
    for (path, change) in [
        (format!("/v1/apps/{app}"), json!({ "name": "web", "status": "active" })),
        (format!("/v1/apps/{app}"), json!({})),
        (format!("/v1/keys/{}", id(&key)), json!({ "status": "active", "tier": null })),
    ] {
        let answer = api.patch(&path, change).await;
        assert_eq!(
            (answer.status, answer.json()["updated_at"].clone()),
            (200, key["created_at"].clone())
        );
    }
    assert_eq!(api.actions().await, before);
}

#[tokio::test]
async fn what_does_not_exist_is_404_by_id_and_as_a_parent() {
    let api = Api::start().await;
    let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let app = json!({ "name": "a", "environment": "live", "granted_scopes": ["read:a"] });
    let key = json!({ "scopes": ["read:a"] });
    for id in [ulid, "0", "01arz3ndektsv4rrffq69g5fav", "%FF", "a%2Fb", "..%00"] {
        for (path, create) in [
            (format!("/v1/accounts/acct_{id}"), None),
            (format!("/v1/accounts/acct_{id}/apps"), Some(&app)),
            (format!("/v1/apps/app_{id}"), None),
            (format!("/v1/apps/app_{id}/keys"), Some(&key)),
            (format!("/v1/keys/key_{id}"), None),
            (format!("/v1/keys/acct_{id}"), None),
        ] {
            assert_problem(&api.get(&path).await, 404, "not_found");
            match create {
                Some(body) => {
                    assert_problem(&api.post(&path, body.clone()).await, 404, "not_found");
                }
                None => {
                    assert_problem(&api.patch(&path, json!({})).await, 404, "not_found");
                }
            }
        }
        let revoke = api.post(&format!("/v1/keys/key_{id}/revoke"), json!({})).await;
        assert_problem(&revoke, 404, "not_found");
    }
    assert!(api.actions().await.is_empty());
}

#[tokio::test]
async fn a_tier_must_be_in_the_configuration() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "tier": "free" })).await;
    let account = api.account().await;
    let new_app = json!({
        "name": "a", "environment": "live", "granted_scopes": ["read:a"], "tier": "gold",
    });
    let new_key = json!({ "scopes": ["read:orders"], "tier": "gold" });
    let key = id(&api.key(&app, json!({ "tier": "free" })).await);
    for answer in [
        api.post(&format!("/v1/accounts/{account}/apps"), new_app).await,
        api.patch(&format!("/v1/apps/{app}"), json!({ "tier": "gold" })).await,
        api.post(&format!("/v1/apps/{app}/keys"), new_key).await,
        api.patch(&format!("/v1/keys/{key}"), json!({ "tier": "gold" })).await,
    ] {
        assert!(assert_problem(&answer, 422, "unknown_tier").contains("free"));
    }
}

/// Follows `next` to the end; every part but the last is full.
async fn walk(api: &Api, path: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("{path}?limit={limit}{cursor}")).await.json();
        let items = part["items"].as_array().unwrap();
        all.extend(items.iter().cloned());
        let Some(next) = part["next"].as_str() else { return all };
        assert_eq!(items.len(), limit);
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn a_list_in_parts_is_the_whole_list_with_nothing_twice() {
    let api = Api::start().await;
    let account = api.account().await;
    let mut apps = BTreeSet::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let app = json!({ "name": name, "environment": "live", "granted_scopes": ["read:a"] });
        apps.insert(id(&api.post(&format!("/v1/accounts/{account}/apps"), app).await.json()));
    }
    let app = apps.first().unwrap().clone();
    let mut keys = BTreeSet::new();
    for _ in 0..4 {
        keys.insert(id(&api.key(&app, json!({ "scopes": ["read:a"] })).await));
    }
    for limit in [1, 2, 3, 6, 200] {
        let found = |items: Vec<Value>| items.iter().map(id).collect::<Vec<_>>();
        let path = format!("/v1/accounts/{account}/apps");
        assert_eq!(found(walk(&api, &path, limit).await), Vec::from_iter(apps.clone()));
        let path = format!("/v1/apps/{app}/keys");
        assert_eq!(found(walk(&api, &path, limit).await), Vec::from_iter(keys.clone()));
        assert_eq!(found(walk(&api, "/v1/accounts", limit).await), [account.as_str()]);
        let audit = walk(&api, "/v1/audit", limit).await;
        let numbers: Vec<u64> =
            audit.iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, Vec::from_iter(1..=11));
    }
    let empty = api.get("/v1/audit?cursor=11").await.json();
    assert_eq!(empty, json!({ "items": [], "next": null, "looked_from": null }));
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for query in
        ["limit=0", "limit=201", "limit=-1", "limit=x", "page=2", "cursor=x", "limit=1&limit=2"]
    {
        for path in ["/v1/accounts", "/v1/audit"] {
            let answer = api.get(&format!("{path}?{query}")).await;
            assert_problem(&answer, 400, "bad_request");
        }
    }
}

#[tokio::test]
async fn every_change_is_logged_with_who_what_from_where_and_why() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    let revoke = format!("/v1/keys/{}/revoke", id(&key));
    api.post(&revoke, json!({ "reason": "left on a train" })).await;
    let mut audit = api.get("/v1/audit").await.json();
    for entry in audit["items"].as_array_mut().unwrap() {
        let (hash, changes) = (entry["hash"].take(), entry["changes"].take());
        assert!(hash.as_str().is_some_and(|hash| hash.len() == 64) && changes.is_object());
    }
    let entry = |action: &str, subject: &Value, hint: &Value, reason: Value, number: u64| {
        json!({
            "number": number, "at": "2030-01-01T00:00:00Z", "actor": "token:bootstrap",
            "action": action, "subject": subject, "hint": hint, "from": "127.0.0.1",
            "reason": reason, "refused": null, "changes": null, "hash": null,
        })
    };
    let items = audit["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    assert_eq!(items[1], entry("app.create", &json!(app), &Value::Null, Value::Null, 2));
    assert_eq!(items[2], entry("key.create", &key["id"], &key["hint"], Value::Null, 3));
    let why = json!("left on a train");
    assert_eq!(items[3], entry("key.revoke", &key["id"], &key["hint"], why, 4));
}

#[tokio::test]
async fn the_newest_audit_entries_come_first_when_the_tail_is_asked_for() {
    let api = Api::start().await;
    let numbers = async |tail: usize| -> Vec<u64> {
        let list = api.get(&format!("/v1/audit?tail={tail}")).await.json();
        assert_eq!(list["next"], json!(null));
        let items = list["items"].as_array().unwrap().iter();
        items.map(|entry| entry["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(3).await, [0_u64; 0]);
    for count in 1..=9 {
        api.account().await;
        let newest: Vec<u64> = (1..=count).rev().take(3).collect();
        assert_eq!(numbers(3).await, newest);
    }
    assert_eq!(numbers(200).await.len(), 9);
    for wrong in ["tail=0", "tail=201", "tail=x", "tail=3&limit=2"] {
        assert_problem(&api.get(&format!("/v1/audit?{wrong}")).await, 400, "bad_request");
    }
}
