//! Requests made to confuse, to smuggle and to forge. The gateway answers or closes, stays up, and
//! nothing reaches an upstream undecided or under a false name.

use crate::harness::{
    Answer, Broken, Gateway, Request, Setup, Upstream, Wire, assert_refused, chunk, get, post,
    request,
};

/// What nobody may bring past the gateway.
const FORGED: &str = "forged-by-a-client";

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

/// A problem of ours, or a connection closed without a word; nothing else.
#[track_caller]
fn assert_refused_somehow(answer: &Result<Answer, Broken>) {
    match answer {
        Ok(answer) => {
            assert!((400..500).contains(&answer.status), "{answer:?}");
            assert!(!answer.code().is_empty(), "no code: {answer:?}\n{}", answer.text());
        }
        Err(broken) => assert_eq!(*broken, Broken::Closed),
    }
}

#[test]
fn an_upgrade_is_decided_like_any_request() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for protocol in ["websocket", "WebSocket", "h2c", "TLS/1.0", "anything", "websocket, h2c"] {
        let upgrade = || {
            get("/v1/orders")
                .header("Connection", "Upgrade, HTTP2-Settings")
                .header("Upgrade", protocol)
                .header("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("Sec-WebSocket-Version", "13")
        };
        assert_refused(&gateway.send(&upgrade()), 401, "api_key_missing");
        let transfers = Request { target: "/v1/transfers".into(), ..upgrade() };
        assert_refused(&gateway.send(&transfers.bearer(&key)), 403, "permission_denied");
        upstream.saw_nothing();
        gateway.send(&upgrade().bearer(&key));
        for seen in upstream.seen() {
            assert!(seen.header("x-keygate-key-id").is_some(), "{protocol}: {seen:?}");
            let upgraded = seen.header("upgrade").unwrap_or_default();
            assert!(!upgraded.contains("h2c"), "an h2c upgrade would open a tunnel: {seen:?}");
        }
        upstream.forget();
    }
}

#[test]
fn what_follows_an_upgrade_that_was_declined_is_not_forwarded_undecided() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let upgrade = get("/v1/orders")
        .bearer(&key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    let smuggled = get("/v1/transfers").header("X-Keygate-Key-Id", FORGED);
    let mut connection = gateway.connect();
    connection.send(&[upgrade.to_h1(), smuggled.to_h1()].concat()).unwrap();
    let first = connection.answer("GET");
    assert!(first.is_ok(), "{first:?}");
    // Either refused like any other request, or thrown away with the connection.
    assert_refused_somehow(&connection.answer("GET"));
    assert!(
        upstream.seen().iter().all(|seen| seen.target == "/v1/orders"),
        "{:?}",
        upstream.seen()
    );
}

#[test]
fn connect_opens_no_tunnel() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let target = upstream.address().to_string();
    let raw = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    assert_refused_somehow(&gateway.send_raw(raw.as_bytes()));
    let raw = format!("CONNECT /v1/orders HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
    assert_refused_somehow(&gateway.send_raw(raw.as_bytes()));
    let h2 = gateway.try_send_over(Wire::H2c, &request("CONNECT", &target).api_key(&key));
    assert!(h2.as_ref().is_err() || h2.is_ok_and(|answer| answer.status >= 400));
    upstream.saw_nothing();
}

#[test]
fn an_absolute_target_is_read_as_its_path_or_refused() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let send = |target: &str, headers: &str| {
        gateway.send_raw(format!("GET {target} HTTP/1.1\r\n{headers}\r\n").as_bytes())
    };
    let same = send("http://gateway.test/v1/orders", "Host: gateway.test\r\n");
    assert_refused_somehow(&same);
    let other = send("http://evil.test/public", "Host: gateway.test\r\n");
    assert_refused_somehow(&other);
    let metadata = send("http://169.254.169.254/public", "Host: gateway.test\r\n");
    assert_refused_somehow(&metadata);
    upstream.saw_nothing();
    let headers = format!("Host: gateway.test\r\nAuthorization: Bearer {key}\r\n");
    let with_key = send("http://gateway.test/v1/orders?a=1", &headers);
    match with_key {
        Ok(Answer { status: 200, .. }) => assert_eq!(upstream.only().target, "/v1/orders?a=1"),
        other => assert_refused_somehow(&other),
    }
}

