//! What is stored, in full. The decision sees a [`KeyRecord`](keygate_core::KeyRecord) boiled down
//! from these.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use keygate_core::key::PepperId;
use keygate_core::limit::terms::Overrides;
use keygate_core::{
    AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Scope, TokenId, UnixMillis,
};
use serde_json::{Map, Value};

use crate::audit::Link;
use crate::codec;
use crate::keys::ChangeNumber;

/// Counts the writes to one record: one that was prepared from an older version is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Version(pub u64);

impl Version {
    /// The version after a write. Versions are only told apart, so after the last comes the first: a
    /// key that was imported with the last can still be revoked.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    /// Who answers for it, such as a team or an address.
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub status: AccountStatus,
    pub metadata: Metadata,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    Active,
    Suspended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub id: AppId,
    pub account: AccountId,
    pub name: String,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub environment: Environment,
    pub granted_scopes: Vec<Scope>,
    pub allowed_cidrs: Vec<IpNet>,
    pub tier: Option<String>,
    /// How old its keys may get before they are to be rotated.
    pub max_age: Option<Duration>,
    pub status: AppStatus,
    pub metadata: Metadata,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppStatus {
    Active,
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub digest: KeyDigest,
    /// The pepper that the digest was made with; nothing for a key that another system made.
    pub pepper: Option<PepperId>,
    pub app: AppId,
    pub account: AccountId,
    pub kind: KeyKind,
    pub environment: Environment,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    /// The first characters of the key, to tell it by.
    pub hint: String,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<UnixMillis>,
    pub tier: Option<String>,
    /// What it has instead of its tier's limits.
    pub limits: Option<Box<Overrides>>,
    pub allowed_cidrs: Vec<IpNet>,
    pub allowed_origins: Vec<String>,
    pub metadata: Metadata,
    /// The key that this one takes the place of.
    pub rotated_from: Option<KeyId>,
    /// The key that takes the place of this one. It then ends at `expires_at`, the end of the overlap,
    /// and no longer counts against its app's cap.
    pub rotated_to: Option<KeyId>,
    pub status: KeyStatus,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    Active,
    Disabled,
    /// For good.
    Revoked {
        at: UnixMillis,
        reason: Option<String>,
    },
}

/// Free text by name, for the operator's own use. Bounded by the admin API.
pub type Metadata = BTreeMap<String, String>;

impl Key {
    /// Until when in Unix milliseconds anybody may use it, and so until when its pepper is needed:
    /// 0 once it is revoked, the largest number if it never expires. A disabled one may be enabled again.
    #[must_use]
    pub fn works_until(&self) -> u64 {
        match self.status {
            KeyStatus::Revoked { .. } => 0,
            KeyStatus::Active | KeyStatus::Disabled => {
                self.expires_at.map_or(u64::MAX, |end| end.0)
            }
        }
    }

    /// Until when it counts against its app's cap. One that has a successor does not.
    #[must_use]
    pub fn counts_until(&self) -> u64 {
        if self.rotated_to.is_some() { 0 } else { self.works_until() }
    }
}

/// What admits an operator or a program to the admin API. Its secret is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    pub id: TokenId,
    pub name: String,
    pub role: Role,
    /// SHA-256 of the token, which holds 256 random bits.
    pub sha256: [u8; 32],
    pub status: TokenStatus,
    pub expires_at: Option<UnixMillis>,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub version: Version,
}

/// What the holder of an admin token may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Look at these accounts with their apps, and make, change, rotate and revoke their keys.
    Issuer(Vec<AccountId>),
    /// Everything.
    Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    Active,
    /// For good.
    Revoked {
        at: UnixMillis,
    },
}

/// One change, or one attempt that was refused: when, who, what, from where, and why. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub at: UnixMillis,
    /// Who asked, such as `token:bootstrap` or `demo`.
    pub actor: String,
    /// What was done, such as `key.revoke`.
    pub action: String,
    /// The id of the record that changed.
    pub subject: String,
    pub hint: Option<String>,
    /// The address that the request came from.
    pub from: Option<std::net::IpAddr>,
    pub reason: Option<String>,
    /// The problem code, if it was refused: nothing has changed then.
    pub refused: Option<String>,
    /// Each field that changed: its name, then `[before, after]` as the codec writes them. Never a
    /// digest.
    pub changes: Map<String, Value>,
}

