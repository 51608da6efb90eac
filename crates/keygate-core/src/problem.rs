//! Problem codes: what a client is told, RFC 9457. A published code never changes its meaning.

/// Every way in which the gateway itself answers a request. Closed: each has one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    BadRequest,
    AmbiguousPath,
    AmbiguousCredentials,
    ApiKeyMissing,
    ApiKeyInvalid,
    ApiKeyExpired,
    EnvironmentMismatch,
    IpNotAllowed,
    OriginNotAllowed,
    PermissionDenied,
    RouteNotFound,
    MethodNotAllowed,
    PayloadTooLarge,
    HeadersTooLarge,
    TooManyFailures,
    ConcurrencyExceeded,
    RateLimitExceeded,
    QuotaExceeded,
    KeyStoreUnavailable,
    UpstreamError,
    UpstreamUnavailable,
    UpstreamTimeout,
    Internal,
}

impl Code {
    /// Every code, in the order of its discriminant, so that a table can be indexed by one.
    pub const ALL: [Self; 23] = [
        Self::BadRequest,
        Self::AmbiguousPath,
        Self::AmbiguousCredentials,
        Self::ApiKeyMissing,
        Self::ApiKeyInvalid,
        Self::ApiKeyExpired,
        Self::EnvironmentMismatch,
        Self::IpNotAllowed,
        Self::OriginNotAllowed,
        Self::PermissionDenied,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::HeadersTooLarge,
        Self::TooManyFailures,
        Self::ConcurrencyExceeded,
        Self::RateLimitExceeded,
        Self::QuotaExceeded,
        Self::KeyStoreUnavailable,
        Self::UpstreamError,
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::Internal,
    ];

    /// The code as clients see it, and as the metrics' `outcome`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The same sentence for every occurrence (RFC 9457 section 3.1.3).
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", 400, "The request is malformed"),
            Self::AmbiguousPath => ("ambiguous_path", 400, "The path can be read in two ways"),
            Self::AmbiguousCredentials => {
                ("ambiguous_credentials", 400, "More than one API key was sent")
            }
            Self::ApiKeyMissing => ("api_key_missing", 401, "An API key is required"),
            Self::ApiKeyInvalid => ("api_key_invalid", 401, "The API key is not valid"),
            Self::ApiKeyExpired => ("api_key_expired", 401, "The API key has expired"),
            Self::EnvironmentMismatch => {
                ("environment_mismatch", 403, "The key belongs to another environment")
            }
            Self::IpNotAllowed => {
                ("ip_not_allowed", 403, "The key may not be used from this address")
            }
            Self::OriginNotAllowed => {
                ("origin_not_allowed", 403, "The key may not be used from this origin")
            }
            Self::PermissionDenied => ("permission_denied", 403, "The key lacks a required scope"),
            Self::RouteNotFound => ("route_not_found", 404, "There is nothing here"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "The method is not allowed here"),
            Self::PayloadTooLarge => ("payload_too_large", 413, "The request body is too large"),
            Self::HeadersTooLarge => {
                ("headers_too_large", 431, "The request headers are too large")
            }
            Self::TooManyFailures => {
                ("too_many_failures", 429, "Too many failed attempts from this address")
            }
            Self::ConcurrencyExceeded => {
                ("concurrency_exceeded", 429, "Too many requests are running at once")
            }
            Self::RateLimitExceeded => {
                ("rate_limit_exceeded", 429, "Requests come faster than the key may send them")
            }
            Self::QuotaExceeded => ("quota_exceeded", 429, "The quota is used up"),
            Self::KeyStoreUnavailable => {
                ("key_store_unavailable", 503, "The key cannot be checked right now")
            }
            Self::UpstreamError => ("upstream_error", 502, "The service behind the gateway failed"),
            Self::UpstreamUnavailable => {
                ("upstream_unavailable", 503, "The service behind the gateway is unavailable")
            }
            Self::UpstreamTimeout => {
                ("upstream_timeout", 504, "The service behind the gateway took too long")
            }
            Self::Internal => ("internal", 500, "The gateway failed"),
        }
    }

    /// What is wrong and what to do about it, when there is nothing more particular to say.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::BadRequest => "Send one well-formed HTTP request.",
            Self::AmbiguousPath => "Send the path in its plain form.",
            Self::AmbiguousCredentials => {
                "Send exactly one API key, in one place: `Authorization` or `X-API-Key`."
            }
            Self::ApiKeyMissing => {
                "Send your key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."
            }
            Self::ApiKeyInvalid => "Check the key, or ask for a new one.",
            Self::ApiKeyExpired => "Ask for a new key.",
            Self::EnvironmentMismatch => {
                "Use a live key on live routes and a test key on test routes."
            }
            Self::IpNotAllowed => "Call from an allowed network, or have the list extended.",
            Self::OriginNotAllowed => "Call from an allowed origin, or have the list extended.",
            Self::PermissionDenied => "Use a key that has the required scopes.",
            Self::RouteNotFound => "Check the host and the path.",
            Self::MethodNotAllowed => "Use one of the methods in `Allow`.",
            Self::PayloadTooLarge => "Send a smaller body.",
            Self::HeadersTooLarge => "Send fewer or shorter headers.",
            Self::TooManyFailures => "Wait, then send a valid key.",
            Self::ConcurrencyExceeded => "Wait until one of your requests has ended.",
            Self::RateLimitExceeded => "Wait as long as `Retry-After` says, then go slower.",
            Self::QuotaExceeded => "Wait until the quota starts anew, or have it raised.",
            Self::KeyStoreUnavailable => "Your key was not refused. Try again shortly.",
            Self::UpstreamError => "Try again; if it persists, tell the operator.",
            Self::UpstreamUnavailable => "Try again shortly.",
            Self::UpstreamTimeout => "Try again; the request may have been carried out.",
            Self::Internal => "Tell the operator the request id.",
        }
    }

    /// The gRPC status for a refused call (`grpc/doc/statuscodes.md`).
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        match self.status() {
            401 => 16,
            403 => 7,
            429 | 413 | 431 => 8,
            404 | 405 => UNIMPLEMENTED,
            502..=504 => UNAVAILABLE,
            _ => INTERNAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_indexed_by_discriminant() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
            assert!(Code::ALL.iter().filter(|c| c.as_str() == code.as_str()).count() == 1);
            assert!((400..600).contains(&code.status()));
        }
    }
}
