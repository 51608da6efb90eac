//! Spans of those requests that are traced: whether one is, what its upstream is told of it, and what is
//! noted until it has ended. A request that is not traced pays for reading its `traceparent`.

use std::net::SocketAddr;
use std::time::Duration;

use http::Version;
use keygate_config::TracingSettings;
use keygate_core::{SpanId, TraceId, TraceParent};
use keygate_telemetry::access_log::CutShort;
use keygate_telemetry::traces::SpanSender;
use pingora::http::RequestHeader;
use pingora::{Error, ErrorSource};

use super::access_log::cut_short;
use super::{End, Story, client_fault};
use crate::context::Context;
use crate::trace;

mod spans;

/// What a request carries of its trace.
#[derive(Default)]
pub(crate) struct Noted {
    /// The client's, or a new one.
    parent: TraceParent,
    is_new: bool,
    recording: Option<Box<Recording>>,
}

/// What is noted of a request that is traced.
struct Recording {
    head: Head,
    /// The request's own span.
    span: SpanId,
    /// No more than the upstream's settings allow.
    attempts: Vec<Attempt>,
}

/// One that is cut off has nothing left to read this from.
struct Head {
    method: &'static str,
    version: Version,
    /// Masked and bounded, and so is the path.
    host: Option<String>,
    path: String,
}

/// One sending of the request to a target.
struct Attempt {
    span: SpanId,
    /// All times are from the beginning of the request.
    began: Duration,
    target: Option<SocketAddr>,
    failed: Option<Failed>,
}

struct Failed {
    why: &'static str,
    connected: Option<Duration>,
    at: Duration,
}

impl Noted {
    /// Every request that has begun has one, whether or not it is traced.
    pub(crate) fn trace_id(&self) -> TraceId {
        self.parent.trace
    }

    /// That of the request itself, if it is traced.
    pub(super) fn span(&self) -> Option<SpanId> {
        self.recording.as_ref().map(|recording| recording.span)
    }

    /// Whether the client sent none that could be gone on with.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// What whoever gets the request next is told: the attempt that it is a part of, if that is recorded.
    pub(crate) fn next(&self) -> TraceParent {
        let Some(recording) = &self.recording else { return self.parent };
        let span = recording.attempts.last().map_or(recording.span, |attempt| attempt.span);
        TraceParent { span, is_sampled: true, ..self.parent }
    }

    pub(super) fn sent_to(&mut self, target: Option<SocketAddr>, at: impl FnOnce() -> Duration) {
        if let Some(recording) = &mut self.recording {
            let span = trace::new_span();
            recording.attempts.push(Attempt { span, began: at(), target, failed: None });
        }
    }
}

/// How a request ended.
struct Ended {
    status: Option<u16>,
    cut: Option<CutShort>,
    took: Duration,
    /// Nanoseconds since 1970.
    at_ns: u64,
}

/// The attempt at hand has failed.
pub(super) fn failed(ctx: &mut Context, error: &Error) {
    let Some(recording) = &mut ctx.story.trace.recording else { return };
    if let Some(attempt @ Attempt { failed: None, .. }) = recording.attempts.last_mut() {
        let is_clients = *error.esource() == ErrorSource::Downstream;
        let why = if is_clients { client_fault(error).name() } else { error.etype().as_str() };
        let connected = ctx.story.connected;
        attempt.failed = Some(Failed { why, connected, at: ctx.started.elapsed() });
    }
}

/// Sends spans.
#[derive(Clone, Default)]
pub struct Traces {
    sink: Option<Sink>,
}

#[derive(Clone)]
struct Sink {
    sender: SpanSender,
    /// Nanoseconds since 1970.
    clock: fn() -> u64,
}

impl Traces {
    /// Has spans sent by this one. `clock` is the system's, in nanoseconds since 1970.
    #[must_use]
    pub fn new(sender: SpanSender, clock: fn() -> u64) -> Self {
        Self { sink: Some(Sink { sender, clock }) }
    }

    /// Sends what is left, for at most so long. Blocks.
    pub fn stop(&self, most: Duration) {
        if let Some(sink) = &self.sink {
            sink.sender.stop(most);
        }
    }

    pub(super) fn begun(&self, head: &RequestHeader, by: &TracingSettings, story: &mut Story) {
        let sent = trace::parent(&head.headers);
        let is_traced = self.sink.is_some() && is_traced(sent, by);
        let recording = || {
            let (head, span) = (Head::of(head), trace::new_span());
            Box::new(Recording { head, span, attempts: Vec::new() })
        };
        story.trace = Noted {
            parent: sent.unwrap_or_else(trace::new_trace),
            is_new: sent.is_none(),
            recording: is_traced.then(recording),
        };
    }

    pub(super) fn ended(&self, ctx: &Context, status: Option<u16>, end: End, took: Duration) {
        if let (Some(sink), Some(recording)) = (&self.sink, &ctx.story.trace.recording) {
            let ended = Ended { status, cut: cut_short(end, ctx), took, at_ns: (sink.clock)() };
            sink.sender.send(spans::of(ctx, recording, &ended));
        }
    }
}

fn is_traced(sent: Option<TraceParent>, by: &TracingSettings) -> bool {
    match sent {
        Some(parent) if by.follow_parent => parent.is_sampled,
        Some(_) | None => by.sample.takes(fastrand::u64(..)),
    }
}
