//! What one request carries from phase to phase.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use keygate_core::Permit;
use keygate_core::credential::Place;
use keygate_telemetry::InFlightGuard;
use quanta::Instant;

use crate::line;
use crate::snapshot::Snapshot;

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
    /// That of the answer, once the client is being sent it.
    pub(crate) status: Option<StatusCode>,
    /// Whether the last word on the request was said.
    pub(crate) is_logged: bool,
    /// Counts the request as running until it is dropped, whatever way it ends.
    pub(crate) _in_flight: InFlightGuard,
}

impl Drop for Context {
    /// The last word on a request that was cut off: Pingora is dropped midway, and says none.
    fn drop(&mut self) {
        if self.is_logged {
            return;
        }
        let Some(reason) = line::cut_by() else { return };
        if let Some(metrics) = self.route.and_then(|place| self.snapshot.route_metrics(place)) {
            if let Some(status) = self.status {
                metrics.response(status.as_u16());
            }
            metrics.request_seconds(self.started.elapsed());
        }
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        let key = self.admitted.as_ref().and_then(|admitted| admitted.permit.key());
        let key_id = key.map(|key| tracing::field::display(key.id));
        tracing::debug!(request_id, key_id, ?reason, "request cut off: its key is no longer good");
    }
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
