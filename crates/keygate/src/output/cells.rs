//! A value as a cell of a table: plain text, short times, and colours for statuses.

use comfy_table::{Cell, Color};
use serde_json::Value;

use super::{Reader, printable};

pub(super) fn cell(name: &str, value: Option<&Value>, reader: Reader) -> Cell {
    let shown = match value.and_then(Value::as_f64).filter(|_| name == "share") {
        Some(part) => format!("{:.2}%", part * 100.0),
        None => short(name, text(value), reader),
    };
    let colour = colour(name, &shown).filter(|_| reader == Reader::PersonInColour);
    let cell = Cell::new(shown);
    match colour {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// A time to the second, for people: the fraction would cost them a column.
fn short(name: &str, cell: String, reader: Reader) -> String {
    let is_time = name == "at" || name.ends_with("_at") || name == "as_of";
    match cell.split_once('.') {
        Some((seconds, _)) if is_time && reader.is_person() => format!("{seconds}Z"),
        Some(_) | None => cell,
    }
}

/// What is well, what needs a look, and what is over.
fn colour(name: &str, shown: &str) -> Option<Color> {
    if !["status", "link", "valid", "refused"].contains(&name) {
        return None;
    }
    match shown {
        "active" | "live" | "true" => Some(Color::Green),
        "disabled" | "suspended" | "polling" => Some(Color::Yellow),
        "revoked" | "expired" | "down" | "false" => Some(Color::Red),
        "-" => None,
        _ => (name == "refused").then_some(Color::Red),
    }
}

pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => {
            let texts: Vec<String> = items.iter().map(|item| text(Some(item))).collect();
            texts.join(" ")
        }
        Some(Value::Object(members)) if members.is_empty() => "-".into(),
        Some(Value::Object(members)) => {
            let texts: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{}={}", printable(name), text(Some(value))))
                .collect();
            texts.join(" ")
        }
        Some(other @ (Value::Bool(_) | Value::Number(_))) => other.to_string(),
    }
}
