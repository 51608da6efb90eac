//! PROXY headers: whose connections begin with one, what is believed of it, and that nobody else is
//! heard.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{
    Authority, Connection, Gateway, Setup, TlsClient, Upstream, assert_refused, eventually,
    free_address, get,
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n";

fn v2(command: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, 0x11][..], &length, payload].concat()
}

/// 192.0.2.9, with a TLV behind the addresses.
fn v2_with_tlv() -> Vec<u8> {
    v2(1, &[192, 0, 2, 9, 10, 0, 0, 1, 0x13, 0x88, 1, 187, 4, 0, 2, 0, 0])
}

fn start(server: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    let server = format!("proxy_protocol_from = [\"127.0.0.0/8\"]\n{server}");
    (Setup::in_front_of(&upstream).server(&server).start(), upstream)
}

fn behind(gateway: &Gateway, header: &[u8]) -> Connection {
    let mut connection = gateway.connect();
    connection.send(header).unwrap();
    connection
}

fn refused(gateway: &Gateway) -> f64 {
    gateway.metric("keygate_connections_refused_total{reason=\"proxy_header\"}")
}

#[test]
fn the_address_in_the_header_is_the_clients() {
    let (gateway, upstream) = start("");
    for (header, address) in [
        (V1.to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n".to_vec(), "2001:db8::7"),
        (v2_with_tlv(), "192.0.2.9"),
        // The balancer's own.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0, &[]), "127.0.0.1"),
    ] {
        // For all requests of the connection, in whatever pieces the header comes.
        let mut connection = gateway.connect();
        for piece in header.chunks(9) {
            connection.send(piece).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(connection.exchange(&get("/public")).unwrap().status, 200);
            assert_eq!(upstream.only().header("x-forwarded-for"), Some(address));
            upstream.forget();
        }
        // And if it comes with the request.
        let together = [header, get("/public").to_h1()].concat();
        assert_eq!(behind(&gateway, &together).answer("GET").unwrap().status, 200);
        assert_eq!(upstream.only().header("x-forwarded-for"), Some(address));
        upstream.forget();
    }
    assert!(refused(&gateway) < 0.5);
}

#[test]
fn failed_attempts_and_networks_go_by_the_address_in_the_header() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).failed_auth("rate = \"3/minute\"");
    let gateway = setup.server("proxy_protocol_from = [\"127.0.0.1\"]").start();
    let wrong = get("/v1/orders").bearer("sk_live_wrong");
    let mut one = behind(&gateway, V1);
    for _ in 0..3 {
        assert_eq!(one.exchange(&wrong).unwrap().status, 401);
    }
    assert_refused(&behind(&gateway, V1).exchange(&wrong).unwrap(), 429, "too_many_failures");
    assert_eq!(behind(&gateway, &v2_with_tlv()).exchange(&wrong).unwrap().status, 401);
}

#[test]
fn a_connection_without_a_good_header_is_closed_and_counted() {
    let (gateway, upstream) = start("handshake_timeout = \"500ms\"");
    let mut count = 0.0;
    for start in [
        &b"GET /public HTTP/1.1\r\nHost: gateway.test\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n",
        b"PROXY TCP9 192.0.2.7 10.0.0.1 5000 443\r\n",
        &[b'P'; 200],
        &v2(7, &[]),
        b"\x16\x03\x01\x02\0",
        // These take too long.
        b"PROXY TCP4 192.0.2.7",
        b"",
    ] {
        let mut stream = TcpStream::connect(gateway.proxy).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(start).unwrap();
        // Closed, or reset on what it did not read; not a word either way.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{:?}", String::from_utf8_lossy(start));
        count += 1.0;
        eventually("one more refused", || (refused(&gateway) >= count).then_some(()));
    }
    upstream.saw_nothing();
}

#[test]
fn nobody_else_is_heard() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).server("proxy_protocol_from = [\"10.0.0.0/8\"]");
    let gateway = setup.start();
    let answer = gateway.send_raw(&[V1, &get("/public").to_h1()].concat());
    assert_eq!(answer.unwrap().status, 400);
    assert_eq!(gateway.send(&get("/public")).status, 200);
    assert_eq!(upstream.only().header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn tls_comes_behind_the_header() {
    let (upstream, authority, address) = (Upstream::start(), Authority::new("ca"), free_address());
    let signed = authority.sign(&["one.test"]);
    let tls = format!(
        "[[server.tls]]\nlisten = [\"{address}\"]\n\
         certificates = [{{ cert_file = {:?}, key_file = {:?} }}]\n",
        signed.certificate, signed.key
    );
    let setup = Setup::in_front_of(&upstream).tables(&tls);
    let gateway = setup.server("proxy_protocol_from = [\"127.0.0.1\"]").start();
    let client = TlsClient::new(&authority, "one.test", &["http/1.1"], None);
    for (header, source) in [(V1.to_vec(), "192.0.2.7"), (v2_with_tlv(), "192.0.2.9")] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&header).unwrap();
        let mut connection = client.over(stream).unwrap();
        let answer = connection.say(&get("/public").to_h1(), "true}");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = upstream.only();
        assert_eq!(seen.header("x-forwarded-for"), Some(source));
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        upstream.forget();
    }
    assert!(client.connect(address).is_err(), "without a header there is no handshake");
    eventually("the refusal", || (refused(&gateway) >= 1.0).then_some(()));
}
