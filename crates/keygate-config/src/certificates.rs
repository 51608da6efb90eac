//! Certificates and private keys that connections are made with: that they can be used is seen when
//! the configuration is read, not when somebody connects. No finding tells what the files hold.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SigningKey};

use crate::confidential::{certificates_in, note, private_key_in};
use crate::reader::Section;
use crate::setting::Setting;
use crate::settings::Identity;
use crate::value::Wrong;

/// A certificate with the key that belongs to it, from the files that two settings name.
pub(crate) fn identity_in(
    section: &Section<'_, '_>,
    cert_file: &Setting<PathBuf>,
    key_file: &Setting<PathBuf>,
) -> Option<Identity> {
    let certificate = certificates_in(section, cert_file);
    let key = private_key_in(section, key_file);
    let chain = certificate.as_deref().map(read_chain);
    let chain = chain.and_then(|read| note(section.reader, section.item(cert_file.key)?, read));
    let signs = key.as_ref().map(|key| read_key(key.reveal().as_bytes()));
    let signs = signs.and_then(|read| note(section.reader, section.item(key_file.key)?, read));
    let pair = CertifiedKey::new(chain?, signs?);
    // A kind of key that cannot say what its public part is belongs to any certificate.
    if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
        pair.keys_match()
    {
        let wrong = Wrong::new(format!("the key is not that of `{}`", cert_file.key))
            .help("the file with the certificates begins with the one that the key belongs to");
        note(section.reader, section.item(key_file.key)?, Err::<(), _>(wrong))?;
    }
    Some(Identity {
        cert_file: section.get(cert_file)?,
        key_file: section.get(key_file)?,
        certificate: certificate?,
        key: key?,
    })
}

/// Certificates to trust, from the file that a setting names, if it names one.
pub(crate) fn authorities_in(
    section: &Section<'_, '_>,
    setting: &Setting<PathBuf>,
) -> Option<Vec<u8>> {
    let pem = certificates_in(section, setting)?;
    let read = read_chain(&pem).and_then(|certificates| {
        let mut store = RootCertStore::empty();
        for (at, certificate) in certificates.into_iter().enumerate() {
            store.add(certificate).map_err(|_| unreadable(at))?;
        }
        Ok(())
    });
    note(section.reader, section.item(setting.key)?, read)?;
    Some(pem)
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let read = CertificateDer::pem_slice_iter(pem).enumerate().map(|(at, certificate)| {
        let certificate = certificate.map_err(|_| unreadable(at))?;
        ParsedCertificate::try_from(&certificate).map_err(|_| unreadable(at))?;
        Ok(certificate)
    });
    read.collect()
}

fn read_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, Wrong> {
    let key = PrivateKeyDer::from_pem_slice(pem).ok();
    key.and_then(|key| any_supported_type(&key).ok()).ok_or_else(|| {
        Wrong::new("not a private key that TLS can use")
            .help("it must be RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519")
    })
}

fn unreadable(at: usize) -> Wrong {
    Wrong::new(format!("certificate {} of the file is damaged", at + 1))
        .help("write the file anew, in PEM")
}
