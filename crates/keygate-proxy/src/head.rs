//! The head of an HTTP/1 request, read byte for byte before Pingora parses it: where it ends, and
//! whether every parser would read it alike. Knows no sockets.

use std::mem::MaybeUninit;

use keygate_config::Server;
use keygate_core::Denial;
use keygate_core::chunks::Chunks;
use keygate_core::path::canonical_host;

/// Pingora stops at this many headers, so a head that passed here has no more.
pub(crate) const HEADERS_BOUND: usize = 256;
/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 section 3.4), up to the blank
/// line that looks like a head's end.
pub(crate) const H2_PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// The rest of HTTP/2's preface, after what looks like a head.
pub(crate) const H2_PREFACE_REST: &[u8] = b"SM\r\n\r\n";
/// What `Allow` says about `CONNECT`, which no route can serve.
pub(crate) const METHODS_EVER_SERVED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The bounds on a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub headers_max: usize,
    pub bytes_max: usize,
}

impl From<&Server> for HeadLimits {
    fn from(server: &Server) -> Self {
        Self {
            headers_max: server.headers_max.min(HEADERS_BOUND),
            bytes_max: server.header_bytes_max,
        }
    }
}

/// Finds the end of a head in bytes that arrive in pieces, looking at each byte once.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Where the line that is being read begins.
    line_start: usize,
}

/// What is known of a head so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    NeedMore,
    /// The head is the first so many bytes.
    Complete(usize),
}

impl HeadScan {
    /// Looks at what has arrived, `seen` bytes of which were looked at before.
    ///
    /// # Errors
    /// [`Denial::BadRequest`] for a line that does not end in CRLF, [`Denial::HeadersTooLarge`].
    pub(crate) fn advance(
        &mut self,
        buffer: &[u8],
        seen: usize,
        limits: HeadLimits,
    ) -> Result<Progress, Denial> {
        let fresh = buffer.get(seen..).unwrap_or_default();
        for newline in memchr::memchr_iter(b'\n', fresh) {
            let at = seen + newline;
            let line = buffer.get(self.line_start..at).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else {
                // RFC 9112 section 2.2 lets a parser take a bare LF for a line's end. Not all do.
                return Err(Denial::BadRequest("a line of the head does not end in CRLF"));
            };
            self.line_start = at + 1;
            if line.is_empty() {
                return match at + 1 {
                    length if length > limits.bytes_max => Err(Denial::HeadersTooLarge),
                    length => Ok(Progress::Complete(length)),
                };
            }
        }
        if buffer.len() > limits.bytes_max {
            return Err(Denial::HeadersTooLarge);
        }
        Ok(Progress::NeedMore)
    }
}

/// Refuses a complete head that two parsers could read differently.
///
/// # Errors
/// [`Denial::BadRequest`] with the reason, [`Denial::HeadersTooLarge`] for too many headers, and
/// [`Denial::MethodNotAllowed`] for `CONNECT`, which no route serves.
pub(crate) fn inspect(head: &[u8], limits: HeadLimits) -> Result<Shape, Denial> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_BOUND];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Denial::BadRequest("the head ends too early")),
        Err(httparse::Error::TooManyHeaders) => return Err(Denial::HeadersTooLarge),
        Err(error) => return Err(Denial::BadRequest(reason(error))),
    }
    if request.headers.len() > limits.headers_max {
        return Err(Denial::HeadersTooLarge);
    }
    if request.method == Some("CONNECT") {
        return Err(Denial::MethodNotAllowed(
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into(),
        ));
    }
    let framing = Framing::read(request.headers)?;
    framing.check(request.version)?;
    let target = request.path.unwrap_or_default();
    check_target(target, framing.host.unwrap_or_default())?;
    let is_plain = request.version == Some(1) && target.starts_with('/');
    Ok(match framing.plain_length {
        Some(length) if is_plain => Shape::Plain { length },
        _ if framing.transfer_encoding.is_some() => Shape::Chunked(Chunks::default()),
        _ => Shape::Other,
    })
}

/// What a head that was inspected is for: its method, target and host.
pub(crate) fn address(head: &[u8]) -> Option<(&str, &str, &[u8])> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_BOUND];
    let mut request = httparse::Request::new(&mut []);
    request.parse_with_uninit_headers(head, &mut headers).ok()?;
    let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"))?;
    Some((request.method?, request.path?, host.value))
}

