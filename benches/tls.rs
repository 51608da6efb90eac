//! TLS: the gateway, enforcement on, against nginx that ends TLS in front of the same service, in turn
//! in one run: handshakes/s, and requests/s and bytes/s on connections that are kept; ratios.
//! `cargo bench --bench tls -- rounds=5 seconds=2`; it says so where there is no nginx. Linux: reads
//! /proc, and pins with `taskset` where it exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

#[path = "common/mod.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use common::gateway::OURS;
use common::keys::{Keys, TIER, put_pepper, seed};
use common::options::Options;
use common::process::{PEERS_CORE, PROXY_CORE, Running, free_port, has, pin_self};

const ROUNDS_DEFAULT: usize = 5;
const SECONDS: f64 = 2.0;
const SMALL: usize = 12;
const LARGE: usize = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some("service") {
        return service(args[2].parse().expect("a port"));
    }
    if !has("nginx") {
        println!("skipped: nginx is not installed (make setup-tests installs it)");
        return;
    }
    // `cargo test --benches` only wants to see that it would run.
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    compare(&Options::read());
}

/// What is done to a proxy for a while.
#[derive(Clone, Copy)]
enum Load {
    /// New connections, one request on each.
    Handshakes { at_once: usize, resumed: bool },
    /// HTTP/1.1 on connections that are kept.
    Kept { connections: usize, path: &'static str },
    /// The same over HTTP/2, several requests at a time on each.
    Streams { connections: usize, streams: usize, path: &'static str },
}

const LOADS: &[(&str, Load)] = &[
    ("full handshakes, 1 at a time", Load::Handshakes { at_once: 1, resumed: false }),
    ("full handshakes, 16 at a time", Load::Handshakes { at_once: 16, resumed: false }),
    ("resumed handshakes, 1 at a time", Load::Handshakes { at_once: 1, resumed: true }),
    ("resumed handshakes, 16 at a time", Load::Handshakes { at_once: 16, resumed: true }),
    ("HTTP/1.1, 12 bytes", Load::Kept { connections: 32, path: "/v1/small" }),
    ("HTTP/1.1, 1 MiB", Load::Kept { connections: 4, path: "/v1/large" }),
    ("HTTP/2, 12 bytes", Load::Streams { connections: 4, streams: 8, path: "/v1/small" }),
    ("HTTP/2, 1 MiB", Load::Streams { connections: 2, streams: 2, path: "/v1/large" }),
];

fn compare(options: &Options) {
    let rounds = options.get("rounds", ROUNDS_DEFAULT);
    let round = Duration::from_secs_f64(options.get("seconds", SECONDS));
    let mut table = options.table("tls", "load,round,contestant,per_second,cpu_us");
    let folder = tempfile::tempdir().unwrap();
    // Both show the same certificate: ECDSA on P-256.
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    std::fs::write(folder.path().join("cert.pem"), &certificate).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();

    let (behind, ours, theirs) = (free_port(), free_port(), free_port());
    let program = std::env::current_exe().unwrap();
    let arguments = ["service", &behind.to_string()];
    let program = program.to_str().unwrap();
    let _service = Running::start(PEERS_CORE, program, &arguments, folder.path(), behind);
    let nginx = nginx(folder.path(), theirs, behind);
    let gateway = gateway(folder.path(), ours, behind, options.text("gateway").unwrap_or(OURS));
    pin_self(PEERS_CORE);
    let keys = Keys::mint(1);
    let clients = |port| Client::new(port, &certificate, &keys.texts()[0]);
    let (ours, theirs) = (clients(ours), clients(theirs));

    println!("{rounds} rounds of {round:?}, one worker and one core for each proxy");
    println!(
        "                                      nginx/s    ours/s  ratio | us/req nginx  ours  ratio"
    );
    for &(name, load) in LOADS {
        let mut ratios = Vec::new();
        ours.measure(&gateway, load, round / 4);
        theirs.measure(&nginx, load, round / 4);
        let mut sums = [0.0; 4];
        for number in 0..rounds {
            let theirs = theirs.measure(&nginx, load, round);
            let ours = ours.measure(&gateway, load, round);
            for (who, measured) in [("nginx", &theirs), ("ours", &ours)] {
                table.row(&[
                    name.replace(',', ""),
                    number.to_string(),
                    who.to_owned(),
                    format!("{:.1}", measured.per_second),
                    format!("{:.2}", measured.cpu_us),
                ]);
            }
            for (who, share) in [("nginx", theirs.not_resumed), ("ours", ours.not_resumed)] {
                if share > 0.01 {
                    println!("{name}: {who} did not resume {:.0} %", share * 100.0);
                }
            }
            ratios.push((ours.per_second / theirs.per_second, ours.cpu_us / theirs.cpu_us));
            let new = [theirs.per_second, ours.per_second, theirs.cpu_us, ours.cpu_us];
            sums = std::array::from_fn(|at| sums[at] + new[at] / rounds as f64);
        }
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = ratios.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [their_rate, our_rate, their_cpu, our_cpu] = sums;
        println!(
            "{name:34} {their_rate:>10.0} {our_rate:>9.0} {:>6.3} | {their_cpu:>12.1} {our_cpu:>5.1} {:>6.3}",
            median(|ratio| ratio.0),
            median(|ratio| ratio.1),
        );
    }
}

fn gateway(folder: &Path, port: u16, behind: u16, program: &str) -> Running {
    let text = format!(
        "[log]\nlevel = \"warn\"\n[tiers.{TIER}]\nrate = \"1000000/s\"\n\
         [admin]\nlisten = \"127.0.0.1:{}\"\n[server]\nlisten = [\"127.0.0.1:{}\"]\nthreads = 1\n\
         [[server.tls]]\nlisten = [\"127.0.0.1:{port}\"]\n\
         certificates = [{{ cert_file = \"cert.pem\", key_file = \"key.pem\" }}]\n\
         [upstreams.orders]\ntargets = [\"127.0.0.1:{behind}\"]\n\
         [[routes]]\nname = \"orders\"\npath = \"/v1\"\nupstream = \"orders\"\n\
         auth = \"key\"\nscopes = [\"read:orders\"]\n",
        free_port(),
        free_port()
    );
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    std::fs::create_dir_all(folder.join("data")).unwrap();
    put_pepper(folder);
    seed(program, folder, 1);
    Running::start(PROXY_CORE, program, &["run"], folder, port)
}

fn nginx(folder: &Path, port: u16, behind: u16) -> Running {
    let text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\ntcp_nodelay on;\n\
         client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\nkeepalive_requests 100000000;\n\
         upstream behind {{ server 127.0.0.1:{behind}; keepalive 128; keepalive_requests 100000000; }}\n\
         server {{\nlisten 127.0.0.1:{port} ssl http2;\nssl_certificate cert.pem;\n\
         ssl_certificate_key key.pem;\nssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_session_cache shared:all:10m;\nlocation / {{\nproxy_pass http://behind;\n\
         proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n}}\n}}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
    let prefix = folder.to_str().unwrap();
    let arguments = ["-p", prefix, "-c", "nginx.conf", "-e", "stderr"];
    Running::start(PROXY_CORE, "nginx", &arguments, folder, port)
}

/// Answers `…/large` with a mebibyte, and everything else with a few bytes.
fn service(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = |length: usize| {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + length, b'x');
        Bytes::from(bytes)
    };
    let (small, large) = (answer(SMALL), answer(LARGE));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (small, large) = (small.clone(), large.clone());
            drop(tokio::spawn(async move {
                let (mut buffer, mut held) = (vec![0; 8192], 0);
                while let Ok(read @ 1..) = stream.read(&mut buffer[held..]).await {
                    held += read;
                    if buffer[..held].ends_with(b"\r\n\r\n") {
                        let is_large = buffer.starts_with(b"GET /v1/large");
                        held = 0;
                        let answer = if is_large { &large } else { &small };
                        if stream.write_all(answer).await.is_err() {
                            break;
                        }
                    }
                }
            }));
        }
    });
}

