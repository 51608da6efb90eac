//! The demo's account, app and keys: made if missing, found again if not.
//!
//! The keys are derived from the pepper, so the same ones come back at each start though nothing
//! has stored them. A revoked one stays revoked: the next number takes its place.

use anyhow::{Context, bail};
use keygate_config::Config;
use keygate_core::key::MintedKey;
use keygate_core::{
    AccountId, AppId, Environment, KeyId, KeyKind, Peppers, Scope, ScopeSet, UnixMillis,
};
use keygate_store::cached::CachedKeys;
use keygate_store::keys::{KeyStore, Write};
use keygate_store::records::{
    Account, AccountStatus, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Version,
};
use zeroize::Zeroizing;

use crate::demo::plan::Plan;
use crate::first_start::entropy;

/// Keys of one role that are tried before the demo gives up.
const NUMBERS_MAX: u32 = 100;
const NAME: &str = "demo";

/// Who plays in the demo.
pub(super) struct Cast {
    pub(super) may: DemoKey,
    pub(super) may_not: Option<DemoKey>,
    /// What keeps the calls from doing what the demo says they do.
    pub(super) notes: Vec<String>,
}

pub(super) struct DemoKey {
    pub(super) id: KeyId,
    pub(super) text: Zeroizing<String>,
}

/// Where the cast is looked for.
pub(super) struct Stage<'a, S: KeyStore> {
    pub(super) keys: &'a CachedKeys<S>,
    pub(super) peppers: &'a Peppers,
    pub(super) config: &'a Config,
    pub(super) now: UnixMillis,
}

impl Cast {
    /// Finds or makes everybody that the plan needs.
    pub(super) async fn assemble<S: KeyStore>(
        stage: &Stage<'_, S>,
        plan: &Plan<'_>,
    ) -> anyhow::Result<Self> {
        let account = stage.account().await?;
        let wanted: Vec<Scope> = plan.enough.iter().chain(&plan.not_enough).cloned().collect();
        let app = stage.app(account.id, plan.environment, wanted).await?;
        let may = stage.key(&app, "may", plan.enough.clone()).await?;
        let may_not = match &plan.not_enough {
            Some(scope) => Some(stage.key(&app, "may not", vec![scope.clone()]).await?),
            None => None,
        };
        Ok(Self { may, may_not, notes: notes(&account, &app) })
    }
}

fn notes(account: &Account, app: &App) -> Vec<String> {
    let suspended = match account.status {
        AccountStatus::Active => None,
        AccountStatus::Suspended => Some(format!(
            "the demo account is suspended, so its keys get a 401: keygate accounts activate {}",
            account.id
        )),
    };
    let disabled = match app.status {
        AppStatus::Active => None,
        AppStatus::Disabled => Some(format!(
            "the demo app is disabled, so its keys get a 401: keygate apps enable {}",
            app.id
        )),
    };
    suspended.into_iter().chain(disabled).collect()
}

