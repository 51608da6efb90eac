//! The cache's promises, with a store whose calls stop where the test says, so that each
//! interleaving is one that really happened.

mod age;
pub(crate) mod gated;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keygate_core::{Standing, UnixMillis};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::gated::{Gated, OPEN};
use super::*;
use crate::records::{Account, AccountStatus, App, AppStatus, Key, KeyStatus, OwnedKey, Version};
use crate::testing::{MemoryStore, app, app_id, audit, create, digest, key, revoked, seed, update};

type Keys = Arc<CachedKeys<Gated>>;

pub(crate) fn settings() -> CacheSettings {
    CacheSettings {
        keys_max: 10_000,
        ttl: Duration::from_secs(3_600),
        stale_max: Duration::from_secs(600),
        unknown_max: 10_000,
        unknown_ttl: Duration::from_secs(3_600),
    }
}

fn alone() -> Arc<Coherence> {
    Arc::new(Coherence::alone())
}

/// A cache whose store holds account 1, app 1 and key 1, with its gates open.
async fn seeded() -> (Keys, Account, App, Key) {
    let store = MemoryStore::default();
    let (account, app, key) = seed(&store).await;
    (Arc::new(CachedKeys::new(Gated::new(store), alone(), &settings())), account, app, key)
}

fn shut(gate: &Semaphore) {
    gate.forget_permits(usize::MAX);
}

async fn wait_for(count: &watch::Sender<u64>, expected: u64) {
    count.subscribe().wait_for(|&count| count >= expected).await.unwrap();
}

fn finds(keys: &Keys) -> u64 {
    *keys.store().finds.borrow()
}

/// Runs everything that can run before anything else has to happen.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn standing(keys: &Keys, digest: KeyDigest) -> Option<Standing> {
    match keys.cached(&digest) {
        Some(Cached::Known(key)) => Some(key.standing),
        Some(Cached::Unknown) => None,
        None => keys.load(digest).await.unwrap().map(|key| key.standing),
    }
}

fn spawn_load(
    keys: &Keys,
    digest: KeyDigest,
) -> tokio::task::JoinHandle<Result<Option<Arc<KeyRecord>>, Arc<StoreError>>> {
    let keys = Arc::clone(keys);
    tokio::spawn(async move { keys.load(digest).await })
}

#[tokio::test]
async fn a_loaded_key_is_served_without_the_store() {
    let (keys, account, app, key) = seeded().await;
    assert!(keys.cached(&key.digest).is_none());
    let loaded = keys.load(key.digest).await.unwrap().unwrap();
    assert_eq!((loaded.id, loaded.app, loaded.account), (key.id, app.id, account.id));
    assert_eq!(loaded.standing, Standing::Active);
    // The app grants all of read, and nothing of users but reading.
    assert_eq!(loaded.scopes.as_str(), "read:orders");
    assert_eq!(loaded.id, key.id);
    assert_eq!(&*loaded.origins()[0], "https://example.com");
    for _ in 0..10 {
        assert!(matches!(keys.cached(&key.digest), Some(Cached::Known(_))));
    }
    assert_eq!(finds(&keys), 1);
    let counts = keys.counts();
    assert_eq!((counts.hits, counts.misses, counts.entries), (10, 1, 1));
}

#[tokio::test]
async fn the_state_that_refuses_is_the_keys_own_if_it_has_one() {
    let (_, account, app, key) = seeded().await;
    let off = App { status: AppStatus::Disabled, ..app.clone() };
    let suspended = Account { status: AccountStatus::Suspended, ..account.clone() };
    let disabled = Key { status: KeyStatus::Disabled, ..key.clone() };
    let check = |key: &Key, app: &App, account: &Account, expect: Standing| {
        let owned = OwnedKey { key: key.clone(), app: app.clone(), account: account.clone() };
        assert_eq!(boil(owned, 0).standing, expect);
    };
    check(&key, &app, &account, Standing::Active);
    check(&revoked(&key), &off, &suspended, Standing::KeyRevoked);
    check(&disabled, &off, &suspended, Standing::KeyDisabled);
    check(&key, &off, &suspended, Standing::AppDisabled);
    check(&key, &app, &suspended, Standing::AccountSuspended);
}

#[tokio::test]
async fn a_load_begun_before_a_revocation_is_never_served_after_it() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    // Has read the active key and is on its way back with it.
    let early = spawn_load(&keys, key.digest);
    wait_for(&keys.store().finds, 1).await;
    keys.commit(update(revoked(&key)), audit("key.revoke")).await.unwrap();
    // Comes after the revocation and finds the old load under way.
    let late = spawn_load(&keys, key.digest);
    settle().await;
    assert_eq!(finds(&keys), 1, "the late one must have joined");
    keys.store().find_gate.add_permits(OPEN);
    let late = late.await.unwrap().unwrap().unwrap();
    assert_eq!(late.standing, Standing::KeyRevoked);
    assert_eq!(early.await.unwrap().unwrap().unwrap().standing, Standing::KeyRevoked);
    assert_eq!(standing(&keys, key.digest).await, Some(Standing::KeyRevoked));
}

