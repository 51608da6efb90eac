//! How clients connect with TLS: one configuration for each `[[server.tls]]`, worked out when the
//! configuration is read. A reload swaps them all; a handshake goes by those that it began with.

use std::net::SocketAddr;
use std::sync::Arc;

use keygate_config::{ClientAuth, Config, TlsListener, TlsVersion};
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::by_name::ByName;

/// What is spoken, the one that we would rather speak first.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];

/// Why the certificates of a listener cannot be used. What can be seen of it was seen when the
/// configuration was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("a file is not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// The listeners with TLS.
#[derive(Default)]
pub(crate) struct TlsListeners(Vec<Side>);

struct Side {
    server: Arc<ServerConfig>,
    /// What it was made of, and where that is in there.
    config: Arc<Config>,
    place: usize,
}

impl Side {
    fn settings(&self) -> Option<&TlsListener> {
        self.config.server.tls.get(self.place)
    }

    fn listens_on(&self, address: SocketAddr) -> bool {
        self.settings().is_some_and(|settings| settings.listen.contains(&address))
    }
}

impl TlsListeners {
    /// Those of the next configuration. One that has not changed is kept, and with it what its
    /// clients resume their sessions by; so is one that is gone, for its listener is there until the
    /// gateway ends.
    ///
    /// # Errors
    /// When certificates cannot be used.
    pub(crate) fn next(&self, config: &Arc<Config>) -> Result<Self, TlsError> {
        let mut sides = Vec::new();
        for (place, settings) in config.server.tls.iter().enumerate() {
            let same = self.0.iter().find(|side| side.settings() == Some(settings));
            let server = match same {
                Some(side) => Arc::clone(&side.server),
                None => Arc::new(server_config(settings)?),
            };
            sides.push(Side { server, config: Arc::clone(config), place });
        }
        for gone in &self.0 {
            let is_still_there = |address| sides.iter().any(|side: &Side| side.listens_on(address));
            if !gone.settings().is_some_and(|had| had.listen.iter().copied().all(is_still_there)) {
                let (server, config) = (Arc::clone(&gone.server), Arc::clone(&gone.config));
                sides.push(Side { server, config, place: gone.place });
            }
        }
        Ok(Self(sides))
    }

    /// How to speak on the listener for this address of the configuration.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<Arc<ServerConfig>> {
        let side = self.0.iter().find(|side| side.listens_on(address));
        side.map(|side| Arc::clone(&side.server))
    }
}

fn server_config(settings: &TlsListener) -> Result<ServerConfig, TlsError> {
    let versions = match settings.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions)?;
    let builder = match &settings.client_auth {
        Some(auth) => builder.with_client_cert_verifier(verifier(auth)?),
        None => builder.with_no_client_auth(),
    };
    let certificates = ByName::new(&settings.certificates)?;
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = [HTTP2].iter().chain(&HTTP1).map(|name| name.to_vec()).collect();
    if settings.client_auth.is_some() {
        // Who resumes shows no certificate: one that has expired meanwhile would be let in for ever.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Ticketer::new()?;
    }
    Ok(config)
}

fn verifier(auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&auth.ca) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    // Whoever shows one that is not good is refused, whether or not one is asked for.
    let builder = if auth.is_required { builder } else { builder.allow_unauthenticated() };
    Ok(builder.build()?)
}