#[test]
fn other_forms_of_target_are_refused() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for target in
        ["*", "v1/orders", "gateway.test:80", "/v1/orders#x", "//gateway.test/v1/orders", "?"]
    {
        let raw =
            format!("OPTIONS {target} HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: {key}\r\n\r\n");
        assert_refused_somehow(&gateway.send_raw(raw.as_bytes()));
    }
    upstream.saw_nothing();
}

#[test]
fn nobody_forges_an_identity() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for name in [
        "X-Keygate-Key-Id",
        "x-keygate-key-id",
        "X-KEYGATE-SCOPES",
        "x-Keygate-aCCOUNT-Id",
        "X_Keygate_Key_Id",
        "x_keygate-app_id",
        "X-Keygate_Environment",
        "X-Keygate-",
        "X-Keygate-Something-New",
        "X_Request_Id",
        "X_Forwarded_For",
        "X-Forwarded_Host",
        "X_Forwarded-Proto",
    ] {
        for wire in Wire::BOTH {
            for request in [get("/v1/orders").bearer(&key), get("/public")] {
                let answer = gateway.send_over(wire, &request.header(name, FORGED));
                assert_eq!(answer.status, 200, "{name} {wire:?}: {}", answer.text());
                let seen = upstream.only();
                let raw = String::from_utf8_lossy(&seen.raw);
                assert!(!raw.contains(FORGED), "{name} {wire:?}: {raw}");
                upstream.forget();
            }
        }
    }
}

#[test]
fn a_client_cannot_have_identity_headers_stripped_as_hop_by_hop() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    for nominated in [
        "x-keygate-key-id",
        "X-Keygate-Scopes, X-Keygate-App-Id",
        "close, x-keygate-account-id, x-request-id, x-forwarded-for, traceparent",
        "x-forwarded-host, x-forwarded-proto, host",
        "authorization",
    ] {
        let request = get("/v1/orders").bearer(&key).header("Connection", nominated);
        let answer = gateway.send(&request);
        if answer.status != 200 {
            assert_refused(&answer, 400, "bad_request");
            upstream.saw_nothing();
            continue;
        }
        let seen = upstream.only();
        for name in ["key-id", "app-id", "account-id", "environment", "scopes"] {
            let value = seen.header(&format!("x-keygate-{name}"));
            assert!(value.is_some_and(|value| !value.is_empty()), "{nominated}: {seen:?}");
        }
        for name in ["x-request-id", "x-forwarded-for", "x-forwarded-host", "traceparent", "host"] {
            assert!(seen.header(name).is_some(), "{nominated} took {name}: {seen:?}");
        }
        assert_eq!(seen.header("authorization"), None);
        upstream.forget();
    }
}

