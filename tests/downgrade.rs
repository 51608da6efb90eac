//! From HTTP/2 to HTTP/1.1: what frames can carry and lines cannot must not become a second
//! request, a forged header or another target.

use std::io;

use crate::harness::h2_raw::{Client, END_STREAM, Ending, Rest, exchange};
use crate::harness::{Gateway, H2Upstream, Setup, Upstream, Wire, get, post};

const FORGED: &str = "forged-by-a-client";
const SMUGGLED: &[u8] =
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Keygate-Key-Id: forged-by-a-client\r\n\r\n";

/// A gateway, its upstream, and a good key with its id.
struct Stage {
    gateway: Gateway,
    upstream: Upstream,
    key: String,
}

impl Stage {
    fn set() -> Self {
        let upstream = Upstream::start();
        let gateway = Setup::in_front_of(&upstream).start();
        let key = gateway.key(&["read:orders", "write:orders"]);
        Self { gateway, upstream, key }
    }

    /// Sends a request with these fields instead of, or beside, the usual ones.
    fn send(&self, changed: &[(&str, &[u8])], rest: Rest<'_>) -> Ending {
        let method: &[u8] = if matches!(rest, Rest::Nothing) { b"GET" } else { b"POST" };
        exchange(self.gateway.proxy, &self.fields(method, changed), rest)
    }

    /// Sends a request as far as the first bytes of its body, and waits until the gateway has read it.
    fn begin(&self, method: &[u8], length: &str, body: &[u8]) -> Client {
        let length = length.as_bytes();
        let mut client = Client::open(self.gateway.proxy);
        client.begin(&self.fields(method, &[("content-length", length)]), body);
        client.ping();
        client
    }

    fn fields<'a>(
        &'a self,
        method: &'a [u8],
        changed: &[(&'a str, &'a [u8])],
    ) -> Vec<(&'a str, &'a [u8])> {
        let usual: [(&str, &[u8]); 5] = [
            (":method", method),
            (":scheme", b"http"),
            (":path", b"/v1/orders"),
            (":authority", b"gateway.test"),
            ("x-api-key", self.key.as_bytes()),
        ];
        let is_changed = |name: &str| changed.iter().any(|(other, _)| *other == name);
        let pseudo = |name: &str| name.starts_with(':');
        let mut fields: Vec<(&str, &[u8])> = Vec::new();
        fields.extend(usual.iter().filter(|(name, _)| pseudo(name) && !is_changed(name)));
        fields.extend(changed.iter().filter(|(name, _)| pseudo(name)));
        fields.extend(usual.iter().filter(|(name, _)| !pseudo(name) && !is_changed(name)));
        fields.extend(changed.iter().filter(|(name, _)| !pseudo(name)));
        fields
    }

    /// Asserts that nothing forged and no second request came through, and that the connection to
    /// the upstream is not out of step.
    #[track_caller]
    fn nothing_came_through(&self, what: &str) {
        for seen in self.upstream.seen() {
            let raw = String::from_utf8_lossy(&seen.raw);
            assert!(!raw.contains(FORGED) && !raw.contains("smuggled"), "{what}: {raw}");
            assert!(seen.header("x-keygate-key-id").is_some(), "{what}: undecided {raw}");
            assert!(seen.values("transfer-encoding").len() <= 1, "{what}: {raw}");
            assert!(seen.body.trailers.is_empty(), "{what}: {:?}", seen.body.trailers);
        }
        for wire in Wire::BOTH {
            let good = post("/v1/orders/in-step", "in step").bearer(&self.key);
            assert_eq!(self.gateway.send_over(wire, &good).status, 200, "{what}");
            // A request that was refused half-way may still arrive: its head was decided.
            let mut seen = self.upstream.seen();
            seen.retain(|seen| seen.target == "/v1/orders/in-step");
            assert_eq!(seen.len(), 1, "{what}: {seen:?}");
            assert_eq!(seen[0].body.start, b"in step", "{what}");
            self.upstream.forget();
        }
    }
}

#[test]
fn the_hand_made_client_is_understood() {
    let stage = Stage::set();
    assert_eq!(stage.send(&[], Rest::Nothing), Ending::Answered);
    assert_eq!(stage.upstream.only().target, "/v1/orders");
    stage.upstream.forget();
    assert_eq!(stage.send(&[], Rest::Body(b"hello")), Ending::Answered);
    assert_eq!(stage.upstream.only().body.start, b"hello");
}

#[test]
fn line_ends_in_a_field_do_not_become_lines() {
    let stage = Stage::set();
    let injected = b"x\r\nX-Keygate-Key-Id: forged-by-a-client";
    let second = [b"x\r\n\r\n".as_slice(), SMUGGLED].concat();
    for field in [":path", ":authority", ":method", ":scheme", "x-other", "cookie", "user-agent"] {
        for value in [&injected[..], &second, b"x\nX-Keygate-Key-Id: forged-by-a-client", b"x\0y"] {
            let prefixed =
                [if field == ":path" { b"/v1/orders?" } else { &b""[..] }, value].concat();
            stage.send(&[(field, &prefixed)], Rest::Nothing);
            stage.nothing_came_through(field);
        }
    }
    let name = "x-other: 1\r\nX-Keygate-Key-Id";
    stage.send(&[(name, FORGED.as_bytes())], Rest::Nothing);
    stage.nothing_came_through("a name");
}

