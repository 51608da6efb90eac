//! When keys were last used: a table of its own, so that a use rewrites no record.

use keygate_core::{KeyId, UnixMillis};
use redb::{Database, ReadableDatabase, ReadableTable};

use super::tables::{LAST_USED, failed};
use super::write::begin;
use crate::keys::StoreError;

/// How many uses one transaction notes at most. A change of a record, such as a revocation, may have
/// to wait for one of them: 30 to 40 ms where 30,000 uses among a million keys took 0.3 s, on a small
/// virtual machine.
pub(super) const NOTED_MAX: usize = 4_096;

/// Keeps the later time of each key. Costs one write of the disk, however many keys, and none if no
/// time is later. In the order of the keys, neighbours are written together.
pub(super) fn mark(db: &Database, uses: &[(KeyId, UnixMillis)]) -> Result<(), StoreError> {
    let transaction = begin(db)?;
    let mut is_news = false;
    {
        let mut table = transaction.open_table(LAST_USED).map_err(failed)?;
        for (key, at) in uses {
            let id = key.as_u128();
            let noted = table.get(id).map_err(failed)?.map(|noted| noted.value());
            if noted.is_none_or(|noted| noted < at.0) {
                table.insert(id, at.0).map_err(failed)?;
                is_news = true;
            }
        }
    }
    // Else the transaction ends here, with nothing to keep.
    if is_news {
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

pub(super) fn last(db: &Database, keys: &[KeyId]) -> Result<Vec<Option<UnixMillis>>, StoreError> {
    let table = db.begin_read().map_err(failed)?.open_table(LAST_USED).map_err(failed)?;
    let last = |key: &KeyId| table.get(key.as_u128()).map_err(failed);
    keys.iter().map(|key| Ok(last(key)?.map(|at| UnixMillis(at.value())))).collect()
}
