//! How records are written down: `{"v":1,"record":{…}}`, the same text in every store. A reader
//! ignores fields that it does not know and refuses versions that it does not know.

use std::fmt::Display;
use std::str::FromStr;

use ipnet::IpNet;
use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Scope, UnixMillis};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::records::{
    Account, AccountStatus, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Version,
};

/// The version that is written, and the newest that can be read.
const RECORD_VERSION: u32 = 1;

/// A record that can be written down.
pub(crate) trait Record: Sized {
    /// What the record is called where it is stored.
    const NAME: &'static str;

    /// # Errors
    /// [`CodecError::Malformed`] when the record has no JSON; none of ours lacks one.
    fn encode(&self) -> Result<Vec<u8>, CodecError>;

    /// # Errors
    /// [`CodecError`] when it was written by a newer version, or is not such a record.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the record has version {found}; this program reads up to {RECORD_VERSION}")]
    Newer { found: u32 },
    #[error("the record is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// Gives a public record its stored form, which the compiler checks field by field.
macro_rules! record {
    ($record:ty, $name:literal, $form:literal) => {
        impl Record for $record {
            const NAME: &'static str = $name;

            fn encode(&self) -> Result<Vec<u8>, CodecError> {
                #[derive(Serialize)]
                struct Form<'a>(#[serde(with = $form)] &'a $record);
                write(&Form(self))
            }

            fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                #[derive(Deserialize)]
                struct Form(#[serde(with = $form)] $record);
                read::<Form>(bytes).map(|form| form.0)
            }
        }
    };
}

record!(Account, "account", "AccountForm");
record!(App, "app", "AppForm");
record!(Key, "key", "KeyForm");
record!(AuditEntry, "audit", "AuditForm");

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    record: T,
}

fn write(record: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(&Envelope { v: RECORD_VERSION, record }).map_err(CodecError::Malformed)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    /// All that every version has in common.
    #[derive(Deserialize)]
    struct AnyVersion {
        v: u32,
    }
    let found = match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(Envelope { v: RECORD_VERSION, record }) => return Ok(record),
        Ok(Envelope { v, .. }) => v,
        // A newer record need not have our fields; say that it is newer rather than malformed.
        Err(malformed) => match serde_json::from_slice(bytes) {
            Ok(AnyVersion { v }) if v != RECORD_VERSION => v,
            Ok(_) | Err(_) => return Err(CodecError::Malformed(malformed)),
        },
    };
    Err(CodecError::Newer { found })
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Account")]
struct AccountForm {
    #[serde(with = "text")]
    id: AccountId,
    name: String,
    #[serde(with = "AccountStatusForm")]
    status: AccountStatus,
    #[serde(default)]
    metadata: Metadata,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AccountStatus", rename_all = "snake_case")]
enum AccountStatusForm {
    Active,
    Suspended,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Version")]
struct VersionForm(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "App")]
struct AppForm {
    #[serde(with = "text")]
    id: AppId,
    #[serde(with = "text")]
    account: AccountId,
    name: String,
    #[serde(with = "word")]
    environment: Environment,
    #[serde(with = "texts")]
    granted_scopes: Vec<Scope>,
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    tier: Option<String>,
    #[serde(with = "AppStatusForm")]
    status: AppStatus,
    #[serde(default)]
    metadata: Metadata,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AppStatus", rename_all = "snake_case")]
enum AppStatusForm {
    Active,
    Disabled,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Key")]
struct KeyForm {
    #[serde(with = "text")]
    id: KeyId,
    #[serde(with = "hex")]
    digest: KeyDigest,
    #[serde(with = "text")]
    pepper: PepperId,
    #[serde(with = "text")]
    app: AppId,
    #[serde(with = "text")]
    account: AccountId,
    #[serde(with = "word")]
    kind: KeyKind,
    #[serde(with = "word")]
    environment: Environment,
    name: Option<String>,
    hint: String,
    #[serde(with = "texts")]
    scopes: Vec<Scope>,
    #[serde(with = "option_millis")]
    expires_at: Option<UnixMillis>,
    tier: Option<String>,
    // A list that restricts must not be read as empty when it is missing: empty allows all.
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    allowed_origins: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(with = "KeyStatusForm")]
    status: KeyStatus,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "KeyStatus", rename_all = "snake_case")]
enum KeyStatusForm {
    Active,
    Disabled,
    Revoked {
        #[serde(with = "millis")]
        at: UnixMillis,
        reason: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AuditEntry")]
struct AuditForm {
    #[serde(with = "millis")]
    at: UnixMillis,
    actor: String,
    action: String,
    subject: String,
    hint: Option<String>,
    from: Option<std::net::IpAddr>,
    reason: Option<String>,
}

/// What is written as its `Display` and read by its `FromStr`.
mod text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod texts {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        values: &[impl Display],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// The short words that keys are made of.
mod word {
    use super::*;

    pub(super) trait Word: FromStr<Err: Display> {
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

    pub(super) fn serialize<S: Serializer>(value: &impl Word, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.word())
    }

    pub(super) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: Word,
    {
        text::deserialize(from)
    }
}

mod millis {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &UnixMillis, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UnixMillis, D::Error> {
        u64::deserialize(from).map(UnixMillis)
    }
}

mod option_millis {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<UnixMillis>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|millis| millis.0).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<UnixMillis>, D::Error> {
        Ok(Option::deserialize(from)?.map(UnixMillis))
    }
}

mod hex {
    use super::*;

    pub(super) fn serialize<S: Serializer>(digest: &KeyDigest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Hex(digest))
    }

    struct Hex<'a>(&'a KeyDigest);

    impl Display for Hex<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyDigest, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom("expected 64 hex digits"))
    }

    fn parse(text: &str) -> Option<KeyDigest> {
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
