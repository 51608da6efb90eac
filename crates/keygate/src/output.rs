//! What commands print: a table for people, JSON for programs, bare ids for scripts.
//!
//! The only file that writes to standard output, logs aside.

mod uses;

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde_json::Value;

use crate::cli::AdminOptions;
use crate::failure::Failure;

/// What an answer holds, and so which of its members make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Record,
    /// A record with the one key that is ever shown.
    NewKey,
    Accounts,
    Apps,
    Keys,
    Audit,
    Fleet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    Json,
    Ids,
}

impl Style {
    pub(crate) fn of(options: &AdminOptions) -> Self {
        match (options.json, options.quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Ids,
            (false, false) => Self::Table,
        }
    }
}

/// Whether a person is looking, who wants lines that fit the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Person,
    Program,
}

/// Prints an answer of the admin API, and what is to be said besides on standard error.
pub(crate) fn show(answer: &Value, shape: Shape, style: Style) -> Result<(), Failure> {
    let reader = if std::io::stdout().is_terminal() { Reader::Person } else { Reader::Program };
    print(&text(answer, shape, style, reader))?;
    if style == Style::Json {
        return Ok(());
    }
    if shape == Shape::NewKey {
        let id = cell(answer.get("id"));
        eprintln!("This key is shown once: keep it safe. Its record is {id}.");
    }
    if let Some(place) = answer.get("next").and_then(Value::as_str) {
        eprintln!("There is more: add --cursor {place}");
    }
    Ok(())
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output").map_err(Failure::from)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Standard output, for what is too long to be one text. To be flushed.
pub(crate) fn writer() -> impl Write {
    std::io::BufWriter::new(std::io::stdout().lock())
}

fn text(answer: &Value, shape: Shape, style: Style, reader: Reader) -> String {
    match (style, columns(shape)) {
        (Style::Json, _) => format!("{answer:#}\n"),
        (Style::Ids, None) if shape == Shape::NewKey => line(answer.get("key")),
        (Style::Ids, None) => line(answer.get("id")),
        (Style::Ids, Some(columns)) => {
            items(answer).iter().map(|item| line(item.get(id_of(columns)))).collect()
        }
        (Style::Table, None) if shape == Shape::NewKey => line(answer.get("key")),
        (Style::Table, None) => record(answer, reader),
        (Style::Table, Some(columns)) => list(items(answer), columns, reader),
    }
}

fn columns(shape: Shape) -> Option<&'static [&'static str]> {
    match shape {
        Shape::Record | Shape::NewKey => None,
        Shape::Accounts => Some(&["id", "name", "status", "created_at"]),
        Shape::Apps => {
            Some(&["id", "name", "environment", "status", "granted_scopes", "created_at"])
        }
        Shape::Keys => {
            Some(&["id", "hint", "name", "status", "scopes", "expires_at", "created_at"])
        }
        Shape::Fleet => Some(&[
            "id",
            "name",
            "version",
            "link",
            "applied",
            "lag",
            "this",
            "seen_at",
            "started_at",
        ]),
        Shape::Audit => Some(&["at", "actor", "action", "subject", "hint", "from", "reason"]),
    }
}

/// What a list's items go by: their id, or for the audit log the record that changed.
fn id_of(columns: &[&'static str]) -> &'static str {
    if columns.contains(&"id") { "id" } else { "subject" }
}

fn items(answer: &Value) -> &[Value] {
    let items = answer.get("items").or_else(|| answer.get("gateways"));
    items.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What may be wrapped to fit the window. Everything else is a word.
const FREE_TEXT: [&str; 4] = ["name", "reason", "scopes", "granted_scopes"];
/// With the distance to the next column. A narrower window wraps the lines by itself.
const FREE_TEXT_WIDTH_MIN: u16 = 18;

/// A time to the second, for people: the fraction would cost them a column.
fn short(name: &str, cell: String, reader: Reader) -> String {
    let is_time = name == "at" || name.ends_with("_at");
    match cell.split_once('.') {
        Some((seconds, _)) if is_time && reader == Reader::Person => format!("{seconds}Z"),
        Some(_) | None => cell,
    }
}

fn list(items: &[Value], columns: &[&str], reader: Reader) -> String {
    let mut table = table(reader);
    table.set_header(columns.iter().map(|name| name.to_uppercase().replace('_', " ")));
    for item in items {
        table.add_row(columns.iter().map(|name| short(name, cell(item.get(*name)), reader)));
    }
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_constraint(match FREE_TEXT.contains(name) {
            true => ColumnConstraint::LowerBoundary(Width::Fixed(FREE_TEXT_WIDTH_MIN)),
            // An id that is broken over two lines cannot be copied.
            false => ColumnConstraint::ContentWidth,
        });
    }
    finished(table)
}

/// One member a line: what one looks for first, then the rest by name.
fn record(answer: &Value, reader: Reader) -> String {
    const FIRST: [&str; 5] = ["id", "hint", "name", "status", "valid"];
    let Some(members) = answer.as_object() else { return line(Some(answer)) };
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| {
        (FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()), *name)
    });
    let mut table = table(reader);
    for (name, value) in members.iter().filter(|(name, _)| *name != uses::MEMBER) {
        table.add_row([(*name).clone(), cell(Some(value))]);
    }
    for row in answer.get(uses::MEMBER).map(|uses| uses::rows(uses, reader)).unwrap_or_default() {
        table.add_row(row);
    }
    finished(table)
}

