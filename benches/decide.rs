//! The decision of a request whose key is cached, whole and by its parts: nanoseconds and heap
//! allocations. `cargo bench --bench decide`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;

use std::pin::pin;

use divan::{AllocProfiler, Bencher, black_box};
use fixture::{KeyRing, PEER, gateway, head, limited_gateway, peppers};
use futures_util::FutureExt;
use keygate_core::Denial;
use keygate_core::key::PresentedKey;
use keygate_core::path::normalize;
use keygate_core::scope::{RequiredScopes, ScopeSet};
use keygate_proxy::Gateway;
use mimalloc::MiMalloc;
use pingora::http::RequestHeader;

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() {
    divan::main();
}

/// One decision. Pinned where it is made, as a task's is: to move a future would cost as much as a hash.
fn rehearsed(gateway: &Gateway<KeyRing>, head: &RequestHeader) -> Option<Result<(), Denial>> {
    let mut decision = pin!(gateway.rehearse(head, PEER));
    decision.as_mut().now_or_never()
}

/// Extract, HMAC, look-up, standing, expiry, scopes, metrics: all that a request costs before it
/// is forwarded. Keys in uniform random order. Each sample's heads are made just
/// before it, as a connection's would have been.
#[divan::bench(args = [1_000, 100_000, 1_000_000], sample_count = 1_000, sample_size = 32)]
fn whole(bencher: Bencher<'_, '_>, keys: usize) {
    let (gateway, texts) = gateway(keys);
    bencher.with_inputs(|| head(&texts[fastrand::usize(..texts.len())])).bench_local_refs(|head| {
        let decided = rehearsed(&gateway, black_box(head));
        assert!(matches!(decided, Some(Ok(()))));
    });
}

/// The same with limits: a rate, two quotas and a concurrency are charged.
#[divan::bench(args = [1_000, 100_000, 1_000_000], sample_count = 1_000, sample_size = 32)]
fn whole_limited(bencher: Bencher<'_, '_>, keys: usize) {
    let (gateway, texts) = limited_gateway(keys);
    // A key's counters are made with its first request.
    for text in &texts {
        assert!(matches!(rehearsed(&gateway, &head(text)), Some(Ok(()))));
    }
    bencher.with_inputs(|| head(&texts[fastrand::usize(..texts.len())])).bench_local_refs(|head| {
        let decided = rehearsed(&gateway, black_box(head));
        assert!(matches!(decided, Some(Ok(()))));
    });
}

/// The same for a made-up key: refused by its tag.
#[divan::bench]
fn whole_made_up(bencher: Bencher<'_, '_>) {
    let (gateway, texts) = gateway(1);
    let mut wrong = texts[0].clone();
    wrong.replace_range(20..21, if &wrong[20..21] == "2" { "3" } else { "2" });
    let head = head(&wrong);
    bencher.bench_local(|| {
        let decided = rehearsed(&gateway, black_box(&head));
        assert!(matches!(decided, Some(Err(_))));
    });
}

#[divan::bench]
fn parse_key(bencher: Bencher<'_, '_>) {
    let (_, texts) = gateway(1);
    bencher.bench_local(|| PresentedKey::parse(black_box(texts[0].as_bytes()), None).is_ok());
}

#[divan::bench]
fn identify(bencher: Bencher<'_, '_>) {
    let (_, texts) = gateway(1);
    let (peppers, key) = (peppers(), PresentedKey::parse(texts[0].as_bytes(), None).unwrap());
    bencher.bench_local(|| peppers.identify(black_box(&key)).is_some());
}

#[divan::bench]
fn normalize_path() -> bool {
    normalize(black_box("/v1/orders/123")).is_ok()
}

#[divan::bench]
fn find_route(bencher: Bencher<'_, '_>) {
    let config = fixture::config();
    bencher.bench_local(|| {
        config.routes.place("api.example.com", black_box("/v1/orders/123"), "GET").is_ok()
    });
}

#[divan::bench]
fn check_scopes(bencher: Bencher<'_, '_>) {
    let read = "read:orders".parse().unwrap();
    let held = ScopeSet::new(&[
        "write:orders".parse().unwrap(),
        "admin:reports".parse().unwrap(),
        "read:orders".parse().unwrap(),
    ]);
    let required = RequiredScopes { all: vec![read], any: vec![] };
    bencher.bench_local(|| black_box(&required).are_met_by(&held));
}
