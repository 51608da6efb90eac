//! How the values in a record are written.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use keygate_core::{Environment, KeyDigest, KeyKind, UnixMillis};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is written as its `Display` and read by its `FromStr`.
pub(super) mod text {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &impl Display,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::codec) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

pub(super) mod option_text {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &Option<impl Display>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(to)
    }

    pub(in crate::codec) fn deserialize<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Whole seconds.
pub(super) mod option_span {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|span| span.as_secs()).serialize(to)
    }

    pub(in crate::codec) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::deserialize(from)?.map(Duration::from_secs))
    }
}

pub(super) mod texts {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        values: &[impl Display],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(in crate::codec) fn deserialize<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// The short words that keys are made of.
pub(super) mod word {
    use super::*;

    pub(in crate::codec) trait Word: FromStr<Err: Display> {
        fn word(&self) -> &'static str;
    }

    impl Word for Environment {
        fn word(&self) -> &'static str {
            self.as_str()
        }
    }

    impl Word for KeyKind {
        fn word(&self) -> &'static str {
            self.as_str()
        }
    }

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &impl Word,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.word())
    }

    pub(in crate::codec) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: Word,
    {
        text::deserialize(from)
    }
}

pub(super) mod millis {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &UnixMillis,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.0)
    }

    pub(in crate::codec) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<UnixMillis, D::Error> {
        u64::deserialize(from).map(UnixMillis)
    }
}

pub(super) mod option_millis {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        value: &Option<UnixMillis>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|millis| millis.0).serialize(to)
    }

    pub(in crate::codec) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<UnixMillis>, D::Error> {
        Ok(Option::deserialize(from)?.map(UnixMillis))
    }
}

/// 32 bytes as 64 hex digits.
pub(super) mod hex_bytes {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        bytes: &[u8; 32],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        hex::serialize(&KeyDigest::from_bytes(*bytes), to)
    }

    pub(in crate::codec) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[u8; 32], D::Error> {
        Ok(*hex::deserialize(from)?.as_bytes())
    }
}

/// A digest from 64 hex digits.
pub(crate) fn digest_from_hex(text: &str) -> Option<KeyDigest> {
    hex::parse(text)
}

pub(super) mod hex {
    use super::*;

    pub(in crate::codec) fn serialize<S: Serializer>(
        digest: &KeyDigest,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&Hex(digest))
    }

    struct Hex<'a>(&'a KeyDigest);

    impl Display for Hex<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }

    pub(in crate::codec) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<KeyDigest, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom("expected 64 hex digits"))
    }

    pub(in crate::codec) fn parse(text: &str) -> Option<KeyDigest> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut digest = [0; 32];
        if pairs.len() != digest.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(KeyDigest::from_bytes(digest))
    }

    fn nibble(digit: u8) -> Option<u8> {
        char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
    }
}
