//! Boils a key, its app and its account down to what a decision needs, once per load, so that a
//! request neither computes nor allocates.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use keygate_core::network::Networks;
use keygate_core::record::{Bounds, kept_hint};
use keygate_core::{KeyRecord, ScopeSet, Standing};

use crate::records::{AccountStatus, AppStatus, KeyStatus, OwnedKey};

/// The decision's view of a key. `read_at` is the number of the newest change that it reflects.
pub(crate) fn boil(owned: OwnedKey, read_at: u64) -> KeyRecord {
    let standing = standing(&owned);
    let OwnedKey { key, app, account } = owned;
    let scopes = ScopeSet::new(&key.scopes).intersection(&ScopeSet::new(&app.granted_scopes));
    let origins = key.allowed_origins.into_iter();
    let bounds = Bounds {
        key_networks: Networks::new(key.allowed_cidrs),
        app_networks: Networks::new(app.allowed_cidrs),
        origins: origins.map(|origin| origin.to_ascii_lowercase().into_boxed_str()).collect(),
        overrides: key.limits,
    };
    KeyRecord {
        id: key.id,
        app: app.id,
        account: account.id,
        kind: key.kind,
        environment: key.environment,
        standing,
        expires_at: key.expires_at,
        scopes: scopes.shared(shared),
        bounds: bounds.boxed(),
        tier: key.tier.or(app.tier).map(|tier| shared(tier.into())),
        is_imported: key.pepper.is_none(),
        meter: Default::default(),
        slots: Default::default(),
        read_at,
        hint: kept_hint(&key.hint),
    }
}

/// The most texts that keys have in common and that are kept for the next of them.
const SHARED_MAX: usize = 4_096;

/// A text as another key has it already, if one does: of the tiers' names and the sets of scopes that
/// a million keys have there are few, so that a request finds them in the processor's cache.
fn shared(text: Arc<str>) -> Arc<str> {
    static KEPT: LazyLock<Mutex<HashSet<Arc<str>>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = kept.get(&*text) {
        return Arc::clone(text);
    }
    if kept.len() >= SHARED_MAX {
        // Those that are in use live on with their keys.
        kept.clear();
    }
    kept.insert(Arc::clone(&text));
    text
}

/// The key's own state is named first: it is the one that its owner can do something about.
fn standing(owned: &OwnedKey) -> Standing {
    match (&owned.key.status, owned.app.status, owned.account.status) {
        (KeyStatus::Revoked { .. }, _, _) => Standing::KeyRevoked,
        (KeyStatus::Disabled, _, _) => Standing::KeyDisabled,
        (KeyStatus::Active, AppStatus::Disabled, _) => Standing::AppDisabled,
        (KeyStatus::Active, AppStatus::Active, AccountStatus::Suspended) => {
            Standing::AccountSuspended
        }
        (KeyStatus::Active, AppStatus::Active, AccountStatus::Active) => Standing::Active,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{App, Key};
    use crate::testing::{account, app, key, limits};

    #[test]
    fn a_keys_own_tier_and_limits_come_first_and_its_apps_tier_else() {
        let account = account(1);
        let app = App { tier: Some("app's".to_owned()), ..app(1, &account) };
        let boiled =
            |key: Key| boil(OwnedKey { key, app: app.clone(), account: account.clone() }, 1);
        let plain = boiled(key(1, &app));
        assert_eq!((plain.tier.as_deref(), plain.overrides()), (Some("app's"), None));
        let own = Key { tier: Some("own".to_owned()), limits: limits(), ..key(1, &app) };
        let own = boiled(own);
        assert_eq!((own.tier.as_deref(), own.overrides()), (Some("own"), limits().as_deref()));
    }

    #[test]
    fn keys_share_the_texts_that_they_have_alike() {
        let account = account(1);
        let app = app(1, &account);
        let boiled = |n| {
            let key = Key { tier: Some("gold".to_owned()), ..key(n, &app) };
            boil(OwnedKey { key, app: app.clone(), account: account.clone() }, 1)
        };
        let (first, second) = (boiled(1), boiled(2));
        assert!(std::ptr::eq(first.scopes.as_str(), second.scopes.as_str()));
        assert!(Arc::ptr_eq(&first.tier.unwrap(), &second.tier.unwrap()));
    }

    #[test]
    fn no_more_than_so_many_texts_are_kept() {
        let text = |n| shared(format!("text {n}").into());
        let first = text(0);
        for n in 0..=SHARED_MAX {
            assert_eq!(*text(n), format!("text {n}"));
        }
        assert_eq!((*first).to_owned(), "text 0");
        assert_eq!(Arc::strong_count(&first), 1, "it was let go");
    }
}
