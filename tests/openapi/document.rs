//! The description as a test reads it: operations, and what names stand for.

use serde_json::Value;

pub(super) struct Document(Value);

/// One method of one path.
pub(super) struct Operation {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) says: Value,
}

impl Operation {
    pub(super) fn makes_records(&self) -> bool {
        self.says["responses"].get("201").is_some()
    }
}

impl Document {
    pub(super) fn new(document: Value) -> Self {
        Self(document)
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        let paths = self.0["paths"].as_object().expect("paths");
        let all = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path's methods").iter();
            methods.map(move |(method, says)| Operation {
                id: says["operationId"].as_str().expect("an operation's id").to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                says: says.clone(),
            })
        });
        all.collect()
    }

    /// What a reference stands for; anything else stands for itself.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|target| target.strip_prefix('#')) {
            Some(place) => self.resolve(self.0.pointer(place).unwrap_or_else(|| panic!("{place}"))),
            None => value,
        }
    }

    pub(super) fn response(&self, operation: &Operation, status: u16) -> Option<Value> {
        let response = operation.says["responses"].get(status.to_string())?;
        Some(self.resolve(response).clone())
    }

    /// Whether an answer has a member for the text of a key or of a token.
    pub(super) fn shows_a_secret(&self, response: &Value) -> bool {
        let schema = self.resolve(&response["content"]["application/json"]["schema"]);
        ["key", "token"].iter().any(|name| schema["properties"].get(name).is_some())
    }
}

/// Every value within, parents first.
pub(super) fn each(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
        Value::Object(members) => members.values().for_each(|member| each(member, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
