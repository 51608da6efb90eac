//! What may be done to keys. Their secret is made here, returned once, and kept nowhere.

use ipnet::IpNet;
use keygate_core::key::{ENTROPY_LENGTH, MintedKey};
use keygate_core::limit::terms::Overrides;
use keygate_core::{AppId, KeyId, KeyKind, Scope, ScopeSet, UnixMillis};
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{App, AuditEntry, Key, KeyStatus, Metadata, Version};
use zeroize::Zeroizing;

use super::limits::LimitsChange;
use super::{Actor, Made, Registry, RegistryError, random, unopposed};

/// Why a key is revoked whose making was not acknowledged.
const NEVER_SHOWN: &str = "never shown: the write was not durable";

/// A key to be made. Its environment is its app's.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub kind: KeyKind,
    pub name: Option<String>,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<UnixMillis>,
    pub tier: Option<String>,
    /// What it has instead of its tier's limits.
    pub limits: Option<Box<Overrides>>,
    pub allowed_cidrs: Vec<IpNet>,
    pub allowed_origins: Vec<String>,
    pub metadata: Metadata,
}

/// A key that was just made, and the only copy of its secret.
pub struct CreatedKey {
    pub record: Key,
    pub key: Zeroizing<String>,
}

/// What to change about a key; the rest stays. `Some(None)` takes something away.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    pub name: Option<Option<String>>,
    pub scopes: Option<Vec<Scope>>,
    pub expires_at: Option<Option<UnixMillis>>,
    pub tier: Option<Option<String>>,
    pub limits: Option<LimitsChange>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub allowed_origins: Option<Vec<String>>,
    pub status: Option<KeySwitch>,
    pub metadata: Option<Metadata>,
}

/// The states of a key between which one can go back and forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySwitch {
    Active,
    Disabled,
}

