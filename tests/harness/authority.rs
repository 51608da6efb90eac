//! An authority that signs whatever certificate a test needs, and keeps them all as files.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Names differ, so that a certificate says who signed it.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names and addresses; the first is its subject.
    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_as(names, |_| {})
    }

    /// The same, but long over.
    pub fn sign_expired(&self, names: &[&str]) -> Signed {
        self.sign_as(names, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// The same, but over in so long.
    #[expect(clippy::disallowed_methods, reason = "a certificate's end is by the system's clock")]
    pub fn sign_for(&self, names: &[&str], left: Duration) -> Signed {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.sign_as(names, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(1970, 1, 1) + since_1970 + left;
        })
    }

    /// One for somebody with a subject of these parts.
    pub fn sign_subject(&self, parts: &[(DnType, &str)]) -> Signed {
        self.sign_as(&["client.test"], |params| {
            params.distinguished_name = DistinguishedName::new();
            parts
                .iter()
                .for_each(|(kind, text)| params.distinguished_name.push(kind.clone(), *text));
        })
    }

    fn sign_as(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let owned: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(owned).unwrap();
        params.distinguished_name.push(DnType::CommonName, *names.first().expect("a name"));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let number = fs::read_dir(self.folder.path()).unwrap().count();
        let path = |kind: &str| self.folder.path().join(format!("{number}.{kind}"));
        let files = Signed { certificate: path("pem"), key: path("key") };
        fs::write(&files.certificate, signed.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
