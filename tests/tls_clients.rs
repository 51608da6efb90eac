//! Clients with TLS: which certificate they get, what is agreed on, whom they are known as, and what a
//! reload changes.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rcgen::DnType;

use crate::harness::{
    Authority, Gateway, Setup, Signed, TlsClient, Upstream, eventually, free_address, get, run,
};

/// The end of what the upstream of these tests answers.
const SERVED: &str = "{\"served\":true}";
const GET: &[u8] = b"GET /public HTTP/1.1\r\nHost: one.test\r\n\r\n";

/// A gateway that serves clients with TLS.
struct Edge {
    gateway: Gateway,
    upstream: Upstream,
    address: SocketAddr,
    authority: Authority,
    certificates: Vec<Signed>,
}

fn table(address: SocketAddr, certificates: &[Signed], more: &str) -> String {
    let one = |Signed { certificate, key }: &Signed| {
        format!("{{ cert_file = {certificate:?}, key_file = {key:?} }}")
    };
    let list: Vec<String> = certificates.iter().map(one).collect();
    let list = list.join(", ");
    format!("[[server.tls]]\nlisten = [\"{address}\"]\ncertificates = [{list}]\n{more}\n")
}

fn edge_with(names: &[&[&str]], change: impl FnOnce(&Authority, Setup) -> (Setup, String)) -> Edge {
    let (upstream, authority, address) = (Upstream::start(), Authority::new("ca"), free_address());
    let certificates: Vec<Signed> = names.iter().map(|names| authority.sign(names)).collect();
    let (setup, more) = change(&authority, Setup::in_front_of(&upstream));
    let gateway = setup.tables(&table(address, &certificates, &more)).start();
    Edge { gateway, upstream, address, authority, certificates }
}

fn edge(more: &str) -> Edge {
    edge_with(&[&["one.test", "localhost"]], |_, setup| (setup, more.to_owned()))
}

impl Edge {
    fn client(&self, protocols: &[&str]) -> TlsClient {
        TlsClient::new(&self.authority, "one.test", protocols, None)
    }