#[tokio::test]
async fn every_kind_of_invalidation_reaches_entries_and_loads_under_way() {
    let (keys, account, app, key) = seeded().await;
    let subjects = [
        Subject::Key(key.digest),
        Subject::App(app.id),
        Subject::Account(account.id),
        Subject::All,
    ];
    for subject in subjects {
        keys.load(key.digest).await.unwrap();
        assert!(keys.cached(&key.digest).is_some());
        keys.invalidate(subject);
        assert!(keys.cached(&key.digest).is_none(), "{subject:?}");

        let before = finds(&keys);
        shut(&keys.store().find_gate);
        let under_way = spawn_load(&keys, key.digest);
        wait_for(&keys.store().finds, before + 1).await;
        keys.invalidate(subject);
        keys.store().find_gate.add_permits(OPEN);
        under_way.await.unwrap().unwrap();
        assert_eq!(finds(&keys), before + 2, "{subject:?}: what was read before does not count");
    }
    // What concerns others leaves the entry alone.
    keys.load(key.digest).await.unwrap();
    for subject in [Subject::Key(digest(2)), Subject::App(app_id(2))] {
        keys.invalidate(subject);
        assert!(keys.cached(&key.digest).is_some(), "{subject:?}");
    }
}

#[tokio::test]
async fn a_new_key_works_at_once_after_it_was_known_as_unknown() {
    let (keys, _, app, _) = seeded().await;
    assert!(keys.load(digest(2)).await.unwrap().is_none());
    assert!(matches!(keys.cached(&digest(2)), Some(Cached::Unknown)));
    assert_eq!((keys.counts().unknown_hits, keys.counts().unknown_entries), (1, 1));
    keys.commit(create(&key(2, &app)), audit("key.create")).await.unwrap();
    assert_eq!(standing(&keys, digest(2)).await, Some(Standing::Active));
}

#[tokio::test]
async fn a_load_that_missed_a_new_key_does_not_hide_it() {
    let (keys, _, app, _) = seeded().await;
    shut(&keys.store().find_gate);
    let early = spawn_load(&keys, digest(2));
    wait_for(&keys.store().finds, 1).await;
    keys.commit(create(&key(2, &app)), audit("key.create")).await.unwrap();
    keys.store().find_gate.add_permits(OPEN);
    early.await.unwrap().unwrap();
    assert_eq!(standing(&keys, digest(2)).await, Some(Standing::Active));
}

#[tokio::test]
async fn an_app_or_account_that_is_stopped_stops_all_its_cached_keys_at_once() {
    let (keys, account, app, key1) = seeded().await;
    let other_app = self::app(2, &account);
    let (key2, other_key) = (key(2, &app), key(3, &other_app));
    for write in [Write::CreateApp(other_app), create(&key2), create(&other_key)] {
        keys.commit(write, audit("create")).await.unwrap();
    }
    let all = [key1.digest, key2.digest, other_key.digest];
    let standings = async || {
        let mut standings = vec![];
        for digest in all {
            standings.push(standing(&keys, digest).await.unwrap());
        }
        standings
    };
    assert_eq!(standings().await, [Standing::Active; 3]);
    let off = App { status: AppStatus::Disabled, ..app };
    keys.commit(Write::UpdateApp(off), audit("app.disable")).await.unwrap();
    let off = Standing::AppDisabled;
    assert_eq!(standings().await, [off, off, Standing::Active]);
    let suspended = Account { status: AccountStatus::Suspended, ..account };
    keys.commit(Write::UpdateAccount(suspended), audit("account.suspend")).await.unwrap();
    assert_eq!(standings().await, [off, off, Standing::AccountSuspended]);
}

#[tokio::test]
async fn a_thousand_waiters_on_one_cold_key_make_one_look_up() {
    for n in [1, 2] {
        let (keys, ..) = seeded().await;
        shut(&keys.store().find_gate);
        let mut waiters = JoinSet::new();
        for _ in 0..1_000 {
            let keys = Arc::clone(&keys);
            waiters.spawn(async move { keys.load(digest(n)).await.unwrap().is_some() });
        }
        wait_for(&keys.store().finds, 1).await;
        settle().await;
        keys.store().find_gate.add_permits(OPEN);
        let found = waiters.join_all().await;
        assert_eq!(found, vec![n == 1; 1_000]);
        assert_eq!(finds(&keys), 1);
    }
}

