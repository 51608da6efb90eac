//! How well the changes of other gateways come through.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};

use crate::metrics::register;
use crate::timing::LAG_BUCKETS;

/// The handles of the link to the store's changes. Cheap to clone.
#[derive(Clone)]
pub struct LinkMetrics {
    up: IntGauge,
    lag: Histogram,
}

impl LinkMetrics {
    /// The gauge begins at 1: a store that nobody else writes to has no link that could be down.
    pub(crate) fn new(registry: &Registry) -> Self {
        let up = "1 while this gateway is told of changes at once, or is the only one to make any.";
        let up = register(registry, IntGauge::new("keygate_link_up", up));
        up.set(1);
        let lag = HistogramOpts::new(
            "keygate_revocation_lag_seconds",
            "From a change's time in the store to its taking effect in this gateway.",
        );
        let lag = Histogram::with_opts(lag.buckets(LAG_BUCKETS.to_vec()));
        Self { up, lag: register(registry, lag) }
    }

    /// Says whether this gateway is told of changes at once.
    pub fn up(&self, is_up: bool) {
        self.up.set(i64::from(is_up));
    }

    /// Reports a change that took effect here so long after it was made.
    pub fn lag(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    fn has_line(metrics: &Metrics, line: &str) -> bool {
        metrics.render().lines().any(|rendered| rendered == line)
    }

    #[test]
    fn a_link_is_up_until_somebody_says_otherwise() {
        let metrics = Metrics::new("1");
        assert!(has_line(&metrics, "keygate_link_up 1"));
        metrics.link().up(false);
        assert!(has_line(&metrics, "keygate_link_up 0"));
        metrics.link().up(true);
        assert!(has_line(&metrics, "keygate_link_up 1"));
    }

    #[test]
    fn a_fast_change_is_told_from_one_that_came_by_polling_and_from_one_after_an_outage() {
        let metrics = Metrics::new("1");
        for micros in [400, 900_000, 500_000_000] {
            metrics.link().lag(Duration::from_micros(micros));
        }
        for line in [
            r#"keygate_revocation_lag_seconds_bucket{le="0.0005"} 1"#,
            r#"keygate_revocation_lag_seconds_bucket{le="0.5"} 1"#,
            r#"keygate_revocation_lag_seconds_bucket{le="1"} 2"#,
            r#"keygate_revocation_lag_seconds_bucket{le="600"} 3"#,
            "keygate_revocation_lag_seconds_count 3",
        ] {
            assert!(has_line(&metrics, line), "no line {line} in\n{}", metrics.render());
        }
    }
}
