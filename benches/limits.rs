//! What limits cost: a charge by itself, on two threads and in a fleet, and the whole decision with
//! limits against without, for few keys and for many, in turns in one run.
//! `cargo bench --bench limits`. Needs `redis-server`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;
mod server;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::{AllocProfiler, Bencher, black_box};
use fixture::{
    KeyRing, NOW, PEER, config, enough, gateway_of, head, measures, real_clock, warm_cache,
};
use futures_util::FutureExt;
use keygate_core::limit::Moment;
use keygate_core::limit::leased::{
    Answer, Fleet, Leased, QuotaAnswer, RateAnswer, SlotsAnswer, Take,
};
use keygate_core::limit::meter::{Counters, Meter};
use keygate_core::limit::terms::{Limits, Party, RateLimit, Share, Terms};
use keygate_core::{KeyDigest, KeyRecord, UnixMillis};
use keygate_proxy::Gateway;
use keygate_store::cached::{Cached, CachedKeys};
use keygate_store::coherence::Coherence;
use keygate_store::limits::Limiter;
use mimalloc::MiMalloc;
use server::{Redis, resident, store};

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// More than a bench can use.
const RATE: &str = "1000000000/s";
const QUOTAS: &[&str] = &["1000000000000/day", "1000000000000/month"];
const LEASE: Duration = Duration::from_secs(2);

/// Keys that are compared: so few that their counters stay near the processor, and so many that
/// they do not.
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;
const ROUNDS: usize = 15;
const BATCH: usize = 256;
const BATCHES: usize = 400;

fn main() {
    let named = std::env::args().skip(1).any(|arg| !arg.starts_with('-'));
    if !named {
        if measures() { compare(FEW, MANY, ROUNDS, BATCHES) } else { compare(100, 1_000, 1, 4) }
    }
    divan::main();
}

// === one charge ===

fn limits(rate: Option<&str>, quotas: &[&str], concurrency: Option<u64>) -> Limits {
    Limits {
        rate: rate.map(|rate| RateLimit::new(rate.parse().unwrap(), None)),
        quotas: quotas.iter().map(|quota| quota.parse().unwrap()).collect(),
        concurrency,
        ..Limits::default()
    }
}

fn terms(limits: &Limits) -> Terms<'_> {
    Terms::of(Some(limits), None).unwrap()
}

/// The records of so many keys. Their counters are those of the first limiter that they meet.
fn records(count: usize) -> Vec<Arc<KeyRecord>> {
    let ring = KeyRing::new(enough(count));
    let digests = ring.digests.clone();
    records_of(&warm_cache(ring, &config().cache), &digests)
}

fn records_of(keys: &CachedKeys<KeyRing>, digests: &[KeyDigest]) -> Vec<Arc<KeyRecord>> {
    let known = digests.iter().map(|digest| match keys.cached(digest) {
        Some(Cached::Known(record)) => record,
        Some(Cached::Unknown) | None => panic!("the cache is warm"),
    });
    known.collect()
}

/// What a request that reaches its upstream costs: charged, kept, over.
fn charge(limiter: &Limiter, record: &KeyRecord, limits: &Limits, now: Moment) {
    let terms = terms(limits);
    let charged = limiter.charge(black_box(record), &terms, 1, now).now_or_never();
    charged.unwrap().unwrap_or_else(|over| panic!("{over:?}")).keep();
}

/// The clock is read before: a request has read it for other reasons.
fn moment(limiter: &Limiter) -> Moment {
    limiter.moment(quanta::Instant::now(), real_clock())
}

fn charge_one(bencher: Bencher<'_, '_>, limiter: &Limiter, limits: &Limits) {
    let record = &*records(1)[0];
    charge(limiter, record, limits, moment(limiter));
    let now = || moment(limiter);
    bencher.with_inputs(now).bench_values(|now| charge(limiter, record, limits, now));
}

#[divan::bench(threads = [1, 2])]
fn rate(bencher: Bencher<'_, '_>) {
    charge_one(bencher, &Limiter::in_memory(real_clock), &limits(Some(RATE), &[], None));
}

/// A rate, two quotas and a concurrency. With two threads: both on one key.
#[divan::bench(threads = [1, 2])]
fn all(bencher: Bencher<'_, '_>) {
    charge_one(bencher, &Limiter::in_memory(real_clock), &limits(Some(RATE), QUOTAS, Some(1_000)));
}

/// The same, each time for another of so many keys.
#[divan::bench(args = [FEW, 100_000, MANY], threads = [1, 2], sample_count = 1_000)]
fn all_of_keys(bencher: Bencher<'_, '_>, keys: usize) {
    let limiter = Limiter::in_memory(real_clock);
    let (records, limits) = (records(keys), limits(Some(RATE), QUOTAS, Some(1_000)));
    for record in &records {
        charge(&limiter, record, &limits, moment(&limiter));
    }
    let input = || (&*records[fastrand::usize(..records.len())], moment(&limiter));
    bencher.with_inputs(input).bench_values(|(record, now)| charge(&limiter, record, &limits, now));
}

