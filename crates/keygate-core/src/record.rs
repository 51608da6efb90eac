//! What is known about a key when a request is decided: the key, its app and its account, joined
//! and boiled down when it is loaded, so that a request neither computes nor allocates.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use crate::id::{AccountId, AppId, KeyId};
use crate::key::{Environment, KeyKind};
use crate::limit::meter::Meter;
use crate::limit::terms::Overrides;
use crate::network::Networks;
use crate::scope::ScopeSet;
use crate::time::UnixMillis;

/// Whether a key may be used at all, and if not, whose doing it is.
///
/// All but `Active` answer alike: a caller must not learn which keys once existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Active,
    KeyRevoked,
    KeyDisabled,
    AppDisabled,
    AccountSuspended,
}

/// One key as the decision sees it. Its fields are in the order in which they are stored: what every
/// decision reads is together and comes first, since each line of memory that is not in the
/// processor's cache costs as much as a hash.
#[derive(Debug)]
#[repr(C)]
pub struct KeyRecord {
    pub id: KeyId,
    pub app: AppId,
    pub account: AccountId,
    /// The number of the newest change that this record is known to reflect.
    pub read_at: u64,
    pub kind: KeyKind,
    pub environment: Environment,
    pub standing: Standing,
    /// Whether another system made it.
    pub is_imported: bool,
    pub expires_at: Option<UnixMillis>,
    /// What the key and its app both allow.
    pub scopes: ScopeSet,
    /// What else it is held to, if to anything.
    pub bounds: Option<Box<Bounds>>,
    /// The key's tier, or its app's.
    pub tier: Option<Arc<str>>,
    /// The counters of whoever is limited, once they were looked for: they outlive this record.
    pub meter: OnceLock<Arc<Meter>>,
    pub slots: SlotHints,
    /// The first characters of the key, by which people know it.
    pub hint: Box<str>,
}

/// What few keys are held to. Apart, so that a million others have no room for it.
#[derive(Debug, Default)]
pub struct Bounds {
    pub key_networks: Networks,
    pub app_networks: Networks,
    /// Serialised origins, lower case (RFC 6454 section 6.2). Empty allows any.
    pub origins: Box<[Box<str>]>,
    /// What the key has instead of its tier's limits.
    pub overrides: Option<Box<Overrides>>,
}

impl Bounds {
    /// Nothing if there is nothing that a key is held to.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        let Self { key_networks, app_networks, origins, overrides } = &self;
        let has_networks = !key_networks.is_empty() || !app_networks.is_empty();
        (has_networks || !origins.is_empty() || overrides.is_some()).then(|| Box::new(self))
    }
}

impl KeyRecord {
    /// What the key has instead of its tier's limits.
    #[inline]
    #[must_use]
    pub fn overrides(&self) -> Option<&Overrides> {
        self.bounds.as_ref()?.overrides.as_deref()
    }

    /// Where a publishable key may be used. Empty allows any origin.
    #[must_use]
    pub fn origins(&self) -> &[Box<str>] {
        self.bounds.as_ref().map_or(&[], |bounds| &bounds.origins)
    }

    /// Has the processor fetch the counters that the request's charge is going to need, so that they
    /// come while it is decided. Waits for nothing.
    #[inline]
    pub fn fetch_ahead(&self) {
        if let Some(meter) = self.meter.get() {
            black_box(meter.party().share());
        }
    }

    /// Whether the networks of key and app both hold this address.
    #[inline]
    #[must_use]
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.bounds.as_ref().is_none_or(|bounds| {
            bounds.key_networks.allows(address) && bounds.app_networks.allows(address)
        })
    }

    /// Whether a request with this `Origin`, or without one, may use the key. Only publishable keys are
    /// bound to origins.
    #[inline]
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let is_one_of_them = |origin: &str| {
            self.origins().iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        };
        !self.is_bound_to_origins() || origin.is_some_and(is_one_of_them)
    }

    #[inline]
    #[must_use]
    pub fn is_bound_to_origins(&self) -> bool {
        self.kind == KeyKind::Publishable && !self.origins().is_empty()
    }
}

/// Where the use of a key may be counted, so that most requests need not look for it. A hint: whoever
/// follows it has to see for themselves whose slot that is.
#[derive(Debug, Default)]
pub struct SlotHints([AtomicU32; 4]);

impl SlotHints {
    /// The hint for one of the key's routes. The few that are used in turns mostly get one each.
    #[inline]
    #[must_use]
    pub fn of(&self, route: u32) -> &AtomicU32 {
        let [first, second, third, fourth] = &self.0;
        match route % 4 {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        }
    }
}

/// More than any hint of ours has; one from elsewhere may be anything.
const HINT_BYTES_MAX: usize = 64;

/// As much of a key's hint as is kept.
#[must_use]
pub fn kept_hint(hint: &str) -> Box<str> {
    hint.get(..hint.floor_char_boundary(HINT_BYTES_MAX)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_cut_at_its_bound() {
        let long = format!("a{}", "é".repeat(200));
        assert_eq!(kept_hint(&long).len(), HINT_BYTES_MAX - 1);
    }

    #[test]
    fn a_key_that_is_held_to_nothing_has_no_bounds() {
        assert!(Bounds::default().boxed().is_none());
        let origins: Box<[Box<str>]> = Box::new(["https://shop.example".into()]);
        assert!(Bounds { origins, ..Bounds::default() }.boxed().is_some());
        let overrides = Some(Box::default());
        assert!(Bounds { overrides, ..Bounds::default() }.boxed().is_some());
        let networks = || Networks::new(vec!["192.0.2.0/24".parse().unwrap()]);
        assert!(Bounds { key_networks: networks(), ..Bounds::default() }.boxed().is_some());
        assert!(Bounds { app_networks: networks(), ..Bounds::default() }.boxed().is_some());
    }
}
