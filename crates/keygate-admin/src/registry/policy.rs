//! How old keys may get: the shorter of what their tier and their app say.

use std::time::Duration;

use keygate_core::UnixMillis;
use keygate_store::keys::KeyStore;
use keygate_store::records::{App, Key};

use super::{Registry, RegistryError};

/// How old keys of one app and tier may get; nothing if as old as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    max_age: Option<Duration>,
}

impl<S: KeyStore> Registry<S> {
    /// The policy for keys of this app that name this tier, or none and so are in their app's.
    pub(super) fn policy(&self, app: &App, tier: Option<&str>) -> Policy {
        let config = self.config();
        let tier = tier.or(app.tier.as_deref()).and_then(|tier| config.tier_max_age(tier));
        Policy { max_age: tier.into_iter().chain(app.max_age).min() }
    }
}

impl Policy {
    /// When a key that was made then has to end.
    fn latest(self, created_at: UnixMillis) -> Option<UnixMillis> {
        self.max_age.map(|age| created_at.saturating_add(age))
    }

    /// The end of a key that is made at `now` and is to end at `wanted`.
    ///
    /// # Errors
    /// [`RegistryError::BeyondMaxAge`].
    pub(super) fn end_of_new(
        self,
        wanted: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, RegistryError> {
        match wanted {
            None => Ok(self.latest(now)),
            Some(_) => self.check(wanted, now).map(|()| wanted),
        }
    }

    /// The end of a key that takes the place of one which was to live so long. Nobody chose the moment,
    /// so it gives way to the policy.
    pub(super) fn end_of_successor(
        self,
        lifetime: Option<Duration>,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let wanted = lifetime.map(|span| now.saturating_add(span));
        wanted.into_iter().chain(self.latest(now)).min()
    }

    /// # Errors
    /// [`RegistryError::BeyondMaxAge`]: a key that was made then may not end so late, or never.
    pub(super) fn check(
        self,
        end: Option<UnixMillis>,
        created_at: UnixMillis,
    ) -> Result<(), RegistryError> {
        match (self.latest(created_at), self.max_age) {
            (Some(latest), Some(max_age)) if end.is_none_or(|end| latest < end) => {
                Err(RegistryError::BeyondMaxAge { latest, max_age })
            }
            _ => Ok(()),
        }
    }

    /// Whether a key is live although it is as old as it may get: it was made before there was such a
    /// policy.
    pub(super) fn is_past(self, key: &Key, now: UnixMillis) -> bool {
        now.0 < key.works_until() && self.latest(key.created_at).is_some_and(|latest| latest <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: UnixMillis = UnixMillis(1_893_456_000_000);

    fn after(days: u32) -> UnixMillis {
        NOW.saturating_add(DAY * days)
    }

    #[test]
    fn without_a_policy_a_key_may_end_whenever() {
        let policy = Policy { max_age: None };
        assert_eq!(policy.end_of_new(None, NOW).ok(), Some(None));
        assert_eq!(policy.end_of_new(Some(after(9_999)), NOW).ok(), Some(Some(after(9_999))));
        assert_eq!(policy.end_of_successor(None, NOW), None);
        assert_eq!(policy.end_of_successor(Some(DAY), NOW), Some(after(1)));
    }

    #[test]
    fn a_new_key_ends_in_time_and_one_that_would_not_is_refused() {
        let policy = Policy { max_age: Some(DAY * 90) };
        assert_eq!(policy.end_of_new(None, NOW).ok(), Some(Some(after(90))));
        assert_eq!(policy.end_of_new(Some(after(90)), NOW).ok(), Some(Some(after(90))));
        let late = policy.end_of_new(Some(UnixMillis(after(90).0 + 1)), NOW);
        let Err(RegistryError::BeyondMaxAge { latest, .. }) = late else { panic!("{late:?}") };
        assert_eq!(latest, after(90));
        assert!(policy.check(None, NOW).is_err(), "never is later than any end");
    }

    #[test]
    fn a_successor_lives_as_long_as_its_predecessor_was_to_and_no_longer_than_it_may() {
        let policy = Policy { max_age: Some(DAY * 90) };
        assert_eq!(policy.end_of_successor(Some(DAY * 30), NOW), Some(after(30)));
        assert_eq!(policy.end_of_successor(Some(DAY * 365), NOW), Some(after(90)));
        assert_eq!(policy.end_of_successor(None, NOW), Some(after(90)));
    }
}
