//! A span as the rest of the program knows it.

use std::borrow::Cow;

use keygate_core::{SpanId, TraceId};

/// Something that took its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    /// What it is a part of; nothing if the trace begins here.
    pub parent: Option<SpanId>,
    /// Whether that is another program's.
    pub is_parent_remote: bool,
    pub kind: SpanKind,
    pub name: Cow<'static, str>,
    /// In nanoseconds since 1970.
    pub begin_ns: u64,
    pub end_ns: u64,
    pub attributes: Vec<Attribute>,
    pub events: Vec<Event>,
    pub is_failure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// The answering of a request.
    Server,
    /// The waiting for another program's answer.
    Client,
    Internal,
}

/// What is known of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub name: &'static str,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
    Number(i64),
}

/// A moment of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    pub at_ns: u64,
}

impl Attribute {
    #[must_use]
    pub fn text(name: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { name, value: Value::Text(text.into()) }
    }

    #[must_use]
    pub fn number(name: &'static str, number: impl Into<i64>) -> Self {
        Self { name, value: Value::Number(number.into()) }
    }
}
