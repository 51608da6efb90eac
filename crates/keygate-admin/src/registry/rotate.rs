//! Puts a new key in the place of an old one, which goes on working until the overlap ends.

use std::time::Duration;

use keygate_core::key::ENTROPY_LENGTH;
use keygate_core::{KeyId, UnixMillis};
use keygate_store::keys::{KeyStore, Write};
use keygate_store::records::{AuditEntry, Key, KeyStatus, Version, changes};
use zeroize::Zeroizing;

use super::idempotency::Making;
use super::keys::{TakenBack, entry};
use super::{
    Actor, Asked, CreatedKey, Expected, Made, Registry, RegistryError, random, to_its_end,
    unopposed,
};

/// How long the old key goes on working, unless something else is said.
pub const OVERLAP_DEFAULT: Duration = Duration::from_secs(86_400);
pub const OVERLAP_MAX: Duration = Duration::from_secs(90 * 86_400);

/// Why a key is as it was before it was rotated.
const NEVER_SHOWN: &str = "its successor was never shown: the write was not durable";

impl<S: KeyStore> Registry<S> {
    /// Makes a successor of a key, with all that the key may do and is, and lets the key end after
    /// `overlap`. The successor is to live as long as the key was made to. Goes on to its end even if
    /// the caller stops waiting, which leaves a successor that nobody knows; it is listed and audited.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Forbidden`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::KeyRevoked`],
    /// [`RegistryError::KeyRotated`], [`RegistryError::KeyNotActive`],
    /// [`RegistryError::TooManyLiveKeys`], [`RegistryError::RequestReused`],
    /// [`RegistryError::NeverShown`], [`RegistryError::Conflict`], [`RegistryError::NotDurable`],
    /// [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn rotate_key(
        &self,
        by: &Actor,
        id: KeyId,
        overlap: Duration,
        expected: &Expected,
        asked: Option<&Asked>,
    ) -> Result<CreatedKey, RegistryError> {
        let (registry, by, expected) = (self.clone(), by.clone(), expected.clone());
        let asked = asked.copied();
        to_its_end(async move {
            let asked = asked.as_ref();
            let attempt = || registry.try_rotate_key(&by, id, overlap, &expected, asked);
            let outcome = expected.carry_out(attempt).await;
            let created = registry.or_before(asked, outcome, CreatedKey::replayed).await?;
            registry.shown(created).await
        })
        .await
    }

    async fn try_rotate_key(
        &self,
        by: &Actor,
        id: KeyId,
        overlap: Duration,
        expected: &Expected,
        asked: Option<&Asked>,
    ) -> Result<CreatedKey, RegistryError> {
        let before = self.key_to_change(by, id, expected).await?;
        let now = self.now();
        check_rotatable(&before, now)?;
        let app = self.app_of_any(before.app).await?;
        let lifetime = before.expires_at.map(|end| since(before.created_at, end));
        let end = self.policy(&app, before.tier.as_deref()).end_of_successor(lifetime, now);
        let entropy = Zeroizing::new(random::<ENTROPY_LENGTH>()?);
        let minted = self.mint(before.kind, before.environment, &entropy).await?;
        let new = Key {
            id: KeyId::new(now, random()?),
            digest: minted.digest,
            pepper: Some(minted.pepper),
            hint: minted.hint.clone(),
            expires_at: end,
            rotated_from: Some(before.id),
            created_at: now,
            updated_at: now,
            version: Version::default(),
            ..before.clone()
        };
        let old = retired(&before, new.id, now, overlap);
        let changes = changes(Some(&before), &old);
        let audit = AuditEntry { changes, ..entry(by, now, "key.rotate", &before) };
        let live_max = self.config().keys.keys_max_live;
        let write = Write::RotateKey { old: old.clone(), new: new.clone(), live_max, now };
        let making = self.make(write, audit, asked).await;
        match self.or_whom_to_retire(app.id, making).await {
            Ok(Making::Now) => {}
            Ok(Making::Before(record)) => return Ok(CreatedKey::replayed(record)),
            Err(RegistryError::NotDurable { made, replicas, wanted }) => {
                let made = match self.take_back(by, new.id).await {
                    TakenBack::Tried => {
                        self.count_rotated();
                        self.restore(by, &before, &old).await;
                        Made::Key
                    }
                    TakenBack::NotThere => made,
                };
                return Err(RegistryError::NotDurable { made, replicas, wanted });
            }
            Err(error) => return Err(error),
        }
        self.count_rotated();
        Ok(CreatedKey { record: new, key: Some(minted.reveal()) })
    }

    fn count_rotated(&self) {
        self.parts.metrics.created();
        self.parts.metrics.rotated();
    }

    /// Lets a key go on as before whose successor nobody was shown. `old` is what it became.
    async fn restore(&self, by: &Actor, before: &Key, old: &Key) {
        let attempt = || async {
            let rotated = self.key(by, before.id).await?;
            if rotated.rotated_to != old.rotated_to {
                return Ok(());
            }
            // An end that somebody has set since is meant.
            let is_ours = rotated.expires_at == old.expires_at;
            let expires_at = if is_ours { before.expires_at } else { rotated.expires_at };
            let after = Key { rotated_to: None, expires_at, ..rotated.clone() };
            let reason = Some(NEVER_SHOWN.to_owned());
            // It was there before, so it may be there again, even if the app has too many.
            let update = self.update_within(by, &rotated, after, "key.update", reason, u32::MAX);
            update.await.map(|_| ())
        };
        match unopposed(attempt).await {
            Ok(()) | Err(RegistryError::NotDurable { .. }) => {}
            Err(error) => {
                let id = before.id;
                tracing::warn!(%error, %id, "a key whose successor nobody was shown ends with its overlap");
            }
        }
    }
}

fn check_rotatable(key: &Key, now: UnixMillis) -> Result<(), RegistryError> {
    if matches!(key.status, KeyStatus::Revoked { .. }) {
        return Err(RegistryError::KeyRevoked);
    }
    if let Some(to) = key.rotated_to {
        return Err(RegistryError::KeyRotated { to });
    }
    if key.status == KeyStatus::Disabled {
        return Err(RegistryError::KeyNotActive { status: "disabled" });
    }
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(RegistryError::KeyNotActive { status: "expired" });
    }
    Ok(())
}

/// The key as it is from now on: it ends after the overlap, or earlier if it was to.
fn retired(before: &Key, successor: KeyId, now: UnixMillis, overlap: Duration) -> Key {
    let overlap_ends = now.saturating_add(overlap);
    let end = before.expires_at.map_or(overlap_ends, |end| end.min(overlap_ends));
    Key { expires_at: Some(end), rotated_to: Some(successor), updated_at: now, ..before.clone() }
}

fn since(start: UnixMillis, end: UnixMillis) -> Duration {
    Duration::from_millis(end.0.saturating_sub(start.0))
}
