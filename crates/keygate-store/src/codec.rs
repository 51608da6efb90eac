//! How records are written down: `{"v":1,"record":{…}}`, the same text in every store. A reader
//! ignores fields that it does not know and refuses versions that it does not know.

mod forms;
mod limits;
pub(crate) mod usage;
mod values;

use keygate_core::UnixMillis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::forms::{AccountForm, AppForm, AuditForm, DoneOnceForm, KeyForm, TokenForm};
pub(crate) use self::values::digest_from_hex;
use crate::keys::MadeRecord;
use crate::records::{Account, AdminToken, App, AuditEntry, Key};

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
record!(DoneOnce, "once", "DoneOnceForm");

/// A change that was carried out once, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoneOnce {
    /// What was asked for.
    pub request: [u8; 32],
    /// When it is to be forgotten.
    pub until: UnixMillis,
    pub made: MadeRecord,
}

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

#[cfg(test)]
mod tests;
