//! What every store promises about what keys have used.

use keygate_core::problem::Code;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::testing::MemoryStore;
use crate::usage::records::{
    BATCH_ROWS_MAX, LastUse, Retention, SourceId, Spender, Step, UsageBatch, UsageCounts,
    UsagePoint, UsageQuery, UsageRow,
};

mod reading;
pub(crate) use self::reading::*;

/// A day in the year 2100: a store may forget what has been over for long.
const DAY: u64 = 4_102_444_800_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY_LONG: u64 = 24 * HOUR;

const KEEP: Retention =
    Retention { minutes: 100 * DAY_LONG, hours: 100 * DAY_LONG, days: 100 * DAY_LONG };

fn source(n: u128) -> SourceId {
    SourceId(n << 64 | n)
}

fn counts(requests: u64) -> UsageCounts {
    UsageCounts {
        requests,
        cost: 3 * requests,
        bytes_in: 1_000 * requests,
        bytes_out: 1_000_000 * requests,
        refused: vec![(Code::PermissionDenied, 2 * requests)],
    }
}

fn row(key: u64, route: &str, counts: UsageCounts) -> UsageRow {
    UsageRow { key: key_id(key), route: route.into(), counts, last: None }
}

fn batch(source: SourceId, number: u64, minute: u64, rows: Vec<UsageRow>) -> Arc<UsageBatch> {
    let minute = UnixMillis(minute);
    Arc::new(UsageBatch { source, number, after_loss: false, minute, rows })
}

async fn read<S: KeyStore>(
    store: &S,
    of: Spender,
    step: Step,
    during: std::ops::Range<u64>,
) -> Vec<UsagePoint> {
    let (from, to) = (UnixMillis(during.start), UnixMillis(during.end));
    store.usage(UsageQuery { of: vec![of], route: None, step, from, to }).await.unwrap()
}

/// The requests that were noted on this day, of everybody, which those of the keys have to add up to.
async fn requests<S: KeyStore>(store: &S) -> u64 {
    let sum = |points: Vec<UsagePoint>| points.iter().map(|point| point.counts.requests).sum();
    let all: u64 = sum(read(store, Spender::Everybody, Step::Day, DAY..DAY + DAY_LONG).await);
    let mut of_keys = 0;
    for n in 0..4 {
        let of_key = read(store, Spender::Key(key_id(n)), Step::Minute, DAY..DAY + DAY_LONG).await;
        of_keys += sum(of_key);
    }
    assert_eq!(of_keys, all);
    all
}

pub(crate) fn a_batch_of_use_is_added_once_however_often_it_is_sent<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        assert_eq!(store.usage_number(source(1)).await.unwrap(), 0);
        assert_eq!(requests(&store).await, 0);
        let batch = |number, of| batch(source(1), number, DAY, vec![row(1, "a", counts(of))]);
        for (number, of, expected) in
            [(1, 1, 1), (1, 1, 1), (2, 10, 11), (1, 1, 11), (2, 10, 11), (3, 100, 111)]
        {
            store.add_usage(batch(number, of), KEEP).await.unwrap();
            assert_eq!(requests(&store).await, expected);
        }
        assert_eq!(store.usage_number(source(1)).await.unwrap(), 3);
        let point = UsagePoint {
            of: Spender::Key(key_id(1)),
            start: UnixMillis(DAY),
            route: "a".into(),
            counts: counts(111),
        };
        let found = read(&store, point.of, Step::Hour, DAY..DAY + 1).await;
        assert_eq!(found, [point]);

        // The same, sent by several who know nothing of each other.
        let store = Arc::new(store);
        let mut sends = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (store, batch) = (Arc::clone(&store), batch(4, 1_000));
            sends.spawn(async move { store.add_usage(batch, KEEP).await.unwrap() });
        }
        sends.join_all().await;
        assert_eq!(requests(&*store).await, 1_111);
        // Neither a change nor logged.
        assert_eq!(store.audit(all()).await.unwrap(), []);
    });
}

