//! The rules of changes to keys, and of the indexes by which they are counted: those of an app that
//! are live, and those that each pepper is needed for.

use keygate_core::{AppId, UnixMillis};
use redis::Value;

use super::super::layout::{Names, Score, join_key, place};
use super::super::primary::Primary;
use super::super::reply::{self, Dangling, unreadable};
use super::super::transaction::{Check, Operation, Otherwise, Transaction};
use super::{absent, encode, get, index, next, replace};
use crate::keys::StoreError;
use crate::records::{App, Key};

/// The most live keys that an app may have, and when: see [`Write`](crate::keys::Write).
type Cap = (u32, UnixMillis);

pub(super) async fn create(
    primary: &Primary,
    names: &Names,
    key: &Key,
    cap: Cap,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let [app] = get(primary, [names.app(key.app)]).await?;
    let app: Option<App> = reply::record(&app)?;
    if app.is_none_or(|app| app.account != key.account) {
        return Err(StoreError::NotFound("the app"));
    }
    // An app never goes, nor over to another account. The store may be another by now.
    transaction.require(names.app(key.app), Check::Present, Otherwise::NotFound("the app"));
    new(transaction, names, key);
    room(transaction, names, key.app, cap);
    create_key(transaction, names, key)
}

pub(super) async fn update(
    primary: &Primary,
    names: &Names,
    key: &Key,
    (live_max, now): Cap,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let was = replace_key(primary, names, key, transaction).await?;
    if !counts_at(&was, now) && counts_at(key, now) {
        room(transaction, names, key.app, (live_max, now));
    }
    Ok(())
}

pub(super) async fn rotate(
    primary: &Primary,
    names: &Names,
    [old, successor]: [&Key; 2],
    (live_max, now): Cap,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    if (successor.app, successor.account) != (old.app, old.account) {
        return Err(StoreError::NotFound("the key that is rotated in this app"));
    }
    let was = replace_key(primary, names, old, transaction).await?;
    new(transaction, names, successor);
    if !counts_at(&was, now) || counts_at(old, now) {
        room(transaction, names, old.app, (live_max, now));
    }
    create_key(transaction, names, successor)
}

/// Replaces the stored key, which is returned.
async fn replace_key(
    primary: &Primary,
    names: &Names,
    key: &Key,
    transaction: &mut Transaction,
) -> Result<Key, StoreError> {
    let [digest, value] = get(primary, [names.key_digest(key.id), names.key(&key.digest)]).await?;
    if digest == Value::Nil {
        return Err(StoreError::NotFound("the key"));
    }
    let another = || StoreError::NotFound("the key with this digest, app and account");
    if reply::bytes(&digest)? != key.digest.as_bytes() {
        return Err(another());
    }
    if value == Value::Nil {
        return Err(unreadable(Dangling("key")));
    }
    let stored = reply::named_key(&value)?;
    // What names a key and whose it is never changes: the indexes and caches rely on it.
    let same = |key: &Key| (key.digest, key.pepper, key.app, key.account);
    if same(&stored) != same(key) {
        return Err(another());
    }
    let key = Key { version: next(stored.version, key.version)?, ..key.clone() };
    let joined = join_key(key.app, key.account, &encode(&key)?);
    replace(transaction, names.key(&key.digest), &value, joined)?;
    reindex(transaction, names, Some(&stored), &key);
    Ok(stored)
}

pub(in crate::redis) fn create_key(
    transaction: &mut Transaction,
    names: &Names,
    key: &Key,
) -> Result<(), StoreError> {
    let value = join_key(key.app, key.account, &encode(key)?);
    transaction.write(names.key(&key.digest), Operation::Set(value));
    let digest = key.digest.as_bytes().to_vec();
    transaction.write(names.key_digest(key.id), Operation::Set(digest));
    index(transaction, names.key_ids(key.app), key.id.as_u128());
    reindex(transaction, names, None, key);
    Ok(())
}

/// No key has the digest or the id of this one.
fn new(transaction: &mut Transaction, names: &Names, key: &Key) {
    absent(transaction, names.key(&key.digest));
    absent(transaction, names.key_digest(key.id));
}

/// The app may have one live key more.
fn room(transaction: &mut Transaction, names: &Names, app: AppId, (live_max, now): Cap) {
    let check = Check::Room { live_max, now: Score::now(now) };
    transaction.require(names.app_live(app), check, Otherwise::TooManyLiveKeys);
}

/// Whether it counts against its app's cap.
fn counts_at(key: &Key, now: UnixMillis) -> bool {
    key.counts_until() > now.0
}

/// Brings the indexes by which keys are counted from what the key was, if it was there, to what it is.
fn reindex(transaction: &mut Transaction, names: &Names, was: Option<&Key>, is: &Key) {
    let member = place(is.id.as_u128());
    let (counted, counts) = (was.and_then(|key| end(key.counts_until())), end(is.counts_until()));
    if counted != counts {
        let operation = match counts {
            Some(score) => Operation::Add { member, score },
            None => Operation::Remove { member },
        };
        transaction.write(names.app_live(is.app), operation);
    }
    // What another system made depends on none.
    let Some(pepper) = is.pepper else { return };
    let (worked, works) = (was.and_then(|key| end(key.works_until())), end(is.works_until()));
    if worked == works {
        return;
    }
    let lasts = |end| i8::from(end == Some(Score::Never));
    let by = lasts(works) - lasts(worked);
    // One that enters does also with nothing to add: the pepper is known by it.
    if by != 0 || worked.is_none() {
        let field = *pepper.as_bytes();
        transaction.write(names.peppers(), Operation::Count { field, by });
    }
    let expiring = names.pepper_expiring(pepper);
    match (worked, works) {
        (_, Some(score @ Score::At(_))) => {
            transaction.write(expiring, Operation::Add { member, score });
        }
        (Some(Score::At(_)), _) => transaction.write(expiring, Operation::Remove { member }),
        (None | Some(Score::Never), None | Some(Score::Never)) => {}
    }
}

/// When something ends: nothing for what is over for good.
fn end(until: u64) -> Option<Score> {
    (until > 0).then(|| Score::until(UnixMillis(until)))
}
