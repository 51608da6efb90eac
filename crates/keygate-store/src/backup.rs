//! The text of an export: JSON lines, one record each, in the form in which every store keeps it. A
//! first line says what it is, and a last one how much there is, so that a part is known as one.
//!
//! Holds keys by their digests alone. Knows no file and no store.

use keygate_core::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::codec::{CodecError, Record};
use crate::keys::StoredRecord;
use crate::records::{Account, App, Key};

/// The version that is written, and the newest that can be read.
const VERSION: u64 = 1;
/// The longest line that is read, in bytes. The longest record that the admin API lets through is a
/// tenth of that.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lines come one at a time, and nearly all are records"
)]
pub enum Line {
    /// The first one.
    Start {
        at: UnixMillis,
    },
    Record(StoredRecord),
    /// The last one: how many records there are before it.
    End(Counts),
}

/// How many records of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub accounts: u64,
    pub apps: u64,
    pub keys: u64,
}

impl Counts {
    pub fn count(&mut self, record: &StoredRecord) {
        match record {
            StoredRecord::Account(_) => self.accounts += 1,
            StoredRecord::App(_) => self.apps += 1,
            StoredRecord::Key(_) => self.keys += 1,
        }
    }
}

/// Why a line is none of an export. Says nothing of what is in it.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("the line is not JSON of an export")]
    NotALine,
    #[error("the export has version {found}; this program reads up to {VERSION}")]
    Newer { found: u64 },
    #[error("the {kind} in it cannot be read")]
    Record { kind: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Line {
    /// The line with its end.
    ///
    /// # Errors
    /// [`LineError::Record`] when a record has no JSON; none of ours lacks one.
    pub fn encode(&self) -> Result<Vec<u8>, LineError> {
        let mut text = match self {
            Self::Start { at } => {
                format!(r#"{{"keygate":"export","v":{VERSION},"at":{}}}"#, at.0).into_bytes()
            }
            Self::Record(StoredRecord::Account(account)) => wrapped(account)?,
            Self::Record(StoredRecord::App(app)) => wrapped(app)?,
            Self::Record(StoredRecord::Key(key)) => wrapped(key)?,
            Self::End(Counts { accounts, apps, keys }) => {
                format!(r#"{{"end":{{"accounts":{accounts},"apps":{apps},"keys":{keys}}}}}"#)
                    .into_bytes()
            }
        };
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a line, with its end or without.
    ///
    /// # Errors
    /// Each kind of [`LineError`].
    pub fn parse(text: &[u8]) -> Result<Self, LineError> {
        let members: Map<String, Value> =
            serde_json::from_slice(text).map_err(|_| LineError::NotALine)?;
        if members.get("keygate").is_some_and(|what| what == "export") {
            return start(&members);
        }
        let mut members = members.into_iter();
        let (Some((kind, value)), None) = (members.next(), members.next()) else {
            return Err(LineError::NotALine);
        };
        match kind.as_str() {
            Account::NAME => Ok(Self::Record(StoredRecord::Account(unwrapped(&value)?))),
            App::NAME => Ok(Self::Record(StoredRecord::App(unwrapped(&value)?))),
            Key::NAME => Ok(Self::Record(StoredRecord::Key(unwrapped(&value)?))),
            "end" => serde_json::from_value(value).map(Self::End).map_err(|_| LineError::NotALine),
            _ => Err(LineError::NotALine),
        }
    }
}

fn start(members: &Map<String, Value>) -> Result<Line, LineError> {
    let number = |name: &str| members.get(name).and_then(Value::as_u64).ok_or(LineError::NotALine);
    match number("v")? {
        VERSION => Ok(Line::Start { at: UnixMillis(number("at")?) }),
        found => Err(LineError::Newer { found }),
    }
}

fn wrapped<R: Record>(record: &R) -> Result<Vec<u8>, LineError> {
    let json = record.encode().map_err(unreadable::<R>)?;
    Ok([b"{\"", R::NAME.as_bytes(), b"\":", &*json, b"}"].concat())
}

fn unwrapped<R: Record>(value: &Value) -> Result<R, LineError> {
    R::decode(value.to_string().as_bytes()).map_err(unreadable::<R>)
}

fn unreadable<R: Record>(error: CodecError) -> LineError {
    LineError::Record { kind: R::NAME, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::Metadata;
    use crate::testing::{account, app, digest, key, key_id, limits, revoked};

    fn text(line: &Line) -> String {
        String::from_utf8(line.encode().unwrap()).unwrap()
    }

    #[track_caller]
    fn check_round_trip(line: &Line) {
        let text = text(line);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert_eq!(Line::parse(text.as_bytes()).unwrap(), *line);
        assert_eq!(Line::parse(text.trim_end().as_bytes()).unwrap(), *line);
    }

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let (account, app) = (account(1), app(1, &account(1)));
        let key = key(1, &app);
        check_round_trip(&Line::Start { at: UnixMillis(u64::MAX) });
        check_round_trip(&Line::Record(StoredRecord::Account(account)));
        let max_age = Some(std::time::Duration::from_secs(90 * 86_400));
        check_round_trip(&Line::Record(StoredRecord::App(App { max_age, ..app.clone() })));
        check_round_trip(&Line::Record(StoredRecord::App(app)));
        check_round_trip(&Line::Record(StoredRecord::Key(revoked(&key))));
        check_round_trip(&Line::Record(StoredRecord::Key(key.clone())));
        check_round_trip(&Line::Record(StoredRecord::Key(Key { limits: limits(), ..key.clone() })));
        // A key of another system that was rotated since.
        let imported = Key {
            pepper: None,
            owner: Some("team".to_owned()),
            purpose: Some("tests".to_owned()),
            rotated_from: Some(key_id(2)),
            rotated_to: Some(key_id(3)),
            ..key
        };
        check_round_trip(&Line::Record(StoredRecord::Key(imported)));
        check_round_trip(&Line::End(Counts { accounts: 1, apps: 2, keys: u64::MAX }));
    }

    /// Somebody's backup must stay readable: this text may be added to, not changed.
    #[test]
    fn the_form_of_version_1_stays_as_it_is() {
        let start = Line::Start { at: UnixMillis(7) };
        assert_eq!(text(&start), "{\"keygate\":\"export\",\"v\":1,\"at\":7}\n");
        let end = Line::End(Counts { accounts: 1, apps: 2, keys: 3 });
        assert_eq!(text(&end), "{\"end\":{\"accounts\":1,\"apps\":2,\"keys\":3}}\n");
        let account = text(&Line::Record(StoredRecord::Account(account(1))));
        assert!(account.starts_with(r#"{"account":{"v":1,"record":{"id":"acct_"#), "{account}");
        let whole = key(1, &app(1, &crate::testing::account(1)));
        let key = text(&Line::Record(StoredRecord::Key(whole)));
        assert!(key.starts_with(r#"{"key":{"v":1,"record":{"id":"key_"#), "{key}");
        let hex: String = digest(1).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(key.contains(&format!(r#""digest":"{hex}""#)), "{key}");
    }

    #[test]
    fn spaces_and_an_order_of_anothers_choice_are_no_obstacle() {
        let spaced = " { \"at\" : 7 , \"v\" : 1 , \"keygate\" : \"export\" } \r\n";
        assert_eq!(Line::parse(spaced.as_bytes()).unwrap(), Line::Start { at: UnixMillis(7) });
    }

    #[test]
    fn what_a_later_version_wrote_is_named_as_that() {
        let start = r#"{"keygate":"export","v":2,"at":1}"#;
        let error = Line::parse(start.as_bytes()).unwrap_err();
        assert!(matches!(error, LineError::Newer { found: 2 }), "{error:?}");
        let error = Line::parse(br#"{"key":{"v":2,"record":{}}}"#).unwrap_err();
        let LineError::Record { kind: "key", source } = error else { panic!("{error:?}") };
        assert!(source.to_string().contains("version 2"), "{source}");
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"keygate":"export"}"#,
            r#"{"keygate":"export","v":1}"#,
            r#"{"end":{"accounts":1}}"#,
            r#"{"key":{"v":1,"record":{}}}"#,
            r#"{"team":{"v":1,"record":{}}}"#,
            r#"{"account":null,"app":null}"#,
        ] {
            assert!(Line::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            drop(Line::parse(&bytes));
        }

        #[test]
        fn any_text_in_a_record_survives_in_one_line(name in ".*", entry in ".*") {
            let mut key = key(1, &app(1, &account(1)));
            key.metadata = Metadata::from([(entry.clone(), name.clone())]);
            key.name = Some(name);
            check_round_trip(&Line::Record(StoredRecord::Key(key)));
        }
    }
}
