//! Counts the requests with keys that other systems made: when there are none any more, the last client
//! has moved.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::register;
use crate::route::Outcome;

/// The handles of requests with imported keys. Cheap to clone.
#[derive(Clone)]
pub struct ImportedKeyMetrics {
    admitted: IntCounter,
    refused: IntCounter,
}

impl ImportedKeyMetrics {
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn new(registry: &Registry) -> Self {
        let options = Opts::new(
            "keygate_imported_key_requests_total",
            "Requests with keys that other systems made, by what was decided about them.",
        );
        let family = register(registry, IntCounterVec::new(options, &["outcome"]));
        Self {
            admitted: family.with_label_values(&["admitted"]),
            refused: family.with_label_values(&["refused"]),
        }
    }

    pub fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Admitted => self.admitted.inc(),
            Outcome::Refused(_) => self.refused.inc(),
        }
    }
}
