//! Floods: attackers that share the good client's address. Each is one thread that does so many attacks
//! a second, spread over its connections, and opens anew what the gateway closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketType, connect, socket};

use super::common::keys::{Keys, stranger};
use super::common::load::Ask;

/// So many connections ask for what is refused; of HTTP/2 a few are enough.
const ASKING: usize = 64;
const HTTP2: usize = 4;
/// Of those that read nothing a part of the slow ones is enough: what they do not read stays in buffers of
/// the system, a mebibyte for each of them.
const DEAF_PART: usize = 4;
/// As over Ethernet. Over loopback a segment is 64 KiB, and the sender's buffer takes all of an answer.
const ETHERNET_SEGMENT: u32 = 1448;
const STEP: Duration = Duration::from_millis(1);
/// What was not done in this time is not made up for: else they came in bursts that no network brings.
const BEHIND_MAX: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    SlowHead,
    SlowBody,
    Silent,
    Deaf,
    MadeUp,
    Unknown,
    Missing,
    Resets,
    Continuations,
    Settings,
    Pings,
}

pub(crate) const FLOODS: [(&str, Flood); 11] = [
    ("slow-head", Flood::SlowHead),
    ("slow-body", Flood::SlowBody),
    ("silent", Flood::Silent),
    ("deaf", Flood::Deaf),
    ("made-up", Flood::MadeUp),
    ("unknown", Flood::Unknown),
    ("missing", Flood::Missing),
    ("resets", Flood::Resets),
    ("continuations", Flood::Continuations),
    ("settings", Flood::Settings),
    ("pings", Flood::Pings),
];

/// Where to, with what, and what came of it.
pub(crate) struct Attack<'a> {
    pub(crate) port: u16,
    /// For what a service takes part in: uploads, and answers that nobody reads.
    pub(crate) service_port: u16,
    /// Good keys: the slow ones and the resets are a customer's.
    pub(crate) keys: &'a Keys,
    /// Of each flood of slow connections.
    pub(crate) slow: usize,
    /// Attacks a second of each flood.
    pub(crate) rate: f64,
    pub(crate) until: Instant,
    /// Floods whose connections are all there.
    pub(crate) standing: AtomicU64,
    pub(crate) is_over: AtomicBool,
    pub(crate) counts: Counts,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) attacks: AtomicU64,
    pub(crate) reopened: AtomicU64,
    pub(crate) answered_401: AtomicU64,
    pub(crate) answered_429: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> [u64; 4] {
        let all = [&self.attacks, &self.reopened, &self.answered_401, &self.answered_429];
        all.map(|count| count.load(Ordering::Relaxed))
    }
}

/// Has the calling thread run when its core has nothing else to do: it is the gateway that may be slowed, not
/// the client and the service. However low its priority, a thread that is not idle keeps a core for milliseconds.
fn run_when_idle() {
    assert!(reschedule(&["--idle", "--pid", "0"]), "chrt (util-linux) does not work here");
}

/// Has the calling thread run before all others of its core, and says whether it may.
pub(crate) fn run_first() -> bool {
    reschedule(&["--rr", "--pid", "1"])
}

fn reschedule(how: &[&str]) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(how).arg(&thread).stdout(Stdio::null()).stderr(Stdio::null());
    chrt.status().is_ok_and(|status| status.success())
}

impl Flood {
    /// Attacks until it is told that it is over, or its time is.
    pub(crate) fn run(self, attack: &Attack<'_>) {
        run_when_idle();
        let mut attacker = Attacker::new(self, attack);
        attack.standing.fetch_add(1, Ordering::Relaxed);
        let mut next = Instant::now();
        let gap = Duration::from_secs_f64(1.0 / attack.rate);
        while !attack.is_over.load(Ordering::Relaxed) && Instant::now() < attack.until {
            let now = Instant::now();
            next = next.max(now - BEHIND_MAX);
            while next <= now {
                attacker.attack();
                next += gap;
            }
            std::thread::sleep(STEP);
        }
    }

    fn connections(self, slow: usize) -> usize {
        match self {
            Self::SlowHead | Self::SlowBody | Self::Silent => slow,
            Self::Deaf => slow / DEAF_PART,
            Self::MadeUp | Self::Unknown | Self::Missing => ASKING,
            Self::Resets | Self::Continuations | Self::Settings | Self::Pings => HTTP2,
        }
    }

    /// What a connection begins with.
    fn hello(self, keys: &Keys) -> Vec<u8> {
        let preface = || {
            let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            hello.extend(frame(SETTINGS, 0, 0, &[]));
            hello
        };
        match self {
            Self::SlowHead => b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nX-Slow: ".to_vec(),
            Self::SlowBody => aside(keys.request(Ask::Upload)),
            Self::Deaf => aside(keys.request(Ask::Download)),
            Self::Silent | Self::MadeUp | Self::Unknown | Self::Missing => Vec::new(),
            Self::Resets | Self::Settings | Self::Pings => preface(),
            Self::Continuations => [preface(), frame(HEADERS, END_STREAM, 1, &[])].concat(),
        }
    }