#[test]
fn spaces_in_a_field_do_not_move_the_target() {
    let stage = Stage::set();
    for (field, value) in [
        (":method", "GET /smuggled HTTP/1.1"),
        (":method", ""),
        (":path", "/v1/orders /smuggled"),
        (":path", "smuggled"),
        (":path", ""),
        (":path", "*"),
        (":path", "http://evil.test/smuggled"),
        (":path", "//smuggled"),
        (":scheme", "http://evil.test/smuggled"),
        (":scheme", ""),
        (":authority", "evil.test/smuggled"),
        (":authority", "user@evil.test"),
        (":authority", ""),
        (":protocol", "websocket"),
        (":smuggled", "x"),
    ] {
        let ending = stage.send(&[(field, value.as_bytes())], Rest::Nothing);
        println!("{field} {value:?}: {ending:?}");
        assert!(stage.upstream.seen().iter().all(|seen| seen.header("host") != Some("evil.test")));
        stage.nothing_came_through(field);
    }
}

#[test]
fn a_pseudo_header_counts_once() {
    let stage = Stage::set();
    for name in [":method", ":path", ":authority", ":scheme"] {
        let twice: [(&str, &[u8]); 2] = [(name, b"/v1/orders"), (name, b"/smuggled")];
        stage.send(&twice, Rest::Nothing);
        stage.nothing_came_through(name);
    }
    // After a plain field, where none may be.
    let fields: [(&str, &[u8]); 6] = [
        (":method", b"GET"),
        (":scheme", b"http"),
        ("x-api-key", stage.key.as_bytes()),
        (":path", b"/smuggled"),
        (":authority", b"gateway.test"),
        ("x-other", b"1"),
    ];
    exchange(stage.gateway.proxy, &fields, Rest::Nothing);
    stage.nothing_came_through("late");
}

