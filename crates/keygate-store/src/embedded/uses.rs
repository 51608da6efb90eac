//! When keys were last used: a table of its own, so that a use rewrites no record.

use keygate_core::{KeyId, UnixMillis};
use redb::{Database, ReadableDatabase, ReadableTable};

use super::tables::{LAST_USED, LAST_USES, failed, unseal_json};
use super::write::begin;
use crate::codec::usage::decode_last;
use crate::keys::StoreError;
use crate::usage::records::LastUse;

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

pub(super) fn last(db: &Database, keys: &[KeyId]) -> Result<Vec<Option<LastUse>>, StoreError> {
    let moment = db.begin_read().map_err(failed)?;
    let times = moment.open_table(LAST_USED).map_err(failed)?;
    let uses = moment.open_table(LAST_USES).map_err(failed)?;
    let last = |key: &KeyId| {
        let id = key.as_u128();
        let Some(at) = times.get(id).map_err(failed)? else { return Ok(None) };
        let at = UnixMillis(at.value());
        let found = uses.get(id).map_err(failed)?.and_then(|sealed| {
            let line = unseal_json(LastUse::NAME, &id.to_be_bytes(), sealed.value()).ok()?;
            decode_last(line).ok()
        });
        // An older program notes the time alone.
        let found = found.filter(|found| found.at == at);
        Ok(Some(found.unwrap_or(LastUse { at, address: None, route: None })))
    };
    keys.iter().map(last).collect()
}
