//! Where spans are sent: one POST over HTTP or HTTPS for a batch, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::otlp;

const CONTENT_TYPE: &str = "application/x-protobuf";
/// Added to an endpoint that has no path, as OTLP says.
const DEFAULT_PATH: &str = "/v1/traces";
/// The longest answer that is read. It says how many spans were rejected, and why.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

pub(super) struct Receiver {
    agent: ureq::Agent,
    url: String,
    timeout: Duration,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It was taken, but for so many spans.
    Taken { rejected: usize },
    /// Not now: another try may help, after this long if the receiver said so.
    Later { why: String, after: Option<Duration> },
    /// It will never be.
    Refused { why: String },
}

impl Receiver {
    pub(super) fn new(endpoint: &str, timeout: Duration, version: &str) -> Self {
        let config = ureq::Agent::config_builder()
            // The environment is not ours to read, and a redirect is another receiver.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(format!("keygate/{version}"));
        let config = match endpoint.starts_with("https:") {
            true => config.tls_config(tls()),
            false => config,
        };
        Self { agent: config.build().new_agent(), url: url(endpoint), timeout }
    }

    /// How long an answer may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn post(&self, message: &[u8], timeout: Duration) -> Delivery {
        let request = self.agent.post(&self.url).content_type(CONTENT_TYPE);
        let request = request.config().timeout_global(Some(timeout)).build();
        let mut answer = match request.send(message) {
            Ok(answer) => answer,
            Err(error) => return Delivery::Later { why: error.to_string(), after: None },
        };
        let status = answer.status().as_u16();
        if !answer.status().is_success() {
            let why = format!("status {status}");
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            let after = after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
            return match status {
                // Those that OTLP names.
                429 | 502 | 503 | 504 => Delivery::Later { why, after },
                _ => Delivery::Refused { why },
            };
        }
        // It has them, whatever becomes of its answer.
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Delivery::Taken { rejected: body.map_or(0, |body| otlp::rejected(&body)) }
    }
}

/// Believes whom the system believes.
fn tls() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificates that the system trusts cannot be read");
    }
    let certificates = found.certs.iter().map(|found| Certificate::from_der(found).to_owned());
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
        .build()
}

fn url(endpoint: &str) -> String {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    match authority.split_once('/') {
        None => format!("{endpoint}{DEFAULT_PATH}"),
        Some((_, "")) => format!("{endpoint}{}", DEFAULT_PATH.trim_start_matches('/')),
        Some(_) => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_usual_one() {
        for (endpoint, at) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.internal/", "https://otel.internal/v1/traces"),
            ("https://otel.internal/v1/traces", "https://otel.internal/v1/traces"),
            ("http://otel.internal/a", "http://otel.internal/a"),
        ] {
            assert_eq!(url(endpoint), at);
        }
    }
}
