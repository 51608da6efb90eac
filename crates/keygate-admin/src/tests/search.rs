//! Keys are found by what they are, over all apps.

use std::collections::{BTreeMap, BTreeSet};

use keygate_core::{AppId, KeyDigest, KeyId};
use keygate_store::keys::{KeyStore, StoredRecord};
use keygate_store::records::{AuditEntry, Key, KeyStatus};
use serde_json::json;

use super::*;

fn ids(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap_or_else(|| panic!("{list}")).iter().map(id).collect()
}

/// All that a list holds, and in how many pages.
async fn walk(api: &Api, path: &str) -> (Vec<String>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    let mut page = api.get(path).await.json();
    loop {
        pages += 1;
        all.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { return (all, pages) };
        let joint = if path.contains('?') { '&' } else { '?' };
        page = api.get(&format!("{path}{joint}cursor={next}")).await.json();
    }
}

#[tokio::test]
async fn every_key_of_every_app_is_listed_once_however_long_the_pages() {
    let api = Api::start().await;
    let mut all = BTreeSet::new();
    for count in [3, 0, 1, 5, 2] {
        let app = api.app().await;
        for _ in 0..count {
            all.insert(id(&api.key(&app, json!({})).await));
        }
    }
    api.account().await;
    for limit in [1, 2, 3, 4, 10, 11, 12, 200] {
        let (found, pages) = walk(&api, &format!("/v1/keys?limit={limit}")).await;
        assert_eq!(found.len(), all.len(), "limit {limit}");
        assert_eq!(BTreeSet::from_iter(found), all, "limit {limit}");
        assert_eq!(pages, all.len().div_ceil(limit), "limit {limit}");
    }
}

