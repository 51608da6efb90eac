use std::collections::BTreeMap;

use super::*;
use crate::import::scopes::Unmapped;

const NOW: &str = "2030-01-01T00:00:00Z";

fn parse_with(text: &str, rules: &ScopeRules) -> (Vec<Record>, Findings) {
    let mut findings = Findings::default();
    let records = read(text.as_bytes(), rules, Some(NOW.parse().unwrap()), &mut findings);
    (records, findings)
}

fn parse(text: &str) -> (Vec<Record>, Findings) {
    parse_with(text, &ScopeRules::default())
}

fn texts(record: &Record) -> Vec<String> {
    record.scopes.iter().map(ToString::to_string).collect()
}

const NESTED: &str = r#"
_format_version: "3.0"
_transform: true
services:
- name: orders
  url: http://127.0.0.1:9000
  routes:
  - name: orders
    paths: [/v1/orders]
  plugins:
  - name: key-auth
  - name: acl
    config: { allow: ["read:orders"] }
consumers:
- username: web-shop
  custom_id: "17"
  tags: [team-a]
  acls:
  - group: read:orders
  - group: write:orders
  keyauth_credentials:
  - key: legacy-web-1
    tags: [old]
  - key: 48151623
    created_at: 1577836800
    ttl: 86400
- custom_id: partner-9
  basicauth_credentials:
  - username: u
    password: p
  keyauth_credentials:
  - key: legacy-partner
    ttl: 3600
- username: idle
"#;

#[test]
fn a_consumer_is_an_app_and_its_groups_are_what_its_keys_may_do() {
    let (records, findings) = parse(NESTED);
    assert_eq!(findings.problems(), [""; 0]);
    let [first, second, third] = &records[..] else { panic!("{records:?}") };
    assert_eq!(first.app.as_deref(), Some("web-shop"));
    assert_eq!(first.sha256, Sha256::of_key("legacy-web-1").unwrap());
    assert_eq!((first.place, first.end), (Place::Line(22), End::Never));
    assert_eq!(texts(first), ["read:orders", "write:orders"]);
    assert_eq!(second.sha256, Sha256::of_key("48151623").unwrap(), "a number is its digits");
    assert_eq!(second.end, End::At("2030-01-02T00:00:00Z".parse().unwrap()));
    let end = End::At("2030-01-01T01:00:00Z".parse().unwrap());
    assert_eq!((third.app.as_deref(), third.end), (Some("partner-9"), end));
    assert!(third.scopes.is_empty());
    let notes = findings.notes().join("\n");
    for said in ["basic-auth", "a consumer without keys"] {
        assert!(notes.contains(said), "{notes}");
    }
}

#[test]
fn what_is_at_the_top_level_finds_its_consumer() {
    let (records, findings) = parse(
        r#"
_format_version: "1.1"
consumers:
- id: 5a0c2b6e-0000-4000-8000-000000000001
  username: shop
keyauth_credentials:
- consumer: 5a0c2b6e-0000-4000-8000-000000000001
  key: k1
- consumer: { username: shop }
  key: k2
- consumer: elsewhere
  key: k3
acls:
- consumer: shop
  group: read:orders
- consumer: elsewhere
  group: read:stock
"#,
    );
    assert_eq!(findings.problems(), [""; 0]);
    let apps: Vec<_> =
        records.iter().map(|one| (one.app.as_deref().unwrap(), texts(one))).collect();
    let orders = vec!["read:orders".to_owned()];
    let stock = vec!["read:stock".to_owned()];
    assert_eq!(apps, [("shop", orders.clone()), ("shop", orders), ("elsewhere", stock)]);
}

#[test]
fn a_ttl_is_what_was_left_at_the_export_or_a_moment_and_never_counts_from_the_making() {
    let text = |ttl| {
        format!(
            "_format_version: \"3.0\"\nconsumers:\n- username: a\n  keyauth_credentials:\n  \
             - {{ key: k, created_at: 1577836800, ttl: {ttl} }}\n"
        )
    };
    let end = |ttl| parse(&text(ttl)).0[0].end;
    assert_eq!(end(60), End::At("2030-01-01T00:01:00Z".parse().unwrap()));
    assert_eq!(end(1_893_456_000), End::At(NOW.parse().unwrap()));
    assert_eq!(end(0), End::Never);
    let mut findings = Findings::default();
    let records = read(text(60).as_bytes(), &ScopeRules::default(), None, &mut findings);
    assert_eq!(records[0].end, End::AfterSeconds(60));
    assert!(findings.notes()[0].contains("--exported-at"), "{findings:?}");
}

/// The `custom_id` of one is the `username` of the other, in either order.
#[test]
fn groups_never_go_to_a_consumer_of_the_same_name_of_another_kind() {
    let [a, b] = ["{ id: i1, username: one, custom_id: two }", "{ id: i2, username: two }"];
    for [first, second] in [[a, b], [b, a]] {
        let text = |consumer: &str| {
            format!(
                "_format_version: \"3.0\"\nconsumers: [{first}, {second}]\nkeyauth_credentials:\n\
                 - {{ key: k1, consumer: one }}\n- {{ key: k2, consumer: two }}\n\
                 acls:\n- {{ group: \"read:orders\", consumer: {consumer} }}\n"
            )
        };
        for (consumer, app) in [
            ("two", "two"),
            ("{ username: two }", "two"),
            ("i2", "two"),
            ("{ id: i1 }", "one"),
            ("{ custom_id: two }", "one"),
        ] {
            let (records, findings) = parse(&text(consumer));
            assert_eq!(findings.problems(), [""; 0], "{consumer}");
            let granted = records.iter().filter(|record| !record.scopes.is_empty());
            let apps: Vec<_> = granted.filter_map(|record| record.app.as_deref()).collect();
            assert_eq!(apps, [app], "{consumer}");
        }
        let problems = parse(&text("{ id: i2, custom_id: two }")).1.problems();
        assert!(problems.len() == 1 && problems[0].contains("fits two"), "{problems:?}");
    }
}

