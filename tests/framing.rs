//! What is between a request and its final answer: a `100 Continue`, an older client's idea of a
//! body's end, a refusal in the middle of an upload.

use std::io;

use crate::harness::{Answer, Connection, Gateway, Setup, Upstream, assert_refused, chunk, post};

/// Sends a head that waits for `100 Continue`, and reads that.
#[track_caller]
fn expect_100(connection: &mut Connection, framing: &str) {
    let head =
        format!("POST /public HTTP/1.1\r\nHost: a\r\n{framing}\r\nExpect: 100-continue\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
}

#[test]
fn an_upstream_that_leaves_after_its_100_is_an_upstream_error() {
    let upstream = Upstream::answering(|exchange| {
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        // Closes.
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let mut gateway = Setup::in_front_of(&upstream).start();
    for body in [&b""[..], b"hello"] {
        let mut connection = gateway.connect();
        expect_100(&mut connection, "Content-Length: 5");
        // The gateway may have given up by now.
        let _ = connection.send(body);
        let answer = connection.answer("POST").unwrap();
        assert_refused(&answer, 502, "upstream_error");
    }
    gateway.is_alive_and_well();
}

#[test]
fn a_body_that_grows_too_large_after_a_100_is_refused() {
    let upstream = Upstream::answering(|exchange| {
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        exchange.read_body()?;
        exchange.answer(200, &[], b"")
    });
    let gateway = Setup::in_front_of(&upstream).server("body_bytes_max = \"1KiB\"").start();
    let mut connection = gateway.connect();
    expect_100(&mut connection, "Transfer-Encoding: chunked");
    let _ = connection.send(&[chunk(&[b'x'; 2_000]), chunk(b"")].concat());
    let answer = connection.answer("POST").unwrap();
    assert_refused(&answer, 413, "payload_too_large");
    assert!(!upstream.only().body.complete);
}

#[test]
fn an_http_1_0_client_gets_a_body_without_chunks_up_to_the_connections_end() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
        exchange.write(&chunk(b"hello "))?;
        exchange.write(&[chunk(b"world"), chunk(&[b'.'; 20_000]), chunk(b"")].concat())
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let expected = [&b"hello world"[..], &[b'.'; 20_000]].concat();
    for path in ["/public", "/v1/orders"] {
        for wish in ["", "Connection: keep-alive\r\n", "Connection: close\r\n"] {
            let raw = format!("GET {path} HTTP/1.0\r\nHost: a\r\nX-API-Key: {key}\r\n{wish}\r\n");
            let answer = gateway.send_raw(raw.as_bytes()).expect("the connection's end");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("transfer-encoding"), None);
            assert_eq!(answer.header("content-length"), None);
            let kept = answer.header("connection").unwrap_or_default();
            assert!(!kept.eq_ignore_ascii_case("keep-alive"), "{answer:?}");
            assert_eq!(answer.text(), String::from_utf8_lossy(&expected), "{wish:?}");
        }
    }
}

#[test]
fn over_http_1_1_a_grpc_content_type_is_refused_like_any_other() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
        let call = |length| post("/any", vec![b'x'; length]).header("Content-Type", content_type);
        assert_refused(&gateway.send(&call(5)), 401, "api_key_missing");
        for upload in [call(900_000), call(900_000).streamed()] {
            let mut connection = gateway.connect();
            connection.send(&upload.to_h1()).expect("the whole body can be sent");
            let answer = connection.answer("POST").expect("no reset");
            assert_refused(&answer, 401, "api_key_missing");
        }
    }
    upstream.saw_nothing();
}

/// Sends a body in chunks behind its head, in one piece.
fn answer_to_chunks(gateway: &Gateway, body: &str) -> Answer {
    let head = "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    gateway.send_raw(format!("{head}{body}").as_bytes()).unwrap()
}

#[test]
fn a_body_that_turns_out_to_be_none_is_refused_and_the_upstream_sees_no_end_of_it() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    for fault in ["\n0\r\n\r\n", "\r\n\r\n", "5\r\nhello0\r\n\r\n", "0\r\nA : b\r\n\r\n"] {
        upstream.forget();
        let mut connection = gateway.connect();
        let head = "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send(&[head.as_bytes(), &chunk(b"hello")].concat()).unwrap();
        // It has begun to be forwarded.
        upstream.wait_for(1);
        connection.send(fault.as_bytes()).unwrap();
        // Whatever the client goes on to send, it sees the answer.
        let _ = connection.send(&chunk(&[b'x'; 500_000]));
        assert_refused(&connection.answer("POST").unwrap(), 400, "bad_request");
        drop(connection);
        let seen = upstream.only();
        assert!(!seen.body.complete, "{fault:?}: {seen:?}");
    }
    gateway.is_alive_and_well();
}

#[test]
fn sizes_extensions_and_trailers_of_chunks_have_bounds() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let size = |digits: usize| format!("{:0>digits$}\r\nhello\r\n0\r\n\r\n", 5);
    let extension = |length: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(length - 1));
    let trailers = |count| format!("5\r\nhello\r\n0\r\n{}\r\n", "A: b\r\n".repeat(count));
    let trailer =
        |length: usize| format!("5\r\nhello\r\n0\r\nA:{}\r\n\r\n", "b".repeat(length - 4));
    for within in [size(15), extension(256), trailers(64), trailer(8 * 1024)] {
        assert_eq!(answer_to_chunks(&gateway, &within).status, 200, "{within}");
        assert_eq!(upstream.only().body.start, b"hello");
        upstream.forget();
    }
    for beyond in [size(16), extension(257), trailers(65), trailer(8 * 1024 + 1)] {
        assert_refused(&answer_to_chunks(&gateway, &beyond), 400, "bad_request");
    }
    assert!(upstream.seen().iter().all(|seen| !seen.body.complete));
}
