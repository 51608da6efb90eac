//! What a route changes of requests and answers: one clean path, one host, and headers, whatever the
//! client sends.

use crate::harness::{
    Gateway, H2Upstream, Request, Setup, Upstream, Wire, assert_refused, chunk, get, post, request,
    run,
};

/// A route of these lines at this path, with no key.
fn route(name: &str, path: &str, lines: &str) -> String {
    format!(
        "name = \"{name}\"\npath = \"{path}\"\nupstream = \"main\"\nauth = \"public\"\n{lines}\n"
    )
}

fn start(routes: &[String]) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    let setup = routes.iter().fold(Setup::in_front_of(&upstream), |s, route| s.route(route));
    (setup.start(), upstream)
}

/// What the upstream is asked for, over both protocols.
#[track_caller]
fn asked(gateway: &Gateway, upstream: &Upstream, target: &str) -> String {
    let [one, other] = Wire::BOTH.map(|wire| {
        upstream.forget();
        let answer = gateway.send_over(wire, &get(target));
        assert_eq!(answer.status, 200, "{target} {wire:?}: {}", answer.text());
        upstream.only().target
    });
    assert_eq!(one, other, "HTTP/1.1 and HTTP/2 differ");
    one
}

#[test]
fn the_front_of_the_path_changes_and_nothing_else() {
    let (gateway, upstream) = start(&[
        route("strip", "/strip/it", "strip_prefix = \"/strip\""),
        route("whole", "/whole", "strip_prefix = \"/whole\""),
        route("add", "/add", "add_prefix = \"/internal/api\""),
        route("both", "/v2/{id}", "strip_prefix = \"/v2\"\nadd_prefix = \"/v9\""),
        route("param", "/param/{id}/x", "strip_prefix = \"/param\""),
    ]);
    for (target, expect) in [
        ("/strip/it", "/it"),
        ("/strip/it/", "/it/"),
        ("/strip/it/strip/it", "/it/strip/it"),
        ("/whole", "/"),
        ("/whole/", "/"),
        ("/whole?a=1", "/?a=1"),
        ("/whole/x?a=1&b=%2F..%2f", "/x?a=1&b=%2F..%2f"),
        ("/whole/x?", "/x?"),
        ("/add", "/internal/api/add"),
        ("/add/a%20b%3a", "/internal/api/add/a%20b%3A"),
        ("/v2/7", "/v9/7"),
        ("/v2/7/lines?x", "/v9/7/lines?x"),
        ("/param/7/x/y", "/7/x/y"),
        ("/public/as/it/is?x=1", "/public/as/it/is?x=1"),
    ] {
        assert_eq!(asked(&gateway, &upstream, target), expect, "{target}");
    }
}

#[test]
fn however_a_path_is_spelt_the_upstream_sees_one_clean_path() {
    let (gateway, upstream) = start(&[
        route("colon", "/a:b", "strip_prefix = \"/a:b\"\nadd_prefix = \"/x\""),
        route("plain", "/plain", "strip_prefix = \"/plain\""),
    ]);
    for (target, expect) in [
        ("/a:b/c", "/x/c"),
        ("/a%3Ab/c", "/x/c"),
        ("/%61%3a%62/%63", "/x/c"),
        ("/%70lain/%7euser", "/~user"),
        // A prefix that comes twice goes once.
        ("/plain/plain", "/plain"),
    ] {
        assert_eq!(asked(&gateway, &upstream, target), expect, "{target}");
    }
    upstream.forget();
    for target in [
        "/plain//admin",
        "/plain/../admin",
        "/plain/%2e%2e/admin",
        "/plain/.",
        "/plain%2f..%2fadmin",
        "/plain/a;b",
        "/plain/%5c",
    ] {
        for wire in Wire::BOTH {
            assert_refused(&gateway.send_over(wire, &get(target)), 400, "ambiguous_path");
        }
    }
    upstream.saw_nothing();
}

/// The target in absolute form names a host of its own, which must not get through a rewritten path.
#[test]
fn a_target_in_absolute_form_is_rewritten_like_any_other() {
    let (gateway, upstream) = start(&[route("strip", "/strip", "strip_prefix = \"/strip\"")]);
    let request = b"GET http://gateway.test/strip/x?y=1 HTTP/1.1\r\nHost: gateway.test\r\n\r\n";
    assert_eq!(gateway.send_raw(request).unwrap().status, 200);
    let seen = upstream.only();
    assert_eq!((&*seen.target, seen.header("host")), ("/x?y=1", Some("gateway.test")));
}

