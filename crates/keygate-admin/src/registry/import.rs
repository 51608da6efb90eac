//! Keys that another system made, with the apps and accounts for them. Of such a key only its SHA-256
//! comes here, and what is stored is a digest of that.
//!
//! The ids of apps and accounts follow from what they are called, and keys are known by their digests,
//! so the same import again, whole or in part, finds what is there and leaves it as it is.

mod asked;

use std::collections::BTreeMap;

use keygate_core::key::sha256;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, Scope, UnixMillis};
use keygate_store::keys::{KeyStore, StoredRecord};
use keygate_store::records::{
    Account, AccountStatus, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Version,
};

use super::keys::{check_expiry, check_granted};
use super::{Actor, Registry, RegistryError, random};

pub use asked::{
    Import, ImportAccount, ImportApp, ImportEnd, ImportKey, ImportMode, ImportOutcome, Landed,
    Landing, Whose,
};

impl<S: KeyStore> Registry<S> {
    /// Adds keys that another system made. What cannot be added fails alone. All that can be is
    /// written in one step, with one entry in the audit log, and without a cap on live keys.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotDurable`] and [`RegistryError::Store`].
    pub async fn import_keys(
        &self,
        by: &Actor,
        import: &Import,
    ) -> Result<ImportOutcome, RegistryError> {
        by.require_admin()?;
        for _ in 1..TRIES {
            match self.try_import(by, import).await {
                // Somebody else made one of these keys since it was looked for: it is found now.
                Err(RegistryError::AlreadyExists) => {}
                outcome => return outcome,
            }
        }
        self.try_import(by, import).await
    }

    async fn try_import(
        &self,
        by: &Actor,
        import: &Import,
    ) -> Result<ImportOutcome, RegistryError> {
        let mut batch = Batch::new(self, import);
        for account in &import.accounts {
            batch.add_account(account).await?;
        }
        for app in &import.apps {
            batch.add_app(app).await?;
        }
        for key in &import.keys {
            batch.add_key(key).await?;
        }
        let Batch { records, mut outcome, now, .. } = batch;
        if import.mode == ImportMode::DryRun {
            return Ok(outcome);
        }
        if outcome.has_found() {
            // It may be from a try before this one that was not durable.
            self.settle().await?;
        }
        if records.is_empty() {
            return Ok(outcome);
        }
        let entry = entry(by, now, import, &records, &outcome);
        let imported = self.parts.keys.import(records, entry).await?;
        // Somebody else made these since they were looked for.
        outcome.found_late(&imported.different);
        for _ in 0..outcome.created_keys() {
            self.parts.metrics.created();
        }
        Ok(outcome)
    }
}

impl<S: KeyStore> Registry<S> {
    /// Whether keys that other systems made are let in at all.
    #[must_use]
    pub fn accepts_imported(&self) -> bool {
        self.config().keys.credentials.imported.is_some()
    }
}

/// An import on its way: what is there is known, what is not is to be written.
struct Batch<'a, S: KeyStore> {
    registry: &'a Registry<S>,
    import: &'a Import,
    now: UnixMillis,
    accounts: BTreeMap<&'a str, AccountId>,
    apps: BTreeMap<&'a str, AppId>,
    /// As they are or will be; nothing for one that does not exist.
    known_apps: BTreeMap<AppId, Option<App>>,
    /// Those to be written, by their digests.
    keys: BTreeMap<KeyDigest, Key>,
    /// Parents before children.
    records: Vec<StoredRecord>,
    outcome: ImportOutcome,
}

impl<'a, S: KeyStore> Batch<'a, S> {
    fn new(registry: &'a Registry<S>, import: &'a Import) -> Self {
        Self {
            registry,
            import,
            now: registry.now(),
            accounts: BTreeMap::new(),
            apps: BTreeMap::new(),
            known_apps: BTreeMap::new(),
            keys: BTreeMap::new(),
            records: Vec::new(),
            outcome: ImportOutcome { accounts: vec![], apps: vec![], keys: vec![] },
        }
    }

