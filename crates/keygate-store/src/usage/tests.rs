//! Whatever happens, and wherever a process is killed: what was counted is in the store, once.

mod ledger;
mod room;
mod stuck;
mod turn;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use keygate_core::problem::Code;
use keygate_core::{KeyId, UnixMillis};
use proptest::prelude::*;
use tempfile::TempDir;

use self::ledger::{Ledger, Used};
use super::folder::Stuck;
use super::outbox::{Outbox, Sent};
use super::records::{BATCH_ROWS_MAX, Retention, UsageCounts};
use super::recover::Recovered;
use super::*;
use crate::boil::boil;
use crate::records::OwnedKey;
use crate::testing::{account, app, key};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const KEEP: Retention = Retention { minutes: 1, hours: 1, days: 1 };
const SETTLED_AFTER: Duration = Duration::from_secs(15);
const MINUTE: u64 = 60_000;

fn record(n: u64) -> KeyRecord {
    let account = account(1);
    let app = app(1, &account);
    boil(OwnedKey { key: key(n, &app), app, account }, 0)
}

/// A gateway's counters, and what they should have come to.
struct Counting {
    root: TempDir,
    counter: UsageCounter,
    outbox: Outbox,
    adopted: Vec<Outbox>,
    keys: Vec<KeyRecord>,
    routes: Vec<RouteNumber>,
    counted: Vec<Option<Counted>>,
    expected: BTreeMap<(KeyId, usize), UsageCounts>,
    now: u64,
}

const ROUTES: [&str; 3] = ["a", "a \"quoted\"\nname", "c"];

impl Counting {
    fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    fn within(root: TempDir) -> Self {
        let (counter, outbox, routes) = begin(root.path());
        Self {
            root,
            counter,
            outbox,
            adopted: Vec::new(),
            keys: (0..5).map(record).collect(),
            routes,
            counted: vec![None; 5],
            expected: BTreeMap::new(),
            now: 0,
        }
    }

    fn admit(&mut self, n: usize, route: usize, cost: u64) {
        let at = UnixMillis(self.now);
        let key = &self.keys[n];
        self.counted[n] = self.counter.admitted(key, self.routes[route], cost, at, CLIENT);
        let counts = self.expected.entry((key.id, route)).or_default();
        counts.requests += 1;
        counts.cost += cost;
    }

    /// Bytes of the last request of a key, which was on this route.
    fn move_bytes(&mut self, n: usize, route: usize, bytes: u64) {
        let counted = self.counted[n].unwrap();
        self.counter.moved(counted, &self.keys[n], self.routes[route], bytes, bytes * 2);
        let counts = self.expected.entry((self.keys[n].id, route)).or_default();
        counts.bytes_in += bytes;
        counts.bytes_out += bytes * 2;
    }

    fn refuse(&mut self, n: usize, route: usize, code: Code) {
        self.counter.refused(&self.keys[n], self.routes[route], code);
        let counts = self.expected.entry((self.keys[n].id, route)).or_default();
        ledger::add_refused(&mut counts.refused, code, 1);
    }

    fn expected(&self) -> Used {
        let named = |(&(key, route), counts): (&(KeyId, usize), &UsageCounts)| {
            ((key, ROUTES[route].to_owned()), counts.clone())
        };
        self.expected.iter().map(named).collect()
    }

    fn seal(&self) {
        self.counter.seal(UnixMillis(self.now), BATCH_ROWS_MAX).unwrap();
    }

    /// A process that is killed, and the next one.
    fn kill(self) -> Self {
        let Self { root, keys, expected, now, .. } = self;
        let keys: Vec<_> =
            keys.iter().map(|_| ()).enumerate().map(|(n, ())| record(n as u64)).collect();
        drop((self.counter, self.outbox, self.adopted));
        let mut next = Self::within(root);
        next.adopted = adopt(next.root.path());
        Self { keys, expected, now, ..next }
    }

    async fn send(&mut self, ledger: &Ledger) {
        for outbox in self.adopted.iter_mut().chain([&mut self.outbox]) {
            // The next time will do.
            drop(outbox.send(ledger, KEEP, SETTLED_AFTER, &Sent::default()).await);
        }
    }
}

