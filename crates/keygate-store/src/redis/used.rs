//! When keys were last used, as [`usage`](super::usage) notes it.

use keygate_core::{KeyId, UnixMillis};
use redis::Value;

use super::layout::{Names, place};
use super::primary::Primary;
use super::reply;
use crate::codec::usage::decode_last;
use crate::keys::StoreError;
use crate::usage::records::LastUse;

/// So many keys a command at most: look-ups wait for as long as one takes, about a millisecond.
const PART: usize = 1_000;

pub(super) async fn last(
    primary: &Primary,
    names: &Names,
    keys: &[KeyId],
) -> Result<Vec<Option<LastUse>>, StoreError> {
    let mut uses = Vec::with_capacity(keys.len());
    for part in keys.chunks(PART) {
        let mut both = redis::pipe();
        for name in [names.used(), names.last_uses()] {
            both.cmd("HMGET").arg(name);
            for key in part {
                both.arg(place(key.as_u128()).as_slice());
            }
        }
        let answer = primary.read(async |to| both.query_async(to).await).await?;
        let [times, lines] = reply::array(answer)?;
        for (time, line) in reply::items(times)?.iter().zip(reply::items(lines)?) {
            uses.push(last_use(time, line)?);
        }
    }
    if uses.len() == keys.len() { Ok(uses) } else { Err(reply::unreadable(reply::Malformed)) }
}

fn last_use(time: &Value, line: Value) -> Result<Option<LastUse>, StoreError> {
    if *time == Value::Nil {
        return Ok(None);
    }
    let at = UnixMillis(reply::number(time)?);
    let found = reply::into_bytes(line)?.and_then(|line| decode_last(&line).ok());
    // An older gateway notes the time alone. A batch may come in after the times were read.
    let found = found.filter(|found| found.at >= at);
    Ok(Some(found.unwrap_or(LastUse { at, address: None, route: None })))
}
