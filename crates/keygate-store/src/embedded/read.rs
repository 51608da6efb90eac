//! Every read is one read transaction: it sees one moment, and waits for no writer.

use std::ops::{Bound, RangeBounds};

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::tables::{
    ACCOUNT_APPS, ACCOUNTS, APP_KEYS, APPS, CHANGE_LINKS, CHANGES, Dangling, KEY_DIGESTS, KEYS,
    META, META_NEXT_CHANGE, PEPPER_KEYS, Records, TOKEN_HASHES, TOKENS, failed, get, place,
    unreadable, unseal, unseal_json,
};
use crate::audit::Link;
use crate::codec::Record;
use crate::keys::{ChangeNumber, Page, StoreError};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey, Seal};

pub(super) fn find(db: &Database, digest: &KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
    let moment = begin(db)?;
    let Some(key) = get::<Key>(&records(&moment, KEYS)?, digest.as_bytes())? else {
        return Ok(None);
    };
    let app: App = named(&records(&moment, APPS)?, key.app.as_u128())?;
    let account: Account = named(&records(&moment, ACCOUNTS)?, app.account.as_u128())?;
    Ok(Some(OwnedKey { key, app, account }))
}

pub(super) fn account(db: &Database, id: AccountId) -> Result<Option<Account>, StoreError> {
    get(&records(&begin(db)?, ACCOUNTS)?, &place(id.as_u128()))
}

pub(super) fn app(db: &Database, id: AppId) -> Result<Option<App>, StoreError> {
    get(&records(&begin(db)?, APPS)?, &place(id.as_u128()))
}

pub(super) fn key(db: &Database, id: KeyId) -> Result<Option<Key>, StoreError> {
    let moment = begin(db)?;
    let digests = moment.open_table(KEY_DIGESTS).map_err(failed)?;
    let digest = digests.get(id.as_u128()).map_err(failed)?;
    let Some(digest) = digest else { return Ok(None) };
    get(&records(&moment, KEYS)?, digest.value())
}

pub(super) fn accounts(db: &Database, page: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
    list(&records(&begin(db)?, ACCOUNTS)?, page.after.map(AccountId::as_u128), page.limit)
}

pub(super) fn token(db: &Database, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
    get(&records(&begin(db)?, TOKENS)?, &place(id.as_u128()))
}

pub(super) fn token_by_hash(
    db: &Database,
    sha256: &[u8; 32],
) -> Result<Option<AdminToken>, StoreError> {
    let moment = begin(db)?;
    let hashes = moment.open_table(TOKEN_HASHES).map_err(failed)?;
    let Some(id) = hashes.get(sha256).map_err(failed)? else { return Ok(None) };
    let token: AdminToken = named(&records(&moment, TOKENS)?, id.value())?;
    // The index has no checksum of its own.
    if token.sha256 == *sha256 { Ok(Some(token)) } else { Err(dangling::<AdminToken>()) }
}

pub(super) fn tokens(db: &Database, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
    list(&records(&begin(db)?, TOKENS)?, page.after.map(TokenId::as_u128), page.limit)
}

pub(super) fn apps(
    db: &Database,
    account: AccountId,
    page: Page<AppId>,
) -> Result<Vec<App>, StoreError> {
    let moment = begin(db)?;
    let index = moment.open_table(ACCOUNT_APPS).map_err(failed)?;
    let apps = records(&moment, APPS)?;
    let range = after(account.as_u128(), page.after.map(AppId::as_u128));
    let entries = index.range(range).map_err(failed)?.take(page.limit);
    entries
        .map(|entry| {
            let (pair, _) = entry.map_err(failed)?;
            let (_, id) = pair.value();
            named(&apps, id)
        })
        .collect()
}

pub(super) fn keys(db: &Database, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
    let moment = begin(db)?;
    let index = moment.open_table(APP_KEYS).map_err(failed)?;
    let digests = moment.open_table(KEY_DIGESTS).map_err(failed)?;
    let keys = records(&moment, KEYS)?;
    let range = after(app.as_u128(), page.after.map(KeyId::as_u128));
    let entries = index.range(range).map_err(failed)?.take(page.limit);
    entries
        .map(|entry| {
            let (pair, _) = entry.map_err(failed)?;
            let (_, id) = pair.value();
            let digest = digests.get(id).map_err(failed)?.ok_or_else(dangling::<Key>)?;
            get(&keys, digest.value())?.ok_or_else(dangling::<Key>)
        })
        .collect()
}

