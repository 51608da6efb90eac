//! What a decision comes to.

use proptest::prelude::*;

use super::*;
use crate::id::{AccountId, AppId, KeyId};
use crate::key::Environment;
use crate::key::KeyKind;
use crate::network::Networks;
use crate::record::Bounds;
use crate::scope::{RequiredScopes, Scope, ScopeSet};

pub(crate) const NOW: UnixMillis = UnixMillis(1_000);

pub(crate) fn record() -> KeyRecord {
    let (id, app, account) =
        (KeyId::new(NOW, [1; 10]), AppId::new(NOW, [1; 10]), AccountId::new(NOW, [1; 10]));
    let scopes = ScopeSet::new(&["read:orders".parse().unwrap()]);
    KeyRecord {
        hint: "sk_live_abcd".into(),
        id,
        app,
        account,
        kind: KeyKind::Secret,
        environment: Environment::Live,
        standing: Standing::Active,
        expires_at: None,
        scopes,
        bounds: None,
        tier: None,
        is_imported: false,
        meter: Default::default(),
        slots: Default::default(),
        read_at: 0,
    }
}

pub(crate) fn access(scopes: &[&str]) -> KeyAccess {
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
    assert_eq!(decided.map(|_| ()).map_err(|refused| refused.denial), expect);
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
            let (key_networks, app_networks) = (key_list, app_list);
            key.bounds = Bounds { key_networks, app_networks, ..Bounds::default() }.boxed();
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
            let origins: Box<[Box<str>]> = Box::new(["https://shop.example".into()]);
            key.bounds = Bounds { origins, ..Bounds::default() }.boxed();
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

/// A key in any state, bound to anything or nothing.
pub(crate) fn any_key() -> impl Strategy<Value = KeyRecord> {
    let kinds = vec![KeyKind::Secret, KeyKind::Publishable, KeyKind::Restricted];
    let scopes = vec![vec![], vec!["read:orders"], vec!["admin:x"], vec!["read:*", "write:*"]];
    let networks = vec![vec![], vec!["192.0.2.0/24"], vec!["10.0.0.0/8", "2001:db8::/32"]];
    let networks = || prop::sample::select(networks.clone());
    (
        prop_oneof![4 => Just(Standing::Active), 1 => any_standing()],
        prop::option::of(500u64..2_000),
        prop::sample::select(kinds),
        prop::sample::select(scopes),
        (networks(), networks()),
        prop::bool::weighted(0.8),
        any::<bool>(),
    )
        .prop_map(|(standing, end, kind, scopes, networks, is_live, is_bound)| {
            let parse = |texts: Vec<&str>| {
                Networks::new(texts.into_iter().map(|text| text.parse().unwrap()).collect())
            };
            let scopes: Vec<Scope> = scopes.into_iter().map(|text| text.parse().unwrap()).collect();
            KeyRecord {
                standing,
                expires_at: end.map(UnixMillis),
                kind,
                scopes: ScopeSet::new(&scopes),
                bounds: Bounds {
                    key_networks: parse(networks.0),
                    app_networks: parse(networks.1),
                    origins: is_bound.then(|| "https://shop.example".into()).into_iter().collect(),
                    overrides: None,
                }
                .boxed(),
                environment: if is_live { Environment::Live } else { Environment::Test },
                ..record()
            }
        })
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
