//! Which certificate a client gets: the first that is for the name it asks for, else the first.

use std::collections::HashMap;
use std::sync::Arc;

use keygate_config::Identity;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::tls::TlsError;

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct ByName {
    certificates: Vec<Arc<CertifiedKey>>,
    names: Names,
}

impl ByName {
    pub(super) fn new(identities: &[Identity]) -> Result<Self, TlsError> {
        let (mut certificates, mut names) = (Vec::new(), Names::default());
        for (place, identity) in identities.iter().enumerate() {
            let certified = certified(identity)?;
            if let Some(own) = certified.cert.first() {
                dns_names(own).iter().for_each(|name| names.add(name, place));
            }
            certificates.push(Arc::new(certified));
        }
        Ok(Self { certificates, names })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let places = hello.server_name().map(|name| self.names.of(name)).unwrap_or_default();
        let certificate = |place: &usize| self.certificates.get(*place);
        // A name may have one certificate with an RSA key and one with another.
        let can_use =
            |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let of_name = || places.iter().filter_map(certificate);
        let chosen = of_name().find(can_use).or_else(|| of_name().next());
        chosen.or_else(|| self.certificates.first()).cloned()
    }
}

/// Names, and the places of the certificates that are for them.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the `*.`, which stands for one label.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    fn add(&mut self, name: &str, place: usize) {
        let name = name.to_ascii_lowercase();
        let places = match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.to_owned()).or_default(),
            None => self.exact.entry(name).or_default(),
        };
        places.push(place);
    }

    /// In the order of the configuration.
    fn of(&self, name: &str) -> Vec<usize> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let exact = self.exact.get(name);
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        let mut places: Vec<usize> = exact.into_iter().chain(wildcard).flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

fn certified(identity: &Identity) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate);
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.reveal().as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &default_provider())?)
}

/// The names that a certificate is for. Names in its subject count no more (RFC 9525 section 6.3).
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    let dns = names.filter_map(|name| {
        if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }
    });
    dns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_certificates_in_their_order_and_a_wildcard_stands_for_one_label() {
        let mut names = Names::default();
        for (place, name) in ["*.example.com", "API.example.com", "example.com", "api.example.com"]
            .iter()
            .enumerate()
        {
            names.add(name, place);
        }
        assert_eq!(names.of("api.EXAMPLE.com"), [0, 1, 3]);
        assert_eq!(names.of("www.example.com."), [0]);
        assert_eq!(names.of("example.com"), [2]);
        for other in ["a.b.example.com", "com", "", ".example.org", "xexample.com"] {
            assert_eq!(names.of(other), [0; 0], "{other}");
        }
    }
}
