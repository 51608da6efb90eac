//! The decision: a route's policy, a key's record, a caller and the time make a permit or a denial.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::key::KeyKind;
use crate::limit::policy::Over;
use crate::problem::Code;
use crate::record::{KeyRecord, Standing};
use crate::route::KeyAccess;
use crate::time::UnixMillis;

/// Who sends the request, apart from the key.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub address: IpAddr,
    /// The `Origin` header, as sent.
    pub origin: Option<&'a str>,
}

/// Decides whether a known key may use a route now: steps 6 to 10 of a request's way.
///
/// # Errors
/// The first reason to refuse, in that order.
pub fn decide(
    access: &KeyAccess,
    key: Arc<KeyRecord>,
    caller: Caller<'_>,
    now: UnixMillis,
) -> Result<Permit, Denial> {
    check_standing(&key)?;
    check_expiry(&key, now)?;
    if access.environment != key.environment {
        return Err(Denial::EnvironmentMismatch);
    }
    check_caller(&key, caller)?;
    if !access.scopes.are_met_by(&key.scopes) {
        return Err(Denial::PermissionDenied);
    }
    Ok(Permit { key: Some(key) })
}

fn check_standing(key: &KeyRecord) -> Result<(), Denial> {
    match key.standing {
        Standing::Active => Ok(()),
        Standing::KeyRevoked => Err(Denial::KeyRevoked),
        Standing::KeyDisabled => Err(Denial::KeyDisabled),
        Standing::AppDisabled => Err(Denial::AppDisabled),
        Standing::AccountSuspended => Err(Denial::AccountSuspended),
    }
}

fn check_expiry(key: &KeyRecord, now: UnixMillis) -> Result<(), Denial> {
    match key.expires_at {
        Some(end) if now >= end => Err(Denial::KeyExpired),
        Some(_) | None => Ok(()),
    }
}

fn check_caller(key: &KeyRecord, caller: Caller<'_>) -> Result<(), Denial> {
    if !key.key_networks.allows(caller.address) || !key.app_networks.allows(caller.address) {
        return Err(Denial::IpNotAllowed);
    }
    let bound_to_origins = key.kind == KeyKind::Publishable && !key.origins.is_empty();
    let from_allowed_origin = || {
        caller.origin.is_some_and(|origin| {
            key.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        })
    };
    if bound_to_origins && !from_allowed_origin() {
        return Err(Denial::OriginNotAllowed);
    }
    Ok(())
}

/// Checks a key on its own, without a route: is it one that could be used at all?
///
/// # Errors
/// The first of steps 6 and 7 that refuses.
pub fn decide_key(key: &KeyRecord, now: UnixMillis) -> Result<(), Denial> {
    check_standing(key)?;
    check_expiry(key, now)
}

/// Proof that a request was admitted. Forwarding takes one, and only this module makes them:
///
/// ```compile_fail
/// let forged = keygate_core::Permit { key: None };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    key: Option<Arc<KeyRecord>>,
}

impl Permit {
    /// Admits a request without a key. Only a route that says `auth = "public"` can ask for it.
    pub(crate) fn public() -> Self {
        Self { key: None }
    }

    /// Who calls; nobody in particular on a public route.
    #[must_use]
    pub fn key(&self) -> Option<&KeyRecord> {
        self.key.as_deref()
    }

    /// The same, for whoever keeps it.
    #[must_use]
    pub fn record(&self) -> Option<&Arc<KeyRecord>> {
        self.key.as_ref()
    }
}

/// Why a request is refused before it reaches an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    BadRequest(&'static str),
    AmbiguousPath(&'static str),
    RouteNotFound,
    /// Holds the value of `Allow`.
    MethodNotAllowed(Arc<str>),
    HeadersTooLarge,
    PayloadTooLarge,
    TooManyFailures {
        retry_after: Duration,
    },
    KeyMissing,
    AmbiguousCredentials,
    KeyMalformed,
    KeyUnknown,
    KeyRevoked,
    KeyDisabled,
    AppDisabled,
    AccountSuspended,
    KeyStoreUnavailable {
        retry_after: Duration,
    },
    KeyExpired,
    EnvironmentMismatch,
    IpNotAllowed,
    OriginNotAllowed,
    PermissionDenied,
    OverLimit(Over),
}

impl Denial {
    /// The published code: what the client is told, and what the metrics count.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) => Code::BadRequest,
            Self::AmbiguousPath(_) => Code::AmbiguousPath,
            Self::RouteNotFound => Code::RouteNotFound,
            Self::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Self::HeadersTooLarge => Code::HeadersTooLarge,
            Self::PayloadTooLarge => Code::PayloadTooLarge,
            Self::TooManyFailures { .. } => Code::TooManyFailures,
            Self::KeyMissing => Code::ApiKeyMissing,
            Self::AmbiguousCredentials => Code::AmbiguousCredentials,
            // One answer for all of these: a caller must not learn which keys once existed.
            Self::KeyMalformed
            | Self::KeyUnknown
            | Self::KeyRevoked
            | Self::KeyDisabled
            | Self::AppDisabled
            | Self::AccountSuspended => Code::ApiKeyInvalid,
            Self::KeyStoreUnavailable { .. } => Code::KeyStoreUnavailable,
            Self::KeyExpired => Code::ApiKeyExpired,
            Self::EnvironmentMismatch => Code::EnvironmentMismatch,
            Self::IpNotAllowed => Code::IpNotAllowed,
            Self::OriginNotAllowed => Code::OriginNotAllowed,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::OverLimit(over) => over.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{AccountId, AppId, KeyId};
    use crate::key::Environment;
    use crate::network::Networks;
    use crate::record::Identity;
    use crate::scope::{RequiredScopes, Scope, ScopeSet};

