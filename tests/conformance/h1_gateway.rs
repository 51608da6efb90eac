//! Connections of HTTP/1.1 (RFC 9112 section 9), and what a gateway makes of requests and of answers
//! (RFC 9110).

use super::h1::Look::{Behind, Body, Field, Statuses};
use super::h1_cases::{GET, OK, Talks, answered, case, cut, with};

const BAD_GATEWAY: &[&str] = &["502"];

pub(crate) fn cases() -> Vec<Talks> {
    [connections(), gateways(), answers()].into_iter().flatten().collect()
}

fn connections() -> Vec<Talks> {
    let twice = format!("{GET}{GET}");
    let close = with("Connection: close");
    vec![
        case(
            "9112 9.3",
            "a connection goes on unless somebody ends it",
            GET,
            Field("connection"),
            &["200 none", "200 keep-alive"],
        ),
        case("9112 9.6", "Connection: close", &close, Statuses(2), &["200, closed"]),
        case(
            "9112 9.6",
            "Connection: close, answered in kind",
            &close,
            Field("connection"),
            &["200 close"],
        ),
        case(
            "9112 9.3",
            "HTTP/1.0 ends with its answer",
            "GET /public HTTP/1.0\r\nHost: a\r\n\r\n",
            Statuses(2),
            &["200, closed"],
        ),
        case(
            "9112 9.3",
            "HTTP/1.0 that asks to go on",
            "GET /public HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            Field("connection"),
            &["200 keep-alive", "200 close"],
        ),
        case("9112 9.3.2", "two requests at once", &twice, Statuses(2), &["200, 200"]),
        case(
            "9110 9.3.2",
            "HEAD has no body",
            "HEAD /public HTTP/1.1\r\nHost: a\r\n\r\n",
            Field("content-length"),
            &["200 5", "200 none"],
        ),
        cut(
            "9112 9.6",
            "a client that has nothing more to say",
            GET,
            Statuses(2),
            // A client that closes its side may be taken for one that has gone.
            &["200, closed", "closed"],
        ),
    ]
}

fn gateways() -> Vec<Talks> {
    vec![
        case(
            "9110 7.6.1",
            "a field that Connection names stays here",
            &with("Connection: X-Ours\r\nX-Ours: y"),
            Behind("x-ours"),
            &["none"],
        ),
        case(
            "9110 7.6.1",
            "Connection itself stays here",
            &with("Connection: keep-alive"),
            Behind("connection"),
            &["none"],
        ),
        case(
            "9110 7.6.1",
            "Keep-Alive stays here",
            &with("Keep-Alive: timeout=9"),
            Behind("keep-alive"),
            &["none"],
        ),
        case(
            "9110 7.6.1",
            "Proxy-Connection stays here",
            &with("Proxy-Connection: keep-alive"),
            Behind("proxy-connection"),
            &["none"],
        ),
        case(
            "9110 10.1.4",
            "TE without its mention in Connection",
            &with("TE: trailers"),
            Behind("te"),
            &["none"],
        ),
        case(
            "9110 7.6.3",
            "Via names the gateway to the service",
            GET,
            Behind("via"),
            &["1.1 keygate"],
        ),
        case(
            "9110 7.6.2",
            "OPTIONS that may go no further",
            "OPTIONS /public HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
            Behind("max-forwards"),
            &["204"],
        ),
        case(
            "9110 7.6.2",
            "OPTIONS that may go one further",
            "OPTIONS /public HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n\r\n",
            Behind("max-forwards"),
            &["0"],
        ),
        case(
            "9110 6.6.1",
            "an answer of our own has a date",
            "GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
            Field("content-type"),
            &["404 application/problem+json"],
        ),
        case(
            "9110 14.2",
            "Range goes through",
            &with("Range: bytes=0-4"),
            Behind("range"),
            &["bytes=0-4"],
        ),
        case(
            "9110 13.1.2",
            "If-None-Match goes through",
            &with("If-None-Match: \"x\""),
            Behind("if-none-match"),
            &["\"x\""],
        ),
        case(
            "9110 7.7",
            "no path is written anew",
            "GET /public/a%20b;c?d=%2F HTTP/1.1\r\nHost: a\r\n\r\n",
            Statuses(1),
            &["200", "400"],
        ),
    ]
}

fn answers() -> Vec<Talks> {
    let one = Statuses(1);
    vec![
        answered(
            "9112 6.3",
            "both lengths in an answer",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Body,
            &["200 \"hello\"", "502"],
        ),
        answered(
            "9112 6.3",
            "two different lengths in an answer",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            one,
            BAD_GATEWAY,
        ),
        answered(
            "9112 6.3",
            "a length that is no number in an answer",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
            one,
            BAD_GATEWAY,
        ),
        answered(
            "9112 6.3",
            "an answer up to the connection's end",
            "HTTP/1.1 200 OK\r\n\r\nhello",
            Body,
            &["200 \"hello\""],
        ),
        answered(
            "9112 6.3",
            "an answer in HTTP/1.0",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            Body,
            &["200 \"hello\""],
        ),
        answered(
            "9112 8",
            "an answer that ends early is not passed for whole",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            Body,
            &["cut", "502"],
        ),
        answered(
            "9112 8",
            "chunks of an answer that end early",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            Body,
            &["cut", "502"],
        ),
        answered(
            "9112 5.1",
            "a space before the colon in an answer",
            "HTTP/1.1 200 OK\r\nX-Theirs : y\r\nContent-Length: 0\r\n\r\n",
            Field("x-theirs"),
            &["200 y", "502 none"],
        ),
        answered(
            "9112 5.2",
            "a folded field in an answer",
            "HTTP/1.1 200 OK\r\nX-Theirs: y\r\n z\r\nContent-Length: 0\r\n\r\n",
            Field("x-theirs"),
            &["200 y z", "200 y   z", "502 none"],
        ),
        answered(
            "9112 4",
            "an answer without a reason",
            "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
            one,
            OK,
        ),
        answered(
            "9112 4",
            "an answer that is no HTTP",
            "SSH-2.0-OpenSSH\r\n\r\n",
            one,
            BAD_GATEWAY,
        ),
        answered(
            "9110 15.3.5",
            "204 with a body",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
            Statuses(2),
            &["204, closed", "204, silent"],
        ),
        answered(
            "9110 15.4.5",
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            one,
            &["304"],
        ),
        answered(
            "9110 15.2",
            "103 before the answer",
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            Body,
            &["200 \"hello\""],
        ),
        answered(
            "9110 7.6.1",
            "a field that an answer's Connection names stays here",
            "HTTP/1.1 200 OK\r\nConnection: X-Theirs\r\nX-Theirs: y\r\nContent-Length: 0\r\n\r\n",
            Field("x-theirs"),
            &["200 none"],
        ),
        answered(
            "9110 15",
            "a status that nobody knows",
            "HTTP/1.1 299 Well\r\nContent-Length: 0\r\n\r\n",
            one,
            &["299"],
        ),
    ]
}
