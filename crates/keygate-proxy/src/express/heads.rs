//! Heads as they are on the wire: a plain request's is read without copying and written as its upstream
//! gets it, a plain answer's is taken over as it came, but for what is between the upstream and us. What
//! is not plain is left to Pingora. Knows no sockets.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use pingora::http::RequestHeader;

use crate::forward::{Forwarded, X_REQUEST_ID};
use crate::head::HEADERS_BOUND;

/// Reads a request whose head was inspected, which is the first so many bytes. Nothing, if it is one that
/// only Pingora takes.
pub(super) fn read_request(sent: &Bytes, head: usize) -> Option<RequestHeader> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_BOUND];
    let mut parsed = httparse::Request::new(&mut []);
    parsed.parse_with_uninit_headers(sent.get(..head)?, &mut headers).ok()?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.version = Version::HTTP_11;
    parts.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    parts.uri = Uri::from_maybe_shared(sent.slice_ref(parsed.path?.as_bytes())).ok()?;
    parts.headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(sent.slice_ref(header.value)).ok()?;
        parts.headers.append(name, value);
    }
    Some(RequestHeader::from(parts))
}

/// The target and the host that an upstream is to see, if they are not those that were sent.
pub(super) struct Address<'a> {
    pub target: Option<&'a str>,
    pub host: Option<&'a HeaderValue>,
}

/// Writes a request's head. Says whether it is one: a target that was changed may be none.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    request: &RequestHeader,
    address: &Address<'_>,
    forwarded: &Forwarded<'_>,
) -> bool {
    let target = address.target.map_or_else(|| request.raw_path(), str::as_bytes);
    // RFC 9112 section 3.2: no whitespace, nothing that ends a line, no fragment.
    let is_none = |byte: &u8| *byte <= b' ' || *byte == b'#' || *byte == 0x7f;
    if !target.starts_with(b"/") || target.iter().any(is_none) {
        return false;
    }
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| out.extend_from_slice(part));
    line([request.method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"]);
    for (name, value) in &request.headers {
        let value = if *name == HOST {
            address.host.unwrap_or(value)
        } else if *name == CONNECTION || !forwarded.keeps(name) {
            continue;
        } else {
            value
        };
        line([spelled(name), b": ", value.as_bytes(), b"\r\n"]);
    }
    let mut is_clean = true;
    forwarded.add_to(|name, value| {
        is_clean &= has_no_control(value);
        line([name.as_str().as_bytes(), b": ", value, b"\r\n"]);
    });
    line([b"\r\n", b"", b"", b""]);
    is_clean
}

/// Whether a value is one by RFC 9110 section 5.5: nothing in it ends the line.
fn has_no_control(value: &[u8]) -> bool {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    // All of it, many bytes at a time.
    !value.iter().fold(false, |found, byte| found | is_control(*byte))
}

/// As Pingora spells it, by the usual way.
fn spelled(name: &HeaderName) -> &[u8] {
    match *name {
        HOST => b"Host",
        CONTENT_LENGTH => b"Content-Length",
        CONTENT_TYPE => b"Content-Type",
        CACHE_CONTROL => b"Cache-Control",
        CONTENT_ENCODING => b"Content-Encoding",
        DATE => b"Date",
        _ => name.as_str().as_bytes(),
    }
}

/// What the client is told besides what the upstream says.
pub(super) struct Ours<'a> {
    pub request_id: &'a HeaderValue,
    pub told: &'a [(HeaderName, HeaderValue)],
    pub date: &'a HeaderValue,
    /// Whether the client's connection closes behind the answer.
    pub is_last: bool,
}

/// What an upstream has said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not a whole head.
    NeedMore,
    /// Nothing that is plain: for Pingora to read.
    Odd,
    Plain(Plain),
}

/// An answer that is final, by HTTP/1.1, and whose length is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub status: StatusCode,
    /// The length of the head that was read.
    pub head: usize,
    /// That of the body.
    pub body: u64,
    /// Whether the upstream keeps its connection.
    pub is_kept: bool,
}

