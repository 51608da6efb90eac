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
    is_last_good: IntGauge,
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
            is_last_good: register(
                registry,
                IntGauge::new(
                    "keygate_config_last_reload_successful",
                    "1 if what was read last is the running configuration.",
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
        self.is_last_good.set(0);
    }

    pub(crate) fn loaded(&self, at: UnixMillis) {
        let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
        self.last_success.set(seconds);
        self.is_last_good.set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn a_reload_that_fails_is_seen_until_one_succeeds() {
        let metrics = Metrics::new("1");
        let is_good = || metrics.render().contains("\nkeygate_config_last_reload_successful 1\n");
        metrics.config_loaded(UnixMillis(1));
        assert!(is_good());
        metrics.reload().failed();
        assert!(!is_good());
        metrics.reload().succeeded(UnixMillis(2));
        assert!(is_good());
    }
}
