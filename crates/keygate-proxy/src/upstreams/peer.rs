//! How one target is connected to: what is spoken, over TLS or not, whom to believe, how long to
//! wait. Worked out once per configuration; a request copies it. Knows nothing of which target is
//! chosen.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::{Identity, Protocol, Target, Upstream, UpstreamTls};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::trust;
use crate::server::ProxyError;

/// The shortest wait that Pingora can be asked for: its timer counts milliseconds from when it was first
/// used, and rounds what ends within the first of them to before that.
pub(crate) const WAIT_MIN: Duration = Duration::from_millis(1);

/// The shortest time in which an upstream has to take what it was sent: one packet that is lost is sent
/// again within it.
const STALL_MIN: Duration = Duration::from_secs(1);

/// The longest that Linux has: nine hours.
const KEEPALIVE_IDLE_MAX: Duration = Duration::from_secs(32_767);

/// What all connections to an upstream have in common.
pub(crate) struct PeerTemplate {
    peer: HttpPeer,
    /// Whether there is TLS, and the one name of all targets if they have one.
    server_name: Option<Option<Box<str>>>,
}

impl PeerTemplate {
    /// # Errors
    /// [`ProxyError::Certificate`] when a certificate or key cannot be used.
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, ProxyError> {
        // Replaced for each target.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut peer = HttpPeer::new(nowhere, upstream.tls.is_some(), String::new());
        // Pingora's defaults wait for ever, and keep idle connections until the other side closes them.
        peer.options.connection_timeout = Some(upstream.connect_timeout);
        peer.options.total_connection_timeout = Some(upstream.connect_timeout);
        peer.options.read_timeout = Some(upstream.read_timeout);
        peer.options.write_timeout = Some(upstream.write_timeout);
        peer.options.idle_timeout = Some(upstream.idle_timeout);
        // A write that took too long is an error that Pingora tells nobody before an answer was waited for
        // in vain. So the system breaks off a connection whose other end takes nothing.
        peer.options.tcp_keepalive = Some(TcpKeepalive {
            // Not wanted, and set along with it: with that bound one lost probe would end a connection on
            // which an answer is waited for in silence.
            idle: KEEPALIVE_IDLE_MAX,
            interval: KEEPALIVE_IDLE_MAX,
            count: 1,
            user_timeout: upstream.write_timeout.max(STALL_MIN),
        });
        let (newest, oldest) = match upstream.protocol {
            Protocol::Http1 => (1, 1),
            Protocol::Http2 => (2, 2),
            Protocol::Auto => (2, 1),
        };
        peer.options.set_http_version(newest, oldest);
        peer.options.max_h2_streams = upstream.http2_streams_max;
        if let Some(tls) = &upstream.tls {
            let damaged = || ProxyError::Certificate { upstream: upstream.name.to_string() };
            trust_as_told(&mut peer, tls, &upstream.name).ok_or_else(damaged)?;
        }
        peer.group_key = group(upstream);
        let server_name = upstream.tls.as_ref().map(|tls| tls.server_name.clone());
        Ok(Self { peer, server_name })
    }

    /// What a request for this target copies. `target` is the one of the configuration that
    /// `address` belongs to.
    pub(crate) fn of(&self, address: SocketAddr, target: &Target) -> HttpPeer {
        let mut peer = self.peer.clone();
        peer._address = address.into();
        if let Some(name) = &self.server_name {
            // Never empty: Pingora would not check the certificate then.
            peer.sni = name.as_deref().unwrap_or(&target.host).to_owned();
        }
        peer
    }
}

/// Nothing, if a certificate or key cannot be used.
fn trust_as_told(peer: &mut HttpPeer, tls: &UpstreamTls, upstream: &str) -> Option<()> {
    peer.options.verify_cert = tls.verify;
    peer.options.verify_hostname = tls.verify;
    match &tls.ca {
        Some(pem) => peer.options.ca = Some(certificates(pem)?.into()),
        None => trust::warn_if_nobody(upstream),
    }
    if let Some(Identity { certificate, key, .. }) = &tls.identity {
        let chain: Vec<Vec<u8>> = certificates(certificate)?
            .into_iter()
            .map(|certificate| certificate.borrow_raw_cert().clone())
            .collect();
        let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).ok()?;
        if chain.is_empty() {
            return None;
        }
        peer.client_cert_key = Some(Arc::new(CertKey::new(chain, key.secret_der().to_vec())));
    }
    Some(())
}

fn certificates(pem: &[u8]) -> Option<Vec<WrappedX509>> {
    let parsed = CertificateDer::pem_slice_iter(pem).map(|certificate| {
        let certificate = certificate.ok()?.to_vec();
        // Pingora's own parser panics.
        X509Certificate::from_der(&certificate).ok()?;
        Some(WrappedX509::new(certificate, parse_x509))
    });
    parsed.collect()
}

/// Connections are shared by peers of one group only. Pingora tells them apart by their address, name
/// and protocol's bounds, but not by whom they believe, nor by how long they may stall. The same settings give the same group, so that
/// a reload keeps connections.
fn group(upstream: &Upstream) -> u64 {
    let mut hasher = DefaultHasher::new();
    upstream.name.hash(&mut hasher);
    upstream.write_timeout.hash(&mut hasher);
    let protocol: u8 = match upstream.protocol {
        Protocol::Http1 => 0,
        Protocol::Http2 => 1,
        Protocol::Auto => 2,
    };
    protocol.hash(&mut hasher);
    if let Some(UpstreamTls { server_name, ca, identity, verify, ca_file: _ }) = &upstream.tls {
        (server_name, ca, verify).hash(&mut hasher);
        // The certificate names its key.
        identity.as_ref().map(|identity| &identity.certificate).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use pingora::time::timer::TimerManager;

    use super::*;

    /// A shorter wait panics in a debug build and ends at a wrong time in a release.
    #[test]
    fn the_shortest_wait_can_be_asked_for_as_soon_as_there_is_a_timer() {
        for _ in 0..100 {
            drop(TimerManager::new().register_timer(WAIT_MIN));
        }
    }
}
