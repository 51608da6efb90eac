//! What every store promises about when keys were last used.

use super::*;

pub(crate) fn the_last_use_of_a_key_is_its_latest<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app, _) = seed(&store).await;
        for n in 2..4 {
            store.commit(create(&key(n, &app)), audit("create")).await.unwrap();
        }
        let all_keys = || [3, 1, 2, 1].map(key_id).to_vec();
        assert_eq!(last_times(&store, all_keys()).await, [None; 4]);
        assert_eq!(last_times(&store, vec![]).await, []);

        let at = UnixMillis;
        mark_used(&store, vec![(key_id(1), at(50)), (key_id(2), at(60))]).await;
        let expected = [None, Some(at(50)), Some(at(60)), Some(at(50))];
        assert_eq!(last_times(&store, all_keys()).await, expected);

        // Another gateway's word, which is older for one of them; and twice the same key.
        let uses = vec![(key_id(2), at(59)), (key_id(1), at(51)), (key_id(1), at(49))];
        mark_used(&store, uses).await;
        mark_used(&store, vec![]).await;
        let expected = [None, Some(at(51)), Some(at(60)), Some(at(51))];
        assert_eq!(last_times(&store, all_keys()).await, expected);

        // No change of a record, and no entry in the log.
        assert_eq!(store.key(key_id(1)).await.unwrap(), Some(key(1, &app)));
        assert_eq!(store.audit(all()).await.unwrap().len(), 5);
    });
}

pub(crate) fn uses_of_keys_that_are_unknown_do_no_harm<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        mark_used(&store, vec![(key_id(1), UnixMillis(7))]).await;
        let (_, app, _) = seed(&store).await;
        assert_eq!(store.keys(app.id, all()).await.unwrap(), [key(1, &app)]);
        assert_eq!(store.key(key_id(2)).await.unwrap(), None);
        assert_eq!(last_times(&store, vec![key_id(2)]).await, [None]);
        mark_used(&store, vec![(key_id(1), UnixMillis(8))]).await;
        assert_eq!(last_times(&store, vec![key_id(1)]).await, [Some(UnixMillis(8))]);
    });
}

pub(crate) fn the_uses_of_many_keys_are_noted_at_once<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = Arc::new(make().await);
        let uses = |by: u64| (0..2_000).map(move |n| (key_id(n), UnixMillis(1_000 + n % 7 * by)));
        let mut marks = tokio::task::JoinSet::new();
        for by in [1, 3, 2] {
            let (store, uses) = (Arc::clone(&store), uses(by).collect());
            marks.spawn(async move { mark_used(&*store, uses).await });
        }
        marks.join_all().await;
        let noted = last_times(&*store, (0..2_000).map(key_id).collect()).await;
        assert!(noted.into_iter().eq(uses(3).map(|(_, at)| Some(at))));
    });
}
