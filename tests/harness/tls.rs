//! A client with TLS that says what it is told, and shows what was agreed on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::authority::{Authority, Signed};
use super::wait::patience;

/// What a client begins with, and what it keeps of its sessions.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

pub struct TlsConnection(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// One that believes this authority and wants a server of this name.
    pub fn new(
        authority: &Authority,
        name: &str,
        protocols: &[&str],
        own: Option<&Signed>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_file_iter(&own.certificate).unwrap();
                let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), name: ServerName::try_from(name.to_owned()).unwrap() }
    }

    pub fn connect(&self, address: SocketAddr) -> io::Result<TlsConnection> {
        self.over(TcpStream::connect(address)?)
    }

    /// Shakes hands on a connection on which something may have been said before.
    pub fn over(&self, mut stream: TcpStream) -> io::Result<TlsConnection> {
        stream.set_read_timeout(Some(patience()))?;
        stream.set_nodelay(true)?;
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(TlsConnection(StreamOwned::new(connection, stream)))
    }
}

impl TlsConnection {
    pub fn protocol(&self) -> Option<String> {
        self.0.conn.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends bytes, and reads until the text that came ends like this, or to the connection's end.
    pub fn say(&mut self, bytes: &[u8], end: &str) -> String {
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(length) => read.extend_from_slice(&piece[..length]),
            }
            if read.ends_with(end.as_bytes()) {
                break;
            }
        }
        String::from_utf8_lossy(&read).into_owned()
    }
}
