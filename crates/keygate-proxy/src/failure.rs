//! What a failure after admission means: what the client is told, and what the log says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderValue;
use keygate_core::chunks::BadChunks;
use keygate_core::{Code, Route};
use keygate_store::keys::StoreError;
use pingora::{Error, ErrorSource, ErrorType};
use quanta::Instant;

use crate::upstreams::retry::TOTAL_TIMEOUT;

/// What the client is told; nothing when it is the client that is gone.
pub(crate) fn failure_code(error: &Error) -> Option<Code> {
    use ErrorType::{
        ConnectTimedout, HTTPStatus, InvalidHTTPHeader, ReadTimedout, TLSHandshakeTimedout,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Some(Code::PayloadTooLarge),
        (_, HTTPStatus(503)) => Some(Code::UpstreamUnavailable),
        (_, ErrorType::Custom(TOTAL_TIMEOUT)) => Some(Code::UpstreamTimeout),
        (ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => {
            Some(Code::UpstreamTimeout)
        }
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Some(Code::UpstreamTimeout),
        (ErrorSource::Upstream, _) if has_stalled(error) => Some(Code::UpstreamTimeout),
        (ErrorSource::Upstream, _) => Some(Code::UpstreamError),
        (ErrorSource::Downstream, InvalidHTTPHeader | ErrorType::ConnectError) => {
            Some(Code::BadRequest)
        }
        (ErrorSource::Downstream, ErrorType::ReadError) if has_bad_chunks(error) => {
            Some(Code::BadRequest)
        }
        // The client went away, reset its stream, or broke its body off. Of answers' heads and trailers
        // that it does not take Pingora does not say that they were for it; of all for upstreams it does.
        (ErrorSource::Downstream, _) | (ErrorSource::Unset, ErrorType::WriteError) => None,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Code::Internal),
    }
}

/// Whether the request's body is none, as `ClientStream` has read it.
fn has_bad_chunks(error: &Error) -> bool {
    io_error(error).and_then(io::Error::get_ref).is_some_and(|fault| fault.is::<BadChunks>())
}

/// Whether the system has broken a connection off whose other end took nothing.
pub(crate) fn has_stalled(error: &Error) -> bool {
    io_error(error).is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

fn io_error(error: &Error) -> Option<&io::Error> {
    let cause = error.root_cause();
    // Over HTTP/2 it is that of the whole connection, which each of its streams gets to see.
    let of_streams = || cause.downcast_ref::<h2::Error>()?.get_io();
    cause.downcast_ref().or_else(of_streams)
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
    // Why it was not believed, or did not believe us: no word of a client's.
    let tls = matches!(error.etype(), ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert);
    let reason = error.context.as_ref().filter(|_| tls).map(|context| context.as_str());
    if *error.esource() == ErrorSource::Downstream {
        tracing::debug!(request_id, route, code, kind, "request failed");
    } else {
        tracing::warn!(request_id, route, code, kind, reason, "request failed");
    }
}

const OUTAGE_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Says that keys cannot be looked up. In an outage that concerns every request with an unknown key:
/// one of them a second is told.
pub(crate) struct OutageLog {
    seldom: Seldom,
    began: Instant,
}

impl Default for OutageLog {
    fn default() -> Self {
        Self { seldom: Seldom::every(OUTAGE_TOLD_EVERY), began: Instant::now() }
    }
}

impl OutageLog {
    pub(crate) fn tell(&self, error: &StoreError) {
        let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.seldom.is_time(now_ns) {
            tracing::warn!(error = %ErrorChain(error), "a key could not be looked up");
        }
    }
}

/// Lets one of many events be told, then none for a while.
pub(crate) struct Seldom {
    every_ns: u64,
    /// When one was told last; 0 if none was.
    told_at: AtomicU64,
}

impl Seldom {
    pub(crate) fn every(pause: Duration) -> Self {
        let every_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        Self { every_ns, told_at: AtomicU64::new(0) }
    }

    /// Whether this one is to be told. `now_ns` is on any one monotonic clock.
    pub(crate) fn is_time(&self, now_ns: u64) -> bool {
        let last = self.told_at.load(Relaxed);
        let is_time = last == 0 || now_ns.saturating_sub(last) >= self.every_ns;
        is_time && self.told_at.compare_exchange(last, now_ns.max(1), Relaxed, Relaxed).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_told_and_the_next_only_after_the_pause() {
        let seldom = Seldom::every(Duration::from_nanos(100));
        let told: Vec<u64> = (0..=300).step_by(30).filter(|now| seldom.is_time(*now)).collect();
        assert_eq!(told, [0, 120, 240]);
    }
}
