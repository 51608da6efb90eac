//! A request as a test says it, whichever protocol then carries it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The protocol between client and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    H1,
    H2c,
}

impl Wire {
    pub const BOTH: [Self; 2] = [Self::H1, Self::H2c];
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body's length is not said beforehand.
    pub streamed: bool,
}

pub fn request(method: &str, target: &str) -> Request {
    Request {
        method: method.into(),
        target: target.into(),
        host: "gateway.test".into(),
        headers: Vec::new(),
        body: Vec::new(),
        streamed: false,
    }
}

pub fn get(target: &str) -> Request {
    request("GET", target)
}

pub fn delete(target: &str) -> Request {
    request("DELETE", target)
}

pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Request {
    Request { body: body.into(), ..request("POST", target) }
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    pub fn basic(self, user_and_password: &str) -> Self {
        self.header("Authorization", &basic(user_and_password))
    }

    pub fn api_key(self, key: &str) -> Self {
        self.header("X-API-Key", key)
    }

    pub fn streamed(self) -> Self {
        Self { streamed: true, ..self }
    }

    /// The request's bytes in HTTP/1.1.
    pub fn to_h1(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.streamed {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            return [head.as_bytes(), &chunk(&self.body), &chunk(b"")].concat();
        }
        let has_length = self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length"));
        if !has_length && !self.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// A part of a chunked body; the last one is empty (RFC 9112 section 7.1).
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The value of an `Authorization` header.
pub fn basic(user_and_password: &str) -> String {
    format!("Basic {}", STANDARD.encode(user_and_password))
}
