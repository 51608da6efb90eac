//! When keys were last used: tables of their own, so that a use rewrites no record.

use keygate_core::{KeyId, UnixMillis};
use redb::{Database, ReadableDatabase};

use super::tables::{LAST_USED, LAST_USES, failed, unseal_json};
use crate::codec::usage::decode_last;
use crate::keys::StoreError;
use crate::usage::records::LastUse;

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
