//! How a key's own limits change, what keys have used of theirs, and how that is forgotten. What limits are, and who counts,
//! is the limiter's to know.

use keygate_core::KeyId;
use keygate_core::limit::Rate;
use keygate_core::limit::overrides::Parts;
use keygate_core::limit::policy::{Few, Use};
use keygate_core::limit::terms::{Limits, Overrides, Party, RateLimit, Share, Terms};
use keygate_store::keys::{KeyStore, Write};
use keygate_store::records::{AuditEntry, Key, KeyStatus};

use super::keys::entry;
use super::{Actor, Expected, Registry, RegistryError};

/// What to change about a key's own limits.
#[derive(Clone, Debug)]
pub enum LimitsChange {
    /// All is as its tier says.
    TakeAway,
    Merge(LimitsMerge),
}

/// What is absent stays. `Some(None)` is as the key's tier says again.
#[derive(Clone, Debug, Default)]
pub struct LimitsMerge {
    /// A new rate without a burst has a second's worth of it, whatever the burst was.
    pub rate: Option<Option<Rate>>,
    /// `Some(None)` is a second's worth of the rate.
    pub burst: Option<Option<u64>>,
    pub quotas: Option<Option<Vec<Rate>>>,
    pub concurrency: Option<Option<u64>>,
}

impl LimitsChange {
    /// What a key has of its own that had this before.
    ///
    /// # Errors
    /// [`RegistryError::InvalidLimits`].
    pub(super) fn applied_to(
        self,
        before: Option<&Overrides>,
    ) -> Result<Option<Box<Overrides>>, RegistryError> {
        let Self::Merge(LimitsMerge { rate, burst, quotas, concurrency }) = self else {
            return Ok(None);
        };
        let had = before.cloned().unwrap_or_default();
        let had_rate = had.rate.as_ref();
        // The burst of another rate means nothing to this one.
        let had_burst = had_rate.filter(|_| rate.is_none()).map(RateLimit::burst);
        let parts = Parts {
            rate: rate.unwrap_or_else(|| had_rate.map(RateLimit::rate)),
            burst: burst.unwrap_or(had_burst),
            quotas: quotas.unwrap_or_else(|| had.quotas.as_ref().map(|all| all.to_vec())),
            concurrency: concurrency.unwrap_or(had.concurrency),
        };
        let overrides = Overrides::from_parts(parts).map_err(RegistryError::InvalidLimits)?;
        Ok(overrides.map(Box::new))
    }
}

impl<S: KeyStore> Registry<S> {
    /// How much of each of its limits a key has used, together with those who share them, in the
    /// whole fleet. Nothing of a key without limits.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] (the app) and [`RegistryError::Store`].
    pub async fn current_use(&self, key: &Key) -> Result<Few<Use>, RegistryError> {
        match Terms::of(self.tier_limits(key).await?.as_ref(), key.limits.as_deref()) {
            Some(terms) => Ok(self.parts.limiter.uses(party(key, &terms), &terms).await?),
            None => Ok(Few::default()),
        }
    }

    /// Forgets what a key has used of its limits, and with it all who share them. Requests that run
    /// go on to count as running.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Forbidden`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::KeyRevoked`],
    /// [`RegistryError::NoLimits`], [`RegistryError::Conflict`], [`RegistryError::NotDurable`] and [`RegistryError::Store`]. After
    /// each of the last two, it may be in the log and not done: ask again.
    pub async fn reset_limits(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<Key, RegistryError> {
        let attempt = || self.log_reset(by, id, reason, expected);
        let (mut key, tier) = expected.carry_out(attempt).await?;
        if let Some(terms) = Terms::of(tier.as_ref(), key.limits.as_deref()) {
            self.parts.limiter.reset(party(&key, &terms), &terms).await?;
        }
        key.version = key.version.next();
        Ok(key)
    }

    /// First, so that nothing is reset that the log does not know of. The record is written as it is:
    /// an entry has its place among the changes only with one. Returns the limits of the key's tier.
    async fn log_reset(
        &self,
        by: &Actor,
        id: KeyId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<(Key, Option<Limits>), RegistryError> {
        let key = self.key_to_change(by, id, expected).await?;
        if matches!(key.status, KeyStatus::Revoked { .. }) {
            return Err(RegistryError::KeyRevoked);
        }
        let tier = self.tier_limits(&key).await?;
        if Terms::of(tier.as_ref(), key.limits.as_deref()).is_none() {
            return Err(RegistryError::NoLimits);
        }
        let now = self.now();
        let reason = reason.map(ToOwned::to_owned);
        let audit = AuditEntry { reason, ..entry(by, now, "key.limits.reset", &key) };
        let live_max = self.config().keys.keys_max_live;
        let write = Write::UpdateKey { key: key.clone(), live_max, now };
        self.commit(write, audit).await?;
        Ok((key, tier))
    }

    /// All who share counters are under the same limits, so none of them has limits of its own.
    ///
    /// # Errors
    /// [`RegistryError::SharedTier`].
    pub(super) fn check_own_limits(
        &self,
        tier: Option<&str>,
        limits: Option<&Overrides>,
    ) -> Result<(), RegistryError> {
        let (Some(tier), Some(_)) = (tier, limits) else { return Ok(()) };
        match self.config().tier(tier).map(|limits| limits.share) {
            Some(Share::App | Share::Account) => {
                Err(RegistryError::SharedTier { tier: tier.to_owned() })
            }
            Some(Share::Key) | None => Ok(()),
        }
    }

    /// The key's tier, or its app's.
    async fn tier_of(&self, key: &Key) -> Result<Option<String>, RegistryError> {
        match &key.tier {
            Some(tier) => Ok(Some(tier.clone())),
            None => Ok(self.app_of_any(key.app).await?.tier),
        }
    }

    /// The limits of the key's tier. One that the configuration does not have limits nothing.
    async fn tier_limits(&self, key: &Key) -> Result<Option<Limits>, RegistryError> {
        let tier = self.tier_of(key).await?;
        Ok(tier.and_then(|tier| self.config().tier(&tier).cloned()))
    }
}

fn party(key: &Key, terms: &Terms<'_>) -> Party {
    Party::of(terms, key.id, key.app, key.account)
}