    /// What openssl says of a connection, on which it sends nothing.
    fn openssl(&self, arguments: &[&str]) -> String {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &self.address.to_string(), "-CAfile"])
            .arg(self.authority.file())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        text(&output)
    }

    /// The version of HTTP and the status that curl ends with; nothing but zeros if it fails before.
    fn curl(&self, arguments: &[&str]) -> String {
        let port = self.address.port();
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--max-time", "60", "-o", "/dev/null"])
            .args(["-w", "%{http_version} %{http_code}", "--cacert"])
            .arg(self.authority.file())
            .args(["--resolve", &format!("one.test:{port}:127.0.0.1")])
            .args(arguments)
            .arg(format!("https://one.test:{port}/public"))
            .output()
            .expect("curl");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused_handshakes(&self) -> f64 {
        self.gateway.metric("keygate_connections_refused_total{reason=\"handshake\"}")
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn a_client_gets_the_certificate_that_is_for_the_name_it_asks_for() {
    let names: [&[&str]; 3] = [&["one.test"], &["*.two.test", "two.test"], &["a.two.test"]];
    let edge = edge_with(&names, |_, setup| (setup, String::new()));
    for (asked, shown) in [
        ("one.test", "one.test"),
        ("two.test", "*.two.test"),
        ("b.two.test", "*.two.test"),
        // The first that is for it.
        ("A.two.TEST", "*.two.test"),
        // None is for it.
        ("c.b.two.test", "one.test"),
        ("other.test", "one.test"),
    ] {
        let said = edge.openssl(&["-servername", asked]);
        assert!(said.contains(&format!("subject=CN = {shown}\n")), "{asked}: {said}");
    }
    let said = edge.openssl(&["-noservername"]);
    assert!(said.contains("subject=CN = one.test\n"), "{said}");
}

#[test]
fn versions_and_protocols_are_agreed_on() {
    let edge = edge("");
    for (version, arguments) in [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")] {
        let said = edge.openssl(&[arguments, "-alpn", "h2,http/1.1"]);
        assert!(said.contains(&format!("New, {version}")), "{said}");
        assert!(said.contains("ALPN protocol: h2"), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    let said = edge.openssl(&["-alpn", "http/1.1"]);
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    let said = edge.openssl(&["-alpn", "spdy/3"]);
    assert!(said.contains("no application protocol"), "{said}");
    assert!(edge.openssl(&["-tls1_1"]).contains("alert"), "TLS 1.1 is over");
    eventually("refused handshakes", || (edge.refused_handshakes() >= 2.0).then_some(()));
}

#[test]
fn the_oldest_version_can_be_the_newest() {
    let edge = edge("min_version = \"1.3\"");
    let said = edge.openssl(&["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    assert!(edge.openssl(&["-tls1_3"]).contains("New, TLSv1.3"));
}

#[test]
fn curl_and_h2load_are_served_over_http_1_and_http_2() {
    let edge = edge("");
    assert_eq!(edge.curl(&["--http1.1"]), "1.1 200");
    assert_eq!(edge.curl(&["--http2"]), "2 200");
    assert_eq!(edge.curl(&["--http2", "--data-binary", &"x".repeat(100_000)]), "2 200");
    assert_eq!(edge.curl(&["--http1.1", "--data-binary", &"x".repeat(100_000)]), "1.1 200");
    for seen in edge.upstream.seen() {
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        let host = format!("one.test:{}", edge.address.port());
        assert_eq!(seen.header("x-forwarded-host"), Some(&*host));
        assert_eq!(seen.header("x-keygate-client-subject"), None);
    }
    let url = format!("https://{}/public", edge.address);
    let output = Command::new("h2load")
        .args(["-n", "200", "-c", "4", "-m", "10", &url])
        .output()
        .expect("h2load");
    assert!(text(&output).contains("200 succeeded"), "{}", text(&output));
    // Over the other listener nothing has changed: HTTP/2 with prior knowledge, and no TLS.
    assert_eq!(edge.gateway.send(&get("/public")).status, 200);
    edge.upstream.forget();
    let plain = format!("http://{}/public", edge.gateway.proxy);
    for (argument, version) in [("--http2-prior-knowledge", "2"), ("--http2", "1.1")] {
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_version}", argument])
            .arg(&plain)
            .output()
            .expect("curl");
        // An upgrade from HTTP/1.1 to HTTP/2 is not offered.
        assert_eq!(String::from_utf8_lossy(&output.stdout), version, "{argument}");
    }
    assert!(edge.upstream.seen().iter().all(|one| one.header("x-forwarded-proto") == Some("http")));
}

#[test]
fn a_client_speaks_what_it_has_agreed_to() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let edge = edge("");
    for protocols in [&["http/1.1"][..], &[]] {
        let mut connection = edge.client(protocols).connect(edge.address).unwrap();
        let answer = connection.say(PREFACE, "}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{protocols:?}: {answer}");
        let mut connection = edge.client(protocols).connect(edge.address).unwrap();
        assert!(connection.say(GET, SERVED).starts_with("HTTP/1.1 200 "), "{protocols:?}");
        assert!(connection.say(GET, SERVED).starts_with("HTTP/1.1 200 "), "it is kept");
    }
    let mut connection = edge.client(&["h2", "http/1.1"]).connect(edge.address).unwrap();
    assert_eq!(connection.protocol().as_deref(), Some("h2"));
    assert_eq!(connection.say(GET, SERVED), "", "it was to speak HTTP/2");
}

#[test]
fn sessions_are_resumed() {
    let edge = edge("");
    let client = edge.client(&["http/1.1"]);
    let mut first = client.connect(edge.address).unwrap();
    assert!(!first.is_resumed());
    // The tickets come with the first answer.
    assert!(first.say(GET, SERVED).contains(" 200 "));
    let mut second = client.connect(edge.address).unwrap();
    assert!(second.say(GET, SERVED).contains(" 200 ") && second.is_resumed());
    let said = edge.openssl(&["-tls1_2", "-reconnect"]);
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
}

#[test]
fn a_client_is_known_by_its_certificate() {
    let mut other = None;
    let edge = edge_with(&[&["one.test"]], |authority, setup| {
        other = Some(Authority::new("another"));
        (setup, format!("client_ca_file = {:?}", authority.file()))
    });
    let parts = [
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Lučić, \"Söhne\""),
        (DnType::CommonName, "robot+1"),
    ];
    let known = edge.authority.sign_subject(&parts);
    let files = |signed: &Signed| [signed.certificate.clone(), signed.key.clone()];
    let curl = |signed: &Signed, version: &str| {
        let [certificate, key] = files(signed).map(|path| path.display().to_string());
        let forged = "X-Keygate-Client-Subject: CN=somebody else";
        edge.curl(&[version, "--cert", &certificate, "--key", &key, "-H", forged])
    };
    for (argument, answer) in [("--http1.1", "1.1 200"), ("--http2", "2 200")] {
        assert_eq!(curl(&known, argument), answer);
        let seen = edge.upstream.only();
        let subject = "CN=robot\\+1,O=Lu\\c4\\8di\\c4\\87\\, \\\"S\\c3\\b6hne\\\",C=DE";
        assert_eq!(seen.values("x-keygate-client-subject"), [subject]);
        edge.upstream.forget();
    }
    // Who resumes would show no certificate, and it may have expired meanwhile: each shows it.
    let client = TlsClient::new(&edge.authority, "one.test", &["http/1.1"], Some(&known));
    for _ in 0..2 {
        let mut connection = client.connect(edge.address).unwrap();
        assert!(connection.say(GET, SERVED).contains(" 200 "));
        assert!(!connection.is_resumed());
        let subject = edge.upstream.only().header("x-keygate-client-subject").map(str::to_owned);
        assert!(subject.is_some_and(|subject| subject.starts_with("CN=robot")));
        edge.upstream.forget();
    }
    let other = other.unwrap();
    let expired = edge.authority.sign_expired(&["late.test"]);
    let long = edge.authority.sign_subject(&[(DnType::CommonName, &"n".repeat(2_000))]);
    for (stranger, why) in [
        (Some(other.sign(&["stranger.test"])), "of another authority"),
        (Some(expired), "expired"),
        (Some(long), "too long to be told"),
        (None, "none"),
    ] {
        let before = edge.refused_handshakes();
        let said = match stranger {
            Some(stranger) => curl(&stranger, "--http1.1"),
            None => edge.curl(&[]),
        };
        assert!(said.ends_with(" 000"), "{why}: {said}");
        eventually(why, || (edge.refused_handshakes() > before).then_some(()));
    }
    edge.upstream.saw_nothing();
}

#[test]
fn a_client_certificate_can_be_optional() {
    let edge = edge_with(&[&["one.test"]], |authority, setup| {
        (setup, format!("client_ca_file = {:?}\nclient_auth = \"optional\"", authority.file()))
    });
    assert_eq!(edge.curl(&["-H", "X-Keygate-Client-Subject: CN=me"]), "2 200");
    assert_eq!(edge.upstream.only().header("x-keygate-client-subject"), None);
    let stranger = Authority::new("another").sign(&["stranger.test"]);
    let [certificate, key] =
        [&stranger.certificate, &stranger.key].map(|p| p.display().to_string());
    // The files are gone with their authority: curl has to read them first.
    assert!(edge.curl(&["--cert", &certificate, "--key", &key]).ends_with(" 000"));
}

#[test]
fn a_reload_swaps_certificates_and_ends_no_connection() {
    let edge = edge("");
    let client = edge.client(&["http/1.1"]);
    let mut open = client.connect(edge.address).unwrap();
    assert!(open.say(GET, SERVED).contains(" 200 "));
    let serial = || {
        let said = edge.openssl(&["-showcerts"]);
        let begin = said.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
        said[begin..].lines().take(6).collect::<String>()
    };
    let (before, own) = (serial(), &edge.certificates[0]);
    assert!(edge.gateway.hang_up());
    assert_eq!(serial(), before);
    // What did not change is still resumed by.
    assert!(client.connect(edge.address).unwrap().is_resumed());
    let next = edge.authority.sign(&["one.test"]);
    // A certificate without its key is refused, and nothing changes.
    fs::copy(&next.certificate, &own.certificate).unwrap();
    assert!(!edge.gateway.hang_up());
    assert_eq!(serial(), before);
    fs::copy(&next.key, &own.key).unwrap();
    assert!(edge.gateway.hang_up());
    assert_ne!(serial(), before);
    assert!(open.say(GET, SERVED).contains(" 200 "), "it was shaken hands on before");
    let mut fresh = client.connect(edge.address).unwrap();
    assert!(fresh.say(GET, SERVED).contains(" 200 ") && !fresh.is_resumed());
}

#[test]
fn a_listener_that_a_reload_takes_away_serves_until_the_restart() {
    let mut edge = edge("");
    edge.gateway.rewrite(|setup| setup.tables(""));
    assert!(edge.gateway.hang_up());
    assert_eq!(edge.curl(&[]), "2 200");
    let (address, certificates) = (edge.address, edge.certificates.clone());
    edge.gateway.rewrite(|setup| {
        let more = "min_version = \"1.3\"";
        setup.tables(&table(address, &certificates, more))
    });
    assert!(edge.gateway.hang_up());
    assert!(edge.openssl(&["-tls1_2"]).contains("alert protocol version"));
    assert_eq!(edge.curl(&[]), "2 200");
}

#[test]
fn a_handshake_takes_no_longer_than_it_may() {
    let edge = edge_with(&[&["one.test"]], |_, setup| {
        (setup.server("handshake_timeout = \"300ms\""), String::new())
    });
    let mut silent = TcpStream::connect(edge.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed");
    eventually("a refused handshake", || (edge.refused_handshakes() >= 1.0).then_some(()));
    // Who leaves without a word was not refused.
    let before = edge.refused_handshakes();
    drop(TcpStream::connect(edge.address).unwrap());
    assert_eq!(edge.curl(&[]), "2 200");
    eventually("no more connections", || {
        (edge.gateway.metric("keygate_connections_open") <= 0.0).then_some(())
    });
    assert!((edge.refused_handshakes() - before).abs() < 0.5);
}

#[test]
fn certificates_are_checked_with_the_configuration() {
    let edge = edge("");
    let check = || run(edge.gateway.folder(), &["check", "gateway.toml"], &[]);
    assert!(!check().stderr.contains("warning"), "{:?}", check());
    let (own, expired) = (&edge.certificates[0], edge.authority.sign_expired(&["one.test"]));
    fs::copy(&expired.certificate, &own.certificate).unwrap();
    let said = check();
    assert!(said.code != Some(0) && said.stderr.contains("is not that of"), "{said:?}");
    fs::copy(&expired.key, &own.key).unwrap();
    let said = check();
    assert!(said.code == Some(0) && said.stderr.contains("has expired"), "{said:?}");
}