pub(crate) fn a_batch_of_use_waits_for_the_one_before_it<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let batch = |number| batch(source(1), number, DAY, vec![row(1, "a", counts(1))]);
        for early in [2, 3, u64::from(u32::MAX)] {
            let refused = store.add_usage(batch(early), KEEP).await.unwrap_err();
            assert_eq!(kind(&refused), "conflict");
        }
        store.add_usage(batch(1), KEEP).await.unwrap();
        let refused = store.add_usage(batch(3), KEEP).await.unwrap_err();
        assert_eq!(kind(&refused), "conflict");
        assert_eq!(store.usage_number(source(1)).await.unwrap(), 1);
        assert_eq!(requests(&store).await, 1);
        store.add_usage(batch(2), KEEP).await.unwrap();
        store.add_usage(batch(3), KEEP).await.unwrap();
        assert_eq!(requests(&store).await, 3);
    });
}

pub(crate) fn a_loss_that_the_source_knows_of_passes<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let batch = |number, after_loss| {
            let whole = batch(source(1), number, DAY, vec![row(1, "a", counts(1))]);
            Arc::new(UsageBatch { after_loss, ..(*whole).clone() })
        };
        store.add_usage(batch(40, true), KEEP).await.unwrap();
        assert_eq!(store.usage_number(source(1)).await.unwrap(), 40);
        // It is no way to be counted twice, and none to be in front of what is not lost.
        store.add_usage(batch(40, true), KEEP).await.unwrap();
        store.add_usage(batch(39, true), KEEP).await.unwrap();
        assert_eq!(requests(&store).await, 1);
        store.add_usage(batch(41, true), KEEP).await.unwrap();
        store.add_usage(batch(42, false), KEEP).await.unwrap();
        store.add_usage(batch(44, false), KEEP).await.unwrap_err();
        store.add_usage(batch(44, true), KEEP).await.unwrap();
        assert_eq!(requests(&store).await, 4);
    });
}

pub(crate) fn sources_of_use_do_not_know_each_other<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        for number in 1..4 {
            for from in [1, 2, u128::from(u64::MAX)] {
                let rows = vec![row(1, "a", counts(1)), row(2, "a", counts(1))];
                store.add_usage(batch(source(from), number, DAY, rows), KEEP).await.unwrap();
            }
        }
        assert_eq!(requests(&store).await, 18);
        assert_eq!(store.usage_number(source(2)).await.unwrap(), 3);
        assert_eq!(store.usage_number(source(3)).await.unwrap(), 0);
    });
}

pub(crate) fn use_lies_in_the_minute_the_hour_and_the_day<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        // On both sides of the borders of each step, and of a month.
        let minutes = [
            DAY - MINUTE,
            DAY,
            DAY + MINUTE,
            DAY + 59 * MINUTE,
            DAY + HOUR,
            DAY + DAY_LONG - MINUTE,
            DAY + DAY_LONG,
            DAY + 31 * DAY_LONG,
        ];
        for (number, minute) in (1..).zip(minutes) {
            let rows = vec![row(1, "a", counts(1 << number))];
            store.add_usage(batch(source(1), number, minute, rows), KEEP).await.unwrap();
        }
        let found = async |step, during: std::ops::Range<u64>| {
            let points = read(&store, Spender::Key(key_id(1)), step, during.clone()).await;
            let all = read(&store, Spender::Everybody, step, during).await.len();
            let part = points.iter().map(|point| (point.start.0, point.counts.requests));
            (part.collect::<Vec<_>>(), all)
        };
        let whole = DAY - DAY_LONG..DAY + 32 * DAY_LONG;
        let by_minute = minutes.into_iter().zip((1..).map(|number| 1 << number)).collect();
        assert_eq!(found(Step::Minute, whole.clone()).await, (by_minute, 8));
        let by_hour = vec![
            (DAY - HOUR, 2),
            (DAY, 4 + 8 + 16),
            (DAY + HOUR, 32),
            (DAY + 23 * HOUR, 64),
            (DAY + DAY_LONG, 128),
            (DAY + 31 * DAY_LONG, 256),
        ];
        assert_eq!(found(Step::Hour, whole.clone()).await, (by_hour, 6));
        let by_day = vec![
            (DAY - DAY_LONG, 2),
            (DAY, 4 + 8 + 16 + 32 + 64),
            (DAY + DAY_LONG, 128),
            (DAY + 31 * DAY_LONG, 256),
        ];
        assert_eq!(found(Step::Day, whole.clone()).await, (by_day, 4));

        // From the first window that begins within it, to the last.
        assert_eq!(found(Step::Hour, DAY..DAY + HOUR).await.0, [(DAY, 28)]);
        assert_eq!(found(Step::Hour, DAY + 1..DAY + HOUR + 1).await.0, [(DAY + HOUR, 32)]);
        assert_eq!(found(Step::Minute, DAY - 1..DAY + 1).await.0, [(DAY, 4)]);
        assert_eq!(found(Step::Day, DAY + 1..DAY + DAY_LONG).await.0, []);
        assert_eq!(found(Step::Day, DAY..DAY).await.0, []);
        let (later, earlier) = (DAY + DAY_LONG, DAY);
        assert_eq!(found(Step::Day, later..earlier).await.0, []);
    });
}

