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
        assert!(cache.cached(black_box(digest)).is_some());
    });
}

#[divan::bench]
fn miss(bencher: Bencher<'_, '_>) {
    let cache = warm_cache(KeyRing::new(1_000), &config().cache);
    let absent = KeyDigest::from_bytes([9; 32]);
    bencher.bench_local(|| cache.cached(black_box(&absent)).is_none());
}