#[test]
fn connection_headers_have_no_meaning() {
    let stage = Stage::set();
    for (name, value) in [
        ("connection", "x-keygate-key-id"),
        ("connection", "close, x-request-id"),
        ("upgrade", "websocket"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "x-keygate-key-id"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("transfer-encoding", "chunked"),
        ("Transfer-Encoding", "chunked"),
        ("te", "gzip"),
        ("X-Keygate-Key-Id", FORGED),
        ("x-keygate-key-id", FORGED),
        ("x_keygate_key_id", FORGED),
        ("host", "evil.test"),
        ("x-keygate-key-id ", FORGED),
        (" x-keygate-key-id", FORGED),
        ("", FORGED),
    ] {
        stage.send(&[(name, value.as_bytes())], Rest::Nothing);
        stage.nothing_came_through(name);
    }
}

#[test]
fn a_length_that_is_not_the_bodys_is_refused_or_corrected() {
    let stage = Stage::set();
    let chunked = [b"0\r\n\r\n".as_slice(), SMUGGLED].concat();
    for (length, body) in [("0", SMUGGLED), ("5", SMUGGLED), ("5", &chunked)] {
        for name in ["content-length", "Content-Length", "content_length"] {
            stage.send(&[(name, length.as_bytes())], Rest::Body(body));
            stage.nothing_came_through(name);
        }
    }
    let both: [(&str, &[u8]); 2] = [("content-length", b"5"), ("transfer-encoding", b"chunked")];
    stage.send(&both, Rest::Body(&chunked));
    stage.nothing_came_through("both");
    let twice: [(&str, &[u8]); 2] = [("content-length", b"5"), ("content-length", b"0")];
    stage.send(&twice, Rest::Body(SMUGGLED));
    stage.nothing_came_through("two lengths");
    for length in ["100", "-1", "+5", "5, 5", "0x5", "99999999999999999999", ""] {
        stage.send(&[("content-length", length.as_bytes())], Rest::Body(b"short"));
        stage.nothing_came_through(length);
    }
}

/// The ways of a stream with a length behind us, over HTTP/1.1 and over HTTP/2.
struct Behind {
    stage: Stage,
    h2: H2Upstream,
    before_h2: Stage,
}

impl Behind {
    fn set() -> Self {
        let h2 = H2Upstream::start();
        let gateway =
            Setup::in_front_of_address(h2.address).upstream("protocol = \"http2\"").start();
        let key = gateway.key(&["read:orders", "write:orders"]);
        let before_h2 = Stage { gateway, upstream: Upstream::start(), key };
        Self { stage: Stage::set(), h2, before_h2 }
    }

    /// The bodies that came whole to either upstream, but for that of a last request which says that all
    /// before it is there.
    fn whole_bodies(&self) -> [Vec<Vec<u8>>; 2] {
        for Stage { gateway, key, .. } in [&self.stage, &self.before_h2] {
            let last = post("/v1/orders/last", "last").bearer(key);
            assert_eq!(gateway.send_over(Wire::H2c, &last).status, 200);
        }
        let mut h1 = self.stage.upstream.seen();
        h1.retain(|seen| seen.body.complete);
        self.stage.upstream.forget();
        let h1 = h1.into_iter().map(|seen| seen.body.start).filter(|body| body != b"last");
        let h2 = self.h2.take_bodies().into_iter().filter(|body| body != "last");
        [h1.collect(), h2.map(Vec::from).collect()]
    }
}

const NO_BODIES: [Vec<Vec<u8>>; 2] = [const { Vec::new() }; 2];

/// RFC 9113 section 8.1.1: the request is malformed. That shows when its stream goes on beyond its
/// length, and behind us it must not be whole by then.
#[test]
fn a_stream_longer_than_its_length_never_makes_a_whole_request() {
    let behind = Behind::set();
    for (length, body) in [("0", ""), ("00", ""), ("5", "hello"), ("05", "hel"), ("5", "")] {
        for stage in [&behind.stage, &behind.before_h2] {
            let mut client = stage.begin(b"POST", length, body.as_bytes());
            assert_eq!(behind.whole_bodies(), NO_BODIES, "{length} {body}");
            for piece in ["lo", "more"] {
                client.data(piece.as_bytes(), 0);
            }
            assert_eq!(client.ending(), Ending::Reset, "{length} {body}");
            assert_eq!(behind.whole_bodies(), NO_BODIES, "{length} {body}");
        }
    }
}

#[test]
fn a_stream_that_ends_after_its_length_is_a_whole_request() {
    let behind = Behind::set();
    for (length, pieces) in [
        ("0", &[][..]),
        ("00", &[]),
        ("5", &["hello"]),
        ("5", &["hel", "lo"]),
        ("5", &["", "hello", ""]),
    ] {
        for stage in [&behind.stage, &behind.before_h2] {
            let mut client = stage.begin(b"POST", length, b"");
            for piece in pieces {
                client.data(piece.as_bytes(), 0);
                client.ping();
            }
            client.data(b"", END_STREAM);
            assert_eq!(client.ending(), Ending::Answered, "{length} {pieces:?}");
        }
        let expected = vec![pieces.concat().into_bytes()];
        assert_eq!(behind.whole_bodies(), [expected.clone(), expected], "{length} {pieces:?}");
    }
}

/// What was held back of the first attempt belongs to it alone.
#[test]
fn a_second_attempt_is_sent_each_piece_once() {
    // Closes when it has read a head.
    let dead = Upstream::answering(|_| Err(io::ErrorKind::ConnectionAborted.into()));
    let stage = Stage::set();
    let good = &stage.upstream;
    let targets = format!("targets = [\"{}\", \"{}\"]", dead.address(), good.address());
    let gateway = Setup::in_front_of(good)
        .tables(&format!(
            "[upstreams.many]\n{targets}\nretry_budget_percent = 100\n\
             [upstreams.many.ejection]\nfailures = 0"
        ))
        .route("name = \"many\"\npath = \"/many\"\nupstream = \"many\"\nauth = \"public\"")
        .start();
    let path: (&str, &[u8]) = (":path", b"/many");
    for count in 1..=4 {
        let mut client = Client::open(gateway.proxy);
        client.begin(&stage.fields(b"GET", &[path, ("content-length", b"5")]), b"hello");
        good.wait_for(count);
        client.data(b"", END_STREAM);
        assert_eq!(client.ending(), Ending::Answered);
    }
    assert!(dead.count() > 0, "no attempt was a second one");
    let seen = good.seen();
    assert!(seen.iter().all(|seen| seen.body.complete && seen.body.start == b"hello"), "{seen:?}");
}

#[test]
fn trailers_carry_no_identity() {
    let stage = Stage::set();
    for trailers in [
        &[("x-keygate-key-id", FORGED.as_bytes())][..],
        &[("x-other", b"1\r\nX-Keygate-Key-Id: forged-by-a-client")],
        &[(":path", b"/smuggled")],
        &[("content-length", b"0")],
    ] {
        stage.send(&[], Rest::Trailers(b"body", trailers));
        stage.nothing_came_through(trailers[0].0);
    }
}

#[test]
fn cookies_that_came_apart_are_put_together() {
    let stage = Stage::set();
    let request =
        get("/v1/orders").bearer(&stage.key).header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(stage.gateway.send_over(Wire::H2c, &request).status, 200);
    // RFC 9113 section 8.2.3: HTTP/1.1 knows one `Cookie` header.
    assert_eq!(stage.upstream.only().values("cookie"), ["a=1; b=2"]);
}
