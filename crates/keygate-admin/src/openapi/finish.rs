//! Completes the document with what is so for all operations, so that no handler repeats it: who
//! may call, which refusals there are, which headers answers have, that answers are closed.
//!
//! Refusals are added by what an operation has. All: 403. Under `/v1`: 401, 429, 500, 503. A body:
//! 400, 408, 413, 415, 422. Parameters in the query or a header: 400. An id in the path: 404.
//! `If-Match`: 412. `Idempotency-Key`: 409, 422.

#![expect(
    clippy::indexing_slicing,
    reason = "the document is made of our own handlers alone: a member that is missing is one in every test"
)]

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::fields::{NAME_LENGTH_MAX, REASON_LENGTH_MAX};
use crate::problem::ProblemCode;

const DESCRIPTION: &str = "Manages accounts, apps and keys, and asks about them. Refusals are \
    problems (RFC 9457), each with a `code` that never changes its meaning. Lists are pages: send \
    `next` as `cursor` until it is null.";

const SCHEMAS: &str = "#/components/schemas/";

const TAGS: [(&str, &str); 7] = [
    ("accounts", "Who the keys are for"),
    ("apps", "An account's integrations, and what their keys may do"),
    ("keys", "Created, changed, rotated, revoked"),
    ("ask", "What would be decided about a request"),
    ("watch", "Usage, changes, gateways, probes"),
    ("tokens", "Who may call this API"),
    ("run", "What the gateway runs with"),
];

/// The document, complete, its members in alphabetical order.
pub(crate) fn finish(mut api: OpenApi) -> Value {
    api.info.title = "Keygate admin API".to_owned();
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    api.info.description = Some(DESCRIPTION.to_owned());
    api.info.contact = None;
    api.info.license = None;
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    rename(&mut document);
    document["tags"] =
        TAGS.iter().map(|(name, about)| json!({"name": name, "description": about})).collect();
    for (path, item) in members(&mut document["paths"]) {
        for (_, operation) in members(item) {
            complete(path, operation);
        }
    }
    let answered = answered(&document);
    bound_requests(&mut document, &answered);
    close_answers(&mut document, &answered);
    add_common(&mut document);
    document
}

/// The members of an object; of anything else, none.
fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

/// What the derivation of schemas calls otherwise: `List_Key` becomes `KeyList`, and says by its name
/// what it is a list of; the one map, whose own name it does not see, gets it back; a number without a
/// sign has no bound that is half its own.
fn rename(document: &mut Value) {
    let new_name = |name: &str| match name {
        "BTreeMap" => Some("Metadata".to_owned()),
        name => name.strip_prefix("List_").map(|of| format!("{of}List")),
    };
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        for (name, mut schema) in std::mem::take(schemas) {
            if let Some(of) = name.strip_prefix("List_") {
                schema["properties"]["items"]["items"] = json!({"$ref": format!("{SCHEMAS}{of}")});
            }
            schemas.insert(new_name(&name).unwrap_or(name), schema);
        }
    }
    each(document, &mut |value| {
        // Names in JSON are always texts.
        value.as_object_mut().and_then(|members| members.remove("propertyNames"));
        let is = |name: &str, what: Value| value.get(name) == Some(&what);
        if is("format", json!("int64")) && is("minimum", json!(0)) {
            value["format"] = json!("uint64");
        }
        let Some(Value::String(target)) = value.get_mut("$ref") else { return };
        if let Some(name) = target.strip_prefix(SCHEMAS).and_then(new_name) {
            *target = format!("{SCHEMAS}{name}");
        }
    });
}