/// What a route may never be called, and what it may.
const ROUTES: [&str; 12] = [
    "",
    "orders",
    "orders.read",
    "Orders",
    " ",
    "a b",
    "7",
    "=cmd|' /C calc'!A0",
    "line\nbreak \0 nul",
    "\u{1f511} k\u{fc}rz",
    "{keygate}:used",
    "zzz 1 2 3 4",
];

pub(crate) fn use_is_found_by_its_route_however_that_is_called<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let long = "l".repeat(10_000);
        let routes: Vec<&str> = ROUTES.into_iter().chain([&*long]).collect();
        for number in 1..3 {
            let rows = (1..).zip(&routes).map(|(n, route)| row(1, route, counts(n))).collect();
            store.add_usage(batch(source(1), number, DAY, rows), KEEP).await.unwrap();
        }
        let of = Spender::Key(key_id(1));
        let (from, to) = (UnixMillis(DAY), UnixMillis(DAY + 1));
        for (n, route) in (1..).zip(&routes) {
            let query = UsageQuery {
                of: vec![of],
                route: Some((*route).into()),
                step: Step::Day,
                from,
                to,
            };
            let [found] = store.usage(query).await.unwrap().try_into().unwrap();
            assert_eq!((&*found.route, found.counts), (*route, counts(2 * n)));
        }
        let query =
            UsageQuery { of: vec![of], route: Some("order".into()), step: Step::Day, from, to };
        assert_eq!(store.usage(query).await.unwrap(), []);
        let mut sorted = routes.clone();
        sorted.sort_unstable();
        let found = read(&store, of, Step::Day, DAY..DAY + 1).await;
        assert!(found.iter().map(|point| &*point.route).eq(sorted));
    });
}

pub(crate) fn big_batches_of_use_are_added_whole<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        // Of so many keys, of so many routes, and of both.
        let keys = |n: u64| row(n, "a", counts(1));
        let routes = |n: u64| row(1, &format!("route {n}"), counts(1));
        let both = |n: u64| row(n % 40, &format!("route {}", n / 40), counts(1));
        // What an embedded store is sent may come to a Redis in the end, in batches larger than its own.
        let full = 4 * BATCH_ROWS_MAX as u64;
        for (number, rows) in [
            (1, (0..full).map(keys).collect()),
            (2, (0..full).map(routes).collect()),
            (3, (0..full).map(both).collect()),
            (4, vec![]),
        ] {
            store.add_usage(batch(source(1), number, DAY, rows), KEEP).await.unwrap();
        }
        assert_eq!(store.usage_number(source(1)).await.unwrap(), 4);
        let of = (0..full).rev().map(|n| Spender::Key(key_id(n))).collect::<Vec<_>>();
        let (from, to) = (UnixMillis(DAY), UnixMillis(DAY + 1));
        for step in Step::ALL {
            let query = UsageQuery { of: of.clone(), route: None, step, from, to };
            let found = store.usage(query).await.unwrap();
            let sum: u64 = found.iter().map(|point| point.counts.requests).sum();
            assert_eq!(sum, 3 * full);
            let everybody = read(&store, Spender::Everybody, step, DAY..DAY + 1).await;
            let sum: u64 = everybody.iter().map(|point| point.counts.requests).sum();
            assert_eq!((everybody.len() as u64, sum), (full + 1, 3 * full));
            let order = found.iter().map(|point| point.of).collect::<Vec<_>>();
            assert!(order.is_sorted_by(|a, b| a >= b), "in the order that was asked for");
        }
    });
}

/// A batch as it is sent, perhaps again.
#[derive(Clone, Debug)]
struct Sent {
    source: u128,
    /// So many before the one that comes next; beyond it, there is a gap.
    back: i64,
    after_loss: bool,
    minute: u64,
    rows: Vec<UsageRow>,
}