/// Reads the head of an answer to anything but `HEAD`, and writes it as the client gets it. What it has
/// written means nothing unless the answer is plain.
pub(super) fn take_over(read: &[u8], ours: &Ours<'_>, out: &mut Vec<u8>) -> Progress {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_BOUND];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Progress::NeedMore,
        Err(_) => return Progress::Odd,
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(status), Some(1)) = (status, parsed.version) else { return Progress::Odd };
    let Some(framing) = Framing::read(parsed.headers) else { return Progress::Odd };
    let body = match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Some(0),
        _ => framing.length,
    };
    let (Some(body), false) = (body, status.is_informational()) else { return Progress::Odd };
    let reason = parsed.reason.unwrap_or_default();
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| out.extend_from_slice(part));
    line([b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes()]);
    line([b"\r\n", b"", b"", b""]);
    let connection: &[u8] = if ours.is_last { b"close" } else { b"keep-alive" };
    let (mut has_date, mut has_connection) = (false, false);
    for header in parsed.headers.iter() {
        let name = header.name.as_bytes();
        let value = if name.eq_ignore_ascii_case(b"date") {
            if std::mem::replace(&mut has_date, true) {
                continue;
            }
            ours.date.as_bytes()
        } else if name.eq_ignore_ascii_case(b"connection") {
            has_connection = true;
            connection
        } else if ours.replaces(name) || framing.names(name) {
            continue;
        } else {
            header.value
        };
        line([name, b": ", value, b"\r\n"]);
    }
    line([X_REQUEST_ID.as_str().as_bytes(), b": ", ours.request_id.as_bytes(), b"\r\n"]);
    for (name, value) in ours.told {
        line([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    if !has_date {
        line([b"Date: ", ours.date.as_bytes(), b"\r\n", b""]);
    }
    if !has_connection {
        line([b"Connection: ", connection, b"\r\n", b""]);
    }
    line([b"\r\n", b"", b"", b""]);
    Progress::Plain(Plain { status, head: length, body, is_kept: framing.is_kept })
}

impl Ours<'_> {
    /// Whether the upstream's own header of this name gives way.
    fn replaces(&self, name: &[u8]) -> bool {
        // All of ours begin with one of these.
        matches!(name.first(), Some(b'x' | b'X' | b'r' | b'R'))
            && (name.eq_ignore_ascii_case(X_REQUEST_ID.as_str().as_bytes())
                || self
                    .told
                    .iter()
                    .any(|(ours, _)| name.eq_ignore_ascii_case(ours.as_str().as_bytes())))
    }
}

/// Where an answer ends, and what becomes of its connection.
struct Framing {
    length: Option<u64>,
    is_kept: bool,
    has_connection: bool,
}

impl Framing {
    /// Whether `Connection` names a header, which is between the upstream and us then (RFC 9110 section
    /// 7.6.1). Its word is `keep-alive` or `close`, and there is a header of the former's name.
    fn names(&self, name: &[u8]) -> bool {
        let word: &[u8] = if self.is_kept { b"keep-alive" } else { b"close" };
        self.has_connection && name.eq_ignore_ascii_case(word)
    }

    /// Nothing, unless it is clear.
    fn read(headers: &[httparse::Header<'_>]) -> Option<Self> {
        let mut framing = Self { length: None, is_kept: true, has_connection: false };
        for header in headers {
            // Only names of these lengths matter.
            match header.name.len() {
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    if std::mem::replace(&mut framing.has_connection, true) {
                        return None;
                    }
                    let is_close = header.value.eq_ignore_ascii_case(b"close");
                    if !is_close && !header.value.eq_ignore_ascii_case(b"keep-alive") {
                        return None;
                    }
                    framing.is_kept = !is_close;
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let is_number = header.value.iter().all(u8::is_ascii_digit);
                    let text = std::str::from_utf8(header.value).ok().filter(|_| is_number);
                    // Two of them, even of the same, are for Pingora to judge.
                    if framing.length.replace(text?.parse().ok()?).is_some() {
                        return None;
                    }
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => return None,
                7 if header.name.eq_ignore_ascii_case("trailer")
                    || header.name.eq_ignore_ascii_case("upgrade") =>
                {
                    return None;
                }
                _ => {}
            }
        }
        Some(framing)
    }
}

#[cfg(test)]
mod tests;