impl AuditEntry {
    /// What stands in for an entry that cannot be read: the log goes on behind it.
    #[must_use]
    pub fn unreadable() -> Self {
        Self {
            at: UnixMillis(0),
            actor: String::new(),
            action: "unreadable".to_owned(),
            subject: String::new(),
            hint: None,
            from: None,
            reason: None,
            refused: None,
            changes: Map::new(),
        }
    }

    /// Whether it stands in for one that cannot be read. No entry that was written is without an actor.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        *self == Self::unreadable()
    }
}

/// An entry in its place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub number: ChangeNumber,
    /// [`AuditEntry::unreadable`] if what is stored is none.
    pub entry: AuditEntry,
    /// Nothing for an entry that an older version wrote.
    pub seal: Option<Seal>,
}

/// What ties an entry to all that came before it: see [`audit`](crate::audit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    pub link: Link,
    /// The entry as it is stored, which is what the link covers.
    pub bytes: Vec<u8>,
}

/// A key with the app and the account that it belongs to, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedKey {
    pub key: Key,
    pub app: App,
    pub account: Account,
}

/// A record whose fields can be told by name.
pub trait Fields {
    /// Each field as it is stored, but for those that say nothing of what an operator set (`version`,
    /// `updated_at`) and those that must not be told (`digest`, `sha256`). One that is absent may be left
    /// out.
    fn fields(&self) -> Map<String, Value>;
}

macro_rules! fields {
    ($($record:ty)*) => {$(
        impl Fields for $record {
            fn fields(&self) -> Map<String, Value> {
                let mut fields = codec::fields(self);
                fields.retain(|name, _| !UNTOLD.contains(&name.as_str()));
                fields
            }
        }
    )*};
}

const UNTOLD: [&str; 4] = ["version", "updated_at", "digest", "sha256"];

fields!(Account App Key AdminToken);

/// What a change does to a record, for [`AuditEntry::changes`]: each field that differs, with its value
/// before and after, `null` for none. Nothing for a record that the change makes.
#[must_use]
pub fn changes<R: Fields>(before: Option<&R>, after: &R) -> Map<String, Value> {
    let Some(before) = before else { return Map::new() };
    let (mut before, after) = (before.fields(), after.fields());
    let mut pairs = Map::new();
    let mut compare = |name: String, before: Value, after: Value| {
        if before != after {
            pairs.insert(name, Value::Array(vec![before, after]));
        }
    };
    for (name, after) in after {
        let before = before.remove(&name).unwrap_or_default();
        compare(name, before, after);
    }
    // What is there no more.
    for (name, before) in before {
        compare(name, before, Value::Null);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{account, app, key, revoked};

    #[test]
    fn a_change_is_told_field_by_field_and_never_a_digest() {
        let app = app(1, &account(1));
        let before = key(1, &app);
        let after = Key {
            owner: Some("team".to_owned()),
            name: None,
            digest: crate::testing::digest(2),
            updated_at: UnixMillis(9),
            version: Version(9),
            ..revoked(&before)
        };
        let expected = json!({
            "owner": [null, "team"],
            "name": ["key 1", null],
            "status": ["active", {"revoked": {"at": crate::testing::NOW.0, "reason": "leaked"}}],
        });
        assert_eq!(Value::Object(changes(Some(&before), &after)), expected);
        let back = json!({
            "owner": ["team", null],
            "name": [null, "key 1"],
            "status": [{"revoked": {"at": crate::testing::NOW.0, "reason": "leaked"}}, "active"],
        });
        assert_eq!(Value::Object(changes(Some(&after), &before)), back);
    }

    #[test]
    fn what_is_made_or_stays_has_no_changes() {
        let account = account(1);
        assert_eq!(changes(None, &account), Map::new());
        assert_eq!(changes(Some(&account), &account), Map::new());
    }
}
