//! Keys as CSV: a header row that names the columns, in any order, then a row for each key.

use csv::{ByteRecord, ErrorKind, Position, ReaderBuilder, Trim};

use super::findings::Findings;
use super::record::{Place, RECORDS_MAX, Record};
use super::row::{COLUMNS, Row, unknown};

pub(super) fn read(text: &[u8], findings: &mut Findings) -> Vec<Record> {
    let mut records = Vec::new();
    let mut reader = ReaderBuilder::new().trim(Trim::Headers).from_reader(text);
    let Some(columns) = read_header(reader.byte_headers(), findings) else { return records };
    let mut row = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut row) {
            Ok(false) => break,
            Ok(true) if records.len() == RECORDS_MAX => {
                let why = format!("there are more than {RECORDS_MAX} keys: split the file");
                findings.problem(Place::File, why);
                break;
            }
            Ok(true) => {
                let place = place(row.position(), text);
                records.extend(read_row(&row, &columns, place, findings));
            }
            // An error is of one row, but for one of reading, which a text in memory has none of.
            Err(error) => {
                findings.problem(place(error.position(), text), explain(error.kind()));
                if matches!(error.kind(), ErrorKind::Io(_)) {
                    break;
                }
            }
        }
    }
    records
}

/// Where a row begins. For the library that is where the one before ended, with the rest of its line's
/// end and empty lines still to come.
fn place(position: Option<&Position>, text: &[u8]) -> Place {
    let Some(position) = position else { return Place::File };
    let from = usize::try_from(position.byte()).ok().and_then(|from| text.get(from..));
    let skipped = from.unwrap_or_default().iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    let lines = skipped.filter(|byte| **byte == b'\n').count();
    Place::Line(position.line() + lines as u64)
}

/// The columns in the file's order. Nothing if the file cannot be read by them.
fn read_header(
    header: Result<&ByteRecord, csv::Error>,
    findings: &mut Findings,
) -> Option<Vec<&'static str>> {
    let place = Place::Line(1);
    let header = findings.right(place, header.map_err(|error| explain(error.kind())))?;
    let mut columns = Vec::new();
    for name in header {
        let name = String::from_utf8_lossy(name);
        let Some(known) = COLUMNS.into_iter().find(|column| *column == name) else {
            findings.problem(place, heading(&name));
            return None;
        };
        if columns.contains(&known) {
            findings.problem(place, format!("there are two columns `{known}`"));
            return None;
        }
        columns.push(known);
    }
    if columns.contains(&"key") == columns.contains(&"sha256") {
        let rule = "the first line has to name the columns, one of them either `key` or `sha256`";
        findings.problem(place, rule);
        return None;
    }
    Some(columns)
}

/// A file without a header has a key there, which must not be repeated.
fn heading(name: &str) -> String {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if is_name && (1..=20).contains(&name.len()) {
        return unknown("column", name);
    }
    let columns = COLUMNS.join(", ");
    format!("this is no header row: name the columns there, separated by commas: {columns}")
}

fn read_row(
    row: &ByteRecord,
    columns: &[&'static str],
    place: Place,
    findings: &mut Findings,
) -> Option<Record> {
    let mut fields = Row::default();
    for (column, text) in columns.iter().zip(row) {
        let text = std::str::from_utf8(text).map_err(|_| format!("`{column}` is not UTF-8"));
        fields.set(column, findings.right(place, text)?);
    }
    fields.record(place, findings)
}

/// An error of the library without anything of the file in it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a list that is not closed, and none of it is ours"
)]
fn explain(error: &ErrorKind) -> String {
    match error {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, where the header row names {expected_len}")
        }
        ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => "not a row of CSV".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::record::{End, Sha256};

    fn parse(text: &str) -> (Vec<Record>, Vec<String>) {
        let mut findings = Findings::default();
        let records = read(text.as_bytes(), &mut findings);
        (records, findings.problems())
    }

    #[test]
    fn a_row_is_a_key_whatever_the_order_of_the_columns() {
        let (records, problems) = parse(
            "\u{feff}name, key,scopes,expires_at,app\r\n\
             \"Acme, Inc.\",legacy-1,read:orders write:orders,2031-01-01T00:00:00Z,shop\r\n\
             \r\n\
             ,legacy-2,,,\r\n",
        );
        assert_eq!((records.len(), problems.len()), (2, 0), "{problems:?}");
        let [first, second] = &records[..] else { panic!() };
        assert_eq!(first.sha256, Sha256::of_key("legacy-1").unwrap());
        assert_eq!(first.name.as_deref(), Some("Acme, Inc."));
        assert_eq!(first.app.as_deref(), Some("shop"));
        assert!(first.scopes.len() == 2 && matches!(first.end, End::At(_)));
        assert_eq!((first.place, second.place), (Place::Line(2), Place::Line(4)));
        assert!(second.name.is_none() && second.scopes.is_empty() && second.end == End::Never);
    }

    #[test]
    fn every_row_that_is_wrong_is_told_with_its_line() {
        let (_, problems) = parse("key,scopes\nk1,Read\nk2\nk3,read:a\n\"k 4\",\n");
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, line) in problems.iter().zip(["line 2: ", "line 3: ", "line 5: "]) {
            assert!(problem.starts_with(line), "{problem}");
        }
    }

    #[test]
    fn a_header_that_is_wrong_is_one_problem_that_says_what_to_write() {
        for (header, says) in [
            ("key,scope", "did you mean `scopes`?"),
            ("key,colour", "those are key, sha256"),
            ("name,scopes", "either `key` or `sha256`"),
            ("key,sha256", "either `key` or `sha256`"),
            ("key,name,name", "two columns"),
            ("", "no header row"),
            ("2Lk0-secret,read:a", "no header row"),
            ("plainSECRET,read:a", "those are key, sha256"),
            ("key;scopes", "no header row"),
        ] {
            let (records, problems) = parse(&format!("{header}\nk1,read:a\n"));
            assert!(records.is_empty() && problems.len() == 1, "{header}: {problems:?}");
            assert!(problems[0].contains(says), "{header}: {problems:?}");
            let repeats = ["2Lk0-secret", "SECRET"].iter().any(|key| problems[0].contains(key));
            assert!(!repeats, "{problems:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(0_u8.., 0..400)) {
            let mut findings = Findings::default();
            read(&text, &mut findings);
            read(&[b"key,scopes,expires_at\n", &text[..]].concat(), &mut findings);
        }
    }
}