#[test]
fn consumers_that_cannot_be_told_apart_stop_the_import() {
    for (consumers, says) in [
        ("[{ username: a }, { username: a }]", "the same `username`"),
        ("[{ id: i, username: a }, { id: i, username: b }]", "the same `id`"),
        ("[{ custom_id: a }, { username: b, custom_id: a }]", "the same `custom_id`"),
        ("[{ custom_id: a }, { username: a }]", "the same app"),
        ("[{ custom_id: a }]\nacls: [{ group: g, consumer: a }]", "only a `custom_id`"),
        ("[{ username: a }]\nacls: [{ group: g, consumer: { id: x } }]", "not in the file"),
        (
            "[{ username: a, id: b }, { username: b }]\nacls: [{ group: g, consumer: b }]",
            "fits two",
        ),
    ] {
        let text = format!("_format_version: \"3.0\"\nconsumers: {consumers}\n");
        let problems = parse(&text).1.problems().join("\n");
        assert!(problems.contains(says), "{consumers}: {problems}");
    }
}

const GOLD: &str = r#"
_format_version: "3.0"
consumers:
- username: a
  acls: [{ group: Gold }]
  keyauth_credentials: [{ key: k1 }]
- username: b
  acls: [{ group: Gold }]
  keyauth_credentials: [{ key: k2 }]
"#;

#[test]
fn a_group_that_is_no_scope_is_mapped_or_refused_or_left_out() {
    let problems = parse(GOLD).1.problems();
    assert!(problems.len() == 1 && problems[0].contains("ACL group `Gold`"), "{problems:?}");
    let mapped = BTreeMap::from([("Gold".to_owned(), vec!["read:orders".parse().unwrap()])]);
    let rules = ScopeRules { mapped, ..ScopeRules::default() };
    let (records, findings) = parse_with(GOLD, &rules);
    assert!(findings.problems().is_empty() && texts(&records[1]) == ["read:orders"]);
    let rules = ScopeRules { unmapped: Unmapped::Skip, ..ScopeRules::default() };
    let (records, findings) = parse_with(GOLD, &rules);
    assert!(findings.problems().is_empty() && records[1].scopes.is_empty());
    assert!(findings.notes()[0].contains("left out"), "{findings:?}");
}

#[test]
fn json_is_read_too() {
    let (records, findings) = parse(
        r#"{"_format_version": "3.0", "consumers": [
            {"username": "a", "keyauth_credentials": [{"key": "k1", "ttl": null}]}]}"#,
    );
    assert_eq!((records.len(), findings.problems().len()), (1, 0), "{findings:?}");
}

#[test]
fn what_cannot_be_imported_is_told_by_its_line_without_the_key() {
    let version = "_format_version: \"3.0\"\n";
    let key = |text: &str| {
        format!("{version}consumers:\n- username: a\n  keyauth_credentials:\n  - {text}\n")
    };
    for (text, says) in [
        ("consumers: []".to_owned(), "no `_format_version`"),
        ("_format_version: \"9\"".to_owned(), "not one that is known"),
        (format!("{version}consumers: hush-hush"), "line 2: not YAML as Kong's"),
        (format!("{version}consumers: [hush-hush"), "not YAML as Kong's"),
        (format!("{version}consumers: [{{ tags: [a] }}]"), "neither a `username`"),
        (format!("{version}keyauth_credentials: [{{ key: hush-hush }}]"), "`consumer` has to"),
        (key("tags: [a]"), "has no `key`"),
        (key("key: \"{vault://env/hush-hush}\""), "only refers"),
        (key("key: hush-hush\n    ttl: -1"), "whole seconds"),
        (key("key: \"hush-hush \""), "line 5: a client could not send"),
        (key("key: [hush-hush]"), "not YAML as Kong's"),
    ] {
        let problems = parse(&text).1.problems().join("\n");
        assert!(problems.contains(says), "{text}: {problems}");
        assert!(!problems.contains("hush-hush"), "{problems}");
    }
}

/// Each line doubles the one before: a few hundred bytes that stand for 2^40 items.
#[test]
fn a_file_that_copies_itself_is_refused_at_once() {
    let mut text = String::from("_format_version: \"3.0\"\na0: &a0 [x, x]\n");
    for level in 1..40 {
        let before = level - 1;
        text.push_str(&format!("a{level}: &a{level} [*a{before}, *a{before}]\n"));
    }
    text.push_str("consumers: *a39\n");
    let problems = parse(&text).1.problems();
    assert!(problems[0].contains("too large"), "{problems:?}");
    let deep = format!("_format_version: \"3.0\"\nconsumers: {}", "[".repeat(100_000));
    assert_eq!(parse(&deep).1.problems().len(), 1);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(0_u8.., 0..400)) {
        let (rules, now) = (ScopeRules::default(), NOW.parse().ok());
        read(&text, &rules, now, &mut Findings::default());
        let begun = [NESTED.as_bytes(), &text[..]].concat();
        read(&begun, &rules, now, &mut Findings::default());
    }

    #[test]
    fn any_yaml_is_read_or_refused(text in "[a-z:\\[\\]{}&*!|>'\"#\n -]{0,200}") {
        parse(&text);
        parse(&format!("_format_version: \"3.0\"\nconsumers:\n- {text}"));
    }
}
