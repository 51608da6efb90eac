//! Messages of HTTP/1.1 (RFC 9112). What forgers would send has tests of its own.

use super::Case;
use super::h1::{Look, Talk};
use Look::{Behind, BodyBehind, Field, Statuses};

pub(crate) const OK: &[&str] = &["200"];
const REFUSED: &[&str] = &["400", "closed"];

pub(crate) type Talks = Case<Talk>;

pub(crate) fn case(
    section: &'static str,
    name: &'static str,
    request: &str,
    look: Look,
    allowed: &'static [&'static str],
) -> Talks {
    let request = request.as_bytes().to_vec();
    Case { section, name, what: Talk { request, ends: false, behind: None, look }, allowed }
}

/// The client closes its side when it has sent that.
pub(crate) fn cut(
    section: &'static str,
    name: &'static str,
    request: &str,
    look: Look,
    allowed: &'static [&'static str],
) -> Talks {
    let case = case(section, name, request, look, allowed);
    Case { what: Talk { ends: true, ..case.what }, ..case }
}

/// A plain request, which is answered like this behind the gateway.
pub(crate) fn answered(
    section: &'static str,
    name: &'static str,
    behind: &'static str,
    look: Look,
    allowed: &'static [&'static str],
) -> Talks {
    let case = case(section, name, GET, look, allowed);
    Case { what: Talk { behind: Some(behind.as_bytes()), ..case.what }, ..case }
}