fn table(reader: Reader) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(match reader {
        Reader::Person => ContentArrangement::Dynamic,
        Reader::Program => ContentArrangement::Disabled,
    });
    table
}

fn finished(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn line(value: Option<&Value>) -> String {
    format!("{}\n", cell(value))
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => {
            let texts: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            texts.join(" ")
        }
        Some(Value::Object(members)) if members.is_empty() => "-".into(),
        Some(Value::Object(members)) => {
            let texts: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{}={}", printable(name), cell(Some(value))))
                .collect();
            texts.join(" ")
        }
        Some(other @ (Value::Bool(_) | Value::Number(_))) => other.to_string(),
    }
}

/// A name may hold anything; a terminal must not be told to do anything by it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys() -> Value {
        let key = |id: &str| {
            json!({ "id": id, "hint": "sk_live_abcd", "name": null, "status": "active",
                    "scopes": ["read:a", "write:a"], "expires_at": null, "created_at": "now" })
        };
        json!({ "items": [key("key_1"), key("key_2")], "next": null })
    }

    #[test]
    fn a_program_gets_one_plain_line_per_item() {
        let text = text(&keys(), Shape::Keys, Style::Table, Reader::Program);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(text.starts_with("ID"), "{text}");
        assert_eq!(lines[0][..2], ["ID", "HINT"]);
        assert_eq!(
            lines[1],
            ["key_1", "sk_live_abcd", "-", "active", "read:a", "write:a", "-", "now"]
        );
    }

    #[test]
    fn a_fleet_is_one_line_per_gateway() {
        let gateway = |id: &str, link: &str| {
            json!({ "id": id, "name": "edge", "version": "1.0.0", "link": link, "applied": 7,
                    "lag": 0, "this": true, "seen_at": "s", "started_at": "t" })
        };
        let gateways = [gateway("gw_1", "live"), gateway("gw_2", "down")];
        let fleet = json!({ "store": "redis", "newest": 7, "gateways": gateways });
        let table = text(&fleet, Shape::Fleet, Style::Table, Reader::Program);
        let second: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(second, ["gw_2", "edge", "1.0.0", "down", "7", "0", "true", "s", "t"]);
        assert_eq!(text(&fleet, Shape::Fleet, Style::Ids, Reader::Program), "gw_1\ngw_2\n");
    }

    #[test]
    fn an_id_is_never_broken_however_narrow_the_window() {
        let id = format!("key_{}", "0".repeat(26));
        let item = json!({ "id": id, "hint": "sk_live_abcd", "name": "n ".repeat(200),
                           "created_at": "2026-11-22T17:51:56.019Z" });
        let text = text(&json!({ "items": [item] }), Shape::Keys, Style::Table, Reader::Person);
        assert!(text.contains(&id) && text.contains("2026-11-22T17:51:56Z"), "{text}");
    }

    #[test]
    fn a_script_gets_ids_and_of_a_new_key_the_key() {
        assert_eq!(text(&keys(), Shape::Keys, Style::Ids, Reader::Program), "key_1\nkey_2\n");
        let created = json!({ "id": "key_1", "key": "K", "hint": "H" });
        assert_eq!(text(&created, Shape::Record, Style::Ids, Reader::Program), "key_1\n");
        for style in [Style::Ids, Style::Table] {
            assert_eq!(text(&created, Shape::NewKey, style, Reader::Program), "K\n");
        }
    }

    #[test]
    fn json_is_the_answer_itself() {
        let json = text(&keys(), Shape::Keys, Style::Json, Reader::Person);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), keys());
    }

    #[test]
    fn a_record_begins_with_its_id_and_shows_every_member() {
        let answer = json!({ "environment": "live", "id": "app_1", "metadata": { "a": "b" } });
        let text = text(&answer, Shape::Record, Style::Table, Reader::Program);
        let first = text.lines().next().unwrap();
        assert!(first.contains("id") && first.contains("app_1"), "{text}");
        assert!(text.contains("a=b"), "{text}");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        let answer = json!({ "id": "acct_1", "name": "x\u{1b}[2Jy\nz" });
        for reader in [Reader::Person, Reader::Program] {
            let text = text(&answer, Shape::Record, Style::Table, reader);
            assert!(!text.contains('\u{1b}') && text.contains("[2Jy"), "{text:?}");
        }
    }
}
