//! Bodies of requests, made of what was given and of nothing else.

use serde_json::{Map, Value};

use crate::cli::About;

/// The members of a JSON object.
#[derive(Debug, Default)]
pub(super) struct Body(Map<String, Value>);

impl Body {
    /// A member that is there if it was given.
    pub(super) fn text(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.into(), value.into());
        }
        self
    }

    pub(super) fn member(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.into(), value);
        self
    }

    /// A list that is there if anything was given.
    pub(super) fn list(self, name: &str, items: &[impl ToString]) -> Self {
        if items.is_empty() { self } else { self.member(name, texts(items)) }
    }

    /// Of a change: taken away if it was said to be none.
    pub(super) fn change(self, name: &str, value: Option<&str>, none: bool) -> Self {
        match value {
            Some("") => self.member(name, Value::Null),
            None if none => self.member(name, Value::Null),
            value => self.text(name, value),
        }
    }

    /// Of a change: the list, or an empty one if it was said to be none.
    pub(super) fn changed_list(self, name: &str, items: &[impl ToString], none: bool) -> Self {
        if none { self.member(name, Value::Array(Vec::new())) } else { self.list(name, items) }
    }

    /// Of what is made.
    pub(super) fn about(self, about: &About) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (owner, purpose) = (given(&about.owner), given(&about.purpose));
        self.text("owner", owner.as_deref()).text("purpose", purpose.as_deref()).metadata(about)
    }

    /// Of what is changed.
    pub(super) fn changed_about(self, about: &About) -> Self {
        self.change("owner", about.owner.as_deref(), false)
            .change("purpose", about.purpose.as_deref(), false)
            .metadata(about)
    }

    fn metadata(self, about: &About) -> Self {
        if about.metadata.is_empty() {
            return self;
        }
        let members = about.metadata.iter();
        let members: Map<String, Value> =
            members.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        self.member("metadata", members.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn done(self) -> Value {
        self.0.into()
    }
}

pub(super) fn texts(items: &[impl ToString]) -> Value {
    items.iter().map(ToString::to_string).collect()
}
