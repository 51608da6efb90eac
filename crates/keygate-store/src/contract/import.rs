//! What every store promises about records that are imported.

use std::slice;

use super::*;
use crate::keys::{Imported, StoredRecord};

use StoredRecord as R;

fn created(created: u64) -> Imported {
    Imported { created, ..Imported::default() }
}

/// An account, its app, and keys of each kind that matters, none of them as new.
fn records() -> (Account, App, [Key; 5]) {
    let account = Account { version: Version(7), ..account(1) };
    let app = App { version: Version(8), ..app(1, &account) };
    let ends = |at| Some(UnixMillis(at));
    let pepper = |n| PepperId::from_bytes([n; 8]);
    let keys = [
        Key { expires_at: None, pepper: Some(pepper(1)), version: Version(9), ..key(1, &app) },
        Key { expires_at: ends(NOW.0 + 9), pepper: Some(pepper(2)), ..key(2, &app) },
        Key { expires_at: ends(NOW.0), pepper: Some(pepper(3)), ..key(3, &app) },
        Key { pepper: Some(pepper(4)), version: Version(1), ..revoked(&key(4, &app)) },
        Key { pepper: Some(pepper(5)), status: KeyStatus::Disabled, ..key(5, &app) },
    ];
    (account, app, keys)
}

fn batch((account, app, keys): &(Account, App, [Key; 5])) -> Vec<R> {
    let parents = [R::Account(account.clone()), R::App(app.clone())];
    parents.into_iter().chain(keys.iter().cloned().map(R::Key)).collect()
}

async fn refused<S: KeyStore>(store: &S, records: Vec<R>) -> &'static str {
    kind(&store.import(records, audit("refused")).await.unwrap_err())
}

pub(crate) fn imported_records_are_like_created_ones<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let all_records = records();
        let imported = store.import(batch(&all_records), audit("import")).await.unwrap();
        assert_eq!(imported, created(7));

        let (account, app, keys) = all_records;
        assert_eq!(store.accounts(all()).await.unwrap(), slice::from_ref(&account));
        assert_eq!(store.apps(account.id, all()).await.unwrap(), slice::from_ref(&app));
        assert_eq!(store.keys(app.id, all()).await.unwrap(), keys);
        for key in &keys {
            let (key, app, account) = (key.clone(), app.clone(), account.clone());
            assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
            let found = store.find(key.digest).await.unwrap();
            assert_eq!(found, Some(OwnedKey { key, app, account }));
        }
        let pepper = |n| PepperId::from_bytes([n; 8]);
        assert_eq!(store.peppers(NOW).await.unwrap(), [1, 2, 5].map(pepper));
        assert_eq!(store.peppers(UnixMillis(NOW.0 + 9)).await.unwrap(), [1, 5].map(pepper));

        // Three of them count against the cap, and they can be changed.
        let capped = |live_max| Write::CreateKey { key: key(6, &app), live_max, now: NOW };
        assert_eq!(super::refused(&store, capped(3)).await, "too many live keys");
        store.commit(update(revoked(&keys[0])), audit("revoke")).await.unwrap();
        store.commit(capped(3), audit("create")).await.unwrap();
        let peppers = [2, 5, 7].map(pepper);
        assert_eq!(store.peppers(NOW).await.unwrap(), peppers);
    });
}

pub(crate) fn an_import_may_be_repeated<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let records = batch(&records());
        store.import(records[..4].to_vec(), audit("import")).await.unwrap();
        let again = store.import(records.clone(), audit("import")).await.unwrap();
        assert_eq!(again, Imported { created: 3, unchanged: 4, different: vec![] });

        let logged = store.audit(all()).await.unwrap();
        let again = store.import(records, audit("import")).await.unwrap();
        assert_eq!(again, Imported { created: 0, unchanged: 7, different: vec![] });
        assert_eq!(store.audit(all()).await.unwrap(), logged);
        assert_eq!(store.import(vec![], audit("import")).await.unwrap(), created(0));
        assert_eq!(store.audit(all()).await.unwrap(), logged);
    });
}