#[test]
fn what_is_not_one_clear_request_is_refused() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders", "write:orders"]);
    let auth = format!("X-API-Key: {key}\r\n");
    let mut wrong = Vec::new();
    for (what, head) in [
        ("no Host", "GET /v1/orders HTTP/1.1\r\n"),
        ("HTTP/1.0 without Host", "GET /v1/orders HTTP/1.0\r\n"),
        ("two Hosts", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nHost: a\r\n"),
        ("two different Hosts", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n"),
        ("an empty Host", "GET /v1/orders HTTP/1.1\r\nHost:\r\n"),
        ("a Host with a path", "GET /v1/orders HTTP/1.1\r\nHost: a/b\r\n"),
        ("a Host with a user", "GET /v1/orders HTTP/1.1\r\nHost: a@b\r\n"),
        (
            "both lengths",
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "two lengths",
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        ),
        ("a list of lengths", "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n"),
        ("a signed length", "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n"),
        ("a negative length", "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n"),
        ("a hex length", "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n"),
        (
            "a huge length",
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n",
        ),
        ("an unknown coding", "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n"),
        (
            "a coding with tabs",
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n",
        ),
        (
            "a coding twice",
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        ("a space before the colon", "GET /v1/orders HTTP/1.1\r\nHost : a\r\n"),
        ("a folded header", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n"),
        ("a header without a colon", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nnonsense\r\n"),
        ("NUL in a value", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n"),
        ("CR in a value", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n"),
        ("a control byte in a value", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nA: b\x01c\r\n"),
        ("a control byte in a name", "GET /v1/orders HTTP/1.1\r\nHost: a\r\nA\x01: b\r\n"),
        ("NUL in the path", "GET /v1/orders\0 HTTP/1.1\r\nHost: a\r\n"),
        ("a control byte in the path", "GET /v1/orders\x01 HTTP/1.1\r\nHost: a\r\n"),
        ("a control byte in the query", "GET /v1/orders?\x01 HTTP/1.1\r\nHost: a\r\n"),
        ("a space in the path", "GET /v1/orders /x HTTP/1.1\r\nHost: a\r\n"),
        ("an unknown version", "GET /v1/orders HTTP/3.7\r\nHost: a\r\n"),
        ("no version", "GET /v1/orders\r\nHost: a\r\n"),
    ] {
        let answer = gateway.send_raw(format!("{head}{auth}\r\n").as_bytes());
        println!("{what}: {answer:?}");
        match answer {
            Ok(answer) if answer.status == 400 && !answer.code().is_empty() => {}
            Ok(_) | Err(_) => wrong.push(what),
        }
        upstream.saw_nothing();
    }
    assert!(wrong.is_empty(), "not refused with 400 and a code: {wrong:#?}");
}

#[test]
fn a_request_in_another_ones_body_stays_a_body() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["write:orders"]);
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = [chunk(inner.as_bytes()), chunk(b"")].concat();
    let zero_first = [chunk(b""), inner.as_bytes().to_vec()].concat();
    for (headers, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", &zero_first),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", &zero_first),
        ("Transfer-Encoding: xchunked\r\nContent-Length: 5", &zero_first),
        ("Transfer-Encoding: chunked, identity", &zero_first),
        ("Transfer-Encoding: identity, chunked\r\nContent-Length: 5", &zero_first),
        ("Transfer-Encoding:\tchunked", &zero_first),
        ("Transfer-Encoding: chunked", &chunked),
        ("Transfer_Encoding: chunked\r\nContent-Length: 5", &zero_first),
        ("Content-Length: 0\r\nContent_Length: 50", &inner.as_bytes().to_vec()),
    ] {
        let head = format!(
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{headers}\r\n\r\n"
        );
        let mut connection = gateway.connect();
        // A gateway that refuses may close before everything is sent.
        let _ = connection.send(&[head.as_bytes(), body].concat());
        connection.finish();
        while connection.answer("POST").is_ok() {}
        let smuggled = upstream.seen().iter().any(|seen| seen.target.contains("smuggled"));
        assert!(!smuggled, "{headers}: {:?}", upstream.seen());
        let in_clear = upstream.seen().iter().all(|seen| {
            seen.values("content-length").is_empty() || seen.values("transfer-encoding").is_empty()
        });
        assert!(in_clear, "{headers} was forwarded: {:?}", upstream.seen());
    }
}

#[test]
fn what_comes_after_a_chunked_body_is_no_header() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["write:orders"]);
    for trailer in [
        format!("X-Keygate-Key-Id: {FORGED}\r\n"),
        format!("x_keygate_scopes: {FORGED}\r\n"),
        format!("X-Other: {FORGED}\r\n"),
        "Content-Length: 0\r\n".into(),
        "nonsense\r\n".into(),
    ] {
        let raw = format!(
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTE: trailers\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailer}\r\n"
        );
        println!("{trailer}: {:?}", gateway.send_raw(raw.as_bytes()).map(|answer| answer.status));
        for seen in upstream.seen() {
            assert!(seen.body.trailers.is_empty(), "{:?}", seen.body.trailers);
        }
        upstream.forget();
    }
}

#[test]
fn no_metric_is_labelled_with_what_a_client_sent() {
    const MARK: &str = "m4rk3d";
    let (gateway, _upstream) = start();
    let key = gateway.key_with(&crate::harness::KeySpec::new(&["read:orders"]));
    for request in [
        get(&format!("/{MARK}")),
        get(&format!("/v1/orders/{MARK}?{MARK}={MARK}")).bearer(&key.key),
        get("/v1/orders").host(&format!("{MARK}.test")),
        get("/v1/orders").header(MARK, MARK).header("User-Agent", MARK),
        get("/v1/orders").bearer(MARK),
        get("/v1/orders").header("X-Request-Id", MARK),
        request(&MARK.to_uppercase(), "/v1/orders"),
        post(&format!("/v1/orders/{MARK}"), MARK),
    ] {
        for wire in Wire::BOTH {
            gateway.send_over(wire, &request);
        }
    }
    let metrics = gateway.metrics();
    assert!(!metrics.to_lowercase().contains(MARK), "{metrics}");
    for id in [&key.id, &key.app, &key.account] {
        assert!(!metrics.contains(id), "{metrics}");
    }
}

#[test]
fn a_hop_by_hop_trick_over_http2_is_refused_or_dropped() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["write:orders"]);
    for (name, value) in [("host", "evil.test"), ("te", "gzip"), ("x-api-key\u{20}", "x")] {
        let request = post("/v1/orders", "{}").bearer(&key).header(name, value);
        let answer = gateway.try_send_over(Wire::H2c, &request);
        println!("{name}: {answer:?}");
        match answer {
            Ok(Answer { status: 200, .. }) => {
                let seen = upstream.only();
                assert_ne!(seen.header("x-forwarded-host"), Some("evil.test"));
                assert_ne!(seen.header("te"), Some("gzip"));
            }
            // The stream may be refused below the layer that writes problems.
            Ok(answer) => {
                assert_eq!(answer.status, 400, "{answer:?}");
                upstream.saw_nothing();
            }
            Err(_) => upstream.saw_nothing(),
        }
        upstream.forget();
    }
}

