//! What became of the calls to the admin API.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::register;

/// How a call to the admin API ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    Ok,
    /// Without the admin token, or with a wrong one.
    Unauthorized,
    /// The caller's mistake, or a change that the rules forbid.
    Refused,
    /// Ours.
    Failed,
}

impl AdminOutcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Unauthorized, Self::Refused, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unauthorized => "unauthorized",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The handles of the admin API. Cheap to clone.
#[derive(Clone)]
pub struct AdminMetrics([IntCounter; AdminOutcome::ALL.len()]);

impl AdminMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options =
            Opts::new("keygate_admin_requests_total", "Calls to the admin API by outcome.");
        let family = register(registry, IntCounterVec::new(options, &["outcome"]));
        Self(AdminOutcome::ALL.map(|outcome| family.with_label_values(&[outcome.as_str()])))
    }

    pub fn count(&self, outcome: AdminOutcome) {
        if let Some(counter) = self.0.get(outcome as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_under_its_own_name() {
        let registry = Registry::new();
        let metrics = AdminMetrics::new(&registry);
        for (at, outcome) in AdminOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
            for _ in 0..=at {
                metrics.count(outcome);
            }
        }
        let families = registry.gather();
        let counted: std::collections::BTreeMap<_, _> = families[0]
            .get_metric()
            .iter()
            .map(|metric| (metric.get_label()[0].value(), metric.get_counter().get_value()))
            .collect();
        let expected = [("ok", 1.0), ("unauthorized", 2.0), ("refused", 3.0), ("failed", 4.0)];
        assert_eq!(counted, expected.into());
    }
}
