//! Certificates outside of the time for which they are good. Legal, as a clock may be wrong, and hardly
//! ever meant.

use std::time::Duration;

use keygate_core::UnixMillis;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::Config;
use crate::settings::Identity;

impl Config {
    /// What to tell the operator of the gateway's own certificates at this time.
    #[must_use]
    pub fn certificate_warnings(&self, now: UnixMillis) -> Vec<String> {
        let listeners = self.server.tls.iter().flat_map(|tls| &tls.certificates);
        let upstreams = self.upstreams.iter().filter_map(|one| one.tls.as_ref()?.identity.as_ref());
        listeners.chain(upstreams).filter_map(|identity| warning(identity, now)).collect()
    }
}

fn warning(identity: &Identity, now: UnixMillis) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(&identity.certificate).ok()?;
    let (_, parsed) = parse_x509_certificate(&certificate).ok()?;
    let (validity, file) = (parsed.validity(), identity.cert_file.display());
    if now > millis(validity.not_after) {
        let since = validity.not_after;
        Some(format!("the certificate in {file} has expired ({since}): peers refuse it; renew it"))
    } else if now < millis(validity.not_before) {
        let from = validity.not_before;
        Some(format!("the certificate in {file} is good from {from} on only: is the clock right?"))
    } else {
        None
    }
}

fn millis(time: ASN1Time) -> UnixMillis {
    // One from before 1970 reads as 1970.
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UnixMillis::default().saturating_add(Duration::from_secs(seconds))
}