/// Every value within, parents first.
fn each(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each(item, visit)),
        Value::Object(members) => members.values_mut().for_each(|member| each(member, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn complete(path: &str, operation: &mut Value) {
    use StatusCode as S;
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let has = |place: &str, name: Option<&str>| {
        parameters.iter().any(|p| p["in"] == place && name.is_none_or(|name| p["name"] == name))
    };
    // Browsers are refused everywhere.
    let mut refusals = vec![S::FORBIDDEN];
    let guarded = path.starts_with("/v1/");
    if guarded {
        refusals.extend([S::UNAUTHORIZED, S::TOO_MANY_REQUESTS]);
        refusals.extend([S::INTERNAL_SERVER_ERROR, S::SERVICE_UNAVAILABLE]);
    }
    if let Some(body) = operation.get_mut("requestBody") {
        require_body(body);
        refusals.extend([S::BAD_REQUEST, S::REQUEST_TIMEOUT, S::PAYLOAD_TOO_LARGE]);
        refusals.extend([S::UNSUPPORTED_MEDIA_TYPE, S::UNPROCESSABLE_ENTITY]);
    }
    if has("query", None) || has("header", None) {
        refusals.push(S::BAD_REQUEST);
    }
    if path.contains('{') {
        refusals.push(S::NOT_FOUND);
    }
    if has("header", Some("If-Match")) {
        refusals.push(S::PRECONDITION_FAILED);
    }
    if has("header", Some("Idempotency-Key")) {
        // Another request had it; what the first one made is revoked.
        refusals.extend([S::UNPROCESSABLE_ENTITY, S::CONFLICT]);
    }
    operation["security"] = if guarded { json!([{"admin_token": []}]) } else { json!([]) };
    for status in refusals {
        let target = format!("#/components/responses/{}", response_name(status));
        operation["responses"][status.as_str()] = json!({"$ref": target});
    }
    for (_, response) in members(&mut operation["responses"]) {
        if response.get("$ref").is_none() {
            add_headers(response);
        }
    }
}

/// A body that may be left out is documented as one that may be `null`, which it may not.
fn require_body(body: &mut Value) {
    let schema = &mut body["content"]["application/json"]["schema"];
    let may_be_left_out = is_nullable(schema);
    if let Some(choices) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = choices.as_slice() {
            *schema = only.clone();
        }
    }
    body["required"] = json!(!may_be_left_out);
}

/// Names the headers that all answers have, and writes those that have a common meaning by name.
fn add_headers(response: &mut Value) {
    if response.get("headers").is_none() {
        response["headers"] = json!({});
    }
    response["headers"]["X-Request-Id"] = Value::Null;
    let common = common_headers();
    for (name, header) in members(&mut response["headers"]) {
        if common.get(name).is_some() {
            *header = json!({"$ref": format!("#/components/headers/{name}")});
        }
    }
}

fn common_headers() -> Value {
    let header = |about: &str, schema: Value| json!({"description": about, "required": true, "schema": schema});
    json!({
        "ETag": header("The version of the record: for `If-Match`.", json!({"type": "string"})),
        "Location": header("Where the new record is.", json!({"type": "string"})),
        "Retry-After": header("When to try again, in seconds.", json!({"type": "integer", "minimum": 0})),
        "WWW-Authenticate": header("The scheme to answer with: RFC 6750.", json!({"type": "string"})),
        "X-Request-Id": header(
            "The request's own id if it was usable, or a new one.",
            json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}),
        ),
    })
}

/// `NotFound`, of 404.
fn response_name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or(status.as_str()).replace(' ', "")
}

/// The names of the schemas that answers are made of.
fn answered(document: &Value) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for item in document["paths"].as_object().into_iter().flat_map(Map::values) {
        for operation in item.as_object().into_iter().flat_map(Map::values) {
            targets(&operation["responses"], &mut reached);
        }
    }
    let mut unseen: Vec<String> = reached.iter().cloned().collect();
    while let Some(name) = unseen.pop() {
        let mut more = BTreeSet::new();
        targets(&document["components"]["schemas"][&name], &mut more);
        unseen.extend(more.into_iter().filter(|name| reached.insert(name.clone())));
    }
    reached
}

/// Says how long the texts may be that people write.
fn bound_requests(document: &mut Value, answered: &BTreeSet<String>) {
    for (name, schema) in members(&mut document["components"]["schemas"]) {
        if answered.contains(name) || schema.get("properties").is_none() {
            continue;
        }
        for (name, property) in members(&mut schema["properties"]) {
            let length_max = match name.as_str() {
                "name" | "owner" | "purpose" => NAME_LENGTH_MAX,
                "reason" => REASON_LENGTH_MAX,
                _ => continue,
            };
            property["minLength"] = json!(1);
            property["maxLength"] = json!(length_max);
        }
    }
}

/// What an answer may hold is all that it holds, and what can be null is always there.
fn close_answers(document: &mut Value, answered: &BTreeSet<String>) {
    let schemas = &mut document["components"]["schemas"];
    // Flat first: a closed part of a whole would forbid the other parts.
    let parts = schemas.clone();
    for name in answered {
        if let Some(flat) = flatten(&schemas[name], &parts) {
            schemas[name] = flat;
        }
        each(&mut schemas[name], &mut close);
    }
}