/// What a request needs of whoever serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// HTTP/1.1 with a body of this length, or 0 for none: no header is between the client and us but
    /// a `Connection` that says `keep-alive` or `close`, none changes the protocol or how the body is
    /// sent.
    Plain {
        length: usize,
    },
    /// A body in chunks that is not over yet, read so far.
    Chunked(Chunks),
    Other,
}

impl Shape {
    /// With what came behind its head.
    ///
    /// # Errors
    /// [`Denial::BadRequest`] for a body in chunks that is none.
    pub(crate) fn with_body(self, bytes: &[u8]) -> Result<Self, Denial> {
        let Self::Chunked(mut chunks) = self else { return Ok(self) };
        let end = chunks.advance(bytes).map_err(|fault| Denial::BadRequest(fault.0))?;
        Ok(end.map_or(Self::Chunked(chunks), |_| Self::Other))
    }
}

/// The headers that say where a message ends and whom it is for.
struct Framing<'a> {
    /// The body's length, as long as nothing is out of the ordinary.
    plain_length: Option<usize>,
    host: Option<&'a str>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
}

impl<'a> Framing<'a> {
    fn read(headers: &[httparse::Header<'a>]) -> Result<Self, Denial> {
        let mut framing = Self {
            plain_length: Some(0),
            host: None,
            content_length: None,
            transfer_encoding: None,
        };
        let mut connections = 0;
        for header in headers {
            // Of the names that matter here, none shares its length with another common one.
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    let host = std::str::from_utf8(header.value).ok();
                    let host = host.ok_or(Denial::BadRequest("the host is malformed"))?;
                    set_once(&mut framing.host, host, "more than one `Host`")?;
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let value = header.value;
                    set_once(&mut framing.content_length, value, "more than one `Content-Length`")?;
                    let text = std::str::from_utf8(value).ok();
                    let length = text.and_then(|text| text.parse().ok());
                    framing.plain_length = framing.plain_length.and(length);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let value = header.value;
                    let twice = "more than one `Transfer-Encoding`";
                    set_once(&mut framing.transfer_encoding, value, twice)?;
                    framing.plain_length = None;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    connections += 1;
                    let is_known = header.value.eq_ignore_ascii_case(b"keep-alive")
                        || header.value.eq_ignore_ascii_case(b"close");
                    if connections > 1 || !is_known {
                        framing.plain_length = None;
                    }
                }
                2 | 6 | 7 | 10 | 14 | 16 | 18 | 19 if is_between_us(header.name) => {
                    framing.plain_length = None;
                }
                _ => {}
            }
        }
        Ok(framing)
    }

    fn check(&self, version: Option<u8>) -> Result<(), Denial> {
        let host = self.host.filter(|host| !host.is_empty());
        canonical_host(host.ok_or(Denial::BadRequest("`Host` is missing"))?)?;
        if let Some(length) = self.content_length {
            // RFC 9110 section 8.6 knows digits only; a list of equal lengths is somebody's guess.
            if self.transfer_encoding.is_some() {
                return Err(Denial::BadRequest("both `Content-Length` and `Transfer-Encoding`"));
            }
            if length.is_empty() || length.len() > 19 || !length.iter().all(u8::is_ascii_digit) {
                return Err(Denial::BadRequest("`Content-Length` is not a number"));
            }
        }
        if let Some(coding) = self.transfer_encoding {
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(Denial::BadRequest("`Transfer-Encoding` is not `chunked`"));
            }
            if version != Some(1) {
                return Err(Denial::BadRequest("`Transfer-Encoding` before HTTP/1.1"));
            }
        }
        Ok(())
    }
}

/// What Pingora takes from a request before it is forwarded, and what it acts on.
fn is_between_us(name: &str) -> bool {
    BETWEEN_US.iter().any(|known| name.eq_ignore_ascii_case(known))
}

const BETWEEN_US: [&str; 9] = [
    "te",
    "expect",
    "upgrade",
    "trailer",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];

fn set_once<T>(slot: &mut Option<T>, value: T, twice: &'static str) -> Result<(), Denial> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Denial::BadRequest(twice)),
    }
}

