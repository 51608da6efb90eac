//! Writes of keys, with the indexes that name them and the cap on those that are live.

use keygate_core::UnixMillis;
use redb::{ReadableTable, Table, WriteTransaction};

use super::tables::{
    APP_KEYS, APPS, Dangling, KEY_DIGESTS, KEYS, PEPPER_KEYS, failed, get, place, unreadable,
};
use super::write::{self, next, put, records};
use crate::codec::Record;
use crate::keys::StoreError;
use crate::records::{App, Key};

pub(super) fn create(
    transaction: &WriteTransaction,
    key: &Key,
    live_max: u32,
    now: UnixMillis,
) -> Result<(), StoreError> {
    add(transaction, key)?;
    check_room(&transaction.open_table(APP_KEYS).map_err(failed)?, key, live_max, now)
}

/// Makes a key, whatever the cap.
fn add(transaction: &WriteTransaction, key: &Key) -> Result<(), StoreError> {
    let app: Option<App> = get(&records(transaction, APPS)?, &place(key.app.as_u128()))?;
    if app.is_none_or(|app| app.account != key.account) {
        return Err(StoreError::NotFound("the app"));
    }
    write::create(&mut records(transaction, KEYS)?, key.digest.as_bytes(), key)?;
    let mut digests = transaction.open_table(KEY_DIGESTS).map_err(failed)?;
    let id = key.id.as_u128();
    if digests.insert(id, key.digest.as_bytes()).map_err(failed)?.is_some() {
        return Err(StoreError::AlreadyExists);
    }
    let mut index = transaction.open_table(APP_KEYS).map_err(failed)?;
    index.insert((key.app.as_u128(), id), key.counts_until()).map_err(failed)?;
    enter(&mut transaction.open_table(PEPPER_KEYS).map_err(failed)?, key)
}

pub(super) fn update(
    transaction: &WriteTransaction,
    key: Key,
    live_max: u32,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let (stored, key) = replace(transaction, key)?;
    if stored.counts_until() <= now.0 && key.counts_until() > now.0 {
        check_room(&transaction.open_table(APP_KEYS).map_err(failed)?, &key, live_max, now)?;
    }
    Ok(())
}

pub(super) fn rotate(
    transaction: &WriteTransaction,
    old: Key,
    new: &Key,
    live_max: u32,
    now: UnixMillis,
) -> Result<(), StoreError> {
    // Caches are told about the app, and that has to mean both keys.
    if (new.app, new.account) != (old.app, old.account) {
        return Err(StoreError::NotFound("the key that is rotated in this app"));
    }
    let (was, old) = replace(transaction, old)?;
    if was.counts_until() > now.0 && old.counts_until() <= now.0 {
        return add(transaction, new);
    }
    create(transaction, new, live_max, now)
}

/// Gives the key that was stored, and the one that is now.
fn replace(transaction: &WriteTransaction, mut key: Key) -> Result<(Key, Key), StoreError> {
    let id = key.id.as_u128();
    let digests = transaction.open_table(KEY_DIGESTS).map_err(failed)?;
    let digest = digests
        .get(id)
        .map_err(failed)?
        .map(|digest| *digest.value())
        .ok_or(StoreError::NotFound("the key"))?;
    let mut table = records(transaction, KEYS)?;
    let stored: Key = get(&table, &digest)?.ok_or_else(|| unreadable(Dangling(Key::NAME)))?;
    // What names a key and whose it is never changes: the indexes and caches rely on it.
    let same = |key: &Key| (key.digest, key.pepper, key.app, key.account);
    if same(&stored) != same(&key) {
        return Err(StoreError::NotFound("the key with this digest, app and account"));
    }
    key.version = next(stored.version, key.version)?;
    put(&mut table, &digest, &key)?;
    let mut index = transaction.open_table(APP_KEYS).map_err(failed)?;
    index.insert((key.app.as_u128(), id), key.counts_until()).map_err(failed)?;
    let mut peppers = transaction.open_table(PEPPER_KEYS).map_err(failed)?;
    if let Some(pepper) = &stored.pepper {
        peppers.remove((pepper.as_bytes(), stored.works_until(), id)).map_err(failed)?;
    }
    enter(&mut peppers, &key)?;
    Ok((stored, key))
}

/// Whether the app may have this live key too.
fn check_room(
    index: &impl ReadableTable<(u128, u128), u64>,
    key: &Key,
    live_max: u32,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let app = key.app.as_u128();
    let mut live = 0;
    for entry in index.range((app, 0)..=(app, u128::MAX)).map_err(failed)? {
        let (place, until) = entry.map_err(failed)?;
        let (_, id) = place.value();
        live += u32::from(id != key.id.as_u128() && until.value() > now.0);
    }
    if live >= live_max { Err(StoreError::TooManyLiveKeys { live }) } else { Ok(()) }
}

pub(super) type PepperKeys<'a> = Table<'a, (&'static [u8; 8], u64, u128), ()>;

/// Notes that a pepper is needed for a key, unless that is revoked.
pub(super) fn enter(peppers: &mut PepperKeys<'_>, key: &Key) -> Result<(), StoreError> {
    let until = key.works_until();
    if let Some(pepper) = &key.pepper
        && until > 0
    {
        peppers.insert((pepper.as_bytes(), until, key.id.as_u128()), ()).map_err(failed)?;
    }
    Ok(())
}
