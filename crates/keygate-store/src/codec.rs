//! How records are written down: `{"v":1,"record":{…}}`, the same text in every store. A reader
//! ignores fields that it does not know and refuses versions that it does not know.

mod limits;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use keygate_core::key::PepperId;
use keygate_core::limit::terms::Overrides;
use keygate_core::{
    AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Scope, TokenId, UnixMillis,
};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Role,
    TokenStatus, Version,
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
record!(AdminToken, "token", "TokenForm");
record!(AuditEntry, "audit", "AuditForm");

/// The fields of a record as they are written down.
pub(crate) fn fields(record: &impl Record) -> Map<String, Value> {
    let read = |bytes: Vec<u8>| serde_json::from_slice::<Envelope<_>>(&bytes).ok();
    // A record of ours has JSON, and that is an object.
    record.encode().ok().and_then(read).map(|envelope| envelope.record).unwrap_or_default()
}

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(with = "word")]
    environment: Environment,
    #[serde(with = "texts")]
    granted_scopes: Vec<Scope>,
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    tier: Option<String>,
    #[serde(default, with = "option_span", skip_serializing_if = "Option::is_none")]
    max_age: Option<Duration>,
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
    // `null` for a key of another system: an older program refuses such a record, as it must.
    #[serde(with = "option_text")]
    pepper: Option<PepperId>,
    #[serde(with = "text")]
    app: AppId,
    #[serde(with = "text")]
    account: AccountId,
    #[serde(with = "word")]
    kind: KeyKind,
    #[serde(with = "word")]
    environment: Environment,
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    hint: String,
    #[serde(with = "texts")]
    scopes: Vec<Scope>,
    #[serde(with = "option_millis")]
    expires_at: Option<UnixMillis>,
    tier: Option<String>,
    #[serde(default, with = "limits", skip_serializing_if = "Option::is_none")]
    limits: Option<Box<Overrides>>,
    // A list that restricts must not be read as empty when it is missing: empty allows all.
    #[serde(with = "texts")]
    allowed_cidrs: Vec<IpNet>,
    allowed_origins: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, with = "option_text", skip_serializing_if = "Option::is_none")]
    rotated_from: Option<KeyId>,
    #[serde(default, with = "option_text", skip_serializing_if = "Option::is_none")]
    rotated_to: Option<KeyId>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    changes: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AdminToken")]
struct TokenForm {
    #[serde(with = "text")]
    id: TokenId,
    name: String,
    #[serde(with = "RoleForm")]
    role: Role,
    #[serde(with = "hex_bytes")]
    sha256: [u8; 32],
    #[serde(with = "TokenStatusForm")]
    status: TokenStatus,
    // What restricts must not be read as nothing when it is missing.
    #[serde(with = "option_millis")]
    expires_at: Option<UnixMillis>,
    #[serde(with = "millis")]
    created_at: UnixMillis,
    #[serde(with = "millis")]
    updated_at: UnixMillis,
    #[serde(with = "VersionForm")]
    version: Version,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Role", rename_all = "snake_case")]
enum RoleForm {
    Viewer,
    Issuer(#[serde(with = "texts")] Vec<AccountId>),
    Admin,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "TokenStatus", rename_all = "snake_case")]
enum TokenStatusForm {
    Active,
    Revoked {
        #[serde(with = "millis")]
        at: UnixMillis,
    },
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

mod option_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<impl Display>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(to)
    }

    pub(super) fn deserialize<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Whole seconds.
mod option_span {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|span| span.as_secs()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::deserialize(from)?.map(Duration::from_secs))
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

/// 32 bytes as 64 hex digits.
mod hex_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        hex::serialize(&KeyDigest::from_bytes(*bytes), to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        Ok(*hex::deserialize(from)?.as_bytes())
    }
}

