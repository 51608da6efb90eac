//! How keys are made and looked at. Their secret is made here, returned once, and kept nowhere.

use ipnet::IpNet;
use keygate_core::key::{ENTROPY_LENGTH, MintedKey};
use keygate_core::limit::terms::Overrides;
use keygate_core::{AppId, Environment, KeyId, KeyKind, Scope, ScopeSet, UnixMillis};
use keygate_store::keys::{KeyStore, Write};
use keygate_store::records::{App, AuditEntry, Key, KeyStatus, Metadata, Version};
use zeroize::Zeroizing;

use super::idempotency::Making;
use super::{Actor, Asked, Expected, Made, Registry, RegistryError, random, to_its_end};

/// Why a key is revoked whose making was not acknowledged.
const NEVER_SHOWN: &str = "never shown: the write was not durable";
const MISSING: RegistryError = RegistryError::NotFound("the key");

/// A key to be made. Its environment is its app's.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub kind: KeyKind,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub purpose: Option<String>,
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
    /// Nothing if the same call had made it before: a secret is shown once.
    pub key: Option<Zeroizing<String>>,
}

/// What became of a key whose making was not acknowledged.
pub(super) enum TakenBack {
    /// It was revoked, as far as that was possible.
    Tried,
    /// This call did not make it: another with the same name did, and is not acknowledged yet.
    NotThere,
}

impl<S: KeyStore> Registry<S> {
    /// Makes a key from the operating system's randomness.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] (the app), [`RegistryError::Forbidden`],
    /// [`RegistryError::ScopeNotGranted`], [`RegistryError::UnknownTier`],
    /// [`RegistryError::SharedTier`], [`RegistryError::ExpiryInPast`],
    /// [`RegistryError::BeyondMaxAge`], [`RegistryError::OriginsNeedPublishableKey`],
    /// [`RegistryError::TooManyLiveKeys`], [`RegistryError::RequestReused`],
    /// [`RegistryError::NeverShown`], [`RegistryError::NotDurable`], [`RegistryError::Store`] and
    /// [`RegistryError::NoRandomness`].
    pub async fn create_key(
        &self,
        by: &Actor,
        app: AppId,
        new: NewKey,
        asked: Option<&Asked>,
    ) -> Result<CreatedKey, RegistryError> {
        let entropy = Zeroizing::new(random::<ENTROPY_LENGTH>()?);
        self.create_key_with_entropy(by, app, new, asked, &entropy).await
    }

    /// Makes a key from the caller's entropy, so that the same key can be made again. Goes on to its
    /// end even if the caller stops waiting, which leaves a key that nobody knows; it is listed and
    /// audited.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key), and [`RegistryError::AlreadyExists`].
    pub async fn create_key_with_entropy(
        &self,
        by: &Actor,
        app: AppId,
        new: NewKey,
        asked: Option<&Asked>,
        entropy: &[u8; ENTROPY_LENGTH],
    ) -> Result<CreatedKey, RegistryError> {
        let app = self.app(by, app).await?;
        by.require_issuer(app.account)?;
        let (registry, by, asked) = (self.clone(), by.clone(), asked.copied());
        let entropy = Zeroizing::new(*entropy);
        to_its_end(async move {
            let asked = asked.as_ref();
            let outcome = registry.try_create_key(&by, &app, new, asked, &entropy).await;
            let outcome = registry.or_before(asked, outcome, CreatedKey::replayed).await;
            registry.shown(registry.or_whom_to_retire(app.id, outcome).await?).await
        })
        .await
    }