#[test]
fn a_key_in_the_query_of_a_rewritten_path_goes() {
    let lines = "name = \"q\"\npath = \"/q\"\nupstream = \"main\"\nauth = \"key\"\n\
                 query_param = \"api_key\"\nstrip_prefix = \"/q\"\n";
    let (gateway, upstream) = start(&[lines.into()]);
    let key = gateway.key(&["read:orders"]);
    let target = format!("/q/orders?a=1&api_key={key}&b=2");
    assert_eq!(asked(&gateway, &upstream, &target), "/orders?a=1&b=2");
}

const CHANGES: &str = r#"
[routes.request_headers]
set = { X-Team = "edge", Authorization = "Basic dXA6c2VjcmV0", User-Agent = "keygate" }
remove = ["Cookie", "X-Secret-Of-Client"]
[routes.response_headers]
set = { X-Served-By = "edge", Cache-Control = "no-store" }
remove = ["Server", "X-Powered-By", "Set-Cookie"]
"#;

#[test]
fn headers_of_a_request_are_set_and_removed_after_those_that_say_who_calls() {
    let lines = format!(
        "name = \"h\"\npath = \"/h\"\nupstream = \"main\"\nauth = \"key\"\nscopes = [\"read:orders\"]\n{CHANGES}"
    );
    let (gateway, upstream) = start(&[lines]);
    let key = gateway.key(&["read:orders"]);
    for wire in Wire::BOTH {
        upstream.forget();
        let request = get("/h")
            .bearer(&key)
            .header("X-Team", "forged")
            .header("X-Team", "twice")
            .header("Cookie", "a=1")
            .header("X-Secret-Of-Client", "s")
            .header("X-Keygate-Key-Id", "forged")
            .header("Accept", "text/html");
        assert_eq!(gateway.send_over(wire, &request).status, 200);
        let seen = upstream.only();
        assert_eq!(seen.header("x-team"), Some("edge"));
        assert_eq!(seen.header("authorization"), Some("Basic dXA6c2VjcmV0"));
        assert_eq!(seen.header("user-agent"), Some("keygate"));
        assert_eq!((seen.header("cookie"), seen.header("x-secret-of-client")), (None, None));
        assert_eq!(seen.header("accept"), Some("text/html"));
        assert!(seen.header("x-keygate-key-id").is_some_and(|id| id.starts_with("key_")));
        assert!(seen.header("x-request-id").is_some());
    }
}

#[test]
fn headers_of_an_answer_are_set_and_removed_and_its_body_stays() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let headers = [
            ("Server", "up/1"),
            ("X-Powered-By", "up"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Cache-Control", "public"),
            ("Cache-Control", "max-age=9"),
            ("X-Other", "stays"),
        ];
        if exchange.request.target == "/h/chunked" {
            let chunked = [&headers[..], &[("Transfer-Encoding", "chunked")]].concat();
            exchange.start(200, &chunked)?;
            return exchange.write(b"5\r\nwhole\r\n0\r\n\r\n");
        }
        exchange.answer(200, &headers, b"whole")
    });
    let gateway = Setup::in_front_of(&upstream).route(&route("h", "/h", CHANGES)).start();
    let key = route("k", "/k", "").replace("public", "key");
    let keyed = Setup::in_front_of(&upstream).route(&format!("{key}{CHANGES}")).start();
    for wire in Wire::BOTH {
        for target in ["/h", "/h/chunked"] {
            let answer = gateway.send_over(wire, &get(target));
            assert_eq!((answer.status, &*answer.text()), (200, "whole"), "{target} {wire:?}");
            assert_eq!(answer.header("x-served-by"), Some("edge"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            for gone in ["server", "x-powered-by", "set-cookie"] {
                assert_eq!(answer.header(gone), None, "{gone}");
            }
            assert_eq!(answer.header("x-other"), Some("stays"));
        }
        // What the gateway itself says of a request is no answer of the route.
        let refused = keyed.send_over(wire, &get("/k"));
        assert_refused(&refused, 401, "api_key_missing");
        assert_eq!(refused.header("x-served-by"), None);
    }
}

#[test]
fn what_frames_a_message_or_says_who_calls_is_not_for_routes_to_change() {
    let upstream = Upstream::start();
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "Upgrade",
        "Host",
        "TE",
        "X-Keygate-Key-Id",
        "x_keygate_key_id",
        "X-Keygate-Anything",
        "X-Request-Id",
    ] {
        for change in [format!("set = {{ {name} = \"x\" }}"), format!("remove = [\"{name}\"]")] {
            for table in ["request_headers", "response_headers"] {
                let lines = route("h", "/h", &format!("[routes.{table}]\n{change}"));
                let setup = Setup::in_front_of(&upstream).route(&lines);
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("gateway.toml");
                let nowhere = "127.0.0.1:1".parse().unwrap();
                std::fs::write(&path, setup.toml(nowhere, nowhere)).unwrap();
                let exit = run(folder.path(), &["check", "gateway.toml"], &[]);
                let said = format!("{exit:?}");
                assert!(said.contains("not for routes to change"), "{table} {change}: {said}");
            }
        }
    }
}

