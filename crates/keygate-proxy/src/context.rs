//! What one request carries from phase to phase.

use std::sync::Arc;

use http::HeaderValue;
use keygate_core::Permit;
use keygate_core::credential::Place;
use keygate_telemetry::InFlightGuard;
use quanta::Instant;

use crate::gateway::Snapshot;

/// One request's state. It sees the configuration that was current when it began, and no other.
pub struct Context {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) started: Instant,
    /// The route's place in the snapshot's table, once it is found.
    pub(crate) route: Option<usize>,
    /// The name that the client, the upstream and our logs share for this request.
    pub(crate) request_id: Option<HeaderValue>,
    /// The proof that the request was admitted. Without it there is no peer to forward to.
    pub(crate) admitted: Option<Admitted>,
    /// Bytes of the request's body so far.
    pub(crate) body_bytes: u64,
    /// Connections to the upstream that were tried.
    pub(crate) attempts: usize,
    pub(crate) forwarded_at: Option<Instant>,
    /// Counts the request as running until it is dropped, whatever way it ends.
    pub(crate) _in_flight: InFlightGuard,
}

/// An admitted request: the permit, and what has to change on the way to the upstream.
pub(crate) struct Admitted {
    pub permit: Permit,
    pub strip: Strip,
    /// The target to send, if it is not the one that was sent: a normalised path, or a query
    /// without the key.
    pub target: Option<String>,
}

/// The credentials that are ours and so are not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strip {
    pub authorization: bool,
    pub x_api_key: bool,
}

impl From<Place> for Strip {
    fn from(place: Place) -> Self {
        Self { authorization: place == Place::Authorization, x_api_key: place == Place::XApiKey }
    }
}
