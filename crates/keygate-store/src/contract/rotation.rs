//! What every store promises about a key that gives way to another.

use super::*;
use crate::testing::rotate;

/// The key as a rotation leaves it.
fn rotated(old: &Key, new: &Key, live_max: u32) -> (Key, Key) {
    let Write::RotateKey { old, new, .. } = rotate(old, new, live_max) else {
        unreachable!("it is a rotation")
    };
    (Key { version: old.version.next(), ..old }, new)
}

pub(crate) fn a_rotation_makes_the_successor_and_keeps_the_old_key_to_the_end_of_the_overlap<
    S: KeyStore,
>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (account, app, old) = seed(&store).await;
        let newer = PepperId::from_bytes([9; 8]);
        let new = Key { pepper: Some(newer), ..key(2, &app) };
        let write = rotate(&old, &new, LIVE_MAX);
        let number = store.commit(write, audit("key.rotate")).await.unwrap();
        assert_eq!(number, ChangeNumber(4));
        let after: (Key, Key) = rotated(&old, &new, LIVE_MAX);
        for key in [&after.0, &after.1] {
            let (app, account) = (app.clone(), account.clone());
            let owned = OwnedKey { key: key.clone(), app, account };
            assert_eq!(store.find(key.digest).await.unwrap(), Some(owned));
            assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(key));
        }
        assert_eq!(store.keys(app.id, all()).await.unwrap(), [after.0, after.1]);
        let log = entries(store.audit(all()).await.unwrap()).skip(3);
        assert_eq!(log.collect::<Vec<_>>(), [(ChangeNumber(4), audit("key.rotate"))]);

        // The old one needs its pepper as long as it works.
        let older = old.pepper.unwrap();
        assert_eq!(store.peppers(UnixMillis(NOW.0 + 9)).await.unwrap(), [older, newer]);
        assert_eq!(store.peppers(UnixMillis(NOW.0 + 10)).await.unwrap(), [newer]);
    });
}

pub(crate) fn a_rotation_is_all_or_nothing<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app, old) = seed(&store).await;
        let taken = key(2, &app);
        store.commit(create(&taken), audit("create")).await.unwrap();
        let log = store.audit(all()).await.unwrap();
        let stale = Key { version: Version(1), ..old.clone() };
        let same_digest = Key { id: key_id(3), ..taken.clone() };
        let same_id = Key { digest: digest(3), ..taken.clone() };
        // It goes on counting.
        let (kept, new) = (old.clone(), key(3, &app));
        let beside = Write::RotateKey { old: kept, new, live_max: 1, now: NOW };
        for (write, why) in [
            (rotate(&stale, &key(3, &app), LIVE_MAX), "conflict"),
            (rotate(&old, &same_digest, LIVE_MAX), "already exists"),
            (rotate(&old, &same_id, LIVE_MAX), "already exists"),
            (beside, "too many live keys"),
        ] {
            assert_eq!(refused(&store, write).await, why);
            assert_eq!(store.keys(app.id, all()).await.unwrap(), [old.clone(), taken.clone()]);
            assert_eq!(store.key(key_id(3)).await.unwrap(), None);
            assert_eq!(store.find(digest(3)).await.unwrap(), None);
            assert_eq!(store.peppers(NOW).await.unwrap(), [old.pepper.unwrap()]);
            assert_eq!(store.audit(all()).await.unwrap(), log);
        }
    });
}

pub(crate) fn a_rotation_that_is_refused_says_why<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app1, old) = seed(&store).await;
        let app2 = app(2, &account(2));
        store.commit(Write::CreateAccount(account(2)), audit("account")).await.unwrap();
        store.commit(Write::CreateApp(app2.clone()), audit("app")).await.unwrap();
        let new = key(2, &app1);
        for (old, new) in [
            // There is no such key.
            (key(3, &app1), new.clone()),
            // What names a key and whose it is never changes.
            (Key { digest: digest(9), ..old.clone() }, new.clone()),
            (Key { pepper: None, ..old.clone() }, new),
            // The successor is in the same app.
            (old.clone(), key(2, &app2)),
            (old, Key { account: account_id(2), ..key(2, &app1) }),
        ] {
            assert_eq!(refused(&store, rotate(&old, &new, LIVE_MAX)).await, "not found");
        }
        assert_eq!(store.keys(app1.id, all()).await.unwrap().len(), 1);
        assert_eq!(store.keys(app2.id, all()).await.unwrap(), []);
    });
}

pub(crate) fn a_key_that_has_a_successor_does_not_count_against_the_cap<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (_, app, first) = seed(&store).await;
        let second = key(2, &app);
        store.commit(create(&second), audit("create")).await.unwrap();
        // Two, and each gives way to another, even if there are more than there may be by now.
        for (old, new, live_max) in [(&first, key(3, &app), 2), (&second, key(4, &app), 1)] {
            store.commit(rotate(old, &new, live_max), audit("rotate")).await.unwrap();
        }
        let fifth = Write::CreateKey { key: key(5, &app), live_max: 2, now: NOW };
        let error = store.commit(fifth, audit("create")).await.unwrap_err();
        assert!(matches!(error, StoreError::TooManyLiveKeys { live: 2 }), "{error:?}");
        // One in its overlap can be changed, and given up, whatever the cap.
        let renamed = Key { name: None, ..rotated(&first, &key(3, &app), 2).0 };
        let update = |key| Write::UpdateKey { key, live_max: 0, now: NOW };
        store.commit(update(renamed.clone()), audit("rename")).await.unwrap();
        let renamed = Key { version: renamed.version.next(), ..renamed };
        store.commit(update(revoked(&renamed)), audit("revoke")).await.unwrap();
    });
}

pub(crate) fn one_of_many_rotations_of_a_key_wins<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = Arc::new(make().await);
        let (_, app, old) = seed(&*store).await;
        let mut rotations = tokio::task::JoinSet::new();
        for n in 2..22 {
            let store = Arc::clone(&store);
            let write = rotate(&old, &key(n, &app), LIVE_MAX);
            rotations.spawn(async move {
                store.commit(write, audit("rotate")).await.map(|_| key_id(n))
            });
        }
        let results = rotations.join_all().await;
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(lost.iter().all(|lost| kind(lost.as_ref().unwrap_err()) == "conflict"));
        let [new] = won.try_into().unwrap();
        let keys = store.keys(app.id, all()).await.unwrap();
        let rotated = |key: &Key| (key.rotated_to, key.rotated_from);
        let expected = [(Some(*new.as_ref().unwrap()), None), (None, Some(old.id))];
        assert_eq!(keys.iter().map(rotated).collect::<Vec<_>>(), expected);
        assert_eq!(keys[1].id, new.unwrap());
    });
}