/// A digest from 64 hex digits.
pub(crate) fn digest_from_hex(text: &str) -> Option<KeyDigest> {
    hex::parse(text)
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

    pub(super) fn parse(text: &str) -> Option<KeyDigest> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{NOW, account, app, audit, key, revoked};

    fn check_round_trip<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
        assert_eq!(R::decode(&record.encode().unwrap()).unwrap(), *record);
    }

    fn as_json(record: &impl Record) -> Value {
        serde_json::from_slice(&record.encode().unwrap()).unwrap()
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let (account, app) = (account(1), app(1, &account(1)));
        let key = key(1, &app);
        check_round_trip(&account);
        check_round_trip(&Account { status: AccountStatus::Suspended, ..account });
        check_round_trip(&App { status: AppStatus::Disabled, tier: None, ..app });
        check_round_trip(&revoked(&key));
        check_round_trip(&Key { status: KeyStatus::Disabled, ..key.clone() });
        check_round_trip(&Key { expires_at: None, name: None, ..key });
        check_round_trip(&audit("key.create"));
    }

    proptest! {
        #[test]
        fn any_text_and_number_survives(name in ".*", hint in ".*", number: u64, bytes: [u8; 32]) {
            let mut key = key(1, &app(1, &account(1)));
            key.digest = KeyDigest::from_bytes(bytes);
            key.metadata = Metadata::from([(name.clone(), hint.clone())]);
            (key.name, key.hint) = (Some(name), hint);
            key.expires_at = Some(UnixMillis(number));
            key.version = Version(number);
            prop_assert_eq!(Key::decode(&key.encode().unwrap()).unwrap(), key);
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            prop_assert!(Key::decode(&bytes).is_err());
        }
    }

    /// What is on somebody's disk already must stay readable: this text may be added to, not changed.
    #[test]
    fn the_form_of_version_1_stays_as_it_is() {
        let revoked = revoked(&key(1, &app(1, &account(1))));
        let expected = json!({
            "v": 1,
            "record": {
                "id": revoked.id.to_string(),
                "digest": "cd2662154e6d76b2b2b92e70c0cac3ccf534f9b74eb5b89819ec509083d00a50",
                "pepper": "0707070707070707",
                "app": revoked.app.to_string(),
                "account": revoked.account.to_string(),
                "kind": "pk",
                "environment": "live",
                "name": "key 1",
                "hint": "pk_live_abcd",
                "scopes": ["read:orders", "write:users"],
                "expires_at": u64::MAX,
                "tier": null,
                "allowed_cidrs": ["192.0.2.0/24"],
                "allowed_origins": ["https://Example.com"],
                "metadata": {},
                "status": {"revoked": {"at": NOW.0, "reason": "leaked"}},
                "created_at": 1,
                "updated_at": 1,
                "version": 0,
            },
        });
        assert_eq!(as_json(&revoked), expected);
    }

    #[test]
    fn fields_of_a_later_program_are_passed_over() {
        let account = account(1);
        let mut json = as_json(&account);
        json["record"]["colour"] = json!("blue");
        json["shard"] = json!(7);
        assert_eq!(Account::decode(json.to_string().as_bytes()).unwrap(), account);
    }

    #[test]
    fn a_newer_version_is_named_whatever_it_holds() {
        for newer in [r#"{"v":2,"record":null}"#, r#"{"v":2}"#] {
            let error = Key::decode(newer.as_bytes()).unwrap_err();
            assert!(matches!(error, CodecError::Newer { found: 2 }), "{error:?}");
        }
        let mut json = as_json(&account(1));
        json["v"] = json!(2);
        let error = Account::decode(json.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, CodecError::Newer { found: 2 }), "{error:?}");
    }

    /// A restriction that got lost must not be read as none.
    #[test]
    fn a_record_without_a_field_that_restricts_is_refused() {
        let whole = as_json(&key(1, &app(1, &account(1))));
        for field in ["scopes", "expires_at", "allowed_cidrs", "allowed_origins", "status"] {
            let mut json = whole.clone();
            json["record"].as_object_mut().unwrap().remove(field).unwrap();
            let error = Key::decode(json.to_string().as_bytes()).unwrap_err();
            assert!(matches!(error, CodecError::Malformed(_)), "{field}: {error:?}");
        }
        let whole = as_json(&app(1, &account(1)));
        for field in ["granted_scopes", "allowed_cidrs", "status"] {
            let mut json = whole.clone();
            json["record"].as_object_mut().unwrap().remove(field).unwrap();
            assert!(App::decode(json.to_string().as_bytes()).is_err(), "{field}");
        }
    }
}