fn begin(root: &Path) -> (UsageCounter, Outbox, Vec<RouteNumber>) {
    let counter = UsageCounter::open(root, UnixMillis(0)).unwrap();
    let outbox = Outbox::new(Arc::clone(&counter.0.folder), Arc::clone(&counter.0.files));
    let routes = counter.routes(ROUTES.into_iter()).unwrap();
    (counter, outbox, routes)
}

/// What comes to the store of all that processes have left in a folder.
async fn recovered(root: &Path, ledger: &Ledger) -> Used {
    for mut outbox in adopt(root) {
        outbox.send(ledger, KEEP, SETTLED_AFTER, &Sent::default()).await.unwrap();
    }
    ledger.used()
}

/// What is taken over, and what cannot be, while the store says that it has so many batches of each.
fn take_over(root: &Path, has: u64) -> (Vec<Recovered>, Vec<Stuck>) {
    let (taken, mut stuck) = recover::take(root);
    let mut recovered = Vec::new();
    for one in taken {
        match recover::recover(one.folder, has) {
            Ok(one) => recovered.push(one),
            Err(one) => stuck.push(one),
        }
    }
    (recovered, stuck)
}

/// What can all be taken over.
fn adopt(root: &Path) -> Vec<Outbox> {
    let (recovered, stuck) = take_over(root, 0);
    assert!(stuck.is_empty() && recovered.iter().all(|one| one.unsealed.is_none()));
    recovered.into_iter().map(|one| one.outbox).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

#[derive(Clone, Debug)]
enum Step {
    Admit {
        key: usize,
        route: usize,
        cost: u64,
        bytes: Option<u64>,
    },
    Refuse {
        key: usize,
        route: usize,
        code: usize,
    },
    Seal,
    Replace,
    Send,
    /// The store does what it is asked, and nobody hears of it.
    Mute,
    Away,
    Fine,
    /// It comes back without the last of what it had acknowledged.
    Forget {
        batches: usize,
    },
    /// All that was acknowledged by now is settled.
    Wait,
    Kill,
}

fn any_step() -> impl Strategy<Value = Step> {
    let (key, route) = (0..5usize, 0..3usize);
    prop_oneof![
        8 => (key.clone(), route.clone(), 0..9u64, proptest::option::of(0..1_000u64))
            .prop_map(|(key, route, cost, bytes)| Step::Admit { key, route, cost, bytes }),
        3 => (key, route, 0..Code::ALL.len())
            .prop_map(|(key, route, code)| Step::Refuse { key, route, code }),
        4 => Just(Step::Seal),
        1 => Just(Step::Replace),
        4 => Just(Step::Send),
        1 => Just(Step::Mute),
        1 => Just(Step::Away),
        2 => Just(Step::Fine),
        1 => (1..4usize).prop_map(|batches| Step::Forget { batches }),
        1 => Just(Step::Wait),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_was_counted_is_in_the_store_once_whatever_happens(
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        block_on(async {
            let (mut one, ledger) = (Counting::new(), Ledger::default());
            for step in steps {
                one.now += 1;
                match step {
                    Step::Admit { key, route, cost, bytes } => {
                        one.admit(key, route, cost);
                        if let Some(bytes) = bytes {
                            one.move_bytes(key, route, bytes);
                        }
                    }
                    Step::Refuse { key, route, code } => one.refuse(key, route, Code::ALL[code]),
                    Step::Seal => one.seal(),
                    Step::Replace => one.counter.replace().unwrap(),
                    Step::Send => one.send(&ledger).await,
                    Step::Mute => ledger.be(ledger::Mood::Mute),
                    Step::Away => ledger.be(ledger::Mood::Away),
                    Step::Fine => ledger.be(ledger::Mood::Fine),
                    Step::Forget { batches } => ledger.forget(batches),
                    Step::Wait => {
                        // Whoever sends asks meanwhile whether the store still has it.
                        ledger.be(ledger::Mood::Fine);
                        one.send(&ledger).await;
                        tokio::time::advance(SETTLED_AFTER).await;
                        ledger.settle();
                        one.send(&ledger).await;
                    }
                    Step::Kill => one = one.kill(),
                }
            }
            ledger.be(ledger::Mood::Fine);
            let expected = one.expected();
            one.send(&ledger).await;
            drop(one.adopted.drain(..));
            let root = one.root;
            drop((one.counter, one.outbox));
            assert_eq!(recovered(root.path(), &ledger).await, expected);
        });
    }
}

#[test]
fn a_process_that_is_killed_at_any_point_of_sealing_loses_and_doubles_nothing() {
    let mut one = Counting::new();
    let copies = tempfile::tempdir().unwrap();
    let taken = Rc::new(RefCell::new(0));
    for round in 0..3 {
        for n in 0..5 {
            one.admit(n, (n + round) % 3, 2);
            one.move_bytes(n, (n + round) % 3, 10);
            one.refuse(n, n % 3, Code::RateLimitExceeded);
        }
        one.counter.replace().unwrap();
        one.admit(round, 0, 1);
        let (from, to) = (one.root.path().to_owned(), copies.path().to_owned());
        let (taken, expected) = (Rc::clone(&taken), one.expected());
        let kept = Rc::clone(&taken);
        let look = move || {
            *taken.borrow_mut() += 1;
            copy(&from, &to.join(taken.borrow().to_string()));
        };
        let before = *kept.borrow();
        steps::watch(look, || one.seal());
        for copy in before + 1..=*kept.borrow() {
            let root = copies.path().join(copy.to_string());
            let used = block_on(recovered(&root, &Ledger::default()));
            assert_eq!(used, expected, "killed at point {copy}");
        }
    }
    assert!(*taken.borrow() > 40, "{} points", taken.borrow());
}

#[test]
fn a_process_that_is_killed_while_it_recovers_another_loses_and_doubles_nothing() {
    let mut one = Counting::new();
    for n in 0..5 {
        one.admit(n, n % 3, 2);
    }
    one.seal();
    one.counter.replace().unwrap();
    for n in 0..5 {
        one.admit(n, n % 3, 3);
    }
    let (root, expected) = (tempfile::tempdir().unwrap(), one.expected());
    copy(one.root.path(), &root.path().join("0"));
    let copies = Rc::new(RefCell::new(0));
    let (from, to, taken) = (root.path().join("0"), root.path().to_owned(), Rc::clone(&copies));
    let look = move || {
        *taken.borrow_mut() += 1;
        copy(&from, &to.join(taken.borrow().to_string()));
    };
    let first = root.path().join("0");
    let outboxes = steps::watch(look, || adopt(&first));
    drop(outboxes);
    assert!(*copies.borrow() > 5);
    for copy in 0..=*copies.borrow() {
        let used = block_on(recovered(&root.path().join(copy.to_string()), &Ledger::default()));
        assert_eq!(used, expected, "killed at point {copy}");
    }
}

#[test]
fn threads_that_count_while_it_is_sealed_and_replaced_are_never_missed() {
    const THREADS: u64 = 4;
    const EACH: u64 = 20_000;
    let root = tempfile::tempdir().unwrap();
    let (counter, mut outbox, routes) = begin(root.path());
    let keys: Vec<_> = (0..50).map(record).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (counter, keys, routes) = (&counter, &keys, &routes);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let key = &keys[usize::try_from((n * 7 + thread) % 50).unwrap()];
                        let route = routes[usize::try_from(n % 3).unwrap()];
                        let at = UnixMillis(n);
                        let counted = counter.admitted(key, route, 1, at, CLIENT).unwrap();
                        counter.moved(counted, key, route, 1, 0);
                        counter.refused(key, route, Code::QuotaExceeded);
                        counter.moved(counted, key, route, 0, 2);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for now in 0.. {
                counter.seal(UnixMillis(now * MINUTE), BATCH_ROWS_MAX).unwrap();
                counter.replace().unwrap();
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        counting.into_iter().for_each(|counting| counting.join().unwrap());
        done.store(true, Relaxed);
    });
    let ledger = Ledger::default();
    counter.seal(UnixMillis(0), BATCH_ROWS_MAX).unwrap();
    let tallies = counter.0.folder.tallies().unwrap();
    block_on(outbox.send(&ledger, KEEP, SETTLED_AFTER, &Sent::default())).unwrap();
    let all = THREADS * EACH;
    let mut sum = UsageCounts::default();
    for counts in ledger.used().into_values() {
        sum.requests += counts.requests;
        sum.cost += counts.cost;
        sum.bytes_in += counts.bytes_in;
        sum.bytes_out += counts.bytes_out;
        counts.refused.iter().for_each(|&(code, n)| ledger::add_refused(&mut sum.refused, code, n));
    }
    let refused = vec![(Code::QuotaExceeded, all)];
    let expected =
        UsageCounts { requests: all, cost: all, bytes_in: all, bytes_out: all * 2, refused };
    assert_eq!(sum, expected);
    assert!(tallies.len() <= 2, "those that gave way are gone: {tallies:?}");
    assert_eq!(counter.flow().dropped, 0);
}

#[test]
fn a_store_that_comes_back_with_less_than_is_kept_goes_on() {
    block_on(async {
        let (mut one, ledger) = (Counting::new(), Ledger::default());
        for _ in 0..3 {
            one.admit(0, 0, 1);
            one.seal();
        }
        one.send(&ledger).await;
        tokio::time::advance(SETTLED_AFTER).await;
        one.send(&ledger).await;
        assert_eq!(one.counter.0.folder.batches().unwrap(), [0; 0], "all are settled");
        one.admit(0, 0, 1);
        one.seal();
        ledger.forget_all();
        one.send(&ledger).await;
        let counts = ledger.used().into_values().next().unwrap();
        assert_eq!(counts.requests, 1, "what was used after the loss");
        one.admit(0, 0, 1);
        one.seal();
        one.send(&ledger).await;
        assert_eq!(ledger.used().into_values().next().unwrap().requests, 2);
    });
}

#[test]
fn a_row_says_who_used_a_key_last() {
    block_on(async {
        let (mut one, ledger) = (Counting::new(), Ledger::default());
        one.now = MINUTE + 5;
        one.admit(0, 1, 1);
        one.refuse(0, 2, Code::PermissionDenied);
        one.seal();
        one.send(&ledger).await;
        let rows = ledger.rows();
        assert_eq!(rows.len(), 2);
        let last = rows[0].last.clone().unwrap();
        assert_eq!((last.at, last.address), (UnixMillis(MINUTE + 5), Some(CLIENT)));
        assert_eq!(last.route.as_deref(), Some(ROUTES[1]));
        assert_eq!(rows[1].last, None, "a refused request is no use");
        one.now = MINUTE + 9;
        let other: IpAddr = "2001:db8::1".parse().unwrap();
        let counted =
            one.counter.admitted(&one.keys[0], one.routes[1], 1, UnixMillis(one.now), other);
        assert!(counted.is_some());
        one.seal();
        one.send(&ledger).await;
        assert_eq!(ledger.rows()[2].last.clone().unwrap().address, Some(other));
        assert_eq!(ledger.minutes(), [UnixMillis(0), UnixMillis(MINUTE)]);
    });
}

/// No assertion: it prints what a request pays.
#[test]
fn what_a_request_pays_for_being_counted() {
    const TIMES: u32 = 200_000;
    let root = tempfile::tempdir().unwrap();
    let (counter, _, routes) = begin(root.path());
    for keys in [1u64, 1_000, 20_000] {
        let keys: Vec<_> = (0..keys).map(record).collect();
        let began = quanta::Instant::now();
        for n in 0..TIMES {
            let key = &keys[n as usize * 7 % keys.len()];
            let counted =
                counter.admitted(key, routes[0], 1, UnixMillis(n.into()), CLIENT).unwrap();
            counter.moved(counted, key, routes[0], 0, 17);
        }
        let both = began.elapsed() / TIMES;
        let began = quanta::Instant::now();
        for n in 0..TIMES {
            let key = &keys[n as usize * 7 % keys.len()];
            counter.refused(key, routes[1], Code::RateLimitExceeded);
        }
        let refused = began.elapsed() / TIMES;
        println!("{} keys: counted and moved {both:?}, refused {refused:?}", keys.len());
    }
}

#[test]
fn two_processes_never_have_the_same_source_and_none_takes_over_a_live_one() {
    let root = tempfile::tempdir().unwrap();
    let (first, ..) = begin(root.path());
    let (second, ..) = begin(root.path());
    assert_ne!(first.0.folder.source, second.0.folder.source);
    assert!(adopt(root.path()).is_empty());
    let source = first.0.folder.source;
    drop(first);
    // That of the counter was held by its outbox too.
    let adopted = adopt(root.path());
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].folder.source, source);
    assert!(adopt(root.path()).is_empty());
}
