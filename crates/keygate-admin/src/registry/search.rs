//! Finds keys among all that an actor sees. One call looks at so many and no more.

use std::time::Duration;

use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::{Key, KeyStatus};

use super::policy::Policy;
use super::walk::{Place, Walk, Within};
use super::{Actor, Registry, RegistryError};

/// The most records that one call looks at.
const LOOKED_AT_MAX: usize = 2_000;
/// A call that takes longer ends with what it has found.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Which keys are looked for.
#[derive(Clone, Debug)]
pub struct Search {
    pub within: Within,
    pub filter: KeyFilter,
    /// Where the search before this one ended.
    pub after: Option<Place>,
    /// The most keys to find.
    pub limit: usize,
}

/// What has to be so of a key. What is not said does not matter.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    pub account: Option<AccountId>,
    pub app: Option<AppId>,
    pub state: Option<KeyState>,
    pub environment: Option<Environment>,
    pub kind: Option<KeyKind>,
    /// What its hint begins with.
    pub hint: Option<String>,
    /// It is live, and ends before this.
    pub ends_before: Option<UnixMillis>,
    pub created_before: Option<UnixMillis>,
    /// It was last used before this, or never was although it was there.
    pub used_before: Option<UnixMillis>,
    pub past_policy: Option<bool>,
    pub imported: Option<bool>,
}

/// What a key is, in the order in which a decision would refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Disabled,
    Revoked,
    Expired,
}

/// Keys that were found, and where to look on.
#[derive(Debug)]
pub struct Found {
    pub keys: Vec<FoundKey>,
    /// Nothing if all was looked at.
    pub next: Option<Place>,
}

#[derive(Debug)]
pub struct FoundKey {
    pub key: Key,
    /// Nothing if it never was.
    pub last_used_at: Option<UnixMillis>,
}

impl KeyState {
    #[must_use]
    pub fn of(key: &Key, now: UnixMillis) -> Self {
        match key.status {
            KeyStatus::Revoked { .. } => Self::Revoked,
            KeyStatus::Disabled => Self::Disabled,
            KeyStatus::Active if key.expires_at.is_some_and(|end| end <= now) => Self::Expired,
            KeyStatus::Active => Self::Active,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl<S: KeyStore> Registry<S> {
    /// Keys that the actor sees. May find fewer than asked for, or none, and say where to look on.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn search(&self, by: &Actor, search: &Search) -> Result<Found, RegistryError> {
        let began = self.now();
        let mut walk = Walk::start(self, by, search.within, search.after).await?;
        let mut looked_at = 0;
        let mut found: Vec<Key> = Vec::new();
        // One more than is shown, to know whether there are more.
        while found.len() <= search.limit {
            let room = LOOKED_AT_MAX.saturating_sub(looked_at);
            // Never before the first step, or a slow store would be asked for the same for ever.
            let is_late = looked_at > 0 && began.saturating_add(TIME_MAX) < self.now();
            if room == 0 || is_late {
                return self.with_uses(found, walk.place()).await;
            }
            let Some(step) = walk.step(room).await? else {
                return self.with_uses(found, None).await;
            };
            looked_at += step.cost;
            let Some((app, mut keys)) = step.keys else { continue };
            keys.retain(|key| {
                search.filter.fits(key, self.policy(&app, key.tier.as_deref()), began)
            });
            found.extend(self.quiet(keys, search.filter.used_before).await?);
        }
        found.truncate(search.limit);
        let next = found.last().map(|key| Place {
            account: key.account,
            app: Some(key.app),
            key: Some(key.id),
        });
        self.with_uses(found, next).await
    }

    /// Those that have not been used since, if that matters.
    async fn quiet(
        &self,
        keys: Vec<Key>,
        since: Option<UnixMillis>,
    ) -> Result<Vec<Key>, RegistryError> {
        let Some(since) = since else { return Ok(keys) };
        let uses = self.last_used(&keys).await?;
        let quiet = keys.into_iter().zip(uses);
        let quiet = quiet.filter(|(key, used)| used.unwrap_or(key.created_at) < since);
        Ok(quiet.map(|(key, _)| key).collect())
    }

    async fn with_uses(&self, keys: Vec<Key>, next: Option<Place>) -> Result<Found, RegistryError> {
        let uses = self.last_used(&keys).await?;
        let keys = keys.into_iter().zip(uses);
        let keys = keys.map(|(key, last_used_at)| FoundKey { key, last_used_at }).collect();
        Ok(Found { keys, next })
    }

    async fn last_used(&self, keys: &[Key]) -> Result<Vec<Option<UnixMillis>>, RegistryError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let uses = self.store().last_used(ids).await?;
        let mut times: Vec<_> = uses.into_iter().map(|last| last.map(|last| last.at)).collect();
        times.resize(keys.len(), None);
        Ok(times)
    }
}

impl KeyFilter {
    fn fits(&self, key: &Key, policy: Policy, now: UnixMillis) -> bool {
        let ends_before = |latest| {
            let end = key.works_until();
            now.0 < end && key.expires_at.is_some() && end < latest
        };
        self.account.is_none_or(|account| key.account == account)
            && self.app.is_none_or(|app| key.app == app)
            && self.state.is_none_or(|state| KeyState::of(key, now) == state)
            && self.environment.is_none_or(|environment| key.environment == environment)
            && self.kind.is_none_or(|kind| key.kind == kind)
            && self.hint.as_ref().is_none_or(|hint| key.hint.starts_with(hint))
            && self.ends_before.is_none_or(|latest| ends_before(latest.0))
            && self.created_before.is_none_or(|latest| key.created_at < latest)
            && self.past_policy.is_none_or(|is_past| policy.is_past(key, now) == is_past)
            && self.imported.is_none_or(|imported| key.pepper.is_none() == imported)
    }
}
