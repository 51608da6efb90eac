//! A receiver of OpenTelemetry traces: OTLP over HTTP, Protocol Buffers. It keeps each message as it
//! came, and decodes it with what OpenTelemetry publishes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use super::upstream::{Exchange, Upstream};
use super::wait::{eventually, patience};

pub struct Collector {
    server: Upstream,
    shared: Arc<Shared>,
}

/// What a collector does with spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    Takes,
    /// All but so many.
    Rejects(i64),
    /// Answers with this status.
    Refuses(u16),
    /// Says nothing until it does something else.
    Hangs,
}

struct Shared {
    reception: Mutex<Reception>,
    changed: Condvar,
    messages: Mutex<Vec<Vec<u8>>>,
}

/// A span as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanSeen {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty if it has none.
    pub parent: String,
    pub kind: i32,
    pub is_parent_remote: bool,
    pub begin_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<(String, u64)>,
    pub is_error: bool,
    /// Whose it is.
    pub resource: BTreeMap<String, String>,
}

impl SpanSeen {
    #[track_caller]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(|value| &**value)
    }
}

impl Collector {
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            reception: Mutex::new(Reception::Takes),
            changed: Condvar::new(),
            messages: Mutex::default(),
        });
        let receiving = Arc::clone(&shared);
        let server = Upstream::answering(move |exchange| receiving.receive(exchange));
        Self { server, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address())
    }

    pub fn set(&self, reception: Reception) {
        *self.shared.reception.lock().unwrap_or_else(PoisonError::into_inner) = reception;
        self.shared.changed.notify_all();
    }

    /// How many messages have come, taken or not.
    pub fn asked(&self) -> usize {
        self.server.count()
    }

    /// The head of the first message.
    pub fn first_head(&self) -> String {
        String::from_utf8_lossy(&self.server.wait_for(1)[0].raw).into_owned()
    }

    /// The messages that were taken, as they came.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans that were taken.
    pub fn spans(&self) -> Vec<SpanSeen> {
        self.messages().iter().flat_map(|message| decode(message)).collect()
    }

    /// The spans of a trace, once there are any: those of one request come together.
    #[track_caller]
    pub fn trace(&self, id: &str) -> Vec<SpanSeen> {
        eventually(&format!("spans of the trace {id}"), || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span.trace == id).collect();
            (!spans.is_empty()).then_some(spans)
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.set(Reception::Takes);
    }
}

impl Shared {
    fn receive(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let body = exchange.read_body()?;
        assert_eq!(body.length, body.start.len() as u64, "the whole message was kept");
        let reception = self.reception.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hanging = |reception: &mut Reception| *reception == Reception::Hangs;
        let reception = self.changed.wait_timeout_while(reception, patience(), is_hanging);
        let reception = *reception.unwrap_or_else(PoisonError::into_inner).0;
        let mut answer = ExportTraceServiceResponse::default();
        match reception {
            Reception::Refuses(status) => return exchange.answer(status, &[], b""),
            Reception::Rejects(rejected_spans) => {
                let error_message = "too many".to_owned();
                answer.partial_success =
                    Some(ExportTracePartialSuccess { rejected_spans, error_message });
            }
            Reception::Takes | Reception::Hangs => {}
        }
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(body.start);
        let headers = [("Content-Type", "application/x-protobuf")];
        exchange.answer(200, &headers, &answer.encode_to_vec())
    }
}

fn decode(message: &[u8]) -> Vec<SpanSeen> {
    let message = ExportTraceServiceRequest::decode(message).expect("a message of OTLP");
    let mut seen = Vec::new();
    for of_resource in message.resource_spans {
        let resource = attributes(&of_resource.resource.expect("a resource").attributes);
        for of_scope in of_resource.scope_spans {
            assert_eq!(of_scope.scope.expect("a scope").name, "keygate");
            seen.extend(of_scope.spans.into_iter().map(|span| decoded(span, resource.clone())));
        }
    }
    seen
}

fn decoded(span: Span, resource: BTreeMap<String, String>) -> SpanSeen {
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(span.flags & 1, 1, "a span that is sent is sampled");
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
    SpanSeen {
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        is_parent_remote: span.flags & 0x300 == 0x300,
        begin_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        attributes: attributes(&span.attributes),
        events: span.events.into_iter().map(|event| (event.name, event.time_unix_nano)).collect(),
        is_error: span.status.is_some_and(|status| status.code() == StatusCode::Error),
        resource,
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let named: BTreeMap<_, _> = all.iter().map(|one| (one.key.clone(), text(one))).collect();
    assert_eq!(named.len(), all.len(), "an attribute comes once: {all:?}");
    named
}

fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    }
}
