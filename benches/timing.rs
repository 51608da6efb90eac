//! What a stopwatch tells of refusals: how long the gateway takes to refuse keys of several kinds, in random
//! order over one connection, and how well one kind is told from another by that.
//! `cargo bench --bench timing -- requests=20000`. SECURITY.md says what it means.

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

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::gateway::{OURS, Setup};
use common::keys::{Keys, stranger};
use common::load::Ask;
use common::options::Options;
use common::process::{PEERS_CORE, free_port, pin_self};

/// Of each kind.
const REQUESTS: usize = 20_000;
/// Keys of each kind that come again and again.
const TEXTS: usize = 64;
/// As often as `[server.failed_auth]` lets an address fail in a minute, unless it is told otherwise.
const TRIES: usize = 60;
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The others are compared with it: a good tag, and the gateway knows that there is no such key.
    Unknown,
    /// The same once more, of other texts: what is told apart here is noise.
    Others,
    Malformed,
    Revoked,
    /// As unknown, but the store has to be asked.
    First,
    /// A good key: it is answered 403, so nothing about it is a secret.
    Unscoped,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Unknown, Self::Others, Self::Malformed, Self::Revoked, Self::First, Self::Unscoped];

    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown, asked before",
            Self::Others => "the same, other texts",
            Self::Malformed => "its tag is wrong",
            Self::Revoked => "revoked, asked before",
            Self::First => "unknown, first time",
            Self::Unscoped => "good, without the scope",
        }
    }

    fn status(self) -> &'static str {
        if self == Self::Unscoped { "403" } else { "401" }
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    run(&Options::read());
}

fn run(options: &Options) {
    let requests = options.get("requests", REQUESTS).max(TRIES);
    let folder = tempfile::tempdir().unwrap();
    let program = options.text("gateway").unwrap_or(OURS);
    // Whoever is refused needs no upstream.
    let setup = Setup {
        failed_auth: Some("1000000000/s"),
        ..Setup::new(program, folder.path(), free_port(), 2 * TEXTS)
    };
    let _running = setup.start();
    let keys = Keys::mint(2 * TEXTS);
    for at in 0..TEXTS {
        setup.change("POST", &format!("/v1/keys/{}/revoke", keys.id(at)), "{}");
        let no_scopes = r#"{"scopes":["write:orders"]}"#;
        setup.change("PATCH", &format!("/v1/keys/{}", keys.id(TEXTS + at)), no_scopes);
    }
    pin_self(PEERS_CORE);

    let mut client = Client::connect(&setup, &keys);
    let mut strangers = 0..;
    let mut next_stranger = || stranger(strangers.next().unwrap());
    let texts = Kind::ALL.map(|kind| match kind {
        Kind::Unknown | Kind::Others => (0..TEXTS).map(|_| next_stranger()).collect(),
        Kind::Malformed => keys.texts()[..TEXTS].iter().map(|text| mistyped(text)).collect(),
        Kind::Revoked => keys.texts()[..TEXTS].to_vec(),
        Kind::Unscoped => keys.texts()[TEXTS..].to_vec(),
        Kind::First => Vec::new(),
    });
    // Each is asked for before it counts.
    for (kind, texts) in Kind::ALL.iter().zip(&texts) {
        for text in texts {
            client.ask(*kind, text);
        }
    }
    let mut took = Kind::ALL.map(|_| Vec::with_capacity(requests));
    let mut order: Vec<usize> = (0..Kind::ALL.len()).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..requests {
        rng.shuffle(&mut order);
        for &at in &order {
            let first;
            let text = if let Kind::First = Kind::ALL[at] {
                first = next_stranger();
                &first
            } else {
                rng.choice(&texts[at]).unwrap()
            };
            took[at].push(client.ask(Kind::ALL[at], text));
        }
    }
    report(options, &took);
}