#[tokio::test]
async fn an_error_is_shared_by_those_who_waited_and_not_kept() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    keys.store().mood.find_fails.store(true, Ordering::SeqCst);
    let (one, two) = (spawn_load(&keys, key.digest), spawn_load(&keys, key.digest));
    wait_for(&keys.store().finds, 1).await;
    settle().await;
    keys.store().find_gate.add_permits(OPEN);
    let (one, two) = (one.await.unwrap().unwrap_err(), two.await.unwrap().unwrap_err());
    assert!(Arc::ptr_eq(&one, &two));
    assert!(matches!(*one, StoreError::Unavailable(_)));
    assert!(keys.cached(&key.digest).is_none());
    keys.store().mood.find_fails.store(false, Ordering::SeqCst);
    assert!(keys.load(key.digest).await.unwrap().is_some());
}

#[tokio::test]
async fn an_outage_leaves_what_is_cached_alone() {
    let (keys, _, _, key) = seeded().await;
    keys.load(key.digest).await.unwrap();
    keys.store().mood.find_fails.store(true, Ordering::SeqCst);
    assert!(keys.load(digest(2)).await.is_err());
    assert!(matches!(keys.cached(&key.digest), Some(Cached::Known(_))));
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_nobody_along() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    let first = spawn_load(&keys, key.digest);
    wait_for(&keys.store().finds, 1).await;
    let second = spawn_load(&keys, key.digest);
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    keys.store().find_gate.add_permits(OPEN);
    assert!(second.await.unwrap().unwrap().is_some());
    assert_eq!(finds(&keys), 1);
}

#[tokio::test]
async fn a_load_that_breaks_off_is_an_outage_and_the_next_one_starts_anew() {
    let (keys, _, _, key) = seeded().await;
    keys.store().mood.find_panics.store(true, Ordering::SeqCst);
    let error = keys.load(key.digest).await.unwrap_err();
    assert!(matches!(*error, StoreError::Unavailable(_)));
    keys.store().mood.find_panics.store(false, Ordering::SeqCst);
    assert!(keys.load(key.digest).await.unwrap().is_some());
}

