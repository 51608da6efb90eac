//! What the server answered, as records. An answer of another shape is damage, never absence. Errors
//! hold no contents.

use redis::Value;

use super::layout;
use crate::audit::Link;
use crate::codec::Record;
use crate::keys::{ChangeNumber, StoreError};
use crate::records::{AuditEntry, Key, Logged, Seal};

#[derive(Debug, thiserror::Error)]
#[error("what lies there is not what belongs there")]
pub(super) struct Malformed;

/// An index or a record names a record that is not there.
#[derive(Debug, thiserror::Error)]
#[error("the {0} that another record names is not there")]
pub(super) struct Dangling(pub(super) &'static str);

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unreadable(Box::new(error))
}

/// A record, if it is there.
pub(super) fn record<R: Record>(value: &Value) -> Result<Option<R>, StoreError> {
    if *value == Value::Nil {
        return Ok(None);
    }
    R::decode(bytes(value)?).map(Some).map_err(unreadable)
}

/// A record that another one names, so that its absence is damage.
pub(super) fn named<R: Record>(value: &Value) -> Result<R, StoreError> {
    record(value)?.ok_or_else(|| unreadable(Dangling(R::NAME)))
}

/// The key in a key's value, which an index names.
pub(super) fn named_key(value: &Value) -> Result<Key, StoreError> {
    if *value == Value::Nil {
        return Err(unreadable(Dangling(Key::NAME)));
    }
    key(bytes(value)?)
}

/// The key in a key's value.
pub(super) fn key(value: &[u8]) -> Result<Key, StoreError> {
    let json = layout::key_json(value).ok_or_else(|| unreadable(Malformed))?;
    Key::decode(json).map_err(unreadable)
}

/// An entry of the log. One of another shape is there, and unreadable.
pub(super) fn log_entry(value: Value) -> Result<Logged, StoreError> {
    let [id, fields] = array(value)?;
    let (number, part) = text(&id)?.split_once('-').ok_or_else(|| unreadable(Malformed))?;
    let number = ChangeNumber(number.parse().map_err(|_| unreadable(Malformed))?);
    let fields = items(fields)?;
    let field = |wanted: &[u8]| {
        let mut pairs = fields.as_chunks::<2>().0.iter();
        let value = pairs.find(|[name, _]| matches!(bytes(name), Ok(name) if name == wanted));
        value.and_then(|[_, value]| bytes(value).ok())
    };
    let json = field(b"a").unwrap_or_default();
    let link = field(b"h").map(<[u8; 32]>::try_from);
    let is_ours = part == "0" && link.is_none_or(|link| link.is_ok());
    let entry = AuditEntry::decode(json).ok().filter(|_| is_ours);
    let seal = link.and_then(Result::ok);
    let seal = seal.map(|link| Seal { link: Link(link), bytes: json.to_vec() });
    Ok(Logged { number, entry: entry.unwrap_or_else(AuditEntry::unreadable), seal })
}

pub(super) fn array<const N: usize>(value: Value) -> Result<[Value; N], StoreError> {
    items(value)?.try_into().map_err(|_| unreadable(Malformed))
}

pub(super) fn items(value: Value) -> Result<Vec<Value>, StoreError> {
    if let Value::Array(items) = value { Ok(items) } else { Err(unreadable(Malformed)) }
}

/// A hash: its fields with their values.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, StoreError> {
    if let Value::Map(pairs) = value { Ok(pairs) } else { Err(unreadable(Malformed)) }
}

pub(super) fn bytes(value: &Value) -> Result<&[u8], StoreError> {
    if let Value::BulkString(bytes) = value { Ok(bytes) } else { Err(unreadable(Malformed)) }
}

pub(super) fn text(value: &Value) -> Result<&str, StoreError> {
    str::from_utf8(bytes(value)?).map_err(unreadable)
}

pub(super) fn number<T: std::str::FromStr>(value: &Value) -> Result<T, StoreError> {
    text(value)?.parse().map_err(|_| unreadable(Malformed))
}

/// A value, if there is one.
pub(super) fn into_bytes(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    if value == Value::Nil {
        return Ok(None);
    }
    if let Value::BulkString(bytes) = value { Ok(Some(bytes)) } else { Err(unreadable(Malformed)) }
}