fn report(options: &Options, took: &[Vec<f64>; Kind::ALL.len()]) {
    let mut table = options.table(
        "timing",
        "kind,requests,p10_us,p50_us,p90_us,p99_us,p10_apart_us,p50_apart_us,one_longer,tries_longer",
    );
    let unknown = &took[0];
    println!("{} requests of each kind, one connection, in random order", unknown.len());
    println!(
        "                                     us             |  us more than the first | longer than it by\n\
         kind                         p10    p50    p90    p99 |      p10         p50    |   1 try  {TRIES} tries"
    );
    for (kind, own) in Kind::ALL.iter().zip(took) {
        let [p10, p50, p90, p99] = [0.1, 0.5, 0.9, 0.99].map(|share| quantile(own, share));
        let [low, middle] = [p10 - quantile(unknown, 0.1), p50 - quantile(unknown, 0.5)];
        let (one, tries) = (longer(own, unknown), longer(&summed_up(own), &summed_up(unknown)));
        println!(
            "{:26} {p10:>6.1} {p50:>6.1} {p90:>6.1} {p99:>6.1} | {low:>+8.2} {middle:>+11.2}    | {:>5.1} % {:>6.1} %",
            kind.name(),
            100.0 * one,
            100.0 * tries,
        );
        table.row(&[
            format!("{kind:?}").to_lowercase(),
            own.len().to_string(),
            format!("{p10:.2}"),
            format!("{p50:.2}"),
            format!("{p90:.2}"),
            format!("{p99:.2}"),
            format!("{low:.3}"),
            format!("{middle:.3}"),
            format!("{one:.4}"),
            format!("{tries:.4}"),
        ]);
    }
    println!("50 % is a guess; {TRIES} tries are compared by the first decile of each");
}

/// The same text with another last character: the tag is another one.
fn mistyped(text: &str) -> String {
    let (rest, last) = text.split_at(text.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

/// One connection, and a request that is sent again and again with another key.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    key_at: usize,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(setup: &Setup<'_>, keys: &Keys) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", setup.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        // Waiting in a loop spares the noise of being woken: who measures best is to be feared.
        stream.set_nonblocking(true).unwrap();
        let request = keys.request(Ask::Small);
        let first = keys.texts()[0].as_bytes();
        let key_at = request.windows(first.len()).position(|bytes| bytes == first).unwrap();
        Self { stream, request, key_at, buffer: vec![0; 16 << 10] }
    }

    /// How long an answer takes, in microseconds.
    fn ask(&mut self, kind: Kind, text: &str) -> f64 {
        self.request[self.key_at..self.key_at + text.len()].copy_from_slice(text.as_bytes());
        let sent = Instant::now();
        self.stream.write_all(&self.request).unwrap();
        // A refusal comes in one piece.
        let read = loop {
            match self.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(sent.elapsed() < PATIENCE, "{kind:?} is answered");
                    std::hint::spin_loop();
                }
                read => break read.unwrap(),
            }
        };
        let took = sent.elapsed().as_secs_f64() * 1e6;
        let answer = &self.buffer[..read];
        let is_refused = answer.get(9..12) == Some(kind.status().as_bytes());
        assert!(is_refused && answer.ends_with(b"}"), "{}", String::from_utf8_lossy(answer));
        took
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(share * (sorted.len() - 1) as f64) as usize]
}

/// So many tries each, by what noise moves least: it only ever adds.
fn summed_up(values: &[f64]) -> Vec<f64> {
    values.chunks_exact(TRIES).map(|tries| quantile(tries, 0.1)).collect()
}

/// How often one of the first is longer than one of the others, of all pairs: what a guesser gets right who
/// has one of each. Equals count for a half.
fn longer(values: &[f64], others: &[f64]) -> f64 {
    let mut others = others.to_vec();
    others.sort_by(f64::total_cmp);
    let beaten = |value: &f64| {
        let less = others.partition_point(|other| other < value);
        (less + others.partition_point(|other| other <= value)) as f64 / 2.0
    };
    values.iter().map(beaten).sum::<f64>() / (values.len() * others.len()) as f64
}
