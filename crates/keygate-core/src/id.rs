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
            #[inline]
            #[must_use]
            pub fn text(self) -> [u8; Self::LENGTH] {
                let mut text = [0; Self::LENGTH];
                if let Some((prefix, id)) = text.split_last_chunk_mut() {
                    prefix.copy_from_slice(Self::PREFIX.as_bytes());
                    *id = base32(self.as_u128());
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

/// A ULID's letters and digits, those of Crockford's base 32.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Two of them for each number of ten bits, so that a text takes half as many steps.
#[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
static PAIRS: [[u8; 2]; 1 << 10] = {
    let mut pairs = [[0; 2]; 1 << 10];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [DIGITS[number >> 5], DIGITS[number & 0x1f]];
        number += 1;
    }
    pairs
};

/// A ULID's text, from its end: ten bits for each two digits, and eight for the first two. Code for all
/// kinds of ids, so that it is still in the processor's cache for the second one.
#[inline(never)]
fn base32(mut number: u128) -> [u8; ulid::ULID_LEN] {
    let mut text = [0; ulid::ULID_LEN];
    let (places, _) = text.as_chunks_mut();
    for place in places.iter_mut().rev() {
        let last = (number & 0x3ff) as usize;
        *place = PAIRS.get(last).copied().unwrap_or_default();
        number >>= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_text_is_the_one_that_everybody_writes(number: u128, at in 0_u32..128) {
            // Also those with few bits.
            for number in [number, number >> at, 1 << at, u128::MAX >> at] {
                let id = AccountId(Ulid(number));
                let text = String::from_utf8(id.text().into()).unwrap();
                prop_assert_eq!(&text, &format!("acct_{}", Ulid(number)));
                prop_assert_eq!(text.parse::<AccountId>(), Ok(id));
            }
        }
    }
}
