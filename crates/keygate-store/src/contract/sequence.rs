//! Whatever is done, in whatever order, a store ends as the model does.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::keys::{Once, StoredRecord};
use crate::records::{AdminToken, TokenStatus};
use crate::testing::{MemoryStore, limits, token, token_id};

pub(crate) fn any_sequence_of_writes_ends_as_in_the_model<S: KeyStore>(make: impl AsyncFn() -> S) {
    check_any(make, proptest::collection::vec(any_step(), 1..60));
}

pub(crate) fn any_imports_and_writes_end_as_in_the_model<S: KeyStore>(make: impl AsyncFn() -> S) {
    let import = proptest::collection::vec(any_record(), 1..12).prop_map(Step::Import);
    let step = prop_oneof![3 => any_step(), 1 => import];
    check_any(make, proptest::collection::vec(step, 1..40));
}

fn check_any<S: KeyStore>(make: impl AsyncFn() -> S, steps: impl Strategy<Value = Vec<Step>>) {
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    runner
        .run(&steps, |steps| {
            run(async { check_steps(&make().await, steps).await });
            Ok(())
        })
        .unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Write),
    /// Under a name, so many milliseconds after the last one.
    Once(Write, Once, u64),
    Use(Vec<(KeyId, UnixMillis)>),
    /// The records of these writes.
    Import(Vec<Write>),
}