    const NOW: UnixMillis = UnixMillis(1_000);

    fn record() -> KeyRecord {
        let (id, app, account) =
            (KeyId::new(NOW, [1; 10]), AppId::new(NOW, [1; 10]), AccountId::new(NOW, [1; 10]));
        let scopes = ScopeSet::new(&["read:orders".parse().unwrap()]);
        KeyRecord {
            identity: Identity::new(id, app, account, &scopes),
            id,
            app,
            account,
            kind: KeyKind::Secret,
            environment: Environment::Live,
            standing: Standing::Active,
            expires_at: None,
            scopes,
            key_networks: Networks::default(),
            app_networks: Networks::default(),
            origins: Box::default(),
            tier: None,
            overrides: None,
            meter: Default::default(),
            read_at: 0,
        }
    }

    fn access(scopes: &[&str]) -> KeyAccess {
        let all: Vec<Scope> = scopes.iter().map(|text| text.parse().unwrap()).collect();
        KeyAccess {
            environment: Environment::Live,
            scopes: RequiredScopes { all, any: vec![] },
            query_param: None,
            cost: 1,
        }
    }

    fn caller(origin: Option<&str>) -> Caller<'_> {
        Caller { address: "192.0.2.1".parse().unwrap(), origin }
    }

    fn check(change: impl FnOnce(&mut KeyRecord), expect: Result<(), Denial>) {
        check_from(None, change, expect);
    }

    fn check_from(
        origin: Option<&str>,
        change: impl FnOnce(&mut KeyRecord),
        expect: Result<(), Denial>,
    ) {
        let mut key = record();
        change(&mut key);
        let decided = decide(&access(&["read:orders"]), Arc::new(key), caller(origin), NOW);
        assert_eq!(decided.map(|_| ()), expect);
    }

    #[test]
    fn a_good_key_is_admitted() {
        check(|_| {}, Ok(()));
    }

    #[test]
    fn a_key_without_standing_is_refused_before_anything_else() {
        let revoke = |key: &mut KeyRecord| {
            key.standing = Standing::KeyRevoked;
            key.expires_at = Some(UnixMillis(1));
            key.environment = Environment::Test;
        };
        check(revoke, Err(Denial::KeyRevoked));
        check(|key| key.standing = Standing::KeyDisabled, Err(Denial::KeyDisabled));
        check(|key| key.standing = Standing::AppDisabled, Err(Denial::AppDisabled));
        check(|key| key.standing = Standing::AccountSuspended, Err(Denial::AccountSuspended));
    }

    #[test]
    fn a_key_expires_at_its_millisecond() {
        check(|key| key.expires_at = Some(UnixMillis(1_001)), Ok(()));
        check(|key| key.expires_at = Some(UnixMillis(1_000)), Err(Denial::KeyExpired));
    }

    #[test]
    fn a_test_key_cannot_touch_a_live_route() {
        check(|key| key.environment = Environment::Test, Err(Denial::EnvironmentMismatch));
    }

    #[test]
    fn the_lists_of_key_and_app_must_both_allow_the_address() {
        let yes = || Networks::new(vec!["192.0.2.0/24".parse().unwrap()]);
        let no = || Networks::new(vec!["198.51.100.0/24".parse().unwrap()]);
        let lists = |key_list, app_list| {
            move |key: &mut KeyRecord| {
                key.key_networks = key_list;
                key.app_networks = app_list;
            }
        };
        check(lists(yes(), yes()), Ok(()));
        check(lists(no(), yes()), Err(Denial::IpNotAllowed));
        check(lists(yes(), no()), Err(Denial::IpNotAllowed));
    }

    #[test]
    fn a_publishable_key_bound_to_origins_needs_one_of_them() {
        let bind = |kind| {
            move |key: &mut KeyRecord| {
                key.kind = kind;
                key.origins = Box::new(["https://shop.example".into()]);
            }
        };
        let publishable = KeyKind::Publishable;
        check_from(Some("https://shop.example"), bind(publishable), Ok(()));
        check_from(Some("https://evil.example"), bind(publishable), Err(Denial::OriginNotAllowed));
        check_from(None, bind(publishable), Err(Denial::OriginNotAllowed));
        check_from(Some("https://evil.example"), bind(KeyKind::Secret), Ok(()));
    }

    #[test]
    fn a_missing_scope_is_refused() {
        check(|key| key.scopes = ScopeSet::default(), Err(Denial::PermissionDenied));
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        prop::sample::select(vec![
            Standing::Active,
            Standing::KeyRevoked,
            Standing::KeyDisabled,
            Standing::AppDisabled,
            Standing::AccountSuspended,
        ])
    }

    proptest! {
        /// Whatever else is true of it, a key that is revoked, expired, of the other environment
        /// or out of scope is never admitted.
        #[test]
        fn never_admits_what_must_be_refused(
            standing in any_standing(),
            expires_at in prop::option::of(0u64..2_000),
            live: bool,
            scoped: bool,
        ) {
            let mut key = record();
            key.standing = standing;
            key.expires_at = expires_at.map(UnixMillis);
            key.environment = if live { Environment::Live } else { Environment::Test };
            if !scoped {
                key.scopes = ScopeSet::new(&["read:other".parse().unwrap()]);
            }
            let good = standing == Standing::Active
                && expires_at.is_none_or(|end| end > NOW.0)
                && live
                && scoped;
            let decided = decide(&access(&["read:orders"]), Arc::new(key), caller(None), NOW);
            prop_assert_eq!(decided.is_ok(), good);
        }
    }
}
