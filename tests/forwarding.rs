//! What the upstream is told, what the client gets back, and what becomes of the connection.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Answer, Broken, Gateway, KeySpec, Request, Setup, Upstream, Wire, assert_refused, chunk,
    free_address, get, post, request,
};

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

#[test]
fn the_upstream_is_told_who_calls() {
    let (gateway, upstream) = start();
    let spec = KeySpec::new(&["read:orders", "write:orders"]);
    let key = gateway.key_with(&spec.app("granted_scopes", json!(["read:orders", "admin:orders"])));
    for wire in Wire::BOTH {
        let request = get("/v1/orders").bearer(&key.key).host("api.gateway.test:8080");
        assert_eq!(gateway.send_over(wire, &request).status, 200);
        let seen = upstream.only();
        assert_eq!(seen.header("x-keygate-key-id"), Some(&*key.id));
        assert_eq!(seen.header("x-keygate-app-id"), Some(&*key.app));
        assert_eq!(seen.header("x-keygate-account-id"), Some(&*key.account));
        assert_eq!(seen.header("x-keygate-environment"), Some("live"));
        assert_eq!(seen.header("x-keygate-scopes"), Some("read:orders write:orders"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert_eq!(seen.header("x-forwarded-host"), Some("api.gateway.test:8080"));
        assert_eq!(seen.header("authorization"), None);
        upstream.forget();
    }
}

#[test]
fn other_headers_and_the_body_arrive_as_they_were() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["write:orders"]);
    for wire in Wire::BOTH {
        for streamed in [false, true] {
            let request = Request { streamed, ..post("/v1/orders", "{\"n\":1}") };
            let request = request
                .bearer(&key)
                .header("Content-Type", "application/json")
                .header("X-Custom", "a, b")
                .header("Cookie", "session=1; other=2")
                .header("Accept-Encoding", "br, gzip")
                .header("Idempotency-Key", "k-1");
            assert_eq!(gateway.send_over(wire, &request).status, 200);
            upstream.wait_for(1);
            let seen = upstream.only();
            assert_eq!(seen.method, "POST");
            assert_eq!(seen.header("x-custom"), Some("a, b"));
            assert_eq!(seen.header("cookie"), Some("session=1; other=2"));
            assert_eq!(seen.header("accept-encoding"), Some("br, gzip"));
            assert_eq!(seen.header("idempotency-key"), Some("k-1"));
            assert_eq!(seen.header("content-type"), Some("application/json"));
            assert_eq!(seen.body.start, b"{\"n\":1}");
            assert!(seen.body.complete);
            upstream.forget();
        }
    }
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let request = get("/v1/orders")
        .bearer(&key)
        .header("Connection", "keep-alive, X-Hop")
        .header("Keep-Alive", "timeout=5")
        .header("X-Hop", "1")
        .header("Proxy-Connection", "keep-alive");
    assert_eq!(gateway.send(&request).status, 200);
    let seen = upstream.only();
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{seen:?}");
    }
}

#[test]
fn every_answer_carries_the_request_id_that_the_upstream_saw() {
    let (gateway, upstream) = start();
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, &get("/public"));
        let id = answer.request_id();
        assert!(!id.is_empty() && id.len() <= 128, "{id}");
        assert_eq!(upstream.only().header("x-request-id"), Some(&*id));
        upstream.forget();
        let kept = gateway.send_over(wire, &get("/public").header("X-Request-Id", "a.B-3_z"));
        assert_eq!(kept.request_id(), "a.B-3_z");
        assert_eq!(upstream.only().header("x-request-id"), Some("a.B-3_z"));
        upstream.forget();
        let refused = gateway.send_over(wire, &get("/v1/orders").header("X-Request-Id", "mine"));
        assert_eq!((refused.request_id(), refused.status), ("mine".into(), 401));
        for wrong in ["", "a b", "a/b", "é", "<script>", &"a".repeat(129)] {
            let answer = gateway.send_over(wire, &get("/public").header("X-Request-Id", wrong));
            let id = answer.request_id();
            assert!(id != wrong && !id.is_empty(), "{wrong:?} was kept");
            assert_eq!(upstream.only().header("x-request-id"), Some(&*id));
            upstream.forget();
        }
    }
}

