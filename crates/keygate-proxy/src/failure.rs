//! What a failure after admission means: what the client is told, and what the log says.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderValue;
use keygate_core::{Code, Route};
use keygate_store::keys::StoreError;
use pingora::{Error, ErrorSource, ErrorType};

/// What the client is told; nothing when it is the client that is gone.
pub(crate) fn failure_code(error: &Error) -> Option<Code> {
    use ErrorType::{
        ConnectTimedout, HTTPStatus, InvalidHTTPHeader, ReadTimedout, TLSHandshakeTimedout,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Some(Code::PayloadTooLarge),
        (ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => {
            Some(Code::UpstreamTimeout)
        }
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Some(Code::UpstreamTimeout),
        (ErrorSource::Upstream, _) => Some(Code::UpstreamError),
        (ErrorSource::Downstream, InvalidHTTPHeader | ErrorType::ConnectError) => {
            Some(Code::BadRequest)
        }
        // The client went away, reset its stream, or broke its body off.
        (ErrorSource::Downstream, _) => None,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Code::Internal),
    }
}

/// What a client did wrong is its own affair; what an upstream or we did wrong is the operator's.
pub(crate) fn log_failure(
    error: &Error,
    code: Code,
    request_id: &HeaderValue,
    route: Option<&Route>,
) {
    let request_id = request_id.to_str().unwrap_or_default();
    let (route, code) = (route.map(|route| &*route.name), code.as_str());
    let kind = error.etype().as_str();
    if *error.esource() == ErrorSource::Downstream {
        tracing::debug!(request_id, route, code, kind, "request failed");
    } else {
        tracing::warn!(request_id, route, code, kind, "request failed");
    }
}

/// Says that keys cannot be looked up. In an outage that concerns every request with an unknown key:
/// one of them a second is told.
#[derive(Default)]
pub(crate) struct OutageLog {
    told_at: AtomicU64,
}

const OUTAGE_TOLD_EVERY_NS: u64 = 1_000_000_000;

impl OutageLog {
    /// `now_ns` is on any one monotonic clock.
    pub(crate) fn tell(&self, error: &StoreError, now_ns: u64) {
        let last = self.told_at.load(Relaxed);
        let is_time = last == 0 || now_ns.saturating_sub(last) >= OUTAGE_TOLD_EVERY_NS;
        if is_time && self.told_at.compare_exchange(last, now_ns, Relaxed, Relaxed).is_ok() {
            tracing::warn!(error = %ErrorChain(error), "a key could not be looked up");
        }
    }
}

/// An error with its causes, on one line.
pub(crate) struct ErrorChain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
