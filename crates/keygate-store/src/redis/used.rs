//! When keys were last used: far more often written than all else, and no change. It is neither
//! logged nor waited for.

use std::sync::LazyLock;

use keygate_core::{KeyId, UnixMillis};
use redis::{Script, Value};

use super::layout::{Names, place};
use super::primary::Primary;
use super::reply;
use super::script::Call;
use crate::keys::StoreError;

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
) -> Result<Vec<Option<UnixMillis>>, StoreError> {
    let mut times = Vec::with_capacity(keys.len());
    for part in keys.chunks(PART) {
        let mut command = redis::cmd("HMGET");
        command.arg(names.used());
        for key in part {
            command.arg(place(key.as_u128()).as_slice());
        }
        let answer = primary.read(async |to| command.query_async(to).await).await?;
        for value in reply::items(answer)? {
            times.push(time(&value)?);
        }
    }
    if times.len() == keys.len() { Ok(times) } else { Err(reply::unreadable(reply::Malformed)) }
}

fn time(value: &Value) -> Result<Option<UnixMillis>, StoreError> {
    if *value == Value::Nil {
        return Ok(None);
    }
    reply::number(value).map(|millis| Some(UnixMillis(millis)))
}