#[test]
fn two_request_ids_are_not_believed() {
    let (gateway, upstream) = start();
    let request = get("/public").header("X-Request-Id", "one").header("X-Request-Id", "two");
    let answer = gateway.send(&request);
    let seen = upstream.only();
    assert_eq!(seen.header("x-request-id"), Some(&*answer.request_id()));
}

#[test]
fn where_a_client_says_it_is_counts_only_from_a_trusted_proxy() {
    let forwarded = |trusted: &str, sent: &[&str]| {
        let upstream = Upstream::start();
        let setup = Setup::in_front_of(&upstream);
        let gateway = setup.server(&format!("trusted_proxies = [{trusted}]")).start();
        let headers = sent.iter().fold(get("/public"), |r, v| r.header("X-Forwarded-For", v));
        assert_eq!(gateway.send(&headers).status, 200);
        upstream.only().header("x-forwarded-for").map(str::to_owned)
    };
    let is = |value: &str| Some(value.to_owned());
    assert_eq!(forwarded("", &["198.51.100.7"]), is("127.0.0.1"));
    assert_eq!(forwarded("\"10.0.0.0/8\"", &["198.51.100.7"]), is("127.0.0.1"));
    assert_eq!(forwarded("\"127.0.0.1/32\"", &[]), is("127.0.0.1"));
    assert_eq!(forwarded("\"127.0.0.1/32\"", &["198.51.100.7"]), is("198.51.100.7, 127.0.0.1"));
}

#[test]
fn behind_a_trusted_proxy_the_client_is_the_last_address_that_is_not_one() {
    let upstream = Upstream::start();
    let trusted = "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]";
    let gateway = Setup::in_front_of(&upstream).server(trusted).start();
    let spec = KeySpec::new(&["read:orders"]).with("allowed_cidrs", json!(["198.51.100.0/24"]));
    let key = gateway.key_with(&spec).key;
    let status = |forwarded: &str| {
        let request = get("/v1/orders").bearer(&key).header("X-Forwarded-For", forwarded);
        gateway.send(&request).status
    };
    assert_eq!(status("198.51.100.7"), 200);
    assert_eq!(status("198.51.100.7, 10.1.2.3"), 200);
    assert_eq!(status("192.0.2.1"), 403);
    // What stands to the left was written by the client itself.
    assert_eq!(status("198.51.100.7, 192.0.2.1"), 403);
    assert_eq!(status("198.51.100.7, nonsense"), 403);
}

#[test]
fn a_hop_that_a_trusted_proxy_wrote_with_its_port_is_that_address() {
    let upstream = Upstream::start();
    let trusted = "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]";
    let gateway = Setup::in_front_of(&upstream).server(trusted).start();
    let cidrs = json!(["192.0.2.0/24", "2001:db8::/32"]);
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("allowed_cidrs", cidrs)).key;
    for (forwarded, status) in [
        ("192.0.2.1:1234", 200),
        ("[2001:db8::1]:80", 200),
        ("[2001:db8::1]", 200),
        ("192.0.2.1:1234, 10.1.2.3:80", 200),
        ("203.0.113.9:1234", 403),
        ("[2001:db9::1]:80", 403),
        // The nearest that is no proxy of ours counts, with a port or without.
        ("192.0.2.1:1234, 203.0.113.9:80", 403),
        ("192.0.2.1:99999", 403),
    ] {
        for wire in Wire::BOTH {
            let request = get("/v1/orders").bearer(&key).header("X-Forwarded-For", forwarded);
            let answer = gateway.send_over(wire, &request);
            assert_eq!(answer.status, status, "{forwarded} {wire:?}: {}", answer.text());
        }
    }
}

