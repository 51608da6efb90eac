//! Keys as JSON lines: an object for each, with what CSV has as columns and a little more.

use serde_json::{Map, Value};

use super::findings::Findings;
use super::record::{Limits, Place, RECORDS_MAX, Record};
use super::row::{COLUMNS, Row, unknown};
use super::values::{list, metadata};

const LINE_BYTES_MAX: usize = 64 << 10;

pub(super) fn read(text: &[u8], findings: &mut Findings) -> Vec<Record> {
    let mut records = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if records.len() == RECORDS_MAX {
            let why = format!("there are more than {RECORDS_MAX} keys: split the file");
            findings.problem(Place::File, why);
            break;
        }
        let place = Place::Line(number);
        if let Some(members) = findings.right(place, object(line)) {
            records.extend(read_members(members, place, findings));
        }
    }
    records
}

/// The object that a line is. The problem holds nothing of the line.
pub(super) fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("the line is longer than {} KiB", LINE_BYTES_MAX >> 10));
    }
    match serde_json::from_slice(line) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("not a JSON object: write one for each key".to_owned()),
        Err(error) => Err(format!("not JSON, at column {}", error.column())),
    }
}

fn read_members(
    members: Map<String, Value>,
    place: Place,
    findings: &mut Findings,
) -> Option<Record> {
    let mut row = Row::default();
    let mut is_right = true;
    for (name, value) in members {
        let read = read_member(&mut row, &name, value);
        is_right &= findings.right(place, read).is_some();
    }
    if is_right { row.record(place, findings) } else { None }
}

fn read_member(row: &mut Row, name: &str, value: Value) -> Result<(), String> {
    match (name, value) {
        (_, Value::Null) => {}
        ("metadata", value) => {
            row.metadata = metadata(&value)
                .ok_or("`metadata` is an object of texts, such as {\"a\": \"b\"}")?;
        }
        ("limits", value) => {
            row.limits = limits(&value).ok_or(
                "`limits` is an object such as {\"rate\": \"100/s\", \"burst\": 200, \"quotas\": \
                 [\"1000/day\"], \"concurrency\": 10}",
            )?;
        }
        ("scopes", Value::Array(items)) => {
            row.scopes = list(&items).ok_or("`scopes` is a list of texts")?;
        }
        ("enabled", Value::Bool(enabled)) => row.set("enabled", &enabled.to_string()),
        (name, Value::String(text)) if COLUMNS.contains(&name) => row.set(name, &text),
        (name, _) if COLUMNS.contains(&name) => return Err(format!("`{name}` is not a text")),
        (name, _) => return Err(unknown("member", name)),
    }
    Ok(())
}

fn limits(value: &Value) -> Option<Limits> {
    let mut limits = Limits::default();
    for (name, value) in value.as_object()? {
        match &**name {
            "rate" => limits.rate = Some(value.as_str()?.parse().ok()?),
            "burst" => limits.burst = Some(value.as_u64()?),
            "concurrency" => limits.concurrency = Some(value.as_u64()?),
            "quotas" => {
                let quotas = list(value.as_array()?)?;
                limits.quotas =
                    quotas.iter().map(|quota| quota.parse().ok()).collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::record::Sha256;

    fn parse(text: &str) -> (Vec<Record>, Vec<String>) {
        let mut findings = Findings::default();
        let records = read(text.as_bytes(), &mut findings);
        (records, findings.problems())
    }

    #[test]
    fn a_line_is_a_key_with_all_that_it_may_have() {
        let hash = Sha256::of_key("legacy-1").unwrap();
        let (records, problems) = parse(&format!(
            "{{\"sha256\":\"{hash}\",\"app\":\"shop\",\"scopes\":[\"read:a\",\"write:a\"],\
              \"enabled\":false,\"metadata\":{{\"crm\":\"17\"}},\"name\":null,\
              \"limits\":{{\"rate\":\"5/s\",\"burst\":9,\"quotas\":[\"7/day\"],\"concurrency\":2}}}}\n\n\
             {{\"key\":\"legacy-2\",\"scopes\":\"read:a write:a\"}}\n"
        ));
        assert_eq!((records.len(), problems.len()), (2, 0), "{problems:?}");
        let [first, second] = &records[..] else { panic!() };
        assert!(first.sha256 == hash && !first.enabled && first.name.is_none());
        assert_eq!((first.metadata["crm"].as_str(), first.limits.burst), ("17", Some(9)));
        assert_eq!((second.place, &second.scopes), (Place::Line(3), &first.scopes));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_line_and_never_repeated() {
        for (line, says) in [
            (r#"{"key":"hush-hush""#, "not JSON, at column"),
            (r#"["hush-hush"]"#, "not a JSON object"),
            (r#"{"key":"hush-hush","expires":"x"}"#, "did you mean `expires_at`?"),
            (r#"{"hush-hush":"read:a"}"#, "there is a member that is none"),
            (r#"{"key":"k","scopes":"hush-hush"}"#, "`scopes`"),
            (r#"{"key":12345}"#, "`key` is not a text"),
            (r#"{"key":"hush-hush","metadata":{"a":1}}"#, "`metadata` is"),
            (r#"{"key":"hush-hush","limits":{"rate":"fast"}}"#, "`limits` is"),
            (r#"{"key":"hush-hush","scopes":[1]}"#, "`scopes` is"),
        ] {
            let (records, problems) = parse(&format!("\n{line}\n"));
            assert!(records.is_empty() && problems.len() == 1, "{line}: {problems:?}");
            assert!(
                problems[0].starts_with("line 2: ") && problems[0].contains(says),
                "{problems:?}"
            );
            assert!(!problems[0].contains("hush-hush"), "{problems:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(0_u8.., 0..400)) {
            let mut findings = Findings::default();
            read(&text, &mut findings);
            read(&[b"{\"key\":\"", &text[..]].concat(), &mut findings);
        }
    }
}
