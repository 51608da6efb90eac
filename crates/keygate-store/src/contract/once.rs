//! What every store promises about a change that is to be carried out once.

use super::*;
use crate::keys::{Done, MadeRecord, Once, Remembered};
use crate::testing::{once, rotate, token};

fn before(request: u8, made: MadeRecord) -> Done {
    Done::Before(Remembered { request: [request; 32], made })
}

/// The same name and request at another time.
fn later(once: Once, millis: u64) -> Once {
    let later = |at: UnixMillis| UnixMillis(at.0 + millis);
    Once { now: later(once.now), until: later(once.until), ..once }
}

pub(crate) fn the_same_sent_many_times_at_once_is_done_once<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = Arc::new(make().await);
        let (_, app, _) = seed(&*store).await;
        let mut creates = tokio::task::JoinSet::new();
        // Each brings a key of its own, as each gateway that is asked makes one.
        for n in 2..52 {
            let (store, write) = (Arc::clone(&store), create(&key(n, &app)));
            let once = later(once(1, 1), n);
            creates.spawn(async move { store.commit_once(write, audit("create"), once).await });
        }
        let done: Vec<_> = creates.join_all().await.into_iter().map(Result::unwrap).collect();
        let keys = store.keys(app.id, all()).await.unwrap();
        assert_eq!(keys.len(), 2);
        let (now, told): (Vec<_>, Vec<_>) =
            done.into_iter().partition(|done| matches!(done, Done::Now(_)));
        assert_eq!(now, [Done::Now(ChangeNumber(4))]);
        let expected = before(1, MadeRecord::Key(keys[1].clone()));
        assert_eq!(told, vec![expected; 49]);
        assert_eq!(store.audit(all()).await.unwrap().len(), 4);
    });
}

pub(crate) fn what_was_done_once_is_told_as_it_was_made<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let account = account(1);
        let app = app(1, &account);
        let (old, token) = (key(1, &app), token(1));
        let writes = [
            Write::CreateAccount(account.clone()),
            Write::CreateApp(app.clone()),
            create(&old),
            rotate(&old, &key(2, &app), LIVE_MAX),
            Write::CreateToken(token.clone()),
        ];
        for (write, name) in writes.iter().cloned().zip(1..) {
            let done = store.commit_once(write, audit("create"), once(name, name)).await.unwrap();
            assert_eq!(done, Done::Now(ChangeNumber(name.into())));
        }
        // What has become of them since does not matter.
        let successor = store.key(key_id(2)).await.unwrap().unwrap();
        let suspended = Account { status: AccountStatus::Suspended, ..account };
        let changes = [
            Write::UpdateAccount(suspended),
            Write::UpdateApp(App { status: AppStatus::Disabled, ..app }),
            update(revoked(&successor)),
            Write::UpdateToken(token),
        ];
        for write in changes {
            store.commit(write, audit("change")).await.unwrap();
        }
        let log = store.audit(all()).await.unwrap();
        for (write, name) in writes.into_iter().zip(1..) {
            let expected = before(name, write.made().unwrap());
            let done = store.commit_once(write, audit("create"), once(name, name)).await.unwrap();
            assert_eq!(done, expected);
        }
        assert_eq!(store.audit(all()).await.unwrap(), log);
    });
}

pub(crate) fn another_request_under_the_same_name_is_told_apart<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let first = Write::CreateAccount(account(1));
        let second = Write::CreateAccount(account(2));
        store.commit_once(first, audit("first"), once(1, 1)).await.unwrap();
        // Who asks decides what it means that another request was the first.
        let done = store.commit_once(second.clone(), audit("second"), once(1, 2)).await.unwrap();
        assert_eq!(done, before(1, MadeRecord::Account(account(1))));
        assert_eq!(store.account(account_id(2)).await.unwrap(), None);
        let done = store.commit_once(second, audit("second"), once(2, 2)).await.unwrap();
        assert_eq!(done, Done::Now(ChangeNumber(2)));
    });
}

