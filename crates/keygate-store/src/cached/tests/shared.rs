//! What the cache promises when others write to its store too.

use super::*;

/// A cache in front of a store that others write to, which is followed from now on.
async fn shared() -> (CachedKeys<Gated>, Arc<Coherence>, Key) {
    let store = MemoryStore::default();
    let (.., key) = seed(&store).await;
    let coherence = Arc::new(Coherence::followed(settings().stale_max));
    let keys = CachedKeys::new(Gated::new(store), Arc::clone(&coherence), &settings());
    (keys, coherence, key)
}

#[tokio::test]
async fn nothing_is_kept_while_the_changes_of_others_go_unheard() {
    let (keys, coherence, key) = shared().await;
    for digest in [key.digest, digest(2)] {
        coherence.confirm(Instant::now());
        coherence.let_silence_begin();
        keys.load(digest).await.unwrap();
        assert!(keys.cached(&digest).is_none());
        coherence.confirm(Instant::now());
        keys.load(digest).await.unwrap();
        assert!(keys.cached(&digest).is_some());
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_followed_leaves_known_keys_and_calls_no_key_unknown() {
    let (keys, coherence, key) = shared().await;
    coherence.confirm(Instant::now());
    keys.load(key.digest).await.unwrap();
    keys.load(digest(2)).await.unwrap();
    coherence.let_silence_begin();
    keys.store().mood.find_fails.store(true, Ordering::SeqCst);
    assert!(matches!(keys.cached(&key.digest), Some(Cached::Known(_))));
    // It may have been made since.
    assert!(keys.cached(&digest(2)).is_none());
    assert!(keys.load(digest(2)).await.is_err());
    // For longer than `stale_max`: then nobody is believed, not even one who answers.
    coherence.forget_confirmations();
    keys.store().mood.find_fails.store(false, Ordering::SeqCst);
    assert!(keys.cached(&key.digest).is_none());
    assert!(keys.load(digest(2)).await.is_err());
    assert!(keys.load(key.digest).await.is_err());
    coherence.confirm(Instant::now());
    assert!(matches!(keys.cached(&key.digest), Some(Cached::Known(_))), "nothing was missed");
}

#[tokio::test]
async fn a_change_that_fails_in_an_outage_costs_known_keys_nothing() {
    let (keys, coherence, key) = shared().await;
    coherence.confirm(Instant::now());
    keys.load(key.digest).await.unwrap();
    keys.store().mood.commit_fails.store(true, Ordering::SeqCst);
    keys.store().mood.find_fails.store(true, Ordering::SeqCst);
    // If it was made all the same, the log will say so.
    keys.commit(update(revoked(&key)), audit("revoke")).await.unwrap_err();
    assert!(matches!(keys.cached(&key.digest), Some(Cached::Known(_))));
}
