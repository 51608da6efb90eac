//! What a key takes in memory: cached, with the counters of its limits, and with its use counted. By what
//! the process holds, so with all that an allocator and tables leave empty. Linux: reads /proc.
//! `cargo bench --bench memory`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;

use std::sync::Arc;

use fixture::{KeyRing, NOW, PEER, config, enough, real_clock, warm_cache};
use keygate_core::KeyRecord;
use keygate_core::limit::terms::{Limits, RateLimit, Terms};
use keygate_store::cached::{Cached, CachedKeys};
use keygate_store::limits::Limiter;
use keygate_store::usage::UsageCounter;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// More than a bench can use.
const RATE: &str = "1000000000/s";
const QUOTAS: &[&str] = &["1000000000000/day", "1000000000000/month"];

fn main() {
    let folder = tempfile::tempdir().unwrap();
    println!("bytes a key   at so many keys");
    for keys in [1_000, 100_000, 1_000_000] {
        let keys = enough(keys);
        let cached = Rig::new(keys);
        tell("cached", keys, cached.bytes);
        let file = folder.path().join(format!("usage-{keys}"));
        tell("  counted what it uses of a route", keys, cached.counted(&file));
        drop(cached);
        let limiter = || Limiter::in_memory(real_clock);
        tell("  with a rate", keys, Rig::new(keys).limited(limiter, &[]));
        let path = folder.path().join(format!("quotas-{keys}"));
        let limiter = || Limiter::on_file(&path, real_clock).unwrap();
        tell(
            "  with a rate, and two quotas on file",
            keys,
            Rig::new(keys).limited(limiter, QUOTAS),
        );
    }
}

fn tell(what: &str, keys: usize, bytes: u64) {
    println!("{:>11.0}   {keys:>10}   {what}", bytes as f64 / keys as f64);
}

struct Rig {
    cache: Arc<CachedKeys<KeyRing>>,
    digests: Vec<keygate_core::KeyDigest>,
    /// That the cached keys took.
    bytes: u64,
}

impl Rig {
    fn new(keys: usize) -> Self {
        let ring = KeyRing::limited(keys);
        let digests = ring.digests.clone();
        let before = held();
        let cache = warm_cache(ring, &config().cache);
        Self { cache, digests, bytes: held().saturating_sub(before) }
    }

    fn keys(&self) -> impl Iterator<Item = Arc<KeyRecord>> {
        self.digests.iter().map(|digest| match self.cache.cached(digest) {
            Some(Cached::Known(key)) => key,
            Some(Cached::Unknown) | None => panic!("every key was loaded"),
        })
    }

    /// What is more once each has made a request.
    fn limited(&self, limiter: impl FnOnce() -> Limiter, quotas: &[&str]) -> u64 {
        let limits = Limits {
            rate: Some(RateLimit::new(RATE.parse().unwrap(), None)),
            quotas: quotas.iter().map(|quota| quota.parse().unwrap()).collect(),
            ..Limits::default()
        };
        let terms = Terms::of(Some(&limits), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let before = held();
        let limiter = limiter();
        runtime.block_on(async {
            for key in self.keys() {
                let now = limiter.moment(quanta::Instant::now(), real_clock());
                drop(limiter.charge(&key, &terms, 1, now).await.unwrap());
            }
        });
        held().saturating_sub(before)
    }

    fn counted(&self, folder: &std::path::Path) -> u64 {
        let before = held();
        let counter = UsageCounter::open(folder, NOW).unwrap();
        let route = counter.routes(["orders.read"].into_iter()).unwrap()[0];
        for key in self.keys() {
            assert!(counter.admitted(&key, route, 1, NOW, PEER).is_some());
        }
        held().saturating_sub(before)
    }
}

/// The memory that this process holds, in bytes.
fn held() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
