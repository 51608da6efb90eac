//! What a configuration is, for people to look at: every setting that was asked for, as the file has it
//! or by its default. Made of the file's text alone, so no variable's value and no file's contents can
//! be in it; what may hold a secret says how it is shown ([`Value::show`](crate::value::Value::show)).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use toml::de::DeValue;

use crate::reader::Item;

/// What stands for a value that is not shown.
pub(crate) const REDACTED: &str = "[redacted]";

/// One table, being filled while it is read. Clones are the same table.
#[derive(Clone, Default)]
pub(crate) struct Shown(Rc<RefCell<BTreeMap<String, Part>>>);

enum Part {
    Value(Value),
    Table(Shown),
    Tables(Vec<Shown>),
}

impl Shown {
    pub(crate) fn set(&self, key: &str, value: Value) {
        self.0.borrow_mut().insert(key.to_owned(), Part::Value(value));
    }

    /// The table inside this one that is called `key`.
    pub(crate) fn table(&self, key: &str) -> Self {
        let mut parts = self.0.borrow_mut();
        if let Some(Part::Table(table)) = parts.get(key) {
            return table.clone();
        }
        let table = Self::default();
        parts.insert(key.to_owned(), Part::Table(table.clone()));
        table
    }

    /// Another table of the list that is called `key`.
    pub(crate) fn next_table(&self, key: &str) -> Self {
        let table = Self::default();
        let mut parts = self.0.borrow_mut();
        match parts.get_mut(key) {
            Some(Part::Tables(tables)) => tables.push(table.clone()),
            Some(Part::Value(_) | Part::Table(_)) | None => {
                parts.insert(key.to_owned(), Part::Tables(vec![table.clone()]));
            }
        }
        table
    }

    pub(crate) fn to_json(&self) -> Value {
        let show = |(key, part): (&String, &Part)| {
            let value = match part {
                Part::Value(value) => value.clone(),
                Part::Table(table) => table.to_json(),
                Part::Tables(tables) => tables.iter().map(Self::to_json).collect(),
            };
            (key.clone(), value)
        };
        Value::Object(self.0.borrow().iter().map(show).collect())
    }
}

/// An item as the file has it, `${NAME}` and all.
pub(crate) fn as_written(item: &Item<'_>) -> Value {
    match item.get_ref() {
        DeValue::String(text) => Value::from(&**text),
        DeValue::Integer(number) => {
            match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                // No setting is below 0 or as large: it is refused where it is read.
                Err(_) => Value::from(number.as_str()),
            }
        }
        DeValue::Float(number) => Value::from(number.as_str()),
        DeValue::Boolean(is_true) => Value::from(*is_true),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => items.iter().map(as_written).collect(),
        DeValue::Table(table) => {
            let member = |(key, item): (&toml::Spanned<_>, &Item<'_>)| -> (String, Value) {
                let key: &toml::de::DeString<'_> = key.get_ref();
                (key.to_string(), as_written(item))
            };
            Value::Object(table.iter().map(member).collect())
        }
    }
}

/// A text that may be a secret: only where it comes from is shown, if that is not here.
pub(crate) fn reference_only(item: &Item<'_>) -> Value {
    match item.get_ref().as_str() {
        Some(text) if crate::environment::is_one_reference(text) => Value::from(text),
        Some(_) | None => Value::from(REDACTED),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::{Source, parse};

    const TOML: &str = r#"
        [server]
        listen = ["${HOST}:8080"]
        threads = 0x10
        [store]
        kind = "redis"
        urls = ["redis://127.0.0.1"]
        password = "${PASSWORD}"
        [upstreams.main]
        targets = ["127.0.0.1:9000", { address = "127.0.0.1:9001", weight = 2 }]
        health_check = { path = "/healthz?token=secret" }
        [[routes]]
        name = "one"
        path = "/one"
        upstream = "main"
        auth = "public"
        [routes.request_headers]
        set = { X-Token = "${TOKEN}", X-Other = "secret", X-Third = "Bearer ${TOKEN}" }
        [[routes]]
        name = "two"
        path = "/two"
        auth = "public"
        respond = { status = 503 }
    "#;

    fn shown() -> Value {
        let environment = |name: &str| match name {
            "HOST" => Some("127.0.0.1".to_owned()),
            "PASSWORD" | "TOKEN" => Some("hunter2".to_owned()),
            _ => None,
        };
        let alone = Source::alone("gateway.toml", TOML, Path::new("/nowhere"));
        let config = parse(Source { environment: &environment, ..alone });
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        serde_json::from_str(&config.shown).unwrap()
    }

    #[test]
    fn settings_are_as_the_file_has_them_or_by_default() {
        let shown = shown();
        assert_eq!(shown["server"]["listen"], json!(["${HOST}:8080"]));
        assert_eq!(shown["server"]["threads"], 16);
        assert_eq!(shown["server"]["headers_max"], 100);
        assert_eq!(shown["server"]["failed_auth"]["rate"], "60/minute");
        assert_eq!(shown["cache"]["keys_max"], 1_000_000);
        let targets = &shown["upstreams"]["main"]["targets"];
        assert_eq!(
            *targets,
            json!(["127.0.0.1:9000", { "address": "127.0.0.1:9001", "weight": 2 }])
        );
        assert_eq!(shown["upstreams"]["main"]["retries"], 2);
        let routes = shown["routes"].as_array().unwrap();
        assert_eq!(routes.len(), 2);
        assert_eq!((&routes[0]["name"], &routes[1]["name"]), (&json!("one"), &json!("two")));
        assert_eq!(
            routes[1]["respond"],
            json!({
                "status": 503, "body": "", "content_type": "text/plain; charset=utf-8",
            })
        );
    }

    #[test]
    fn what_does_not_count_is_not_shown() {
        let shown = shown();
        assert_eq!(shown["store"].get("path"), None);
        assert_eq!(shown["server"].get("connections_per_address_max"), None);
        assert_eq!(shown["routes"][0].get("scopes"), None);
        assert_eq!(shown["upstreams"]["main"].get("tls"), None);
    }

    #[test]
    fn of_a_secret_only_the_place_is_shown() {
        let shown = shown();
        assert_eq!(shown["store"]["password"], "${PASSWORD}");
        assert_eq!(
            shown["routes"][0]["request_headers"]["set"],
            json!({ "X-Token": "${TOKEN}", "X-Other": REDACTED, "X-Third": REDACTED })
        );
        assert_eq!(
            shown["upstreams"]["main"]["health_check"]["path"],
            format!("/healthz?{REDACTED}")
        );
        assert!(!shown.to_string().contains("hunter2") && !shown.to_string().contains("secret"));
    }
}
