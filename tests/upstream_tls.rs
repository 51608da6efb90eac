//! TLS towards the upstream: a service is believed for the reasons that the configuration gives, and
//! for no other, whatever another connection has shown before.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{
    Answer, Authority, Gateway, Nginx, Process, Setup, Signed, Wire, binary, eventually,
    free_address, get, post, scale,
};

/// What the server saw of the connection: the name asked for, the protocol, the client's
/// certificate, and which connection it was.
const SEEN: &str = "default_type text/plain;\nlocation / {\n\
                    return 200 \"$ssl_server_name|$server_protocol|$ssl_client_s_dn|$connection\";\n}";

/// A server that shows this certificate.
fn server(listen: &str, shown: &Signed, more: &str) -> Nginx {
    let Signed { certificate, key } = shown;
    let settings =
        format!("ssl_certificate {certificate:?};\nssl_certificate_key {key:?};\n{more}\n{SEEN}");
    Nginx::start(listen, &settings)
}

fn tls(lines: &str) -> String {
    format!("[upstreams.main.tls]\n{lines}\n")
}

fn gateway(server: &Nginx, settings: &str, tls_lines: &str) -> Gateway {
    Setup::in_front_of_address(server.address()).upstream(settings).tables(&tls(tls_lines)).start()
}

/// What the server saw: its variables, in their order.
#[track_caller]
fn seen(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().split('|').map(ToOwned::to_owned).collect()
}

#[track_caller]
fn assert_not_believed(gateway: &Gateway, path: &str, reason: &str) {
    let answer = gateway.send(&get(path));
    assert_eq!((answer.status, &*answer.code()), (502, "upstream_error"), "{}", answer.text());
    eventually(&format!("{reason:?} in the log"), || {
        gateway.output().contains(reason).then_some(())
    });
}

#[test]
fn a_service_is_believed_by_its_certificates_name_or_address() {
    let authority = Authority::new("one");
    let ca = format!("ca_file = {:?}\n", authority.file());
    let by_name = server("ssl", &authority.sign(&["orders.test"]), "");
    let gateway = gateway(&by_name, "", &format!("{ca}server_name = \"orders.test\""));
    for wire in Wire::BOTH {
        let seen = seen(&gateway.send_over(wire, &get("/public")));
        assert_eq!(seen[..2], ["orders.test", "HTTP/1.1"]);
    }
    let posted = gateway.send(&post("/public", vec![b'x'; 100_000]));
    assert_eq!(posted.status, 200);
    // An address is no name to ask for (RFC 6066 section 3), but it is checked.
    let by_address = server("ssl", &authority.sign(&["127.0.0.1"]), "");
    let gateway = self::gateway(&by_address, "", &ca);
    assert_eq!(seen(&gateway.send(&get("/public")))[0], "");
}

#[test]
fn whoever_poses_as_the_service_gets_no_request() {
    let (authority, other) = (Authority::new("one"), Authority::new("two"));
    let (good, bad) = (authority.file(), other.file());
    let named = "server_name = \"orders.test\"";
    let trust = |ca: &Path| format!("ca_file = {ca:?}\n{named}");
    let right = authority.sign(&["orders.test"]);
    let no_address = format!("ca_file = {good:?}");
    for (what, shown, lines, reason) in [
        ("another authority's", &right, trust(&bad), "UnknownIssuer"),
        ("another name's", &authority.sign(&["evil.test"]), trust(&good), "not valid for name"),
        (
            "an expired",
            &authority.sign_expired(&["orders.test"]),
            trust(&good),
            "certificate expired",
        ),
        ("no address's", &right, no_address, "not valid for name"),
        ("nobody's we know", &right, named.to_owned(), "UnknownIssuer"),
    ] {
        println!("{what} certificate");
        let server = server("ssl", shown, "");
        assert_not_believed(&gateway(&server, "", &lines), "/public", reason);
        let careless = gateway(&server, "", &format!("{lines}\nverify = false"));
        assert_eq!(careless.send(&get("/public")).status, 200, "{what}: unchecked");
        let warned = careless.output().contains("certificate is not checked");
        assert!(warned, "{}", careless.output());
    }
}

#[test]
fn a_service_that_asks_for_it_is_shown_our_certificate() {
    let authority = Authority::new("one");
    let ask = format!("ssl_verify_client on;\nssl_client_certificate {:?};", authority.file());
    let server = server("ssl", &authority.sign(&["127.0.0.1"]), &ask);
    let ca = format!("ca_file = {:?}\n", authority.file());
    let ours = |signed: &Signed| {
        format!("{ca}cert_file = {:?}\nkey_file = {:?}", signed.certificate, signed.key)
    };
    let with = gateway(&server, "", &ours(&authority.sign(&["gateway.test"])));
    assert_eq!(seen(&with.send(&get("/public")))[2], "CN=gateway.test");
    let other = Authority::new("two");
    let strangers = other.sign(&["gateway.test"]);
    for lines in [ca.clone(), ours(&strangers)] {
        let without = gateway(&server, "", &lines);
        assert_eq!(without.send(&get("/public")).status, 400, "nginx's own refusal");
    }
}

