//! Names of records: a prefix that says what it is, and a ULID, so that ids sort by creation.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::time::UnixMillis;

/// A text is not an id of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind: expected `{prefix}` and 26 letters or digits")]
pub struct InvalidId {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;
            /// Of its text, in bytes.
            pub const LENGTH: usize = $prefix.len() + ulid::ULID_LEN;

            /// Builds an id from the moment of creation and 80 random bits.
            #[must_use]
            pub fn new(now: UnixMillis, entropy: [u8; 10]) -> Self {
                let mut random = [0; 16];
                if let Some(low) = random.get_mut(6..) {
                    low.copy_from_slice(&entropy);
                }
                Self(Ulid::from_parts(now.0, u128::from_be_bytes(random)))
            }

            /// The id without its prefix, as a number.
            #[must_use]
            pub fn as_u128(self) -> u128 {
                self.0.0
            }
        }

        impl $name {
            /// As `Display` writes it, without its machinery.
            #[must_use]
            pub fn text(self) -> [u8; Self::LENGTH] {
                let mut text = [0; Self::LENGTH];
                let (prefix, id) = text.split_at_mut(Self::PREFIX.len());
                prefix.copy_from_slice(Self::PREFIX.as_bytes());
                if let Ok(id) = id.try_into() {
                    self.0.array_to_str(id);
                }
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                f.write_str(Self::PREFIX)?;
                f.write_str(self.0.array_to_str(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Accepts only the one spelling that `Display` writes, so that an id has one name.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { prefix: Self::PREFIX };
                let rest = text.strip_prefix(Self::PREFIX).ok_or(invalid)?;
                let id = Self(Ulid::from_string(rest).map_err(|_| invalid)?);
                if id.to_string() == text { Ok(id) } else { Err(invalid) }
            }
        }
    };
}

id!(
    /// An account: who pays.
    AccountId, "acct_"
);
id!(
    /// An app: one integration of an account.
    AppId, "app_"
);
id!(
    /// A key. Names the record; says nothing about the secret.
    KeyId, "key_"
);
id!(
    /// An admin token. Names the record; says nothing about the secret.
    TokenId, "tok_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = KeyId::new(UnixMillis(1_700_000_000_000), [7; 10]);
        let text = id.to_string();
        assert_eq!(text.len(), 30);
        assert_eq!(text.parse::<KeyId>(), Ok(id));
        assert_eq!(text.as_bytes(), id.text());
        assert!(text.to_lowercase().parse::<KeyId>().is_err());
        assert!(text.replace("key_", "app_").parse::<KeyId>().is_err());
        assert!("key_".parse::<KeyId>().is_err());
    }

    #[test]
    fn ids_sort_by_creation() {
        let early = KeyId::new(UnixMillis(1), [255; 10]);
        let late = KeyId::new(UnixMillis(2), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
    }
}
