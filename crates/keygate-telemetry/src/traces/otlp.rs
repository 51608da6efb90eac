//! Spans as OTLP has them: Protocol Buffers, one message for a batch.

use keygate_core::SpanId;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as OtlpValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use opentelemetry_proto::tonic::trace::v1::span::{Event as OtlpEvent, SpanKind as OtlpKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};
use prost::Message;

use super::Instance;
use super::span::{Attribute, Event, Span, SpanKind, Value};

/// The low byte is W3C's flags; whether the parent is another program's is told above it.
const SAMPLED: u32 = 0x01;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Whose spans these are.
pub(super) struct Resource {
    resource: OtlpResource,
    scope: InstrumentationScope,
}

impl Resource {
    pub(super) fn new(service_name: &str, instance: &Instance) -> Self {
        let (name, version) = ("keygate".to_owned(), instance.version.to_owned());
        let scope = InstrumentationScope { name, version, ..InstrumentationScope::default() };
        let attributes = vec![
            attribute(Attribute::text("service.name", service_name.to_owned())),
            attribute(Attribute::text("service.version", instance.version)),
            attribute(Attribute::text("service.instance.id", instance.id.clone())),
        ];
        Self { resource: OtlpResource { attributes, ..OtlpResource::default() }, scope }
    }

    /// The message that brings a receiver these spans.
    pub(super) fn encode(&self, spans: Vec<Span>) -> Vec<u8> {
        let spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: spans.into_iter().map(span).collect(),
            schema_url: String::new(),
        };
        let spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            schema_url: String::new(),
        };
        ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec()
    }
}

/// How many spans a receiver did not want, by its answer. One that cannot be read says nothing of that.
pub(super) fn rejected(answer: &[u8]) -> usize {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.unwrap_or_default().rejected_spans;
    usize::try_from(rejected).unwrap_or_default()
}

fn span(span: Span) -> OtlpSpan {
    let code = if span.is_failure { StatusCode::Error } else { StatusCode::Unset };
    let id = |SpanId(id)| id.to_be_bytes().to_vec();
    OtlpSpan {
        trace_id: span.trace.0.to_be_bytes().to_vec(),
        span_id: id(span.id),
        parent_span_id: span.parent.map(id).unwrap_or_default(),
        flags: SAMPLED | HAS_IS_REMOTE | if span.is_parent_remote { IS_REMOTE } else { 0 },
        name: span.name.into_owned(),
        kind: kind(span.kind).into(),
        start_time_unix_nano: span.begin_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        events: span.events.into_iter().map(event).collect(),
        status: Some(Status { message: String::new(), code: code.into() }),
        ..OtlpSpan::default()
    }
}

fn kind(kind: SpanKind) -> OtlpKind {
    match kind {
        SpanKind::Server => OtlpKind::Server,
        SpanKind::Client => OtlpKind::Client,
        SpanKind::Internal => OtlpKind::Internal,
    }
}

fn attribute(Attribute { name, value }: Attribute) -> KeyValue {
    let value = match value {
        Value::Text(text) => OtlpValue::StringValue(text.into_owned()),
        Value::Number(number) => OtlpValue::IntValue(number),
    };
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

fn event(Event { name, at_ns }: Event) -> OtlpEvent {
    OtlpEvent { time_unix_nano: at_ns, name: name.to_owned(), ..OtlpEvent::default() }
}
