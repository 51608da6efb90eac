//! Reports: metrics and logs. The only crate that names prometheus and sets up tracing.
//!
//! Labels come from closed sets and are resolved to handles once. What is written to a log passes
//! [`logging::mask`], so that no key reaches it whole.

pub mod logging;
mod mask;
mod metrics;
mod reading;
mod route;
mod timing;

pub use metrics::{InFlight, InFlightGuard, KeyMetrics, Metrics, StoreMetrics};
pub use route::{Outcome, RouteMetrics};
pub use timing::{DecisionTimer, UpstreamMetrics};
