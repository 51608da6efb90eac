//! What lies in Redis of what was used: it is forgotten in time, damage ends with the next batch, and who
//! reads is not misled by what changes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use keygate_core::UnixMillis;

use super::{Fixture, RedisStore, connect};
use crate::codec::usage::encode_last;
use crate::contract::run;
use crate::keys::{KeyStore, StoreError};
use crate::testing::key_id;
use crate::usage::records::{
    LastUse, Retention, SourceId, Spender, Step, UsageBatch, UsageCounts, UsageQuery, UsageRow,
};

/// Noon on the first day of 2100.
const NOON: u64 = 4_102_444_800_000 + 43_200_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

const KEEP: Retention = Retention { minutes: HOUR, hours: DAY, days: 9 * DAY };

async fn add(store: &RedisStore, number: u64) {
    add_keeping(store, number, KEEP).await;
}

async fn add_keeping(store: &RedisStore, number: u64, keep: Retention) {
    let counts = UsageCounts { requests: 1, ..UsageCounts::default() };
    let batch = UsageBatch {
        source: SourceId(7),
        number,
        after_loss: false,
        minute: UnixMillis(NOON),
        rows: vec![UsageRow { key: key_id(1), route: "a".into(), counts, last: None }],
    };
    store.add_usage(Arc::new(batch), keep).await.unwrap();
}

fn name(fixture: &Fixture, kind: &[u8], number: u64, key: &[u8]) -> Vec<u8> {
    let number = u32::try_from(number).unwrap().to_be_bytes();
    fixture.name(&[kind, &number, key].concat())
}

#[test]
fn what_was_used_is_forgotten_by_redis_itself() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        add(&store, 1).await;
        let id = key_id(1).as_u128().to_be_bytes();
        let days = 32 * DAY;
        for (kind, run, keep) in [("um:", HOUR, HOUR), ("uh:", DAY, DAY), ("ud:", days, 9 * DAY)] {
            for key in [[].as_slice(), &id] {
                let name = name(&fixture, kind.as_bytes(), NOON / run, key);
                let left: u64 = fixture.ask(&[b"PTTL", &name]).await;
                let (seconds, micros): (u64, u64) = fixture.ask(&[b"TIME"]).await;
                let ends = seconds * 1_000 + micros / 1_000 + left;
                // So long after the last window of its run.
                let expected = (NOON / run + 1) * run + keep;
                assert!(ends.abs_diff(expected) < 60_000, "{kind} {ends} {expected}");
            }
        }
        let source = fixture.name(&[b"us:".as_slice(), &7u128.to_be_bytes()].concat());
        let left: u64 = fixture.ask(&[b"TTL", &source]).await;
        assert!((89 * 86_400..=90 * 86_400).contains(&left), "{left}");
        // For longer than anything is kept that it has sent.
        let keep = Retention { days: 400 * DAY, ..KEEP };
        add_keeping(&store, 2, keep).await;
        let left: u64 = fixture.ask(&[b"TTL", &source]).await;
        assert!((431 * 86_400..=432 * 86_400).contains(&left), "{left}");
    });
}

#[test]
fn a_line_that_is_damaged_begins_anew_and_holds_nothing_up() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        add(&store, 1).await;
        let id = key_id(1).as_u128().to_be_bytes();
        let name = name(&fixture, b"uh:", NOON / DAY, &id);
        // The first route, in the hour after noon.
        let field = (64 + 12).to_string();
        let line: String = fixture.ask(&[b"HGET", &name, field.as_bytes()]).await;
        assert_eq!(line, "1 0 0 0");
        fixture.ask::<()>(&[b"HSET", &name, field.as_bytes(), b"what is this"]).await;
        let query = UsageQuery {
            of: vec![Spender::Key(key_id(1))],
            route: None,
            step: Step::Hour,
            from: UnixMillis(NOON),
            to: UnixMillis(NOON + 1),
        };
        store.usage(query.clone()).await.unwrap_err();
        add(&store, 2).await;
        assert_eq!(store.usage(query).await.unwrap()[0].counts.requests, 1);
        assert_eq!(store.usage_number(SourceId(7)).await.unwrap(), 2);
    });
}

/// As when another primary, which lacks some of the routes, takes over between two commands: a number then
/// stands for another route.
#[test]
fn use_of_a_route_is_never_told_as_that_of_another() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let (all, routes) = (name(&fixture, b"uh:", NOON / DAY, &[]), fixture.name(b"ur"));
        let swapping = tokio::spawn({
            let mut connection = connect(fixture.port).await;
            async move {
                for [a, b] in [[1, 2], [2, 1]].into_iter().cycle().take(400) {
                    let mut swap = redis::pipe();
                    swap.atomic().hset_multiple(&routes, &[("a", a), ("b", b)]);
                    let fields = [(a * 64 + 12, "1 0 0 0"), (b * 64 + 12, "2 0 0 0")];
                    swap.hset_multiple(&all, &fields);
                    swap.exec_async(&mut connection).await.unwrap();
                    // Else somebody who reads might never find two answers alike.
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            }
        });
        let query = |route: Option<&str>| UsageQuery {
            of: vec![Spender::Everybody],
            route: route.map(Into::into),
            step: Step::Hour,
            from: UnixMillis(NOON),
            to: UnixMillis(NOON + 1),
        };
        let mut told = 0;
        while !swapping.is_finished() {
            for (route, requests) in [("a", 1), ("b", 2)] {
                match store.usage(query(Some(route))).await {
                    Ok(points) => {
                        assert!(points.iter().all(|at| at.counts.requests == requests));
                        told += points.len();
                    }
                    Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
                }
            }
        }
        assert!(told > 0);
        swapping.await.unwrap();
    });
}

/// As when a batch comes in between the two.
#[test]
fn a_last_use_that_is_later_than_its_time_is_told_whole() {
    run(async {
        let fixture = Fixture::new();
        let store = fixture.store().await;
        let last = LastUse { at: UnixMillis(NOON), address: None, route: Some("a".into()) };
        let id = key_id(1).as_u128().to_be_bytes();
        let line = encode_last(&last);
        fixture.ask::<()>(&[b"HSET", &fixture.name(b"uses"), &id, line.as_bytes()]).await;
        fixture.ask::<()>(&[b"HSET", &fixture.name(b"used"), &id, b"7"]).await;
        assert_eq!(store.last_used(vec![key_id(1)]).await.unwrap(), [Some(last)]);
    });
}
