//! The fields of a key in a file of our own making, CSV or JSON lines, and what they have to be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keygate_core::Scope;

use super::findings::Findings;
use super::record::{End, Limits, Place, Record, Sha256};
use super::scopes;

/// The columns that CSV may have, and the members that a line of JSON may have.
pub(super) const COLUMNS: [&str; 10] =
    ["key", "sha256", "app", "name", "owner", "purpose", "scopes", "expires_at", "tier", "enabled"];

/// One key, as it is written.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) key: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) app: Option<String>,
    pub(super) name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) purpose: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<String>,
    pub(super) tier: Option<String>,
    pub(super) enabled: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) limits: Limits,
}

impl Row {
    /// Puts a text where its column says. Nothing but spaces is nothing at all. The column is one of
    /// [`COLUMNS`].
    pub(super) fn set(&mut self, column: &str, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let field = match column {
            "key" => &mut self.key,
            "sha256" => &mut self.sha256,
            "app" => &mut self.app,
            "name" => &mut self.name,
            "owner" => &mut self.owner,
            "purpose" => &mut self.purpose,
            "expires_at" => &mut self.expires_at,
            "tier" => &mut self.tier,
            "enabled" => &mut self.enabled,
            _ => {
                let words = text.split([' ', ';']).filter(|word| !word.is_empty());
                self.scopes = words.map(str::to_owned).collect();
                return;
            }
        };
        *field = Some(text.to_owned());
    }

    /// The key that it says. Nothing if there is a problem with it; all problems are told.
    pub(super) fn record(self, place: Place, findings: &mut Findings) -> Option<Record> {
        let hash = read_hash(self.key.as_deref(), self.sha256.as_deref());
        let hash = findings.right(place, hash);
        let scopes = findings.right(place, read_scopes(&self.scopes));
        let end = findings.right(place, read_end(self.expires_at.as_deref()));
        let enabled = findings.right(place, read_enabled(self.enabled.as_deref()));
        let is_granted = !self.scopes.is_empty();
        let Self { app, name, owner, purpose, tier, metadata, limits, .. } = self;
        Some(Record {
            is_granted,
            app,
            name,
            owner,
            purpose,
            scopes: scopes?,
            end: end?,
            enabled: enabled?,
            tier,
            limits,
            metadata,
            ..Record::new(place, hash?)
        })
    }
}

fn read_hash(key: Option<&str>, sha256: Option<&str>) -> Result<Sha256, String> {
    match (key, sha256) {
        (Some(key), None) => Ok(Sha256::of_key(key)?),
        (None, Some(hex)) => Sha256::from_hex(hex)
            .ok_or_else(|| "`sha256` is not 64 hex digits: a key itself goes under `key`".into()),
        (Some(_), Some(_)) => Err("give `key` or `sha256`, not both".into()),
        (None, None) => Err("there is neither a `key` nor a `sha256`".into()),
    }
}

fn read_scopes(words: &[String]) -> Result<Vec<Scope>, String> {
    let mut all = Vec::with_capacity(words.len());
    for word in words {
        // The word is not repeated: in a row whose columns are mixed up it is a key.
        let scope =
            word.parse().map_err(|error| format!("a word of `scopes` is no scope: {error}"))?;
        scopes::add(&mut all, vec![scope]);
    }
    Ok(all)
}

fn read_end(text: Option<&str>) -> Result<End, String> {
    let Some(text) = text else { return Ok(End::Never) };
    text.parse::<Timestamp>().map(End::At).map_err(|_| {
        "`expires_at` is not a time such as 2031-12-31T23:59:59Z (empty for a key that does not \
         expire)"
            .to_owned()
    })
}

fn read_enabled(text: Option<&str>) -> Result<bool, String> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "yes" | "1") => Ok(true),
        Some("false" | "no" | "0") => Ok(false),
        Some(_) => Err("`enabled` is true or false".to_owned()),
    }
}

/// The column that a name which is none was probably meant to be.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let distance = |column: &&str| strsim::damerau_levenshtein(&name, column);
    let nearest = COLUMNS.into_iter().min_by_key(distance)?;
    (name.len() <= 64 && distance(&nearest) <= name.len().div_ceil(3)).then_some(nearest)
}

/// What to say of a column or member that there is not. Its name is not repeated: in a file that is
/// not what it should be, it may be a key.
pub(super) fn unknown(what: &str, name: &str) -> String {
    match meant(name) {
        Some(meant) => format!("there is a {what} that is none: did you mean `{meant}`?"),
        None => format!("there is a {what} that is none: those are {}", COLUMNS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> (Option<Record>, Vec<String>) {
        let (mut row, mut findings) = (Row::default(), Findings::default());
        fields.iter().for_each(|(column, text)| row.set(column, text));
        (row.record(Place::Line(2), &mut findings), findings.problems())
    }

    #[test]
    fn all_that_is_wrong_with_a_key_is_told_at_once() {
        let fields =
            [("sha256", "x"), ("scopes", "Read"), ("expires_at", "soon"), ("enabled", "?")];
        let (record, problems) = read(&fields);
        assert!(record.is_none() && problems.len() == 4, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("line 2: ")), "{problems:?}");
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let (_, problems) = read(&[("key", "k1"), ("scopes", "plainSECRET")]);
        assert!(problems.len() == 1 && problems[0].contains("`scopes`"), "{problems:?}");
        assert!(!problems[0].contains("SECRET"), "{problems:?}");
        assert!(!unknown("member", "plainSECRET").contains("SECRET"));
    }

    #[test]
    fn what_is_not_said_is_the_usual() {
        let (record, problems) = read(&[("key", " k1 "), ("scopes", "read:a;write:a  read:a")]);
        let record = record.unwrap_or_else(|| panic!("{problems:?}"));
        assert_eq!(record.sha256, Sha256::of_key("k1").unwrap());
        assert_eq!(record.scopes.len(), 2);
        assert!(record.enabled && record.end == End::Never && record.app.is_none());
        assert!(!read(&[("key", "k1"), ("enabled", "No")]).0.unwrap().enabled);
    }

    #[test]
    fn a_key_comes_in_one_form() {
        for fields in [&[][..], &[("key", "k"), ("sha256", "k")], &[("key", "  ")]] {
            assert!(read(fields).0.is_none(), "{fields:?}");
        }
    }

    #[test]
    fn a_slip_in_a_name_is_recognised() {
        assert_eq!(meant("Expires_At"), Some("expires_at"));
        assert_eq!(meant("scope"), Some("scopes"));
        assert_eq!(meant("colour"), None);
    }
}
