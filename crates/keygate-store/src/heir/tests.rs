use std::sync::Arc;

use super::*;
use crate::cached::tests::settings;
use crate::embedded::EmbeddedStore;
use crate::keys::KeyStore;
use crate::records::KeyStatus;
use crate::testing::{audit, digest, revoked, seed, update};

/// A store that was given away, and the cache in front of the one that has its file now.
struct HandedOver {
    before: CachedKeys<EmbeddedStore>,
    after: Arc<CachedKeys<EmbeddedStore>>,
    _folder: tempfile::TempDir,
}

async fn hand_over() -> (HandedOver, Key) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = EmbeddedStore::open(&path).unwrap();
    let (_, _, key) = seed(&store).await;
    let cache = |store| CachedKeys::new(store, Arc::new(Coherence::alone()), &settings());
    let before = cache(store);
    assert!(before.load(key.digest).await.unwrap().is_some());
    before.store().give_away().await;
    let after = Arc::new(cache(EmbeddedStore::open(&path).unwrap()));
    (HandedOver { before, after, _folder: folder }, key)
}

/// Both ends at work while `test` runs.
async fn connected(both: &HandedOver, test: impl Future<Output = ()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let changes = both.after.coherence().invalidations();
    let coherence = both.before.coherence();
    let (link, following) = HeirLink::follow(ours, coherence);
    both.before.store().follow(link);
    tokio::select! {
        () = serve_predecessor(theirs, &both.after, changes) => panic!("the heir ended"),
        () = following => panic!("the link ended"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_store_that_was_given_away_changes_nothing_and_its_file_can_be_opened() {
    let (both, key) = hand_over().await;
    let refused = both.before.commit(update(revoked(&key)), audit("key.revoke")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(both.after.load(key.digest).await.unwrap().is_some());
}

#[tokio::test]
async fn keys_are_looked_up_where_the_store_is_now() {
    let (both, key) = hand_over().await;
    connected(&both, async {
        let found = both.before.store().find(key.digest).await.unwrap().unwrap();
        assert_eq!(found.key, key);
        assert!(both.before.store().find(digest(999)).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_revoked_there_is_revoked_here() {
    let (both, key) = hand_over().await;
    connected(&both, async {
        let known = both.before.load(key.digest).await.unwrap().unwrap();
        both.after.commit(update(revoked(&key)), audit("key.revoke")).await.unwrap();
        while both.before.still_holds(&key.digest, &known) {
            tokio::task::yield_now().await;
        }
        let found = both.before.store().find(key.digest).await.unwrap().unwrap();
        assert!(matches!(found.key.status, KeyStatus::Revoked { .. }), "{:?}", found.key.status);
    })
    .await;
}

#[tokio::test]
async fn when_the_other_process_is_gone_nothing_is_vouched_for() {
    let (both, key) = hand_over().await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (link, following) = HeirLink::follow(ours, both.before.coherence());
    both.before.store().follow(link);
    let known = both.before.load(key.digest).await;
    assert!(known.is_ok(), "it is in the cache");
    drop(theirs);
    following.await;
    assert!(!both.before.still_holds(&key.digest, &known.unwrap().unwrap()));
    let found = both.before.store().find(key.digest).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
}
