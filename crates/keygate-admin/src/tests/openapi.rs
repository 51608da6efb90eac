//! The document says what the API is, and is the one that is checked in.

use std::collections::BTreeSet;
use std::path::PathBuf;

use keygate_store::embedded::EmbeddedStore;

use super::*;
use crate::openapi::{api, finish};
use crate::problem::ProblemCode;

const WRITE: &str = "KEYGATE_WRITE_OPENAPI";

fn document() -> Value {
    finish(api::<EmbeddedStore>())
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let items = document["paths"].as_object().unwrap().iter();
    items.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
    })
}

/// Every value within, with the name under which its parent has it.
fn each<'a>(name: &'a str, value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
    visit(name, value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| each(name, item, visit)),
        Value::Object(members) => members.iter().for_each(|(name, item)| each(name, item, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_openapi_document_that_is_checked_in_is_the_one_that_is_served() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/openapi.json");
    let text = format!("{:#}\n", document());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(
        checked_in == text,
        "deploy/openapi.json is old: {WRITE}=1 cargo test -p keygate-admin openapi"
    );
}

#[tokio::test]
async fn the_document_is_served_without_a_token() {
    let api = Api::start().await;
    let answer = api.send("GET", "/openapi.json", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json(), document());
}

#[test]
fn every_name_in_the_openapi_document_is_defined_and_used() {
    let document = document();
    let mut used = BTreeSet::new();
    each("", &document, &mut |name, value| {
        assert!(!value.is_null(), "`{name}` says nothing");
        if name == "$ref" {
            used.insert(value.as_str().unwrap());
            let place = value.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{value} is not defined");
        }
    });
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        let target = format!("#/components/schemas/{name}");
        assert!(used.contains(target.as_str()), "schema {name}: nothing refers to it");
    }
}

#[test]
fn every_operation_has_its_own_id_and_a_tag_that_is_explained() {
    let document = document();
    let tags: Vec<&Value> =
        document["tags"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} names two operations");
        let (resource, action) = id.split_once('.').expect(id);
        assert!(!resource.is_empty() && !action.is_empty(), "{id}");
        let named = operation["tags"].as_array().unwrap();
        assert!(named.len() == 1 && tags.contains(&&named[0]), "{method} {path}: {named:?}");
        assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        let token = operation["security"] != json!([]);
        assert_eq!(token, path.starts_with("/v1/"), "{method} {path}");
    }
}

/// Two structs of one name would silently become one schema.
#[test]
fn every_schema_says_by_its_name_what_it_is() {
    let document = document();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        let vague = ["Answer", "Request", "List"].iter().any(|word| name.ends_with(word));
        let vague = vague && !name.ends_with("List") || name == "List" || name.contains('_');
        assert!(!vague, "{name}: give it a name with `#[schema(as = …)]`");
    }
}

#[test]
fn every_problem_code_is_in_the_openapi_document() {
    let document = document();
    let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].clone();
    let ours: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.row().0).collect();
    assert_eq!(codes, json!(ours));
}
