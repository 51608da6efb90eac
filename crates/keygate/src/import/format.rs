//! What a file is: the systems that keys can come from, and how to tell their files apart.

use jiff::Timestamp;
use keygate_core::Environment;
use serde_json::Value;

use super::findings::Findings;
use super::record::Record;
use super::scopes::ScopeRules;
use super::{csv, jsonl, kong, tyk, unkey};

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A header row, then a row for each key
    Csv,
    /// An object for each key, one a line
    Jsonl,
    /// Kong's declarative file
    Kong,
    /// Tyk's session objects
    Tyk,
    /// A body of Unkey's keys.migrateKeys
    Unkey,
}

impl Format {
    /// What the API calls it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Kong => "kong",
            Self::Tyk => "tyk",
            Self::Unkey => "unkey",
        }
    }

    pub(super) fn read(
        self,
        text: &[u8],
        rules: &ScopeRules,
        exported: Option<Timestamp>,
        environment: Environment,
        findings: &mut Findings,
    ) -> Vec<Record> {
        match self {
            Self::Csv => csv::read(text, findings),
            Self::Jsonl => jsonl::read(text, findings),
            Self::Kong => kong::read(text, rules, exported, findings),
            Self::Tyk => tyk::read(text, rules, findings),
            Self::Unkey => unkey::read(text, rules, environment, findings),
        }
    }

    /// Nothing if it could be several.
    pub(super) fn detect(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
        if !matches!(text.first(), Some(b'{' | b'[')) {
            let mut lines = text.split(|byte| *byte == b'\n');
            let is_kong = lines.any(|line| line.starts_with(b"_format_version"));
            return Some(if is_kong { Self::Kong } else { Self::Csv });
        }
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = serde_json::from_slice(line);
        match first.or_else(|_| serde_json::from_slice(text)).ok()? {
            Value::Array(items) => of_item(items.first()?),
            value @ Value::Object(_) if value.get("_format_version").is_some() => Some(Self::Kong),
            value @ Value::Object(_) if value.get("keys").is_some_and(Value::is_array) => {
                Some(Self::Unkey)
            }
            Value::Object(members) => {
                let item = Value::Object(members);
                of_item(&item).or_else(|| {
                    let mut values = item.as_object().into_iter().flat_map(|all| all.values());
                    values.all(Value::is_object).then_some(Self::Tyk)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }
}

/// By the members of one key.
fn of_item(item: &Value) -> Option<Format> {
    let has = |names: &[&str]| names.iter().any(|name| item.get(name).is_some());
    let is_session =
        ["session", "data"].iter().any(|name| item.get(name).is_some_and(Value::is_object));
    if is_session && has(&["key", "key_id", "key_hash", "hash"]) {
        return Some(Format::Tyk);
    }
    if has(&["hash", "plaintext"]) {
        return Some(Format::Unkey);
    }
    has(&["key", "sha256"]).then_some(Format::Jsonl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_whose_it_is() {
        for (text, format) in [
            ("key,app\nk1,a", Some(Format::Csv)),
            ("", Some(Format::Csv)),
            ("# a comment\n_format_version: \"3.0\"\n", Some(Format::Kong)),
            ("{\"_format_version\": \"3.0\"}", Some(Format::Kong)),
            ("\n{\"key\":\"k1\"}\n{\"key\":\"k2\"}", Some(Format::Jsonl)),
            ("\u{feff}{\"sha256\":\"00\"}", Some(Format::Jsonl)),
            ("{\"key\":\"k1\",\"session\":{}}\n", Some(Format::Tyk)),
            ("[{\"key_hash\":\"00\",\"data\":{}}]", Some(Format::Tyk)),
            ("{\n \"k1\": {},\n \"k2\": {}}", Some(Format::Tyk)),
            ("{\"migrationId\":\"m\",\"keys\":[]}", Some(Format::Unkey)),
            ("[{\"hash\":\"x\"}]", Some(Format::Unkey)),
            ("[]", None),
            ("{\"a\":1}", None),
            ("[1]", None),
            ("{\"key\":", None),
        ] {
            assert_eq!(Format::detect(text.as_bytes()), format, "{text}");
        }
    }
}
