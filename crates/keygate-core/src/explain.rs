//! Why a known key is let through or not: every check that [`decide`](crate::decide()) makes, with
//! what it looked at and what it found. The same checks from the same list, so that an explanation
//! cannot say otherwise than the decision. Texts for operators; none holds a secret.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;

use crate::decide::{Caller, Check, Denial};
use crate::network::Networks;
use crate::record::{KeyRecord, Standing};
use crate::route::KeyAccess;
use crate::scope::{RequiredScopes, Scope, ScopeSet};
use crate::time::UnixMillis;

/// A key, and what is known of the request that it is to come with.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    pub key: &'a KeyRecord,
    /// What the route asks for, if there is one.
    pub access: Option<&'a KeyAccess>,
    pub address: Option<IpAddr>,
    pub origin: Option<&'a str>,
    pub now: UnixMillis,
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    pub outcome: Outcome,
    /// What it looked at, in plain words.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail(Denial),
    /// What it has to look at is not known.
    Skip,
}

/// Makes every check, also those after one that fails.
#[must_use]
pub fn explain(situation: Situation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(()) = Check::each(|check| {
        findings.push(find(check, situation));
        Ok::<(), std::convert::Infallible>(())
    });
    findings
}

fn find(check: Check, situation: Situation<'_>) -> Finding {
    let Situation { key, access, address, origin, now } = situation;
    if let Some(missing) = missing(check, situation) {
        return Finding { check, outcome: Outcome::Skip, detail: missing.to_owned() };
    }
    // Where one of the two is not there, the check that is made does not look at it.
    let any = KeyAccess {
        environment: key.environment,
        scopes: RequiredScopes::default(),
        query_param: None,
        cost: 1,
    };
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let caller = Caller { address, origin };
    let outcome = match check.run(access.unwrap_or(&any), key, caller, now) {
        Ok(()) => Outcome::Pass,
        Err(denial) => Outcome::Fail(denial),
    };
    Finding { check, outcome, detail: detail(check, situation) }
}

