//! Clients that ask through a proxy: as fast as it answers (closed), or at a rate that it has no say in
//! (open), where each time counts from when the request was due, so that a proxy that stalls is not
//! spared the requests that it held up. One thread on epoll.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::histogram::Histogram;
use super::keys::Keys;
use super::process::{Cpu, Running};
use super::wire::{Progress, Reader, send};

const BUFFER: usize = 256 << 10;
/// How long answers may take after the last request.
const LAST_MAX: Duration = Duration::from_secs(20);

/// How long it may take to use each connection once.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// What is asked, of whom, how often.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) port: u16,
    pub(crate) keys: &'a Keys,
    pub(crate) order: Order,
    pub(crate) ask: Ask,
    pub(crate) connections: usize,
    /// Requests that may be under way at once; the other connections are idle meanwhile.
    pub(crate) at_once: usize,
    pub(crate) time: Duration,
    /// Requests a second; without it, as many as are answered.
    pub(crate) rate: Option<f64>,
}

/// Whose key comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Uniform,
    /// The k-th most frequent key comes 1/k as often as the first.
    Zipf,
    /// Each key once, then it ends.
    Once,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Small,
    /// A mebibyte comes back.
    Download,
    /// A mebibyte is sent.
    Upload,
}

pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// Answers that were no 200, and connections that ended.
    pub(crate) failed: u64,
    /// The first of those answers.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) latency: Histogram,
}

impl Outcome {
    fn new() -> Self {
        Self { requests: 0, failed: 0, failure: None, seconds: 0.0, latency: Histogram::new() }
    }
}

pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) per_second: f64,
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    /// Cores that the proxy kept busy.
    pub(crate) cores: f64,
    pub(crate) memory: u64,
}

impl Measured {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }

    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.outcome.latency.quantile_us(share)
    }
}

/// Runs a load, and looks at what the proxy uses meanwhile.
pub(crate) fn measure(proxy: &Running, load: Load<'_>) -> Measured {
    let mut clients = Clients::connect(load);
    clients.settle();
    let before = proxy.cpu();
    let outcome = clients.run();
    let Cpu { user, system } = proxy.cpu() - before;
    assert!(outcome.requests > 0, "nothing was answered on port {}", load.port);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / outcome.requests as f64;
    Measured {
        per_second: outcome.requests as f64 / outcome.seconds,
        user_us: each(user),
        system_us: each(system),
        cores: (user + system).as_secs_f64() / outcome.seconds,
        memory: proxy.memory(),
        outcome,
    }
}

struct Connection {
    stream: TcpStream,
    reader: Reader,
    request: Vec<u8>,
    sent: usize,
    asked: Option<Instant>,
}

/// Connections that are there and quiet.
pub(crate) struct Clients<'a> {
    load: Load<'a>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    random: fastrand::Rng,
    /// Requests that are still to be asked, if only so many are.
    left: Option<usize>,
    body: Vec<u8>,
    outcome: Outcome,
}