pub(crate) const GET: &str = "GET /public HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn with(field: &str) -> String {
    format!("GET /public HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /public HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

pub(crate) fn cases() -> Vec<Talks> {
    [lines(), fields(), lengths(), chunks()].into_iter().flatten().collect()
}

fn lines() -> Vec<Talks> {
    let one = Statuses(1);
    let long = format!("GET /public?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
    vec![
        case("9112 2.2", "an empty line before the request", &format!("\r\n{GET}"), one, OK),
        case(
            "9112 2.2",
            "lines that end with LF alone",
            "GET /public HTTP/1.1\nHost: a\n\n",
            one,
            &["200", "400", "closed"],
        ),
        case(
            "9112 2.2",
            "a line that begins with a space after the first",
            "GET /public HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
            one,
            REFUSED,
        ),
        case(
            "9112 2.3",
            "a later minor version",
            "GET /public HTTP/1.2\r\nHost: a\r\n\r\n",
            one,
            &["200", "400", "505"],
        ),
        case(
            "9112 2.3",
            "a version in small letters",
            "GET /public http/1.1\r\nHost: a\r\n\r\n",
            one,
            &["400", "505", "closed"],
        ),
        case(
            "9112 2.3",
            "a major version that is not spoken like this",
            "GET /public HTTP/2.0\r\nHost: a\r\n\r\n",
            one,
            &["400", "505", "closed"],
        ),
        case("9112 2.5", "HTTP/1.0 with Host", "GET /public HTTP/1.0\r\nHost: a\r\n\r\n", one, OK),
        case(
            "9112 3",
            "two spaces in the first line",
            "GET  /public HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            &["200", "400", "closed"],
        ),
        case(
            "9112 3",
            "a tab in the first line",
            "GET\t/public HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            &["200", "400", "closed"],
        ),
        case(
            "9112 3",
            "a space before the method",
            " GET /public HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            REFUSED,
        ),
        case(
            "9112 3.1",
            "a method that is no word",
            "GE@T /public HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            REFUSED,
        ),
        case("9112 3", "a target too long", &long, one, &["414", "431"]),
        case("9112 3.2", "no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", one, REFUSED),
        case(
            "9112 3.2.2",
            "an absolute target",
            "GET http://a/public HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            &["200"],
        ),
        case(
            "9110 9.1",
            "a method in small letters is another one",
            "get /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n",
            one,
            &["400", "405", "501"],
        ),
        case(
            "9110 15.5.6",
            "405 says what is allowed",
            "PUT /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Field("allow"),
            &["405 GET, HEAD, POST"],
        ),
        case(
            "9110 15.5.2",
            "401 says how to authenticate",
            "GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n",
            Field("www-authenticate"),
            &["401 Bearer realm=\"keygate\""],
        ),
    ]
}

fn fields() -> Vec<Talks> {
    let one = Statuses(1);
    vec![
        case("9112 5", "a field without a name", &with(": y"), one, REFUSED),
        case("9112 5", "a name with a bracket", &with("X(y): z"), one, REFUSED),
        case("9112 5", "blanks around a value", &with("X-Ours: \t y \t"), Behind("x-ours"), &["y"]),
        case("9112 5", "a value that is empty", &with("X-Ours:"), Behind("x-ours"), &["", "none"]),
        case(
            "9110 5.5",
            "a value with bytes beyond ASCII",
            &with("X-Ours: \u{fc}"),
            Behind("x-ours"),
            &["\u{fc}"],
        ),
        case("9110 5.1", "a name in any letter case", &with("x-OURS: y"), Behind("X-Ours"), &["y"]),
        case(
            "9110 10.1.1",
            "an expectation that nobody knows",
            &with("Expect: more"),
            one,
            &["200", "417"],
        ),
        case(
            "9110 7.2",
            "Host with a port",
            "GET /public HTTP/1.1\r\nHost: a:8080\r\n\r\n",
            Behind("host"),
            &["a:8080"],
        ),
    ]
}

fn lengths() -> Vec<Talks> {
    let one = Statuses(1);
    vec![
        case(
            "9112 6.2",
            "a length with blanks around it",
            &post("Content-Length:  5 ", "hello"),
            BodyBehind,
            &["200 hello"],
        ),
        case(
            "9112 6.2",
            "a length with zeros before it",
            &post("Content-Length: 0005", "hello"),
            BodyBehind,
            &["200 hello", "400 not whole"],
        ),
        case("9112 6.3", "an empty length", &post("Content-Length:", "hello"), one, REFUSED),
        case(
            "9112 6.3",
            "the same length twice",
            &post("Content-Length: 5\r\nContent-Length: 5", "hello"),
            BodyBehind,
            &["200 hello", "400 not whole"],
        ),
        case(
            "9112 6.3",
            "POST without a length has no body",
            &post("X: y", ""),
            BodyBehind,
            &["200 "],
        ),
        cut(
            "9112 8",
            "a body that ends early",
            &post("Content-Length: 9", "hello"),
            BodyBehind,
            &["400 not whole", "closed not whole"],
        ),
        cut(
            "9112 8",
            "chunks that end early",
            &chunked("5\r\nhel"),
            BodyBehind,
            &["400 not whole", "closed not whole"],
        ),
        cut("9112 8", "a head that ends early", "GET /public HTTP/1.1\r\nHost:", one, REFUSED),
        case(
            "9112 6.1",
            "chunked twice",
            &post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
            one,
            &["400", "501", "closed"],
        ),
        case(
            "9112 6.1",
            "chunked, then another coding",
            &post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"),
            one,
            &["400", "501", "closed"],
        ),
        case(
            "9112 6.1",
            "a coding that nobody knows",
            &post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
            one,
            &["400", "501", "closed"],
        ),
        case(
            "9112 6.1",
            "chunked in capital letters",
            &post("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            &["200 hello"],
        ),
        case(
            "9112 6.1",
            "chunked in HTTP/1.0",
            "POST /public HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            one,
            REFUSED,
        ),
        case(
            "9110 9.3.1",
            "GET with a body",
            "GET /public HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            BodyBehind,
            &["200 hello", "400 not whole"],
        ),
    ]
}

fn chunks() -> Vec<Talks> {
    let bad = &["400 not whole", "closed not whole"];
    vec![
        case(
            "9112 7.1",
            "sizes in letters of both cases, with zeros before",
            &chunked("00A\r\n0123456789\r\n0a\r\n0123456789\r\n000\r\n\r\n"),
            BodyBehind,
            &["200 01234567890123456789"],
        ),
        case(
            "9112 7.1.1",
            "extensions",
            &chunked("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"),
            BodyBehind,
            &["200 hello"],
        ),
        case(
            "9112 7.1.2",
            "trailers",
            &chunked("5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
            BodyBehind,
            &["200 hello"],
        ),
        case(
            "9112 7.1",
            "a size that is no number",
            &chunked("g\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            bad,
        ),
        case(
            "9112 7.1",
            "a size with a sign",
            &chunked("+5\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            bad,
        ),
        case(
            "9112 7.1",
            "a size that says it is hexadecimal",
            &chunked("0x5\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            bad,
        ),
        case("9112 7.1", "an empty size", &chunked("\r\nhello\r\n0\r\n\r\n"), BodyBehind, bad),
        case(
            "9112 7.1",
            "an empty size, and what follows",
            &chunked(&format!("\r\n\r\n{GET}")),
            Statuses(3),
            &["400, closed", "200, closed", "closed"],
        ),
        case(
            "9112 7.1",
            "a size beyond 64 bits",
            &chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            bad,
        ),
        case(
            "9112 7.1",
            "a chunk longer than its size",
            &chunked("4\r\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            bad,
        ),
        case(
            "9112 7.1",
            "a size that ends with LF alone",
            &chunked("5\nhello\r\n0\r\n\r\n"),
            BodyBehind,
            &["200 hello", "400 not whole", "closed not whole"],
        ),
    ]
}
