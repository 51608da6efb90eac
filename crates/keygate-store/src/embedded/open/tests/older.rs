//! A file of an older version is taken over as it is, and stays one that the older version can open.

use super::*;
use crate::audit::{Finding, Link};
use crate::keys::Done;
use crate::records::Logged;
use crate::testing::{key_id, last_times, mark_used, token_id};

/// Makes of a file one that has the tables of the first version only.
fn age(path: &Path) {
    let db = Database::open(path).unwrap();
    let transaction = write::begin(&db).unwrap();
    assert!(transaction.delete_table(CHANGE_LINKS).unwrap());
    assert!(transaction.delete_table(TOKENS).unwrap());
    assert!(transaction.delete_table(TOKEN_HASHES).unwrap());
    assert!(transaction.delete_table(ONCE).unwrap());
    assert!(transaction.delete_table(ONCE_ENDS).unwrap());
    assert!(transaction.delete_table(LAST_USED).unwrap());
    assert!(transaction.delete_table(LAST_USES).unwrap());
    for usage in [USAGE_MINUTES, USAGE_HOURS, USAGE_DAYS] {
        assert!(transaction.delete_table(usage).unwrap());
    }
    assert!(transaction.delete_table(USAGE_SOURCES).unwrap());
    assert_eq!(transaction.list_tables().unwrap().count(), 9);
    transaction.commit().unwrap();
}

/// A file of the first version, closed as it should be and as a kill would leave it.
fn older(folder: &TempDir) -> [PathBuf; 2] {
    let closed = filled(folder);
    age(&closed);
    let as_killed = folder.path().join("killed.db");
    let db = Database::open(&closed).unwrap();
    fs::copy(&closed, &as_killed).unwrap();
    drop(db);
    [closed, as_killed]
}

async fn log(store: &EmbeddedStore) -> Vec<Logged> {
    store.audit(Page { after: None, limit: 1_000 }).await.unwrap()
}

fn findings(log: &[Logged]) -> Vec<Finding> {
    let mut verifier = Verifier::from_start();
    log.iter().flat_map(|logged| verifier.check(logged)).collect()
}

#[test]
fn a_file_of_an_older_version_loses_nothing_and_can_all_that_a_new_one_can() {
    let folder = folder();
    for path in older(&folder) {
        let store = EmbeddedStore::open(&path).unwrap();
        run(async {
            check_filled(&store).await.unwrap();
            assert_eq!(store.tokens(Page { after: None, limit: 9 }).await.unwrap(), []);
            assert_eq!(last_times(&store, vec![key_id(1)]).await, [None]);
            assert_eq!(store.remembered([1; 32], NOW).await.unwrap(), None);
            assert!(log(&store).await.iter().all(|logged| logged.seal.is_none()));

            let write = Write::CreateToken(token(1));
            let done = store.commit_once(write, audit("token"), once(1, 1)).await.unwrap();
            assert_eq!(done, Done::Now(ChangeNumber(42)));
            store.commit(Write::Note, audit("note")).await.unwrap();
            mark_used(&store, vec![(key_id(1), NOW)]).await;
        });
        drop(store);
        // And again, with what was new.
        let store = EmbeddedStore::open(&path).unwrap();
        run(async {
            assert_eq!(store.token(token_id(1)).await.unwrap(), Some(token(1)));
            assert_eq!(last_times(&store, vec![key_id(1)]).await, [Some(NOW)]);
            assert!(store.remembered([1; 32], NOW).await.unwrap().is_some());
            // The chain begins with the first entry of this version.
            let log = log(&store).await;
            assert_eq!(findings(&log), []);
            let first = log[41].seal.as_ref().unwrap();
            assert_eq!(first.link, Link::START.next(ChangeNumber(42), &first.bytes));
            assert_eq!(log.iter().filter(|logged| logged.seal.is_some()).count(), 2);
        });
    }
}

#[test]
fn an_older_version_finds_what_it_looks_for() {
    let folder = folder();
    let [path, _] = older(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(store.commit(Write::CreateToken(token(1)), audit("token"))).unwrap();
    drop(store);
    let db = Database::open(&path).unwrap();
    let moment = db.begin_read().unwrap();
    let meta = moment.open_table(META).unwrap();
    assert_eq!(meta.get(META_FORMAT).unwrap().unwrap().value(), 1);
    check_tables(&path, &db).unwrap();
}

#[test]
fn entries_that_an_older_version_adds_in_between_show_and_a_new_chain_follows() {
    let folder = folder();
    let path = filled(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    run(async {
        let number = store.commit(Write::Note, audit("note")).await.unwrap();
        // As the older version leaves it.
        let unlink = move |db: &Database| {
            let transaction = db.begin_write().unwrap();
            transaction.open_table(CHANGE_LINKS).unwrap().remove(number.0).unwrap();
            transaction.commit().unwrap();
            Ok(())
        };
        store.slot.with(unlink).unwrap();
        store.commit(Write::Note, audit("note")).await.unwrap();
        store.commit(Write::Note, audit("note")).await.unwrap();
        assert_eq!(findings(&log(&store).await), [Finding::Unsealed { number }]);
    });
}
