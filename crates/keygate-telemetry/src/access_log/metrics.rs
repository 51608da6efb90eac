//! Counts what becomes of the lines of the access log.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::register;

/// The handles of the access log. Cheap to clone.
#[derive(Clone)]
pub struct AccessLogMetrics {
    written: IntCounter,
    dropped: IntCounter,
    failed: IntCounter,
}

impl AccessLogMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new(
            "keygate_access_log_lines_total",
            "Lines of the access log: written, dropped because the queue was full, or lost to a sink that failed.",
        );
        let family = register(registry, IntCounterVec::new(options, &["result"]));
        Self {
            written: family.with_label_values(&["written"]),
            dropped: family.with_label_values(&["dropped"]),
            failed: family.with_label_values(&["failed"]),
        }
    }

    pub(super) fn written(&self, lines: u64) {
        self.written.inc_by(lines);
    }

    pub(super) fn dropped(&self) {
        self.dropped.inc();
    }

    pub(super) fn failed(&self, lines: u64) {
        self.failed.inc_by(lines);
    }
}