pub(crate) fn an_import_leaves_alone_what_is_there_and_differs<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        let renamed = Account { name: "another".to_owned(), ..account.clone() };
        let disabled = App { status: AppStatus::Disabled, ..app.clone() };
        let records = [
            R::Account(renamed),
            R::App(disabled),
            R::Key(revoked(&key)),
            R::Key(Key { digest: digest(9), ..key.clone() }),
            R::Key(self::key(2, &app)),
            // The second of two is too late too.
            R::Key(Key { name: None, ..self::key(2, &app) }),
        ];
        let imported = store.import(records.to_vec(), audit("import")).await.unwrap();
        let [account_id, app_id, key_id] =
            [account.id.to_string(), app.id.to_string(), key.id.to_string()];
        let different =
            vec![account_id, app_id, key_id.clone(), key_id, self::key_id(2).to_string()];
        assert_eq!(imported, Imported { created: 1, unchanged: 0, different });
        let found = store.find(key.digest).await.unwrap();
        assert_eq!(found, Some(OwnedKey { key: key.clone(), app: app.clone(), account }));
        assert_eq!(store.find(digest(9)).await.unwrap(), None);
        assert_eq!(store.keys(app.id, all()).await.unwrap(), [key, self::key(2, &app)]);
    });
}

pub(crate) fn an_import_is_one_change_or_none<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let records = batch(&records());
        let mut broken = records.clone();
        broken.push(R::Key(key(9, &app(9, &account(9)))));
        assert_eq!(refused(&store, broken).await, "not found");
        assert_eq!(store.accounts(all()).await.unwrap(), []);
        assert_eq!(store.find(digest(1)).await.unwrap(), None);
        assert_eq!(store.audit(all()).await.unwrap(), []);

        store.import(records, audit("import")).await.unwrap();
        let log = store.audit(all()).await.unwrap();
        assert_eq!((log.len(), log[0].number), (1, ChangeNumber(1)));
        assert_eq!(log[0].entry, audit("import"));
        let next = Write::CreateAccount(account(2));
        assert_eq!(store.commit(next, audit("next")).await.unwrap(), ChangeNumber(2));
    });
}

pub(crate) fn an_import_needs_parents_before_children<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account1, app1, key1) = seed(&store).await;
        let account2 = account(2);
        let app2 = app(2, &account2);
        for records in [
            vec![R::App(app2.clone())],
            vec![R::App(app2.clone()), R::Account(account2.clone())],
            vec![R::Key(key(2, &app2))],
            vec![R::Account(account2.clone()), R::Key(key(2, &app2)), R::App(app2.clone())],
            // The app is another account's.
            vec![
                R::Account(account2.clone()),
                R::Key(Key { account: account2.id, ..key(2, &app1) }),
            ],
        ] {
            assert_eq!(refused(&store, records).await, "not found");
        }
        // The digest is another key's.
        let records = vec![R::Key(Key { digest: key1.digest, ..key(2, &app1) })];
        assert_eq!(refused(&store, records).await, "already exists");
        assert_eq!(store.accounts(all()).await.unwrap(), slice::from_ref(&account1));
        assert_eq!(store.apps(account1.id, all()).await.unwrap(), slice::from_ref(&app1));
        assert_eq!(store.keys(app1.id, all()).await.unwrap(), [key1]);
        assert_eq!(store.audit(all()).await.unwrap().len(), 3);
    });
}

/// Above all a key can be revoked, whatever a backup says of it.
pub(crate) fn a_record_of_any_version_can_be_imported_and_then_changed<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let version = Version(u64::MAX);
        let account = Account { version, ..account(1) };
        let app = App { version, ..app(1, &account) };
        let key = Key { version, ..key(1, &app) };
        let records = [R::Account(account.clone()), R::App(app.clone()), R::Key(key.clone())];
        store.import(records.to_vec(), audit("import")).await.unwrap();
        for write in [Write::UpdateAccount(account), Write::UpdateApp(app), update(revoked(&key))] {
            store.commit(write, audit("change")).await.unwrap();
        }
        let found = store.find(key.digest).await.unwrap().unwrap();
        assert!(matches!(found.key.status, KeyStatus::Revoked { .. }));
        assert_ne!(found.key.version, version);
        let again = update(Key { version: found.key.version, ..revoked(&key) });
        store.commit(again, audit("again")).await.unwrap();
    });
}
