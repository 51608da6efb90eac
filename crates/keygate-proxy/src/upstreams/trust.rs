//! The certificates that the system trusts, for upstreams that name none of their own. Pingora reads
//! them when a connector is made, and panics if one of them is damaged: so it gets what is whole of
//! them, and who needs them is told if there are none.

use std::io::{self, Write};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pingora::tls::load_platform_certs_incl_env_into_store;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tempfile::{NamedTempFile, TempPath};

/// Read once: a process trusts whom it trusted when it started.
static SYSTEM: LazyLock<System> = LazyLock::new(System::read);

struct System {
    count: usize,
    /// In PEM, what Pingora is given instead of the system's own files.
    instead: Option<String>,
}

/// What `ca_file` must be of a Pingora connector, so that making one does not panic. The file is
/// there until this is dropped.
///
/// # Errors
/// When there is no place for a temporary file.
pub(crate) fn ca_file() -> io::Result<Option<TempPath>> {
    let Some(pem) = &SYSTEM.instead else { return Ok(None) };
    let mut file = NamedTempFile::new()?;
    file.write_all(pem.as_bytes())?;
    Ok(Some(file.into_temp_path()))
}

/// Says that an upstream cannot be reached if it depends on the system's certificates and there are
/// none. Others can be, so that is no reason to stop.
pub(crate) fn warn_if_nobody(upstream: &str) {
    if SYSTEM.count == 0 {
        tracing::warn!(
            upstream,
            "the system trusts no certificates, so connections to this upstream will fail: \
             install its package of authorities (ca-certificates), or set `ca_file`"
        );
    }
}

impl System {
    fn read() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "certificates that the system trusts cannot be read");
        }
        let mut store = RootCertStore::empty();
        let (whole, damaged): (Vec<_>, Vec<_>) =
            found.certs.into_iter().partition(|found| store.add(found.clone()).is_ok());
        if !damaged.is_empty() {
            let count = damaged.len();
            tracing::warn!(count, "certificates that the system trusts are damaged; not used");
        }
        // What Pingora does by itself: it fails over one that is damaged, or leaves others out with it.
        let mut by_itself = RootCertStore::empty();
        let is_read = load_platform_certs_incl_env_into_store(&mut by_itself).is_ok();
        let is_same = is_read && by_itself.len() == whole.len();
        let instead = (!is_same).then(|| whole.iter().map(pem).collect());
        Self { count: whole.len(), instead }
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
