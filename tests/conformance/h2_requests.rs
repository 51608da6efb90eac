//! Requests over HTTP/2 (RFC 9113 section 8): what makes one malformed, and what does not.

use super::h2::{PRIORITY, Step};
use super::h2_cases::{ANSWERED, OPEN, Steps, WHOLE, block, case, request, send, upload};
use crate::harness::h2_raw::{DATA, END_STREAM, HEADERS, fields_of};

/// A malformed request is a stream error, which may be told as a connection's (section 5.4.2); or it
/// is answered first (section 8.1.1).
const MALFORMED: &[&str] = &["RST_STREAM PROTOCOL_ERROR", "GOAWAY PROTOCOL_ERROR", "closed", "400"];

type Fields<'a> = &'a [(&'a str, &'a [u8])];

const METHOD: (&str, &[u8]) = (":method", b"GET");
const SCHEME: (&str, &[u8]) = (":scheme", b"http");
const PATH: (&str, &[u8]) = (":path", b"/public");
const AUTHORITY: (&str, &[u8]) = (":authority", b"gateway.test");

fn fields(fields: Fields<'_>) -> Vec<Step> {
    vec![send(HEADERS, WHOLE, 1, &fields_of(fields))]
}

/// A well-formed request with one more field.
fn with(name: &str, value: &[u8]) -> Vec<Step> {
    fields(&[METHOD, SCHEME, PATH, AUTHORITY, (name, value)])
}

fn with_path(path: &[u8]) -> Vec<Step> {
    fields(&[METHOD, SCHEME, (":path", path), AUTHORITY])
}

/// A request that says how long its body is, and sends this.
fn declared(length: &[u8], body: &[u8]) -> Vec<Step> {
    let more = fields_of(&[("content-length", length)]);
    vec![send(HEADERS, OPEN, 1, &[block("POST"), more].concat()), send(DATA, END_STREAM, 1, body)]
}

/// A request with a body and these fields after it.
fn trailed(trailers: Fields<'_>) -> Vec<Step> {
    let trailers = fields_of(trailers);
    vec![upload(1), send(DATA, 0, 1, b"body"), send(HEADERS, WHOLE, 1, &trailers)]
}

pub(crate) fn cases() -> Vec<Steps> {
    [messages(), names(), pseudo_fields()].into_iter().flatten().collect()
}

