//! How keys are shown. The only answer that holds a key is the one that makes it.

use keygate_core::{Scope, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::{Key, KeyStatus, Metadata};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::limits::{self, LimitsAnswer, UseAnswer};
use crate::openapi::{self, Time};
use crate::registry::{CreatedKey, FoundKey, KeyState, Registry};
use crate::times::rfc3339;

#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct Answer {
    #[schema(value_type = openapi::KeyId)]
    pub(super) id: String,
    /// The first characters of the key, to tell it by.
    hint: String,
    #[schema(value_type = openapi::AppId)]
    app_id: String,
    #[schema(value_type = openapi::AccountId)]
    account_id: String,
    #[schema(value_type = openapi::KeyKind)]
    kind: &'static str,
    #[schema(value_type = openapi::Environment)]
    environment: &'static str,
    name: Option<String>,
    owner: Option<String>,
    purpose: Option<String>,
    scopes: Vec<String>,
    #[schema(value_type = openapi::KeyStatus)]
    status: &'static str,
    #[schema(value_type = Option<Time>)]
    expires_at: Option<String>,
    #[schema(value_type = Option<Time>)]
    revoked_at: Option<String>,
    revoke_reason: Option<String>,
    tier: Option<String>,
    limits: Option<LimitsAnswer>,
    allowed_cidrs: Vec<String>,
    allowed_origins: Vec<String>,
    metadata: Metadata,
    /// Whether another system made it.
    imported: bool,
    /// The key that this one takes the place of.
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_from: Option<String>,
    /// The key that takes the place of this one.
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_to: Option<String>,
    #[schema(value_type = Time)]
    created_at: String,
    #[schema(value_type = Time)]
    updated_at: String,
}

impl Answer {
    pub(crate) fn new(key: Key, now: UnixMillis) -> Self {
        let status = KeyState::of(&key, now).as_str();
        let (revoked_at, revoke_reason) = match key.status {
            KeyStatus::Revoked { at, reason } => (Some(rfc3339(at)), reason),
            KeyStatus::Active | KeyStatus::Disabled => (None, None),
        };
        Self {
            id: key.id.to_string(),
            hint: key.hint,
            app_id: key.app.to_string(),
            account_id: key.account.to_string(),
            kind: key.kind.as_str(),
            environment: key.environment.as_str(),
            name: key.name,
            owner: key.owner,
            purpose: key.purpose,
            scopes: key.scopes.iter().map(Scope::to_string).collect(),
            status,
            expires_at: key.expires_at.map(rfc3339),
            revoked_at,
            revoke_reason,
            tier: key.tier,
            limits: key.limits.as_deref().map(LimitsAnswer::new),
            allowed_cidrs: key.allowed_cidrs.iter().map(ToString::to_string).collect(),
            allowed_origins: key.allowed_origins,
            metadata: key.metadata,
            imported: key.pepper.is_none(),
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            rotated_to: key.rotated_to.map(|id| id.to_string()),
            created_at: rfc3339(key.created_at),
            updated_at: rfc3339(key.updated_at),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey)]
pub(crate) struct CreatedAnswer {
    /// The whole key, this once; nothing if the same call had made it before.
    #[schema(value_type = Option<String>)]
    key: Option<ShownOnce>,
    /// Whether the same call had made it before.
    replayed: bool,
    #[serde(flatten)]
    pub(super) record: Answer,
}

impl CreatedAnswer {
    pub(super) fn new(created: CreatedKey, now: UnixMillis) -> Self {
        let CreatedKey { record, key } = created;
        let key = key.map(ShownOnce);
        Self { replayed: key.is_none(), key, record: Answer::new(record, now) }
    }
}

/// The key's text, wiped when the answer has been written.
struct ShownOnce(Zeroizing<String>);

impl Serialize for ShownOnce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A record with what is used of its limits.
#[derive(Serialize, ToSchema)]
#[schema(as = ShownKey)]
pub(crate) struct ShownAnswer {
    #[serde(flatten)]
    record: Answer,
    /// Nothing while nobody can tell.
    current_use: Option<Vec<UseAnswer>>,
}

impl ShownAnswer {
    pub(crate) async fn new<S: KeyStore>(registry: &Registry<S>, key: Key) -> Self {
        let current_use = limits::current_use(registry, &key).await;
        Self { record: Answer::new(key, registry.now()), current_use }
    }
}

/// A record in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedKey)]
pub(crate) struct ListedAnswer {
    #[serde(flatten)]
    record: Answer,
    /// Nothing if it never was.
    #[schema(value_type = Option<Time>)]
    last_used_at: Option<String>,
}

impl ListedAnswer {
    pub(crate) fn new(found: FoundKey, now: UnixMillis) -> Self {
        let last_used_at = found.last_used_at.map(rfc3339);
        Self { record: Answer::new(found.key, now), last_used_at }
    }
}
