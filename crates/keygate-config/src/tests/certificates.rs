//! Guarantees about the certificates and keys of connections: what could not be used later is refused
//! when the file is read, and nothing of it is told.

use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A certificate with its key, another certificate with another key.
pub(super) static MADE: LazyLock<[[String; 2]; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["orders.internal".to_owned()]).unwrap();
        [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
    })
});

/// What the files of this module hold.
pub(super) fn real(name: &str) -> Option<Vec<u8>> {
    let [[certificate, key], [other, other_key]] = &*MADE;
    let text = match name {
        "real.crt" => certificate.clone(),
        "real.key" => key.clone(),
        "other.key" => other_key.clone(),
        "chain.crt" => format!("{certificate}{other}"),
        "reversed.crt" => format!("{other}{certificate}"),
        "torn.crt" => {
            let torn = other.replace("\nMII", "\nAAA");
            format!("{certificate}{torn}")
        }
        "torn.key" => key.replace("\nM", "\nA"),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// The one problem of an upstream's TLS with these settings, which begin on line 7.
fn check_tls(settings: &str, expect: &str) {
    check(&format!("{UPSTREAM}[upstreams.orders.tls]\n{settings}"), expect);
}

fn check_whole(settings: &str, expect: impl Fn(&UpstreamTls) -> bool) {
    let config = settings_of(&format!("{UPSTREAM}[upstreams.orders.tls]\n{settings}"));
    let tls = config.upstreams[0].tls.as_ref().unwrap();
    assert!(tls.verify && expect(tls), "{settings}: {tls:?}");
}

#[test]
fn a_certificate_and_its_key_are_read() {
    for certificate in ["real.crt", "chain.crt"] {
        let settings = format!("cert_file = \"{certificate}\"\nkey_file = \"real.key\"");
        check_whole(&settings, |tls| tls.ca.is_none() && tls.identity.is_some());
    }
    check_whole("ca_file = \"chain.crt\"\nserver_name = \"[::1]\"", |tls| {
        tls.ca.is_some() && tls.identity.is_none() && tls.server_name.as_deref() == Some("::1")
    });
}

#[test]
fn what_tls_cannot_use_is_refused() {
    let certificate = |file: &str, expect: &str| {
        check_tls(&format!("cert_file = \"{file}\"\nkey_file = \"real.key\""), expect);
        check_tls(&format!("ca_file = \"{file}\""), &expect.replace("7:13", "7:11"));
    };
    let damaged = |at: u8| {
        format!("7:13: certificate {at} of the file is damaged; write the file anew, in PEM")
    };
    certificate("torn.crt", &damaged(2));
    certificate("gateway.crt", &damaged(1));
    let key = |file: &str, expect: &str| {
        check_tls(&format!("cert_file = \"real.crt\"\nkey_file = \"{file}\""), expect);
    };
    for file in ["gateway.key", "torn.key"] {
        key(
            file,
            "8:12: not a private key that TLS can use; \
             it must be RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519",
        );
    }
    let mismatch = "8:12: the key is not that of `cert_file`; \
                    the file with the certificates begins with the one that the key belongs to";
    key("other.key", mismatch);
    check_tls("cert_file = \"reversed.crt\"\nkey_file = \"real.key\"", mismatch);
}

#[test]
fn a_listeners_certificates_are_held_to_the_same() {
    let listener = |settings: &str, expect: &str| {
        check(&format!("[[server.tls]]\nlisten = [\"127.0.0.1:8443\"]\n{settings}"), expect);
    };
    listener(
        "certificates = [{ cert_file = \"real.crt\", key_file = \"other.key\" }]",
        "6:54: the key is not that of `cert_file`; \
         the file with the certificates begins with the one that the key belongs to",
    );
    listener(
        "certificates = [{ cert_file = \"real.crt\", key_file = \"real.key\" }]\n\
         client_ca_file = \"torn.crt\"",
        "7:18: certificate 2 of the file is damaged; write the file anew, in PEM",
    );
}

const LISTENER: &str = "certificates = [{ cert_file = \"real.crt\", key_file = \"real.key\" }]\n";

#[test]
fn listeners_with_and_without_tls_do_not_take_each_others_port() {
    let tls = |listen: &str| format!("[[server.tls]]\nlisten = [{listen}]\n{LISTENER}");
    let within = "a listener before this one takes its port; give each a port of its own";
    check(&tls("\"127.0.0.1:8443\", \"0.0.0.0:8080\""), &format!("5:29: {within}"));
    let two = [tls("\"127.0.0.1:8443\""), tls("\"127.0.0.1:8444\", \"127.0.0.1:8443\"")].concat();
    check(&two, &format!("8:29: {within}"));
    let shared = "`[server]` and `[admin]` cannot listen on the same address";
    check(
        &format!("{}[admin]\nlisten = \"127.0.0.1:8443\"", tls("\"127.0.0.1:8443\"")),
        &format!("8:10: {shared}; give each a port of its own"),
    );
    let apart = settings_of(&tls("\"127.0.0.1:8443\", \"127.0.0.2:8080\""));
    assert_eq!(apart.server.tls[0].listen.len(), 2);
}

#[test]
fn a_gateway_that_listens_nowhere_is_refused_and_one_with_tls_alone_is_not() {
    let nowhere = "[server]\nlisten = []\n";
    let problem = parsed(nowhere).unwrap_err().into_lines().join("\n");
    assert!(problem.contains("2:10: the gateway would listen nowhere"), "{problem}");
    let alone = format!("{nowhere}[[server.tls]]\nlisten = [\"127.0.0.1:8443\"]\n{LISTENER}");
    assert!(parsed(&alone).is_ok());
}

#[test]
fn a_certificate_is_told_of_before_and_after_its_time() {
    let config = settings_of(&format!("[[server.tls]]\nlisten = [\"127.0.0.1:8443\"]\n{LISTENER}"));
    let at = |year: u64| {
        let day = std::time::Duration::from_secs(86_400);
        let since_1970 = day * u32::try_from((year - 1970) * 365).unwrap();
        config.certificate_warnings(keygate_core::UnixMillis::default().saturating_add(since_1970))
    };
    // As rcgen makes them: from 1975 to 4096.
    let (early, late) = (at(1971), at(5000));
    assert!(early[0].contains("real.crt is good from ") && late[0].contains("has expired"));
    assert!(at(2026).is_empty() && early.len() == 1 && late.len() == 1);
}

#[test]
fn a_name_that_no_certificate_can_have_is_refused() {
    check_tls(
        "server_name = \"-a\"",
        "7:15: this name cannot be in a certificate; \
         write the name that the service's certificate is for",
    );
    let target = "[upstreams.orders]\ntargets = [\"127.0.0.1:1\", \"a..b:1\"]\n";
    let help = "write the name that is as `server_name` into `[upstreams.NAME.tls]`";
    check(
        &format!("{target}[upstreams.orders.tls]\n"),
        &format!("5:27: this host's name cannot be in a certificate; {help}"),
    );
}