fn messages() -> Vec<Steps> {
    let bodiless = fields_of(&[("content-length", b"5")]);
    let second = fields_of(&[("x", b"y")]);
    vec![
        case("9113 8.1", "a request without a body", vec![request(1)], ANSWERED),
        case(
            "9113 8.1",
            "HEADERS, DATA, an empty DATA that ends",
            vec![upload(1), send(DATA, 0, 1, b"body"), send(DATA, END_STREAM, 1, b"")],
            ANSWERED,
        ),
        case(
            "9113 8.1",
            "HEADERS between DATA that do not end the stream",
            vec![upload(1), send(DATA, 0, 1, b"body"), send(HEADERS, OPEN, 1, &second)],
            MALFORMED,
        ),
        case("9113 8.1", "trailers", trailed(&[("x", b"y")]), ANSWERED),
        case(
            "9113 8.1",
            "trailers with a pseudo-header field",
            trailed(&[(":method", b"GET")]),
            MALFORMED,
        ),
        case(
            "9113 8.1",
            "trailers whose name has a capital letter",
            trailed(&[("X", b"y")]),
            MALFORMED,
        ),
        case("9113 8.1.1", "a body as long as it was said", declared(b"4", b"body"), ANSWERED),
        case("9113 8.1.1", "a body longer than it was said", declared(b"3", b"body"), MALFORMED),
        case("9113 8.1.1", "a body shorter than it was said", declared(b"5", b"body"), MALFORMED),
        case(
            "9113 8.1.1",
            "no body where one was said",
            vec![send(HEADERS, WHOLE, 1, &[block("POST"), bodiless].concat())],
            MALFORMED,
        ),
        case("9113 8.1.1", "a length that is no number", declared(b"four", b"body"), MALFORMED),
        case(
            "9113 8.1.1",
            "two lengths",
            {
                let more = fields_of(&[("content-length", b"4"), ("content-length", b"5")]);
                vec![
                    send(HEADERS, OPEN, 1, &[block("POST"), more].concat()),
                    send(DATA, END_STREAM, 1, b"body"),
                ]
            },
            MALFORMED,
        ),
        case(
            "9113 8.1",
            "PRIORITY between HEADERS and DATA",
            vec![
                upload(1),
                send(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
                send(DATA, END_STREAM, 1, b"body"),
            ],
            ANSWERED,
        ),
    ]
}

fn names() -> Vec<Steps> {
    vec![
        case("9113 8.2", "a name with a capital letter", with("X-Name", b"y"), MALFORMED),
        case("9113 8.2.1", "a name with a space", with("x name", b"y"), MALFORMED),
        case("9113 8.2.1", "a name with a control byte", with("x\u{1}", b"y"), MALFORMED),
        case("9113 8.2.1", "a name with a colon in it", with("x:y", b"y"), MALFORMED),
        case("9113 8.2.1", "a name that is not ASCII", with("\u{fc}", b"y"), MALFORMED),
        case("9113 8.2.1", "an empty name", with("", b"y"), MALFORMED),
        case("9113 8.2.1", "a value with NUL", with("x", b"a\0b"), MALFORMED),
        case("9113 8.2.1", "a value with CR", with("x", b"a\rb"), MALFORMED),
        case("9113 8.2.1", "a value with LF", with("x", b"a\nb"), MALFORMED),
        case("9113 8.2.1", "a value that begins with a space", with("x", b" a"), MALFORMED),
        case("9113 8.2.1", "a value that ends with a tab", with("x", b"a\t"), MALFORMED),
        case("9113 8.2.1", "an empty value", with("x", b""), ANSWERED),
        case("9113 8.2.1", "a value with bytes beyond ASCII", with("x", b"\xfc\xff"), ANSWERED),
        case("9113 8.2.2", "Connection", with("connection", b"keep-alive"), MALFORMED),
        case("9113 8.2.2", "Keep-Alive", with("keep-alive", b"timeout=9"), MALFORMED),
        case("9113 8.2.2", "Proxy-Connection", with("proxy-connection", b"keep-alive"), MALFORMED),
        case("9113 8.2.2", "Transfer-Encoding", with("transfer-encoding", b"chunked"), MALFORMED),
        case("9113 8.2.2", "Upgrade", with("upgrade", b"websocket"), MALFORMED),
        case("9113 8.2.2", "TE: trailers", with("te", b"trailers"), ANSWERED),
        case("9113 8.2.2", "TE with something else", with("te", b"trailers, deflate"), MALFORMED),
        case(
            "9113 8.2.3",
            "cookies in several fields",
            {
                let cookies: Fields<'_> =
                    &[METHOD, SCHEME, PATH, AUTHORITY, ("cookie", b"a=b"), ("cookie", b"c=d")];
                fields(cookies)
            },
            ANSWERED,
        ),
    ]
}

fn pseudo_fields() -> Vec<Steps> {
    vec![
        case("9113 8.3", "a pseudo-header field that nobody knows", with(":x", b"y"), MALFORMED),
        case("9113 8.3", "a pseudo-header field of answers", with(":status", b"200"), MALFORMED),
        case(
            "9113 8.3",
            "a pseudo-header field after a field",
            fields(&[METHOD, SCHEME, AUTHORITY, ("x", b"y"), PATH]),
            MALFORMED,
        ),
        case(
            "9113 8.3",
            ":method twice",
            fields(&[METHOD, METHOD, SCHEME, PATH, AUTHORITY]),
            MALFORMED,
        ),
        case(
            "9113 8.3",
            ":scheme twice",
            fields(&[METHOD, SCHEME, SCHEME, PATH, AUTHORITY]),
            MALFORMED,
        ),
        case(
            "9113 8.3",
            ":path twice",
            fields(&[METHOD, SCHEME, PATH, PATH, AUTHORITY]),
            MALFORMED,
        ),
        case(
            "9113 8.3",
            ":authority twice",
            fields(&[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY]),
            MALFORMED,
        ),
        case("9113 8.3.1", "no :method", fields(&[SCHEME, PATH, AUTHORITY]), MALFORMED),
        case("9113 8.3.1", "no :scheme", fields(&[METHOD, PATH, AUTHORITY]), MALFORMED),
        case("9113 8.3.1", "no :path", fields(&[METHOD, SCHEME, AUTHORITY]), MALFORMED),
        case("9113 8.3.1", "an empty :path", with_path(b""), MALFORMED),
        case("9113 8.3.1", "a :path without its slash", with_path(b"public"), MALFORMED),
        case("9113 8.3.1", "a :path with a fragment", with_path(b"/public#there"), MALFORMED),
        case("9113 8.3.1", "a :path with a space", with_path(b"/public there"), MALFORMED),
        case(
            "9113 8.3.1",
            "a :method that is no word",
            fields(&[(":method", b"GET IT"), SCHEME, PATH, AUTHORITY]),
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a :authority with a user",
            fields(&[METHOD, SCHEME, PATH, (":authority", b"me@gateway.test")]),
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "neither :authority nor Host",
            fields(&[METHOD, SCHEME, PATH]),
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "Host instead of :authority",
            fields(&[METHOD, SCHEME, PATH, ("host", b"gateway.test")]),
            ANSWERED,
        ),
        case(
            "9113 8.3.1",
            "the same Host beside :authority",
            with("host", b"gateway.test"),
            ANSWERED,
        ),
        case("9113 8.3.1", "another Host beside :authority", with("host", b"evil.test"), MALFORMED),
        case(
            "9113 8.5",
            "CONNECT with :scheme and :path",
            fields(&[(":method", b"CONNECT"), SCHEME, PATH, AUTHORITY]),
            MALFORMED,
        ),
        case(
            "9113 8.5",
            "CONNECT without :authority",
            fields(&[(":method", b"CONNECT")]),
            MALFORMED,
        ),
        case(
            "8441 4",
            ":protocol where it was not offered",
            fields(&[
                (":method", b"CONNECT"),
                (":protocol", b"websocket"),
                SCHEME,
                PATH,
                AUTHORITY,
            ]),
            MALFORMED,
        ),
    ]
}
