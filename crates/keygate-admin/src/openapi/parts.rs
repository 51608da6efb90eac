//! What documented handlers share: ids, times and words as schemas, parameters, refusals. None of
//! these types is ever made: they stand in `value_type` and in `responses` for what is sent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Response};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

/// A text that has a shape, such as an id.
macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident: $pattern:expr;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
                let doc = concat!($($doc,)+).trim();
                text.pattern(Some($pattern)).description(Some(doc)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

texts! {
    /// The id of an account.
    AccountId: "^acct_[0-9A-HJKMNP-TV-Z]{26}$";
    /// The id of an app.
    AppId: "^app_[0-9A-HJKMNP-TV-Z]{26}$";
    /// The id of a key.
    KeyId: "^key_[0-9A-HJKMNP-TV-Z]{26}$";
    /// The id of an admin token.
    TokenId: "^tok_[0-9A-HJKMNP-TV-Z]{26}$";
    /// The id of a pepper, which tells nothing of it.
    PepperId: "^[0-9a-f]{16}$";
}

/// One of a few words.
macro_rules! words {
    ($($name:ident: $($word:literal),+;)+) => {$(
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
                text.enum_values(Some([$($word),+])).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

words! {
    AccountStatus: "active", "suspended";
    AppStatus: "active", "disabled";
    KeyStatus: "active", "disabled", "revoked", "expired";
    KeySwitch: "active", "disabled";
    KeyKind: "sk", "pk", "rk";
    Environment: "live", "test";
    Role: "viewer", "issuer", "admin";
    TokenStatus: "active", "revoked", "expired";
    ImportSource: "csv", "jsonl", "kong", "tyk", "unkey";
    ImportResult: "created", "existing", "failed";
    StoreKind: "embedded", "redis";
    FindingKind: "missing", "out_of_order", "altered", "not_its_text", "unreadable", "unsealed", "not_as_kept";
    LinkState: "live", "polling", "down";
    TopWindow: "1m", "10m", "1h";
    TopMeasure: "requests", "refusals", "bytes";
    UsageStep: "minute", "hour", "day";
    UsageGroupName: "route", "key", "none";
    UsageFormat: "json", "csv";
    PepperUse: "current", "previous", "missing";
    StepName: "request", "route", "failed_auth", "credential", "lookup", "status", "expiry", "environment",
        "network", "origin", "scopes", "concurrency", "rate", "quota", "upstream";
    StepResult: "pass", "fail", "skip";
}

/// A moment, in UTC, to the second or finer.
pub(crate) struct Time;

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).into()
    }
}

impl ToSchema for Time {
    fn name() -> Cow<'static, str> {
        "Time".into()
    }
}

/// Of a list: `params(PageParams)`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct PageParams {
    /// How many items at most; 50 if not given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Of a change that may say what it was made from: `params(IfMatch)`. `finish` adds the 412.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct IfMatch {
    /// The `ETag` that the change was made from, a list of them, or `*`: with any other version the
    /// change is refused.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// Of a call that is carried out once: `params(IdempotencyKey)`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct IdempotencyKey {
    /// Repeated with the same one within 24 hours, a call is answered as it was the first time, and
    /// does nothing.
    #[param(rename = "Idempotency-Key", pattern = "^[!-~]{1,255}$")]
    idempotency_key: Option<String>,
}

/// Refusals that only the handler knows of: they stand in its `responses` by name.
macro_rules! refusals {
    ($($name:ident: $status:literal;)+) => {$(
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let common = Ref::from_response_name(stringify!($name));
                BTreeMap::from([($status.to_owned(), RefOr::Ref(common))])
            }
        }
    )+};
}

refusals! {
    NotFound: "404";
    Conflict: "409";
    UnprocessableEntity: "422";
    ServiceUnavailable: "503";
}