impl<'a> Clients<'a> {
    pub(crate) fn connect(load: Load<'a>) -> Self {
        // The kernel may otherwise wake us 50 µs late.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).ok();
        let mut clients = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).unwrap(),
            connections: Vec::with_capacity(load.connections),
            idle: (0..load.connections).collect(),
            random: fastrand::Rng::with_seed(8),
            left: None,
            body: if load.ask == Ask::Upload { vec![b'x'; super::service::LARGE] } else { vec![] },
            outcome: Outcome::new(),
            load,
        };
        for at in 0..load.connections {
            let stream = clients.stream(at);
            let request = load.keys.request(load.ask);
            clients.connections.push(Connection {
                stream,
                reader: Reader::default(),
                request,
                sent: 0,
                asked: None,
            });
        }
        clients
    }

    fn stream(&self, at: usize) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.load.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let data = EventData::new_u64(at as u64);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN).unwrap();
        stream
    }

    /// Uses each connection once, so that what a first request needs is not counted.
    fn settle(&mut self) {
        let load = self.load;
        if load.order != Order::Once {
            self.load = Load { rate: None, time: SETTLE_MAX, ..load };
            self.left = Some(load.connections);
            self.answer_all();
        }
        self.load = load;
        self.left = None;
    }

    pub(crate) fn run(&mut self) -> Outcome {
        self.left = (self.load.order == Order::Once).then(|| self.load.keys.len());
        self.answer_all()
    }

    fn answer_all(&mut self) -> Outcome {
        let mut events = Vec::with_capacity(1024);
        let mut buffer = vec![0; BUFFER];
        let began = Instant::now();
        let until = began + self.load.time;
        let mut due = Due::new(self.load.rate, began);
        let mut last = began;
        loop {
            let now = Instant::now();
            let over = now >= until || self.all_asked();
            if !over {
                self.ask_all(now, &mut due);
            }
            let under_way = self.connections.len() - self.idle.len();
            if over && (under_way == 0 || now > until + LAST_MAX) {
                self.outcome.failed += under_way as u64;
                break;
            }
            // With no connection free, an answer is what is waited for.
            let is_full = self.idle.is_empty() || under_way >= self.load.at_once;
            let wake = match due.next() {
                _ if over => until + LAST_MAX,
                Some(next) if !is_full => next.min(until),
                Some(_) | None => until,
            };
            let wait = wake.saturating_duration_since(now);
            let wait =
                Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("epoll: {error}"),
            }
            for event in &events {
                let (at, flags) = (event.data.u64() as usize, event.flags);
                if self.go_on(at, flags.contains(EventFlags::OUT), &mut buffer) {
                    last = Instant::now();
                }
            }
        }
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new());
        outcome.seconds = last.duration_since(began).as_secs_f64();
        outcome
    }

    fn all_asked(&self) -> bool {
        self.left == Some(0)
    }

    fn ask_all(&mut self, now: Instant, due: &mut Due) {
        while self.connections.len() - self.idle.len() < self.load.at_once && !self.all_asked() {
            let Some(at) = self.idle.front().copied() else { return };
            let Some(since) = due.take(now) else { return };
            self.idle.pop_front();
            self.ask(at, since);
        }
    }

    fn ask(&mut self, at: usize, since: Option<Instant>) {
        let keys = self.load.keys.len();
        let key = match self.load.order {
            Order::Uniform => self.random.usize(..keys),
            // The inverse of a distribution whose density falls as 1/k.
            Order::Zipf => ((keys as f64).powf(self.random.f64()) as usize).min(keys) - 1,
            Order::Once => self.left.map_or(0, |left| keys - left),
        };
        self.left = self.left.map(|left| left - 1);
        let connection = &mut self.connections[at];
        self.load.keys.put(&mut connection.request, key);
        connection.sent = 0;
        connection.asked = Some(since.unwrap_or_else(Instant::now));
        self.write(at);
    }

    fn write(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let Connection { stream, sent, request, .. } = connection;
        let whole = send(stream, sent, request, &self.body);
        // What is small is sent at once, and nothing changes.
        if !self.body.is_empty() {
            let flags = if whole { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
            let data = EventData::new_u64(at as u64);
            epoll::modify(&self.epoll, &connection.stream, data, flags).unwrap();
        }
    }

    /// Whether a request was answered.
    fn go_on(&mut self, at: usize, writable: bool, buffer: &mut [u8]) -> bool {
        if writable {
            self.write(at);
        }
        let connection = &mut self.connections[at];
        match connection.reader.read(&mut connection.stream, buffer) {
            Progress::Part => false,
            Progress::Whole(first) => {
                let asked = connection.asked.take().expect("only what was asked is answered");
                if &first == b"HTTP/1.1 200" {
                    self.outcome.latency.add(asked.elapsed());
                    self.outcome.requests += 1;
                } else {
                    self.outcome.failed += 1;
                    let said = || String::from_utf8_lossy(&first).into_owned();
                    self.outcome.failure.get_or_insert_with(said);
                }
                self.idle.push_back(at);
                true
            }
            Progress::End => {
                let stream = self.stream(at);
                let connection = &mut self.connections[at];
                connection.stream = stream;
                connection.reader = Reader::default();
                // A proxy may close a connection that is idle.
                if connection.asked.take().is_some() {
                    self.outcome.failed += 1;
                    self.idle.push_back(at);
                }
                false
            }
        }
    }
}

/// When the next request is to go.
struct Due {
    rate: Option<f64>,
    next: Instant,
    random: fastrand::Rng,
}

impl Due {
    fn new(rate: Option<f64>, began: Instant) -> Self {
        Self { rate, next: began, random: fastrand::Rng::with_seed(80) }
    }

    fn next(&self) -> Option<Instant> {
        self.rate.map(|_| self.next)
    }

    /// A request that may go now, and since when it was due, if there is a rate. They come as those of
    /// many clients who know nothing of each other do.
    fn take(&mut self, now: Instant) -> Option<Option<Instant>> {
        let Some(rate) = self.rate else { return Some(None) };
        if self.next > now {
            return None;
        }
        let due = self.next;
        let gap = -(1.0 - self.random.f64()).ln() / rate;
        self.next += Duration::from_secs_f64(gap);
        Some(Some(due))
    }
}
