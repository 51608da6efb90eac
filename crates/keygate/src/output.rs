//! What commands print: a table for people, JSON for programs, bare ids for scripts.
//!
//! The only file that writes to standard output, but for logs and the view of `keygate top`.

mod cells;
mod printable;
mod steps;
mod uses;

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde_json::Value;

use self::cells::text as cell;
pub(crate) use self::printable::printable;
use crate::cli::AdminOptions;
use crate::failure::{Failure, no_colours};

/// What an answer holds, and so which of its members make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Record,
    /// A record with the one key or admin token that is ever shown.
    NewKey,
    /// The steps of a decision.
    Steps,
    Tokens,
    Accounts,
    Apps,
    Keys,
    Audit,
    Fleet,
    /// Those who call most: keys, and clients without one.
    Top,
    UsageByRoute,
    UsageByKey,
    Usage,
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
    PersonInColour,
    Program,
}

impl Reader {
    fn of_output() -> Self {
        match (std::io::stdout().is_terminal(), no_colours()) {
            (true, false) => Self::PersonInColour,
            (true, true) => Self::Person,
            (false, _) => Self::Program,
        }
    }

    fn is_person(self) -> bool {
        self != Self::Program
    }
}

/// Prints an answer of the admin API, and what is to be said besides on standard error.
pub(crate) fn show(answer: &Value, shape: Shape, style: Style) -> Result<(), Failure> {
    print(&text(answer, shape, style, Reader::of_output()))?;
    if style == Style::Json {
        return Ok(());
    }
    if shape == Shape::NewKey {
        let id = cell(answer.get("id"));
        let what =
            if secret(answer).is_some_and(|(name, _)| name == "token") { "token" } else { "key" };
        eprintln!("This {what} is shown once: keep it safe. Its record is {id}.");
    }
    if let Some(place) = answer.get("next").and_then(Value::as_str) {
        eprintln!("There is more: add --cursor {place}");
    }
    if let Some(number) = answer.get("looked_from").and_then(Value::as_u64) {
        eprintln!("Entries before {number} were not looked at: ask without --tail");
    }
    Ok(())
}

/// Prints an entry of the audit log as a line of its own, for a reader who waits for the next.
pub(crate) fn entry(entry: &Value, style: Style) -> Result<(), Failure> {
    print(&match style {
        Style::Json => format!("{entry}\n"),
        Style::Ids => line(entry.get("subject")),
        Style::Table => {
            let cells = columns(Shape::Audit).unwrap_or_default().iter();
            let cells: Vec<String> = cells.map(|name| cell(entry.get(*name))).collect();
            format!("{}\n", cells.join("  "))
        }
    })
}

/// What is shown once: a key, or an admin token.
fn secret(answer: &Value) -> Option<(&'static str, &Value)> {
    let member = |name| Some((name, answer.get(name).filter(|value| value.is_string())?));
    member("key").or_else(|| member("token"))
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
        (Style::Ids | Style::Table, None) if shape == Shape::NewKey => {
            line(secret(answer).map(|(_, secret)| secret))
        }
        (Style::Ids | Style::Table, None) if shape == Shape::Steps => {
            steps::text(answer, style, reader)
        }
        (Style::Ids, None) => line(answer.get("id")),
        (Style::Ids, Some(columns)) => {
            items(answer).iter().map(|item| line(item.get(id_of(columns)))).collect()
        }
        (Style::Table, None) => record(answer, reader),
        (Style::Table, Some(columns)) if shape == Shape::Top => top(answer, columns, reader),
        (Style::Table, Some(columns)) => list(items(answer), columns, reader),
    }
}

fn columns(shape: Shape) -> Option<&'static [&'static str]> {
    match shape {
        Shape::Record | Shape::NewKey | Shape::Steps => None,
        Shape::Accounts => Some(&["id", "name", "status", "created_at"]),
        Shape::Apps => {
            Some(&["id", "name", "environment", "status", "granted_scopes", "created_at"])
        }
        Shape::Keys => {
            Some(&["id", "hint", "name", "status", "scopes", "expires_at", "last_used_at"])
        }
        Shape::Tokens => Some(&["id", "name", "role", "accounts", "status", "expires_at"]),
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
        Shape::Top => Some(&[
            "key_id",
            "hint",
            "requests",
            "refusals",
            "bytes",
            "share",
            "app_id",
            "account_id",
        ]),
        Shape::UsageByRoute => {
            Some(&["start", "route", "requests", "cost", "bytes_in", "bytes_out", "refused"])
        }
        Shape::UsageByKey => {
            Some(&["start", "key_id", "requests", "cost", "bytes_in", "bytes_out", "refused"])
        }
        Shape::Usage => Some(&["start", "requests", "cost", "bytes_in", "bytes_out", "refused"]),
        Shape::Audit => {
            Some(&["at", "actor", "action", "subject", "hint", "from", "reason", "refused"])
        }
    }
}

/// What a list's items go by: their id, in the audit log the record that changed, of use the key or the time.
fn id_of(columns: &[&'static str]) -> &'static str {
    let names = ["id", "subject", "key_id", "start"];
    names.into_iter().find(|name| columns.contains(name)).unwrap_or("id")
}

fn items(answer: &Value) -> &[Value] {
    let items = answer.get("items").or_else(|| answer.get("gateways"));
    items.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The keys, and below them the clients that were refused without one, if any were.
fn top(answer: &Value, columns: &[&str], reader: Reader) -> String {
    let keys = list(items(answer), columns, reader);
    match answer.get("clients").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => keys,
        Some(clients) => {
            format!("{keys}\n{}", list(clients, &["network", "refusals", "share"], reader))
        }
    }
}

/// What may be wrapped to fit the window. Everything else is a word.
const FREE_TEXT: [&str; 5] = ["name", "reason", "scopes", "granted_scopes", "accounts"];
/// With the distance to the next column. A narrower window wraps the lines by itself.
const FREE_TEXT_WIDTH_MIN: u16 = 18;

fn list(items: &[Value], columns: &[&str], reader: Reader) -> String {
    let mut table = table(reader);
    table.set_header(columns.iter().map(|name| name.to_uppercase().replace('_', " ")));
    for item in items {
        table.add_row(columns.iter().map(|name| cells::cell(name, item.get(*name), reader)));
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
    const FIRST: [&str; 6] = ["id", "key_id", "hint", "name", "status", "valid"];
    let Some(members) = answer.as_object() else { return line(Some(answer)) };
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| {
        (FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()), *name)
    });
    let mut table = table(reader);
    for (name, value) in members.iter().filter(|(name, _)| *name != uses::MEMBER) {
        table.add_row([Cell::new(name), cells::cell(name, Some(value), reader)]);
    }
    for row in answer.get(uses::MEMBER).map(|uses| uses::rows(uses, reader)).unwrap_or_default() {
        table.add_row(row);
    }
    finished(table)
}

fn table(reader: Reader) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(match reader {
        Reader::Person | Reader::PersonInColour => ContentArrangement::Dynamic,
        Reader::Program => ContentArrangement::Disabled,
    });
    if reader == Reader::PersonInColour {
        table.enforce_styling();
    }
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

#[cfg(test)]
mod tests;
