//! Cold keys from Redis, through the cache, against plain `GET`s of values as large over the same
//! client library, in turns in one run: `cargo bench --bench cold`. Needs `redis-server`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fixture::{KeyRing, NOW, config};
use keygate_core::KeyDigest;
use keygate_store::cached::CachedKeys;
use keygate_store::coherence::Coherence;
use keygate_store::keys::KeyStore;
use keygate_store::records::AuditEntry;
use keygate_store::redis::RedisStore;
use mimalloc::MiMalloc;
use redis::aio::MultiplexedConnection;
use server::{Redis, resident, store};
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const KEYS: usize = 50_000;
const ROUNDS: usize = 5;
const BATCH: usize = 500;

/// Asks for every one of `KEYS` things, so many at a time; answers a second.
async fn rate<F: Future<Output = ()> + Send>(
    in_flight: usize,
    ask: impl Fn(usize) -> F + Clone + Send + 'static,
) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (next, ask) = (Arc::clone(&next), ask.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= KEYS {
                    return;
                }
                ask(n).await;
            }
        });
    }
    tasks.join_all().await;
    KEYS as f64 / started.elapsed().as_secs_f64()
}

async fn gets(connection: &MultiplexedConnection, in_flight: usize) -> f64 {
    let connection = connection.clone();
    let get = move |n: usize| {
        let mut connection = connection.clone();
        async move {
            let mut command = redis::Cmd::new();
            command.arg("GET").arg(format!("plain:{n:032}"));
            let value: Vec<u8> = command.query_async(&mut connection).await.unwrap();
            assert!(!value.is_empty());
        }
    };
    rate(in_flight, get).await
}

async fn loads(port: u16, digests: &Arc<[KeyDigest]>, in_flight: usize) -> f64 {
    let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
    let store = store(port, &coherence).await;
    let keys = Arc::new(CachedKeys::new(store, coherence, &config().cache));
    let digests = Arc::clone(digests);
    let counted = Arc::clone(&keys);
    let load = move |n: usize| {
        let (keys, digest) = (Arc::clone(&keys), digests[n]);
        async move {
            assert!(keys.load(digest).await.expect("the store answers").is_some());
        }
    };
    let rate = rate(in_flight, load).await;
    assert_eq!(counted.counts().entries, KEYS as u64);
    rate
}

/// What many keys take: in Redis, and in a gateway's cache that holds them all.
async fn sizes(redis: &Redis, count: usize) {
    let ring = KeyRing::new(count);
    let client = redis::Client::open(("127.0.0.1", redis.port)).unwrap();
    let mut plain = client.get_multiplexed_async_connection().await.unwrap();
    let used = async |plain: &mut MultiplexedConnection| {
        let info: String = redis::cmd("INFO").arg("memory").query_async(plain).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    let before = used(&mut plain).await;
    let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
    let store = store(redis.port, &coherence).await;
    import(&store, &ring).await;
    println!(
        "{count} keys in Redis: {:.0} B each",
        (used(&mut plain).await - before) / count as f64
    );
    let digests = ring.digests.clone();
    drop(ring);
    let keys = Arc::new(CachedKeys::new(store, coherence, &config().cache));
    let before = resident();
    let mut tasks = JoinSet::new();
    for part in digests.chunks(count.div_ceil(64)) {
        let (keys, part) = (Arc::clone(&keys), part.to_vec());
        tasks.spawn(async move {
            for digest in part {
                assert!(keys.load(digest).await.expect("the store answers").is_some());
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(keys.counts().entries, count as u64);
    println!("{count} keys in the cache: {:.0} B each", (resident() - before) / count as f64);
}

async fn import(store: &RedisStore, ring: &KeyRing) {
    for batch in ring.records().chunks(BATCH) {
        let audit = AuditEntry {
            at: NOW,
            actor: "bench".into(),
            action: "store.import".into(),
            subject: "bench".into(),
            hint: None,
            from: None,
            reason: None,
            refused: None,
            changes: serde_json::Map::new(),
        };
        store.import(batch.to_vec(), audit).await.expect("records can be imported");
    }
}

async fn fill(port: u16, ring: &KeyRing, plain: &mut MultiplexedConnection) {
    let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
    let store = store(port, &coherence).await;
    import(&store, ring).await;
    // As many bytes as a key, its app and its account take together.
    let total: usize = {
        let mut total = 0;
        let names: Vec<Vec<u8>> =
            redis::cmd("KEYS").arg("{keygate}:[kac]:*").query_async(plain).await.unwrap();
        let mut seen = [0_usize; 3];
        for name in names {
            let kind = match name["{keygate}:".len()] {
                b'k' => 0,
                b'a' => 1,
                _ => 2,
            };
            if seen[kind] == 0 {
                let length: usize =
                    redis::cmd("STRLEN").arg(&name).query_async(plain).await.unwrap();
                seen[kind] = length;
                total += length;
            }
        }
        total
    };
    let value = vec![b'x'; total];
    for batch in (0..KEYS).collect::<Vec<_>>().chunks(BATCH) {
        let mut sets = redis::pipe();
        for n in batch {
            sets.cmd("SET").arg(format!("plain:{n:032}")).arg(&value).ignore();
        }
        sets.query_async::<()>(plain).await.unwrap();
    }
    println!("{KEYS} keys; a key, its app and its account are {total} bytes; so is a plain value");
}

fn main() {
    let redis = Redis::start();
    if let Some(count) = std::env::var("COLD_KEYS").ok().and_then(|text| text.parse().ok()) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        return builder.enable_all().build().unwrap().block_on(sizes(&redis, count));
    }
    let ring = KeyRing::new(KEYS);
    let digests: Arc<[KeyDigest]> = ring.digests.clone().into();
    for threads in [1, 2] {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(threads).enable_all().build().unwrap();
        runtime.block_on(async {
            let client = redis::Client::open(("127.0.0.1", redis.port)).unwrap();
            let mut config = redis::AsyncConnectionConfig::new();
            config = config.set_pipeline_buffer_size(1_024).set_response_timeout(None);
            let mut plain = loop {
                match client.get_multiplexed_async_connection_with_config(&config).await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            if threads == 1 {
                fill(redis.port, &ring, &mut plain).await;
            }
            for in_flight in [1, 4, 16, 64, 256, 1_024] {
                let (mut best_get, mut best_load) = (0.0_f64, 0.0_f64);
                for _ in 0..ROUNDS {
                    best_get = best_get.max(gets(&plain, in_flight).await);
                    best_load = best_load.max(loads(redis.port, &digests, in_flight).await);
                }
                println!(
                    "{threads} threads, {in_flight} in flight: plain GET {best_get:.0}/s, cold key {best_load:.0}/s, {:.2}",
                    best_load / best_get
                );
            }
        });
    }
}
