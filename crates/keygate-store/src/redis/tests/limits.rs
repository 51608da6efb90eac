//! A server that has no room, that lost something, or that has too few replicas.

use super::super::layout::Names;
use super::super::primary::{Connections, Primary, Times};
use super::super::{import, write};
use super::*;
use crate::contract::run;
use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, StoredRecord, Write};
use crate::records::{Account, Key, Metadata, Version};
use crate::testing::{account, account_id, audit, create, key, revoked, seed, update};
use crate::usage::records::{Retention, SourceId, UsageBatch, UsageCounts, UsageRow};

fn all<T>() -> Page<T> {
    Page { after: None, limit: 10_000 }
}

#[test]
fn a_trimmed_log_keeps_its_numbers() {
    run(async {
        let fixture = Fixture { log_max: 10, ..Fixture::new() };
        let store = fixture.store().await;
        for n in 0..200 {
            let number = store.commit(Write::CreateAccount(account(n)), audit("create")).await;
            assert_eq!(number.unwrap(), ChangeNumber(n + 1));
        }
        let log = store.audit(all()).await.unwrap();
        let numbers: Vec<_> = log.iter().map(|logged| logged.number.0).collect();
        assert!((10..150).contains(&numbers.len()), "{numbers:?}");
        let first = 201 - numbers.len() as u64;
        assert_eq!(numbers, (first..=200).collect::<Vec<_>>());
        let page = Page { after: Some(ChangeNumber(3)), limit: 2 };
        let next: Vec<_> =
            store.audit(page).await.unwrap().iter().map(|logged| logged.number.0).collect();
        assert_eq!(next, [first, first + 1]);
    });
}

#[test]
fn a_number_is_exact_however_long() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        fixture.ask::<u64>(&[b"HSET", &fixture.name(b"meta"), b"seq", b"4503599627370497"]).await;
        let number = store.commit(Write::CreateAccount(account(1)), audit("create")).await.unwrap();
        assert_eq!(number, ChangeNumber(4_503_599_627_370_498));
        let log = store.audit(all()).await.unwrap();
        assert_eq!((log.len(), log[0].number), (1, number));
        assert_eq!(log[0].entry, audit("create"));
    });
}

#[test]
fn a_server_that_forgot_the_scripts_is_given_them_again() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let forget = async || fixture.ask::<()>(&[b"SCRIPT", b"FLUSH"]).await;
        forget().await;
        let (account, app, key) = seed(&store).await;
        forget().await;
        assert!(store.find(key.digest).await.unwrap().is_some());
        forget().await;
        assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
        forget().await;
        assert_eq!(store.accounts(all()).await.unwrap(), [account]);
        assert_eq!(store.keys(app.id, all()).await.unwrap(), std::slice::from_ref(&key));
        forget().await;
        let number = store.commit(update(revoked(&key)), audit("revoke")).await.unwrap();
        assert_eq!(number, ChangeNumber(4));
    });
}

#[test]
fn a_store_that_lost_its_description_goes_on_with_its_numbers() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (_, app, _) = seed(&store).await;
        let meta = fixture.name(b"meta");
        let id: String = fixture.ask(&[b"HGET", &meta, b"id"]).await;
        fixture.ask::<u64>(&[b"DEL", &meta]).await;
        let again = fixture.store().await;
        let number = again.commit(create(&key(2, &app)), audit("create")).await.unwrap();
        assert_eq!(number, ChangeNumber(4));
        // It is another store, so that everybody forgets what they knew.
        assert_ne!(fixture.ask::<String>(&[b"HGET", &meta, b"id"]).await, id);
        let sees_four = async || store.audit(all()).await.is_ok_and(|log| log.len() == 4);
        until("the first has connected again", sees_four).await;
    });
}

/// Nobody but a link makes a store: the others would not know that it is another.
#[test]
fn nothing_is_written_to_a_store_that_is_not_there() {
    run(async {
        let fixture = Fixture::new();
        let names = Names::new(&fixture.prefix);
        let primary = primary(&fixture, 1).await;
        let write = Write::CreateAccount(account(1));
        let result = write::commit(&primary, &names, 10, &write, &audit("create")).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        let records = [StoredRecord::Account(account(1))];
        let result = import::import(&primary, &names, 10, &records, &audit("import")).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        assert_eq!(fixture.everything().await, []);

        // Nor to one of another format.
        fixture.ask::<u64>(&[b"HSET", &fixture.name(b"meta"), b"format", b"2", b"seq", b"5"]).await;
        let before = fixture.everything().await;
        let result = write::commit(&primary, &names, 10, &write, &audit("create")).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        assert_eq!(fixture.everything().await, before);
    });
}