/// Connections that could have been resumed and were not.
static NOT_RESUMED: AtomicU64 = AtomicU64::new(0);

struct Measured {
    /// Of connections that were to be resumed.
    not_resumed: f64,
    per_second: f64,
    cpu_us: f64,
}

/// Whoever connects to one of the two proxies.
struct Client {
    port: u16,
    key: Arc<str>,
    config: ClientConfig,
}

impl Client {
    fn new(port: u16, certificate: &CertificateDer<'_>, key: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone().into_owned()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Self { port, key: key.into(), config }
    }

    /// One client's, with a memory of its own for what it resumes with.
    fn connector(&self, protocol: &[u8], resumed: bool) -> TlsConnector {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption =
            if resumed { Resumption::in_memory_sessions(32) } else { Resumption::disabled() };
        TlsConnector::from(Arc::new(config))
    }

    fn measure(&self, proxy: &Running, load: Load, time: Duration) -> Measured {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(async {
            // What is kept is connected before the clock starts.
            let mut clients = tokio::task::JoinSet::new();
            let (begin, began) = tokio::sync::watch::channel(None::<Instant>);
            let count = self.spawn(load, &mut clients, &began);
            let cpu_before = proxy.cpu();
            let start = Instant::now();
            begin.send_replace(Some(start + time));
            let mut done = 0;
            while let Some(client) = clients.join_next().await {
                done += client.unwrap();
            }
            assert!(count > 0 && done > 0, "nothing was done");
            (done, start.elapsed(), (proxy.cpu() - cpu_before).total())
        });
        let (done, elapsed, cpu) = done;
        Measured {
            not_resumed: NOT_RESUMED.swap(0, Ordering::Relaxed) as f64 / done as f64,
            per_second: done as f64 / elapsed.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / done as f64,
        }
    }