impl<S: KeyStore> Stage<'_, S> {
    async fn account(&self) -> anyhow::Result<Account> {
        // A fixed id, so that it is found without searching, however many accounts there are.
        let id = AccountId::new(UnixMillis::default(), *b"demo......");
        if let Some(account) = self.keys.store().account(id).await? {
            return Ok(account);
        }
        let account = Account {
            id,
            name: NAME.into(),
            owner: None,
            purpose: None,
            status: AccountStatus::Active,
            metadata: Metadata::new(),
            created_at: self.now,
            updated_at: self.now,
            version: Version::default(),
        };
        self.commit(Write::CreateAccount(account.clone()), "account.create", id, None).await?;
        Ok(account)
    }

    /// The demo's app in this environment, with at least these scopes.
    async fn app(
        &self,
        account: AccountId,
        environment: Environment,
        wanted: Vec<Scope>,
    ) -> anyhow::Result<App> {
        let entropy = match environment {
            Environment::Live => *b"demo..live",
            Environment::Test => *b"demo..test",
        };
        let id = AppId::new(UnixMillis::default(), entropy);
        if let Some(app) = self.keys.store().app(id).await? {
            let granted = ScopeSet::new(&app.granted_scopes);
            if granted.covers(&ScopeSet::new(&wanted)) {
                return Ok(app);
            }
            // The configuration's scopes have changed since.
            let changed = App { granted_scopes: wanted, updated_at: self.now, ..app };
            self.commit(Write::UpdateApp(changed.clone()), "app.update", id, None).await?;
            return Ok(changed);
        }
        let app = App {
            id,
            account,
            name: NAME.into(),
            owner: None,
            purpose: None,
            environment,
            granted_scopes: wanted,
            allowed_cidrs: Vec::new(),
            tier: None,
            max_age: None,
            status: AppStatus::Active,
            metadata: Metadata::new(),
            created_at: self.now,
            updated_at: self.now,
            version: Version::default(),
        };
        self.commit(Write::CreateApp(app.clone()), "app.create", id, None).await?;
        Ok(app)
    }

    /// The first usable key of a role, with these scopes.
    async fn key(&self, app: &App, role: &str, scopes: Vec<Scope>) -> anyhow::Result<DemoKey> {
        for number in 0..NUMBERS_MAX {
            let label = format!("demo key {role} {number}");
            let mut is_taken = false;
            // A key made before a pepper rotation still works, and is the one people have pasted.
            for pepper in self.peppers.iter() {
                let minted = self.mint(app.environment, pepper, &label);
                if let Some(found) = self.keys.store().find(minted.digest).await? {
                    is_taken = true;
                    if self.is_usable(&found.key) {
                        let id = found.key.id;
                        self.set_scopes(found.key, scopes).await?;
                        return Ok(DemoKey { id, text: minted.reveal() });
                    }
                }
            }
            if !is_taken {
                return self.make_key(app, role, &label, scopes).await;
            }
        }
        bail!(
            "{NUMBERS_MAX} demo keys have been revoked or disabled: enable one, or use another store"
        )
    }

    fn mint(
        &self,
        environment: Environment,
        pepper: &keygate_core::Pepper,
        label: &str,
    ) -> MintedKey {
        let brand = self.config.keys.credentials.brand.as_ref();
        MintedKey::mint(KeyKind::Secret, environment, brand, pepper, &pepper.derive(label))
    }

    fn is_usable(&self, key: &Key) -> bool {
        key.status == KeyStatus::Active && key.expires_at.is_none_or(|end| self.now < end)
    }

    async fn set_scopes(&self, key: Key, scopes: Vec<Scope>) -> anyhow::Result<()> {
        if key.scopes == scopes {
            return Ok(());
        }
        let (id, hint) = (key.id, key.hint.clone());
        let changed = Key { scopes, updated_at: self.now, ..key };
        let live_max = self.config.keys.keys_max_live;
        let write = Write::UpdateKey { key: changed, live_max, now: self.now };
        self.commit(write, "key.update", id, Some(hint)).await
    }

    async fn make_key(
        &self,
        app: &App,
        role: &str,
        label: &str,
        scopes: Vec<Scope>,
    ) -> anyhow::Result<DemoKey> {
        let minted = self.mint(app.environment, self.peppers.current(), label);
        let id = KeyId::new(self.now, id_entropy()?);
        let key = Key {
            id,
            digest: minted.digest,
            pepper: Some(minted.pepper),
            app: app.id,
            account: app.account,
            kind: KeyKind::Secret,
            environment: app.environment,
            name: Some(format!("{NAME}: {role}")),
            owner: None,
            purpose: None,
            hint: minted.hint.clone(),
            scopes,
            expires_at: None,
            tier: None,
            limits: None,
            allowed_cidrs: Vec::new(),
            allowed_origins: Vec::new(),
            metadata: Metadata::new(),
            rotated_from: None,
            rotated_to: None,
            status: KeyStatus::Active,
            created_at: self.now,
            updated_at: self.now,
            version: Version::default(),
        };
        let live_max = self.config.keys.keys_max_live;
        let write = Write::CreateKey { key, live_max, now: self.now };
        self.commit(write, "key.create", id, Some(minted.hint.clone())).await?;
        Ok(DemoKey { id, text: minted.reveal() })
    }

    async fn commit(
        &self,
        write: Write,
        action: &str,
        subject: impl ToString,
        hint: Option<String>,
    ) -> anyhow::Result<()> {
        let audit = AuditEntry {
            at: self.now,
            actor: NAME.into(),
            action: action.into(),
            subject: subject.to_string(),
            hint,
            from: None,
            reason: None,
            refused: None,
            changes: serde_json::Map::new(),
        };
        self.keys
            .commit(write, audit)
            .await
            .map(|_| ())
            .with_context(|| format!("cannot set up the demo ({action})"))
    }
}