pub(crate) fn any_batches_of_use_add_up_as_in_the_model<S: KeyStore>(make: impl AsyncFn() -> S) {
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    runner
        .run(&proptest::collection::vec(any_sent(), 1..40), |sends| {
            run(async { check_sends(&make().await, sends).await });
            Ok(())
        })
        .unwrap();
}

async fn check_sends<S: KeyStore>(store: &S, sends: Vec<Sent>) {
    let model = MemoryStore::default();
    for sent in sends {
        let source = source(sent.source);
        let next = model.usage_number(source).await.unwrap() + 1;
        let number = next.saturating_add_signed(-sent.back).max(1);
        let batch = Arc::new(UsageBatch {
            source,
            number,
            after_loss: sent.after_loss,
            minute: UnixMillis(sent.minute),
            rows: sent.rows,
        });
        let expected = model.add_usage(Arc::clone(&batch), KEEP).await;
        let found = store.add_usage(Arc::clone(&batch), KEEP).await;
        assert_eq!(found.map_err(|e| kind(&e)), expected.map_err(|e| kind(&e)), "{batch:?}");
    }
    for n in 0..3 {
        let expected = model.usage_number(source(n)).await.unwrap();
        assert_eq!(store.usage_number(source(n)).await.unwrap(), expected);
    }
    let ids = || (0..3).map(key_id).collect();
    assert_eq!(store.last_used(ids()).await.unwrap(), model.last_used(ids()).await.unwrap());
    let keys = [2, 0, 1].map(|n| Spender::Key(key_id(n)));
    for step in Step::ALL {
        for (from, to) in [(DAY, DAY + 3 * DAY_LONG), (DAY + MINUTE, DAY + DAY_LONG)] {
            for route in [None, Some("a"), Some("b c"), Some("none")] {
                let query = UsageQuery {
                    of: [keys.as_slice(), &[Spender::Everybody]].concat(),
                    route: route.map(Into::into),
                    step,
                    from: UnixMillis(from),
                    to: UnixMillis(to),
                };
                let expected = model.usage(query.clone()).await.unwrap();
                assert_eq!(store.usage(query.clone()).await.unwrap(), expected, "{query:?}");
            }
        }
    }
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let back = prop_oneof![6 => Just(0i64), 3 => 1i64..3, 1 => -2i64..0];
    let minute = select(vec![0, MINUTE, 59 * MINUTE, HOUR, 23 * HOUR, DAY_LONG, 2 * DAY_LONG]);
    let minute = minute.prop_map(|since| DAY + since);
    let key = (0u64..3, select(vec!["a", "b c", "\u{1f511}"]));
    let rows = proptest::collection::btree_map(key, (any_counts(), any_last()), 0..6);
    let rows = rows.prop_map(|rows| {
        let row = |((key, route), (counts, last))| UsageRow { last, ..row(key, route, counts) };
        rows.into_iter().map(row).collect()
    });
    (0u128..3, back, proptest::bool::weighted(0.2), minute, rows).prop_map(
        |(source, back, after_loss, minute, rows)| Sent { source, back, after_loss, minute, rows },
    )
}

fn any_counts() -> impl Strategy<Value = UsageCounts> {
    // Forty of them stay below 2^53.
    let count = || prop_oneof![Just(0u64), 1u64..100, 0u64..1 << 47];
    let code = select(Code::ALL.to_vec());
    let refused = proptest::collection::vec((code, 1u64..1 << 20), 0..4);
    (count(), count(), count(), count(), refused).prop_map(
        |(requests, cost, bytes_in, bytes_out, refusals)| {
            let mut counts =
                UsageCounts { requests, cost, bytes_in, bytes_out, refused: Vec::new() };
            for refused in refusals {
                counts.add(&UsageCounts { refused: vec![refused], ..UsageCounts::default() });
            }
            counts
        },
    )
}

fn any_last() -> impl Strategy<Value = Option<LastUse>> {
    let address = select(vec![None, Some("192.0.2.7"), Some("2001:db8::7")]);
    let route = select(vec![None, Some("a"), Some(""), Some("b c")]);
    proptest::option::of((0u64..9, address, route).prop_map(|(at, address, route)| LastUse {
        at: UnixMillis(DAY + at),
        address: address.map(|address| address.parse().unwrap()),
        route: route.map(Arc::from),
    }))
}