#[test]
fn a_trace_goes_on_and_a_broken_one_begins_anew() {
    let (gateway, upstream) = start();
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let trace_of = |sent: Option<&str>| {
        let request = sent.into_iter().fold(get("/public"), |r, v| r.header("traceparent", v));
        assert_eq!(gateway.send(&request).status, 200);
        let value = upstream.only().header("traceparent").map(str::to_owned).unwrap();
        upstream.forget();
        let parts: Vec<&str> = value.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2],
            "{value}"
        );
        assert_eq!(parts[0], "00");
        parts[1].to_owned()
    };
    assert_eq!(trace_of(Some(&format!("00-{TRACE}-b7ad6b7169203331-01"))), TRACE);
    let zeros = "0".repeat(32);
    for broken in [
        "nonsense".to_owned(),
        format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
        format!("00-{zeros}-b7ad6b7169203331-01"),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{TRACE}-b7ad6b7169203331"),
        format!("ff-{TRACE}-b7ad6b7169203331-01"),
        format!("00-{TRACE}-b7ad6b7169203331-01-x"),
    ] {
        let trace = trace_of(Some(&broken));
        assert!(trace != TRACE && trace != zeros, "{broken}");
    }
    assert_ne!(trace_of(None), trace_of(None));
}

#[test]
fn an_answer_comes_back_as_the_upstream_gave_it() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let headers = [("X-Up", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")];
        let status = exchange.request.target.rsplit('/').next().unwrap().parse().unwrap();
        let body: &[u8] = if matches!(status, 204 | 304) { b"" } else { b"as it was" };
        exchange.answer(status, &headers, body)
    });
    let gateway = Setup::in_front_of(&upstream).start();
    for wire in Wire::BOTH {
        for status in [200, 201, 302, 401, 404, 418, 429, 500, 503] {
            let answer = gateway.send_over(wire, &get(&format!("/public/{status}")));
            assert_eq!((answer.status, &*answer.body), (status, &b"as it was"[..]));
            assert_eq!(answer.header("x-up"), Some("1"));
            let is_cookie = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("set-cookie");
            assert_eq!(answer.headers.iter().filter(is_cookie).count(), 2);
        }
    }
}

#[test]
fn a_refusal_keeps_the_connection() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders", "write:orders"]);
    let mut connection = gateway.connect();
    let mut send = |request: Request| connection.exchange(&request).map(|answer| answer.status);
    for _ in 0..3 {
        assert_eq!(send(get("/v1/orders")), Ok(401));
        assert_eq!(send(request("HEAD", "/v1/orders")), Ok(401));
        assert_eq!(send(get("/v1/transfers").bearer(&key)), Ok(403));
        assert_eq!(send(get("/nowhere")), Ok(404));
        assert_eq!(send(get("/v1//orders")), Ok(400));
        assert_eq!(send(post("/v1/orders", "a small body")), Ok(401));
        assert_eq!(send(get("/v1/orders").bearer(&key)), Ok(200));
        assert_eq!(send(post("/v1/orders", "{}").bearer(&key)), Ok(200));
    }
    assert_eq!(upstream.seen().len(), 6);
}

#[test]
fn a_client_sees_why_its_upload_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for request in [
        post("/v1/orders", vec![b'x'; 8 << 20]),
        post("/v1/orders", vec![b'x'; 1 << 20]).streamed(),
    ] {
        let mut connection = gateway.connect();
        connection.send(&request.to_h1()).expect("the whole body can be sent");
        let answer = connection.answer("POST").unwrap();
        assert_refused(&answer, 401, "api_key_missing");
        let answer = gateway.send_over(Wire::H2c, &request);
        assert_refused(&answer, 401, "api_key_missing");
    }
    upstream.saw_nothing();
}

#[test]
fn an_upload_that_is_refused_is_not_read_for_ever() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let mut connection = gateway.connect();
    let head = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    let part = chunk(&[b'x'; 64 * 1024]);
    // 4 GiB: far beyond any bound that a gateway could be meant to have.
    let refused = (0..65_536).find(|_| connection.send(&part).is_err());
    assert!(refused.is_some(), "the gateway read 4 GiB of a body that it had refused");
}