/// What is told to the client of each request.
#[divan::bench]
fn look(bencher: Bencher<'_, '_>) {
    let limiter = Limiter::in_memory(real_clock);
    let (records, limits) = (records(1), limits(Some(RATE), QUOTAS, Some(1_000)));
    charge(&limiter, &records[0], &limits, moment(&limiter));
    let now = || moment(&limiter);
    bencher
        .with_inputs(now)
        .bench_local_values(|now| limiter.uses_here(&records[0], &terms(&limits), now));
}

/// A client that hammers.
#[divan::bench]
fn refuse(bencher: Bencher<'_, '_>) {
    let limiter = Limiter::in_memory(real_clock);
    let (records, limits) = (records(1), limits(Some("1/month"), QUOTAS, Some(1_000)));
    charge(&limiter, &records[0], &limits, moment(&limiter));
    let now = || moment(&limiter);
    bencher.with_inputs(now).bench_local_values(|now| {
        let charged = limiter.charge(&records[0], &terms(&limits), 1, now).now_or_never();
        assert!(charged.unwrap().is_err());
    });
}

/// Large quotas that are put on record in a file: seldom, with some to spare.
#[divan::bench]
fn on_file(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    let limiter = Limiter::on_file(&folder.path().join("quotas"), real_clock).unwrap();
    charge_one(bencher, &limiter, &limits(Some(RATE), QUOTAS, Some(1_000)));
}

/// A small quota, which is put on record with every request.
#[divan::bench(sample_count = 100, sample_size = 100)]
fn on_file_each_time(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    let limiter = Limiter::on_file(&folder.path().join("quotas"), real_clock).unwrap();
    let (records, limits) = (records(FEW), limits(None, &["999/month"], None));
    for record in &records {
        charge(&limiter, record, &limits, moment(&limiter));
    }
    // In turns, so that no quota is used up.
    let mut next = (0..FEW).cycle();
    let input = || (&*records[next.next().unwrap()], moment(&limiter));
    bencher
        .with_inputs(input)
        .bench_local_values(|(record, now)| charge(&limiter, record, &limits, now));
}

// === in a fleet ===

const FLEET: Fleet = Fleet { gateways: 3, lease: Duration::from_secs(60) };

/// A gateway's part of limits, of which the store has lent all that is needed.
fn lent(terms: &Terms<'_>, at: Moment) -> Leased {
    let mut leased = Leased::default();
    assert_eq!(leased.take(terms, 1, at, FLEET), Take::Ask);
    let ask = leased.ask(1, at, FLEET);
    let whole = 1_000_000_000;
    let ends_at = UnixMillis(at.unix.0 + 3_600_000);
    let quota = QuotaAnswer { ends_at, granted: whole, remaining: whole };
    let answer = Answer {
        now: at.unix,
        rate: Some(RateAnswer { granted: whole, level_milli: 0 }),
        quotas: vec![quota; terms.quotas.len()],
        slots: Some(SlotsAnswer { granted: 1, free: 0, allowed: 1_000 }),
    };
    leased.answered(&ask, &answer, at, at, FLEET);
    leased
}

/// The rules of a lease by themselves.
#[divan::bench]
fn leased(bencher: Bencher<'_, '_>) {
    let limits = limits(Some(RATE), QUOTAS, Some(1_000));
    let terms = terms(&limits);
    let at = |n: u64| Moment { mono_ns: n * 100, unix: NOW };
    let mut leased = lent(&terms, at(0));
    let mut n = 0;
    bencher.bench_local(|| {
        // Never further than the lease.
        n = (n + 1) % 500_000_000;
        leased.demanded(1, at(n));
        let taken = leased.take(black_box(&terms), 1, at(n), FLEET);
        let Take::Done { charged, .. } = taken else { panic!("there is enough") };
        leased.end(&charged);
    });
}

/// A charge with a Redis behind it, which lends so much that few requests ask.
#[divan::bench]
fn leased_from_redis(bencher: Bencher<'_, '_>) {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let (store, limiter) = runtime.block_on(async {
        let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
        let store = store(redis.port, &coherence).await;
        let limiter = Limiter::leased(store.lessor(), LEASE, real_clock);
        (store, limiter)
    });
    let _inside = runtime.enter();
    let limits = limits(Some(RATE), QUOTAS, Some(1_000));
    let record = &*records(1)[0];
    bencher.with_inputs(|| moment(&limiter)).bench_local_values(|now| {
        let terms = terms(&limits);
        let mut charging = pin!(limiter.charge(record, &terms, 1, now));
        let charged = charging.as_mut().now_or_never();
        // The first one waits for Redis, and so does one that comes after a long pause.
        let charged = charged.unwrap_or_else(|| runtime.block_on(charging));
        charged.unwrap_or_else(|over| panic!("{over:?}")).keep();
    });
    drop(store);
}

