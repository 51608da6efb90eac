//! Reports: metrics, logs and traces. The only crate that names prometheus and OpenTelemetry, and sets
//! up tracing.
//!
//! Labels come from closed sets and are resolved to handles once. What is written to a log passes
//! [`logging::mask`], so that no key reaches it whole.

pub mod access_log;
mod admin;
mod certificates;
mod connections;
mod counts;
mod imported;
mod link;
pub mod logging;
mod mask;
mod metrics;
mod reading;
mod reload;
mod route;
mod store;
mod timing;
pub mod traces;
mod upstream;
mod ways;

pub use admin::{AdminMetrics, AdminOutcome};
pub use certificates::CertificateReading;
pub use connections::{ConnectionMetrics, ConnectionRefusal};
pub use counts::{EndedRequests, InFlight, InFlightGuard, KeyMetrics};
pub use imported::ImportedKeyMetrics;
pub use link::LinkMetrics;
pub use metrics::Metrics;
pub use reading::Row;
pub use reload::ReloadMetrics;
pub use route::{Outcome, RouteMetrics};
pub use store::{StoreHealth, StoreOpMetrics};
pub use timing::{DecisionTimer, LookupTimer};
pub use upstream::{TargetReading, UpstreamMetrics};
pub use ways::WayMetrics;