#[test]
fn a_client_that_waits_for_100_is_refused_without_its_body() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["write:orders"]);
    let expecting = |auth: &str| {
        format!(
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut connection = gateway.connect();
    connection.send(expecting("").as_bytes()).unwrap();
    assert_refused(&connection.answer("POST").unwrap(), 401, "api_key_missing");
    // The next request must not be taken for the body that was never sent.
    let _ = connection.send(&get("/v1/orders/after").to_h1());
    match connection.answer("GET") {
        Ok(answer) => assert_refused(&answer, 401, "api_key_missing"),
        Err(broken) => assert_eq!(broken, Broken::Closed),
    }
    upstream.saw_nothing();
    let mut connection = gateway.connect();
    connection.send(expecting(&format!("X-API-Key: {key}\r\n")).as_bytes()).unwrap();
    connection.send(b"hello").unwrap();
    assert_eq!(connection.answer("POST").unwrap().status, 200);
    assert_eq!(upstream.only().body.start, b"hello");
}

#[test]
fn an_upstream_that_is_not_there_is_an_upstream_error() {
    let gateway = Setup::in_front_of_address(free_address()).start();
    for wire in Wire::BOTH {
        assert_refused(&gateway.send_over(wire, &get("/public")), 502, "upstream_error");
        let upload = post("/public", vec![b'x'; 100_000]);
        assert_refused(&gateway.send_over(wire, &upload), 502, "upstream_error");
    }
}

#[test]
fn an_upstream_that_says_nothing_is_a_timeout() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        // Until the gateway gives up.
        exchange.read(&mut [0]).map(drop)
    });
    let gateway = Setup::in_front_of(&upstream).upstream("read_timeout = \"300ms\"").start();
    for wire in Wire::BOTH {
        assert_refused(&gateway.send_over(wire, &get("/public")), 504, "upstream_timeout");
    }
}

/// What follows a 101 is passed on as it comes: nobody asked for that here.
#[test]
fn an_upstream_that_switches_protocols_unasked_is_an_upstream_error() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n")?;
        exchange.write(b"Connection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    for asked in [get("/public"), post("/public", "hello")] {
        assert_refused(&gateway.send(&asked), 502, "upstream_error");
    }
    // One that asks for something else does not get the tunnel either.
    let h2c = get("/public").header("Connection", "Upgrade").header("Upgrade", "h2c");
    assert_refused(&gateway.send(&h2c), 502, "upstream_error");
}

/// Tests run with the log at `trace`, at which Pingora would have panicked.
#[test]
fn an_answer_whose_headers_are_no_text_is_passed_on() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.write(b"HTTP/1.1 200 OK\r\nX-Name: \xc3\xa9\xff\r\nContent-Length: 2\r\n\r\nok")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    assert_eq!(gateway.send(&get("/public")).status, 200);
}

#[test]
fn an_upstream_that_breaks_off_or_talks_nonsense_is_an_upstream_error() {
    for nonsense in ["", "HTTP/1.1 2", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n"] {
        let upstream = Upstream::answering(move |exchange| {
            exchange.read_body()?;
            exchange.close();
            exchange.write(nonsense.as_bytes())
        });
        let mut gateway = Setup::in_front_of(&upstream).start();
        for wire in Wire::BOTH {
            assert_refused(&gateway.send_over(wire, &get("/public")), 502, "upstream_error");
        }
        gateway.is_alive_and_well();
    }
}

#[test]
fn a_broken_answer_is_not_passed_off_as_whole() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.close();
        if exchange.request.target == "/public/chunked" {
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            exchange.write(&chunk(b"half"))
        } else {
            exchange.start(200, &[("Content-Length", "100")])?;
            exchange.write(b"half")
        }
    });
    let gateway = Setup::in_front_of(&upstream).start();
    for path in ["/public/chunked", "/public/length"] {
        let answer = gateway.connect().exchange(&get(path));
        assert!(matches!(answer, Err(Broken::Cut | Broken::Closed)), "{path}: {answer:?}");
        let answer = gateway.try_send_over(Wire::H2c, &get(path));
        assert!(answer.is_err(), "{path}: {answer:?}");
    }
}