/// A gateway with the usual route, and one more route and upstream for each of these tables' texts:
/// all of them with the same target.
fn several(target: SocketAddr, first: &str, others: &[String]) -> Gateway {
    let mut tables = tls(first);
    let mut setup = Setup::in_front_of_address(target);
    for (at, lines) in others.iter().enumerate() {
        tables.push_str(&format!(
            "[upstreams.other{at}]\ntargets = [\"{target}\"]\n[upstreams.other{at}.tls]\n{lines}\n"
        ));
        setup = setup.route(&format!(
            "name = \"other{at}\"\npath = \"/other{at}\"\nupstream = \"other{at}\"\nauth = \"public\""
        ));
    }
    setup.tables(&tables).start()
}

#[test]
fn upstreams_with_one_address_share_no_trust() {
    let (authority, other) = (Authority::new("one"), Authority::new("two"));
    let ask =
        format!("ssl_verify_client optional_no_ca;\nssl_client_certificate {:?};", other.file());
    let server = server("ssl", &authority.sign(&["orders.test", "127.0.0.1"]), &ask);
    let ours = authority.sign(&["gateway.test"]);
    let believing = format!("ca_file = {:?}\nserver_name = \"orders.test\"", authority.file());
    let gateway = several(
        server.address(),
        &format!("{believing}\nverify = false"),
        &[
            believing.clone(),
            format!("ca_file = {:?}\nserver_name = \"orders.test\"", other.file()),
            "server_name = \"orders.test\"".to_owned(),
            format!("{believing}\ncert_file = {:?}\nkey_file = {:?}", ours.certificate, ours.key),
        ],
    );
    let connection = |path: &str| seen(&gateway.send(&get(path))).remove(3);
    // One's own is used again, though an answer may be there before its connection is kept.
    let kept = |path: &str| {
        eventually("a connection that is used again", || {
            let first = connection(path);
            (first == connection(path)).then_some(first)
        })
    };
    // Kept connections of those who believe are there to be taken.
    for _ in 0..3 {
        let (careless, careful) = (kept("/public"), kept("/other0"));
        assert_ne!(careless, careful, "what was not checked is used by who checks");
        assert_not_believed(&gateway, "/other1", "UnknownIssuer");
        assert_not_believed(&gateway, "/other2", "UnknownIssuer");
        assert_eq!(seen(&gateway.send(&get("/other3")))[2], "CN=gateway.test");
        assert_eq!(seen(&gateway.send(&get("/other0")))[2], "");
    }
}

#[test]
fn the_protocol_is_what_is_said_or_what_the_service_prefers() {
    let authority = Authority::new("one");
    let shown = authority.sign(&["127.0.0.1"]);
    let ca = format!("ca_file = {:?}\n", authority.file());
    let (modern, old) = (server("ssl http2", &shown, ""), server("ssl", &shown, ""));
    for (server, protocol, spoken) in [
        (&modern, "http1", "HTTP/1.1"),
        (&modern, "http2", "HTTP/2.0"),
        (&modern, "auto", "HTTP/2.0"),
        (&old, "http1", "HTTP/1.1"),
        (&old, "auto", "HTTP/1.1"),
    ] {
        let gateway = gateway(server, &format!("protocol = \"{protocol}\""), &ca);
        for wire in Wire::BOTH {
            for request in [get("/public"), post("/public", vec![b'x'; 70_000]).streamed()] {
                let seen = seen(&gateway.send_over(wire, &request));
                assert_eq!(seen[1], spoken, "{protocol} over {wire:?}: {request:?}");
            }
        }
    }
    // Without TLS, by prior knowledge.
    let plain = Nginx::start("http2", SEEN);
    let setup = Setup::in_front_of_address(plain.address()).upstream("protocol = \"http2\"");
    let gateway = setup.start();
    for wire in Wire::BOTH {
        let seen = seen(&gateway.send_over(wire, &get("/public")));
        assert_eq!(seen[1], "HTTP/2.0");
    }
}

/// A server of WebSockets that echoes, over TLS, and would speak HTTP/2 rather.
fn echo(shown: &Signed) -> (SocketAddr, tokio::runtime::Runtime) {
    let certificates = CertificateDer::pem_file_iter(&shown.certificate).unwrap();
    let chain = certificates.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    drop(runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            drop(tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.ok()?;
                if stream.get_ref().1.alpn_protocol() != Some(b"http/1.1") {
                    return None;
                }
                let mut socket = tokio_tungstenite::accept_async(stream).await.ok()?;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        socket.send(message).await.ok()?;
                    }
                }
                Some(())
            }));
        }
    }));
    (address, runtime)
}

