//! What becomes of entries as they get old.

use super::*;

#[tokio::test]
async fn an_unknown_key_is_asked_for_again_after_its_ttl() {
    let store = MemoryStore::default();
    let unknown_ttl = Duration::from_millis(5);
    let keys = CachedKeys::new(store, alone(), &CacheSettings { unknown_ttl, ..settings() });
    keys.load(digest(2)).await.unwrap();
    until(async || keys.cached(&digest(2)).is_none()).await;
}

#[tokio::test]
async fn a_known_key_past_its_ttl_is_read_again_beside_the_request_that_uses_it() {
    let store = MemoryStore::default();
    let (.., key) = seed(&store).await;
    let ttl = Duration::ZERO;
    let settings = CacheSettings { ttl, ..settings() };
    let keys = Arc::new(CachedKeys::new(Gated::new(store), alone(), &settings));
    let first = keys.load(key.digest).await.unwrap().unwrap();
    shut(&keys.store().find_gate);
    let again = || match keys.cached(&key.digest) {
        Some(Cached::Known(key)) => key,
        other => panic!("the request would have to wait: {other:?}"),
    };
    // However many use it while the store takes its time, all are served, and one asks.
    for _ in 0..100 {
        assert!(Arc::ptr_eq(&again(), &first));
    }
    wait_for(&keys.store().finds, 2).await;
    assert!(Arc::ptr_eq(&again(), &first));
    keys.store().find_gate.add_permits(OPEN);
    until(async || !Arc::ptr_eq(&again(), &first)).await;
}

#[tokio::test]
async fn a_key_that_the_store_has_lost_ends_when_it_is_read_again() {
    let (full, empty) = (MemoryStore::default(), MemoryStore::default());
    let (.., key) = seed(&full).await;
    let settings = CacheSettings { ttl: Duration::ZERO, ..settings() };
    let keys = CachedKeys::new(Gated::new(full), alone(), &settings);
    keys.load(key.digest).await.unwrap();
    keys.store().replace(empty);
    assert!(keys.cached(&key.digest).is_some());
    until(async || matches!(keys.load(key.digest).await, Ok(None))).await;
}

#[tokio::test]
async fn an_outage_while_a_key_is_read_again_leaves_it_as_it_is() {
    let store = MemoryStore::default();
    let (.., key) = seed(&store).await;
    let settings = CacheSettings { ttl: Duration::ZERO, ..settings() };
    let keys = CachedKeys::new(Gated::new(store), alone(), &settings);
    keys.load(key.digest).await.unwrap();
    keys.store().mood.find_fails.store(true, Ordering::SeqCst);
    assert!(keys.cached(&key.digest).is_some());
    wait_for(&keys.store().finds, 2).await;
    settle().await;
    assert!(keys.cached(&key.digest).is_some());
}
