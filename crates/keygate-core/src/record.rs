//! What is known about a key when a request is decided: the key, its app and its account, joined
//! and boiled down when it is loaded, so that a request neither computes nor allocates.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

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
    pub key_networks: Networks,
    pub app_networks: Networks,
    /// What the key has instead of its tier's limits.
    pub overrides: Option<Box<Overrides>>,
    /// The key's tier, or its app's.
    pub tier: Option<Arc<str>>,
    /// The counters of whoever is limited, once they were looked for: they outlive this record.
    pub meter: OnceLock<Arc<Meter>>,
    pub slots: SlotHints,
    /// Serialised origins, lower case (RFC 6454 section 6.2). Empty allows any.
    pub origins: Box<[Box<str>]>,
    /// Who is calling, as text, ready to be put into headers.
    pub identity: Identity,
}

impl KeyRecord {
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
        self.key_networks.allows(address) && self.app_networks.allows(address)
    }

    /// Whether a request with this `Origin`, or without one, may use the key. Only publishable keys are
    /// bound to origins.
    #[inline]
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let is_one_of_them =
            |origin: &str| self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
        !self.is_bound_to_origins() || origin.is_some_and(is_one_of_them)
    }

    #[inline]
    #[must_use]
    pub fn is_bound_to_origins(&self) -> bool {
        self.kind == KeyKind::Publishable && !self.origins.is_empty()
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

/// More than any hint of ours has.
const HINT_BYTES_MAX: usize = 64;

/// The ids, the hint and the scopes of a caller as texts that share one allocation.
#[derive(Clone, Debug)]
pub struct Identity {
    text: Bytes,
    app_from: u8,
    account_from: u8,
    hint_from: u8,
    scopes_from: u8,
}

impl Identity {
    #[must_use]
    pub fn new(key: KeyId, app: AppId, account: AccountId, hint: &str, scopes: &ScopeSet) -> Self {
        let mut text = BytesMut::with_capacity(96 + hint.len() + scopes.as_str().len());
        let mut push = |part: &str| {
            text.put_slice(part.as_bytes());
            // Ids have a fixed length and a hint is short, so all of them end far below 255.
            u8::try_from(text.len()).unwrap_or(u8::MAX)
        };
        let app_from = push(&key.to_string());
        let account_from = push(&app.to_string());
        let hint_from = push(&account.to_string());
        // One from elsewhere may be anything.
        let scopes_from =
            push(hint.get(..hint.floor_char_boundary(HINT_BYTES_MAX)).unwrap_or_default());
        text.put_slice(scopes.as_str().as_bytes());
        Self { text: text.freeze(), app_from, account_from, hint_from, scopes_from }
    }

    #[must_use]
    pub fn key_id(&self) -> Bytes {
        self.text.slice(..usize::from(self.app_from))
    }

    #[must_use]
    pub fn app_id(&self) -> Bytes {
        self.text.slice(usize::from(self.app_from)..usize::from(self.account_from))
    }

    #[must_use]
    pub fn account_id(&self) -> Bytes {
        self.text.slice(usize::from(self.account_from)..usize::from(self.hint_from))
    }

    /// The first characters of the key, by which people know it.
    #[must_use]
    pub fn hint(&self) -> Bytes {
        self.text.slice(usize::from(self.hint_from)..usize::from(self.scopes_from))
    }

    /// The ids of the key, the app and the account, and the hint, without a reference count for each.
    #[must_use]
    pub fn texts(&self) -> [&[u8]; 4] {
        let part = |from: u8, to: u8| self.text.get(from.into()..to.into()).unwrap_or_default();
        [
            part(0, self.app_from),
            part(self.app_from, self.account_from),
            part(self.account_from, self.hint_from),
            part(self.hint_from, self.scopes_from),
        ]
    }

    #[must_use]
    pub fn scopes(&self) -> Bytes {
        self.text.slice(usize::from(self.scopes_from)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_gives_back_its_parts() {
        let now = UnixMillis(1);
        let (key, app, account) =
            (KeyId::new(now, [1; 10]), AppId::new(now, [2; 10]), AccountId::new(now, [3; 10]));
        let scopes = ScopeSet::new(&["read:a".parse().unwrap(), "read:b".parse().unwrap()]);
        let identity = Identity::new(key, app, account, "sk_live_abcd", &scopes);
        assert_eq!(identity.key_id(), key.to_string());
        assert_eq!(identity.app_id(), app.to_string());
        assert_eq!(identity.account_id(), account.to_string());
        assert_eq!(identity.hint(), "sk_live_abcd");
        assert_eq!(identity.scopes(), "read:a read:b");
        let long = Identity::new(key, app, account, &format!("a{}", "é".repeat(200)), &scopes);
        assert_eq!(long.scopes(), "read:a read:b");
    }
}
