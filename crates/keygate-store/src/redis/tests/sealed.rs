//! The chain of the log when several gateways write to it, of several versions, and after damage.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::{Script, Value};
use tokio::task::JoinSet;

use super::*;
use crate::audit::{Finding, Link, Verifier};
use crate::codec::Record;
use crate::contract::run;
use crate::keys::{ChangeNumber, KeyStore, Page, Write};
use crate::records::Logged;
use crate::testing::{account, audit, seed};

async fn log(store: &RedisStore) -> Vec<Logged> {
    store.audit(Page { after: None, limit: 10_000 }).await.unwrap()
}

fn findings(mut verifier: Verifier, log: &[Logged]) -> Vec<Finding> {
    log.iter().flat_map(|logged| verifier.check(logged)).collect()
}

async fn note(store: &RedisStore) -> ChangeNumber {
    store.commit(Write::Note, audit("note")).await.unwrap()
}

#[test]
fn gateways_that_write_at_once_make_one_chain() {
    run(async {
        let fixture = Fixture::new();
        let mut tasks = JoinSet::new();
        for gateway in ["a", "b", "c"] {
            let store = Arc::new(fixture.gateway(gateway).await);
            for n in 0..60 {
                let (store, entry) = (Arc::clone(&store), audit(&format!("{gateway} {n}")));
                tasks.spawn(async move { store.commit(Write::Note, entry).await.unwrap() });
            }
        }
        tasks.join_all().await;
        let log = log(&fixture.store().await).await;
        assert_eq!(log.len(), 180);
        assert!(log.iter().all(|logged| logged.seal.is_some()));
        assert_eq!(findings(Verifier::from_start(), &log), []);
    });
}

#[test]
fn after_an_entry_of_a_gateway_that_writes_no_links_a_chain_begins() {
    run(async {
        let fixture = Fixture::new();
        let stores = [fixture.gateway("a").await, fixture.gateway("b").await];
        seed(&stores[0]).await;
        fixture.commit_as_version_1(4).await;
        for store in &stores {
            note(store).await;
        }
        fixture.commit_as_version_1(7).await;
        fixture.commit_as_version_1(8).await;
        note(&stores[0]).await;

        let log = log(&stores[1]).await;
        let sealed: Vec<_> = log.iter().map(|logged| logged.seal.is_some()).collect();
        let expected = [true, true, true, false, true, true, false, false, true];
        assert_eq!(sealed, expected);
        for first in [4, 8].map(|place| &log[place]) {
            let seal = first.seal.as_ref().unwrap();
            assert_eq!(seal.link, Link::START.next(first.number, &seal.bytes));
        }
        let unsealed = [4, 7, 8].map(|n| Finding::Unsealed { number: ChangeNumber(n) });
        assert_eq!(findings(Verifier::from_start(), &log), unsealed);
    });
}

#[test]
fn a_store_that_went_back_to_an_earlier_state_goes_on_with_that_chain() {
    run(async {
        let fixture = Fixture::new();
        let stores = [fixture.gateway("a").await, fixture.gateway("b").await];
        seed(&stores[0]).await;
        let before = fixture.everything().await;
        let lost = note(&stores[0]).await;
        note(&stores[1]).await;
        let lost_log = log(&stores[0]).await;

        fixture.empty().await;
        for (name, value) in before {
            let Value::BulkString(value) = value else { panic!("a dump is bytes") };
            fixture.ask::<()>(&[b"RESTORE", &name, b"0", &value]).await;
        }
        let other = audit("something else");
        assert_eq!(stores[1].commit(Write::Note, other).await.unwrap(), lost);
        for store in &stores {
            note(store).await;
        }
        let log = log(&stores[0]).await;
        assert_eq!(log.len(), 6);
        assert_eq!(findings(Verifier::from_start(), &log), []);
        // Who kept a link of what was lost is told.
        let kept = lost_log[3].seal.as_ref().unwrap().link;
        let verifier = Verifier::from_start().expecting(lost, kept);
        assert_eq!(findings(verifier, &log), [Finding::NotAsKept { number: lost }]);
    });
}

#[test]
fn a_store_that_was_emptied_begins_a_chain() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        seed(&store).await;
        fixture.empty().await;
        let entry = || store.commit(Write::Note, audit("note"));
        until("the store is there again", async || entry().await.is_ok()).await;
        note(&store).await;
        let log = log(&store).await;
        assert_eq!(log[0].number, ChangeNumber(1));
        assert_eq!(findings(Verifier::from_start(), &log), []);
    });
}

#[test]
fn a_log_that_outlived_its_description_goes_on_with_its_chain() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        seed(&store).await;
        fixture.ask::<()>(&[b"DEL", &fixture.name(b"meta")]).await;
        until("the description is made again", async || {
            store.commit(Write::Note, audit("note")).await.is_ok()
        })
        .await;
        let log = log(&store).await;
        assert_eq!(log.len(), 4);
        assert_eq!(findings(Verifier::from_start(), &log), []);
    });
}

