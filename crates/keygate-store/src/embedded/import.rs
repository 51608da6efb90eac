//! Records that come from elsewhere, as they are: what is missing of them is written in one
//! transaction.

use redb::{Database, ReadableTable, Table, WriteTransaction};

use super::keys::{PepperKeys, enter};
use super::tables::{
    ACCOUNT_APPS, ACCOUNTS, APP_KEYS, APPS, Dangling, KEY_DIGESTS, KEYS, PEPPER_KEYS, failed, get,
    place, unreadable,
};
use super::write::{Writable, begin, log, put, records};
use crate::codec::Record;
use crate::keys::{Imported, StoreError, StoredRecord};
use crate::records::{Account, App, AuditEntry, Key};

pub(super) fn import(
    db: &Database,
    records: &[StoredRecord],
    audit: &AuditEntry,
) -> Result<Imported, StoreError> {
    let transaction = begin(db)?;
    let imported = add_all(&transaction, records)?;
    // Else the transaction ends here, with nothing to keep.
    if imported.created > 0 {
        log(&transaction, audit)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(imported)
}

fn add_all(
    transaction: &WriteTransaction,
    records: &[StoredRecord],
) -> Result<Imported, StoreError> {
    let mut tables = Tables::open(transaction)?;
    let mut imported = Imported::default();
    for record in records {
        let (found, id) = match record {
            StoredRecord::Account(account) => {
                (tables.add_account(account)?, account.id.to_string())
            }
            StoredRecord::App(app) => (tables.add_app(app)?, app.id.to_string()),
            StoredRecord::Key(key) => (tables.add_key(key)?, key.id.to_string()),
        };
        match found {
            Found::Nothing => imported.created += 1,
            Found::Same => imported.unchanged += 1,
            Found::Another => imported.different.push(id),
        }
    }
    Ok(imported)
}

/// What was where a record goes.
enum Found {
    Nothing,
    Same,
    Another,
}

struct Tables<'a> {
    accounts: Writable<'a>,
    apps: Writable<'a>,
    keys: Writable<'a>,
    account_apps: Table<'a, (u128, u128), ()>,
    app_keys: Table<'a, (u128, u128), u64>,
    digests: Table<'a, u128, &'static [u8; 32]>,
    peppers: PepperKeys<'a>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            accounts: records(transaction, ACCOUNTS)?,
            apps: records(transaction, APPS)?,
            keys: records(transaction, KEYS)?,
            account_apps: transaction.open_table(ACCOUNT_APPS).map_err(failed)?,
            app_keys: transaction.open_table(APP_KEYS).map_err(failed)?,
            digests: transaction.open_table(KEY_DIGESTS).map_err(failed)?,
            peppers: transaction.open_table(PEPPER_KEYS).map_err(failed)?,
        })
    }

    fn add_account(&mut self, account: &Account) -> Result<Found, StoreError> {
        let place = place(account.id.as_u128());
        if let Some(stored) = get::<Account>(&self.accounts, &place)? {
            return Ok(compare(&stored, account));
        }
        put(&mut self.accounts, &place, account)?;
        Ok(Found::Nothing)
    }

    fn add_app(&mut self, app: &App) -> Result<Found, StoreError> {
        let (id, account) = (app.id.as_u128(), app.account.as_u128());
        if let Some(stored) = get::<App>(&self.apps, &place(id))? {
            return Ok(compare(&stored, app));
        }
        if get::<Account>(&self.accounts, &place(account))?.is_none() {
            return Err(StoreError::NotFound("the account"));
        }
        put(&mut self.apps, &place(id), app)?;
        self.account_apps.insert((account, id), ()).map_err(failed)?;
        Ok(Found::Nothing)
    }

    fn add_key(&mut self, key: &Key) -> Result<Found, StoreError> {
        let (id, app) = (key.id.as_u128(), key.app.as_u128());
        let digest = self.digests.get(id).map_err(failed)?.map(|digest| *digest.value());
        if let Some(digest) = digest {
            let stored: Option<Key> = get(&self.keys, &digest)?;
            let stored = stored.ok_or_else(|| unreadable(Dangling(Key::NAME)))?;
            return Ok(compare(&stored, key));
        }
        let digest = key.digest.as_bytes();
        if get::<Key>(&self.keys, digest)?.is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let stored: Option<App> = get(&self.apps, &place(app))?;
        if stored.is_none_or(|app| app.account != key.account) {
            return Err(StoreError::NotFound("the app"));
        }
        put(&mut self.keys, digest, key)?;
        self.digests.insert(id, digest).map_err(failed)?;
        self.app_keys.insert((app, id), key.counts_until()).map_err(failed)?;
        enter(&mut self.peppers, key)?;
        Ok(Found::Nothing)
    }
}

fn compare<R: PartialEq>(stored: &R, record: &R) -> Found {
    if stored == record { Found::Same } else { Found::Another }
}