#[tokio::test]
async fn a_commit_whose_caller_leaves_midway_still_invalidates() {
    let (keys, _, _, key) = seeded().await;
    keys.load(key.digest).await.unwrap();
    shut(&keys.store().commit_gate);
    let caller = {
        let (keys, key) = (Arc::clone(&keys), revoked(&key));
        tokio::spawn(async move { keys.commit(update(key), audit("revoke")).await })
    };
    wait_for(&keys.store().commits, 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    // Whatever is read now is from before the write, and must not outlive it.
    assert_eq!(standing(&keys, key.digest).await, Some(Standing::Active));
    keys.store().commit_gate.add_permits(OPEN);
    until(async || keys.cached(&key.digest).is_none()).await;
    assert_eq!(standing(&keys, key.digest).await, Some(Standing::KeyRevoked));
}

#[tokio::test]
async fn a_commit_that_fails_or_breaks_off_invalidates_too() {
    let (keys, _, _, key) = seeded().await;
    keys.load(key.digest).await.unwrap();
    keys.store().mood.commit_fails.store(true, Ordering::SeqCst);
    let write = update(revoked(&key));
    keys.commit(write, audit("revoke")).await.unwrap_err();
    // The error hid that the write was carried out.
    assert_eq!(standing(&keys, key.digest).await, Some(Standing::KeyRevoked));

    keys.store().mood.commit_panics.store(true, Ordering::SeqCst);
    let active = Key { version: Version(1), ..key.clone() };
    let error = keys.commit(update(active), audit("undo")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert_eq!(standing(&keys, key.digest).await, Some(Standing::Active));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_waited_for_so_long_and_not_for_ever() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    let start = tokio::time::Instant::now();
    let error = keys.load(key.digest).await.unwrap_err();
    assert!(matches!(*error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(start.elapsed(), FIND_TIMEOUT);
    // Whoever comes next asks anew, instead of waiting for the look-up that hangs.
    let next = spawn_load(&keys, key.digest);
    wait_for(&keys.store().finds, 2).await;
    keys.store().find_gate.add_permits(OPEN);
    assert!(next.await.unwrap().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_collects_a_bounded_number_of_look_ups() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    let loads_max = u64::try_from(LOADS_MAX).unwrap();
    let mut loads = JoinSet::new();
    for n in 0..loads_max {
        let keys = Arc::clone(&keys);
        loads.spawn(async move { keys.load(digest(100 + n)).await.is_err() });
    }
    wait_for(&keys.store().finds, loads_max).await;
    let start = tokio::time::Instant::now();
    let error = keys.load(key.digest).await.unwrap_err();
    assert!(matches!(*error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    // That nobody waits any more does not mean that the store is done.
    assert!(loads.join_all().await.into_iter().all(|failed| failed));
    assert!(keys.load(key.digest).await.is_err());
    assert_eq!(finds(&keys), loads_max);
    keys.store().find_gate.add_permits(OPEN);
    until(async || keys.load(key.digest).await.is_ok()).await;
}

#[tokio::test]
async fn a_new_key_finds_room_in_a_cache_full_of_busy_ones() {
    const ROOM: u64 = 10;
    let store = MemoryStore::default();
    let (_, app, _) = seed(&store).await;
    for n in 2..=ROOM + 1 {
        let write = Write::CreateKey { key: key(n, &app), live_max: 1_000, now: UnixMillis(0) };
        store.commit(write, audit("create")).await.unwrap();
    }
    let keys = CachedKeys::new(store, alone(), &CacheSettings { keys_max: ROOM, ..settings() });
    let use_once = async |n| match keys.cached(&digest(n)) {
        Some(_) => true,
        None => {
            keys.load(digest(n)).await.unwrap();
            assert!(keys.counts().entries <= ROOM);
            false
        }
    };
    for n in (1..=ROOM).cycle().take(10_000) {
        use_once(n).await;
    }
    assert_eq!(keys.counts().entries, ROOM);
    let mut loads = 0;
    for _ in 0..1_000 {
        loads += u64::from(!use_once(ROOM + 1).await);
    }
    assert!(loads <= 3, "the store was asked {loads} times");
}

#[tokio::test]
async fn a_request_is_answered_even_if_changes_come_faster_than_loads() {
    let (keys, _, _, key) = seeded().await;
    shut(&keys.store().find_gate);
    let load = spawn_load(&keys, key.digest);
    for find in 1..=2 {
        wait_for(&keys.store().finds, find).await;
        keys.invalidate(Subject::Key(key.digest));
        keys.store().find_gate.add_permits(1);
    }
    assert!(load.await.unwrap().unwrap().is_some());
    assert!(keys.cached(&key.digest).is_none(), "stale for whoever comes next");
}

#[tokio::test]
async fn both_kinds_of_entries_are_bounded_apart_and_evictions_are_counted() {
    let (_, _, app, _) = seeded().await;
    let store = MemoryStore::default();
    seed(&store).await;
    for n in 2..200 {
        let write = Write::CreateKey { key: key(n, &app), live_max: 1_000, now: UnixMillis(0) };
        store.commit(write, audit("create")).await.unwrap();
    }
    let settings = CacheSettings { keys_max: 20, unknown_max: 10, ..settings() };
    let keys = CachedKeys::new(store, alone(), &settings);
    for n in 1..200 {
        assert!(keys.load(digest(n)).await.unwrap().is_some());
        assert!(keys.load(digest(1_000 + n)).await.unwrap().is_none());
    }
    let counts = keys.counts();
    assert_eq!((counts.entries, counts.unknown_entries), (20, 10));
    assert_eq!(counts.evictions, 199 * 2 - 30);
}

/// Readers on several threads never see less than what was acknowledged before they asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_sees_less_than_what_was_acknowledged() {
    const CHANGES: u64 = 3_000;
    let (keys, _, _, key) = seeded().await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for reader in 0..6 {
        let (keys, acknowledged) = (Arc::clone(&keys), Arc::clone(&acknowledged));
        readers.spawn(async move {
            let mut from_cache = 0_u64;
            loop {
                let floor = acknowledged.load(Ordering::SeqCst);
                let record = match keys.cached(&key.digest) {
                    Some(Cached::Known(record)) => {
                        from_cache += 1;
                        record
                    }
                    Some(Cached::Unknown) => panic!("the key exists"),
                    None => keys.load(key.digest).await.unwrap().unwrap(),
                };
                // As the key was before the first change.
                let seen = match record.expires_at.unwrap() {
                    UnixMillis(u64::MAX) => 0,
                    UnixMillis(change) => change,
                };
                assert!(seen >= floor, "reader {reader}: {seen} < {floor}");
                if floor == CHANGES {
                    return from_cache;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for change in 0..CHANGES {
        let version = Version(change);
        // The key's end counts the changes, so that a record tells how new it is.
        let key = Key { version, expires_at: Some(UnixMillis(change + 1)), ..key.clone() };
        keys.commit(update(key), audit("change")).await.unwrap();
        acknowledged.store(change + 1, Ordering::SeqCst);
    }
    let from_cache: u64 = readers.join_all().await.iter().sum();
    assert!(from_cache > 0, "the cache was never asked");
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}