/// A primary that nobody follows.
async fn primary(fixture: &Fixture, wait_replicas: u32) -> Primary {
    let long = Duration::from_secs(10);
    let primary = Primary::new(Times { find: long, write: long, wait_replicas, wait: long });
    let connection = connect(fixture.port).await;
    let others = [connection.clone(), connection.clone(), connection.clone()];
    let connections = Connections::new(vec![connection], others, fixture.name(b"fence"));
    primary.connect(Arc::new(connections));
    primary
}

#[test]
fn a_server_without_room_refuses_changes_whole_and_goes_on_reading() {
    run(async {
        let server = Server::start(&[]);
        let fixture = Fixture::on(&server);
        let store = fixture.store().await;
        let (_, app, key1) = seed(&store).await;
        fixture.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
        let before = fixture.everything().await;
        for write in [create(&key(2, &app)), update(revoked(&key1))] {
            let error = store.commit(write, audit("refused")).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        }
        // Use can wait: it must not take what is left.
        let counts = UsageCounts { requests: 1, ..UsageCounts::default() };
        let row = UsageRow { key: key1.id, route: "r".into(), counts, last: None };
        let (source, minute) = (SourceId(1), UnixMillis(60_000));
        let batch = UsageBatch { source, number: 1, after_loss: false, minute, rows: vec![row] };
        let keep = Retention { minutes: 1 << 42, hours: 0, days: 0 };
        let error = store.add_usage(Arc::new(batch.clone()), keep).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert_eq!(fixture.everything().await, before);
        assert!(store.find(key1.digest).await.unwrap().is_some());

        fixture.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;
        store.add_usage(Arc::new(batch), keep).await.unwrap();
        let number = store.commit(create(&key(2, &app)), audit("create")).await.unwrap();
        assert_eq!(number, ChangeNumber(4));
    });
}

#[test]
fn a_change_is_acknowledged_once_replicas_have_it() {
    run(async {
        let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
        let fixture = Fixture { wait_replicas: 1, ..Fixture::on(&server) };
        let store = fixture.store().await;
        let is_not_durable = |result: &Result<(), StoreError>| {
            matches!(result, Err(StoreError::NotDurable { replicas: 0, wanted: 1 }))
        };
        let write = Write::CreateAccount(account(1));
        let result = store.commit(write.clone(), audit("create")).await.map(drop);
        assert!(is_not_durable(&result), "{result:?}");
        // It has happened all the same, and to say so would be as wrong as before.
        assert!(store.account(account_id(1)).await.unwrap().is_some());
        let result = store.commit(write, audit("create")).await;
        assert!(matches!(result, Err(StoreError::AlreadyExists)), "{result:?}");
        let result = store.settle().await;
        assert!(is_not_durable(&result), "{result:?}");

        let port = server.port.to_string();
        let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
        let fixture = Fixture { wait_timeout: Duration::from_secs(10), ..fixture };
        let store = fixture.store().await;
        store.settle().await.unwrap();
        let renamed = Account { name: "new".to_owned(), version: Version(0), ..account(1) };
        let number = store.commit(Write::UpdateAccount(renamed), audit("rename")).await.unwrap();
        assert_eq!(number, ChangeNumber(2));
        let there = Fixture { port: replica.port, prefix: fixture.prefix.clone(), ..fixture };
        let seq: u64 = there.ask(&[b"HGET", &there.name(b"meta"), b"seq"]).await;
        assert_eq!(seq, 2);
    });
}

/// The server cuts off whom it owes more than that.
#[test]
fn a_list_of_large_records_comes_whole_in_bounded_answers() {
    run(async {
        let limit = ["--client-output-buffer-limit", "normal", "3mb", "0", "0"];
        let server = Server::start(&limit);
        let store = Fixture::on(&server).store().await;
        let (owner, app, first) = seed(&store).await;
        let metadata = Metadata::from([("text".to_owned(), "x".repeat(100_000))]);
        let accounts: Vec<_> =
            (2..62).map(|n| Account { metadata: metadata.clone(), ..account(n) }).collect();
        let keys: Vec<_> =
            (2..62).map(|n| Key { metadata: metadata.clone(), ..key(n, &app) }).collect();
        for account in &accounts {
            let record = StoredRecord::Account(account.clone());
            store.import(vec![record], audit("import")).await.unwrap();
        }
        for key in &keys {
            store.import(vec![StoredRecord::Key(key.clone())], audit("import")).await.unwrap();
        }
        assert_eq!(store.accounts(all()).await.unwrap(), [vec![owner], accounts].concat());
        let all_keys = [vec![first], keys].concat();
        assert_eq!(store.keys(app.id, all()).await.unwrap(), all_keys);
        let page = Page { after: Some(all_keys[2].id), limit: 30 };
        assert_eq!(store.keys(app.id, page).await.unwrap(), all_keys[3..33]);
    });
}