async fn check_steps<S: KeyStore>(store: &S, steps: Vec<Step>) {
    let model = MemoryStore::default();
    let mut now = NOW;
    // Something to begin with, or most steps would come to nothing.
    let accounts = [0, 1].map(|n| Write::CreateAccount(account(n)));
    let apps = [0, 1, 2].map(|n| Write::CreateApp(app(n, &account(owner(n)))));
    let keys = [0, 10, 1, 12].map(|n| create(&key(n, &app(n % 10, &account(owner(n % 10))))));
    for write in accounts.into_iter().chain(apps).chain(keys) {
        model.commit(write.clone(), audit("begin")).await.unwrap();
        store.commit(write, audit("begin")).await.unwrap();
    }
    for step in steps {
        let what = format!("{step:?}");
        match step {
            Step::Commit(write) => {
                let write = fit(&model, write).await;
                let expected = model.commit(write.clone(), audit("any")).await;
                check_result(expected, store.commit(write, audit("any")).await, &what);
            }
            Step::Once(write, once, later) => {
                let write = fit(&model, write).await;
                now = UnixMillis(now.0 + later);
                let once = Once { now, until: UnixMillis(now.0 + 60_000), ..once };
                let expected = model.commit_once(write.clone(), audit("any"), once).await;
                check_result(expected, store.commit_once(write, audit("any"), once).await, &what);
            }
            Step::Use(uses) => {
                mark_used(&model, uses.clone()).await;
                mark_used(store, uses).await;
            }
            Step::Import(writes) => {
                let records: Vec<_> = writes.into_iter().map(record).collect();
                let expected = model.import(records.clone(), audit("any")).await;
                check_result(expected, store.import(records, audit("any")).await, &what);
            }
        }
    }
    check_same(store, &model).await;
    for name in 0..3 {
        let expected = model.remembered([name; 32], now).await.unwrap();
        assert_eq!(store.remembered([name; 32], now).await.unwrap(), expected);
    }
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

/// The account that the app of this number mostly has.
fn owner(app: u64) -> u64 {
    app / 2
}

const STALE: Version = Version(2);

/// An update mostly knows what is stored.
async fn fit(model: &MemoryStore, mut write: Write) -> Write {
    let key_version = async |id| model.key(id).await.unwrap().map(|key| key.version);
    let (wanted, stored) = match &mut write {
        Write::UpdateAccount(Account { id, version, .. }) => {
            (version, model.account(*id).await.unwrap().map(|account| account.version))
        }
        Write::UpdateApp(App { id, version, .. }) => {
            (version, model.app(*id).await.unwrap().map(|app| app.version))
        }
        Write::UpdateKey { key: Key { id, version, .. }, .. }
        | Write::RotateKey { old: Key { id, version, .. }, .. } => {
            (version, key_version(*id).await)
        }
        Write::UpdateToken(AdminToken { id, version, .. }) => {
            (version, model.token(*id).await.unwrap().map(|token| token.version))
        }
        Write::CreateAccount(_)
        | Write::CreateApp(_)
        | Write::CreateKey { .. }
        | Write::CreateToken(_)
        | Write::Note => return write,
    };
    if *wanted != STALE {
        *wanted = stored.unwrap_or(*wanted);
    }
    write
}

/// What is wanted of a record, and which; whether it comes to be is another matter.
#[derive(Clone, Copy, Debug)]
struct Wish {
    ids: [u64; 3],
    version: Version,
    status: u8,
    time: u64,
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let ids = (prop_oneof![1 => IDS.prop_map(Some), 4 => Just(None)], IDS, IDS)
        .prop_map(|(account, app, key)| [account.unwrap_or_else(|| owner(app)), app, key]);
    let version = (0..=STALE.0).prop_map(Version);
    (ids, version, 0u8..3, 0u64..2).prop_map(|(ids, version, status, time)| Wish {
        ids,
        version,
        status,
        time,
    })
}

impl Wish {
    fn account(self) -> Account {
        let status =
            if self.status == 0 { AccountStatus::Suspended } else { AccountStatus::Active };
        Account { status, version: self.version, ..account(self.ids[0]) }
    }

    fn app(self) -> App {
        let status = if self.status == 0 { AppStatus::Disabled } else { AppStatus::Active };
        App { status, version: self.version, ..app(self.ids[1], &self.account()) }
    }

    fn key(self) -> Key {
        let key = key(self.ids[2] * 10 + self.ids[1], &self.app());
        Key {
            pepper: if self.ids[2] == 3 { None } else { key.pepper },
            status: match self.status {
                0 => KeyStatus::Active,
                1 => KeyStatus::Disabled,
                _ => KeyStatus::Revoked { at: NOW, reason: None },
            },
            limits: if self.status == 1 { limits() } else { None },
            expires_at: (self.time == 0).then_some(UnixMillis(NOW.0 + 1)),
            version: self.version,
            ..key
        }
    }

    fn token(self) -> AdminToken {
        AdminToken {
            // Mostly its own.
            sha256: *digest(self.ids[0] + u64::from(self.status == 2)).as_bytes(),
            status: match self.status {
                0 => TokenStatus::Revoked { at: NOW },
                _ => TokenStatus::Active,
            },
            version: self.version,
            ..token(self.ids[0])
        }
    }

    fn now(self) -> UnixMillis {
        UnixMillis(NOW.0 + self.time)
    }
}

/// A write of one of the records that can be imported.
fn any_record() -> impl Strategy<Value = Write> {
    (0u8..6, any_wish()).prop_map(|(what, wish)| match what {
        0 => Write::CreateAccount(wish.account()),
        1 => Write::CreateApp(wish.app()),
        2 => Write::CreateKey { key: wish.key(), live_max: 2, now: wish.now() },
        3 => Write::UpdateAccount(wish.account()),
        4 => Write::UpdateApp(wish.app()),
        _ => Write::UpdateKey { key: wish.key(), live_max: 2, now: wish.now() },
    })
}

/// The old key names its successor: nobody rotates otherwise, and stores may count one that does not or not.
fn any_rotation() -> impl Strategy<Value = Write> {
    (any_wish(), any_wish(), 0u8..5).prop_map(|(old_wish, new_wish, how)| {
        // Mostly in the same app.
        let [account, app, _] = if how == 0 { new_wish.ids } else { old_wish.ids };
        let new = Wish { ids: [account, app, new_wish.ids[2]], ..new_wish }.key();
        let mut old = old_wish.key();
        old.rotated_to = Some(new.id);
        let (now, new) = (old_wish.now(), Key { rotated_from: Some(old.id), ..new });
        // Nobody makes a successor that is dead from the first, and stores may count it or not.
        let is_live = new.counts_until() > now.0;
        let new =
            if is_live { new } else { Key { status: KeyStatus::Active, expires_at: None, ..new } };
        Write::RotateKey { old, new, live_max: 2, now }
    })
}

fn any_write() -> impl Strategy<Value = Write> {
    let any_token = (proptest::bool::ANY, any_wish()).prop_map(|(is_new, wish)| {
        if is_new { Write::CreateToken(wish.token()) } else { Write::UpdateToken(wish.token()) }
    });
    prop_oneof![6 => any_record(), 4 => any_rotation(), 2 => any_token, 1 => Just(Write::Note)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let once = (any_write(), 0u8..3, 0u8..2, select(vec![0, 20_000, 40_000]));
    let once = once.prop_map(|(write, name, request, later)| {
        Step::Once(write, crate::testing::once(name, request), later)
    });
    let key = (IDS, IDS).prop_map(|(c, b)| key_id(c * 10 + b));
    let uses = proptest::collection::vec((key, (0u64..4).prop_map(UnixMillis)), 0..5);
    prop_oneof![6 => any_write().prop_map(Step::Commit), 2 => once, 1 => uses.prop_map(Step::Use)]
}

fn check_result<T: PartialEq + Debug>(
    expected: Result<T, StoreError>,
    result: Result<T, StoreError>,
    of: &str,
) {
    let (expected, result) =
        (expected.map_err(|error| kind(&error)), result.map_err(|error| kind(&error)));
    assert_eq!(expected, result, "{of}");
}

/// Whether a store tells the same as the model.
async fn check_same<S: KeyStore>(store: &S, model: &MemoryStore) {
    assert_eq!(store.audit(all()).await.unwrap(), model.audit(all()).await.unwrap());
    for now in [NOW, UnixMillis(NOW.0 + 1)] {
        assert_eq!(store.peppers(now).await.unwrap(), model.peppers(now).await.unwrap());
        let expected = model.pepper_counts(now).await.unwrap();
        assert_eq!(counts(store, now.0).await, expected);
    }
    assert_eq!(store.tokens(all()).await.unwrap(), model.tokens(all()).await.unwrap());
    for n in IDS {
        let (id, hash) = (token_id(n), *digest(n).as_bytes());
        assert_eq!(store.token(id).await.unwrap(), model.token(id).await.unwrap());
        let expected = model.token_by_hash(hash).await.unwrap();
        assert_eq!(store.token_by_hash(hash).await.unwrap(), expected);
    }
    let accounts = model.accounts(all()).await.unwrap();
    assert_eq!(store.accounts(all()).await.unwrap(), accounts);
    for a in IDS {
        let (store_apps, model_apps) =
            (store.apps(account_id(a), all()).await, model.apps(account_id(a), all()).await);
        assert_eq!(store_apps.unwrap(), model_apps.unwrap());
        let keys = model.keys(app_id(a), all()).await.unwrap();
        assert_eq!(store.keys(app_id(a), all()).await.unwrap(), keys);
        let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
        let expected = model.last_used(ids.clone()).await.unwrap();
        assert_eq!(store.last_used(ids).await.unwrap(), expected);
        for key in keys {
            assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
            let found = store.find(key.digest).await.unwrap();
            assert_eq!(found, model.find(key.digest).await.unwrap());
        }
    }
}