#[test]
fn an_upstreams_connection_that_went_stale_costs_no_request() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.close();
        exchange.answer(200, &[], b"once")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    for _ in 0..20 {
        assert_eq!(gateway.send(&get("/public")).status, 200);
    }
}

#[test]
fn a_grpc_call_is_refused_in_its_own_way() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let call = |path: &str| {
        post(path, vec![0, 0, 0, 0, 0]).header("Content-Type", "application/grpc+proto")
    };
    let check = |request: Request, status: &str, code: &str| {
        let answer = gateway.send_over(Wire::H2c, &request.header("TE", "trailers"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.ended_with_head, "trailers-only has END_STREAM on its head: {answer:?}");
        let content_type = answer.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("application/grpc"), "{answer:?}");
        assert_eq!(answer.header("grpc-status"), Some(status));
        assert!(answer.header("grpc-message").is_some_and(|m| m.contains(code)), "{answer:?}");
        assert!(!answer.request_id().is_empty());
        assert!(answer.body.is_empty());
    };
    check(call("/any/Service/Method"), "16", "api_key_missing");
    check(call("/any/Service/Method").bearer("nonsense"), "16", "api_key_invalid");
    check(call("/v1/orders").bearer(&key), "7", "permission_denied");
    check(call("/v1/sandbox").bearer(&key), "7", "environment_mismatch");
    upstream.saw_nothing();
}

#[test]
fn a_websocket_of_a_good_key_is_a_tunnel() {
    let upstream = Upstream::answering(|exchange| {
        exchange.close();
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
        let mut bytes = [0; 5];
        let count = exchange.read(&mut bytes)?;
        exchange.write(&bytes[..count])
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let mut connection = gateway.connect();
    let request = get("/v1/orders")
        .bearer(&key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    let Answer { status, .. } = connection.exchange(&request).unwrap();
    assert_eq!(status, 101);
    connection.send(b"hello").unwrap();
    connection.read_timeout(Duration::from_secs(10));
    assert_eq!(connection.read_some().as_deref(), Ok(&b"hello"[..]));
    let seen = upstream.only();
    assert!(seen.header("x-keygate-key-id").is_some());
    assert_eq!(seen.header("authorization"), None);
}

/// The upstream's 101 may be there before the gateway has done with the request.
#[test]
fn a_tunnel_stays_open_however_fast_the_upstream_answers() {
    const CLIENTS: usize = 6;
    const TUNNELS: usize = 150;
    let upstream = Upstream::answering(|exchange| {
        if exchange.request.target == "/public/declined" {
            exchange.read_body()?;
            return exchange.answer(200, &[], b"no");
        }
        exchange.close();
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
        let mut bytes = [0; 5];
        let count = exchange.read(&mut bytes)?;
        exchange.write(&bytes[..count])
    });
    let gateway = Setup::in_front_of(&upstream).log("info").start();
    let upgrade =
        |target| get(target).header("Connection", "Upgrade").header("Upgrade", "websocket");
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for round in 0..TUNNELS {
                    let mut tunnel = gateway.connect();
                    let answer = tunnel.exchange(&upgrade("/public/tunnel")).unwrap();
                    assert_eq!(answer.status, 101);
                    tunnel.send(b"hello").unwrap();
                    assert_eq!(tunnel.read_some().as_deref(), Ok(&b"hello"[..]), "round {round}");
                }
                // Who is declined goes on as before.
                let mut declined = gateway.connect();
                for _ in 0..3 {
                    let answer = declined.exchange(&upgrade("/public/declined")).unwrap();
                    assert_eq!((answer.status, &*answer.body), (200, &b"no"[..]));
                }
            });
        }
    });
}
