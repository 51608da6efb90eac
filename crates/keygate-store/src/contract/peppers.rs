//! What every store promises about the peppers that keys need.

use super::*;

pub(crate) fn the_peppers_in_use_are_known<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app, first) = seed(&store).await;
        let newer = PepperId::from_bytes([9; 8]);
        let oldest = first.pepper.unwrap();
        let second = Key { pepper: Some(newer), ..key(2, &app) };
        let third = Key { pepper: Some(newer), ..key(3, &app) };
        store.commit(create(&second), audit("create")).await.unwrap();
        store.commit(create(&third), audit("create")).await.unwrap();
        assert_eq!(store.peppers(NOW).await.unwrap(), [oldest, newer]);
    });
}

pub(crate) fn a_pepper_that_no_live_key_needs_can_be_retired<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (_, app, first) = seed(&store).await;
        let [oldest, newest] = [PepperId::from_bytes([0; 8]), PepperId::from_bytes([0xff; 8])];
        let middle = first.pepper.unwrap();
        let ends = Some(UnixMillis(NOW.0 + 10));
        let disabled = Key {
            pepper: Some(oldest),
            expires_at: None,
            status: KeyStatus::Disabled,
            ..key(2, &app)
        };
        let expiring = Key { pepper: Some(newest), expires_at: ends, ..key(3, &app) };
        store.commit(create(&disabled), audit("create")).await.unwrap();
        store.commit(create(&expiring), audit("create")).await.unwrap();
        let before = UnixMillis(NOW.0 + 9);
        let after = UnixMillis(NOW.0 + 10);
        assert_eq!(store.peppers(before).await.unwrap(), [oldest, middle, newest]);
        assert_eq!(store.peppers(after).await.unwrap(), [oldest, middle]);

        store.commit(update(revoked(&first)), audit("revoke")).await.unwrap();
        assert_eq!(store.peppers(after).await.unwrap(), [oldest]);
        let extended = Key { expires_at: None, ..expiring };
        store.commit(update(extended.clone()), audit("extend")).await.unwrap();
        assert_eq!(store.peppers(after).await.unwrap(), [oldest, newest]);
        store.commit(update(revoked(&disabled)), audit("revoke")).await.unwrap();
        let extended = Key { version: Version(1), ..extended };
        store.commit(update(revoked(&extended)), audit("revoke")).await.unwrap();
        assert_eq!(store.peppers(before).await.unwrap(), []);
    });
}

pub(super) async fn counts<S: KeyStore>(store: &S, now: u64) -> Vec<(PepperId, u64)> {
    let counts = store.pepper_counts(UnixMillis(now)).await.unwrap();
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

pub(crate) fn pepper_counts_say_how_many_keys_need_each<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        assert_eq!(counts(&store, NOW.0).await, []);
        let (_, app, first) = seed(&store).await;
        let [oldest, newest] = [PepperId::from_bytes([0; 8]), PepperId::from_bytes([0xff; 8])];
        let middle = first.pepper.unwrap();
        let ends = |at| Some(UnixMillis(NOW.0 + at));
        let keys = [
            Key { pepper: Some(oldest), expires_at: ends(10), ..key(2, &app) },
            Key { pepper: Some(oldest), expires_at: None, ..key(3, &app) },
            Key { pepper: Some(newest), expires_at: ends(1), ..key(4, &app) },
            Key { pepper: Some(newest), status: KeyStatus::Disabled, ..key(5, &app) },
        ];
        for key in &keys {
            store.commit(create(key), audit("create")).await.unwrap();
        }
        assert_eq!(counts(&store, NOW.0).await, [(oldest, 2), (middle, 1), (newest, 2)]);
        assert_eq!(counts(&store, NOW.0 + 1).await, [(oldest, 2), (middle, 1), (newest, 1)]);
        assert_eq!(counts(&store, NOW.0 + 10).await, [(oldest, 1), (middle, 1), (newest, 1)]);

        store.commit(update(revoked(&first)), audit("revoke")).await.unwrap();
        assert_eq!(counts(&store, NOW.0).await, [(oldest, 2), (newest, 2)]);
    });
}

pub(crate) fn a_key_of_another_system_needs_no_pepper<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account, app, _) = seed(&store).await;
        let made = Key { pepper: None, ..key(2, &app) };
        let imported = Key { pepper: None, ..key(3, &app) };
        store.commit(create(&made), audit("create")).await.unwrap();
        let records = vec![crate::keys::StoredRecord::Key(imported.clone())];
        store.import(records, audit("import")).await.unwrap();
        for key in [&made, &imported] {
            let (app, account) = (app.clone(), account.clone());
            let owned = OwnedKey { key: key.clone(), app, account };
            assert_eq!(store.find(key.digest).await.unwrap(), Some(owned));
        }
        let pepper = key(1, &app).pepper.unwrap();
        assert_eq!(store.peppers(NOW).await.unwrap(), [pepper]);
        assert_eq!(counts(&store, NOW.0).await, [(pepper, 1)]);

        let given_one = update(Key { pepper: Some(pepper), ..made.clone() });
        assert_eq!(refused(&store, given_one).await, "not found");
        store.commit(update(revoked(&made)), audit("revoke")).await.unwrap();
        assert_eq!(counts(&store, NOW.0).await, [(pepper, 1)]);
        // They count against the cap as others do.
        let third = |live_max| Write::CreateKey { key: key(4, &app), live_max, now: NOW };
        assert_eq!(refused(&store, third(2)).await, "too many live keys");
        store.commit(third(3), audit("create")).await.unwrap();
    });
}
