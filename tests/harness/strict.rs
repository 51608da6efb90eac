//! A server that takes nothing but what RFC 9112 lets a sender send, in heads and in bodies. It
//! remembers every request that it read whole, and why it refused what it refused.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A request that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name));
        named.map(|(_, value)| &**value).collect()
    }

    /// Everything that the request's head said.
    pub fn text(&self) -> String {
        let line = |(name, value): &(String, Vec<u8>)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value))
        };
        let headers: String = self.headers.iter().map(line).collect();
        format!("{} {}\n{headers}", self.method, self.target)
    }
}

#[derive(Default)]
struct Record {
    received: Mutex<Vec<Received>>,
    violations: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

pub struct Strict {
    address: SocketAddr,
    record: Arc<Record>,
}

impl Strict {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), record) = (stream, Arc::clone(&shared)) else { continue };
                thread::spawn(move || record.serve(stream));
            }
        });
        Self { address, record }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come since this was last asked, oldest first.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *locked(&self.record.received))
    }

    /// What no sender may send, and somebody did.
    pub fn violations(&self) -> Vec<String> {
        locked(&self.record.violations).clone()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.record.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            match read_request(&mut reader) {
                Ok(Some(request)) => {
                    let is_head = request.method == "HEAD";
                    locked(&self.received).push(request);
                    let body: &[u8] = if is_head { b"" } else { b"ok" };
                    let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"[..], body];
                    if reader.get_mut().write_all(&answer.concat()).is_err() {
                        return;
                    }
                }
                // One that was cut off in its middle, by somebody who then closed, is no request.
                Ok(None) | Err(Wrong::Cut) => return,
                Err(Wrong::Violation(why)) => {
                    locked(&self.violations).push(why);
                    let _ = reader.get_mut().write_all(
                        b"HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    );
                    return;
                }
            }
        }
    }
}

enum Wrong {
    Cut,
    Violation(String),
}

impl From<io::Error> for Wrong {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

fn wrong<T>(why: &str, what: &[u8]) -> Result<T, Wrong> {
    Err(Wrong::Violation(format!("{why}: {}", what.escape_ascii())))
}

type Reader = BufReader<TcpStream>;

fn read_request(reader: &mut Reader) -> Result<Option<Received>, Wrong> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let line = read_line(reader)?;
    let (method, target) = request_line(&line)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        headers.push(header(&line)?);
    }
    let mut request = Received { method, target, headers, body: Vec::new() };
    request.body = match framing(&request)? {
        Framing::Length(length) => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            body
        }
        Framing::Chunks => read_chunks(reader)?,
    };
    Ok(Some(request))
}

/// A line without its CRLF; no other CR is in it, and nothing that is no text.
fn read_line(reader: &mut Reader) -> Result<Vec<u8>, Wrong> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(Wrong::Cut);
    }
    let Some(text) = line.strip_suffix(b"\r\n") else { return wrong("a bare LF", &line) };
    if text.iter().any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return wrong("a control byte", &line);
    }
    Ok(text.to_vec())
}

/// RFC 9112 section 3, with no form of target but a path and a query.
fn request_line(line: &[u8]) -> Result<(String, String), Wrong> {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return wrong("a request line", line) };
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return wrong("a method", method);
    }
    let (path, query) = match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &b""[..]),
    };
    let is_path_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=:@/".contains(&byte);
    if !path.starts_with(b"/") || !path.iter().copied().all(is_path_byte) {
        return wrong("a path", target);
    }
    // In queries, browsers and others leave more unescaped than RFC 3986 has it.
    let is_query_byte = |byte: u8| byte.is_ascii_graphic() && !b"\"<>#".contains(&byte);
    if !query.iter().copied().all(is_query_byte) {
        return wrong("a query", target);
    }
    let mut rest = path;
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        let digits = rest.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return wrong("an escape", target);
        }
        rest = &rest[at + 3..];
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok((text(method), text(target)))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn header(line: &[u8]) -> Result<(String, Vec<u8>), Wrong> {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return wrong("a line without a colon", line);
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().copied().all(is_token_byte) {
        return wrong("a header's name", line);
    }
    Ok((String::from_utf8(name.to_vec()).unwrap(), value.trim_ascii().to_vec()))
}

enum Framing {
    Length(usize),
    Chunks,
}

fn framing(request: &Received) -> Result<Framing, Wrong> {
    let said = request.text();
    let [host] = request.values("host")[..] else { return wrong("one Host", said.as_bytes()) };
    if host.is_empty() {
        return wrong("an empty Host", said.as_bytes());
    }
    match (&request.values("content-length")[..], &request.values("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            Ok(Framing::Length(String::from_utf8_lossy(length).parse().unwrap()))
        }
        ([], [b"chunked"]) => Ok(Framing::Chunks),
        _ => wrong("a body's length", said.as_bytes()),
    }
}

/// RFC 9112 section 7.1, without extensions and trailers, which nobody here may pass on.
fn read_chunks(reader: &mut Reader) -> Result<Vec<u8>, Wrong> {
    const DIGITS_MAX: usize = 8;
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() || line.len() > DIGITS_MAX || !line.iter().all(u8::is_ascii_hexdigit) {
            return wrong("a chunk's size", &line);
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(&line), 16).unwrap();
        if size > 0 {
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..])?;
        }
        let end = read_line(reader)?;
        if !end.is_empty() {
            return wrong("what follows a chunk", &end);
        }
        if size == 0 {
            return Ok(body);
        }
    }
}