#[test]
fn too_many_or_too_large_headers_are_refused() {
    let (gateway, upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let many = |count: usize| {
        (0..count).fold(get("/v1/orders").bearer(&key), |request, index| {
            request.header(&format!("x-{index}"), "1")
        })
    };
    let large = |size: usize| get("/v1/orders").bearer(&key).header("x-large", &"a".repeat(size));
    let long_path = get(&format!("/v1/orders?{}", "a".repeat(40_000))).bearer(&key);
    for wire in Wire::BOTH {
        assert_eq!(gateway.send_over(wire, &many(90)).status, 200);
        assert_eq!(gateway.send_over(wire, &large(30_000)).status, 200);
        upstream.forget();
        for request in [many(110), large(33_000), large(40_000), long_path.clone()] {
            println!(
                "{wire:?}: {} headers, {} bytes",
                request.headers.len(),
                request.to_h1().len()
            );
            assert_refused(&gateway.send_over(wire, &request), 431, "headers_too_large");
        }
        upstream.saw_nothing();
    }
    for request in [many(300), large(200_000), large(4_000_000)] {
        let answer = gateway.try_send_over(Wire::H1, &request);
        assert!(answer.as_ref().map_or(true, |a| matches!(a.status, 400 | 431)), "{answer:?}");
    }
    upstream.saw_nothing();
    assert_eq!(gateway.send(&many(10)).status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_is_sent() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).server("body_bytes_max = \"1KiB\"").start();
    let key = gateway.key(&["write:orders"]);
    for wire in Wire::BOTH {
        for size in [1_025, 100_000] {
            let declared = post("/v1/orders/declared", vec![b'x'; size]).bearer(&key);
            let answer = gateway.send_over(wire, &declared);
            assert_refused(&answer, 413, "payload_too_large");
            let streamed = post("/v1/orders/streamed", vec![b'x'; size]).bearer(&key).streamed();
            let answer = gateway.send_over(wire, &streamed);
            assert_refused(&answer, 413, "payload_too_large");
        }
        for request in [post("/v1/orders", vec![b'x'; 1_024]), post("/v1/orders", "x").streamed()] {
            let answer = gateway.send_over(wire, &request.bearer(&key));
            assert_eq!(answer.status, 200, "{wire:?}: {}", answer.text());
        }
    }
    let lying = format!(
        "POST /v1/orders/declared HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: {}\r\n\r\n",
        i64::MAX
    );
    assert_refused(&gateway.send_raw(lying.as_bytes()).unwrap(), 413, "payload_too_large");
    for seen in upstream.seen() {
        assert_ne!(seen.target, "/v1/orders/declared");
        // Without a length the upstream may see the beginning, but never a whole request.
        assert!(seen.target != "/v1/orders/streamed" || !seen.body.complete, "{seen:?}");
    }
}