    fn spawn(
        &self,
        load: Load,
        clients: &mut tokio::task::JoinSet<u64>,
        began: &tokio::sync::watch::Receiver<Option<Instant>>,
    ) -> usize {
        let (port, key) = (self.port, &self.key);
        let mut count = 0;
        let mut next = || {
            count += 1;
            (Arc::clone(key), began.clone())
        };
        match load {
            Load::Handshakes { at_once, resumed } => {
                for _ in 0..at_once {
                    let (key, began) = next();
                    let tls = self.connector(b"http/1.1", resumed);
                    clients.spawn(handshakes(tls, port, key, began, resumed));
                }
            }
            Load::Kept { connections, path } => {
                for _ in 0..connections {
                    let (key, began) = next();
                    let tls = self.connector(b"http/1.1", false);
                    clients.spawn(kept(tls, port, key, path, began));
                }
            }
            Load::Streams { connections, streams, path } => {
                for _ in 0..connections {
                    let (key, began) = next();
                    let tls = self.connector(b"h2", false);
                    clients.spawn(many(tls, port, key, path, streams, began));
                }
            }
        }
        count
    }
}

type Began = tokio::sync::watch::Receiver<Option<Instant>>;

/// Waits until the clock starts, and says when it is to end.
async fn end_of(mut began: Began) -> Instant {
    let ends = began.wait_for(Option::is_some).await.unwrap();
    ends.unwrap()
}

async fn connect(tls: &TlsConnector, port: u16) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("api.example.com").unwrap();
    tls.connect(name, stream).await.expect("a handshake")
}

/// One connection after the other, with one request on each: its answer shows that the other side is
/// through with the handshake too, and brings what the next one resumes with.
async fn handshakes(
    tls: TlsConnector,
    port: u16,
    key: Arc<str>,
    began: Began,
    resumed: bool,
) -> u64 {
    let request = format!(
        "GET /v1/small HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    let until = end_of(began).await;
    let mut done = 0;
    let mut buffer = vec![0; 8192];
    let mut is_first = true;
    while Instant::now() < until {
        let mut stream = connect(&tls, port).await;
        let kind = stream.get_ref().1.handshake_kind();
        let is_resumed = kind == Some(HandshakeKind::Resumed);
        assert!(resumed || !is_resumed, "{kind:?}");
        if resumed && !is_resumed && !is_first {
            NOT_RESUMED.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut held = 0;
        while !buffer[..held].ends_with(b"xxxxxxxxxxxx") {
            let read = stream.read(&mut buffer[held..]).await.unwrap();
            assert!(read > 0, "the proxy closed a connection");
            held += read;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
        is_first = false;
        done += 1;
    }
    done
}

fn request(key: &str, path: &str) -> hyper::http::request::Builder {
    hyper::Request::get(path).header("authorization", format!("Bearer {key}"))
}

/// Reads an answer to its end.
async fn read(answer: hyper::Response<hyper::body::Incoming>, path: &str) {
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, if path.ends_with("large") { LARGE } else { SMALL });
}

/// One connection of HTTP/1.1, one request at a time.
async fn kept(
    tls: TlsConnector,
    port: u16,
    key: Arc<str>,
    path: &'static str,
    began: Began,
) -> u64 {
    let stream = TokioIo::new(connect(&tls, port).await);
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    drop(tokio::spawn(connection));
    let until = end_of(began).await;
    let mut done = 0;
    while Instant::now() < until {
        sender.ready().await.unwrap();
        let request = request(&key, path).header("host", "api.example.com");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        read(sender.send_request(request).await.unwrap(), path).await;
        done += 1;
    }
    done
}

/// One connection of HTTP/2, several requests at a time.
async fn many(
    tls: TlsConnector,
    port: u16,
    key: Arc<str>,
    path: &'static str,
    streams: usize,
    began: Began,
) -> u64 {
    let stream = TokioIo::new(connect(&tls, port).await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 21).initial_connection_window_size(1 << 23);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    drop(tokio::spawn(connection));
    let uri: Arc<str> = format!("https://api.example.com{path}").into();
    let until = end_of(began).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (mut sender, key, uri) = (sender.clone(), Arc::clone(&key), Arc::clone(&uri));
        clients.spawn(async move {
            let mut done = 0;
            while Instant::now() < until {
                sender.ready().await.unwrap();
                let request = request(&key, &uri).body(Empty::<Bytes>::new()).unwrap();
                read(sender.send_request(request).await.unwrap(), path).await;
                done += 1;
            }
            done
        });
    }
    clients.join_all().await.into_iter().sum()
}
