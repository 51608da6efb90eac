//! Whatever is done, in whatever order, a store ends as the model does.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::keys::StoredRecord;
use crate::testing::{MemoryStore, limits};

pub(crate) fn any_sequence_of_writes_ends_as_in_the_model<S: KeyStore>(make: impl AsyncFn() -> S) {
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    runner
        .run(&proptest::collection::vec(any_write(), 1..60), |writes| {
            run(async { check_sequence(&make().await, writes).await });
            Ok(())
        })
        .unwrap();
}

pub(crate) fn any_imports_and_writes_end_as_in_the_model<S: KeyStore>(make: impl AsyncFn() -> S) {
    let step = (proptest::bool::ANY, proptest::collection::vec(any_write(), 1..12));
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    runner
        .run(&proptest::collection::vec(step, 1..8), |steps| {
            run(async { check_steps(&make().await, steps).await });
            Ok(())
        })
        .unwrap();
}

/// Steps that are writes one by one, or the records of all of them imported at once.
async fn check_steps<S: KeyStore>(store: &S, steps: Vec<(bool, Vec<Write>)>) {
    let model = MemoryStore::default();
    for (imports, writes) in steps {
        if imports {
            let records: Vec<_> = writes.into_iter().map(record).collect();
            let expected = model.import(records.clone(), audit("any")).await;
            let result = store.import(records.clone(), audit("any")).await;
            check_result(expected, result, &records);
        } else {
            for write in writes {
                check_write(store, &model, write).await;
            }
        }
    }
    check_same(store, &model).await;
}

fn record(write: Write) -> StoredRecord {
    match write {
        Write::CreateAccount(account) | Write::UpdateAccount(account) => {
            StoredRecord::Account(account)
        }
        Write::CreateApp(app) | Write::UpdateApp(app) => StoredRecord::App(app),
        Write::CreateKey { key, .. } | Write::UpdateKey { key, .. } => StoredRecord::Key(key),
        Write::RotateKey { .. } | Write::CreateToken(_) | Write::UpdateToken(_) | Write::Note => {
            unreachable!("not among those that are imported")
        }
    }
}

/// The ids that sequences draw from: few, so that writes meet.
const IDS: std::ops::Range<u64> = 0..4;

fn any_write() -> impl Strategy<Value = Write> {
    let ids = (IDS, IDS, IDS);
    let version = (0u64..3).prop_map(Version);
    (0u8..6, ids, version, 0u8..3, 0u64..2).prop_map(|(what, (a, b, c), version, status, time)| {
        let account = Account {
            status: if status == 0 { AccountStatus::Suspended } else { AccountStatus::Active },
            version,
            ..account(a)
        };
        let app = App {
            status: if status == 0 { AppStatus::Disabled } else { AppStatus::Active },
            version,
            ..app(b, &account)
        };
        let key = Key {
            status: match status {
                0 => KeyStatus::Active,
                1 => KeyStatus::Disabled,
                _ => KeyStatus::Revoked { at: NOW, reason: None },
            },
            limits: if status == 1 { limits() } else { None },
            expires_at: (time == 0).then_some(UnixMillis(NOW.0 + 1)),
            version,
            ..key(c * 10 + b, &app)
        };
        match what {
            0 => Write::CreateAccount(account),
            1 => Write::CreateApp(app),
            2 => Write::CreateKey { key, live_max: 2, now: UnixMillis(NOW.0 + time) },
            3 => Write::UpdateAccount(account),
            4 => Write::UpdateApp(app),
            _ => Write::UpdateKey { key, live_max: 2, now: UnixMillis(NOW.0 + time) },
        }
    })
}

async fn check_sequence<S: KeyStore>(store: &S, writes: Vec<Write>) {
    let model = MemoryStore::default();
    for write in writes {
        check_write(store, &model, write).await;
    }
    check_same(store, &model).await;
}

async fn check_write<S: KeyStore>(store: &S, model: &MemoryStore, write: Write) {
    let expected = model.commit(write.clone(), audit("any")).await;
    let result = store.commit(write.clone(), audit("any")).await;
    check_result(expected, result, &write);
}

fn check_result<T: PartialEq + Debug>(
    expected: Result<T, StoreError>,
    result: Result<T, StoreError>,
    of: &impl Debug,
) {
    let (expected, result) =
        (expected.map_err(|error| kind(&error)), result.map_err(|error| kind(&error)));
    assert_eq!(expected, result, "{of:?}");
}

/// Whether a store tells the same as the model.
async fn check_same<S: KeyStore>(store: &S, model: &MemoryStore) {
    assert_eq!(store.audit(all()).await.unwrap(), model.audit(all()).await.unwrap());
    for now in [NOW, UnixMillis(NOW.0 + 1)] {
        assert_eq!(store.peppers(now).await.unwrap(), model.peppers(now).await.unwrap());
    }
    let accounts = model.accounts(all()).await.unwrap();
    assert_eq!(store.accounts(all()).await.unwrap(), accounts);
    for a in IDS {
        let (store_apps, model_apps) =
            (store.apps(account_id(a), all()).await, model.apps(account_id(a), all()).await);
        assert_eq!(store_apps.unwrap(), model_apps.unwrap());
        let keys = model.keys(app_id(a), all()).await.unwrap();
        assert_eq!(store.keys(app_id(a), all()).await.unwrap(), keys);
        for key in keys {
            assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
            let found = store.find(key.digest).await.unwrap();
            assert_eq!(found, model.find(key.digest).await.unwrap());
        }
    }
}
