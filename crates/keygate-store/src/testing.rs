//! For tests: sample records, and a store in memory that says what every store should do, slowly
//! and plainly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use keygate_core::key::PepperId;
use keygate_core::limit::overrides::Parts;
use keygate_core::limit::terms::Overrides;
use keygate_core::{AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, TokenId, UnixMillis};

use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, StoreError, StoredRecord, Write,
};
use crate::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Logged,
    Metadata, OwnedKey, Version,
};

pub(crate) const LIVE_MAX: u32 = 5;
pub(crate) const NOW: UnixMillis = UnixMillis(1_000_000);

fn entropy(n: u64) -> [u8; 10] {
    let mut entropy = [0x5a; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    entropy
}

pub(crate) fn account_id(n: u64) -> AccountId {
    AccountId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn app_id(n: u64) -> AppId {
    AppId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn key_id(n: u64) -> KeyId {
    KeyId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn digest(n: u64) -> KeyDigest {
    KeyDigest::from_bytes(keygate_core::key::sha256(&n.to_be_bytes()))
}

pub(crate) fn account(n: u64) -> Account {
    Account {
        id: account_id(n),
        name: format!("account {n}"),
        owner: None,
        purpose: Some("tests".to_owned()),
        status: AccountStatus::Active,
        metadata: Metadata::from([("team".to_owned(), "a \"quoted\" one".to_owned())]),
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

pub(crate) fn app(n: u64, account: &Account) -> App {
    App {
        id: app_id(n),
        account: account.id,
        name: format!("app {n}"),
        owner: Some("team@example.com".to_owned()),
        purpose: None,
        environment: Environment::Live,
        granted_scopes: vec!["read:*".parse().unwrap(), "admin:orders".parse().unwrap()],
        allowed_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        tier: Some("free".to_owned()),
        max_age: None,
        status: AppStatus::Active,
        metadata: Metadata::new(),
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

pub(crate) fn key(n: u64, app: &App) -> Key {
    Key {
        id: key_id(n),
        digest: digest(n),
        pepper: Some(PepperId::from_bytes([7; 8])),
        app: app.id,
        account: app.account,
        kind: KeyKind::Publishable,
        environment: Environment::Live,
        name: Some(format!("key {n}")),
        owner: None,
        purpose: None,
        hint: "pk_live_abcd".to_owned(),
        scopes: vec!["read:orders".parse().unwrap(), "write:users".parse().unwrap()],
        expires_at: Some(UnixMillis(u64::MAX)),
        tier: None,
        limits: None,
        allowed_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        allowed_origins: vec!["https://Example.com".to_owned()],
        metadata: Metadata::new(),
        rotated_from: None,
        rotated_to: None,
        status: KeyStatus::Active,
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

/// Limits of a key's own, of each kind.
pub(crate) fn limits() -> Option<Box<Overrides>> {
    let parts = Parts {
        rate: Some("100/s".parse().unwrap()),
        burst: Some(50),
        quotas: Some(vec!["1000/day".parse().unwrap(), "20000/month".parse().unwrap()]),
        concurrency: Some(5),
    };
    Overrides::from_parts(parts).unwrap().map(Box::new)
}

pub(crate) fn revoked(key: &Key) -> Key {
    let status = KeyStatus::Revoked { at: NOW, reason: Some("leaked".to_owned()) };
    Key { status, ..key.clone() }
}

pub(crate) fn create(key: &Key) -> Write {
    Write::CreateKey { key: key.clone(), live_max: LIVE_MAX, now: NOW }
}

pub(crate) fn update(key: Key) -> Write {
    Write::UpdateKey { key, live_max: LIVE_MAX, now: NOW }
}

pub(crate) fn audit(action: &str) -> AuditEntry {
    AuditEntry {
        at: NOW,
        actor: "token:bootstrap".to_owned(),
        action: action.to_owned(),
        subject: key_id(1).to_string(),
        hint: Some("pk_live_abcd".to_owned()),
        from: Some("2001:db8::1".parse().unwrap()),
        reason: None,
        refused: None,
        changes: serde_json::Map::new(),
    }
}

/// Writes an account, an app of it, and a key of that, all with number 1.
pub(crate) async fn seed<S: KeyStore>(store: &S) -> (Account, App, Key) {
    let account = account(1);
    let app = app(1, &account);
    let key = key(1, &app);
    for write in
        [Write::CreateAccount(account.clone()), Write::CreateApp(app.clone()), create(&key)]
    {
        store.commit(write, audit("seed")).await.unwrap();
    }
    (account, app, key)
}

/// The model that stores are compared with.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Tables>);

#[derive(Clone, Default)]
struct Tables {
    accounts: BTreeMap<AccountId, Account>,
    apps: BTreeMap<AppId, App>,
    keys: BTreeMap<KeyId, Key>,
    changes: Vec<AuditEntry>,
}

impl MemoryStore {
    pub(crate) fn replace(&self, other: Self) {
        let other = other.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.with(|tables| *tables = other);
    }

    fn with<T>(&self, read: impl FnOnce(&mut Tables) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tables {
    fn commit(&mut self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        let mut after = self.clone();
        after.apply(write)?;
        after.changes.push(audit);
        *self = after;
        Ok(ChangeNumber(self.changes.len() as u64))
    }

    fn apply(&mut self, write: Write) -> Result<(), StoreError> {
        match write {
            Write::CreateAccount(account) => insert(&mut self.accounts, account.id, account),
            Write::CreateApp(app) => {
                if !self.accounts.contains_key(&app.account) {
                    return Err(StoreError::NotFound("the account"));
                }
                insert(&mut self.apps, app.id, app)
            }
            Write::CreateKey { key, live_max, now } => self.create_key(key, live_max, now),
            Write::UpdateAccount(account) => {
                let stored = stored(&mut self.accounts, account.id, account.version)?;
                *stored =
                    Account { version: Version(account.version.0.wrapping_add(1)), ..account };
                Ok(())
            }
            Write::UpdateApp(app) => {
                if self.apps.get(&app.id).is_some_and(|stored| stored.account != app.account) {
                    return Err(StoreError::NotFound("the app in this account"));
                }
                let stored = stored(&mut self.apps, app.id, app.version)?;
                *stored = App { version: Version(app.version.0.wrapping_add(1)), ..app };
                Ok(())
            }
            Write::RotateKey { .. }
            | Write::CreateToken(_)
            | Write::UpdateToken(_)
            | Write::Note => Err(crate::keys::not_yet()),
            Write::UpdateKey { key, live_max, now } => {
                let same = |key: &Key| (key.digest, key.pepper, key.app, key.account);
                if self.keys.get(&key.id).is_some_and(|stored| same(stored) != same(&key)) {
                    return Err(StoreError::NotFound("the key with this digest, app and account"));
                }
                let live = self.count_live(key.app, now);
                let stored = stored(&mut self.keys, key.id, key.version)?;
                if !is_live(stored, now) && is_live(&key, now) && live >= live_max {
                    return Err(StoreError::TooManyLiveKeys { live });
                }
                *stored = Key { version: Version(key.version.0.wrapping_add(1)), ..key };
                Ok(())
            }
        }
    }

    fn import(
        &mut self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        let mut after = self.clone();
        let mut imported = Imported::default();
        for record in records {
            let id = match &record {
                StoredRecord::Account(account) => account.id.to_string(),
                StoredRecord::App(app) => app.id.to_string(),
                StoredRecord::Key(key) => key.id.to_string(),
            };
            match after.import_one(record)? {
                None => imported.created += 1,
                Some(true) => imported.unchanged += 1,
                Some(false) => imported.different.push(id),
            }
        }
        if imported.created > 0 {
            after.changes.push(audit);
        }
        *self = after;
        Ok(imported)
    }

    /// Whether a record of this id was there, and was the same.
    fn import_one(&mut self, record: StoredRecord) -> Result<Option<bool>, StoreError> {
        match record {
            StoredRecord::Account(account) => {
                if let Some(stored) = self.accounts.get(&account.id) {
                    return Ok(Some(*stored == account));
                }
                insert(&mut self.accounts, account.id, account)?;
            }
            StoredRecord::App(app) => {
                if let Some(stored) = self.apps.get(&app.id) {
                    return Ok(Some(*stored == app));
                }
                self.apply(Write::CreateApp(app))?;
            }
            StoredRecord::Key(key) => {
                if let Some(stored) = self.keys.get(&key.id) {
                    return Ok(Some(*stored == key));
                }
                self.create_key(key, u32::MAX, NOW)?;
            }
        }
        Ok(None)
    }

    fn create_key(&mut self, key: Key, live_max: u32, now: UnixMillis) -> Result<(), StoreError> {
        if self.apps.get(&key.app).is_none_or(|app| app.account != key.account) {
            return Err(StoreError::NotFound("the app"));
        }
        if self.keys.values().any(|stored| stored.digest == key.digest) {
            return Err(StoreError::AlreadyExists);
        }
        let live = self.count_live(key.app, now);
        insert(&mut self.keys, key.id, key)?;
        if live >= live_max { Err(StoreError::TooManyLiveKeys { live }) } else { Ok(()) }
    }

    fn count_live(&self, app: AppId, now: UnixMillis) -> u32 {
        let is_counted = |key: &&Key| key.app == app && is_live(key, now);
        u32::try_from(self.keys.values().filter(is_counted).count()).unwrap()
    }
}

fn is_live(key: &Key, now: UnixMillis) -> bool {
    !matches!(key.status, KeyStatus::Revoked { .. }) && key.expires_at.is_none_or(|end| end > now)
}

fn insert<K: Ord, V>(table: &mut BTreeMap<K, V>, id: K, record: V) -> Result<(), StoreError> {
    match table.insert(id, record) {
        None => Ok(()),
        Some(_) => Err(StoreError::AlreadyExists),
    }
}

trait Versioned {
    fn version(&self) -> Version;
}

macro_rules! versioned {
    ($($record:ty)*) => {$(
        impl Versioned for $record {
            fn version(&self) -> Version {
                self.version
            }
        }
    )*};
}

versioned!(Account App Key);

fn stored<K: Ord, V: Versioned>(
    table: &mut BTreeMap<K, V>,
    id: K,
    seen: Version,
) -> Result<&mut V, StoreError> {
    let stored = table.get_mut(&id).ok_or(StoreError::NotFound("the record"))?;
    if stored.version() == seen { Ok(stored) } else { Err(StoreError::Conflict) }
}

fn page<K: Ord + Copy, V: Clone>(
    records: impl Iterator<Item = (K, V)>,
    page: Page<K>,
) -> Vec<(K, V)> {
    let is_after = |id: &K| page.after.is_none_or(|after| *id > after);
    records.filter(|(id, _)| is_after(id)).take(page.limit).collect()
}

fn values<K, V>(records: Vec<(K, V)>) -> Vec<V> {
    records.into_iter().map(|(_, record)| record).collect()
}

impl KeyStore for MemoryStore {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        Ok(self.with(|tables| {
            let key = tables.keys.values().find(|key| key.digest == digest)?.clone();
            let app = tables.apps[&key.app].clone();
            let account = tables.accounts[&key.account].clone();
            Some(OwnedKey { key, app, account })
        }))
    }

    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<ChangeNumber, StoreError> {
        self.with(|tables| tables.commit(write, audit))
    }

    async fn commit_once(
        &self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        let _unused = (write, audit, once);
        Err(crate::keys::not_yet())
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        let _unused = id;
        Err(crate::keys::not_yet())
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        let _unused = sha256;
        Err(crate::keys::not_yet())
    }

    async fn tokens(&self, page: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        let _unused = page;
        Err(crate::keys::not_yet())
    }

    async fn mark_used(&self, uses: Vec<(KeyId, UnixMillis)>) -> Result<(), StoreError> {
        let _unused = uses;
        Err(crate::keys::not_yet())
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<UnixMillis>>, StoreError> {
        let _unused = keys;
        Err(crate::keys::not_yet())
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        let _unused = now;
        Err(crate::keys::not_yet())
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        Ok(self.with(|tables| tables.accounts.get(&id).cloned()))
    }

    async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        Ok(self.with(|tables| tables.apps.get(&id).cloned()))
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.with(|tables| tables.keys.get(&id).cloned()))
    }

    async fn accounts(&self, part: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        Ok(self.with(|tables| values(page(tables.accounts.clone().into_iter(), part))))
    }

    async fn apps(&self, account: AccountId, part: Page<AppId>) -> Result<Vec<App>, StoreError> {
        Ok(self.with(|tables| {
            let of_account = tables.apps.clone().into_iter().filter(|(_, a)| a.account == account);
            values(page(of_account, part))
        }))
    }

    async fn keys(&self, app: AppId, part: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        Ok(self.with(|tables| {
            let of_app = tables.keys.clone().into_iter().filter(|(_, key)| key.app == app);
            values(page(of_app, part))
        }))
    }

    async fn audit(&self, part: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        Ok(self.with(|tables| {
            let numbered = tables.changes.iter().cloned().zip(1..);
            let entries = numbered.map(|(entry, number)| (ChangeNumber(number), entry));
            let logged = |(number, entry)| Logged { number, entry, seal: None };
            page(entries, part).into_iter().map(logged).collect()
        }))
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        let peppers = self.with(|tables| -> BTreeSet<PepperId> {
            tables
                .keys
                .values()
                .filter(|key| is_live(key, now))
                .filter_map(|key| key.pepper)
                .collect()
        });
        Ok(peppers.into_iter().collect())
    }

    async fn import(
        &self,
        records: Vec<StoredRecord>,
        audit: AuditEntry,
    ) -> Result<Imported, StoreError> {
        self.with(|tables| tables.import(records, audit))
    }
}
