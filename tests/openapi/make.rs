//! Requests at random: what a schema asks for, or that with something broken.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::document::{Document, Operation};
use crate::harness::{Request, request};

/// Of ids, the newest are used more often: older ones are revoked, disabled or full by then.
const RECENT: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mind {
    /// As the description asks for.
    Right,
    /// With one or two things wrong.
    Wrong,
}

pub(super) struct Maker {
    pub(super) random: Rng,
    /// The text of keys that were made.
    pub(super) keys: Vec<String>,
    /// Ids by their prefix.
    ids: BTreeMap<String, Vec<String>>,
}

impl Maker {
    pub(super) fn new(random: Rng) -> Self {
        Self { random, keys: Vec::new(), ids: BTreeMap::new() }
    }

    pub(super) fn learn(&mut self, id: &str) {
        let known = self.ids.entry(id[..4].to_owned()).or_default();
        if !known.iter().any(|one| one == id) {
            known.push(id.to_owned());
        }
    }

    pub(super) fn request(
        &mut self,
        document: &Document,
        operation: &Operation,
        token: &str,
        mind: Mind,
    ) -> Request {
        // Which part is wrong; beyond the last, none.
        let wrong = if mind == Mind::Wrong { self.random.u8(..8) } else { u8::MAX };
        let mut target = operation.path.clone();
        let (mut query, mut headers) = (Vec::new(), Vec::new());
        for parameter in operation.says["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a parameter's name");
            let value = self.value(document, name, &parameter["schema"]);
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            let optional = parameter["required"] != true;
            match parameter["in"].as_str() {
                Some("path") => {
                    let value = if wrong == 0 { self.wrong_id() } else { value };
                    target = target.replace(&format!("{{{name}}}"), &value);
                }
                _ if optional && (name == "cursor" || self.random.u8(..4) > 0) => {}
                Some("query") => query.push((name.to_owned(), value)),
                Some("header") => headers.push((name.to_owned(), value)),
                place => panic!("the test does not know parameters in {place:?}"),
            }
        }
        if wrong == 1 {
            query.push(self.wrong_parameter());
        }
        if wrong == 2 {
            headers.push(self.wrong_header());
        }
        let text: Vec<String> = query.iter().map(|(n, v)| format!("{n}={}", encode(v))).collect();
        if !text.is_empty() {
            target = format!("{target}?{}", text.join("&"));
        }
        let mut request = request(&operation.method, &target);
        for (name, value) in headers {
            request = request.header(&name, &value);
        }
        let authorization = if wrong == 3 { "kga_wrong" } else { token };
        if wrong != 4 {
            request = request.bearer(authorization);
        }
        self.with_body(document, operation, request, wrong)
    }

    fn with_body(
        &mut self,
        document: &Document,
        operation: &Operation,
        mut request: Request,
        wrong: u8,
    ) -> Request {
        let Some(body) = operation.says.get("requestBody") else { return request };
        if body["required"] != true && self.random.bool() {
            return request;
        }
        let schema = &body["content"]["application/json"]["schema"];
        let mut value = self.value(document, "", schema);
        let content_type = if wrong == 5 { "text/plain" } else { "application/json" };
        if wrong > 5 && wrong < u8::MAX {
            self.spoil(&mut value);
        }
        request.body = value.to_string().into_bytes();
        if wrong == 6 && self.random.bool() {
            request.body = self.wrong_text();
        }
        request.header("Content-Type", content_type)
    }

    /// What the schema of the member `name` asks for.
    fn value(&mut self, document: &Document, name: &str, schema: &Value) -> Value {
        let schema = document.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
            let choice = self.random.usize(..choices.len());
            return self.value(document, name, &choices[choice]);
        }
        if let Some(words) = schema["enum"].as_array() {
            return words[self.random.usize(..words.len())].clone();
        }
        let types =
            schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
        let nullable = types.iter().any(|one| one == "null");
        if nullable && self.random.u8(..4) == 0 {
            return Value::Null;
        }
        let of = types.iter().filter_map(Value::as_str).find(|one| *one != "null");
        match of.unwrap_or("object") {
            "object" => self.object(document, schema),
            "array" => {
                let count = self.random.usize(1..=2);
                (0..count).map(|_| self.value(document, name, &schema["items"])).collect()
            }
            "integer" | "number" => {
                let least = schema["minimum"].as_u64().unwrap_or(0);
                let most = schema["maximum"].as_u64().unwrap_or(least + 50);
                json!(self.random.u64(least..=most))
            }
            "boolean" => json!(self.random.bool()),
            _ => Value::from(self.text(name, schema)),
        }
    }

    fn object(&mut self, document: &Document, schema: &Value) -> Value {
        let mut object = Map::new();
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|r| r.contains(&json!(name)));
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            if required(name) || self.random.u8(..4) == 0 {
                object.insert(name.clone(), self.value(document, name, member));
            }
        }
        if let Some(more @ Value::Object(_)) = schema.get("additionalProperties") {
            object.insert("team".into(), self.value(document, "team", more));
        }
        Value::Object(object)
    }

    /// The description does not say all that a text must be: this knows by the member's name.
    fn text(&mut self, name: &str, schema: &Value) -> String {
        let prefix = schema["pattern"].as_str().and_then(|p| p.strip_prefix('^')?.get(..4));
        if let Some(known) = prefix.and_then(|prefix| self.ids.get(prefix)) {
            let from = if self.random.bool() { 0 } else { known.len().saturating_sub(RECENT) };
            let recent = &known[from..];
            return recent[self.random.usize(..recent.len())].clone();
        }
        if name == "key" {
            return self.keys[self.random.usize(..self.keys.len())].clone();
        }
        let words: &[&str] = match name {
            "scopes" | "granted_scopes" => &["read:orders", "write:orders"],
            "ttl" | "overlap" | "max_age" | "expiring_within" | "older_than" => {
                &["1h", "30d", "90d"]
            }
            "source" => &["csv", "kong"],
            "ref" | "app_ref" | "account_ref" => &["r1", "r2"],
            "tier" => &["free"],
            "rate" => &["10/s", "5/minute"],
            "quotas" => &["1000/day", "20000/month"],
            "allowed_cidrs" => &["203.0.113.0/24", "2001:db8::/32"],
            "allowed_origins" | "origin" => &["https://app.example"],
            "ip" => &["203.0.113.7", "2001:db8::1"],
            "method" => &["GET", "POST"],
            "host" => &["gateway.test"],
            "path" => &["/v1/orders", "/public", "/nowhere?x=1"],
            "hint" => &["sk_live_", "sk_", "x"],
            "If-Match" => &["*", "\"1\"", "\"1\", \"2\"", "\"nonsense\""],
            "Idempotency-Key" => return format!("call-{}", self.random.u64(..)),
            "sha256" | "hash" | "digest" => {
                return (0..64).map(|_| self.random.digit(16)).collect();
            }
            _ if schema["format"] == "date-time"
                || name.ends_with("_at")
                || name.ends_with("_before") =>
            {
                &["2031-12-31T23:59:59Z", "2040-01-01T00:00:00+02:00"]
            }
            _ => &["Acme", "a name", "na\u{ef}ve \u{1f511}", "x"],
        };
        words[self.random.usize(..words.len())].to_owned()
    }

    /// Breaks something somewhere in a body.
    fn spoil(&mut self, value: &mut Value) {
        let deeper = self.random.u8(..3) > 0;
        match value {
            Value::Object(members) if deeper && !members.is_empty() => {
                let n = self.random.usize(..members.len());
                if let Some(member) = members.values_mut().nth(n) {
                    self.spoil(member);
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let n = self.random.usize(..items.len());
                self.spoil(&mut items[n]);
            }
            Value::Object(members) => match self.random.u8(..3) {
                0 => *value = Value::Null,
                1 => {
                    members.insert("unexpected".into(), json!(true));
                }
                _ => {
                    let first = members.keys().next().cloned();
                    first.and_then(|name| members.remove(&name));
                }
            },
            value @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)) => *value = self.nonsense(),
        }
    }

    fn nonsense(&mut self) -> Value {
        match self.random.u8(..12) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(u64::MAX),
            4 => json!(1e300),
            5 => json!([]),
            6 => json!({}),
            7 => json!(""),
            8 => json!("\u{0}\u{1b}[31m\u{202e}"),
            9 => json!("x".repeat(self.random.usize(200..5_000))),
            10 => json!(vec!["read:orders"; 300]),
            _ => json!("9999999999d"),
        }
    }

    fn wrong_text(&mut self) -> Vec<u8> {
        match self.random.u8(..6) {
            0 => b"{".to_vec(),
            1 => b"null".to_vec(),
            2 => b"\xff\xfe{}".to_vec(),
            3 => [b"[".repeat(300), b"]".repeat(300)].concat(),
            4 => b"{\"name\":\"a\",\"name\":\"b\"}".to_vec(),
            _ => format!("{{\"name\":\"{}\"}}", "x".repeat(70_000)).into_bytes(),
        }
    }

    fn wrong_id(&mut self) -> String {
        let ids = [
            "acct_00000000000000000000000000",
            "app_00000000000000000000000000",
            "key_00000000000000000000000000",
            "tok_00000000000000000000000000",
            "key_",
            "%00",
            "%ff",
            "..%2f..",
            "x",
            "0",
            "key_0000000000000000000000000%C3%A9",
        ];
        ids[self.random.usize(..ids.len())].to_owned()
    }

    fn wrong_parameter(&mut self) -> (String, String) {
        let all = [
            ("limit", "0"),
            ("limit", "201"),
            ("limit", "-1"),
            ("limit", "all"),
            ("cursor", ""),
            ("cursor", "nonsense"),
            ("cursor", "18446744073709551616"),
            ("unexpected", "1"),
            ("status", "dead"),
            ("expiring_within", "soon"),
            ("account_id", "x"),
            ("tail", "0"),
            ("limit", "\u{0}"),
        ];
        let (name, value) = all[self.random.usize(..all.len())];
        (name.to_owned(), value.to_owned())
    }

    fn wrong_header(&mut self) -> (String, String) {
        let long = "x".repeat(300);
        let all = [
            ("Idempotency-Key", ""),
            ("Idempotency-Key", long.as_str()),
            ("If-Match", ""),
            ("If-Match", "W/\"1\""),
            ("If-Match", "\"18446744073709551616\""),
            ("Origin", "https://evil.example"),
            ("Authorization", "Bearer x"),
            ("X-Request-Id", "no spaces allowed"),
            ("Accept", "text/html"),
        ];
        let (name, value) = all[self.random.usize(..all.len())];
        (name.to_owned(), value.to_owned())
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode =
        |byte: u8| if plain(&byte) { (byte as char).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
