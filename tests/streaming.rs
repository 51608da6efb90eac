//! Bodies of any size pass through unchanged, and the gateway's memory does not know of them.

use std::fs;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::harness::{Connection, Gateway, Request, Setup, Upstream, alone, chunk, get, post};

const BODY_LENGTH: u64 = 200 << 20;
/// What the process may grow by at its peak.
const GROWTH_KIB_MAX: u64 = 32 << 10;

/// Bytes without a short period, so that a lost or doubled part changes the hash.
fn block() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(64 * 1024 - 17).collect()
}

/// Gives `send` a body of this length, block by block, and returns its hash.
fn pour(length: u64, mut send: impl FnMut(&[u8])) -> [u8; 32] {
    let block = block();
    let mut hash = Sha256::new();
    let mut left = length;
    while left > 0 {
        let part = &block[..block.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        hash.update(part);
        send(part);
        left -= part.len() as u64;
    }
    hash.finalize().into()
}

/// A gateway that has warmed up, and the peak of its memory from now on.
fn start(upstream: &Upstream) -> (Gateway, u64) {
    let gateway = Setup::in_front_of(upstream).log("info").start();
    for _ in 0..20 {
        let warm = post("/public/warm", vec![b'x'; 200_000]);
        assert_eq!(gateway.send(&warm).status, 200);
    }
    // Sets the peak back to what is used now.
    fs::write(format!("/proc/{}/clear_refs", gateway.id()), "5").unwrap();
    let before = peak_kib(&gateway);
    (gateway, before)
}

/// The most memory that the process has had, in KiB.
fn peak_kib(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[track_caller]
fn memory_stayed_flat(gateway: &Gateway, before: u64) {
    let after = peak_kib(gateway);
    println!("peak memory: {before} KiB before, {after} KiB after");
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
}

#[test]
fn a_large_upload_is_streamed() {
    let _alone = alone();
    let upstream = Upstream::start();
    let (gateway, before) = start(&upstream);
    upload(&gateway, &upstream, Framing::Length);
    upload(&gateway, &upstream, Framing::Chunks);
    memory_stayed_flat(&gateway, before);
}

#[derive(Clone, Copy)]
enum Framing {
    Length,
    Chunks,
}

fn upload(gateway: &Gateway, upstream: &Upstream, framing: Framing) {
    upstream.forget();
    let header = match framing {
        Framing::Length => format!("Content-Length: {BODY_LENGTH}"),
        Framing::Chunks => "Transfer-Encoding: chunked".into(),
    };
    let mut connection = gateway.connect();
    let head = format!("POST /public HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let hash = pour(BODY_LENGTH, |part| match framing {
        Framing::Length => connection.send(part).unwrap(),
        Framing::Chunks => connection.send(&chunk(part)).unwrap(),
    });
    if matches!(framing, Framing::Chunks) {
        connection.send(&chunk(b"")).unwrap();
    }
    assert_eq!(connection.answer("POST").unwrap().status, 200);
    let body = upstream.only().body;
    assert_eq!((body.length, body.sha256, body.complete), (BODY_LENGTH, hash, true));
}

#[test]
fn a_large_download_is_streamed() {
    let _alone = alone();
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        if exchange.request.target == "/public/warm" {
            return exchange.answer(200, &[], &[b'x'; 200_000]);
        }
        exchange.start(200, &[("Content-Length", &BODY_LENGTH.to_string())])?;
        let mut written = Ok(());
        pour(BODY_LENGTH, |part| {
            if written.is_ok() {
                written = exchange.write(part);
            }
        });
        written
    });
    let (gateway, before) = start(&upstream);
    let expected = pour(BODY_LENGTH, |_| ());
    let mut connection = gateway.connect();
    connection.send(&get("/public/large").to_h1()).unwrap();
    let head = connection.head().unwrap();
    assert_eq!(head.header("content-length"), Some(&*BODY_LENGTH.to_string()));
    assert_eq!(read_hashed(&mut connection), expected);
    memory_stayed_flat(&gateway, before);
}

fn read_hashed(connection: &mut Connection) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut left = BODY_LENGTH;
    while left > 0 {
        let part = connection.read_some().unwrap();
        assert!(!part.is_empty(), "{left} bytes are missing");
        hash.update(&part);
        left -= part.len() as u64;
    }
    hash.finalize().into()
}

#[test]
fn a_slow_reader_holds_back_the_upstream_and_not_the_gateways_memory() {
    let _alone = alone();
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        if exchange.request.target == "/public/warm" {
            return exchange.answer(200, &[], b"");
        }
        exchange.start(200, &[("Content-Length", &BODY_LENGTH.to_string())])?;
        let mut written = Ok(());
        pour(BODY_LENGTH, |part| {
            if written.is_ok() {
                written = exchange.write(part);
            }
        });
        written
    });
    let (mut gateway, before) = start(&upstream);
    let readers: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send(&get("/public/large").to_h1()).unwrap();
            connection.head().unwrap();
            connection
        })
        .collect();
    // Nothing to wait for: the readers read no more, and what could pile up does so within this.
    thread::sleep(Duration::from_secs(1));
    memory_stayed_flat(&gateway, before);
    drop(readers);
    gateway.is_alive_and_well();
}

#[test]
fn the_first_part_of_an_answer_does_not_wait_for_the_last() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
        exchange.write(&chunk(b"data: first\n\n"))?;
        released.lock().unwrap().recv().map_err(std::io::Error::other)?;
        exchange.write(&[chunk(b"data: last\n\n"), chunk(b"")].concat())
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let mut connection = gateway.connect();
    connection.send(&get("/public/events").to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let first = connection.read_some().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("first"));
    release.send(()).unwrap();
    let mut rest = String::new();
    while !rest.contains("data: last") {
        let part = connection.read_some().unwrap();
        assert!(!part.is_empty(), "the last part is missing: {rest}");
        rest.push_str(&String::from_utf8_lossy(&part));
    }
}

#[test]
fn the_upstream_sees_the_head_before_the_body_is_sent() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let Request { body, .. } = post("", "late");
    let mut connection = gateway.connect();
    connection.send(b"POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").unwrap();
    upstream.wait_for(1);
    connection.send(&body).unwrap();
    assert_eq!(connection.answer("POST").unwrap().status, 200);
    assert_eq!(upstream.only().body.start, b"late");
}