pub(crate) fn a_name_is_forgotten_after_its_time<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let create = |n| Write::CreateAccount(account(n));
        let once = once(1, 1);
        store.commit_once(create(1), audit("create"), once).await.unwrap();
        let in_time = later(once, 99_999);
        let done = store.commit_once(create(2), audit("create"), in_time).await.unwrap();
        assert_eq!(done, before(1, MadeRecord::Account(account(1))));
        // It is remembered from its first time on, however often it is asked for.
        let too_late = later(once, 100_000);
        let done = store.commit_once(create(2), audit("create"), too_late).await.unwrap();
        assert_eq!(done, Done::Now(ChangeNumber(2)));
        let again = later(once, 199_999);
        let done = store.commit_once(create(3), audit("create"), again).await.unwrap();
        let second = Remembered { request: [1; 32], made: MadeRecord::Account(account(2)) };
        assert_eq!(done, Done::Before(second.clone()));
        // To ask what was made says the same.
        let remembered = async |once: Once| store.remembered(once.name, once.now).await.unwrap();
        assert_eq!(remembered(again).await, Some(second));
        assert_eq!(remembered(later(once, 200_000)).await, None);
        assert_eq!(remembered(self::once(2, 1)).await, None);
    });
}

pub(crate) fn many_names_that_are_over_make_room_for_new_ones<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let create = |n: u64| Write::CreateAccount(account(n));
        for (n, name) in (0..100).zip(0..) {
            // Ends one after another, so that some names are over and some are not.
            let once = Once { until: UnixMillis(NOW.0 + n * 1_000), ..once(name, 1) };
            store.commit_once(create(n), audit("create"), once).await.unwrap();
        }
        let half = UnixMillis(NOW.0 + 50_000);
        for (n, name) in (0..100).zip(0..) {
            let once = Once { now: half, ..once(name, 1) };
            let done = store.commit_once(create(n + 100), audit("create"), once).await.unwrap();
            assert_eq!(matches!(done, Done::Now(_)), n <= 50, "{n}: {done:?}");
        }
        assert_eq!(store.accounts(all()).await.unwrap().len(), 151);
    });
}

pub(crate) fn what_was_refused_may_be_tried_again_under_the_same_name<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (account, app, first) = seed(&store).await;
        let capped = Write::CreateKey { key: key(2, &app), live_max: 1, now: NOW };
        let missing = Write::CreateApp(self::app(2, &self::account(9)));
        let conflict = rotate(&Key { version: Version(7), ..first.clone() }, &key(2, &app), 1);
        let writes = [
            (Write::CreateAccount(account), "already exists"),
            (missing, "not found"),
            (conflict, "conflict"),
            (capped.clone(), "too many live keys"),
        ];
        let log = store.audit(all()).await.unwrap();
        for (write, why) in writes {
            let refused = store.commit_once(write, audit("refused"), once(1, 1)).await;
            assert_eq!(kind(&refused.unwrap_err()), why);
        }
        assert_eq!(store.audit(all()).await.unwrap(), log);
        store.commit(update(revoked(&first)), audit("revoke")).await.unwrap();
        let done = store.commit_once(capped, audit("create"), once(1, 1)).await.unwrap();
        assert_eq!(done, Done::Now(ChangeNumber(5)));
    });
}

pub(crate) fn a_change_that_makes_nothing_is_not_done_once<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        let writes = [
            Write::UpdateAccount(account),
            Write::UpdateApp(app),
            update(revoked(&key)),
            Write::UpdateToken(token(1)),
            Write::Note,
        ];
        for write in writes {
            let refused = store.commit_once(write, audit("refused"), once(1, 1)).await;
            assert_eq!(kind(&refused.unwrap_err()), "not found");
        }
        assert_eq!(store.key(key.id).await.unwrap(), Some(key));
        assert_eq!(store.audit(all()).await.unwrap().len(), 3);
    });
}
