//! Lists, in parts or whole.

use serde_json::{Value, json};

use crate::cli::PageOptions;
use crate::client::{Call, Client};
use crate::failure::Failure;

/// What is asked for when all is wanted: the API's most.
const PART_MAX: usize = 200;
/// What is shown unless something else was asked for: as many as the API shows.
const SHOWN: usize = 50;

pub(super) fn call(path: impl Into<String>, page: &PageOptions) -> Call {
    Call::get(path).with("limit", page.limit).with("cursor", page.cursor.clone())
}

/// How much of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    AtMost(usize),
}

impl Wanted {
    pub(super) fn of(page: &PageOptions, all: bool) -> Self {
        let limit = page.limit.and_then(|limit| usize::try_from(limit).ok());
        if all { Self::All } else { Self::AtMost(limit.unwrap_or(SHOWN)) }
    }
}

/// A list whose parts may be short, or empty, though it goes on: as much of it as is wanted.
pub(super) fn gather(client: &Client, call: &Call, wanted: Wanted) -> Result<Value, Failure> {
    gather_by(|call| client.send(call), call, wanted)
}

fn gather_by(
    send: impl Fn(&Call) -> Result<Value, Failure>,
    call: &Call,
    wanted: Wanted,
) -> Result<Value, Failure> {
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let left = match wanted {
            Wanted::All => PART_MAX,
            Wanted::AtMost(most) => most.saturating_sub(items.len()).min(PART_MAX),
        };
        let mut part = call.clone();
        part.query.retain(|(name, _)| *name != "limit");
        part = part.with("limit", Some(left));
        if let Some(cursor) = &cursor {
            part.query.retain(|(name, _)| *name != "cursor");
            part = part.with("cursor", Some(cursor));
        }
        let mut answer = send(&part)?;
        if let Some(Value::Array(more)) = answer.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        let next = answer.get("next").and_then(Value::as_str).map(str::to_owned);
        let is_enough = matches!(wanted, Wanted::AtMost(most) if items.len() >= most);
        // One that does not move would go on for ever.
        if is_enough || next.is_none() || next == cursor {
            return Ok(json!({ "items": items, "next": next }));
        }
        cursor = next;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A list of ten, of which every part has at most three, and some none.
    fn part(call: &Call, asked: &RefCell<Vec<String>>) -> Value {
        let value = |name: &str| {
            let found = call.query.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| value.parse::<usize>().unwrap())
        };
        let (limit, from) = (value("limit").unwrap(), value("cursor").unwrap_or(0));
        asked.borrow_mut().push(format!("{from}+{limit}"));
        let count = if from == 3 { 0 } else { limit.min(3).min(10 - from) };
        let end = if from == 3 { 4 } else { from + count };
        let items: Vec<usize> = (from..from + count).collect();
        json!({ "items": items, "next": (end < 10).then(|| end.to_string()) })
    }

    fn gathered(wanted: Wanted) -> (Value, Vec<String>) {
        let asked = RefCell::new(Vec::new());
        let all = gather_by(|call| Ok(part(call, &asked)), &Call::get("/v1/keys"), wanted);
        (all.unwrap(), asked.into_inner())
    }

    #[test]
    fn a_list_is_followed_until_there_is_enough_or_no_more() {
        let (all, asked) = gathered(Wanted::All);
        assert_eq!(all, json!({ "items": [0, 1, 2, 4, 5, 6, 7, 8, 9], "next": null }));
        assert_eq!(asked.len(), 4, "{asked:?}");
        let (some, asked) = gathered(Wanted::AtMost(4));
        assert_eq!(some, json!({ "items": [0, 1, 2, 4], "next": "5" }));
        assert_eq!(asked, ["0+4", "3+1", "4+1"]);
    }
}
