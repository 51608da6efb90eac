//! What several gateways make of one store.

use redis::streams::StreamRangeReply;
use redis::{ProtocolVersion, PushInfo, PushKind, Value};
use tokio::task::JoinSet;

use super::super::change::Change;
use super::*;
use crate::contract::run;
use crate::fleet::Member;
use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, StoredRecord, Subject, Write};
use crate::records::{Account, Version};
use crate::subject::SubjectText;
use crate::testing::{LIVE_MAX, account, app, audit, create, key, revoked, seed, update};

fn all<T>() -> Page<T> {
    Page { after: None, limit: 10_000 }
}

#[test]
fn changes_of_two_gateways_at_once_are_numbered_without_gaps() {
    run(async {
        let fixture = Fixture::new();
        let stores = [fixture.gateway("a").await, fixture.gateway("b").await].map(Arc::new);
        let mut tasks = JoinSet::new();
        for n in 0..200 {
            let store = Arc::clone(&stores[usize::from(n % 2 == 1)]);
            let write = match n % 10 {
                // Both make the same one.
                0 | 1 => Write::CreateAccount(account(n / 2 * 2)),
                _ => Write::CreateAccount(account(n)),
            };
            tasks.spawn(async move { store.commit(write, audit(&n.to_string())).await });
        }
        let results = tasks.join_all().await;
        let mut numbers: Vec<_> = results.iter().flatten().map(|number| number.0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=180).collect::<Vec<_>>());
        let refused = results.iter().filter_map(|result| result.as_ref().err());
        assert!(refused.clone().all(|error| matches!(error, StoreError::AlreadyExists)));
        let log = stores[0].audit(all()).await.unwrap();
        assert_eq!(log.iter().map(|logged| logged.number.0).collect::<Vec<_>>(), numbers);
    });
}

#[test]
fn the_cap_and_the_version_hold_between_gateways() {
    run(async {
        let fixture = Fixture::new();
        let stores = [fixture.gateway("a").await, fixture.gateway("b").await].map(Arc::new);
        let (account1, app1, _) = seed(&*stores[0]).await;
        let mut tasks = JoinSet::new();
        for n in 2..42 {
            let store = Arc::clone(&stores[usize::from(n % 2 == 1)]);
            let write = create(&key(n, &app1));
            tasks.spawn(async move { store.commit(write, audit("create")).await.is_ok() });
        }
        let created = tasks.join_all().await.into_iter().filter(|created| *created).count();
        assert_eq!(created, LIVE_MAX as usize - 1);

        let mut tasks = JoinSet::new();
        for n in 0..40 {
            let store = Arc::clone(&stores[n % 2]);
            let renamed = Account { name: n.to_string(), ..account1.clone() };
            let write = Write::UpdateAccount(renamed);
            tasks.spawn(async move { store.commit(write, audit("rename")).await });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let refused = results.iter().filter_map(|result| result.as_ref().err());
        assert!(refused.clone().all(|error| matches!(error, StoreError::Conflict)));
        let stored = stores[1].account(account1.id).await.unwrap().unwrap();
        assert_eq!(stored.version, Version(1));
    });
}

#[test]
fn imports_of_the_same_records_by_two_gateways_write_each_once() {
    run(async {
        let fixture = Fixture::new();
        let stores = [fixture.gateway("a").await, fixture.gateway("b").await].map(Arc::new);
        let app1 = app(1, &account(1));
        let parents = [StoredRecord::Account(account(1)), StoredRecord::App(app1.clone())];
        let keys = (0..100).map(|n| StoredRecord::Key(key(n, &app1)));
        let records: Vec<_> = parents.into_iter().chain(keys).collect();
        let mut tasks = JoinSet::new();
        for store in stores.clone() {
            let records = records.clone();
            tasks.spawn(async move { store.import(records, audit("import")).await.unwrap() });
        }
        let imported = tasks.join_all().await;
        assert_eq!(imported.iter().map(|imported| imported.created).sum::<u64>(), 102);
        assert_eq!(imported.iter().map(|imported| imported.unchanged).sum::<u64>(), 102);
        assert_eq!(stores[0].keys(app1.id, all()).await.unwrap().len(), 100);
        assert_eq!(stores[0].audit(all()).await.unwrap().len(), 1);
    });
}

#[test]
fn a_change_is_published_as_it_is_logged() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel::<PushInfo>();
        let mut info =
            redis::IntoConnectionInfo::into_connection_info(("127.0.0.1", fixture.port)).unwrap();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        info = info.set_redis_settings(settings);
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let client = redis::Client::open(info).unwrap();
        let mut listener =
            client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        listener.subscribe(fixture.name(b"changes")).await.unwrap();

        let (account, app, key) = seed(&store).await;
        store.commit(update(revoked(&key)), audit("revoke")).await.unwrap();
        store.import(vec![StoredRecord::Account(self::account(9))], audit("import")).await.unwrap();
        let mut told = Vec::new();
        while told.len() < 5 {
            let push = messages.recv().await.unwrap();
            if let (PushKind::Message, Some(Value::BulkString(text))) =
                (push.kind, push.data.get(1))
            {
                told.push(String::from_utf8(text.clone()).unwrap().parse::<Change>().unwrap());
            }
        }
        let subject = Subject::Key(key.digest);
        let subjects = [
            Subject::Account(account.id),
            Subject::App(app.id),
            subject,
            subject,
            Subject::Unknown,
        ];
        assert_eq!(told.iter().map(|change| change.subject).collect::<Vec<_>>(), subjects);
        let numbers: Vec<_> = told.iter().map(|change| change.place.number).collect();
        assert_eq!(numbers, (1..=5).map(ChangeNumber).collect::<Vec<_>>());
        assert!(told.windows(2).all(|pair| pair[1].after == pair[0].place.mark));

        let log: StreamRangeReply =
            fixture.ask(&[b"XRANGE", &fixture.name(b"log"), b"-", b"+"]).await;
        for (entry, change) in log.ids.iter().zip(&told) {
            let field = |name: &str| entry.get::<String>(name).unwrap();
            assert_eq!(entry.id, format!("{}-0", change.place.number.0));
            assert_eq!(field("m"), change.place.mark.to_string());
            assert_eq!(field("p"), change.after.to_string());
            assert_eq!(field("t"), change.at_micros.to_string());
            assert_eq!(field("s"), SubjectText(change.subject).to_string());
        }
    });
}