#[tokio::test]
async fn a_filter_finds_the_keys_that_are_so_and_no_others() {
    let api = Api::start().await;
    let app = api.app().await;
    let account = api.get(&format!("/v1/apps/{app}")).await.json()["account_id"].clone();
    let account = account.as_str().unwrap();
    let plain = api.key(&app, json!({})).await;
    let disabled = id(&api.key(&app, json!({ "kind": "rk" })).await);
    api.patch(&format!("/v1/keys/{disabled}"), json!({ "status": "disabled" })).await;
    let revoked = id(&api.key(&app, json!({})).await);
    api.post(&format!("/v1/keys/{revoked}/revoke"), json!({})).await;
    let short = id(&api.key(&app, json!({ "ttl": "10d" })).await);
    let elsewhere = api.app_with(json!({ "environment": "test" })).await;
    let test = id(&api.key(&elsewhere, json!({ "kind": "pk", "ttl": "30d" })).await);
    api.mark_used(&[(short.parse().unwrap(), NOW)]).await;
    let (hint, plain) = (plain["hint"].as_str().unwrap(), id(&plain));
    let later = api.at(|| UnixMillis(NOW.0 + 5 * DAY_MS)).await;
    let young = id(&later.key(&elsewhere, json!({})).await);
    let expect = async |query: String, expected: &[&String]| {
        let (mut found, _) = walk(&later, &format!("/v1/keys?{query}")).await;
        let mut expected: Vec<String> = expected.iter().copied().cloned().collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
    };
    expect(format!("account_id={account}"), &[&plain, &disabled, &revoked, &short]).await;
    expect(format!("app_id={elsewhere}"), &[&test, &young]).await;
    expect(format!("account_id={account}&app_id={elsewhere}"), &[]).await;
    expect("app_id=app_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), &[]).await;
    expect("status=active".into(), &[&plain, &short, &test, &young]).await;
    expect("status=disabled".into(), &[&disabled]).await;
    expect("status=revoked".into(), &[&revoked]).await;
    expect("status=expired".into(), &[]).await;
    expect("environment=test".into(), &[&test, &young]).await;
    expect("kind=rk".into(), &[&disabled]).await;
    expect(format!("hint={hint}"), &[&plain]).await;
    expect("hint=pk_".into(), &[&test]).await;
    expect("expiring_within=5d1h".into(), &[&short]).await;
    expect("expiring_within=5d".into(), &[]).await;
    expect("expiring_before=2030-02-01T00:00:00Z".into(), &[&short, &test]).await;
    expect("expiring_before=2030-02-01T00:00:00Z&expiring_within=6d".into(), &[&short]).await;
    expect("older_than=4d".into(), &[&plain, &disabled, &revoked, &short, &test]).await;
    expect("older_than=5d".into(), &[]).await;
    let since = "last_used_before=2030-01-01T00:00:00.001Z";
    expect(since.into(), &[&plain, &disabled, &revoked, &short, &test]).await;
    expect("last_used_before=2030-01-01T00:00:00Z".into(), &[]).await;
    expect("imported=true".into(), &[]).await;
    expect("imported=false&status=revoked".into(), &[&revoked]).await;
    let of_app = later.get(&format!("/v1/apps/{app}/keys?status=active&kind=sk")).await.json();
    let used: BTreeMap<_, _> = of_app["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (id(key), key["last_used_at"].clone()))
        .collect();
    let expected = [(plain, Value::Null), (short.clone(), json!("2030-01-01T00:00:00Z"))];
    assert_eq!(used, expected.into());
    let expired = api.at(|| UnixMillis(NOW.0 + 10 * DAY_MS)).await;
    let (found, _) = walk(&expired, "/v1/keys?status=expired").await;
    assert_eq!(found, [short]);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_400_and_says_what_to_write() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await["key"].as_str().unwrap().to_owned();
    for (query, rule) in [
        ("status=dead".into(), "active, disabled, revoked or expired"),
        ("environment=prod".into(), "live or test"),
        ("kind=xk".into(), "sk, pk or rk"),
        ("account_id=1".into(), "prefix"),
        ("app_id=key_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), "prefix"),
        ("expiring_within=7".into(), "`7d`"),
        ("expiring_before=soon".into(), "RFC 3339"),
        ("older_than=-1d".into(), "unit"),
        ("last_used_before=2030-01-01".into(), "RFC 3339"),
        ("past_policy=yes".into(), "true or false"),
        ("imported=1".into(), "true or false"),
        ("hint=".into(), "first characters"),
        (format!("hint={key}"), "never the key"),
        (format!("hint={}", "x".repeat(65)), "first characters"),
        ("cursor=x".into(), "`next`"),
        ("limit=0".into(), "1 to 200"),
        ("limit=201".into(), "1 to 200"),
        ("limit=1&limit=2".into(), "limit"),
        ("colour=blue".into(), "`colour`"),
    ] {
        for path in ["/v1/keys".to_owned(), format!("/v1/apps/{app}/keys")] {
            let answer = api.get(&format!("{path}?{query}")).await;
            let detail = assert_problem(&answer, 400, "bad_request");
            assert!(detail.contains(rule), "{query}: {detail}");
        }
    }
    let other = api.app().await;
    api.key(&other, json!({})).await;
    api.key(&other, json!({})).await;
    let next = api.get(&format!("/v1/apps/{other}/keys?limit=1")).await.json()["next"].clone();
    let next = next.as_str().unwrap();
    let foreign = api.get(&format!("/v1/apps/{app}/keys?cursor={next}")).await;
    assert_problem(&foreign, 400, "bad_request");
}

/// Keys of an app, straight into the store, as from an import.
async fn fill(api: &Api, app: &str, count: u64) -> Vec<KeyId> {
    let store = api.cache.store();
    let template = api.key(app, json!({})).await;
    let template = store.key(id(&template).parse().unwrap()).await.unwrap().unwrap();
    let made = |number: u64| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        let id = KeyId::new(UnixMillis(NOW.0 + number), [1; 10]);
        Key { id, digest: KeyDigest::from_bytes(digest), ..template.clone() }
    };
    let keys: Vec<Key> = (1..=count).map(made).collect();
    let ids = keys.iter().map(|key| key.id).collect();
    for some in keys.chunks(500) {
        let records = some.iter().cloned().map(StoredRecord::Key).collect();
        store.import(records, imported()).await.unwrap();
    }
    ids
}

/// What the log says of it.
pub(super) fn imported() -> AuditEntry {
    AuditEntry {
        at: NOW,
        actor: "test".into(),
        action: "import".into(),
        subject: String::new(),
        hint: None,
        from: None,
        reason: None,
        refused: None,
        changes: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn one_call_looks_at_so_many_keys_and_says_where_to_look_on() {
    let api = Api::start().await;
    let app = api.app().await;
    let all = fill(&api, &app, 4_500).await;
    let last = api.cache.store().key(*all.last().unwrap()).await.unwrap().unwrap();
    let status = KeyStatus::Revoked { at: NOW, reason: None };
    let revoked = Key { status, ..last };
    let write =
        keygate_store::keys::Write::UpdateKey { key: revoked.clone(), live_max: 1, now: NOW };
    api.cache.store().commit(write, imported()).await.unwrap();
    let first = api.get("/v1/keys?status=revoked").await.json();
    assert_eq!(first["items"], json!([]), "it is far beyond what one call looks at");
    assert!(first["next"].is_string());
    let (found, pages) = walk(&api, "/v1/keys?status=revoked").await;
    assert_eq!((found, pages), (vec![revoked.id.to_string()], 3));
    let (found, _) = walk(&api, "/v1/keys?limit=200").await;
    assert_eq!(found.len(), 4_501);
    assert_eq!(BTreeSet::from_iter(found).len(), 4_501);
    let app: AppId = app.parse().unwrap();
    assert_eq!(revoked.app, app);
}
