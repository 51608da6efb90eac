//! An HTTP/1.1 client that sends exactly the bytes it is given, and reads answers strictly.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::answer::Answer;
use super::request::Request;
use super::wait::patience;

/// One connection to the gateway.
pub struct Connection {
    stream: TcpStream,
    /// Read from the socket, not yet used.
    buffer: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// Closed or reset before the first byte of an answer.
    Closed,
    /// Nothing more came within the time that was allowed.
    Silent,
    /// Closed or reset in the middle of an answer.
    Cut,
    Malformed(String),
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Connects, for one who copes with the gateway's death.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience())?;
        stream.set_nodelay(true)?;
        let connection = Self { stream, buffer: Vec::new() };
        connection.read_timeout(patience());
        Ok(connection)
    }

    pub fn read_timeout(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        self.stream.set_write_timeout(Some(limit)).unwrap();
    }

    /// Sends bytes as they are; an error says that the gateway has closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub fn exchange(&mut self, request: &Request) -> Result<Answer, Broken> {
        // A refusal may come before the body is sent; then the answer counts, not the broken pipe.
        let _ = self.send(&request.to_h1());
        self.answer(&request.method)
    }

    /// Reads one final answer to a request of this method.
    pub fn answer(&mut self, method: &str) -> Result<Answer, Broken> {
        loop {
            let answer = self.any_answer(method)?;
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// Reads one answer's head and leaves the body to [`Self::read_some`].
    pub fn head(&mut self) -> Result<Answer, Broken> {
        loop {
            if let Some((answer, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(answer);
            }
            let before_any_byte = self.buffer.is_empty();
            match self.fill() {
                Err(Broken::Cut) if before_any_byte => return Err(Broken::Closed),
                other => other?,
            }
        }
    }

    /// The next bytes of a body, whatever their framing; empty at the connection's end.
    pub fn read_some(&mut self) -> Result<Vec<u8>, Broken> {
        if self.buffer.is_empty() {
            match self.fill() {
                Ok(()) => {}
                Err(Broken::Cut) => return Ok(Vec::new()),
                Err(other) => return Err(other),
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the gateway has closed the connection, or does so within `limit`.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.read_timeout(limit);
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => !is_timeout(&error),
        }
    }

    fn any_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut answer = self.head()?;
        let chunked = answer
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = answer.header("content-length").map(str::to_owned);
        let bodiless =
            method == "HEAD" || answer.status < 200 || matches!(answer.status, 204 | 304);
        if bodiless || (method == "CONNECT" && answer.status < 300) {
            answer.ended_with_head = true;
        } else if chunked {
            answer.body = self.chunked_body()?;
        } else if let Some(length) = length {
            let length = length.parse().map_err(|_| Broken::Malformed("content-length".into()))?;
            answer.body = self.take(length)?;
            answer.ended_with_head = length == 0;
        } else {
            answer.body = self.rest()?;
        }
        Ok(answer)
    }

    fn chunked_body(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| Broken::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(Broken::Malformed("no end of chunk".into()));
            }
        }
    }

    fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn rest(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(Broken::Cut) => return Ok(std::mem::take(&mut self.buffer)),
                Err(other) => return Err(other),
            }
        }
    }

    fn fill(&mut self) -> Result<(), Broken> {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Broken::Cut),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if is_timeout(&error) => Err(Broken::Silent),
            Err(_) => Err(Broken::Cut),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The answer's head and its length, once it is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = parsed.headers.iter().map(|h| (h.name.to_owned(), text(h.value)));
            let answer = Answer {
                status: parsed.code.unwrap_or_default(),
                headers: headers.collect(),
                body: Vec::new(),
                ended_with_head: false,
            };
            Ok(Some((answer, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => {
            Err(Broken::Malformed(format!("{error}: {}", String::from_utf8_lossy(bytes))))
        }
    }
}
