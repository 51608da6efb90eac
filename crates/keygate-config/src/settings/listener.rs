//! `[[server.tls]]`: where clients connect with TLS. The files are read when the configuration is.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::secrets::Secret;

/// Listeners for HTTPS that share their certificates.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// At least one.
    pub listen: Vec<SocketAddr>,
    /// At least one. A client gets the first that is for the name it asks for, else the first.
    pub certificates: Vec<Identity>,
    pub min_version: TlsVersion,
    /// Whether clients are asked for certificates of their own.
    pub client_auth: Option<ClientAuth>,
}

/// A certificate with its private key: who we are to a peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The chain in PEM, our own first; and so is the key.
    pub certificate: Vec<u8>,
    pub key: Secret,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Client certificates (mutual TLS).
#[derive(Debug, PartialEq, Eq)]
pub struct ClientAuth {
    pub ca_file: PathBuf,
    /// In PEM: whose certificates are accepted.
    pub ca: Vec<u8>,
    /// Whether a client without one is refused.
    pub is_required: bool,
}
