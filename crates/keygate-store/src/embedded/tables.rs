//! The tables of the file, and how a record lies in one: a checksum, then its JSON.
//!
//! A table may be added without another format: it is made when an older file is opened, and an older
//! program passes it over. So nothing that an older program reads may depend on it.

use std::error::Error;

use keygate_core::key::sha256;
use redb::{AccessGuard, ReadableTable, TableDefinition};

use crate::codec::Record;
use crate::keys::StoreError;

/// The layout of the tables below. A file with a higher number is left alone.
pub(super) const FORMAT: u64 = 1;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_NEXT_CHANGE: &str = "next_change";
/// What the time is as far as it may take use away. Not there before the first batch.
pub(super) const META_USAGE_TIME: &str = "usage_time";

/// A record by its id, digest or number, all as big-endian bytes, which sort as the numbers do.
pub(super) type Records = TableDefinition<'static, &'static [u8], &'static [u8]>;
pub(super) const ACCOUNTS: Records = TableDefinition::new("accounts");
pub(super) const APPS: Records = TableDefinition::new("apps");
/// By digest: this is what every cold request asks for.
pub(super) const KEYS: Records = TableDefinition::new("keys");
pub(super) const CHANGES: Records = TableDefinition::new("changes");
/// The link of each change, by its number. A change that an older program logged has none.
pub(super) const CHANGE_LINKS: TableDefinition<'_, u64, &[u8; 32]> =
    TableDefinition::new("change_links");
pub(super) const TOKENS: Records = TableDefinition::new("tokens");
/// The id of the admin token with this hash.
pub(super) const TOKEN_HASHES: TableDefinition<'_, &[u8; 32], u128> =
    TableDefinition::new("token_hashes");
/// What was done once, by its name.
pub(super) const ONCE: Records = TableDefinition::new("once");
/// (when it is to be forgotten, its name), of all that was done once.
pub(super) const ONCE_ENDS: TableDefinition<'_, (u64, &[u8; 32]), ()> =
    TableDefinition::new("once_ends");
/// When a key was last used, in Unix milliseconds.
pub(super) const LAST_USED: TableDefinition<'_, u128, u64> = TableDefinition::new("last_used");
/// The same with the address and the route: a checksum, then a line.
pub(super) const LAST_USES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("last_uses");
/// (when the window began, whether it is everybody's (0) or a key's (1), the key, the route).
pub(super) type UsageKey = (u64, u8, u128, &'static str);
pub(super) type UsageTable = TableDefinition<'static, UsageKey, &'static [u8]>;
pub(super) const USAGE_MINUTES: UsageTable = TableDefinition::new("usage_minutes");
pub(super) const USAGE_HOURS: UsageTable = TableDefinition::new("usage_hours");
pub(super) const USAGE_DAYS: UsageTable = TableDefinition::new("usage_days");
/// The number of the newest batch of each source of use, and that batch's minute.
pub(super) const USAGE_SOURCES: TableDefinition<'_, u128, (u64, u64)> =
    TableDefinition::new("usage_sources");

pub(super) const KEY_DIGESTS: TableDefinition<'_, u128, &[u8; 32]> =
    TableDefinition::new("key_digests");
/// The apps of an account: (account, app).
pub(super) const ACCOUNT_APPS: TableDefinition<'_, (u128, u128), ()> =
    TableDefinition::new("account_apps");
/// The keys of an app: (app, key), and until when in Unix milliseconds the key counts against the cap:
/// zero once revoked or rotated, the largest number if it never expires. Counting reads no records so.
pub(super) const APP_KEYS: TableDefinition<'_, (u128, u128), u64> =
    TableDefinition::new("app_keys");
/// The keys of a pepper that are not revoked: (pepper, until when the key works, key).
/// Whether a pepper still has a live key is one look at its last entry so, also with a million.
pub(super) const PEPPER_KEYS: TableDefinition<'_, (&[u8; 8], u64, u128), ()> =
    TableDefinition::new("pepper_keys");

const CHECKSUM_LENGTH: usize = 8;

/// The database verifies its own checksums only after a crash. One more on each record means that
/// a flipped bit can never turn one valid record into another, such as a revoked key into a live
/// one. It covers the record's place too.
fn checksum(name: &str, place: &[u8], json: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let digest = sha256(&[name.as_bytes(), place, json].concat());
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

#[derive(Debug, thiserror::Error)]
#[error("the checksum does not match")]
struct ChecksumMismatch;

/// A record as it lies at `place`.
pub(super) fn seal<R: Record>(place: &[u8], record: &R) -> Result<Vec<u8>, StoreError> {
    let json = record.encode().map_err(unreadable)?;
    Ok(seal_json(R::NAME, place, &json))
}

pub(super) fn seal_json(name: &str, place: &[u8], json: &[u8]) -> Vec<u8> {
    [checksum(name, place, json).as_slice(), json].concat()
}

/// The record that lies at `place`.
pub(super) fn unseal<R: Record>(place: &[u8], sealed: &[u8]) -> Result<R, StoreError> {
    R::decode(unseal_json(R::NAME, place, sealed)?).map_err(unreadable)
}

pub(super) fn unseal_json<'a>(
    name: &str,
    place: &[u8],
    sealed: &'a [u8],
) -> Result<&'a [u8], StoreError> {
    match sealed.split_first_chunk() {
        Some((sum, json)) if *sum == checksum(name, place, json) => Ok(json),
        Some(_) | None => Err(unreadable(ChecksumMismatch)),
    }
}

pub(super) fn get<R: Record>(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    place: &[u8],
) -> Result<Option<R>, StoreError> {
    let found: Option<AccessGuard<'_, _>> = table.get(place).map_err(failed)?;
    found.map(|sealed| unseal(place, sealed.value())).transpose()
}

/// An id as a place in a table of records.
pub(super) fn place(id: u128) -> [u8; 16] {
    id.to_be_bytes()
}

pub(super) fn unreadable(error: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unreadable(Box::new(error))
}

/// An index names a record that is not there.
#[derive(Debug, thiserror::Error)]
#[error("the {0} that another record names is not there")]
pub(super) struct Dangling(pub(super) &'static str);

/// What an error of the database means to a caller.
pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    if matches!(error, redb::Error::Corrupted(_)) {
        unreadable(error)
    } else {
        StoreError::Unavailable(Box::new(error))
    }
}