fn with_host(upstream: &Upstream, host: &str) -> Gateway {
    Setup::in_front_of(upstream).upstream(&format!("host = \"{host}\"")).start()
}

#[test]
fn the_upstream_gets_the_host_that_its_settings_say() {
    let upstream = Upstream::start();
    let target = upstream.address().to_string();
    let hosts =
        [("client", "gateway.test"), ("target", &*target), ("orders.internal", "orders.internal")];
    for (setting, expect) in hosts {
        let gateway = with_host(&upstream, setting);
        for wire in Wire::BOTH {
            for request in [get("/public"), post("/public//", "x"), post("/public", "x")] {
                upstream.forget();
                let answer = gateway.send_over(wire, &request);
                if request.target.ends_with("//") {
                    assert_refused(&answer, 400, "ambiguous_path");
                    continue;
                }
                assert_eq!(answer.status, 200, "{setting} {wire:?}: {}", answer.text());
                let seen = upstream.only();
                assert_eq!(seen.header("host"), Some(expect), "{setting} {wire:?}");
                assert_eq!(seen.header("x-forwarded-host"), Some("gateway.test"));
            }
        }
    }
}

#[test]
fn explain_says_what_the_upstream_is_asked_for() {
    let strip = route("strip", "/strip", "strip_prefix = \"/strip\"\nadd_prefix = \"/in\"");
    let (gateway, _upstream) = start(&[strip]);
    let key = gateway.key(&["read:orders"]);
    let call =
        serde_json::json!({ "key": key, "method": "GET", "host": "a", "path": "/strip/%7e7" });
    let answer = gateway.admin().send(&post("/v1/explain", call.to_string()));
    let said = answer.text();
    assert!(said.contains("main, asked for /in/~7"), "{said}");
}

#[test]
fn a_route_may_take_larger_or_smaller_bodies_than_the_server() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream)
        .server("body_bytes_max = \"1KiB\"")
        .route(&route("large", "/large", "body_bytes_max = \"1MiB\""))
        .route(&route("small", "/small", "body_bytes_max = \"10B\""))
        .route(&route("empty", "/empty", "body_bytes_max = \"0B\""))
        .start();
    for wire in Wire::BOTH {
        for (target, length, status) in [
            ("/large", 1 << 20, 200),
            ("/large", (1 << 20) + 1, 413),
            ("/public", 1 << 10, 200),
            ("/public", (1 << 10) + 1, 413),
            ("/small", 10, 200),
            ("/small", 11, 413),
            ("/empty", 0, 200),
            ("/empty", 1, 413),
        ] {
            for streamed in [false, true] {
                upstream.forget();
                let request = Request { streamed, ..post(target, vec![b'x'; length]) };
                let answer = gateway.send_over(wire, &request);
                assert_eq!(answer.status, status, "{target} {length} {streamed} {wire:?}");
                if status == 413 {
                    assert_refused(&answer, 413, "payload_too_large");
                    // Its length was said, so the upstream hears nothing of it.
                    assert!(streamed || wire == Wire::H2c || upstream.count() == 0);
                }
            }
        }
    }
}

