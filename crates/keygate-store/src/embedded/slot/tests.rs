//! A disk that fails, and then no longer does, under a store that goes on without a restart.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use tempfile::TempDir;

use super::super::open::{Files, open_existing};
use super::*;
use crate::contract::run;
use crate::embedded::EmbeddedStore;
use crate::keys::KeyStore;
use crate::records::{KeyStatus, Version};
use crate::testing::{audit, create, digest, key, revoked, seed, update};

/// What the disk under a store does, as the test says.
#[derive(Default, Debug)]
struct Disk {
    /// So many writes from now on fail.
    failing_writes: AtomicUsize,
    failing_syncs: AtomicUsize,
    is_gone: AtomicBool,
    opened: AtomicUsize,
}

impl Disk {
    fn check(failing: &AtomicUsize) -> io::Result<()> {
        match failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::ErrorKind::StorageFull.into()),
            Err(_) => Ok(()),
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: FileBackend,
    disk: Arc<Disk>,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Disk::check(&self.disk.failing_writes)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Disk::check(&self.disk.failing_syncs)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Disk::check(&self.disk.failing_writes)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

impl Files for Arc<Disk> {
    type File = FaultyFile;

    fn of(&self, file: FileBackend) -> FaultyFile {
        FaultyFile { file, disk: Arc::clone(self) }
    }
}

/// A store on `disk`, with account 1, app 1 and key 1.
fn store(disk: &Arc<Disk>, reopen_pause: Duration) -> (TempDir, EmbeddedStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keygate.db");
    run(seed(&EmbeddedStore::open(&path).unwrap()));
    let disk = Arc::clone(disk);
    let open = move || {
        disk.opened.fetch_add(1, SeqCst);
        if disk.is_gone.load(SeqCst) {
            let source = io::ErrorKind::NotFound.into();
            return Err(OpenError::Io { path: path.clone(), source });
        }
        open_existing(&path, u64::MAX, &disk)
    };
    let mut slot = Slot::new(open().unwrap(), open);
    slot.reopen_pause = reopen_pause;
    (folder, EmbeddedStore::of(slot))
}

fn failures(disk: &Disk) -> [&AtomicUsize; 2] {
    [&disk.failing_writes, &disk.failing_syncs]
}

#[test]
fn a_full_disk_that_has_room_again_heals_without_a_restart() {
    for kind in 0..2 {
        let disk = Arc::new(Disk::default());
        let (_folder, store) = store(&disk, REOPEN_PAUSE);
        let app = crate::testing::app(1, &crate::testing::account(1));
        run(async {
            failures(&disk)[kind].store(1, SeqCst);
            let error = store.commit(create(&key(2, &app)), audit("full")).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            store.commit(create(&key(3, &app)), audit("create")).await.unwrap();
            store.commit(update(revoked(&key(1, &app))), audit("revoke")).await.unwrap();
            let found = store.find(digest(1)).await.unwrap().unwrap();
            assert!(matches!(found.key.status, KeyStatus::Revoked { .. }));
            assert_eq!(found.key.version, Version(1));
            assert!(store.find(digest(3)).await.unwrap().is_some());
        });
        assert_eq!(disk.opened.load(SeqCst), 2);
    }
}

#[test]
fn a_disk_that_stays_broken_is_not_opened_all_the_time() {
    let disk = Arc::new(Disk::default());
    let (_folder, store) = store(&disk, Duration::from_secs(3_600));
    run(async {
        disk.failing_syncs.store(1, SeqCst);
        disk.is_gone.store(true, SeqCst);
        let app = crate::testing::app(1, &crate::testing::account(1));
        for _ in 0..100 {
            let error = store.commit(create(&key(2, &app)), audit("full")).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            assert!(matches!(store.find(digest(1)).await, Err(StoreError::Unavailable(_))));
        }
    });
    assert_eq!(disk.opened.load(SeqCst), 2, "once at the start, and once again");
}

#[test]
fn an_attempt_that_fails_is_followed_by_another() {
    let disk = Arc::new(Disk::default());
    let (_folder, store) = store(&disk, Duration::ZERO);
    run(async {
        let app = crate::testing::app(1, &crate::testing::account(1));
        disk.failing_syncs.store(1, SeqCst);
        disk.is_gone.store(true, SeqCst);
        store.commit(create(&key(2, &app)), audit("full")).await.unwrap_err();
        store.find(digest(1)).await.unwrap_err();
        store.find(digest(1)).await.unwrap_err();
        disk.is_gone.store(false, SeqCst);
        assert!(store.find(digest(1)).await.unwrap().is_some());
    });
    assert_eq!(disk.opened.load(SeqCst), 4);
}

#[test]
fn callers_that_meet_a_broken_disk_at_once_open_it_once() {
    let disk = Arc::new(Disk::default());
    let (_folder, store) = store(&disk, REOPEN_PAUSE);
    run(async {
        let app = crate::testing::app(1, &crate::testing::account(1));
        disk.failing_writes.store(1, SeqCst);
        store.commit(create(&key(2, &app)), audit("full")).await.unwrap_err();
        let store = Arc::new(store);
        let mut finds = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let store = Arc::clone(&store);
            finds.spawn(async move { store.find(digest(1)).await.unwrap().is_some() });
        }
        assert_eq!(finds.join_all().await, [true; 50]);
    });
    assert_eq!(disk.opened.load(SeqCst), 2);
}
