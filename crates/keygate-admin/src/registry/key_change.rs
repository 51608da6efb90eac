//! How keys change, and how they are revoked.

use ipnet::IpNet;
use keygate_core::{KeyId, Scope, UnixMillis};
use keygate_store::keys::{KeyStore, Write};
use keygate_store::records::{AuditEntry, Key, KeyStatus, Metadata, changes};

use super::keys::{check_expiry, check_granted, check_origins, entry};
use super::limits::LimitsChange;
use super::{Actor, Expected, Registry, RegistryError};

/// What to change about a key; the rest stays. `Some(None)` takes something away.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    pub name: Option<Option<String>>,
    pub owner: Option<Option<String>>,
    pub purpose: Option<Option<String>>,
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
    /// Changes a key. Writes nothing if it is so already.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Forbidden`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::KeyRevoked`]: revocation is for good,
    /// [`RegistryError::EndOnlyEarlier`], [`RegistryError::InvalidLimits`],
    /// [`RegistryError::Conflict`], [`RegistryError::NotDurable`], and the reasons for which such a key
    /// could not be made.
    pub async fn change_key(
        &self,
        by: &Actor,
        id: KeyId,
        change: &KeyChange,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        expected.carry_out(|| self.try_change_key(by, id, change, expected)).await
    }

    async fn try_change_key(
        &self,
        by: &Actor,
        id: KeyId,
        change: &KeyChange,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        let before = self.key_to_change(by, id, &Expected::Any).await?;
        // The same call again, after it may have been lost, finds the key at another version.
        if expected.check(before.version).is_err()
            && !changed(&before, change).is_ok_and(|after| after == before)
        {
            return Err(RegistryError::PreconditionFailed);
        }
        if matches!(before.status, KeyStatus::Revoked { .. }) {
            return Err(RegistryError::KeyRevoked);
        }
        if let Some(tier) = &change.tier {
            self.check_tier(tier.as_deref())?;
        }
        check_expiry(change.expires_at.flatten(), self.now())?;
        let after = changed(&before, change)?;
        let action = match (&before.status, &after.status) {
            (KeyStatus::Active, KeyStatus::Disabled) => "key.disable",
            (KeyStatus::Disabled, KeyStatus::Active) => "key.enable",
            (KeyStatus::Active | KeyStatus::Disabled | KeyStatus::Revoked { .. }, _) => {
                "key.update"
            }
        };
        self.check_changed(&before, &after).await?;
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        self.update(by, &before, after, action, None).await
    }

    async fn check_changed(&self, before: &Key, after: &Key) -> Result<(), RegistryError> {
        check_origins(after.kind, &after.allowed_origins)?;
        if after.rotated_to.is_some() && is_later(after.expires_at, before.expires_at) {
            return Err(RegistryError::EndOnlyEarlier);
        }
        let (scopes, tier) = (after.scopes != before.scopes, after.tier != before.tier);
        let (end, limits) = (after.expires_at != before.expires_at, after.limits != before.limits);
        if !(scopes || tier || end || limits) {
            return Ok(());
        }
        let app = self.app_of_any(after.app).await?;
        if scopes {
            check_granted(&app, &after.scopes)?;
        }
        if tier || limits {
            let tier = after.tier.as_deref().or(app.tier.as_deref());
            self.check_own_limits(tier, after.limits.as_deref())?;
        }
        // A key that is past its policy may still be told to end soon.
        if tier || is_later(after.expires_at, before.expires_at) {
            let policy = self.policy(&app, after.tier.as_deref());
            policy.check(after.expires_at, after.created_at)?;
        }
        Ok(())
    }

    /// Revokes a key, for good. A key that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Forbidden`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::Conflict`],
    /// [`RegistryError::NotDurable`] and [`RegistryError::Store`]. After the last, the key may or may
    /// not be revoked: ask again.
    pub async fn revoke_key(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        expected.carry_out(|| self.try_revoke_key(by, id, reason, expected)).await
    }

    async fn try_revoke_key(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        // The same call again, after it may have been lost, finds the key at another version.
        let before = self.key_to_change(by, id, &Expected::Any).await?;
        if matches!(before.status, KeyStatus::Revoked { .. }) {
            self.settle().await?;
            return Ok(before);
        }
        expected.check(before.version)?;
        let reason = reason.map(ToOwned::to_owned);
        let status = KeyStatus::Revoked { at: self.now(), reason: reason.clone() };
        let after = Key { status, ..before.clone() };
        let revoked = self.update(by, &before, after, "key.revoke", reason).await;
        if matches!(revoked, Ok(_) | Err(RegistryError::NotDurable { .. })) {
            self.parts.metrics.revoked();
        }
        revoked
    }

    pub(super) async fn update(
        &self,
        by: &Actor,
        before: &Key,
        after: Key,
        action: &str,
        reason: Option<String>,
    ) -> Result<Key, RegistryError> {
        let live_max = self.config().keys.keys_max_live;
        self.update_within(by, before, after, action, reason, live_max).await
    }

    /// The same, under another cap than the configuration's.
    pub(super) async fn update_within(
        &self,
        by: &Actor,
        before: &Key,
        mut after: Key,
        action: &str,
        reason: Option<String>,
        live_max: u32,
    ) -> Result<Key, RegistryError> {
        let now = self.now();
        after.updated_at = now;
        let changes = changes(Some(before), &after);
        let audit = AuditEntry { reason, changes, ..entry(by, now, action, &after) };
        let write = Write::UpdateKey { key: after.clone(), live_max, now };
        let committed = self.commit(write, audit).await;
        self.or_whom_to_retire(after.app, committed).await?;
        after.version = after.version.next();
        Ok(after)
    }
}

/// No end is later than any.
fn is_later(end: Option<UnixMillis>, before: Option<UnixMillis>) -> bool {
    match (end, before) {
        (Some(end), Some(before)) => before < end,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

fn changed(before: &Key, change: &KeyChange) -> Result<Key, RegistryError> {
    let mut key = before.clone();
    let KeyChange {
        name,
        owner,
        purpose,
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
    key.owner = owner.unwrap_or(key.owner);
    key.purpose = purpose.unwrap_or(key.purpose);
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