/// Why a check cannot be made, if it cannot.
fn missing(check: Check, situation: Situation<'_>) -> Option<&'static str> {
    let Situation { key, access, address, .. } = situation;
    let is_bound = key
        .bounds
        .as_ref()
        .is_some_and(|bounds| !bounds.key_networks.is_empty() || !bounds.app_networks.is_empty());
    match check {
        Check::Environment | Check::Scopes if access.is_none() => Some("there is no route to meet"),
        Check::Network if is_bound && address.is_none() => {
            Some("the key is bound to networks: send `ip` to have it checked")
        }
        Check::Standing
        | Check::Expiry
        | Check::Environment
        | Check::Network
        | Check::Origin
        | Check::Scopes => None,
    }
}

fn detail(check: Check, situation: Situation<'_>) -> String {
    let Situation { key, access, address, origin, now } = situation;
    match check {
        Check::Standing => standing(key.standing).to_owned(),
        Check::Expiry => expiry(key.expires_at, now),
        Check::Environment => {
            let route = access.map_or("any", |access| access.environment.as_str());
            format!("the key is {}, the route is {route}", key.environment.as_str())
        }
        Check::Network => {
            let from = match address {
                Some(address) => address.to_canonical().to_string(),
                None => "any address".to_owned(),
            };
            let bounds = key.bounds.as_deref();
            let key = networks(bounds.map(|bounds| &bounds.key_networks));
            let app = networks(bounds.map(|bounds| &bounds.app_networks));
            format!("from {from}; the key allows {key}, its app {app}")
        }
        Check::Origin => origins(key, origin),
        Check::Scopes => access.map_or_else(String::new, |a| scopes(&a.scopes, &key.scopes)),
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "the key, its app and its account are active",
        Standing::KeyRevoked => "the key is revoked",
        Standing::KeyDisabled => "the key is disabled",
        Standing::AppDisabled => "the key's app is disabled",
        Standing::AccountSuspended => "the key's account is suspended",
    }
}

fn expiry(end: Option<UnixMillis>, now: UnixMillis) -> String {
    match end {
        None => "the key has no end".to_owned(),
        Some(end) if now >= end => format!("the key ended at {}", time(end)),
        Some(end) => format!("the key ends at {}", time(end)),
    }
}

/// RFC 3339.
fn time(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_string()
}

fn networks(networks: Option<&Networks>) -> String {
    let bounds = networks.filter(|networks| !networks.is_empty());
    bounds.map_or_else(|| "any".to_owned(), |networks| list(networks.iter()))
}

fn origins(key: &KeyRecord, origin: Option<&str>) -> String {
    if !key.is_bound_to_origins() {
        return "the key is not bound to origins".to_owned();
    }
    let from = match origin {
        Some(origin) => format!("`Origin: {origin}`"),
        None => "no `Origin`".to_owned(),
    };
    format!("{from}; the key allows {}", list(key.origins()))
}

fn scopes(required: &RequiredScopes, held: &ScopeSet) -> String {
    let parts = [("all of", &required.all), ("one of", &required.any)];
    let parts = parts.into_iter().filter(|(_, scopes)| !scopes.is_empty());
    let parts =
        parts.map(|(how, scopes)| format!("{how} {}", list(scopes.iter().map(Scope::as_str))));
    let needs = parts.collect::<Vec<_>>().join(" and ");
    let needs = if needs.is_empty() { "none" } else { &needs };
    let has = if held.as_str().is_empty() { "none" } else { held.as_str() };
    format!("the route needs {needs}; the key and its app have {has}")
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide::decide;
    use crate::decide::tests::{NOW, access, any_key, record};
    use crate::record::Bounds;

    fn all<'a>(key: &'a KeyRecord, access: &'a KeyAccess) -> Situation<'a> {
        let address = Some("192.0.2.1".parse().unwrap());
        Situation { key, access: Some(access), address, origin: None, now: NOW }
    }

    #[test]
    fn each_check_says_what_it_looked_at() {
        let mut key = record();
        key.expires_at = Some(UnixMillis(1_893_456_000_000));
        let key_networks = Networks::new(vec!["192.0.2.0/24".parse().unwrap()]);
        key.bounds = Bounds { key_networks, ..Bounds::default() }.boxed();
        let access = access(&["read:orders"]);
        let findings = explain(all(&key, &access));
        assert!(findings.iter().all(|finding| finding.outcome == Outcome::Pass), "{findings:?}");
        let details: Vec<&str> = findings.iter().map(|finding| &*finding.detail).collect();
        assert_eq!(
            details,
            [
                "the key, its app and its account are active",
                "the key ends at 2030-01-01T00:00:00Z",
                "the key is live, the route is live",
                "from 192.0.2.1; the key allows 192.0.2.0/24, its app any",
                "the key is not bound to origins",
                "the route needs all of read:orders; the key and its app have read:orders",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_skipped_and_only_that() {
        let mut key = record();
        let skipped = |key: &KeyRecord| -> Vec<Check> {
            let nothing = Situation { key, access: None, address: None, origin: None, now: NOW };
            let findings = explain(nothing).into_iter();
            findings.filter(|f| f.outcome == Outcome::Skip).map(|f| f.check).collect()
        };
        assert_eq!(skipped(&key), [Check::Environment, Check::Scopes]);
        let app_networks = Networks::new(vec!["192.0.2.0/24".parse().unwrap()]);
        key.bounds = Bounds { app_networks, ..Bounds::default() }.boxed();
        assert_eq!(skipped(&key), [Check::Environment, Check::Network, Check::Scopes]);
    }

    #[test]
    fn checks_after_one_that_fails_are_made_too() {
        let mut key = record();
        key.standing = Standing::KeyRevoked;
        key.expires_at = Some(UnixMillis(1));
        key.scopes = ScopeSet::default();
        let access = access(&["read:orders"]);
        let fails = explain(all(&key, &access)).into_iter();
        let fails: Vec<Check> =
            fails.filter(|f| matches!(f.outcome, Outcome::Fail(_))).map(|f| f.check).collect();
        assert_eq!(fails, [Check::Standing, Check::Expiry, Check::Scopes]);
    }

    proptest! {
        /// The first check that fails is the decision.
        #[test]
        fn an_explanation_says_what_is_decided(
            key in any_key(),
            origin in prop::option::of(prop::sample::select(
                vec!["https://shop.example", "https://SHOP.example", "https://evil.example", ""],
            )),
            address in prop::sample::select(vec!["192.0.2.1", "::ffff:192.0.2.1", "198.51.100.1"]),
            required in prop::sample::select(vec![vec![], vec!["read:orders"], vec!["write:x"]]),
        ) {
            let (access, address) = (access(&required), address.parse().unwrap());
            let situation = Situation {
                key: &key, access: Some(&access), address: Some(address), origin, now: NOW,
            };
            let explained = explain(situation).into_iter().find_map(|f| match f.outcome {
                Outcome::Fail(denial) => Some(denial),
                Outcome::Pass | Outcome::Skip => None,
            });
            let decided = decide(&access, key.into(), Caller { address, origin }, NOW);
            prop_assert_eq!(explained, decided.err().map(|refused| refused.denial));
        }
    }
}