impl<S: KeyStore> Registry<S> {
    /// Makes a key from the operating system's randomness.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] (the app), [`RegistryError::ScopeNotGranted`],
    /// [`RegistryError::UnknownTier`], [`RegistryError::SharedTier`],
    /// [`RegistryError::ExpiryInPast`], [`RegistryError::OriginsNeedPublishableKey`],
    /// [`RegistryError::TooManyLiveKeys`],
    /// [`RegistryError::NotDurable`], [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_key(
        &self,
        by: &Actor,
        app: AppId,
        new: NewKey,
    ) -> Result<CreatedKey, RegistryError> {
        let entropy = Zeroizing::new(random::<ENTROPY_LENGTH>()?);
        self.create_key_with_entropy(by, app, new, &entropy).await
    }

    /// Makes a key from the caller's entropy, so that the same key can be made again: for
    /// `keygate demo`, with entropy that a pepper derived.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key), and [`RegistryError::AlreadyExists`].
    pub async fn create_key_with_entropy(
        &self,
        by: &Actor,
        app: AppId,
        new: NewKey,
        entropy: &[u8; ENTROPY_LENGTH],
    ) -> Result<CreatedKey, RegistryError> {
        let now = self.now();
        let app = self.app(app).await?;
        self.check_tier(new.tier.as_deref())?;
        let tier = new.tier.as_deref().or(app.tier.as_deref());
        self.check_own_limits(tier, new.limits.as_deref())?;
        check_granted(&app, &new.scopes)?;
        check_expiry(new.expires_at, now)?;
        check_origins(new.kind, &new.allowed_origins)?;
        let (config, peppers) = (self.config(), self.peppers());
        let keys = &config.keys;
        let brand = keys.credentials.brand.as_ref();
        let pepper = peppers.current();
        let minted = MintedKey::mint(new.kind, app.environment, brand, pepper, entropy);
        let record = Key {
            id: KeyId::new(now, random()?),
            digest: minted.digest,
            pepper: Some(minted.pepper),
            app: app.id,
            account: app.account,
            kind: new.kind,
            environment: app.environment,
            name: new.name,
            owner: None,
            purpose: None,
            hint: minted.hint.clone(),
            scopes: new.scopes,
            expires_at: new.expires_at,
            tier: new.tier,
            limits: new.limits,
            allowed_cidrs: new.allowed_cidrs,
            allowed_origins: new.allowed_origins,
            metadata: new.metadata,
            rotated_from: None,
            rotated_to: None,
            status: KeyStatus::Active,
            created_at: now,
            updated_at: now,
            version: Version::default(),
        };
        let write = Write::CreateKey { key: record.clone(), live_max: keys.keys_max_live, now };
        // A caller that goes away here leaves a key that nobody knows; it is listed and audited.
        match self.commit(write, entry(by, now, "key.create", &record)).await {
            Ok(()) => {}
            Err(RegistryError::NotDurable { made: _, replicas, wanted }) => {
                self.parts.metrics.created();
                self.take_back(by, record.id).await;
                return Err(RegistryError::NotDurable { made: Made::Key, replicas, wanted });
            }
            Err(error) => return Err(error),
        }
        self.parts.metrics.created();
        Ok(CreatedKey { record, key: minted.reveal() })
    }

    /// Revokes a key that was made and that nobody will be shown, so that it neither lives on nor
    /// counts against its app's cap. Where that is not durable either, both are lost or neither is.
    async fn take_back(&self, by: &Actor, id: KeyId) {
        match self.revoke_key(by, id, Some(NEVER_SHOWN)).await {
            Ok(_) | Err(RegistryError::NotDurable { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, %id, "a key that nobody was shown could not be revoked");
            }
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn key(&self, id: KeyId) -> Result<Key, RegistryError> {
        self.store().key(id).await?.ok_or(RegistryError::NotFound("the key"))
    }

    /// # Errors
    /// [`RegistryError::NotFound`] (the app) and [`RegistryError::Store`].
    pub async fn keys(&self, app: AppId, page: Page<KeyId>) -> Result<Vec<Key>, RegistryError> {
        self.app(app).await?;
        Ok(self.store().keys(app, page).await?)
    }

    /// Changes a key. Writes nothing if it is so already.
    ///
    /// # Errors
    /// [`RegistryError::KeyRevoked`]: revocation is for good. [`RegistryError::InvalidLimits`],
    /// [`RegistryError::Conflict`], [`RegistryError::NotDurable`], and the reasons for which such a key could not be made.
    pub async fn change_key(
        &self,
        by: &Actor,
        id: KeyId,
        change: &KeyChange,
    ) -> Result<Key, RegistryError> {
        if let Some(tier) = &change.tier {
            self.check_tier(tier.as_deref())?;
        }
        check_expiry(change.expires_at.flatten(), self.now())?;
        unopposed(|| self.try_change_key(by, id, change)).await
    }

    async fn try_change_key(
        &self,
        by: &Actor,
        id: KeyId,
        change: &KeyChange,
    ) -> Result<Key, RegistryError> {
        let before = self.key(id).await?;
        if matches!(before.status, KeyStatus::Revoked { .. }) {
            return Err(RegistryError::KeyRevoked);
        }
        let after = changed(&before, change)?;
        let action = match (&before.status, &after.status) {
            (KeyStatus::Active, KeyStatus::Disabled) => "key.disable",
            (KeyStatus::Disabled, KeyStatus::Active) => "key.enable",
            (KeyStatus::Active | KeyStatus::Disabled | KeyStatus::Revoked { .. }, _) => {
                "key.update"
            }
        };
        check_origins(after.kind, &after.allowed_origins)?;
        if after.scopes != before.scopes {
            check_granted(&self.app(after.app).await?, &after.scopes)?;
        }
        if after.limits.is_some() && (after.tier != before.tier || after.limits != before.limits) {
            let tier = self.tier_of(&after).await?;
            self.check_own_limits(tier.as_deref(), after.limits.as_deref())?;
        }
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        self.update(by, after, action, None).await
    }

    /// Revokes a key, for good. A key that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Conflict`], [`RegistryError::NotDurable`] and
    /// [`RegistryError::Store`]. After the last, the key may or may not be revoked: ask again.
    pub async fn revoke_key(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
    ) -> Result<Key, RegistryError> {
        unopposed(|| self.try_revoke_key(by, id, reason)).await
    }

    async fn try_revoke_key(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
    ) -> Result<Key, RegistryError> {
        let mut key = self.key(id).await?;
        if matches!(key.status, KeyStatus::Revoked { .. }) {
            self.settle().await?;
            return Ok(key);
        }
        let reason = reason.map(ToOwned::to_owned);
        key.status = KeyStatus::Revoked { at: self.now(), reason: reason.clone() };
        let revoked = self.update(by, key, "key.revoke", reason).await;
        if matches!(revoked, Ok(_) | Err(RegistryError::NotDurable { .. })) {
            self.parts.metrics.revoked();
        }
        revoked
    }

    async fn update(
        &self,
        by: &Actor,
        mut key: Key,
        action: &str,
        reason: Option<String>,
    ) -> Result<Key, RegistryError> {
        key.updated_at = self.now();
        let audit = AuditEntry { reason, ..entry(by, key.updated_at, action, &key) };
        let live_max = self.config().keys.keys_max_live;
        let write = Write::UpdateKey { key: key.clone(), live_max, now: key.updated_at };
        self.commit(write, audit).await?;
        Ok(key)
    }
}

pub(super) fn entry(by: &Actor, at: UnixMillis, action: &str, key: &Key) -> AuditEntry {
    AuditEntry { hint: Some(key.hint.clone()), ..by.entry(at, action, key.id.to_string()) }
}

fn changed(before: &Key, change: &KeyChange) -> Result<Key, RegistryError> {
    let mut key = before.clone();
    let KeyChange {
        name,
        scopes,
        expires_at,
        tier,
        limits,
        allowed_cidrs,
        allowed_origins,
        status,
        metadata,
    } = change.clone();
    key.name = name.unwrap_or(key.name);
    key.scopes = scopes.unwrap_or(key.scopes);
    key.expires_at = expires_at.unwrap_or(key.expires_at);
    key.tier = tier.unwrap_or(key.tier);
    if let Some(limits) = limits {
        key.limits = limits.applied_to(key.limits.as_deref())?;
    }
    key.allowed_cidrs = allowed_cidrs.unwrap_or(key.allowed_cidrs);
    key.allowed_origins = allowed_origins.unwrap_or(key.allowed_origins);
    key.metadata = metadata.unwrap_or(key.metadata);
    key.status = match status {
        Some(KeySwitch::Active) => KeyStatus::Active,
        Some(KeySwitch::Disabled) => KeyStatus::Disabled,
        None => key.status,
    };
    Ok(key)
}

fn check_granted(app: &App, scopes: &[Scope]) -> Result<(), RegistryError> {
    let granted = ScopeSet::new(&app.granted_scopes);
    let beyond = |scope: &&Scope| !granted.covers(&ScopeSet::new([*scope]));
    let beyond: Vec<Scope> = scopes.iter().filter(beyond).cloned().collect();
    if beyond.is_empty() { Ok(()) } else { Err(RegistryError::ScopeNotGranted(beyond)) }
}

fn check_expiry(expires_at: Option<UnixMillis>, now: UnixMillis) -> Result<(), RegistryError> {
    match expires_at {
        Some(end) if end <= now => Err(RegistryError::ExpiryInPast),
        Some(_) | None => Ok(()),
    }
}

/// A list that nothing looks at would only seem to protect the key.
fn check_origins(kind: KeyKind, origins: &[String]) -> Result<(), RegistryError> {
    match kind {
        KeyKind::Secret | KeyKind::Restricted if !origins.is_empty() => {
            Err(RegistryError::OriginsNeedPublishableKey)
        }
        KeyKind::Secret | KeyKind::Publishable | KeyKind::Restricted => Ok(()),
    }
}