#[test]
fn what_is_kept_of_a_long_log_verifies() {
    run(async {
        let fixture = Fixture { log_max: 50, ..Fixture::new() };
        let store = Arc::new(fixture.store().await);
        let mut tasks = JoinSet::new();
        for _ in 0..400 {
            let store = Arc::clone(&store);
            tasks.spawn(async move { note(&store).await });
        }
        tasks.join_all().await;
        let log = log(&store).await;
        assert!(log[0].number > ChangeNumber(100), "{:?}", log[0].number);
        assert_eq!(log.last().unwrap().number, ChangeNumber(400));
        assert_eq!(findings(Verifier::from_first_kept(), &log), []);
    });
}

#[test]
fn an_entry_that_was_edited_in_the_server_is_found() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        for _ in 0..3 {
            note(&store).await;
        }
        // A stream's entries cannot be edited, but the stream can be written anew.
        let name = fixture.name(b"log");
        let entries: redis::streams::StreamRangeReply =
            fixture.ask(&[b"XRANGE", &name, b"-", b"+"]).await;
        fixture.ask::<()>(&[b"DEL", &name]).await;
        for entry in entries.ids {
            let mut words = vec![b"XADD".to_vec(), name.clone(), entry.id.clone().into_bytes()];
            for field in ["m", "p", "t", "s", "a", "h"] {
                let mut value = entry.get::<Vec<u8>>(field).unwrap();
                if field == "a" && entry.id == "2-0" {
                    value = audit("nothing").encode().unwrap();
                }
                words.extend([field.as_bytes().to_vec(), value]);
            }
            let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
            fixture.ask::<String>(&words).await;
        }
        let altered = Finding::Altered { number: ChangeNumber(2) };
        assert_eq!(findings(Verifier::from_start(), &log(&store).await), [altered]);
        // A link of another length is damage.
        let words: [&[u8]; 7] = [b"XADD", &name, b"4-0", b"a", b"{}", b"h", b"short"];
        fixture.ask::<String>(&words).await;
        let unreadable = Finding::Unreadable { number: ChangeNumber(4) };
        assert_eq!(findings(Verifier::from_start(), &log(&store).await), [altered, unreadable]);
    });
}

#[test]
fn the_server_hashes_as_this_program_does() {
    let fixture = Fixture::new();
    let script = [include_str!("../sha256.lua"), "return sha256(ARGV[1])"].concat();
    let texts = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        // What a link is made of.
        proptest::collection::vec(any::<u8>(), 72),
        (0usize..300).prop_map(|length| vec![0xff; length]),
    ];
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connection = runtime.block_on(connect(fixture.port));
    let script = Script::new(&script);
    runner
        .run(&texts, |text| {
            let mut connection = connection.clone();
            let call = script.arg(text.as_slice());
            let hash = runtime.block_on(call.invoke_async::<Vec<u8>>(&mut connection)).unwrap();
            prop_assert_eq!(hash, keygate_core::key::sha256(&text));
            Ok(())
        })
        .unwrap();
}

impl Fixture {
    /// What a gateway that knows no links does to carry out a change that changes nothing.
    async fn commit_as_version_1(&self, number: u64) {
        let (id, number) = (format!("{number}-0"), number.to_string());
        let (mark, nobody) = (b"00000000000000aa", account(0).id.to_string());
        let entry = audit("note").encode().unwrap();
        let [log, meta] = [b"log".as_slice(), b"meta"].map(|name| self.name(name));
        let mut change = redis::pipe();
        change.atomic();
        change.cmd("XADD").arg(&log).arg(id).arg("m").arg(mark).arg("p").arg(mark);
        change.arg("t").arg(1).arg("s").arg(nobody).arg("a").arg(entry).ignore();
        change.cmd("HSET").arg(&meta).arg("seq").arg(number).arg("mark").arg(mark).ignore();
        change.query_async::<()>(&mut connect(self.port).await).await.unwrap();
    }

    /// Takes all of it away, but what gateways write again by themselves.
    async fn empty(&self) {
        for (name, _) in self.everything().await {
            self.ask::<()>(&[b"DEL", &name]).await;
        }
    }
}

#[test]
fn an_entry_of_another_shape_is_named_and_the_others_are_read() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        note(&store).await;
        let name = fixture.name(b"log");
        fixture.ask::<String>(&[b"XADD", &name, b"1-7", b"x", b"y"]).await;
        note(&store).await;
        let log = log(&store).await;
        assert_eq!(log.len(), 3);
        assert!(log[1].entry.is_unreadable());
        assert!(!log[0].entry.is_unreadable() && !log[2].entry.is_unreadable());
    });
}
