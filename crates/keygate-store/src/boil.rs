//! Boils a key, its app and its account down to what a decision needs, once per load, so that a
//! request neither computes nor allocates.

use keygate_core::network::Networks;
use keygate_core::record::Identity;
use keygate_core::{KeyRecord, ScopeSet, Standing};

use crate::records::{AccountStatus, AppStatus, KeyStatus, OwnedKey};

/// The decision's view of a key. `read_at` is the number of the newest change that it reflects.
pub(crate) fn boil(owned: OwnedKey, read_at: u64) -> KeyRecord {
    let standing = standing(&owned);
    let OwnedKey { key, app, account } = owned;
    let scopes = ScopeSet::new(&key.scopes).intersection(&ScopeSet::new(&app.granted_scopes));
    let identity = Identity::new(key.id, app.id, account.id, &scopes);
    KeyRecord {
        id: key.id,
        app: app.id,
        account: account.id,
        kind: key.kind,
        environment: key.environment,
        standing,
        expires_at: key.expires_at,
        scopes,
        key_networks: Networks::new(key.allowed_cidrs),
        app_networks: Networks::new(app.allowed_cidrs),
        origins: key
            .allowed_origins
            .into_iter()
            .map(|origin| origin.to_ascii_lowercase().into_boxed_str())
            .collect(),
        tier: key.tier.or(app.tier).map(String::into_boxed_str),
        overrides: None,
        meter: Default::default(),
        read_at,
        identity,
    }
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