    async fn add_account(&mut self, new: &'a ImportAccount) -> Result<(), RegistryError> {
        let id = AccountId::new(
            START,
            name(&[b"account", self.import.source.as_bytes(), new.name_here.as_bytes()]),
        );
        let seen = self.accounts.insert(&new.name_here, id).is_some();
        if seen || self.registry.store().account(id).await?.is_some() {
            self.outcome.accounts.push(Ok(Landed { id, how: Landing::Existing }));
            return Ok(());
        }
        self.records.push(StoredRecord::Account(Account {
            id,
            name: new.name.clone(),
            owner: new.owner.clone(),
            purpose: new.purpose.clone(),
            status: AccountStatus::Active,
            metadata: Metadata::new(),
            created_at: self.now,
            updated_at: self.now,
            version: Version::default(),
        }));
        self.outcome.accounts.push(Ok(Landed { id, how: Landing::Created }));
        Ok(())
    }

    async fn add_app(&mut self, new: &'a ImportApp) -> Result<(), RegistryError> {
        let landed = self.landed_app(new).await;
        if let Ok(landed) = &landed {
            self.apps.insert(&new.name_here, landed.id);
        }
        self.outcome.apps.push(only_this(landed)?);
        Ok(())
    }

    async fn landed_app(&mut self, new: &'a ImportApp) -> Result<Landed<AppId>, RegistryError> {
        let account = self.account_of(new).await?;
        let id = AppId::new(
            START,
            name(&[
                b"app",
                self.import.source.as_bytes(),
                account.to_string().as_bytes(),
                new.environment.as_str().as_bytes(),
                new.name_here.as_bytes(),
            ]),
        );
        if self.known_app(id).await?.is_some() {
            return Ok(Landed { id, how: Landing::Existing });
        }
        let app = App {
            id,
            account,
            name: new.name.clone(),
            owner: new.owner.clone(),
            purpose: new.purpose.clone(),
            environment: new.environment,
            granted_scopes: self.granted(new),
            allowed_cidrs: Vec::new(),
            tier: None,
            max_age: None,
            status: AppStatus::Active,
            metadata: Metadata::new(),
            created_at: self.now,
            updated_at: self.now,
            version: Version::default(),
        };
        self.known_apps.insert(id, Some(app.clone()));
        self.records.push(StoredRecord::App(app));
        Ok(Landed { id, how: Landing::Created })
    }

    async fn account_of(&self, app: &ImportApp) -> Result<AccountId, RegistryError> {
        let missing = RegistryError::NotFound("the account");
        match &app.account {
            Whose::Here(name) => self.accounts.get(&**name).copied().ok_or(missing),
            Whose::Id(id) => match self.registry.store().account(*id).await? {
                Some(account) => Ok(account.id),
                None => Err(missing),
            },
        }
    }

    fn granted(&self, app: &ImportApp) -> Vec<Scope> {
        if let Some(scopes) = &app.granted_scopes {
            return scopes.clone();
        }
        let mut all = Vec::new();
        let keys = self.import.keys.iter();
        for key in keys.filter(|key| key.app == Whose::Here(app.name_here.clone())) {
            for scope in &key.scopes {
                if !all.contains(scope) {
                    all.push(scope.clone());
                }
            }
        }
        all
    }

    async fn known_app(&mut self, id: AppId) -> Result<Option<&App>, RegistryError> {
        if !self.known_apps.contains_key(&id) {
            let app = self.registry.store().app(id).await?;
            self.known_apps.insert(id, app);
        }
        Ok(self.known_apps.get(&id).and_then(Option::as_ref))
    }

    async fn add_key(&mut self, new: &ImportKey) -> Result<(), RegistryError> {
        let landed = self.landed_key(new).await;
        self.outcome.keys.push(only_this(landed)?);
        Ok(())
    }