#[test]
fn a_websocket_reaches_a_service_over_tls() {
    let authority = Authority::new("one");
    let (address, runtime) = echo(&authority.sign(&["127.0.0.1"]));
    let ca = tls(&format!("ca_file = {:?}", authority.file()));
    let in_front = |protocol: &str| {
        let setup = Setup::in_front_of_address(address);
        setup.upstream(&format!("protocol = \"{protocol}\"")).tables(&ca).start()
    };
    // A connection that ends too early does so once in a hundred times.
    let rounds = scale("KEYGATE_WEBSOCKET_ROUNDS", 60);
    for protocol in ["http1", "auto"] {
        let gateway = in_front(protocol);
        let url = format!("ws://{}/public", gateway.proxy);
        for round in 0..rounds {
            runtime.block_on(async {
                let opened = tokio_tungstenite::connect_async(&url).await;
                let (mut socket, _) = opened.unwrap_or_else(|error| panic!("{round}: {error}"));
                for text in ["first", "second"] {
                    socket.send(text.into()).await.unwrap();
                    let heard = socket.next().await.expect("an echo").unwrap();
                    assert_eq!(heard.into_text().unwrap(), text, "{protocol} {round}");
                }
            });
        }
    }
    let gateway = in_front("http2");
    let opening = |protocol: &str| {
        let opening = get("/public").header("Connection", "Upgrade").header("Upgrade", protocol);
        let key = opening.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        gateway.send(&key.header("Sec-WebSocket-Version", "13"))
    };
    assert_eq!(opening("WebSocket").code(), "upstream_error");
    eventually("why not, in the log", || {
        gateway.output().contains("NoWebSocketOverHttp2").then_some(())
    });
}

#[test]
fn an_offer_to_switch_to_something_else_costs_nothing_with_http2() {
    let plain = Nginx::start("http2", SEEN);
    let setup = Setup::in_front_of_address(plain.address()).upstream("protocol = \"http2\"");
    let gateway = setup.start();
    let offer = get("/public")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA");
    assert_eq!(seen(&gateway.send(&offer))[1], "HTTP/2.0");
}

/// The binary with this as the system's trusted certificates.
struct Trusting {
    process: Process,
    proxy: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Trusting {
    fn start(server: &Nginx, plain: &Nginx, store: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (proxy, admin) = (free_address(), free_address());
        let plain = format!("[upstreams.plain]\ntargets = [\"{}\"]\n", plain.address());
        let route = "name = \"plain\"\npath = \"/plain\"\nupstream = \"plain\"\nauth = \"public\"";
        let setup = Setup::in_front_of_address(server.address()).route(route);
        let toml = setup.tables(&format!("{}{plain}", tls(""))).toml(proxy, admin);
        std::fs::write(folder.path().join("gateway.toml"), toml).unwrap();
        let (file, binary) = (format!("SSL_CERT_FILE={}", store.display()), binary());
        std::fs::create_dir(folder.path().join("none")).unwrap();
        let directory = format!("SSL_CERT_DIR={}", folder.path().join("none").display());
        let arguments = [&file, &directory, binary.to_str().unwrap(), "run"];
        let mut process = Process::program(Path::new("env"), folder.path(), &arguments);
        eventually("a gateway that accepts", || {
            assert!(process.is_running(), "{}{}", process.stdout(), process.stderr());
            std::net::TcpStream::connect(proxy).ok()
        });
        Self { process, proxy, _folder: folder }
    }

    fn ask(&self, path: &str) -> u16 {
        let mut connection = crate::harness::Connection::open(self.proxy);
        connection.exchange(&get(path)).unwrap().status
    }

    #[track_caller]
    fn says(&self, what: &str) {
        eventually(&format!("{what:?} in the log"), || self.output().contains(what).then_some(()));
    }

    fn output(&self) -> String {
        format!("{}{}", self.process.stdout(), self.process.stderr())
    }
}

#[test]
fn a_bad_certificate_among_those_that_the_system_trusts_breaks_nothing_else() {
    let authority = Authority::new("one");
    let server = server("ssl", &authority.sign(&["127.0.0.1"]), "");
    let plain = Nginx::start("", SEEN);
    let whole = std::fs::read_to_string(authority.file()).unwrap();
    let trusting = Trusting::start(&server, &plain, &authority.file());
    assert_eq!(trusting.ask("/public"), 200, "the system's store is believed");
    let files = tempfile::tempdir().unwrap();
    let damaged = whole.replace("\nMI", "\nAA");
    for (name, text, believed, said) in [
        ("torn", format!("{damaged}{whole}"), true, "are damaged; not used"),
        ("cut", format!("{whole}-----BEGIN CERTIFICATE-----\n%%%\n"), true, "cannot be read"),
        ("empty", String::new(), false, "the system trusts no certificates"),
        ("only torn", damaged.clone(), false, "the system trusts no certificates"),
    ] {
        println!("{name}");
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        let trusting = Trusting::start(&server, &plain, &path);
        trusting.says(said);
        assert_eq!(trusting.ask("/plain"), 200, "{name}: who needs no store is served");
        let status = trusting.ask("/public");
        assert_eq!(status, if believed { 200 } else { 502 }, "{name}: {}", trusting.output());
    }
    let trusting = Trusting::start(&server, &plain, Path::new("/nowhere/at/all"));
    assert_eq!((trusting.ask("/plain"), trusting.ask("/public")), (200, 502));
    trusting.says("the system trusts no certificates");
}
