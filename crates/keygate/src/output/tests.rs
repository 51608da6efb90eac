use serde_json::json;

use super::*;

fn keys() -> Value {
    let key = |id: &str| {
        json!({ "id": id, "hint": "sk_live_abcd", "name": null, "status": "active",
                "scopes": ["read:a", "write:a"], "expires_at": null, "last_used_at": "now" })
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
    assert_eq!(lines[1], ["key_1", "sk_live_abcd", "-", "active", "read:a", "write:a", "-", "now"]);
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
                       "last_used_at": "2026-11-22T17:51:56.019Z" });
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
