//! What is written into files of use, as numbers that keep their meaning from version to version.

use keygate_core::problem::Code;
use keygate_core::{KeyId, UnixMillis};

/// A number that this version has no meaning for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unknown;

/// Never 0. A number is never given to another code.
pub(super) const fn number(code: Code) -> u8 {
    match code {
        Code::BadRequest => 1,
        Code::AmbiguousPath => 2,
        Code::AmbiguousCredentials => 3,
        Code::ApiKeyMissing => 4,
        Code::ApiKeyInvalid => 5,
        Code::ApiKeyExpired => 6,
        Code::EnvironmentMismatch => 7,
        Code::IpNotAllowed => 8,
        Code::OriginNotAllowed => 9,
        Code::PermissionDenied => 10,
        Code::RouteNotFound => 11,
        Code::MethodNotAllowed => 12,
        Code::PayloadTooLarge => 13,
        Code::HeadersTooLarge => 14,
        Code::TooManyFailures => 15,
        Code::ConcurrencyExceeded => 16,
        Code::RateLimitExceeded => 17,
        Code::QuotaExceeded => 18,
        Code::KeyStoreUnavailable => 19,
        Code::UpstreamError => 20,
        Code::UpstreamUnavailable => 21,
        Code::UpstreamTimeout => 22,
        Code::Internal => 23,
    }
}

pub(super) fn code(of: u8) -> Result<Code, Unknown> {
    Code::ALL.into_iter().find(|&code| number(code) == of).ok_or(Unknown)
}

pub(super) fn key_id(id: u128) -> KeyId {
    let [a, b, c, d, e, f, entropy @ ..] = id.to_be_bytes();
    KeyId::new(UnixMillis(u64::from_be_bytes([0, 0, a, b, c, d, e, f])), entropy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ids_come_back_as_they_went() {
        for one in Code::ALL {
            assert_ne!(number(one), 0);
            assert_eq!(code(number(one)), Ok(one));
        }
        assert_eq!(code(0), Err(Unknown));
        for entropy in [[0; 10], [255; 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
            let id = KeyId::new(UnixMillis(1_700_000_000_123), entropy);
            assert_eq!(key_id(id.as_u128()), id);
        }
    }
}
