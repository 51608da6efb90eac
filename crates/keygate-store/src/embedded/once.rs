//! Changes that are carried out once: what each has made is kept under its name, written by the
//! change's own transaction.

use std::ops::Bound;

use keygate_core::UnixMillis;
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::tables::{ONCE, ONCE_ENDS, failed, get};
use super::write::{begin, carry_out, log, put, records};
use crate::codec::DoneOnce;
use crate::keys::{Done, Once, Remembered, StoreError, Write};
use crate::records::AuditEntry;

/// How many names that are over a change forgets at most: more than it adds, so that they come to an
/// end, and few, so that no change takes long.
pub(super) const FORGOTTEN_MAX: usize = 32;

pub(super) fn commit(
    db: &Database,
    write: Write,
    audit: &AuditEntry,
    once: &Once,
) -> Result<Done, StoreError> {
    let transaction = begin(db)?;
    let before: Option<DoneOnce> = get(&records(&transaction, ONCE)?, &once.name)?;
    if let Some(before) = before.as_ref().and_then(|before| still(before, once.now)) {
        // The transaction ends here, with nothing to keep.
        return Ok(Done::Before(before));
    }
    let made = write.made().ok_or(StoreError::NotFound("a record that the change makes"))?;
    if let Some(before) = before {
        forget(&transaction, before.until, &once.name)?;
    }
    forget_some(&transaction, once.now)?;
    carry_out(&transaction, write)?;
    let number = log(&transaction, audit)?;
    let done = DoneOnce { request: once.request, until: once.until, made };
    remember(&transaction, &once.name, &done)?;
    transaction.commit().map_err(failed)?;
    Ok(Done::Now(number))
}

pub(super) fn remembered(
    db: &Database,
    name: &[u8; 32],
    now: UnixMillis,
) -> Result<Option<Remembered>, StoreError> {
    let table = db.begin_read().map_err(failed)?.open_table(ONCE).map_err(failed)?;
    let done: Option<DoneOnce> = get(&table, name)?;
    Ok(done.and_then(|done| still(&done, now)))
}

fn still(done: &DoneOnce, now: UnixMillis) -> Option<Remembered> {
    let remembered = || Remembered { request: done.request, made: done.made.clone() };
    (done.until > now).then(remembered)
}

fn remember(
    transaction: &WriteTransaction,
    name: &[u8; 32],
    done: &DoneOnce,
) -> Result<(), StoreError> {
    put(&mut records(transaction, ONCE)?, name, done)?;
    let mut ends = transaction.open_table(ONCE_ENDS).map_err(failed)?;
    ends.insert((done.until.0, name), ()).map_err(failed)?;
    Ok(())
}

fn forget_some(transaction: &WriteTransaction, now: UnixMillis) -> Result<(), StoreError> {
    let ends = transaction.open_table(ONCE_ENDS).map_err(failed)?;
    let over = (Bound::Unbounded, Bound::Included((now.0, &[u8::MAX; 32])));
    let over = ends.range::<(u64, &[u8; 32])>(over).map_err(failed)?.take(FORGOTTEN_MAX);
    let names: Vec<_> = over
        .map(|entry| {
            let (end, _) = entry.map_err(failed)?;
            let (until, name) = end.value();
            Ok((UnixMillis(until), *name))
        })
        .collect::<Result<_, StoreError>>()?;
    drop(ends);
    names.into_iter().try_for_each(|(until, name)| forget(transaction, until, &name))
}

fn forget(
    transaction: &WriteTransaction,
    until: UnixMillis,
    name: &[u8; 32],
) -> Result<(), StoreError> {
    records(transaction, ONCE)?.remove(name.as_slice()).map_err(failed)?;
    let mut ends = transaction.open_table(ONCE_ENDS).map_err(failed)?;
    ends.remove((until.0, name)).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use redb::ReadableTableMetadata;

    use super::*;
    use crate::contract::run;
    use crate::embedded::EmbeddedStore;
    use crate::keys::KeyStore;
    use crate::testing::{NOW, account, audit, once};

    #[test]
    fn what_was_done_once_is_forgotten_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("keygate.db")).unwrap();
        let kept = || {
            let count = |db: &Database| {
                let moment = db.begin_read().unwrap();
                let names = moment.open_table(ONCE).unwrap().len().unwrap();
                assert_eq!(moment.open_table(ONCE_ENDS).unwrap().len().unwrap(), names);
                Ok(names)
            };
            store.slot.with(count).unwrap()
        };
        run(async {
            let create = |n| Write::CreateAccount(account(n));
            for (n, name) in (0..80).zip(0..) {
                store.commit_once(create(n), audit("create"), once(name, 1)).await.unwrap();
            }
            assert_eq!(kept(), 80);
            let now = UnixMillis(NOW.0 + 100_000);
            let later = |name| Once { now, until: UnixMillis(now.0 + 1), ..once(name, 2) };
            for (name, expected) in [(100, 49), (101, 18), (102, 3), (103, 4)] {
                let write = create(name.into());
                store.commit_once(write, audit("create"), later(name)).await.unwrap();
                assert_eq!(kept(), expected);
            }
        });
    }
}
