//! How reloads of the configuration end.

use keygate_core::UnixMillis;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::metrics::register;

/// Counts reloads.
#[derive(Clone)]
pub struct ReloadMetrics {
    succeeded: IntCounter,
    failed: IntCounter,
    last_success: IntGauge,
}

impl ReloadMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new("keygate_config_reloads_total", "Reloads of the configuration.");
        let reloads = register(registry, IntCounterVec::new(options, &["result"]));
        #[expect(clippy::disallowed_methods, reason = "resolved once, at start")]
        let result = |result| reloads.with_label_values(&[result]);
        Self {
            succeeded: result("success"),
            failed: result("failure"),
            last_success: register(
                registry,
                IntGauge::new(
                    "keygate_config_last_success_timestamp_seconds",
                    "When the running configuration was loaded.",
                ),
            ),
        }
    }

    /// A configuration was taken over, or found to be the running one.
    pub fn succeeded(&self, at: UnixMillis) {
        self.succeeded.inc();
        self.loaded(at);
    }

    /// The running configuration stays.
    pub fn failed(&self) {
        self.failed.inc();
    }

    pub(crate) fn loaded(&self, at: UnixMillis) {
        let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
        self.last_success.set(seconds);
    }
}
