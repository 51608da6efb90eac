//! An app that is full is told which key it can do without best.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_full_app_is_told_which_key_has_been_idle_for_the_longest_time() {
    let api = Api::start().await;
    let app = api.app().await;
    let mut keys = Vec::new();
    keys.push(api.key(&app, json!({ "name": "a" })).await);
    let api = api.at(|| UnixMillis(NOW.0 + 1)).await;
    for name in ["b", "c", "d", "e"] {
        keys.push(api.key(&app, json!({ "name": name })).await);
    }
    let path = format!("/v1/apps/{app}/keys");
    let retire = async |api: &Api| {
        let full = api.post(&path, json!({ "scopes": [] })).await;
        (assert_problem(&full, 422, "too_many_live_keys"), full.json()["retire"].clone())
    };
    let unused = |key: &Value| json!({ "id": key["id"], "hint": key["hint"], "name": key["name"], "last_used_at": null });
    let (detail, oldest) = retire(&api).await;
    assert_eq!(oldest, unused(&keys[0]), "none was used: the oldest");
    assert!(detail.contains(&id(&keys[0])), "{detail}");
    let uses = [(0, 50), (1, 10), (2, 20), (3, 30), (4, 40)];
    let uses = uses.map(|(at, ms)| (id(&keys[at]).parse().unwrap(), UnixMillis(NOW.0 + ms)));
    api.mark_used(&uses).await;
    let (detail, idle) = retire(&api).await;
    assert_eq!(
        [&idle["id"], &idle["last_used_at"]],
        [&keys[1]["id"], &json!("2030-01-01T00:00:00.01Z")]
    );
    assert!(detail.contains("2030-01-01T00:00:00.01Z"), "{detail}");
    api.post(&format!("/v1/keys/{}/revoke", id(&keys[1])), json!({})).await;
    let late = api.at(|| UnixMillis(NOW.0 + DAY_MS)).await;
    let newest = late.key(&app, json!({})).await;
    let (_, idle) = retire(&late).await;
    assert_eq!(idle["id"], keys[2]["id"], "one that is new has not been idle for long");
    // The same of a key that would become live again.
    let short = json!({ "expires_at": "2030-01-02T00:00:01Z" });
    late.patch(&format!("/v1/keys/{}", id(&newest)), short).await;
    let later = api.at(|| UnixMillis(NOW.0 + 2 * DAY_MS)).await;
    later.key(&app, json!({})).await;
    let longer = json!({ "expires_at": "2031-01-01T00:00:00Z" });
    let full = later.patch(&format!("/v1/keys/{}", id(&newest)), longer).await;
    assert_problem(&full, 422, "too_many_live_keys");
    assert_eq!(full.json()["retire"]["id"], keys[2]["id"]);
}
