//! The reasons for which the admin API says no, one row each. A published code never changes its
//! meaning.

use axum::http::StatusCode;

/// One row a reason: its name in code, the code that callers see, the status, and the same title
/// for every occurrence.
macro_rules! problem_codes {
    ($($name:ident: $code:literal, $status:ident, $title:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ProblemCode { $($name,)+ }

        impl ProblemCode {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// Code, status and title.
            pub(crate) const fn row(self) -> (&'static str, StatusCode, &'static str) {
                match self {
                    $(Self::$name => ($code, StatusCode::$status, $title),)+
                }
            }
        }
    };
}

problem_codes! {
    BadRequest: "bad_request", BAD_REQUEST, "The request is malformed";
    Unauthorized: "unauthorized", UNAUTHORIZED, "An admin token is required";
    BrowserNotAllowed: "browser_not_allowed", FORBIDDEN, "Browsers may not call the admin API";
    Forbidden: "forbidden", FORBIDDEN, "The token's role does not allow this";
    NotFound: "not_found", NOT_FOUND, "There is nothing here";
    MethodNotAllowed: "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    RequestTimeout: "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    Conflict: "conflict", CONFLICT, "The change conflicts with another one";
    IdempotencyKeyReused: "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key belongs to another request";
    PreconditionFailed: "precondition_failed", PRECONDITION_FAILED, "The record has changed";
    KeyNotShown: "key_not_shown", CONFLICT, "What the same call made before is revoked, and is not shown";
    KeyNotActive: "key_not_active", CONFLICT, "The key is not active";
    KeyRotated: "key_rotated", CONFLICT, "The key has a successor";
    KeyRevoked: "key_revoked", CONFLICT, "The key is revoked";
    PepperInUse: "pepper_in_use", CONFLICT, "Live keys depend on a pepper that would be dropped";
    NoLimits: "no_limits", CONFLICT, "The key has no limits";
    PayloadTooLarge: "payload_too_large", PAYLOAD_TOO_LARGE, "The request body is too large";
    UnsupportedMediaType: "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The request body is not declared as JSON";
    InvalidField: "invalid_field", UNPROCESSABLE_ENTITY, "A field has a value it cannot have";
    ScopeNotGranted: "scope_not_granted", UNPROCESSABLE_ENTITY, "The app does not grant a scope";
    UnknownTier: "unknown_tier", UNPROCESSABLE_ENTITY, "There is no such tier";
    TooManyLiveKeys: "too_many_live_keys", UNPROCESSABLE_ENTITY, "The app has too many live keys";
    InvalidConfig: "invalid_config", UNPROCESSABLE_ENTITY, "The configuration cannot be used";
    TooManyFailures: "too_many_failures", TOO_MANY_REQUESTS, "Too many wrong admin tokens";
    Internal: "internal", INTERNAL_SERVER_ERROR, "The gateway failed";
    StoreUnavailable: "store_unavailable", SERVICE_UNAVAILABLE, "The store is unavailable";
    TooManyWaiters: "too_many_waiters", SERVICE_UNAVAILABLE, "Too many calls wait for an entry";
    NotDurable: "not_durable", SERVICE_UNAVAILABLE, "The change was made but may be lost yet";
    NotReady: "not_ready", SERVICE_UNAVAILABLE, "The gateway cannot decide about requests";
}
