//! When the gateway's own certificates end: those of its listeners, and those that it shows upstreams.

use keygate_config::{Config, Identity};
use keygate_telemetry::CertificateReading;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Each certificate of a configuration, with its end.
pub(crate) fn readings(config: &Config) -> Vec<CertificateReading> {
    let listeners = config.server.tls.iter().flat_map(|listener| &listener.certificates);
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let shown = upstreams.filter_map(|tls| tls.identity.as_ref());
    listeners.chain(shown).filter_map(reading).collect()
}

/// Of a chain, what ends first ends it.
fn reading(identity: &Identity) -> Option<CertificateReading> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate);
    let ends = chain.filter_map(|certificate| {
        let certificate = certificate.ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    let file = identity.cert_file.display().to_string();
    Some(CertificateReading { file, ends_at: ends.min()? })
}
