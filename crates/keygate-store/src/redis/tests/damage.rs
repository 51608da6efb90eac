//! What is not ours, or not whole, is refused and left as it is.

use redis::Value;

use super::*;
use crate::codec::Record;
use crate::contract::run;
use crate::keys::{KeyStore, Page, StoreError, Write};
use crate::records::{App, Key};
use crate::testing::{app, app_id, audit, create, digest, key, revoked, seed, update};

fn all<T>() -> Page<T> {
    Page { after: None, limit: 100 }
}

fn is_unreadable<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unreadable(_)))
}

fn id(app: &App) -> Vec<u8> {
    app.id.as_u128().to_be_bytes().to_vec()
}

/// The whole key as it lies there, with this JSON.
fn value(key: &Key, json: &str) -> Vec<u8> {
    let (app, account) = (key.app.as_u128(), key.account.as_u128());
    [&app.to_be_bytes(), account.to_be_bytes().as_slice(), json.as_bytes()].concat()
}

#[test]
fn a_record_of_a_newer_program_is_refused_and_left_alone() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, app, key) = seed(&store).await;
        let name = fixture.name(&[b"k:", key.digest.as_bytes().as_slice()].concat());
        let newer = value(&key, r#"{"v":2,"record":{"status":"paused"}}"#);
        fixture.ask::<()>(&[b"SET", &name, &newer]).await;

        assert!(is_unreadable(store.find(key.digest).await));
        assert!(is_unreadable(store.key(key.id).await));
        assert!(is_unreadable(store.keys(app.id, all()).await));
        assert!(is_unreadable(store.commit(update(revoked(&key)), audit("revoke")).await));
        assert_eq!(fixture.ask::<Vec<u8>>(&[b"GET", &name]).await, newer);
        assert_eq!(store.audit(all()).await.unwrap().len(), 3);
    });
}

#[test]
fn a_key_whose_app_or_account_is_gone_is_unreadable_not_unknown() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (account, app, key) = seed(&store).await;
        let account_id = account.id.as_u128().to_be_bytes();
        for name in
            [[b"a:".as_slice(), &id(&app)].concat(), [b"c:", account_id.as_slice()].concat()]
        {
            let name = fixture.name(&name);
            let was = fixture.ask::<Vec<u8>>(&[b"GET", &name]).await;
            fixture.ask::<()>(&[b"DEL", &name]).await;
            assert!(is_unreadable(store.find(key.digest).await));
            fixture.ask::<()>(&[b"SET", &name, &was]).await;
            assert!(store.find(key.digest).await.unwrap().is_some());
        }
        let name = fixture.name(&[b"k:", key.digest.as_bytes().as_slice()].concat());
        fixture.ask::<()>(&[b"DEL", &name]).await;
        assert!(is_unreadable(store.key(key.id).await));
        assert!(is_unreadable(store.keys(app.id, all()).await));
        assert!(is_unreadable(store.commit(update(revoked(&key)), audit("revoke")).await));
    });
}

#[test]
fn what_lies_under_another_keys_digest_lets_nobody_in() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, _, key) = seed(&store).await;
        let from = fixture.name(&[b"k:", key.digest.as_bytes().as_slice()].concat());
        let to = fixture.name(&[b"k:", digest(2).as_bytes().as_slice()].concat());
        fixture.ask::<()>(&[b"COPY", &from, &to]).await;
        assert!(is_unreadable(store.find(digest(2)).await));

        // Nor does a key whose value names another app than its record does.
        let other = key_of_another_app(&store, &key).await;
        let json = String::from_utf8(key.encode().unwrap()).unwrap();
        fixture.ask::<()>(&[b"SET", &from, &value(&other, &json)]).await;
        assert!(is_unreadable(store.find(key.digest).await));
    });
}

async fn key_of_another_app(store: &RedisStore, key: &Key) -> Key {
    let account = store.account(key.account).await.unwrap().unwrap();
    let app = app(2, &account);
    store.commit(Write::CreateApp(app.clone()), audit("app")).await.unwrap();
    Key { app: app.id, ..key.clone() }
}

#[test]
fn values_that_are_none_of_ours_are_unreadable() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, _, key) = seed(&store).await;
        let name = fixture.name(&[b"k:", key.digest.as_bytes().as_slice()].concat());
        for value in [b"".as_slice(), b"short", &[0; 32], &[0xff; 100]] {
            fixture.ask::<()>(&[b"SET", &name, value]).await;
            assert!(is_unreadable(store.find(key.digest).await));
            assert!(is_unreadable(store.key(key.id).await));
        }
    });
}

#[test]
fn a_change_that_cannot_be_written_whole_is_not_begun() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, app, key1) = seed(&store).await;
        let names = ["peppers".as_bytes().to_vec(), [b"ak:".as_slice(), &id(&app)].concat()];
        let before = fixture.everything().await;
        for name in names {
            let (name, kept) = (fixture.name(&name), fixture.name(b"kept"));
            fixture.ask::<()>(&[b"RENAME", &name, &kept]).await;
            fixture.ask::<()>(&[b"SET", &name, b"a text"]).await;
            assert!(is_unreadable(store.commit(create(&key(2, &app)), audit("create")).await));
            fixture.ask::<()>(&[b"RENAME", &kept, &name]).await;
        }
        assert_eq!(fixture.everything().await, before);
        assert_eq!(store.keys(app_id(1), all()).await.unwrap(), [key1]);
        store.commit(create(&key(2, &app)), audit("create")).await.unwrap();
    });
}

#[test]
fn a_log_that_is_ahead_of_its_description_stops_changes_whole() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, app, _) = seed(&store).await;
        let log = fixture.name(b"log");
        fixture.ask::<String>(&[b"XADD", &log, b"100-0", b"m", b"0000000000000001"]).await;
        let before = fixture.everything().await;
        let error = store.commit(create(&key(2, &app)), audit("create")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert_eq!(fixture.everything().await, before);
    });
}

impl Fixture {
    /// All that lies in the store but the fleet, by name.
    pub(super) async fn everything(&self) -> Vec<(Vec<u8>, Value)> {
        let mut names: Vec<Vec<u8>> = self.ask(&[b"KEYS", &self.name(b"*")]).await;
        names.retain(|name| *name != self.name(b"fleet"));
        names.sort_unstable();
        let mut all = Vec::new();
        for name in names {
            let value = self.ask(&[b"DUMP", &name]).await;
            all.push((name, value));
        }
        all
    }
}
