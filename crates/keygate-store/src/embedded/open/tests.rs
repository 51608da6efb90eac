//! A file that cannot be used is refused with one clear line and left as it was; one that can be
//! used holds all that was acknowledged.

mod older;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use keygate_core::{KeyId, UnixMillis};
use redb::TableDefinition;
use tempfile::TempDir;

use super::*;
use crate::audit::{Finding, Verifier};
use crate::contract::run;
use crate::embedded::EmbeddedStore;
use crate::embedded::slot::Slot;
use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, Write};
use crate::records::{Account, Key};
use crate::testing::{NOW, account, audit, key, last_times, mark_used, once, rotate, seed, token};

fn place(folder: &TempDir) -> PathBuf {
    folder.path().join("data").join("keygate.db")
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A store with some records, closed as it should be.
fn filled(folder: &TempDir) -> PathBuf {
    let path = place(folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(fill(&store));
    path
}

async fn fill(store: &EmbeddedStore) {
    let (_, app, _) = seed(store).await;
    for n in 2..40 {
        let write = Write::CreateKey { key: key(n, &app), live_max: 100, now: UnixMillis(0) };
        store.commit(write, audit("fill")).await.unwrap();
    }
}

/// A store whose process was killed: the file as it is while a store has it open.
fn killed(folder: &TempDir) -> PathBuf {
    let path = place(folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(fill(&store));
    let as_killed = folder.path().join("killed.db");
    fs::copy(&path, &as_killed).unwrap();
    as_killed
}

fn error_of(path: &Path) -> OpenError {
    match EmbeddedStore::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// One line that names the file.
fn check_line(error: &OpenError, path: &Path) {
    let line = error.to_string();
    assert!(line.contains(&path.display().to_string()), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

/// The file is refused and not changed by that. Gives the error.
fn check_refused(path: &Path, contents: &[u8]) -> OpenError {
    fs::write(path, contents).unwrap();
    let error = error_of(path);
    check_line(&error, path);
    assert!(fs::read(path).unwrap() == contents, "the file was changed: {error}");
    error
}

#[test]
fn a_new_store_is_made_for_its_owner_only() {
    let folder = folder();
    let path = place(&folder);
    drop(EmbeddedStore::open(&path).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = folder();
    let path = filled(&folder);
    for round in 0..3 {
        let store = EmbeddedStore::open(&path).unwrap();
        run(async {
            let log = store.audit(Page { after: None, limit: 1_000 }).await.unwrap();
            assert_eq!(log.len(), 41 + round);
            let write = Write::CreateAccount(account(100 + round as u64));
            let number = store.commit(write, audit("more")).await.unwrap();
            assert_eq!(number, ChangeNumber(42 + round as u64));
        });
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged_wherever_it_was() {
    let folder = folder();
    let path = place(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    for n in 0..30 {
        run(store.commit(Write::CreateAccount(account(n)), audit("create"))).unwrap();
        // What a kill at this moment would leave.
        let as_killed = folder.path().join("killed.db");
        fs::copy(&path, &as_killed).unwrap();
        let reopened = EmbeddedStore::open(&as_killed).unwrap();
        let accounts = run(reopened.accounts(Page { after: None, limit: 100 })).unwrap();
        assert_eq!(accounts, (0..=n).map(account).collect::<Vec<Account>>());
    }
}

/// Each write of its own, with all that it touches: the killed file holds the whole of it.
#[test]
fn a_killed_process_loses_no_part_of_a_change() {
    let folder = folder();
    let path = place(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(async {
        let (_, app, old) = seed(&store).await;
        let write = |n: u64| match n {
            0 => rotate(&old, &key(2, &app), 5),
            1 => Write::CreateToken(token(1)),
            2 => Write::Note,
            _ => Write::CreateAccount(account(n)),
        };
        for (n, name) in (0..6).zip(0..) {
            let once = once(name, 1);
            match n {
                2 => drop(store.commit(write(n), audit("note")).await.unwrap()),
                _ => drop(store.commit_once(write(n), audit("once"), once).await.unwrap()),
            }
            mark_used(&store, vec![(old.id, UnixMillis(n)), (app_key(n), NOW)]).await;
            // What a kill at this moment would leave.
            let as_killed = folder.path().join("killed.db");
            fs::copy(&path, &as_killed).unwrap();
            let reopened = EmbeddedStore::open(&as_killed).unwrap();
            check_same(&store, &reopened).await;
            let ids = vec![old.id, app_key(n)];
            let used = [Some(UnixMillis(n)), Some(NOW)];
            assert_eq!(last_times(&reopened, ids).await, used);
            let remembered = reopened.remembered([name; 32], NOW).await.unwrap();
            assert_eq!(remembered.map(|remembered| remembered.made), write(n).made());
        }
    });
}

fn app_key(n: u64) -> KeyId {
    crate::testing::key_id(100 + n)
}

async fn check_same(store: &EmbeddedStore, other: &EmbeddedStore) {
    let app = crate::testing::app(1, &account(1));
    fn all<T>() -> Page<T> {
        Page { after: None, limit: 1_000 }
    }
    let keys = store.keys(app.id, all()).await.unwrap();
    assert_eq!(other.keys(app.id, all()).await.unwrap(), keys);
    for key in keys {
        assert_eq!(other.find(key.digest).await.unwrap().unwrap().key, key);
    }
    assert_eq!(other.tokens(all()).await.unwrap(), store.tokens(all()).await.unwrap());
    assert_eq!(other.accounts(all()).await.unwrap(), store.accounts(all()).await.unwrap());
    let log = other.audit(all()).await.unwrap();
    assert_eq!(log, store.audit(all()).await.unwrap());
    let mut verifier = Verifier::from_start();
    assert!(log.iter().all(|logged| verifier.check(logged).is_empty()));
}

#[test]
fn a_first_start_that_was_killed_is_made_up_for() {
    let folder = folder();
    let path = place(&folder);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("db.new"), b"half a store").unwrap();
    run(seed(&EmbeddedStore::open(&path).unwrap()));
    assert!(!path.with_extension("db.new").exists());
}

#[test]
fn a_second_opener_is_refused_and_the_first_goes_on() {
    let folder = folder();
    let path = place(&folder);
    let first = EmbeddedStore::open(&path).unwrap();
    let error = error_of(&path);
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "{}: another process has it open; stop it or choose another [store] path",
            path.display()
        )
    );
    run(seed(&first));
    drop(first);
    let again = EmbeddedStore::open(&path).unwrap();
    assert!(run(again.find(crate::testing::digest(1))).unwrap().is_some());
}

#[test]
fn a_file_cut_at_any_length_is_refused_and_left_as_it_is() {
    let folder = folder();
    let whole = fs::read(filled(&folder)).unwrap();
    let cut_path = folder.path().join("cut.db");
    let lengths = (0..700).step_by(37).chain((700..whole.len()).step_by(3_001));
    for length in lengths.chain([320, 4_095, 4_096, 8_192, whole.len() - 4_096, whole.len() - 1]) {
        let error = check_refused(&cut_path, &whole[..length]);
        assert!(matches!(error, OpenError::Damaged { .. }), "{length}: {error:?}");
    }
    fs::write(&cut_path, &whole).unwrap();
    EmbeddedStore::open(&cut_path).unwrap();
}

#[test]
fn a_killed_file_that_was_cut_too_is_refused_or_has_lost_nothing() {
    let folder = folder();
    let whole = fs::read(killed(&folder)).unwrap();
    let cut_path = folder.path().join("cut.db");
    let lengths = (0..whole.len()).step_by(2_053).chain((4_096..whole.len()).step_by(4_096));
    for length in lengths {
        fs::write(&cut_path, &whole[..length]).unwrap();
        match EmbeddedStore::open(&cut_path) {
            // Only free pages were cut off.
            Ok(store) => run(check_filled(&store)).unwrap(),
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { .. }), "{length}: {error:?}");
                assert!(fs::read(&cut_path).unwrap() == whole[..length], "{length}: changed");
            }
        }
    }
}

/// All that `fill` wrote can be read, and is what it wrote.
async fn check_filled(store: &EmbeddedStore) -> Result<(), StoreError> {
    let account = account(1);
    let app = crate::testing::app(1, &account);
    assert_eq!(store.account(account.id).await?, Some(account));
    assert_eq!(store.app(app.id).await?.as_ref(), Some(&app));
    let keys: Vec<Key> = (1..40).map(|n| key(n, &app)).collect();
    assert_eq!(store.keys(app.id, Page { after: None, limit: 100 }).await?, keys);
    for key in keys {
        assert_eq!(store.find(key.digest).await?.unwrap().key, key);
    }
    assert_eq!(store.audit(Page { after: None, limit: 100 }).await?.len(), 41);
    Ok(())
}

/// Flips one bit of a closed and of a killed store's file, here and there, and hands each to
/// `check` with its contents.
fn flip_bits(mut check: impl FnMut(&Path, &[u8])) {
    let (folder, other_folder) = (folder(), folder());
    let path = folder.path().join("flipped.db");
    for sound in [filled(&folder), killed(&other_folder)] {
        let whole = fs::read(sound).unwrap();
        let header = (0..320).step_by(3);
        for at in header.chain((4_096..whole.len()).step_by(997)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            check(&path, &flipped);
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_does_not_matter() {
    flip_bits(|path, flipped| match EmbeddedStore::open(path) {
        Err(error) => {
            check_line(&error, path);
            assert!(fs::read(path).unwrap() == flipped, "changed: {error}");
        }
        // Free space, or a flag that says nothing to us.
        Ok(store) => run(check_filled(&store)).unwrap(),
    });
}

#[test]
fn a_flipped_bit_in_a_file_too_large_to_verify_hides_a_record_but_never_changes_one() {
    flip_bits(|path, flipped| match open_existing(path, 0, &PlainFiles) {
        Err(error) => {
            check_line(&error, path);
            assert!(fs::read(path).unwrap() == flipped, "changed: {error}");
        }
        Ok(db) => {
            let store = EmbeddedStore::of(Slot::new(db, || unreachable!()));
            run(check_unchanged(&store));
            // Not closed: the database may panic twice over a damaged allocator, which aborts.
            std::mem::forget(store);
        }
    });
}

/// Whatever of `fill` can be read is what it wrote.
async fn check_unchanged(store: &EmbeddedStore) {
    let app = crate::testing::app(1, &account(1));
    for n in 1..40 {
        let expected = key(n, &app);
        if let Ok(Some(found)) = store.find(expected.digest).await {
            assert_eq!((found.key, found.app, found.account), (expected, app.clone(), account(1)));
        }
    }
}

#[test]
fn garbage_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("garbage.db");
    let mut noise = crate::testing::digest(1).as_bytes().repeat(4_096);
    let error = check_refused(&path, &noise);
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
    check_refused(&path, b"a");
    check_refused(&path, b"# a text file, by mistake\n");
    check_refused(&path, &vec![0; 100_000]);
    // Noise behind a good beginning.
    let whole = fs::read(filled(&folder)).unwrap();
    for kept in [9, 12, 32, 64, 320] {
        noise[..kept].copy_from_slice(&whole[..kept]);
        check_refused(&path, &noise);
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = folder();
    let (closed, other_folder) = (filled(&folder), self::folder());
    for path in [closed, killed(&other_folder)] {
        let mut newer = fs::read(&path).unwrap();
        newer[64] = 4;
        newer[192] = 4;
        let error = check_refused(&folder.path().join("newer.db"), &newer);
        assert!(matches!(error, OpenError::NewerFormat { found: 4, known: 3, .. }), "{error:?}");
    }
}

#[test]
fn tables_of_a_newer_version_are_refused_and_left_as_they_are() {
    let folder = folder();
    let path = filled(&folder);
    let db = Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(META_FORMAT, FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    // Closed, and as a kill would leave it, which the database repairs when it opens it.
    let killed = fs::read(&path).unwrap();
    drop(db);
    for contents in [fs::read(&path).unwrap(), killed] {
        let error = check_refused(&path, &contents);
        assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error:?}");
        let line = error.to_string();
        assert!(line.ends_with("format 2, and this one reads up to 1; run that version"), "{line}");
    }
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("other.db");
    let db = Database::create(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    let table: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
    transaction.open_table(table).unwrap().insert("format", "theirs").unwrap();
    transaction.commit().unwrap();
    drop(db);
    let error = check_refused(&path, &fs::read(&path).unwrap());
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
}

#[test]
fn a_folder_in_the_place_of_the_file_is_refused() {
    let folder = folder();
    let error = error_of(folder.path());
    assert!(matches!(error, OpenError::IsFolder { .. }), "{error:?}");
    check_line(&error, folder.path());
}

#[test]
fn a_place_that_cannot_be_written_is_refused() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, b"mine").unwrap();
    // Root may write anywhere, but not below a file, nor where the kernel keeps its own.
    for path in [file.join("keygate.db"), file.join("data/keygate.db")] {
        let error = error_of(&path);
        assert!(matches!(error, OpenError::Folder { .. } | OpenError::Io { .. }), "{error:?}");
        assert!(!error.to_string().contains('\n'));
    }
    let error = error_of(Path::new("/proc/keygate/keygate.db"));
    assert!(matches!(error, OpenError::Folder { .. }), "{error:?}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_never_overwritten() {
    let folder = folder();
    let path = filled(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    let id = account(1).id.as_u128().to_be_bytes();
    let json = br#"{"v":2,"record":{"name":"from the future"}}"#;
    let newer = crate::embedded::tables::seal_json("account", &id, json);
    let overwrite = |db: &Database| {
        let transaction = db.begin_write().unwrap();
        transaction.open_table(ACCOUNTS).unwrap().insert(id.as_slice(), newer.as_slice()).unwrap();
        transaction.commit().unwrap();
        Ok(())
    };
    store.slot.with(overwrite).unwrap();
    run(async {
        let error = store.account(account(1).id).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
        let error = store.find(crate::testing::digest(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
        let update = Write::UpdateAccount(account(1));
        let error = store.commit(update, audit("update")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
    });
    let check_kept = |db: &Database| {
        let kept = db.begin_read().unwrap().open_table(ACCOUNTS).unwrap();
        assert_eq!(kept.get(id.as_slice()).unwrap().unwrap().value(), newer);
        Ok(())
    };
    store.slot.with(check_kept).unwrap();
}

#[test]
fn the_newest_change_is_counted_apart_from_the_log() {
    let folder = folder();
    let path = place(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(run(store.newest()).unwrap(), Some(ChangeNumber(0)));
    run(fill(&store));
    let newest = run(store.audit(Page { after: None, limit: 1_000 })).unwrap().len() as u64;
    let cut = move |db: &Database| {
        let transaction = write::begin(db)?;
        let mut log = transaction.open_table(CHANGES).unwrap();
        log.pop_last().unwrap();
        drop(log);
        transaction.commit().unwrap();
        Ok(())
    };
    run(store.blocking(cut)).unwrap();
    assert_eq!(run(store.newest()).unwrap(), Some(ChangeNumber(newest)));
}

#[test]
fn an_entry_of_the_log_that_was_damaged_is_named_and_the_others_are_read() {
    let folder = folder();
    let path = place(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(fill(&store));
    let damage = move |db: &Database| {
        let transaction = write::begin(db)?;
        let mut log = transaction.open_table(CHANGES).unwrap();
        for number in [5_u64, 9] {
            let place = number.to_be_bytes();
            let mut sealed = log.get(place.as_slice()).unwrap().unwrap().value().to_vec();
            let last = sealed.len() - 1;
            sealed[last] ^= 1;
            sealed.truncate(if number == 9 { 3 } else { last + 1 });
            log.insert(place.as_slice(), sealed.as_slice()).unwrap();
        }
        drop(log);
        transaction.commit().unwrap();
        Ok(())
    };
    run(store.blocking(damage)).unwrap();
    let log = run(store.audit(Page { after: None, limit: 1_000 })).unwrap();
    let mut verifier = Verifier::from_start();
    let found: Vec<_> = log.iter().flat_map(|logged| verifier.check(logged)).collect();
    let unreadable = |number| Finding::Unreadable { number: ChangeNumber(number) };
    assert_eq!(found, [unreadable(5), unreadable(9)]);
    assert!(log[4].entry.is_unreadable() && !log[5].entry.is_unreadable());
}