// === the whole decision, and many keys ===

/// A gateway and all of its keys.
struct Kept {
    gateway: Gateway<KeyRing>,
    texts: Vec<String>,
    records: Vec<Arc<KeyRecord>>,
    limiter: Limiter,
}

impl Kept {
    /// Loads all keys and lets each make a request, so that each has its counters.
    fn new(ring: KeyRing) -> Self {
        let (texts, digests) = (ring.texts.clone(), ring.digests.clone());
        let keys = warm_cache(ring, &config().cache);
        let limiter = Limiter::in_memory(real_clock);
        let records = records_of(&keys, &digests);
        let gateway = gateway_of(keys, limiter.clone());
        Self { gateway, texts, records, limiter }
    }

    /// Charges so many, in nanoseconds each.
    fn charges(&self, limits: &Limits, batches: usize) -> f64 {
        let mut took = Duration::ZERO;
        for _ in 0..batches {
            let any = || &*self.records[fastrand::usize(..self.records.len())];
            let chosen: Vec<&KeyRecord> = (0..BATCH).map(|_| any()).collect();
            let now = moment(&self.limiter);
            let began = Instant::now();
            for record in chosen {
                charge(&self.limiter, record, limits, now);
            }
            took += began.elapsed();
        }
        took.as_nanos() as f64 / (batches * BATCH) as f64
    }

    /// Decides so many requests, in nanoseconds each.
    fn decisions(&self, batches: usize) -> f64 {
        let mut took = Duration::ZERO;
        for _ in 0..batches {
            let any = || head(&self.texts[fastrand::usize(..self.texts.len())]);
            let heads: Vec<_> = (0..BATCH).map(|_| any()).collect();
            let began = Instant::now();
            for head in &heads {
                let decided = self.gateway.rehearse(black_box(head), PEER).now_or_never();
                assert!(matches!(decided, Some(Ok(()))));
            }
            took += began.elapsed();
        }
        took.as_nanos() as f64 / (batches * BATCH) as f64
    }
}

/// What so many keys with limits take.
fn limited(count: usize, limits: &Limits) -> Kept {
    let ring = KeyRing::limited(count);
    let before = resident();
    let kept = Kept::new(ring);
    let cached = resident();
    for record in &kept.records {
        charge(&kept.limiter, record, limits, moment(&kept.limiter));
    }
    assert_eq!(kept.limiter.meters(), count);
    let each = |from: f64, to: f64| (to - from) / count as f64;
    println!(
        "{count} keys with a rate, two quotas and a concurrency: {:.0} B each for its counters, \
         beside {:.0} B for all that this bench keeps of a key",
        each(cached, resident()),
        each(before, cached),
    );
    kept
}

/// What the counters of so many keys take in a gateway of a fleet.
fn limited_in_a_fleet(count: usize, limits: &Limits) {
    let (before, at) = (resident(), Moment { mono_ns: 0, unix: NOW });
    let party = |n: usize| Party::from_parts(Share::Key, (n as u128).to_be_bytes());
    let counters = || Counters::Leased(Box::new(lent(&terms(limits), at)));
    let meter = |party| (party, Arc::new(Meter::new(party, counters())));
    let meters: HashMap<Party, Arc<Meter>> = (0..count).map(|n| meter(party(n))).collect();
    let each = (resident() - before) / count as f64;
    println!("{count} keys with the same in a fleet: {each:.0} B for the counters of each");
    drop(meters);
}

/// With limits and without, few keys and many, in turns.
fn compare(few: usize, many: usize, rounds: usize, batches: usize) {
    let limits = limits(Some(RATE), QUOTAS, Some(1_000));
    // The larger first, while the process has no memory to spare.
    let kept = [many, few].map(|count| (count, limited(count, &limits)));
    limited_in_a_fleet(many, &limits);
    let free = [many, few].map(|count| (count, Kept::new(KeyRing::new(count))));
    let mut took: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..rounds {
        for place in 0..2 {
            took[0][place].push(kept[place].1.charges(&limits, batches));
            took[1][place].push(kept[place].1.decisions(batches));
            took[2][place].push(free[place].1.decisions(batches));
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!("medians of {rounds} rounds of {} in random order:", batches * BATCH);
    let names = ["charge", "decision with limits", "decision without limits"];
    for (name, [with_many, with_few]) in names.into_iter().zip(took) {
        let (with_many, with_few) = (median(with_many), median(with_few));
        println!(
            "{name}: {with_few:.0} ns of {few} keys, {with_many:.0} ns of {many} keys, throughput \
             x {:.2}",
            with_few / with_many
        );
    }
}
