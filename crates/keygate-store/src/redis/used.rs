//! When keys were last used: far more often written than all else, and no change. It is neither
//! logged nor waited for.

use std::sync::LazyLock;

use keygate_core::{KeyId, UnixMillis};
use redis::{Script, Value};

use super::layout::{Names, place};
use super::primary::Primary;
use super::reply;
use super::script::Call;
use crate::codec::usage::decode_last;
use crate::keys::StoreError;
use crate::usage::records::LastUse;

/// So many keys a command at most: look-ups wait for as long as one takes, about a millisecond.
const PART: usize = 1_000;

static USED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("used.lua")));

pub(super) async fn mark(
    primary: &Primary,
    names: &Names,
    mut uses: Vec<(KeyId, UnixMillis)>,
) -> Result<(), StoreError> {
    uses.sort_unstable();
    // Of each key the last.
    uses.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        if is_same {
            kept.1 = next.1;
        }
        is_same
    });
    for part in uses.chunks(PART) {
        let mut call = Call::new(&USED, &names.used(), 2 * part.len(), 40 * part.len());
        for (key, at) in part {
            call.push((place(key.as_u128()).as_slice(), at.0));
        }
        primary.read(async |to| call.run(to).await).await?;
    }
    Ok(())
}

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
    // An older gateway notes the time alone.
    let found = found.filter(|found| found.at == at);
    Ok(Some(found.unwrap_or(LastUse { at, address: None, route: None })))
}