/// A target is a path, or a URL of the host that `Host` names (RFC 9112 section 3.2.2).
fn check_target(target: &str, host: &str) -> Result<(), Denial> {
    // None of these may be in a target (RFC 3986 section 2, RFC 9112 section 3.2). Pingora's answer to
    // most has no code, and a fragment it cuts off where another parser reads on.
    let is_no_uri = |byte| matches!(byte, b'"' | b'<' | b'>' | b'`' | b'#');
    if target.bytes().fold(false, |found, byte| found | is_no_uri(byte)) {
        return Err(Denial::BadRequest("the request target holds a byte that must be escaped"));
    }
    if target.starts_with('/') {
        return Ok(());
    }
    let authority = strip_scheme(target)
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default())
        .ok_or(Denial::BadRequest("the request target is neither a path nor an http URL"))?;
    if authority == host {
        Ok(())
    } else {
        Err(Denial::BadRequest("the request target and `Host` differ"))
    }
}

fn strip_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header's name is malformed",
        httparse::Error::HeaderValue => "a header's value is malformed",
        httparse::Error::NewLine => "a line of the head does not end in CRLF",
        httparse::Error::Token => "the request line is malformed",
        httparse::Error::Version => "the HTTP version is not 1.0 or 1.1",
        httparse::Error::Status | httparse::Error::TooManyHeaders => "the head is malformed",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { headers_max: 5, bytes_max: 200 };

    fn check(head: &str, expect: Result<(), &str>) {
        let found = inspect(head.as_bytes(), LIMITS);
        assert_eq!(
            found.as_ref().map(|_| &()).map_err(|denial| denial.code().as_str()),
            expect.as_ref().map_err(|code| *code),
            "{head:?}: {found:?}"
        );
    }

    fn ok(head: &str) {
        check(head, Ok(()));
    }

    fn bad(head: &str) {
        check(head, Err("bad_request"));
    }

    #[test]
    fn one_clear_request_passes() {
        ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        ok("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        ok("POST /x HTTP/1.1\r\nhost: a:80\r\nContent-Length: 5\r\n\r\n");
        ok("POST /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n");
        ok("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    #[test]
    fn only_a_request_without_anything_special_is_plain() {
        let limits = HeadLimits { headers_max: 20, bytes_max: 2000 };
        let shape = |line: &str, more: &str| {
            inspect(format!("{line}\r\nHost: a\r\n{more}\r\n").as_bytes(), limits).unwrap()
        };
        let get = "GET /x HTTP/1.1";
        for more in ["", "Connection: Keep-Alive\r\n", "connection: close\r\n", "X-A: b\r\n"] {
            assert_eq!(shape(get, more), Shape::Plain { length: 0 }, "{more}");
        }
        assert_eq!(shape("POST / HTTP/1.1", "Content-Length: 7\r\n"), Shape::Plain { length: 7 });
        for line in ["GET / HTTP/1.0", "GET http://a/ HTTP/1.1"] {
            assert_eq!(shape(line, ""), Shape::Other, "{line}");
        }
        for more in [
            "Connection: keep-alive, X-A\r\n",
            "Connection: close\r\nConnection: close\r\n",
            "Connection: upgrade\r\n",
            "TE: trailers\r\n",
            "EXPECT: 100-continue\r\n",
            "Upgrade: x\r\n",
            "Trailer: x\r\n",
            "Keep-Alive: 5\r\n",
            "Proxy-Connection: x\r\n",
            "Proxy-Authenticate: x\r\n",
            "Proxy-Authorization: x\r\n",
            "HTTP2-Settings: x\r\n",
            "Content-Length: 9999999999999999999\r\nTE: x\r\n",
        ] {
            assert_eq!(shape(get, more), Shape::Other, "{more}");
        }
    }

    #[test]
    fn a_body_in_chunks_is_read_as_far_as_it_came() {
        let head = |line: &str| format!("{line}\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for line in ["POST / HTTP/1.1", "POST http://a/ HTTP/1.1"] {
            let shape = inspect(head(line).as_bytes(), LIMITS).unwrap();
            assert_eq!(shape, Shape::Chunked(Chunks::default()), "{line}");
            assert!(matches!(shape.with_body(b""), Ok(Shape::Chunked(_))));
            assert!(matches!(shape.with_body(b"5\r\nhel"), Ok(Shape::Chunked(_))));
            assert_eq!(shape.with_body(b"5\r\nhello\r\n0\r\n\r\nGET /"), Ok(Shape::Other));
            assert!(matches!(shape.with_body(b"5\nhello"), Err(Denial::BadRequest(_))));
        }
        // What has no body in chunks is not read as one.
        assert_eq!(Shape::Other.with_body(b"x"), Ok(Shape::Other));
        assert_eq!(Shape::Plain { length: 1 }.with_body(b"x"), Ok(Shape::Plain { length: 1 }));
    }

    /// Pingora's parser must read a size where ours does, and of the same value.
    #[test]
    fn a_size_that_is_read_here_is_read_alike_by_pingora() {
        for line in [
            "5\r\n",
            "0\r\n",
            "000\r\n",
            "5;\r\n",
            "5;a=b\r\n",
            "5 \r\n",
            "5\t;a\r\n",
            "5 ; \t\r\n",
            "fffffffffffffff\r\n",
            "000000000000005\r\n",
            "aB;\u{e9}\r\n",
        ] {
            assert_eq!(Chunks::default().advance(line.as_bytes()), Ok(None), "{line:?}");
            let digits: String = line.chars().take_while(char::is_ascii_hexdigit).collect();
            let size = u64::from_str_radix(&digits, 16).unwrap();
            let read = httparse::parse_chunk_size(line.as_bytes()).unwrap();
            assert_eq!(read, httparse::Status::Complete((line.len(), size)), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_one_clear_request_is_refused() {
        bad("GET / HTTP/1.1\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost:\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
        bad(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        bad("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n");
        bad("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n");
        bad("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n");
        bad("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
        bad("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n");
        bad("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n");
        bad("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n");
        bad("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET / HTTP/2.0\r\nHost: a\r\n\r\n");
        bad("GET /\r\nHost: a\r\n\r\n");
        bad("GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n");
        bad("GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET http://a/x#y HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n");
        bad("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        check("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", Err("method_not_allowed"));
        let many = "X: 1\r\n".repeat(5);
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), Err("headers_too_large"));
        let very_many = "X: 1\r\n".repeat(300);
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{very_many}\r\n"), Err("headers_too_large"));
    }

    fn scan(pieces: &[&[u8]]) -> Result<Progress, Denial> {
        let mut scan = HeadScan::default();
        let mut buffer = Vec::new();
        let mut last = Ok(Progress::NeedMore);
        for piece in pieces {
            let seen = buffer.len();
            buffer.extend_from_slice(piece);
            last = scan.advance(&buffer, seen, LIMITS);
            if last != Ok(Progress::NeedMore) {
                break;
            }
        }
        last
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_pieces_break() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\n";
        for at in 0..whole.len() {
            let (first, second) = whole.split_at(at);
            assert_eq!(scan(&[first, second]), Ok(Progress::Complete(27)), "{at}");
        }
        assert_eq!(scan(&[&whole[..26]]), Ok(Progress::NeedMore));
    }

    #[test]
    fn a_bare_line_feed_and_a_long_head_are_refused_at_once() {
        assert!(matches!(scan(&[b"GET / HTTP/1.1\nHost"]), Err(Denial::BadRequest(_))));
        assert_eq!(scan(&[&[b'x'; 201]]), Err(Denial::HeadersTooLarge));
        assert_eq!(scan(&[&[b'x'; 100], &[b'x'; 101]]), Err(Denial::HeadersTooLarge));
    }

    proptest! {
        /// However it is written, wherever it is, and whatever is beside it.
        #[test]
        fn nothing_with_a_header_between_us_is_plain(
            which in 0..BETWEEN_US.len() + 1,
            shout in any::<[bool; 24]>(),
            value in "[a-z0-9, =]{0,20}",
            before in prop::collection::vec("[a-z-]{1,20}: [a-z]{0,9}\r\n", 0..5),
            after in prop::collection::vec("[a-z-]{1,20}: [a-z]{0,9}\r\n", 0..5),
        ) {
            let name = BETWEEN_US.get(which).copied().unwrap_or("transfer-encoding");
            let shouted = |(c, up): (char, &bool)| if *up { c.to_ascii_uppercase() } else { c };
            let name: String = name.chars().zip(&shout).map(shouted).collect();
            let (before, after) = (before.concat(), after.concat());
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{before}{name}: {value}\r\n{after}\r\n");
            let limits = HeadLimits { headers_max: 20, bytes_max: 2000 };
            let is_plain = matches!(inspect(head.as_bytes(), limits), Ok(Shape::Plain { .. }));
            prop_assert!(!is_plain);
        }

        #[test]
        fn any_bytes_are_refused_or_accepted(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(inspect(&bytes, LIMITS));
            drop(scan(&[&bytes]));
        }
    }
}
