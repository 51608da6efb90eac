//! The stored form of each record. A field may be added, with a default if older records lack it, and
//! none may be taken away.

use std::time::Duration;

use ipnet::IpNet;
use keygate_core::key::PepperId;
use keygate_core::limit::terms::Overrides;
use keygate_core::{
    AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Scope, TokenId, UnixMillis,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::values::{
    hex, hex_bytes, millis, option_millis, option_span, option_text, text, texts, word,
};
use super::{DoneOnce, limits};
use crate::keys::MadeRecord;
use crate::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Role,
    TokenStatus, Version,
};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Account")]
pub(super) struct AccountForm {
    #[serde(with = "text")]
    id: AccountId,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(with = "AccountStatusForm")]
    status: AccountStatus,
    #[serde(default)]
    metadata: Metadata,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AccountStatus", rename_all = "snake_case")]
pub(super) enum AccountStatusForm {
    Active,
    Suspended,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Version")]
pub(super) struct VersionForm(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "App")]
pub(super) struct AppForm {
    #[serde(with = "text")]
    id: AppId,
    #[serde(with = "text")]
    account: AccountId,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(with = "word")]
    environment: Environment,
    #[serde(with = "texts")]
    granted_scopes: Vec<Scope>,
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    tier: Option<String>,
    #[serde(default, with = "option_span", skip_serializing_if = "Option::is_none")]
    max_age: Option<Duration>,
    #[serde(with = "AppStatusForm")]
    status: AppStatus,
    #[serde(default)]
    metadata: Metadata,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AppStatus", rename_all = "snake_case")]
pub(super) enum AppStatusForm {
    Active,
    Disabled,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Key")]
pub(super) struct KeyForm {
    #[serde(with = "text")]
    id: KeyId,
    #[serde(with = "hex")]
    digest: KeyDigest,
    // `null` for a key of another system: an older program refuses such a record, as it must.
    #[serde(with = "option_text")]
    pepper: Option<PepperId>,
    #[serde(with = "text")]
    app: AppId,
    #[serde(with = "text")]
    account: AccountId,
    #[serde(with = "word")]
    kind: KeyKind,
    #[serde(with = "word")]
    environment: Environment,
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    hint: String,
    #[serde(with = "texts")]
    scopes: Vec<Scope>,
    #[serde(with = "option_millis")]
    expires_at: Option<UnixMillis>,
    tier: Option<String>,
    #[serde(default, with = "limits", skip_serializing_if = "Option::is_none")]
    limits: Option<Box<Overrides>>,
    // A list that restricts must not be read as empty when it is missing: empty allows all.
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    allowed_origins: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, with = "option_text", skip_serializing_if = "Option::is_none")]
    rotated_from: Option<KeyId>,
    #[serde(default, with = "option_text", skip_serializing_if = "Option::is_none")]
    rotated_to: Option<KeyId>,
    #[serde(with = "KeyStatusForm")]
    status: KeyStatus,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "KeyStatus", rename_all = "snake_case")]
pub(super) enum KeyStatusForm {
    Active,
    Disabled,
    Revoked {
        #[serde(with = "millis")]
        at: UnixMillis,
        reason: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AuditEntry")]
pub(super) struct AuditForm {
    #[serde(with = "millis")]
    at: UnixMillis,
    actor: String,
    action: String,
    subject: String,
    hint: Option<String>,
    from: Option<std::net::IpAddr>,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    changes: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AdminToken")]
pub(super) struct TokenForm {
    #[serde(with = "text")]
    id: TokenId,
    name: String,
    #[serde(with = "RoleForm")]
    role: Role,
    #[serde(with = "hex_bytes")]
    sha256: [u8; 32],
    #[serde(with = "TokenStatusForm")]
    status: TokenStatus,
    // What restricts must not be read as nothing when it is missing.
    #[serde(with = "option_millis")]
    expires_at: Option<UnixMillis>,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Role", rename_all = "snake_case")]
pub(super) enum RoleForm {
    Viewer,
    Issuer(#[serde(with = "texts")] Vec<AccountId>),
    Admin,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "TokenStatus", rename_all = "snake_case")]
pub(super) enum TokenStatusForm {
    Active,
    Revoked {
        #[serde(with = "millis")]
        at: UnixMillis,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "DoneOnce")]
pub(super) struct DoneOnceForm {
    #[serde(with = "hex_bytes")]
    request: [u8; 32],
    #[serde(with = "millis")]
    until: UnixMillis,
    #[serde(with = "MadeForm")]
    made: MadeRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "MadeRecord", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "it is the form of another type, and never made")]
enum MadeForm {
    Account(#[serde(with = "AccountForm")] Account),
    App(#[serde(with = "AppForm")] App),
    Key(#[serde(with = "KeyForm")] Key),
    Token(#[serde(with = "TokenForm")] AdminToken),
}
