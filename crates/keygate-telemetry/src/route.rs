//! What became of the requests of one route, counted without a look-up.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use keygate_core::Code;
use keygate_core::cells::Cells;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use crate::metrics::register;
use crate::timing::REQUEST_BUCKETS;

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Admitted,
    Refused(Code),
}

/// The handles of one route. Cheap to clone.
#[derive(Clone)]
pub struct RouteMetrics(Arc<Handles>);

struct Handles {
    /// What nearly every request adds to: the admitted, then the answers by class.
    often: Cells<{ 1 + CLASSES.len() }>,
    /// So much of that is in the counters.
    settled: Mutex<[u64; 1 + CLASSES.len()]>,
    admitted: IntCounter,
    /// By the code's discriminant.
    refused: [IntCounter; Code::ALL.len()],
    /// By the status's first digit, from 1.
    responses: [IntCounter; CLASSES.len()],
    seconds: Histogram,
    preflights: IntCounter,
    too_large: IntCounter,
    /// By the place in [`FAILURES`].
    failed: [IntCounter; FAILURES.len()],
}

/// What can become of a request that was admitted, and is not its client's doing.
const FAILURES: [Code; 4] =
    [Code::Internal, Code::UpstreamError, Code::UpstreamUnavailable, Code::UpstreamTimeout];

/// Where the admitted are counted, and the answers of the first class.
const ADMITTED: usize = 0;
const FIRST_CLASS: usize = 1;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl RouteMetrics {
    /// Counts a decision.
    pub fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Admitted => self.0.often.add([(ADMITTED, 1)]),
            Outcome::Refused(code) => {
                if let Some(counter) = self.0.refused.get(code as usize) {
                    counter.inc();
                }
            }
        }
    }

    /// Counts an answer by the class of its status. What is beyond the classes counts in the
    /// nearest one.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.0.often.add([(FIRST_CLASS + class, 1)]);
    }

    /// Counts a page's question whether it may send a request: no decision, and in the same family.
    pub fn preflight(&self) {
        self.0.preflights.inc();
    }

    /// Counts an upstream's answer that is larger than its route allows.
    pub fn answer_too_large(&self) {
        self.0.too_large.inc();
    }

    /// Counts an admitted request that failed: an upstream's fault, or ours. A client's is neither.
    pub fn failed(&self, code: Code) {
        let place = FAILURES.iter().position(|failure| *failure == code);
        if let Some(counter) = place.and_then(|place| self.0.failed.get(place)) {
            counter.inc();
        }
    }

    /// From the request's first byte to the answer's last.
    pub fn request_seconds(&self, took: Duration) {
        self.0.seconds.observe(took.as_secs_f64());
    }
}

impl Handles {
    /// Puts what was counted in the cells into the counters.
    fn settle(&self) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = [&self.admitted].into_iter().chain(&self.responses);
        let sums = self.often.sums();
        for ((counter, sum), settled) in counters.zip(sums).zip(settled.iter_mut()) {
            counter.inc_by(sum.wrapping_sub(*settled));
            *settled = sum;
        }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The metrics that have a route for a label.
pub(crate) struct RouteFamilies {
    /// Those that count in cells.
    resolved: Mutex<Vec<Weak<Handles>>>,
    requests: IntCounterVec,
    responses: IntCounterVec,
    too_large: IntCounterVec,
    failed: IntCounterVec,
    seconds: HistogramVec,
}

impl RouteFamilies {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        Self {
            resolved: Mutex::default(),
            requests: counter(
                "keygate_requests_total",
                "Requests by what was decided about them.",
                &["route", "outcome"],
            ),
            responses: counter(
                "keygate_responses_total",
                "Answers by the class of their status.",
                &["route", "class"],
            ),
            too_large: counter(
                "keygate_responses_too_large_total",
                "Upstreams' answers that were larger than their route allows, and were cut off.",
                &["route"],
            ),
            failed: counter(
                "keygate_requests_failed_total",
                "Admitted requests that failed, by what their clients were told.",
                &["route", "code"],
            ),
            seconds: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new("keygate_request_seconds", "Time that requests took.")
                        .buckets(REQUEST_BUCKETS.to_vec()),
                    &["route"],
                ),
            ),
        }
    }

    /// The handles of one route, every outcome and class among them, so that each series is there,
    /// at zero, before it first counts.
    #[expect(clippy::disallowed_methods, reason = "the handles are resolved here, once")]
    pub(crate) fn resolve(&self, route: &str) -> RouteMetrics {
        let outcome = |outcome| self.requests.with_label_values(&[route, outcome]);
        let handles = Arc::new(Handles {
            often: Cells::new(),
            settled: Mutex::default(),
            admitted: outcome("admitted"),
            refused: Code::ALL.map(|code| outcome(code.as_str())),
            responses: CLASSES.map(|class| self.responses.with_label_values(&[route, class])),
            seconds: self.seconds.with_label_values(&[route]),
            preflights: outcome("preflight"),
            too_large: self.too_large.with_label_values(&[route]),
            failed: FAILURES.map(|code| self.failed.with_label_values(&[route, code.as_str()])),
        });
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.retain(|known| known.strong_count() > 0);
        resolved.push(Arc::downgrade(&handles));
        RouteMetrics(handles)
    }

    /// Puts what was counted in cells into the metrics.
    pub(crate) fn settle(&self) {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.iter().filter_map(Weak::upgrade).for_each(|handles| handles.settle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> (Registry, RouteFamilies) {
        let registry = Registry::new();
        let families = RouteFamilies::new(&registry);
        (registry, families)
    }

    #[test]
    fn every_code_is_counted_under_its_own_name() {
        let (_, families) = families();
        let route = families.resolve("r");
        for code in Code::ALL {
            route.count(Outcome::Refused(code));
            let counter = families.requests.get_metric_with_label_values(&["r", code.as_str()]);
            assert_eq!(counter.unwrap().get(), 1, "{}", code.as_str());
        }
        route.count(Outcome::Admitted);
        families.settle();
        families.settle();
        assert_eq!(route.0.admitted.get(), 1);
        let all: u64 = route.0.refused.iter().map(IntCounter::get).sum();
        assert_eq!(all, Code::ALL.len() as u64);
    }

    #[test]
    fn what_a_route_has_counted_outlives_the_handles() {
        let (_, families) = families();
        let (first, second) = (families.resolve("r"), families.resolve("r"));
        first.count(Outcome::Admitted);
        drop(first);
        second.count(Outcome::Admitted);
        families.settle();
        assert_eq!(second.0.admitted.get(), 2);
    }

    #[test]
    fn a_failure_after_admission_is_counted_apart_unless_it_is_the_clients() {
        let (_, families) = families();
        let route = families.resolve("r");
        for code in Code::ALL {
            route.failed(code);
        }
        assert_eq!(route.0.failed.each_ref().map(IntCounter::get), [1; FAILURES.len()]);
        let refused: u64 = route.0.refused.iter().map(IntCounter::get).sum();
        assert_eq!(refused, 0, "what was decided is another question");
    }

    #[test]
    fn every_status_has_a_class() {
        let (_, families) = families();
        let route = families.resolve("r");
        for (status, class) in
            [(0, "1xx"), (101, "1xx"), (200, "2xx"), (304, "3xx"), (499, "4xx"), (503, "5xx")]
        {
            let class = families.responses.get_metric_with_label_values(&["r", class]).unwrap();
            let before = class.get();
            route.response(status);
            families.settle();
            assert_eq!(class.get(), before + 1, "{status}");
        }
        route.response(u16::MAX);
        families.settle();
        assert_eq!(route.0.responses[4].get(), 2);
    }
}
