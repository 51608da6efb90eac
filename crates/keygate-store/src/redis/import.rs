//! Records that come from elsewhere, as they are. What lies where they would go is read in one trip,
//! and all that is missing is written as one change.

use std::collections::{HashMap, HashSet};

use super::layout::{self, Names};
use super::primary::Primary;
use super::reply::{self, Dangling, unreadable};
use super::transaction::{Check, Otherwise, Outcome, Transaction};
use super::write::{self, encode};
use crate::codec::Record;
use crate::keys::{Imported, StoreError, StoredRecord, Subject};
use crate::records::{Account, App, AuditEntry, Key};

/// How often an import is decided again because somebody else was faster.
const TRIES_MAX: usize = 5;

pub(super) async fn import(
    primary: &Primary,
    names: &Names,
    log_max: u64,
    records: &[StoredRecord],
    audit: &AuditEntry,
) -> Result<Imported, StoreError> {
    for _ in 0..TRIES_MAX {
        let mut import = Import::read(primary, names, records).await?;
        for record in records {
            import.add(record)?;
        }
        let Import { transaction, imported, .. } = import;
        if transaction.is_empty() {
            return Ok(imported);
        }
        match transaction.run(primary, names, log_max, Subject::Unknown, audit).await? {
            Outcome::Done(_) => return Ok(imported),
            Outcome::Again => {}
        }
    }
    Err(StoreError::Conflict)
}

struct Import<'a> {
    names: &'a Names,
    /// What lies where, with what this import has put there.
    values: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// What is there, or will be, without more being asked for.
    parents: HashSet<Vec<u8>>,
    transaction: Transaction,
    imported: Imported,
}

/// What is to be done with a record.
enum Found {
    Nothing,
    Same,
    Another,
}

impl<'a> Import<'a> {
    async fn read(
        primary: &Primary,
        names: &'a Names,
        records: &[StoredRecord],
    ) -> Result<Self, StoreError> {
        let mut values = HashMap::new();
        for name in records.iter().flat_map(|record| touched(names, record)) {
            values.insert(name, None);
        }
        if !values.is_empty() {
            let mut command = redis::cmd("MGET");
            for name in values.keys() {
                command.arg(name);
            }
            let found = primary.read(async |to| command.query_async(to).await).await?;
            for (value, found) in values.values_mut().zip(reply::items(found)?) {
                *value = reply::into_bytes(found)?;
            }
        }
        let (transaction, imported) = (Transaction::default(), Imported::default());
        Ok(Self { names, values, parents: HashSet::new(), transaction, imported })
    }

    fn add(&mut self, record: &StoredRecord) -> Result<(), StoreError> {
        let (found, id) = match record {
            StoredRecord::Account(account) => (self.add_account(account)?, account.id.to_string()),
            StoredRecord::App(app) => (self.add_app(app)?, app.id.to_string()),
            StoredRecord::Key(key) => (self.add_key(key)?, key.id.to_string()),
        };
        match found {
            Found::Nothing => self.imported.created += 1,
            Found::Same => self.imported.unchanged += 1,
            Found::Another => self.imported.different.push(id),
        }
        Ok(())
    }

    fn add_account(&mut self, account: &Account) -> Result<Found, StoreError> {
        let name = self.names.account(account.id);
        if let Some(stored) = self.record::<Account>(&name)? {
            return Ok(compare(&stored, account));
        }
        self.put(name, encode(account)?);
        write::create_account(&mut self.transaction, self.names, account)?;
        Ok(Found::Nothing)
    }

    fn add_app(&mut self, app: &App) -> Result<Found, StoreError> {
        let name = self.names.app(app.id);
        if let Some(stored) = self.record::<App>(&name)? {
            return Ok(compare(&stored, app));
        }
        let account = self.names.account(app.account);
        if self.value(&account).is_none() {
            return Err(StoreError::NotFound("the account"));
        }
        self.need(account);
        self.put(name, encode(app)?);
        write::create_app(&mut self.transaction, self.names, app)?;
        Ok(Found::Nothing)
    }

    fn add_key(&mut self, key: &Key) -> Result<Found, StoreError> {
        let (id, name) = (self.names.key_digest(key.id), self.names.key(&key.digest));
        if let Some(digest) = self.value(&id) {
            if digest != key.digest.as_bytes() {
                return Ok(Found::Another);
            }
            let stored = self.value(&name).ok_or_else(|| unreadable(Dangling(Key::NAME)))?;
            return Ok(compare(&reply::key(stored)?, key));
        }
        if self.value(&name).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let app = self.names.app(key.app);
        if self.record::<App>(&app)?.is_none_or(|app| app.account != key.account) {
            return Err(StoreError::NotFound("the app"));
        }
        self.need(app);
        self.put(id, key.digest.as_bytes().to_vec());
        self.put(name, layout::join_key(key.app, key.account, &encode(key)?));
        write::create_key(&mut self.transaction, self.names, key)?;
        Ok(Found::Nothing)
    }

    fn record<R: Record>(&self, name: &[u8]) -> Result<Option<R>, StoreError> {
        self.value(name).map(|json| R::decode(json).map_err(unreadable)).transpose()
    }

    fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.values.get(name)?.as_deref()
    }

    /// Parents never go; but the store may be another by the time the children are written.
    fn need(&mut self, parent: Vec<u8>) {
        if self.parents.insert(parent.clone()) {
            self.transaction.require(parent, Check::Present, Otherwise::Again);
        }
    }

    fn put(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.transaction.require(name.clone(), Check::Absent, Otherwise::Again);
        // Made by this very change.
        self.parents.insert(name.clone());
        self.values.insert(name, Some(value));
    }
}

fn compare<R: PartialEq>(stored: &R, record: &R) -> Found {
    if stored == record { Found::Same } else { Found::Another }
}

/// The names that a record takes up, and that of its parent.
fn touched(names: &Names, record: &StoredRecord) -> Vec<Vec<u8>> {
    match record {
        StoredRecord::Account(account) => vec![names.account(account.id)],
        StoredRecord::App(app) => vec![names.app(app.id), names.account(app.account)],
        StoredRecord::Key(key) => {
            vec![names.key_digest(key.id), names.key(&key.digest), names.app(key.app)]
        }
    }
}
