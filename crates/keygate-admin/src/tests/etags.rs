//! Nobody overwrites what they have not seen.

use serde_json::json;

use super::*;

/// An account, an app and a key of it.
async fn records(api: &Api) -> [String; 3] {
    let app = api.app().await;
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let key = id(&api.key(&app, json!({})).await);
    [
        format!("/v1/accounts/{}", account.as_str().unwrap()),
        format!("/v1/apps/{app}"),
        format!("/v1/keys/{key}"),
    ]
}

#[tokio::test]
async fn every_answer_about_a_record_names_its_version_and_each_change_has_a_new_one() {
    let api = Api::start().await;
    for path in records(&api).await {
        let first = api.get(&path).await.header("etag").to_owned();
        assert!(first.starts_with('"') && first.ends_with('"') && first.len() > 2, "{first}");
        let changed = api.patch(&path, json!({ "name": "new" })).await.header("etag").to_owned();
        assert_ne!(changed, first);
        assert_eq!(api.get(&path).await.header("etag"), changed);
        let same = api.patch(&path, json!({ "name": "new" })).await.header("etag").to_owned();
        assert_eq!(same, changed, "nothing has changed");
    }
}

#[tokio::test]
async fn the_answer_that_makes_a_record_names_its_version() {
    let api = Api::start().await;
    let account = api.post("/v1/accounts", json!({ "name": "Acme" })).await;
    let account_path = format!("/v1/accounts/{}", id(&account.json()));
    let app = json!({ "name": "web", "granted_scopes": ["read:a"] });
    let app = api.post(&format!("{account_path}/apps"), app).await;
    let app_path = format!("/v1/apps/{}", id(&app.json()));
    let key =
        api.call_with("POST", &format!("{app_path}/keys"), &[], json!({ "scopes": [] })).await;
    let key_path = format!("/v1/keys/{}", id(&key.json()));
    for (made, path) in [(account, account_path), (app, app_path), (key, key_path)] {
        assert_eq!(made.header("location"), path);
        assert_eq!(made.header("etag"), api.get(&path).await.header("etag"));
    }
}

#[tokio::test]
async fn a_change_to_another_version_than_the_one_seen_is_412_and_changes_nothing() {
    let api = Api::start().await;
    for path in records(&api).await {
        let seen = api.get(&path).await.header("etag").to_owned();
        api.patch(&path, json!({ "name": "first" })).await;
        let late = [("if-match", seen.as_str())];
        let refused = api.call_with("PATCH", &path, &late, json!({ "name": "second" })).await;
        let detail = assert_problem(&refused, 412, "precondition_failed");
        assert!(detail.contains("Read it again"), "{detail}");
        // But for one that is made already, perhaps by this very call before: all is as it asks for.
        let same = api.call_with("PATCH", &path, &late, json!({ "name": "first" })).await;
        assert_eq!(same.status, 200, "{}", same.text);
        let now = api.get(&path).await;
        assert_eq!(now.json()["name"], "first");
        let both = format!("{seen}, {}", now.header("etag"));
        let matching = [("if-match", both.as_str())];
        let made = api.call_with("PATCH", &path, &matching, json!({ "name": "third" })).await;
        assert_eq!((made.status, &made.json()["name"]), (200, &json!("third")));
        let any = [("if-match", "*")];
        let made = api.call_with("PATCH", &path, &any, json!({ "name": "fourth" })).await;
        assert_eq!((made.status, &made.json()["name"]), (200, &json!("fourth")));
    }
}

#[tokio::test]
async fn what_ends_or_replaces_a_key_may_be_bound_to_a_version_too() {
    let api = Api::start().await;
    let app = api.app_with(json!({ "tier": "free" })).await;
    let path = format!("/v1/keys/{}", id(&api.key(&app, json!({})).await));
    let actions = api.actions().await;
    for call in ["limits/reset", "rotate", "revoke"] {
        let call = format!("{path}/{call}");
        for tag in ["\"4711\"", "W/\"0\"", "\"x\""] {
            let refused = api.call_with("POST", &call, &[("if-match", tag)], json!({})).await;
            assert_problem(&refused, 412, "precondition_failed");
        }
    }
    assert_eq!(api.actions().await, actions);
    for (call, status) in [("limits/reset", 200), ("rotate", 201), ("revoke", 200)] {
        let seen = api.get(&path).await.header("etag").to_owned();
        let headers = [("if-match", seen.as_str())];
        let made = api.call_with("POST", &format!("{path}/{call}"), &headers, json!({})).await;
        assert_eq!(made.status, status, "{call}: {}", made.text);
    }
}

#[tokio::test]
async fn what_is_no_list_of_tags_is_400() {
    let api = Api::start().await;
    for path in records(&api).await {
        for tags in ["", "1", "\"1", "*, \"1\"", "\"1\" \"2\""] {
            let headers = [("if-match", tags)];
            let answer = api.call_with("PATCH", &path, &headers, json!({ "name": "x" })).await;
            assert!(assert_problem(&answer, 400, "bad_request").contains("If-Match"));
        }
    }
}

#[tokio::test]
async fn of_two_changes_made_from_one_version_exactly_one_is_made() {
    let api = Api::start().await;
    for path in records(&api).await {
        for _ in 0..10 {
            let seen = api.get(&path).await.header("etag").to_owned();
            let headers = [("if-match", seen.as_str())];
            let (one, other) = tokio::join!(
                api.call_with("PATCH", &path, &headers, json!({ "name": format!("one {seen}") })),
                api.call_with("PATCH", &path, &headers, json!({ "name": format!("two {seen}") })),
            );
            let mut statuses = [one.status, other.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 412]);
            let (made, refused) = if one.status == 200 { (one, other) } else { (other, one) };
            assert_problem(&refused, 412, "precondition_failed");
            assert_eq!(api.get(&path).await.json()["name"], made.json()["name"]);
        }
    }
}

/// Without it others are waited for; with it they are not.
#[tokio::test]
async fn who_names_a_version_is_told_of_others_at_once() {
    let api = Api::start().await;
    let [_, _, path] = records(&api).await;
    let seen = api.get(&path).await.header("etag").to_owned();
    api.cache.store().conflicts.store(1, Ordering::SeqCst);
    let headers = [("if-match", seen.as_str())];
    let answer = api.call_with("PATCH", &path, &headers, json!({ "name": "x" })).await;
    assert_problem(&answer, 412, "precondition_failed");
}
