//! The steps of a decision: a sign for people, a word for programs, one line each.

use comfy_table::{Cell, Color, ColumnConstraint};
use serde_json::Value;

use super::{Reader, Style, cell, finished, line, table};

pub(super) fn text(answer: &Value, style: Style, reader: Reader) -> String {
    let code = answer.get("code").filter(|code| !code.is_null());
    let outcome = match answer.get("admitted").and_then(Value::as_bool) {
        Some(true) => "admitted".to_owned(),
        Some(false) | None => format!("refused: {}", cell(code)),
    };
    if style == Style::Ids {
        return line(Some(&Value::String(outcome)));
    }
    let mut table = table(reader);
    let steps = answer.get("steps").and_then(Value::as_array);
    for step in steps.into_iter().flatten() {
        let text = |name: &str| cell(step.get(name));
        table.add_row([
            sign(&text("result"), reader),
            Cell::new(text("step")),
            Cell::new(text("detail")),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index < 2 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    format!("{}{outcome}\n", finished(table))
}

fn sign(result: &str, reader: Reader) -> Cell {
    if !reader.is_person() {
        return Cell::new(result);
    }
    let (sign, colour) = match result {
        "pass" => ("✓", Color::Green),
        "fail" => ("✗", Color::Red),
        _ => ("–", Color::DarkGrey),
    };
    if reader == Reader::PersonInColour { Cell::new(sign).fg(colour) } else { Cell::new(sign) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(style: Style, reader: Reader) -> String {
        let step = |step: &str, result: &str, detail: &str| json!({ "step": step, "result": result, "detail": detail });
        let steps = [
            step("route", "pass", "orders.read"),
            step("scopes", "fail", "needs write:orders"),
            step("limits", "skip", "not reached"),
        ];
        let answer = json!({ "admitted": false, "code": "permission_denied", "steps": steps });
        text(&answer, style, reader)
    }

    #[test]
    fn a_program_gets_words_and_a_person_signs() {
        let plain = shown(Style::Table, Reader::Program);
        let lines: Vec<Vec<&str>> =
            plain.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["fail", "scopes", "needs", "write:orders"]);
        assert_eq!(lines[3], ["refused:", "permission_denied"]);
        let person = shown(Style::Table, Reader::Person);
        assert!(person.starts_with('✓') && person.contains("\n✗") && !person.contains('\u{1b}'));
        assert!(shown(Style::Table, Reader::PersonInColour).contains("\u{1b}["));
        assert_eq!(shown(Style::Ids, Reader::Program), "refused: permission_denied\n");
    }
}