    async fn landed_key(&mut self, new: &ImportKey) -> Result<Landed<KeyId>, RegistryError> {
        let digest = KeyDigest::of_imported(&new.sha256);
        let app_id = match &new.app {
            Whose::Id(id) => *id,
            Whose::Here(name) => {
                *self.apps.get(&**name).ok_or(RegistryError::NotFound("the app"))?
            }
        };
        let before = match self.keys.get(&digest) {
            Some(key) => Some(key.clone()),
            None => self.registry.store().find(digest).await?.map(|owned| owned.key),
        };
        if let Some(before) = before {
            let how =
                if is_as(&before, new, app_id) { Landing::Existing } else { Landing::Differs };
            return Ok(Landed { id: before.id, how });
        }
        let now = self.now;
        // Nothing of the key or its hash: with that in the id, a key that is short could be guessed
        // from what lists and logs show.
        let id = KeyId::new(now, random()?);
        let app = self.known_app(app_id).await?.ok_or(RegistryError::NotFound("the app"))?.clone();
        let key = record(new, id, digest, &app, now);
        self.check(new, &key, &app)?;
        self.keys.insert(digest, key.clone());
        self.records.push(StoredRecord::Key(key));
        Ok(Landed { id, how: Landing::Created })
    }

    fn check(&self, new: &ImportKey, key: &Key, app: &App) -> Result<(), RegistryError> {
        let tier = new.tier.as_deref();
        self.registry.check_tier(tier)?;
        self.registry.check_own_limits(tier.or(app.tier.as_deref()), new.limits.as_deref())?;
        check_granted(app, &new.scopes)?;
        check_expiry(key.expires_at, self.now)
    }
}

/// How often a batch is looked at anew, because others import the same keys at this moment.
const TRIES: usize = 5;
/// The time in ids that follow from what is imported.
const START: UnixMillis = UnixMillis(0);

/// What an id follows from. The parts may hold anything, so each comes with its length.
fn name(parts: &[&[u8]]) -> [u8; 10] {
    let mut all = b"keygate import v1".to_vec();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    first_bytes(&sha256(&all))
}

fn first_bytes(digest: &[u8; 32]) -> [u8; 10] {
    let [a, b, c, d, e, f, g, h, i, j, ..] = *digest;
    [a, b, c, d, e, f, g, h, i, j]
}

fn record(new: &ImportKey, id: KeyId, digest: KeyDigest, app: &App, now: UnixMillis) -> Key {
    Key {
        id,
        digest,
        pepper: None,
        app: app.id,
        account: app.account,
        kind: new.kind,
        environment: app.environment,
        name: new.name.clone(),
        owner: new.owner.clone(),
        purpose: new.purpose.clone(),
        hint: hint(&digest),
        scopes: new.scopes.clone(),
        expires_at: new.end.at(),
        tier: new.tier.clone(),
        limits: new.limits.clone(),
        allowed_cidrs: Vec::new(),
        allowed_origins: Vec::new(),
        metadata: new.metadata.clone(),
        rotated_from: None,
        rotated_to: None,
        status: new.status.clone(),
        created_at: now,
        updated_at: now,
        version: Version::default(),
    }
}

/// Tells imported keys apart and says nothing about them: not one character of the key.
fn hint(digest: &KeyDigest) -> String {
    let [a, b, c, ..] = sha256(digest.as_bytes());
    format!("imported_{a:02x}{b:02x}{c:02x}")
}

impl ImportEnd {
    fn at(self) -> Option<UnixMillis> {
        match self {
            Self::Never => None,
            Self::At(end) | Self::After(end) => Some(end),
        }
    }
}

