//! `keygate config`: asks a running gateway what it runs with. One setting a line, so that two gateways
//! can be compared line by line.

use serde_json::Value;

use crate::cli::ShowConfig;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::{self, Style};

pub(crate) fn run(show: &ShowConfig) -> Result<(), Failure> {
    let answer = Client::new(&show.admin)?.send(&Call::get("/v1/config"))?;
    match Style::of(&show.admin) {
        Style::Json => output::print(&format!("{answer:#}\n")),
        Style::Table | Style::Ids => output::print(&words(&answer)),
    }
}

fn words(answer: &Value) -> String {
    let text = |value: &Value, member: &str| {
        let text = value.get(member).and_then(Value::as_str).unwrap_or_default();
        output::printable(text)
    };
    let mut lines = vec![
        format!("# {}", text(answer, "file")),
        format!("# hash {}", text(answer, "hash")),
        format!("# loaded at {}", text(answer, "loaded_at")),
    ];
    let list = |value: &Value, member: &str| {
        let items = value.get(member).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(output::printable).collect::<Vec<_>>()
    };
    if let Some(failed) = answer.get("failed_reload").filter(|failed| !failed.is_null()) {
        let (at, actor) = (text(failed, "at"), text(failed, "actor"));
        lines.push(format!("# A reload failed since then, at {at}, by {actor}:"));
        lines.extend(list(failed, "problems").iter().map(|problem| format!("#   {problem}")));
    }
    let waiting = list(answer, "needs_restart");
    lines.extend(waiting.iter().map(|setting| format!("# At the next start: {setting}")));
    lines.extend(list(answer, "warnings").iter().map(|warning| format!("# Warning: {warning}")));
    flatten("", answer.get("settings").unwrap_or_default(), &mut lines);
    lines.join("\n") + "\n"
}

/// One line for each setting, named as problems name it: `routes[2].path`.
fn flatten(name: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() || name.is_empty() => {
            for (key, value) in members {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{}", output::printable(key)), value, lines);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{name}[{}]", at + 1), item, lines);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            lines.push(format!("{name} = {}", output::printable(&value.to_string())));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_setting_is_a_line_with_its_whole_name() {
        let answer = json!({
            "file": "/etc/gateway.toml", "hash": "ab", "loaded_at": "2030-01-01T00:00:00Z",
            "settings": {
                "server": { "listen": ["127.0.0.1:80"], "threads": 2 },
                "routes": [{ "name": "a\u{1b}", "response_headers": { "set": {} } }],
                "upstreams": { "b": { "targets": ["c:1", { "address": "d:1", "weight": 2 }] } },
            },
            "needs_restart": ["[server] listen"], "warnings": ["careful"],
            "failed_reload": { "at": "2031-01-01T00:00:00Z", "actor": "file:a", "problems": ["one"] },
        });
        let expected = "\
# /etc/gateway.toml
# hash ab
# loaded at 2030-01-01T00:00:00Z
# A reload failed since then, at 2031-01-01T00:00:00Z, by file:a:
#   one
# At the next start: [server] listen
# Warning: careful
routes[1].name = \"a\\u001b\"
routes[1].response_headers.set = {}
server.listen = [\"127.0.0.1:80\"]
server.threads = 2
upstreams.b.targets[1] = \"c:1\"
upstreams.b.targets[2].address = \"d:1\"
upstreams.b.targets[2].weight = 2
";
        assert_eq!(words(&answer), expected);
    }
}
