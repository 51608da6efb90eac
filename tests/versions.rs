//! A request of one version of HTTP that goes on in another: what belongs to a connection stays
//! behind, and what belongs to the request arrives as the other version says it.

use crate::harness::{Nginx, Setup, Upstream, Wire, chunk, get, post};

/// What a server saw of a request.
const SEEN: &str = "default_type text/plain;\nlocation / {\nreturn 200 \
                    \"$server_protocol|$host|$http_te|$http_cookie|$http_connection|$http_keep_alive|\
                    $http_upgrade|$http_transfer_encoding|$http_x_hop|$content_length\";\n}";

#[test]
fn from_http_2_to_http_1() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let request = get("/public?q=1")
        .host("orders.test:8080")
        .header("cookie", "a=b")
        .header("cookie", "c=d; e=f")
        .header("te", "trailers");
    assert_eq!(gateway.send_over(Wire::H2c, &request).status, 200);
    let seen = upstream.only();
    assert_eq!(seen.target, "/public?q=1");
    assert_eq!(seen.header("host"), Some("orders.test:8080"));
    // A server of HTTP/1.1 would read the first alone (RFC 9113 section 8.2.3).
    assert_eq!(seen.header("cookie"), Some("a=b; c=d; e=f"));
    // It is for the next hop, and `Connection` would have to name it (RFC 9110 section 10.1.4).
    assert_eq!(seen.header("te"), None);
    let names: Vec<&str> = seen.headers.iter().map(|(name, _)| &**name).collect();
    assert!(!names.iter().any(|name| name.starts_with(':')), "{names:?}");
    upstream.forget();
    for (request, framing) in [
        (post("/public", vec![b'x'; 100_000]), ("content-length", "100000")),
        (post("/public", vec![b'x'; 100_000]).streamed(), ("transfer-encoding", "chunked")),
    ] {
        assert_eq!(gateway.send_over(Wire::H2c, &request).status, 200);
        let seen = upstream.only();
        assert_eq!(seen.header(framing.0), Some(framing.1), "{seen:?}");
        assert!(seen.body.complete && seen.body.length == 100_000);
        upstream.forget();
    }
}

#[test]
fn from_http_1_to_http_2() {
    let server = Nginx::start("http2", SEEN);
    let setup = Setup::in_front_of_address(server.address()).upstream("protocol = \"http2\"");
    let gateway = setup.start();
    let request = get("/public")
        .host("orders.test:8080")
        .header("Cookie", "a=b; c=d")
        .header("TE", "trailers")
        .header("Keep-Alive", "timeout=5")
        .header("X-Hop", "for the gateway")
        .header("Connection", "keep-alive, TE, X-Hop");
    let seen = gateway.send(&request).text();
    let seen: Vec<&str> = seen.split('|').collect();
    assert_eq!(seen[..2], ["HTTP/2.0", "orders.test"]);
    assert!(matches!(seen[2], "" | "trailers"), "{seen:?}");
    assert_eq!(seen[3..9], ["a=b; c=d", "", "", "", "", ""]);
    for request in [post("/public", "hello"), post("/public", "hello").streamed()] {
        let seen = gateway.send(&request).text();
        assert!(seen.starts_with("HTTP/2.0|gateway.test|"), "{seen}");
    }
    // HTTP/1.0 has a host too.
    let old = b"GET /public HTTP/1.0\r\nHost: orders.test\r\n\r\n";
    let seen = gateway.send_raw(old).unwrap().text();
    assert!(seen.starts_with("HTTP/2.0|orders.test|"), "{seen}");
}

#[test]
fn an_answers_connection_fields_stay_behind_whoever_asks() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.start(
            200,
            &[
                ("Connection", "keep-alive"),
                ("Keep-Alive", "timeout=5"),
                ("X-Kept", "yes"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", "X-After"),
            ],
        )?;
        exchange.write(&chunk(b"hello"))?;
        exchange.write(b"0\r\nX-After: y\r\n\r\n")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let answer = gateway.send_over(Wire::H2c, &get("/public"));
    assert_eq!((answer.status, &*answer.text()), (200, "hello"));
    assert_eq!(answer.header("x-kept"), Some("yes"));
    for name in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(answer.header(name), None, "{answer:?}");
    }
}
