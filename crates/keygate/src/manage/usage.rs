//! `keygate usage`: what was used, as a table with its totals, as JSON or as CSV.

use serde_json::Value;

use super::list;
use crate::cli::{Usage, UsageGroup};
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::{self, Shape, Style};

pub(crate) fn usage(usage: &Usage) -> Result<(), Failure> {
    let client = Client::new(&usage.admin)?;
    let call = call(usage);
    if usage.csv {
        return output::print(&client.send_for_text(&call.with("format", Some("csv")))?);
    }
    let style = Style::of(&usage.admin);
    let mut answer = client.send(&call)?;
    if style == Style::Table {
        add_totals(&mut answer);
    }
    let shape = match usage.group {
        UsageGroup::Route => Shape::UsageByRoute,
        UsageGroup::Key => Shape::UsageByKey,
        UsageGroup::None => Shape::Usage,
    };
    output::show(&answer, shape, style)
}

fn call(usage: &Usage) -> Call {
    list::call("/v1/usage", &usage.page)
        .with("key_id", usage.key)
        .with("app_id", usage.app)
        .with("account_id", usage.account)
        .with("route", usage.route.as_ref())
        .with("from", usage.from.as_ref())
        .with("to", usage.to.as_ref())
        .with("by", Some(usage.by.as_str()))
        .with("group", Some(usage.group.as_str()))
}

/// A last line of all that was asked for. A page that is not the first has none.
fn add_totals(answer: &mut Value) {
    let Some(Value::Object(mut totals)) = answer.get_mut("totals").map(Value::take) else { return };
    totals.insert("start".to_owned(), "total".into());
    if let Some(items) = answer.get_mut("items").and_then(Value::as_array_mut) {
        items.push(Value::Object(totals));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_totals_are_the_last_line_of_the_first_page() {
        let mut answer = json!({ "items": [{ "requests": 1 }], "totals": { "requests": 7 } });
        add_totals(&mut answer);
        assert_eq!(
            answer["items"],
            json!([{ "requests": 1 }, { "start": "total", "requests": 7 }])
        );
        let mut later = json!({ "items": [{ "requests": 1 }], "totals": null });
        add_totals(&mut later);
        assert_eq!(later["items"], json!([{ "requests": 1 }]));
    }
}