#[test]
fn the_fleet_is_all_gateways_that_reported_not_long_ago() {
    run(async {
        let fixture = Fixture::new();
        let fleet = fixture.name(b"fleet");
        let gone = br#"{"v":1,"name":"x","version":"1","started_at":1,"link":"live","applied":1,"seen_at":1}"#;
        let first = fixture.gateway("a").await;
        until("the first has reported", async || !members(&first).await.is_empty()).await;
        fixture.ask::<u64>(&[b"HSET", &fleet, b"old", gone]).await;
        fixture
            .ask::<u64>(&[b"HSET", &fleet, b"strange", br#"{"v":2,"seen_at":9999999999999}"#])
            .await;
        assert_eq!(members(&first).await.len(), 1);

        let second = fixture.gateway("b").await;
        seed(&second).await;
        until("both have followed", async || {
            let members = members(&first).await;
            members.len() == 2 && members.iter().all(|member| member.applied == ChangeNumber(3))
        })
        .await;
        let fleet_now = second.fleet().await.unwrap().unwrap();
        assert_eq!(fleet_now.newest, ChangeNumber(3));
        assert!(fleet_now.members.iter().all(|member| member.seen_at <= fleet_now.now));
        let [a, b] = fleet_now.members.try_into().unwrap();
        assert_eq!([a.gateway.id.as_str(), b.gateway.id.as_str()], ["a", "b"]);
        assert_eq!(a.gateway.name, "a \"quoted\" machine");
        assert_eq!((a.gateway.version.as_str(), a.gateway.started_at), ("1.2.3", UnixMillis(7)));
        // The newcomer has cleared away what was old, and only that.
        let mut ids: Vec<String> = fixture.ask(&[b"HKEYS", &fleet]).await;
        ids.sort_unstable();
        assert_eq!(ids, ["a", "b", "strange"]);
    });
}

async fn members(store: &RedisStore) -> Vec<Member> {
    store.fleet().await.unwrap().unwrap().members
}