pub(crate) fn use_is_kept_for_as_long_as_it_is_to_be<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        // Long over by any clock, so that it may go at once.
        let (then, keep) = (DAY / 60, Retention { minutes: 0, hours: HOUR, days: 0 });
        store
            .add_usage(batch(source(1), 1, then, vec![row(1, "a", counts(1))]), keep)
            .await
            .unwrap();
        let at = |step: Step, at: u64| step.start(UnixMillis(at)).0..at + 1;
        let of = Spender::Key(key_id(1));
        for step in [Step::Minute, Step::Day] {
            assert_eq!(read(&store, of, step, at(step, then)).await, [], "{step:?} is not kept");
        }
        let keep = Retention { minutes: 2 * HOUR, hours: 2 * DAY_LONG, days: 9 * DAY_LONG };
        let minutes = [DAY, DAY + 2 * HOUR, DAY + 2 * DAY_LONG];
        for (number, minute) in (2..).zip(minutes) {
            let rows = vec![row(1, "a", counts(1)), row(2, "a", counts(1))];
            store.add_usage(batch(source(1), number, minute, rows), keep).await.unwrap();
            // At least so long.
            for step in Step::ALL {
                let is_kept =
                    |at: &u64| (minute.saturating_sub(keep.of(step))..=minute).contains(at);
                for since in minutes.into_iter().filter(is_kept) {
                    let found = read(&store, of, step, at(step, since)).await;
                    assert!(!found.is_empty(), "{step:?} of {since} at {minute}");
                }
            }
        }
    });
}

pub(crate) fn a_clock_that_jumps_ahead_takes_no_use_away<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let keep = Retention { minutes: 2 * HOUR, hours: 2 * DAY_LONG, days: 9 * DAY_LONG };
        let add = async |from, number, minute| {
            let one = batch(source(from), number, minute, vec![row(1, "a", counts(1))]);
            store.add_usage(one, keep).await.unwrap();
        };
        add(1, 1, DAY).await;
        add(2, 1, DAY).await;
        for number in 2..5 {
            add(1, number, DAY + 365 * DAY_LONG + number * MINUTE).await;
        }
        // A process that begins while the clock is wrong.
        add(3, 1, DAY + 366 * DAY_LONG).await;
        add(1, 5, DAY + MINUTE).await;
        for step in Step::ALL {
            let during = DAY..DAY + MINUTE;
            let found = read(&store, Spender::Key(key_id(1)), step, during).await;
            assert_eq!(found.len(), 1, "{step:?}");
        }
        assert_eq!(store.usage_number(source(2)).await.unwrap(), 1, "it is not forgotten");
    });
}

pub(crate) fn the_last_use_of_a_key_has_an_address_and_a_route<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let last = |at, address: &str, route: &str| LastUse {
            at: UnixMillis(at),
            address: Some(address.parse().unwrap()),
            route: Some(route.into()),
        };
        let (first, second) = (last(50, "192.0.2.1", "orders read"), last(60, "::1", ""));
        let row = |route, last: &LastUse| UsageRow {
            last: Some(last.clone()),
            ..row(1, route, counts(1))
        };
        let keys = || vec![key_id(2), key_id(1)];
        let rows = vec![row("a", &second), row("b", &first)];
        store.add_usage(batch(source(1), 1, DAY, rows), KEEP).await.unwrap();
        assert_eq!(store.last_used(keys()).await.unwrap(), [None, Some(second.clone())]);
        // What another source counted, and sends later.
        store.add_usage(batch(source(2), 1, DAY, vec![row("a", &first)]), KEEP).await.unwrap();
        assert_eq!(store.last_used(keys()).await.unwrap(), [None, Some(second)]);
        // An older gateway says no more than when.
        mark_used(&store, vec![(key_id(1), UnixMillis(61))]).await;
        let time_alone = LastUse { at: UnixMillis(61), address: None, route: None };
        assert_eq!(store.last_used(keys()).await.unwrap(), [None, Some(time_alone)]);
        let third = last(62, "192.0.2.3", "c");
        store.add_usage(batch(source(2), 2, DAY, vec![row("a", &third)]), KEEP).await.unwrap();
        assert_eq!(store.last_used(keys()).await.unwrap(), [None, Some(third)]);
    });
}