    async fn try_create_key(
        &self,
        by: &Actor,
        app: &App,
        new: NewKey,
        asked: Option<&Asked>,
        entropy: &[u8; ENTROPY_LENGTH],
    ) -> Result<CreatedKey, RegistryError> {
        let now = self.now();
        let expires_at = self.check_new(app, &new, now)?;
        let minted = self.mint(new.kind, app.environment, entropy).await?;
        let record = Key {
            id: KeyId::new(now, random()?),
            digest: minted.digest,
            pepper: Some(minted.pepper),
            app: app.id,
            account: app.account,
            kind: new.kind,
            environment: app.environment,
            name: new.name,
            owner: new.owner,
            purpose: new.purpose,
            hint: minted.hint.clone(),
            scopes: new.scopes,
            expires_at,
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
        let live_max = self.config().keys.keys_max_live;
        let write = Write::CreateKey { key: record.clone(), live_max, now };
        match self.make(write, entry(by, now, "key.create", &record), asked).await {
            Ok(Making::Now) => {}
            Ok(Making::Before(record)) => return Ok(CreatedKey::replayed(record)),
            Err(RegistryError::NotDurable { made, replicas, wanted }) => {
                let made = match self.take_back(by, record.id).await {
                    TakenBack::Tried => {
                        self.parts.metrics.created();
                        Made::Key
                    }
                    TakenBack::NotThere => made,
                };
                return Err(RegistryError::NotDurable { made, replicas, wanted });
            }
            Err(error) => return Err(error),
        }
        self.parts.metrics.created();
        Ok(CreatedKey { record, key: Some(minted.reveal()) })
    }

    /// Returns when the key has to end.
    fn check_new(
        &self,
        app: &App,
        new: &NewKey,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, RegistryError> {
        self.check_tier(new.tier.as_deref())?;
        let tier = new.tier.as_deref().or(app.tier.as_deref());
        self.check_own_limits(tier, new.limits.as_deref())?;
        check_granted(app, &new.scopes)?;
        check_expiry(new.expires_at, now)?;
        check_origins(new.kind, &new.allowed_origins)?;
        self.policy(app, new.tier.as_deref()).end_of_new(new.expires_at, now)
    }

    pub(super) async fn mint(
        &self,
        kind: KeyKind,
        environment: Environment,
        entropy: &[u8; ENTROPY_LENGTH],
    ) -> Result<MintedKey, RegistryError> {
        let (config, peppers) = (self.config(), self.peppers());
        let brand = config.keys.credentials.brand.as_ref();
        let pepper = self.mint_with(&peppers).await?;
        Ok(MintedKey::mint(kind, environment, brand, pepper, entropy))
    }

    /// Revokes a key that was made and that nobody will be shown, so that it neither lives on nor
    /// counts against its app's cap. Where that is not durable either, both are lost or neither is.
    pub(super) async fn take_back(&self, by: &Actor, id: KeyId) -> TakenBack {
        match self.revoke_key(by, id, Some(NEVER_SHOWN), &Expected::Any).await {
            Ok(_) | Err(RegistryError::NotDurable { .. }) => {}
            Err(RegistryError::NotFound(_)) => return TakenBack::NotThere,
            Err(error) => {
                tracing::warn!(%error, %id, "a key that nobody was shown could not be revoked");
            }
        }
        TakenBack::Tried
    }

    /// A key that was made by the same call before, unless that was taken back.
    pub(super) async fn shown(&self, created: CreatedKey) -> Result<CreatedKey, RegistryError> {
        if created.key.is_some() {
            return Ok(created);
        }
        match self.store().key(created.record.id).await?.map(|now| now.status) {
            Some(KeyStatus::Revoked { reason, .. }) if reason.as_deref() == Some(NEVER_SHOWN) => {
                Err(RegistryError::NeverShown)
            }
            None => Err(RegistryError::NeverShown),
            Some(KeyStatus::Active | KeyStatus::Disabled | KeyStatus::Revoked { .. }) => {
                Ok(created)
            }
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn key(&self, by: &Actor, id: KeyId) -> Result<Key, RegistryError> {
        let key = self.store().key(id).await?.ok_or(MISSING)?;
        if by.sees(key.account) { Ok(key) } else { Err(MISSING) }
    }

    /// A key that the actor may change, and that is as expected.
    pub(super) async fn key_to_change(
        &self,
        by: &Actor,
        id: KeyId,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        let key = self.key(by, id).await?;
        by.require_issuer(key.account)?;
        expected.check(key.version)?;
        Ok(key)
    }
}

impl CreatedKey {
    pub(super) fn replayed(record: Key) -> Self {
        Self { record, key: None }
    }
}

pub(super) fn entry(by: &Actor, at: UnixMillis, action: &str, key: &Key) -> AuditEntry {
    AuditEntry { hint: Some(key.hint.clone()), ..by.entry(at, action, key.id.to_string()) }
}

pub(super) fn check_granted(app: &App, scopes: &[Scope]) -> Result<(), RegistryError> {
    let granted = ScopeSet::new(&app.granted_scopes);
    let beyond = |scope: &&Scope| !granted.covers(&ScopeSet::new([*scope]));
    let beyond: Vec<Scope> = scopes.iter().filter(beyond).cloned().collect();
    if beyond.is_empty() { Ok(()) } else { Err(RegistryError::ScopeNotGranted(beyond)) }
}

pub(super) fn check_expiry(
    expires_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<(), RegistryError> {
    match expires_at {
        Some(end) if end <= now => Err(RegistryError::ExpiryInPast),
        Some(_) | None => Ok(()),
    }
}

/// A list that nothing looks at would only seem to protect the key.
pub(super) fn check_origins(kind: KeyKind, origins: &[String]) -> Result<(), RegistryError> {
    match kind {
        KeyKind::Secret | KeyKind::Restricted if !origins.is_empty() => {
            Err(RegistryError::OriginsNeedPublishableKey)
        }
        KeyKind::Secret | KeyKind::Publishable | KeyKind::Restricted => Ok(()),
    }
}
