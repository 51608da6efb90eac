//! Spans of those requests that are traced.

use std::time::Duration;

use keygate_config::TracingSettings;
use keygate_core::{TraceId, TraceParent};
use pingora::http::RequestHeader;

use super::{End, Story};
use crate::context::Context;
use crate::trace;

/// What a request carries of its trace.
#[derive(Default)]
pub(crate) struct Noted {
    /// The client's, or a new one.
    parent: TraceParent,
    is_new: bool,
}

impl Noted {
    /// Every request that has begun has one, whether or not it is traced.
    #[expect(dead_code, reason = "for the access log")]
    pub(crate) fn trace_id(&self) -> TraceId {
        self.parent.trace
    }

    /// Whether the client sent none that could be gone on with.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// What whoever gets the request next is told.
    pub(crate) fn next(&self) -> TraceParent {
        self.parent
    }
}

/// Sends spans.
#[derive(Clone, Default)]
pub struct Traces {}

impl Traces {
    pub(super) fn begun(&self, head: &RequestHeader, _by: &TracingSettings, story: &mut Story) {
        let sent = trace::parent(&head.headers);
        story.trace =
            Noted { parent: sent.unwrap_or_else(trace::new_trace), is_new: sent.is_none() };
    }

    pub(super) fn ended(&self, _ctx: &Context, _status: Option<u16>, _end: End, _took: Duration) {}
}
