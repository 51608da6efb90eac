//! What is stored, in full. The decision sees a [`KeyRecord`](keygate_core::KeyRecord) boiled down
//! from these.

use std::collections::BTreeMap;

use ipnet::IpNet;
use keygate_core::key::PepperId;
use keygate_core::limit::terms::Overrides;
use keygate_core::{AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Scope, UnixMillis};

/// Counts the writes to one record: one that was prepared from an older version is refused. The admin
/// API reads and writes within one call, so an operator's older view is not refused yet: that needs
/// a version that travels with it, as `ETag` and `If-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Version(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
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
    pub environment: Environment,
    pub granted_scopes: Vec<Scope>,
    pub allowed_cidrs: Vec<IpNet>,
    pub tier: Option<String>,
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
    /// The pepper that the digest was made with.
    pub pepper: PepperId,
    pub app: AppId,
    pub account: AccountId,
    pub kind: KeyKind,
    pub environment: Environment,
    pub name: Option<String>,
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

/// One change: when, who, what, from where, and why. Never a secret.
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
}

/// A key with the app and the account that it belongs to, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedKey {
    pub key: Key,
    pub app: App,
    pub account: Account,
}
