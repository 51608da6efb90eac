//! How long a key still passes on gateway B after its revocation was acknowledged on gateway A, over a
//! real Redis, while B is asked with it all the time. `cargo bench --bench revocation -- keys=200`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

#[path = "common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::gateway::{OURS, Setup};
use common::keys::Keys;
use common::load::Ask;
use common::options::Options;
use common::process::{PEERS_CORE, Running, free_port, has, pin_self};
use common::redis::Redis;
use common::service;
use rustix::net::{AddressFamily, SocketType, bind, socket};

const KEYS: usize = 200;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => service::serve(args[2].parse().expect("a port")),
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ if !has("redis-server") => {
            println!("skipped: redis-server is not installed (make setup)")
        }
        _ => run(&Options::read()),
    }
}

fn run(options: &Options) {
    let count = options.get("keys", KEYS);
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let upstream = free_port();
    let program = std::env::current_exe().unwrap();
    let args = ["upstream", &upstream.to_string()];
    let _upstream =
        Running::start(PEERS_CORE, program.to_str().unwrap(), &args, folder.path(), upstream);
    let folders = ["a", "b"].map(|name| folder.path().join(name));
    let setup = |at: usize| {
        let program = options.text("gateway").unwrap_or(OURS);
        Setup { redis: Some(redis.port), ..Setup::new(program, &folders[at], upstream, count) }
    };
    let (a, b) = (Setup { core: PEERS_CORE, ..setup(0) }, setup(1));
    let (_a, _b) = (a.start(), b.join());
    pin_self(PEERS_CORE);

    let keys = Keys::mint(count);
    let mut table = options.table("revocation", "key,refused_after_us,passed_after,change_us");
    let mut took = Vec::new();
    let mut passed = 0;
    let mut changes = Vec::new();
    for at in 0..count {
        let one = revoke(&a, &b, &keys, at);
        table.row(&[
            at.to_string(),
            format!("{:.1}", micros(one.refused_after)),
            one.passed_after.to_string(),
            format!("{:.1}", micros(one.change)),
        ]);
        took.push(micros(one.refused_after));
        changes.push(micros(one.change));
        passed += one.passed_after;
    }
    took.sort_by(f64::total_cmp);
    changes.sort_by(f64::total_cmp);
    let of = |sorted: &[f64], share: f64| sorted[(share * (sorted.len() - 1) as f64) as usize];
    println!("{count} keys revoked on A, over Redis, while B is asked with them without a pause");
    println!("                                         p50 us   p90 us   p99 us   max us");
    for (name, sorted) in [
        ("acknowledged on A to refused on B", &took),
        ("asked of A to acknowledged on A", &changes),
    ] {
        println!(
            "{name:36} {:>10.0} {:>8.0} {:>8.0} {:>8.0}",
            of(sorted, 0.5),
            of(sorted, 0.9),
            of(sorted, 0.99),
            of(sorted, 1.0)
        );
    }
    println!("{passed} requests that were sent after an acknowledgement still passed");
}

struct Revoked {
    /// When the first request was answered that was refused; nothing, if that was before.
    refused_after: Duration,
    /// Requests that were sent after the acknowledgement and passed.
    passed_after: u64,
    /// What the change took.
    change: Duration,
}

fn revoke(a: &Setup<'_>, b: &Setup<'_>, keys: &Keys, at: usize) -> Revoked {
    let mut request = keys.request(Ask::Small);
    keys.put(&mut request, at);
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until_refused(client(at), b.port, &request, &asked));
        // It is in use, and cached, before it is revoked.
        while asked.load(Ordering::Relaxed) < 5 && !asking.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let begun = Instant::now();
        a.change("POST", &format!("/v1/keys/{}/revoke", keys.id(at)), "{}");
        let acknowledged = Instant::now();
        let (passed, refused) = asking.join().unwrap();
        Revoked {
            refused_after: refused.saturating_duration_since(acknowledged),
            passed_after: passed.iter().filter(|sent| **sent > acknowledged).count() as u64,
            change: acknowledged - begun,
        }
    })
}

/// When requests were sent that passed, and when the refusal was there.
fn ask_until_refused(
    from: Ipv4Addr,
    port: u16,
    request: &[u8],
    asked: &AtomicUsize,
) -> (Vec<Instant>, Instant) {
    let mut stream = connect(from, port);
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 16 << 10];
    let mut passed = Vec::new();
    loop {
        let sent = Instant::now();
        stream.write_all(request).unwrap();
        // The small answers of this bench come in one piece.
        let read = stream.read(&mut buffer).unwrap();
        if buffer[..read].starts_with(b"HTTP/1.1 401") {
            return (passed, Instant::now());
        }
        let answer = String::from_utf8_lossy(&buffer[..read]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        passed.push(sent);
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

/// An address for each key: one that sends so many revoked keys is told to wait.
fn client(at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + u32::try_from(at).unwrap())
}

fn connect(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    TcpStream::from(socket)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
