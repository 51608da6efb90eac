//! What becomes of spans.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::register;

/// Counts spans. Cheap to clone.
#[derive(Clone)]
pub struct TraceMetrics {
    sent: IntCounter,
    pub(super) dropped: IntCounter,
    failed: IntCounter,
}

impl TraceMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new(
            "keygate_trace_spans_total",
            "Spans by what became of them: taken by the receiver, dropped because too many waited, \
             or not taken.",
        );
        let family = register(registry, IntCounterVec::new(options, &["result"]));
        Self {
            sent: family.with_label_values(&["sent"]),
            dropped: family.with_label_values(&["dropped"]),
            failed: family.with_label_values(&["failed"]),
        }
    }

    pub(super) fn sent(&self, spans: usize) {
        self.sent.inc_by(spans as u64);
    }

    pub(super) fn dropped(&self, spans: usize) {
        self.dropped.inc_by(spans as u64);
    }

    pub(super) fn failed(&self, spans: usize) {
        self.failed.inc_by(spans as u64);
    }
}
