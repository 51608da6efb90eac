//! `keygate reload`: asks a running gateway to read its configuration again, and says what came of it.

use serde_json::{Value, json};

use crate::cli::Reload;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::{self, Style};

pub(crate) fn run(reload: &Reload) -> Result<(), Failure> {
    let call = Call::post("/v1/reload", json!({ "force": reload.force }));
    let answer = Client::new(&reload.admin)?.send(&call)?;
    match Style::of(&reload.admin) {
        Style::Json => output::print(&format!("{answer:#}\n")),
        Style::Table | Style::Ids => output::print(&words(&answer)),
    }
}

fn words(answer: &Value) -> String {
    let texts = |member: &str| {
        let items = answer.get(member).and_then(Value::as_array);
        let texts = items.into_iter().flatten().filter_map(Value::as_str);
        texts.map(output::printable).collect::<Vec<_>>()
    };
    let is_changed = answer.get("changed").and_then(Value::as_bool) == Some(true);
    let mut text = match is_changed {
        true => "The gateway goes by the new configuration.\n".to_owned(),
        false => "Nothing has changed.\n".to_owned(),
    };
    for setting in texts("needs_restart") {
        text.push_str(&format!("At its next start: {setting}\n"));
    }
    for warning in texts("warnings") {
        text.push_str(&format!("Warning: {warning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_next_start_is_said() {
        let answer = json!({
            "changed": true, "needs_restart": ["[server] listen"], "warnings": ["a\u{1b}b"],
        });
        let expected = "The gateway goes by the new configuration.\n\
                        At its next start: [server] listen\nWarning: a\u{fffd}b\n";
        assert_eq!(words(&answer), expected);
        assert_eq!(words(&json!({ "changed": false })), "Nothing has changed.\n");
    }
}
