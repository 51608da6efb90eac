//! A store in memory that says what every store should do, slowly and plainly.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::replace;
use std::sync::{Arc, Mutex, PoisonError};

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

use super::NOW;
use crate::audit::Link;
use crate::codec::Record;
use crate::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use crate::records::{Account, AdminToken, App, AuditEntry, Key, Logged, OwnedKey, Seal, Version};
use crate::usage::records::{
    LastUse, Retention, SourceId, Spender, Step, UsageBatch, UsageCounts, UsagePoint, UsageQuery,
};

/// The model that stores are compared with.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Tables>);

#[derive(Clone, Default)]
struct Tables {
    accounts: BTreeMap<AccountId, Account>,
    apps: BTreeMap<AppId, App>,
    keys: BTreeMap<KeyId, Key>,
    tokens: BTreeMap<TokenId, AdminToken>,
    last_used: BTreeMap<KeyId, LastUse>,
    usage: BTreeMap<(Step, Spender, UnixMillis, Arc<str>), UsageCounts>,
    sources: BTreeMap<SourceId, u64>,
    /// What was done once, and until when it is remembered.
    once: BTreeMap<[u8; 32], (UnixMillis, Remembered)>,
    log: Vec<Logged>,
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
        let number = after.log(audit);
        *self = after;
        Ok(number)
    }

    fn commit_once(
        &mut self,
        write: Write,
        audit: AuditEntry,
        once: Once,
    ) -> Result<Done, StoreError> {
        self.once.retain(|_, (until, _)| *until > once.now);
        if let Some((_, remembered)) = self.once.get(&once.name) {
            return Ok(Done::Before(remembered.clone()));
        }
        let made = write.made().ok_or(StoreError::NotFound("a record that the change makes"))?;
        let number = self.commit(write, audit)?;
        let remembered = Remembered { request: once.request, made };
        self.once.insert(once.name, (once.until, remembered));
        Ok(Done::Now(number))
    }

    fn log(&mut self, entry: AuditEntry) -> ChangeNumber {
        let seals = self.log.last().and_then(|logged| logged.seal.as_ref());
        let before = seals.map_or(Link::START, |seal| seal.link);
        let number = ChangeNumber(self.log.len() as u64 + 1);
        let bytes = entry.encode().unwrap();
        let seal = Some(Seal { link: before.next(number, &bytes), bytes });
        self.log.push(Logged { number, entry, seal });
        number
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
                *stored = Account { version: account.version.next(), ..account };
                Ok(())
            }
            Write::UpdateApp(app) => {
                if self.apps.get(&app.id).is_some_and(|stored| stored.account != app.account) {
                    return Err(StoreError::NotFound("the app in this account"));
                }
                let stored = stored(&mut self.apps, app.id, app.version)?;
                *stored = App { version: app.version.next(), ..app };
                Ok(())
            }
            Write::UpdateKey { key, live_max, now } => {
                let (app, counts) = (key.app, key.counts_until() > now.0);
                let live = self.count_live(app, now);
                let stored = self.update_key(key)?;
                if counts && stored.counts_until() <= now.0 && live >= live_max {
                    return Err(StoreError::TooManyLiveKeys { live });
                }
                Ok(())
            }
            Write::RotateKey { old, new, live_max, now } => {
                if (new.app, new.account) != (old.app, old.account) {
                    return Err(StoreError::NotFound("the key that is rotated in this app"));
                }
                let counts = old.counts_until() > now.0;
                let was = self.update_key(old)?;
                let gives_way = was.counts_until() > now.0 && !counts;
                self.create_key(new, if gives_way { u32::MAX } else { live_max }, now)
            }
            Write::CreateToken(token) => {
                if self.tokens.values().any(|stored| stored.sha256 == token.sha256) {
                    return Err(StoreError::AlreadyExists);
                }
                insert(&mut self.tokens, token.id, token)
            }
            Write::UpdateToken(token) => {
                let of_hash = |stored: &AdminToken| stored.sha256 == token.sha256;
                if !self.tokens.get(&token.id).is_none_or(of_hash) {
                    return Err(StoreError::NotFound("the token with this hash"));
                }
                let stored = stored(&mut self.tokens, token.id, token.version)?;
                *stored = AdminToken { version: token.version.next(), ..token };
                Ok(())
            }
            Write::Note => Ok(()),
        }
    }

    /// Gives the key as it was.
    fn update_key(&mut self, key: Key) -> Result<Key, StoreError> {
        let same = |key: &Key| (key.digest, key.pepper, key.app, key.account);
        if self.keys.get(&key.id).is_some_and(|stored| same(stored) != same(&key)) {
            return Err(StoreError::NotFound("the key with this digest, app and account"));
        }
        let stored = stored(&mut self.keys, key.id, key.version)?;
        Ok(replace(stored, Key { version: key.version.next(), ..key }))
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
            after.log(audit);
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

    fn note_use(&mut self, key: KeyId, last: LastUse) {
        let noted = self.last_used.entry(key).or_insert_with(|| last.clone());
        if noted.at < last.at {
            *noted = last;
        }
    }

    fn add_usage(&mut self, batch: &UsageBatch, keep: Retention) -> Result<(), StoreError> {
        let had = self.sources.entry(batch.source).or_default();
        if batch.number <= *had {
            return Ok(());
        }
        if batch.number > *had + 1 && !batch.after_loss {
            return Err(StoreError::Conflict);
        }
        *had = batch.number;
        let kept = |step: &Step| keep.of(*step) > 0;
        for row in &batch.rows {
            for step in Step::ALL.into_iter().filter(kept) {
                for of in [Spender::Everybody, Spender::Key(row.key)] {
                    let place = (step, of, step.start(batch.minute), Arc::clone(&row.route));
                    self.usage.entry(place).or_default().add(&row.counts);
                }
            }
            if let Some(last) = &row.last {
                self.note_use(row.key, last.clone());
            }
        }
        Ok(())
    }

    fn usage(&self, of: Spender, query: &UsageQuery) -> Vec<UsagePoint> {
        let is_asked = |route: &str| query.route.as_deref().is_none_or(|wanted| wanted == route);
        self.usage
            .iter()
            .filter(|((step, spender, start, route), _)| {
                let is_within = (query.from..query.to).contains(start);
                (*step, *spender) == (query.step, of) && is_within && is_asked(route)
            })
            .map(|((_, of, start, route), counts)| UsagePoint {
                of: *of,
                start: *start,
                route: Arc::clone(route),
                counts: counts.clone(),
            })
            .collect()
    }

    /// The pepper of each key that works.
    fn peppers_at(&self, now: UnixMillis) -> impl Iterator<Item = PepperId> {
        let works = move |key: &&Key| key.works_until() > now.0;
        self.keys.values().filter(works).filter_map(|key| key.pepper)
    }

    fn count_live(&self, app: AppId, now: UnixMillis) -> u32 {
        let is_counted = |key: &&Key| key.app == app && key.counts_until() > now.0;
        u32::try_from(self.keys.values().filter(is_counted).count()).unwrap()
    }
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

versioned!(Account App Key AdminToken);

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
        self.with(|tables| tables.commit_once(write, audit, once))
    }

    async fn remembered(
        &self,
        name: [u8; 32],
        now: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        let still = |(until, made): &(UnixMillis, Remembered)| (*until > now).then(|| made.clone());
        Ok(self.with(|tables| tables.once.get(&name).and_then(still)))
    }

    async fn token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        Ok(self.with(|tables| tables.tokens.get(&id).cloned()))
    }

    async fn token_by_hash(&self, sha256: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        let is_it = |token: &&AdminToken| token.sha256 == sha256;
        Ok(self.with(|tables| tables.tokens.values().find(is_it).cloned()))
    }

    async fn tokens(&self, part: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        Ok(self.with(|tables| values(page(tables.tokens.clone().into_iter(), part))))
    }

    async fn last_used(&self, keys: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        Ok(self.with(|tables| keys.iter().map(|key| tables.last_used.get(key).cloned()).collect()))
    }

    async fn add_usage(&self, batch: Arc<UsageBatch>, keep: Retention) -> Result<(), StoreError> {
        self.with(|tables| tables.add_usage(&batch, keep))
    }

    async fn usage_number(&self, source: SourceId) -> Result<u64, StoreError> {
        Ok(self.with(|tables| tables.sources.get(&source).copied().unwrap_or(0)))
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        Ok(self.with(|tables| query.of.iter().flat_map(|of| tables.usage(*of, &query)).collect()))
    }

    async fn pepper_counts(&self, now: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        let mut counts = BTreeMap::new();
        self.with(|tables| {
            for pepper in tables.peppers_at(now) {
                *counts.entry(pepper).or_default() += 1;
            }
        });
        Ok(counts.into_iter().collect())
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
            let entries = tables.log.iter().cloned().map(|logged| (logged.number, logged));
            values(page(entries, part))
        }))
    }

    async fn peppers(&self, now: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        let peppers: BTreeSet<_> = self.with(|tables| tables.peppers_at(now).collect());
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