#[test]
fn an_answer_that_is_larger_than_its_route_allows_is_not_passed_on_as_whole() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let target = exchange.request.target.clone();
        let length: usize = target.rsplit('/').next().unwrap().parse().unwrap();
        let body = vec![b'x'; length];
        if target.contains("chunked") {
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            for part in body.chunks(4_000) {
                exchange.write(&chunk(part))?;
            }
            return exchange.write(&chunk(b""));
        }
        exchange.answer(200, &[], &body)
    });
    let bounded = route("bounded", "/bounded", "response_bytes_max = \"10000B\"");
    let mut gateway = Setup::in_front_of(&upstream).route(&bounded).start();
    for wire in Wire::BOTH {
        for target in ["/bounded/said/10000", "/bounded/chunked/10000"] {
            let answer = gateway.send_over(wire, &get(target));
            assert_eq!((answer.status, answer.body.len()), (200, 10_000), "{target} {wire:?}");
        }
        let answer = gateway.send_over(wire, &get("/bounded/said/10001"));
        assert_refused(&answer, 502, "upstream_error");
        // Nothing has come yet: the head says the length of what a GET would get.
        let head = gateway.send_over(wire, &request("HEAD", "/bounded/said/10001"));
        assert_eq!(head.status, 200, "{wire:?}");
        let answer = gateway.try_send_over(wire, &get("/bounded/chunked/200000"));
        let is_whole = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        assert!(!is_whole, "{wire:?}: 200000 bytes passed for an answer of at most 10000");
        let answer = gateway.send_over(wire, &get("/public/chunked/200000"));
        assert_eq!((answer.status, answer.body.len()), (200, 200_000));
    }
    let cut = gateway.metric("keygate_responses_too_large_total{route=\"bounded\"}");
    assert_eq!(cut, 4.0);
    gateway.is_alive_and_well();
}

/// In HTTP/2 the host is a part of the request's target, and there is to be no `Host` beside it.
#[test]
fn an_upstream_of_http_2_gets_its_host_as_authority() {
    let upstream = H2Upstream::start();
    let target = upstream.address.to_string();
    let hosts =
        [("client", "gateway.test"), ("target", &*target), ("orders.internal", "orders.internal")];
    for (setting, expect) in hosts {
        let lines = "name = \"q\"\npath = \"/q/w\"\nupstream = \"main\"\nauth = \"key\"\n\
                     query_param = \"api_key\"\nstrip_prefix = \"/q\"\n";
        let gateway = Setup::in_front_of_address(upstream.address)
            .upstream(&format!("protocol = \"http2\"\nhost = \"{setting}\""))
            .route(lines)
            .start();
        let key = gateway.key(&["read:orders"]);
        for wire in Wire::BOTH {
            for (target, asked) in [
                ("/public/x?y=1".to_owned(), "/public/x?y=1"),
                ("/public/%7e".to_owned(), "/public/~"),
                (format!("/q/w/1?api_key={key}&z=2"), "/w/1?z=2"),
            ] {
                let answer = gateway.send_over(wire, &get(&target));
                assert_eq!(answer.status, 200, "{wire:?} {target}: {}", answer.text());
                let said = answer.text();
                let mut lines = said.lines();
                assert_eq!((lines.next(), lines.next()), (Some(asked), Some(expect)), "{wire:?}");
                let headers: Vec<&str> = lines.collect();
                assert!(headers.contains(&"x-forwarded-host: gateway.test"), "{headers:?}");
                assert!(!headers.iter().any(|line| line.starts_with("host:")), "{headers:?}");
            }
        }
    }
}

#[test]
fn whoever_gets_the_request_sees_their_own_host_after_another_failed_too() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let targets = format!(
        "[upstreams.three]\ntargets = [\"{nobody}\", \"{}\", \"{}\"]\nhost = \"target\"\n",
        one.address(),
        other.address()
    );
    let lines = "name = \"three\"\npath = \"/three\"\nupstream = \"three\"\nauth = \"public\"\n";
    let gateway = Setup::in_front_of(&one).tables(&targets).route(lines).start();
    for _ in 0..12 {
        assert_eq!(gateway.send(&get("/three")).status, 200);
    }
    for upstream in [&one, &other] {
        let seen = upstream.seen();
        assert!(!seen.is_empty(), "it got nothing");
        let host = upstream.address().to_string();
        assert!(seen.iter().all(|seen| seen.header("host") == Some(&*host)), "{seen:?}");
    }
}