    /// What is sent again and again.
    fn next(self, attacker: &mut Attacker<'_>, at: usize) -> Vec<u8> {
        match self {
            Self::SlowHead | Self::SlowBody => b"x".to_vec(),
            Self::Silent | Self::Deaf => Vec::new(),
            Self::MadeUp => request(Some(&made_up(&mut attacker.random))),
            Self::Unknown => request(Some(&stranger(attacker.random.usize(..)))),
            Self::Missing => request(None),
            Self::Resets => {
                const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
                let stream = attacker.connections[at].streams;
                attacker.connections[at].streams += 2;
                let flags = END_STREAM | END_HEADERS;
                let mut frames = frame(HEADERS, flags, stream, &attacker.fields);
                frames.extend(frame(RST_STREAM, 0, stream, &CANCEL));
                frames
            }
            Self::Continuations => frame(CONTINUATION, 0, 1, &field("x-more", "more")),
            Self::Settings => frame(SETTINGS, 0, 0, &[]),
            Self::Pings => frame(PING, 0, 0, b"are you?"),
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// An answer is on its way.
    is_asked: bool,
    /// The next stream's number.
    streams: u32,
}

struct Attacker<'a> {
    flood: Flood,
    attack: &'a Attack<'a>,
    connections: Vec<Connection>,
    at: usize,
    hello: Vec<u8>,
    /// Of a good request over HTTP/2.
    fields: Vec<u8>,
    random: fastrand::Rng,
    buffer: Vec<u8>,
}

impl<'a> Attacker<'a> {
    fn new(flood: Flood, attack: &'a Attack<'a>) -> Self {
        let authorization = format!("Bearer {}", attack.keys.texts()[0]);
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/v1/orders/123"),
            (":authority", "api.example.com"),
            ("authorization", &authorization),
        ];
        let mut attacker = Self {
            flood,
            attack,
            connections: Vec::new(),
            at: 0,
            hello: flood.hello(attack.keys),
            fields: fields.iter().flat_map(|(name, value)| field(name, value)).collect(),
            random: fastrand::Rng::new(),
            buffer: vec![0; 16 << 10],
        };
        let connections = (0..flood.connections(attack.slow)).map(|_| attacker.open()).collect();
        attacker.connections = connections;
        attacker
    }

    fn open(&self) -> Connection {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        if self.flood == Flood::Deaf {
            setsockopt(&socket, sockopt::TcpMaxSeg, &ETHERNET_SEGMENT).unwrap();
            setsockopt(&socket, sockopt::RcvBuf, &1).unwrap();
        }
        let port = if matches!(self.flood, Flood::SlowBody | Flood::Deaf) {
            self.attack.service_port
        } else {
            self.attack.port
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        connect(&socket, &address).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.write_all(&self.hello).ok();
        stream.set_nonblocking(true).unwrap();
        let streams = 1;
        Connection { stream, is_asked: false, streams }
    }

    /// Does what it does to the next connection, which may be to see whether it is still there.
    fn attack(&mut self) {
        let at = self.at;
        self.at = (at + 1) % self.connections.len();
        let is_there = self.flood == Flood::Deaf || self.read(at);
        if !is_there {
            self.connections[at] = self.open();
            self.attack.counts.reopened.fetch_add(1, Ordering::Relaxed);
        }
        if self.connections[at].is_asked {
            return;
        }
        let bytes = self.flood.next(self, at);
        let connection = &mut self.connections[at];
        // One that takes no more, or only a part, is found closed or is closed here.
        if connection.stream.write(&bytes).is_ok_and(|sent| sent == bytes.len()) {
            connection.is_asked =
                matches!(self.flood, Flood::MadeUp | Flood::Unknown | Flood::Missing);
        } else {
            connection.stream.shutdown(std::net::Shutdown::Both).ok();
        }
        self.attack.counts.attacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the connection is still there.
    fn read(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        loop {
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(_) => {
                    let counts = &self.attack.counts;
                    match self.buffer.get(..12) {
                        Some(b"HTTP/1.1 401") => {
                            counts.answered_401.fetch_add(1, Ordering::Relaxed)
                        }
                        Some(b"HTTP/1.1 429") => {
                            counts.answered_429.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => 0,
                    };
                    connection.is_asked = false;
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// The same request to the attackers' own service.
fn aside(request: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(request).unwrap();
    let (method, rest) = text.split_once(" /v1/").expect("a path of the benches");
    format!("{method} /aside/{rest}").into_bytes()
}

fn request(key: Option<&str>) -> Vec<u8> {
    let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    format!("GET /v1/orders/123 HTTP/1.1\r\nHost: api.example.com\r\n{key}\r\n").into_bytes()
}

/// Of a key's shape, with a tag that is not its own.
fn made_up(random: &mut fastrand::Rng) -> String {
    const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut any = || char::from(BASE58[random.usize(..BASE58.len())]);
    let body: String = (0..44).map(|_| any()).collect();
    // The tag's value must be below 2^32: a leading zero makes sure of it.
    let tag: String = (0..5).map(|_| any()).collect();
    format!("sk_live_{body}0{tag}")
}

// HTTP/2 by hand (RFC 9113, RFC 7541).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// As a literal that is not indexed. No text is longer than 126 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
    }
    bytes
}