fn id_entropy() -> anyhow::Result<[u8; 10]> {
    let random = entropy()?;
    Ok(std::array::from_fn(|at| random.get(at).copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use keygate_config::Source;
    use keygate_core::Pepper;
    use keygate_store::coherence::Coherence;
    use keygate_store::embedded::EmbeddedStore;
    use keygate_store::keys::Page;

    use super::*;

    const TOML: &str = r#"
        [server]
        listen = ["127.0.0.1:8080"]
        [upstreams.orders]
        targets = ["127.0.0.1:9000"]
        [[routes]]
        name = "read"
        path = "/o"
        upstream = "orders"
        auth = "key"
        environment = "live"
        scopes = ["SCOPE"]
    "#;

    fn config(scope: &str) -> Config {
        let text = TOML.replace("SCOPE", scope);
        keygate_config::parse(Source::alone("gateway.toml", &text, Path::new(""))).unwrap()
    }

    fn peppers(current: u8, previous: Option<u8>) -> Peppers {
        let previous = previous.map(|byte| Pepper::new(&[byte; 32]));
        Peppers::new(Pepper::new(&[current; 32]), previous.into_iter().collect())
    }

    struct Theatre {
        keys: CachedKeys<EmbeddedStore>,
        _folder: tempfile::TempDir,
    }

    impl Theatre {
        fn open() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(&folder.path().join("db")).unwrap();
            let alone = Arc::new(Coherence::alone());
            Self { keys: CachedKeys::new(store, alone, &config("read:o").cache), _folder: folder }
        }

        async fn start(&self, config: &Config, peppers: &Peppers) -> Cast {
            let now = UnixMillis(1_700_000_000_000);
            let stage = Stage { keys: &self.keys, peppers, config, now };
            Cast::assemble(&stage, &Plan::of(config).unwrap()).await.unwrap()
        }

        async fn stored(&self) -> Vec<Key> {
            let app = AppId::new(UnixMillis::default(), *b"demo..live");
            self.keys.store().keys(app, Page { after: None, limit: 100 }).await.unwrap()
        }

        async fn revoke(&self, id: KeyId) {
            let key = self.keys.store().key(id).await.unwrap().unwrap();
            let status = KeyStatus::Revoked { at: UnixMillis(1), reason: None };
            let audit = AuditEntry {
                at: UnixMillis(1),
                actor: "test".into(),
                action: "key.revoke".into(),
                subject: id.to_string(),
                hint: None,
                from: None,
                reason: None,
                refused: None,
                changes: serde_json::Map::new(),
            };
            let key = Key { status, ..key };
            let write = Write::UpdateKey { key, live_max: 1, now: UnixMillis(1) };
            self.keys.commit(write, audit).await.unwrap();
        }
    }

    #[tokio::test]
    async fn starting_again_shows_the_same_keys_and_makes_none() {
        let (theatre, config, peppers) = (Theatre::open(), config("read:o"), peppers(1, None));
        let first = theatre.start(&config, &peppers).await;
        let second = theatre.start(&config, &peppers).await;
        assert_eq!(*first.may.text, *second.may.text);
        assert_eq!(*first.may_not.unwrap().text, *second.may_not.unwrap().text);
        assert_eq!(theatre.stored().await.len(), 2);
    }

    #[tokio::test]
    async fn a_revoked_key_stays_revoked_and_another_takes_its_place() {
        let (theatre, config, peppers) = (Theatre::open(), config("read:o"), peppers(1, None));
        let first = theatre.start(&config, &peppers).await;
        theatre.revoke(first.may.id).await;
        let second = theatre.start(&config, &peppers).await;
        assert_ne!(*first.may.text, *second.may.text);
        assert_eq!(*theatre.start(&config, &peppers).await.may.text, *second.may.text);
        assert_eq!(theatre.stored().await.len(), 3);
    }

    #[tokio::test]
    async fn another_configuration_changes_the_keys_scopes_not_their_number() {
        let (theatre, peppers) = (Theatre::open(), peppers(1, None));
        let first = theatre.start(&config("read:o"), &peppers).await;
        for scope in ["read:p", "read:q", "read:r", "read:s"] {
            let again = theatre.start(&config(scope), &peppers).await;
            assert_eq!(*again.may.text, *first.may.text);
        }
        let stored = theatre.stored().await;
        assert_eq!(stored.len(), 2);
        assert!(stored.iter().any(|key| key.scopes == ["read:s".parse().unwrap()]));
    }

    #[tokio::test]
    async fn a_rotated_pepper_brings_no_new_keys() {
        let (theatre, config) = (Theatre::open(), config("read:o"));
        let first = theatre.start(&config, &peppers(1, None)).await;
        let second = theatre.start(&config, &peppers(2, Some(1))).await;
        assert_eq!(*first.may.text, *second.may.text);
        assert_eq!(theatre.stored().await.len(), 2);
    }
}
