//! Changes that are done once, and uses of keys, as only a shared store can get them wrong.

use tokio::task::JoinSet;

use super::*;
use crate::contract::run;
use crate::keys::{Done, KeyStore, MadeRecord, Page, StoreError, Write};
use crate::testing::{
    NOW, account, account_id, audit, create, key, key_id, last_times, mark_used, once, seed,
};

#[test]
fn four_gateways_that_are_asked_the_same_at_once_make_one_key() {
    run(async {
        let fixture = Fixture::new();
        let mut stores = Vec::new();
        for gateway in ["a", "b", "c", "d"] {
            stores.push(Arc::new(fixture.gateway(gateway).await));
        }
        let (_, app, _) = seed(&*stores[0]).await;
        let mut tasks = JoinSet::new();
        for n in 0..100 {
            for (place, store) in stores.iter().enumerate() {
                let (store, write) =
                    (Arc::clone(store), create(&key(10 + 4 * n + place as u64, &app)));
                tasks.spawn(async move {
                    store.commit_once(write, audit("create"), once(1, 1)).await.unwrap()
                });
            }
        }
        let done = tasks.join_all().await;
        let page = Page { after: None, limit: 1_000 };
        let made = stores[3].keys(app.id, page).await.unwrap();
        assert_eq!(made.len(), 2);
        let (now, before): (Vec<_>, Vec<_>) =
            done.into_iter().partition(|done| matches!(done, Done::Now(_)));
        assert_eq!((now.len(), before.len()), (1, 399));
        let expected = MadeRecord::Key(made[1].clone());
        assert!(before.into_iter().all(|done| {
            matches!(done, Done::Before(remembered) if remembered.made == expected)
        }));
    });
}

#[test]
fn who_repeats_a_change_that_replicas_lack_is_not_told_that_it_is_done() {
    run(async {
        let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
        let fixture = Fixture { wait_replicas: 1, ..Fixture::on(&server) };
        let store = fixture.store().await;
        let create =
            || store.commit_once(Write::CreateAccount(account(1)), audit("create"), once(1, 1));
        for _ in 0..2 {
            let result = create().await;
            assert!(matches!(result, Err(StoreError::NotDurable { .. })), "{result:?}");
        }
        let result = store.remembered([1; 32], NOW).await;
        assert!(matches!(result, Err(StoreError::NotDurable { .. })), "{result:?}");
        assert!(store.account(account_id(1)).await.unwrap().is_some());

        let port = server.port.to_string();
        let _replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
        let fixture = Fixture { wait_timeout: Duration::from_secs(10), ..fixture };
        let store = fixture.store().await;
        let create = Write::CreateAccount(account(1));
        let done = store.commit_once(create, audit("create"), once(1, 1)).await.unwrap();
        let made = MadeRecord::Account(account(1));
        assert!(matches!(done, Done::Before(remembered) if remembered.made == made));
        assert!(store.remembered([1; 32], NOW).await.unwrap().is_some());
    });
}

#[test]
fn the_server_drops_what_is_no_longer_remembered() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let name = fixture.name(&[b"o:".as_slice(), &[1; 32]].concat());
        for until in [NOW.0, NOW.0 + 1_000, u64::MAX] {
            let once = crate::keys::Once { until: UnixMillis(until), ..once(1, 1) };
            let write = Write::CreateAccount(account(until));
            store.commit_once(write, audit("create"), once).await.unwrap();
            let left: i64 = fixture.ask(&[b"PTTL", &name]).await;
            assert!(left > 0, "{left}");
            if until < u64::MAX {
                assert!(left <= 61_000, "{left}");
            }
            fixture.ask::<()>(&[b"DEL", &name]).await;
        }
    });
}

#[test]
fn uses_are_noted_beside_whatever_else_lies_there() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let meta: Vec<Vec<u8>> = fixture.ask(&[b"HGETALL", &fixture.name(b"meta")]).await;
        let uses = (0..2_500).map(|n| (key_id(n), UnixMillis(1_000 + n))).collect();
        mark_used(&store, uses).await;
        let noted: u64 = fixture.ask(&[b"HLEN", &fixture.name(b"used")]).await;
        assert_eq!(noted, 2_500);
        assert_eq!(fixture.ask::<Vec<Vec<u8>>>(&[b"HGETALL", &fixture.name(b"meta")]).await, meta);
        // A gateway of the version before knows the time alone, and sees ours.
        let id = key_id(2).as_u128().to_be_bytes();
        let seen: u64 = fixture.ask(&[b"HGET", &fixture.name(b"used"), &id]).await;
        assert_eq!(seen, 1_002);
        fixture.ask::<()>(&[b"HSET", &fixture.name(b"used"), &id, b"5000"]).await;
        assert_eq!(last_times(&store, vec![key_id(2)]).await, [Some(UnixMillis(5_000))]);
        // What is not ours is damage, and not a key that was never used.
        let id = key_id(1).as_u128().to_be_bytes();
        fixture.ask::<()>(&[b"HSET", &fixture.name(b"used"), &id, b"yesterday"]).await;
        let result = store.last_used(vec![key_id(0), key_id(1)]).await;
        assert!(matches!(result, Err(StoreError::Unreadable(_))), "{result:?}");
        // The next use puts it right.
        mark_used(&store, vec![(key_id(1), UnixMillis(6_000))]).await;
        assert_eq!(last_times(&store, vec![key_id(1)]).await, [Some(UnixMillis(6_000))]);
    });
}