pub(super) fn audit(db: &Database, page: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
    let moment = begin(db)?;
    let links = moment.open_table(CHANGE_LINKS).map_err(failed)?;
    let after = page.after.map(|number| number.0.to_be_bytes());
    let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_slice()));
    let table = records(&moment, CHANGES)?;
    let entries = table.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)?;
    entries
        .take(page.limit)
        .map(|entry| {
            let (place, sealed) = entry.map_err(failed)?;
            let place = place.value();
            let number = place.try_into().map_err(|_| dangling::<AuditEntry>())?;
            let number = u64::from_be_bytes(number);
            let json = unseal_json(AuditEntry::NAME, place, sealed.value());
            let entry = json.as_ref().ok().and_then(|json| AuditEntry::decode(json).ok());
            let link = links.get(number).map_err(failed)?;
            let seal = link.map(|link| Seal {
                link: Link(*link.value()),
                bytes: json.unwrap_or_default().to_vec(),
            });
            let entry = entry.unwrap_or_else(AuditEntry::unreadable);
            Ok(Logged { number: ChangeNumber(number), entry, seal })
        })
        .collect()
}

/// As the file counts, whatever has become of the entry.
pub(super) fn newest(db: &Database) -> Result<ChangeNumber, StoreError> {
    let meta = begin(db)?.open_table(META).map_err(failed)?;
    let next = meta.get(META_NEXT_CHANGE).map_err(failed)?;
    let next = next.ok_or_else(|| unreadable(Dangling(META_NEXT_CHANGE)))?;
    Ok(ChangeNumber(next.value().saturating_sub(1)))
}

pub(super) fn peppers(db: &Database, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
    let table = begin(db)?.open_table(PEPPER_KEYS).map_err(failed)?;
    let live = live_peppers(&table, now)?;
    Ok(live.into_iter().map(PepperId::from_bytes).collect())
}

/// Walks the part of the index that is about live keys, and no records: half a second with a million
/// keys on a small virtual machine.
pub(super) fn pepper_counts(
    db: &Database,
    now: UnixMillis,
) -> Result<Vec<(PepperId, u64)>, StoreError> {
    let table = begin(db)?.open_table(PEPPER_KEYS).map_err(failed)?;
    let count = |pepper: [u8; 8]| {
        let from = Bound::Excluded((&pepper, now.0, u128::MAX));
        let to = Bound::Included((&pepper, u64::MAX, u128::MAX));
        let mut keys = table.range::<(&[u8; 8], u64, u128)>((from, to)).map_err(failed)?;
        let count = keys.try_fold(0, |count, key| key.map(|_| count + 1)).map_err(failed)?;
        Ok((PepperId::from_bytes(pepper), count))
    };
    live_peppers(&table, now)?.into_iter().map(count).collect()
}

type PepperKeys = ReadOnlyTable<(&'static [u8; 8], u64, u128), ()>;

/// The peppers of live keys, in order: one look-up each.
fn live_peppers(table: &PepperKeys, now: UnixMillis) -> Result<Vec<[u8; 8]>, StoreError> {
    let mut live = Vec::new();
    // From the last key of one pepper to the last key of the one before it.
    let mut end = Bound::Unbounded;
    let mut pepper;
    while let Some(last) =
        table.range::<(&[u8; 8], u64, u128)>((Bound::Unbounded, end)).map_err(failed)?.next_back()
    {
        let (key, ()) = last.map(|(key, unit)| (key, unit.value())).map_err(failed)?;
        let (bytes, until, _) = key.value();
        pepper = *bytes;
        end = Bound::Excluded((&pepper, 0, 0));
        if until > now.0 {
            live.push(pepper);
        }
    }
    live.reverse();
    Ok(live)
}

fn begin(db: &Database) -> Result<ReadTransaction, StoreError> {
    db.begin_read().map_err(failed)
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn records(moment: &ReadTransaction, table: Records) -> Result<Table, StoreError> {
    moment.open_table(table).map_err(failed)
}

/// A record that another one names, so that its absence is damage.
fn named<R: Record>(table: &Table, id: u128) -> Result<R, StoreError> {
    get(table, &place(id))?.ok_or_else(dangling::<R>)
}

fn dangling<R: Record>() -> StoreError {
    unreadable(Dangling(R::NAME))
}

/// The records after that with the id `after`.
fn list<R: Record>(table: &Table, after: Option<u128>, limit: usize) -> Result<Vec<R>, StoreError> {
    let after = after.map(place);
    let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_slice()));
    let entries = table.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)?.take(limit);
    entries
        .map(|entry| {
            let (place, sealed) = entry.map_err(failed)?;
            unseal(place.value(), sealed.value())
        })
        .collect()
}

/// The part of an index that belongs to `owner`, from the first after `after`.
fn after(owner: u128, after: Option<u128>) -> impl RangeBounds<(u128, u128)> {
    let from = match after {
        Some(id) => Bound::Excluded((owner, id)),
        None => Bound::Included((owner, 0)),
    };
    (from, Bound::Included((owner, u128::MAX)))
}
