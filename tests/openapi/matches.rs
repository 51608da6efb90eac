//! Whether a value is what a schema says. A word of JSON Schema that is not known here is an error:
//! nothing is let through because nobody looked.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::document::Document;

static DATE_TIME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$").unwrap()
});

/// Adds to `wrong` what is not so, each with its place.
pub(super) fn check(
    document: &Document,
    schema: &Value,
    value: &Value,
    place: &str,
    wrong: &mut Vec<String>,
) {
    let schema = document.resolve(schema);
    let mut expect = |is_so: bool, what: &dyn std::fmt::Display| {
        if !is_so {
            wrong.push(format!("{place}: not {what}"));
        }
    };
    for (word, rule) in schema.as_object().expect("a schema") {
        let number = value.as_f64().zip(rule.as_f64());
        let length = value.as_str().map(|text| text.chars().count() as u64).zip(rule.as_u64());
        let items = value.as_array().map(|items| items.len() as u64).zip(rule.as_u64());
        match word.as_str() {
            "type" => expect(is_of_type(rule, value), rule),
            "enum" => expect(rule.as_array().expect("words").contains(value), rule),
            "const" => expect(rule == value, rule),
            "minimum" => expect(number.is_none_or(|(is, least)| is >= least), rule),
            "maximum" => expect(number.is_none_or(|(is, most)| is <= most), rule),
            "minLength" => expect(length.is_none_or(|(is, least)| is >= least), rule),
            "maxLength" => expect(length.is_none_or(|(is, most)| is <= most), rule),
            "minItems" => expect(items.is_none_or(|(is, least)| is >= least), rule),
            "maxItems" => expect(items.is_none_or(|(is, most)| is <= most), rule),
            "pattern" => {
                let pattern = Regex::new(rule.as_str().expect("a pattern")).unwrap();
                expect(value.as_str().is_none_or(|text| pattern.is_match(text)), rule);
            }
            "format" => expect(is_of_format(rule.as_str().expect("a format"), value), rule),
            "required" => {
                for name in rule.as_array().expect("names").iter().filter_map(Value::as_str) {
                    let there = value.as_object().is_none_or(|value| value.contains_key(name));
                    expect(there, &format_args!("with `{name}`"));
                }
            }
            "oneOf" => {
                let fits = |choice: &&Value| fits(document, choice, value);
                let count = rule.as_array().expect("schemas").iter().filter(fits).count();
                expect(count == 1, rule);
            }
            // They look into the value: below.
            "allOf" | "properties" | "additionalProperties" | "items" => {}
            "description" | "title" | "default" | "example" | "examples" | "deprecated" => {}
            word => panic!("{place}: the test does not know `{word}`"),
        }
    }
    check_within(document, schema, value, place, wrong);
}

fn check_within(
    document: &Document,
    schema: &Value,
    value: &Value,
    place: &str,
    wrong: &mut Vec<String>,
) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(document, part, value, place, wrong);
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        let more = schema.get("additionalProperties");
        match (schema["properties"].get(name), more) {
            (Some(schema), _) => check(document, schema, member, &place, wrong),
            (None, Some(Value::Bool(false))) => wrong.push(format!("{place}: not described")),
            (None, Some(schema @ Value::Object(_))) => {
                check(document, schema, member, &place, wrong)
            }
            (None, _) => {}
        }
    }
    if let Some(schema) = schema.get("items") {
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            check(document, schema, item, &format!("{place}[{n}]"), wrong);
        }
    }
}

fn fits(document: &Document, schema: &Value, value: &Value) -> bool {
    let mut wrong = Vec::new();
    check(document, schema, value, "", &mut wrong);
    wrong.is_empty()
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type's name") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        name => panic!("the test does not know the type `{name}`"),
    };
    rule.as_array().map_or_else(|| is(rule), |names| names.iter().any(is))
}

fn is_of_format(format: &str, value: &Value) -> bool {
    let text = value.as_str();
    match format {
        "date-time" => text.is_none_or(|text| DATE_TIME.is_match(text)),
        "uri" => text.is_none_or(|text| text.contains(':')),
        "int32" => value.as_i64().is_none_or(|number| i32::try_from(number).is_ok()),
        "uint64" => value.is_null() || value.is_u64(),
        // Numbers of 64 bits are what there is.
        "int64" | "double" => true,
        format => panic!("the test does not know the format `{format}`"),
    }
}
