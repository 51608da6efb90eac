//! `[[server.tls]]` and what is in it.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::setting::Presence::{Default, Optional, Required};
use crate::setting::{Setting, Table};
use crate::settings::TlsVersion;
use crate::word::ClientAuthKind;

pub(crate) const LISTENERS_MAX: usize = 16;
pub(crate) const CERTIFICATES_MAX: usize = 1_000;

pub(crate) const LISTEN: Setting<Vec<SocketAddr>> = Setting::new(
    "listen",
    Required("write `listen = [\"0.0.0.0:8443\"]`"),
    "where clients connect with TLS: HTTP/1.1, and HTTP/2 by ALPN",
)
.within(1, 16);
pub(crate) const MIN_VERSION: Setting<TlsVersion> =
    Setting::new("min_version", Default("\"1.2\""), "the oldest version of TLS that is spoken");
pub(crate) const CLIENT_CA_FILE: Setting<PathBuf> = Setting::new(
    "client_ca_file",
    Optional("clients are asked for no certificate"),
    "certificates in PEM; clients with a certificate that they signed are let in",
);
pub(crate) const CLIENT_AUTH: Setting<ClientAuthKind> = Setting::new(
    "client_auth",
    Default("\"required\""),
    "whether a client without a certificate is refused; needs `client_ca_file`",
);

pub(crate) static TABLE: Table = Table {
    header: "[[server.tls]]",
    meaning: "Listeners with TLS. At most 16. `certificates` is a list of the tables below: a client \
              gets the first that is for the name it asks for, else the first.",
    settings: &[&LISTEN, &MIN_VERSION, &CLIENT_CA_FILE, &CLIENT_AUTH],
    tables: &["certificates"],
};

pub(crate) const CERT_FILE: Setting<PathBuf> = Setting::new(
    "cert_file",
    Required("write `cert_file = \"cert.pem\"`"),
    "the certificate in PEM, with the chain behind it",
);
pub(crate) const KEY_FILE: Setting<PathBuf> = Setting::new(
    "key_file",
    Required("write `key_file = \"key.pem\"`"),
    "its private key in PEM, not encrypted",
);

pub(crate) static CERTIFICATE_TABLE: Table = Table {
    header: "certificates = [{ … }]",
    meaning: "A certificate of TLS listeners. When the files change, they are read again.",
    settings: &[&CERT_FILE, &KEY_FILE],
    tables: &[],
};