/// Whether the key that is there may do what the import says, for as long. What people call it, and
/// what has been done to it since, is theirs.
fn is_as(before: &Key, new: &ImportKey, app: AppId) -> bool {
    let same_end = match new.end {
        ImportEnd::After(_) => before.expires_at.is_some(),
        ImportEnd::At(_) | ImportEnd::Never => before.expires_at == new.end.at(),
    };
    let same_scopes = before.scopes.len() == new.scopes.len()
        && new.scopes.iter().all(|scope| before.scopes.contains(scope));
    let may = |status: &KeyStatus| matches!(status, KeyStatus::Active);
    // One that was revoked since stays so, whatever a file says.
    let same_status = matches!(before.status, KeyStatus::Revoked { .. })
        || may(&before.status) == may(&new.status);
    let same_limits = before.tier == new.tier && before.limits == new.limits;
    same_end && same_scopes && same_status && same_limits && before.app == app
}

/// What is wrong with one record fails that one; a store that fails, all.
fn only_this<T>(
    landed: Result<T, RegistryError>,
) -> Result<Result<T, RegistryError>, RegistryError> {
    match landed {
        Err(error @ (RegistryError::Store(_) | RegistryError::NotDurable { .. })) => Err(error),
        landed => Ok(landed),
    }
}

/// Says what was made, by its id: a batch is bounded, and so is this.
fn entry(
    by: &Actor,
    at: UnixMillis,
    import: &Import,
    records: &[StoredRecord],
    outcome: &ImportOutcome,
) -> AuditEntry {
    let (mut accounts, mut apps) = (Vec::new(), Vec::new());
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        match record {
            StoredRecord::Account(account) => accounts.push(account.id.to_string()),
            StoredRecord::App(app) => apps.push(app.id.to_string()),
            StoredRecord::Key(key) => {
                keys.entry(key.app.to_string()).or_default().push(key.id.to_string());
            }
        }
    }
    let ids = [
        ("accounts", (!accounts.is_empty()).then(|| serde_json::json!(accounts))),
        ("apps", (!apps.is_empty()).then(|| serde_json::json!(apps))),
        // By their apps.
        ("keys", (!keys.is_empty()).then(|| serde_json::json!(keys))),
    ];
    let ids = ids
        .into_iter()
        .filter_map(|(name, made)| Some((name.to_owned(), serde_json::json!([null, made?]))));
    let counts = [
        ("accounts_created", created(&outcome.accounts)),
        ("apps_created", created(&outcome.apps)),
        ("keys_created", created(&outcome.keys)),
    ];
    let change = |(name, count): (&str, usize)| {
        (count > 0).then(|| (name.to_owned(), serde_json::json!([null, count])))
    };
    AuditEntry {
        reason: Some(format!("from {}", import.source)),
        changes: counts.into_iter().filter_map(change).chain(ids).collect(),
        ..by.entry(at, "keys.import", "keys".to_owned())
    }
}

fn created<I>(all: &[Result<Landed<I>, RegistryError>]) -> usize {
    all.iter().flatten().filter(|landed| landed.how == Landing::Created).count()
}

impl ImportOutcome {
    fn created_keys(&self) -> usize {
        created(&self.keys)
    }

    fn has_found(&self) -> bool {
        fn found<I>(all: &[Result<Landed<I>, RegistryError>]) -> bool {
            all.iter().flatten().any(|landed| landed.how != Landing::Created)
        }
        found(&self.accounts) || found(&self.apps) || found(&self.keys)
    }

    fn found_late(&mut self, ids: &[String]) {
        fn mark<I: ToString>(all: &mut [Result<Landed<I>, RegistryError>], ids: &[String]) {
            for landed in all.iter_mut().flatten() {
                if landed.how == Landing::Created && ids.contains(&landed.id.to_string()) {
                    landed.how = Landing::Existing;
                }
            }
        }
        if !ids.is_empty() {
            mark(&mut self.accounts, ids);
            mark(&mut self.apps, ids);
            mark(&mut self.keys, ids);
        }
    }
}

#[cfg(test)]
mod tests;
