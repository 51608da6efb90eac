//! What is asked for of keys, as it is sent, and as the registry takes it.

use std::time::Duration;

use keygate_core::UnixMillis;
use keygate_store::records::Metadata;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::limits::{LimitsChangeRequest, LimitsRequest};
use crate::openapi::{self, Time};
use crate::problem::Problem;
use crate::registry::{KeyChange, KeySwitch, NewKey, OVERLAP_DEFAULT};
use crate::request::{Object, given};
use crate::{fields, limits, times};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyCreate)]
pub(super) struct CreateRequest {
    #[serde(default = "secret_kind")]
    #[schema(value_type = openapi::KeyKind)]
    kind: String,
    name: Option<String>,
    /// Who answers for it, such as a team or an address.
    owner: Option<String>,
    purpose: Option<String>,
    /// Within what its app is granted.
    scopes: Vec<String>,
    #[schema(value_type = Option<Time>)]
    expires_at: Option<String>,
    /// How long it lives, such as `30d`, instead of `expires_at`.
    ttl: Option<String>,
    tier: Option<String>,
    #[schema(value_type = Option<LimitsRequest>)]
    limits: Option<Object<LimitsRequest>>,
    #[serde(default)]
    allowed_cidrs: Vec<String>,
    /// Of publishable keys.
    #[serde(default)]
    allowed_origins: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
}

fn secret_kind() -> String {
    "sk".to_owned()
}

impl CreateRequest {
    pub(super) fn read(self, now: UnixMillis) -> Result<NewKey, Problem> {
        Ok(NewKey {
            kind: self.kind.parse().map_err(|error| Problem::field("kind", error))?,
            name: self.name.map(fields::name).transpose()?,
            owner: self.owner.map(fields::owner).transpose()?,
            purpose: self.purpose.map(fields::purpose).transpose()?,
            scopes: fields::scopes("scopes", &self.scopes)?,
            expires_at: read_end(self.expires_at.as_deref(), self.ttl.as_deref(), now)?,
            tier: self.tier,
            limits: self.limits.map(limits::read).transpose()?.flatten(),
            allowed_cidrs: fields::cidrs(&self.allowed_cidrs)?,
            allowed_origins: fields::origins(&self.allowed_origins)?,
            metadata: fields::metadata(self.metadata)?,
        })
    }
}

fn read_end(
    expires_at: Option<&str>,
    ttl: Option<&str>,
    now: UnixMillis,
) -> Result<Option<UnixMillis>, Problem> {
    match (expires_at, ttl) {
        (Some(_), Some(_)) => Err(Problem::field("ttl", "send `ttl` or `expires_at`, not both")),
        (Some(at), None) => times::expires_at(at).map(Some),
        (None, Some(span)) => times::ttl(span, now).map(Some),
        (None, None) => Ok(None),
    }
}

/// What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyChange)]
pub(super) struct ChangeRequest {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    owner: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    purpose: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Time>)]
    expires_at: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    tier: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<LimitsChangeRequest>)]
    limits: Option<Option<Object<LimitsChangeRequest>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    allowed_cidrs: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    allowed_origins: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, value_type = Option<openapi::KeySwitch>)]
    status: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

impl ChangeRequest {
    pub(super) fn read(self) -> Result<KeyChange, Problem> {
        let scopes = self.scopes.as_deref();
        Ok(KeyChange {
            name: fields::or_null(self.name, fields::name)?,
            owner: fields::or_null(self.owner, fields::owner)?,
            purpose: fields::or_null(self.purpose, fields::purpose)?,
            scopes: scopes.map(|all| fields::scopes("scopes", all)).transpose()?,
            expires_at: fields::or_null(self.expires_at, |at| times::expires_at(&at))?,
            tier: self.tier,
            limits: self.limits.map(limits::read_change).transpose()?,
            allowed_cidrs: self.allowed_cidrs.as_deref().map(fields::cidrs).transpose()?,
            allowed_origins: self.allowed_origins.as_deref().map(fields::origins).transpose()?,
            status: self.status.as_deref().map(read_status).transpose()?,
            metadata: self.metadata.map(fields::metadata).transpose()?,
        })
    }
}

fn read_status(word: &str) -> Result<KeySwitch, Problem> {
    match word {
        "active" => Ok(KeySwitch::Active),
        "disabled" => Ok(KeySwitch::Disabled),
        "revoked" => Err(Problem::field("status", "to revoke a key, post to its `revoke`")),
        _ => Err(Problem::field("status", "write active or disabled")),
    }
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRevoke)]
pub(super) struct RevokeRequest {
    pub(super) reason: Option<String>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRotate)]
pub(super) struct RotateRequest {
    /// How long the old key goes on working, up to `90d`; a day if not given, `0s` for not at all.
    overlap: Option<String>,
}

impl RotateRequest {
    pub(super) fn read(&self) -> Result<Duration, Problem> {
        self.overlap.as_deref().map_or(Ok(OVERLAP_DEFAULT), times::overlap)
    }
}