/// The names of the schemas that are referred to within.
fn targets(value: &Value, names: &mut BTreeSet<String>) {
    each(&mut value.clone(), &mut |value| {
        let target = value.get("$ref").and_then(Value::as_str);
        names.extend(target.and_then(|t| t.strip_prefix(SCHEMAS)).map(str::to_owned));
    });
}

/// The object that an `allOf` is, as one.
fn flatten(schema: &Value, schemas: &Value) -> Option<Value> {
    let parts = schema.get("allOf")?.as_array()?;
    let mut flat = json!({"type": "object", "properties": {}, "required": []});
    if let Some(about) = schema.get("description") {
        flat["description"] = about.clone();
    }
    for part in parts {
        let name = part["$ref"].as_str().and_then(|t| t.strip_prefix(SCHEMAS));
        let part = name.map_or(part, |name| &schemas[name]);
        let inner = flatten(part, schemas);
        let part = inner.as_ref().unwrap_or(part);
        for (name, property) in part["properties"].as_object().into_iter().flatten() {
            flat["properties"][name] = property.clone();
        }
        let required = part["required"].as_array().cloned().unwrap_or_default();
        flat["required"].as_array_mut()?.extend(required);
    }
    Some(flat)
}

fn close(schema: &mut Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let nullable = properties.iter().filter(|(_, property)| is_nullable(property));
    let nullable = nullable.map(|(name, _)| name.clone());
    let required = schema["required"].as_array().into_iter().flatten();
    let required = required.filter_map(Value::as_str).map(str::to_owned);
    let all: BTreeSet<String> = nullable.chain(required).collect();
    schema["required"] = json!(all);
    if schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = json!(false);
    }
}

fn is_nullable(schema: &Value) -> bool {
    let is_null = |one: &Value| one == "null" || one["type"] == "null";
    let types = schema["type"].as_array().into_iter().flatten();
    let choices = schema["oneOf"].as_array().into_iter().flatten();
    types.chain(choices).any(is_null)
}

/// Headers, refusals, the problem, and the token: what operations refer to.
fn add_common(document: &mut Value) {
    let mut by_status: BTreeMap<StatusCode, Vec<&str>> = BTreeMap::new();
    for (code, status, _) in ProblemCode::ALL.iter().map(|code| code.row()) {
        by_status.entry(status).or_default().push(code);
    }
    let components = &mut document["components"];
    components["headers"] = common_headers();
    components["securitySchemes"] = json!({"admin_token": {
        "type": "http", "scheme": "bearer",
        "description": "An admin token. The first start writes one to a file; others are made here.",
    }});
    components["responses"] =
        by_status.iter().map(|(s, codes)| (response_name(*s), refusal(*s, codes))).collect();
    components["schemas"]["Problem"] = problem();
}

fn refusal(status: StatusCode, codes: &[&str]) -> Value {
    let mut response = json!({
        "description": format!("Refused: `{}`", codes.join("`, `")),
        "headers": {},
        "content": {"application/problem+json": {"schema": {
            "allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"properties": {"status": {"const": status.as_u16()}, "code": {"enum": codes}}},
            ],
        }}},
    });
    if status == StatusCode::UNAUTHORIZED {
        response["headers"]["WWW-Authenticate"] = Value::Null;
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        response["headers"]["Retry-After"] = Value::Null;
    }
    add_headers(&mut response);
    response
}

fn problem() -> Value {
    let codes: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.row().0).collect();
    let text = |about: &str| json!({"type": "string", "description": about});
    let mut properties = Map::new();
    properties.insert(
        "type".into(),
        json!({"type": "string", "format": "uri", "pattern": "^urn:keygate:problem:[a-z_]+$"}),
    );
    properties.insert("title".into(), text("The same for every occurrence of the code."));
    properties.insert("status".into(), json!({"type": "integer", "minimum": 400, "maximum": 599}));
    properties.insert("detail".into(), text("What is wrong here, and what to do."));
    properties.insert("code".into(), json!({"type": "string", "enum": codes}));
    properties.insert("request_id".into(), text("As in `X-Request-Id`, and in the log."));
    json!({
        "type": "object",
        "description": "Why not, as RFC 9457 says it. Some codes have members of their own besides.",
        "required": properties.keys().collect::<Vec<_>>(),
        "properties": properties,
    })
}
