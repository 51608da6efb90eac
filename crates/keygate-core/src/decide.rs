//! The decision: a route's policy, a key's record, a caller and the time make a permit or a denial.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// One check of a known key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Standing,
    Expiry,
    Environment,
    Network,
    Origin,
    Scopes,
}

/// Decides whether a known key may use a route now: steps 6 to 10 of a request's way.
///
/// # Errors
/// The first reason to refuse, in that order, and the key.
pub fn decide(
    access: &KeyAccess,
    key: Arc<KeyRecord>,
    caller: Caller<'_>,
    now: UnixMillis,
) -> Result<Permit, Refused> {
    match Check::each(|check| check.run(access, &key, caller, now)) {
        Ok(()) => Ok(Permit { key: Some(key) }),
        Err(denial) => Err(Refused { denial, key }),
    }
}

/// A request with a known key that is refused.
#[derive(Debug)]
pub struct Refused {
    pub denial: Denial,
    pub key: Arc<KeyRecord>,
}

impl Check {
    /// Shows every check, in the order in which they refuse, until one is answered with an error.
    ///
    /// Written out rather than a loop: each call is then compiled for its one check.
    #[inline(always)]
    pub(crate) fn each<E>(mut visit: impl FnMut(Self) -> Result<(), E>) -> Result<(), E> {
        visit(Self::Standing)?;
        visit(Self::Expiry)?;
        visit(Self::Environment)?;
        visit(Self::Network)?;
        visit(Self::Origin)?;
        visit(Self::Scopes)
    }

    #[inline(always)]
    pub(crate) fn run(
        self,
        access: &KeyAccess,
        key: &KeyRecord,
        caller: Caller<'_>,
        now: UnixMillis,
    ) -> Result<(), Denial> {
        match self {
            Self::Standing => check_standing(key),
            Self::Expiry => check_expiry(key, now),
            Self::Environment if access.environment != key.environment => {
                Err(Denial::EnvironmentMismatch)
            }
            Self::Network if !key.allows_address(caller.address) => Err(Denial::IpNotAllowed),
            Self::Origin if !key.allows_origin(caller.origin) => Err(Denial::OriginNotAllowed),
            Self::Scopes if !access.scopes.are_met_by(&key.scopes) => Err(Denial::PermissionDenied),
            Self::Environment | Self::Network | Self::Origin | Self::Scopes => Ok(()),
        }
    }
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
pub(crate) mod tests;
