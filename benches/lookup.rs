//! The cache's answer for a key: known, unknown to it, by number of keys and of threads.
//! `cargo bench --bench lookup`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use fixture::{KeyRing, config, enough, warm_cache};
use keygate_core::KeyDigest;
use keygate_store::cached::Cached;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() {
    divan::main();
}

/// Keys in uniform random order, all of them cached.
#[divan::bench(args = [1_000, 100_000, 1_000_000], threads = [1, 2], sample_count = 1_000)]
fn hit(bencher: Bencher<'_, '_>, keys: usize) {
    let ring = KeyRing::new(enough(keys));
    let digests: Arc<[KeyDigest]> = ring.digests.clone().into();
    let cache = warm_cache(ring, &config().cache);
    bencher.with_inputs(|| digests[fastrand::usize(..digests.len())]).bench_refs(|digest| {
        assert!(matches!(cache.cached(black_box(digest)), Some(Cached::Known(_))));
    });
}

/// Keys that the cache has never heard of, beside so many that it holds.
#[divan::bench(args = [1_000, 100_000, 1_000_000], threads = [1, 2], sample_count = 1_000)]
fn miss(bencher: Bencher<'_, '_>, keys: usize) {
    let cache = warm_cache(KeyRing::new(enough(keys)), &config().cache);
    bencher.with_inputs(absent).bench_refs(|digest| {
        assert!(cache.cached(black_box(digest)).is_none());
    });
}

/// Keys that the store is known not to have, beside so many that it has.
#[divan::bench(args = [1_000, 100_000, 1_000_000], threads = [1, 2], sample_count = 1_000)]
fn negative(bencher: Bencher<'_, '_>, keys: usize) {
    let cache = warm_cache(KeyRing::new(enough(keys)), &config().cache);
    let unknown: Arc<[KeyDigest]> = (0..enough(1_000)).map(|_| absent()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for digest in &*unknown {
            assert!(cache.load(*digest).await.unwrap().is_none());
        }
    });
    bencher.with_inputs(|| unknown[fastrand::usize(..unknown.len())]).bench_refs(|digest| {
        // A bench may take longer than an absence is believed.
        assert!(!matches!(cache.cached(black_box(digest)), Some(Cached::Known(_))));
    });
}

fn absent() -> KeyDigest {
    KeyDigest::from_bytes(std::array::from_fn(|_| fastrand::u8(..)))
}
