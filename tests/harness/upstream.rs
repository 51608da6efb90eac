//! A real server behind the gateway. It remembers every request as it came, byte for byte in its
//! head, and answers as the test says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::wait::patience;

/// One request as it reached the upstream.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// In their order and letter case.
    pub headers: Vec<(String, String)>,
    /// The head as it came.
    pub raw: Vec<u8>,
    pub body: BodySeen,
    /// How many had been seen before it.
    number: usize,
}

/// What came of a request's body.
#[derive(Clone, Debug, Default)]
pub struct BodySeen {
    pub length: u64,
    pub sha256: [u8; 32],
    /// The first bytes.
    pub start: Vec<u8>,
    /// The lines after the last chunk.
    pub trailers: Vec<String>,
    pub complete: bool,
}

impl Seen {
    /// The one value of a header.
    ///
    /// # Panics
    /// When the header came more than once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "`{name}` reached the upstream twice: {values:?}");
        values.first().copied()
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| &**value).collect()
    }
}

type Handler = dyn Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync;

pub struct Upstream {
    address: SocketAddr,
    record: Arc<Record>,
}

pub(super) struct Record {
    seen: Mutex<Vec<Seen>>,
    count: AtomicUsize,
    changed: Condvar,
    stopped: AtomicBool,
    handler: Box<Handler>,
}

impl Upstream {
    /// Answers 200 and a little JSON, once it has read the whole request.
    pub fn start() -> Self {
        Self::answering(|exchange| {
            exchange.read_body()?;
            exchange.answer(200, &[("Content-Type", "application/json")], b"{\"served\":true}")
        })
    }

    /// Answers as `handler` does; an error of it closes the connection.
    pub fn answering(
        handler: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record {
            seen: Mutex::default(),
            count: AtomicUsize::new(0),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            handler: Box::new(handler),
        });
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), record) = (stream, Arc::clone(&shared)) else { continue };
                thread::spawn(move || serve(stream, &record));
            }
        });
        Self { address, record }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record)
    }

    /// Every request so far, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.record.all()
    }

    /// How many requests have come so far.
    pub fn count(&self) -> usize {
        self.record.lock().len()
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        self.record.lock().clear();
    }

    /// The one request that came.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "requests at the upstream: {seen:?}");
        seen.remove(0)
    }

    #[track_caller]
    pub fn saw_nothing(&self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "the upstream saw {seen:?}");
    }

    /// Waits until this many requests have come.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Seen> {
        let guard = self.record.lock();
        let (guard, timeout) = self
            .record
            .changed
            .wait_timeout_while(guard, patience(), |seen| seen.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{} of {count} requests reached the upstream", guard.len());
        guard.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.record.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Record {
    pub(super) fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it its number.
    fn push(&self, seen: &mut Seen) {
        seen.number = self.count.fetch_add(1, Ordering::SeqCst);
        self.lock().push(seen.clone());
        self.changed.notify_all();
    }
}

/// One request being answered.
pub struct Exchange<'a> {
    pub request: Seen,
    record: &'a Record,
    reader: &'a mut BufReader<TcpStream>,
    body_read: bool,
    keep: bool,
}

fn serve(stream: TcpStream, record: &Record) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    while let Ok(Some(mut request)) = read_head(&mut reader) {
        record.push(&mut request);
        let mut exchange =
            Exchange { request, record, reader: &mut reader, body_read: false, keep: true };
        let served = (record.handler)(&mut exchange);
        if served.is_err() || !exchange.keep || !exchange.body_read {
            return;
        }
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Seen>> {
    let mut raw = Vec::new();
    loop {
        if reader.read_until(b'\n', &mut raw)? == 0 {
            return Ok(None);
        }
        if raw.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 512];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&raw).map_err(io::Error::other)?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(Some(Seen {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        headers: parsed.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect(),
        body: BodySeen::default(),
        raw,
        number: 0,
    }))
}

impl Exchange<'_> {
    /// Reads the body to its end.
    pub fn read_body(&mut self) -> io::Result<BodySeen> {
        let mut sink = Sink::default();
        let read = self.copy_body(&mut sink);
        let body = BodySeen { complete: read.is_ok(), ..sink.finish() };
        // Unless it was forgotten meanwhile.
        let number = self.request.number;
        if let Some(seen) = self.record.lock().iter_mut().rev().find(|seen| seen.number == number) {
            seen.body = body.clone();
        }
        self.record.changed.notify_all();
        self.body_read = read.is_ok();
        read.map(|()| body)
    }

    /// Answers with a whole body.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.push(("Content-Length", &length));
        self.start(status, &all)?;
        // What came after the head of an answer to HEAD would be taken for the next answer.
        if self.request.method == "HEAD" { Ok(()) } else { self.write(body) }
    }

    /// Writes an answer's head.
    pub fn start(&mut self, status: u16, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes())
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Reads bytes as they come, past any framing.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.reader.read(bytes)
    }

    /// Ends the connection after this exchange.
    pub fn close(&mut self) {
        self.keep = false;
    }

    fn copy_body(&mut self, sink: &mut Sink) -> io::Result<()> {
        let chunked = self.request.values("transfer-encoding").contains(&"chunked");
        if chunked {
            return self.copy_chunks(sink);
        }
        let length = self.request.header("content-length").unwrap_or("0").to_owned();
        self.copy(length.parse().map_err(io::Error::other)?, sink)
    }

    fn copy_chunks(&mut self, sink: &mut Sink) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                loop {
                    match self.line()? {
                        line if line.is_empty() => return Ok(()),
                        line => sink.trailers.push(line),
                    }
                }
            }
            self.copy(size, sink)?;
            self.line()?;
        }
    }

    fn copy(&mut self, length: u64, sink: &mut Sink) -> io::Result<()> {
        let copied = io::copy(&mut self.reader.by_ref().take(length), sink)?;
        if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Counts and hashes a body, and keeps its start.
#[derive(Default)]
struct Sink {
    length: u64,
    hash: Sha256,
    start: Vec<u8>,
    trailers: Vec<String>,
}

impl Sink {
    fn finish(self) -> BodySeen {
        let Self { length, hash, start, trailers } = self;
        BodySeen { length, sha256: hash.finalize().into(), start, trailers, complete: false }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const START_LENGTH_MAX: usize = 64 * 1024;
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
        let room = START_LENGTH_MAX - self.start.len();
        self.start.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
