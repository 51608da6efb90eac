//! The access log: one line for each request, whatever became of it, and in it what happened.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::h2_streams::H2;
use crate::harness::websocket::{WebSocket, WebSocketServer, runtime};
use crate::harness::{
    Gateway, Key, KeySpec, Setup, Upstream, Wire, chunk, eventually, free_address, get, post,
    request,
};

pub const PATH: &str = "logs/access.jsonl";

/// The access log's table with these lines, and a file.
pub fn table(lines: &str) -> String {
    format!("[access_log]\nsink = \"file\"\npath = \"{PATH}\"\n{lines}\n")
}

/// Every line of a file; none may be torn.
#[track_caller]
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line: {text}");
    let parse = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(line) => line,
        Err(error) => panic!("{error}: {line}"),
    };
    let lines: Vec<Value> = text.lines().map(parse).collect();
    assert!(lines.iter().all(|line| line["log"] == "access"), "{text}");
    lines
}

/// The lines of so many requests, which are all that there are.
#[track_caller]
pub fn lines_of(gateway: &Gateway, count: usize) -> Vec<Value> {
    let path = gateway.path(PATH);
    eventually("lines", || (lines(&path).len() >= count).then_some(()));
    let lines = lines(&path);
    assert_eq!(lines.len(), count, "{lines:#?}");
    assert!(gateway.metric("keygate_access_log_lines_total{result=\"dropped\"}") < 0.5);
    lines
}

/// The one line that is added by `act`.
#[track_caller]
fn line_of(gateway: &Gateway, act: impl FnOnce()) -> Value {
    let before = lines(&gateway.path(PATH)).len();
    act();
    lines_of(gateway, before + 1).remove(before)
}

/// Takes what differs from run to run out of a line, and holds it to what it has to be.
#[track_caller]
fn checked(mut line: Value) -> Value {
    let fields = line.as_object_mut().unwrap();
    let time = fields.remove("time").unwrap();
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(time);
    assert!(age.as_secs() < 60 && age.as_secs() >= 0, "{time}");
    let mut ms = |name: &str| fields.remove(name).map(|ms| ms.as_f64().unwrap());
    let (total, decision) = (ms("total_ms").unwrap(), ms("decision_ms"));
    let (lookup, connect, first) = (ms("lookup_ms"), ms("connect_ms"), ms("first_byte_ms"));
    let parts = [decision, connect, first].into_iter().flatten().sum::<f64>();
    assert!(parts <= total + 0.01 && total < 60_000.0, "{parts} of {total}");
    assert!(lookup.is_none_or(|lookup| lookup > 0.0 && lookup <= decision.unwrap()), "{lookup:?}");
    if let Some(trace) = fields.remove("trace_id") {
        assert!(trace.as_str().is_some_and(|trace| trace.len() == 32), "{trace}");
    }
    line
}

fn with(line: Value, more: Value) -> Value {
    let mut all = line.as_object().unwrap().clone();
    all.extend(more.as_object().unwrap().clone());
    Value::Object(all)
}

/// What is known of a key.
fn identity(key: &Key) -> Value {
    let (id, app, account) = (&key.id, &key.app, &key.account);
    json!({ "key_id": id, "hint": &key.key[..12], "app_id": app, "account_id": account })
}

const RESPOND: &str = r#"
name = "note"
path = "/note"
auth = "public"
respond = { body = "hello" }
[routes.cors]
origins = ["https://app.example.com"]
"#;
const NOWHERE: &str = r#"
name = "nowhere"
path = "/nowhere"
upstream = "nowhere"
auth = "public"
"#;

#[test]
fn each_kind_of_request_has_one_line_that_says_what_happened() {
    let (upstream, nowhere) = (Upstream::start(), free_address());
    let tables = format!(
        "{}[tiers.one]\nquotas = [\"1/day\"]\n[upstreams.nowhere]\ntargets = [\"{nowhere}\"]\n",
        table("query = \"full\"")
    );
    let setup = Setup::in_front_of(&upstream).tables(&tables).route(RESPOND).route(NOWHERE);
    let gateway = setup.start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders", "write:orders"]));
    let limited = gateway.key_with(&KeySpec::new(&[]).app("tier", json!("one")));
    let target = upstream.address().to_string();
    let base = |id: &str, method: &str, path: &str, status: u16| {
        json!({
            "log": "access", "request_id": id, "route": null, "method": method,
            "host": "gateway.test", "path": path, "protocol": "HTTP/1.1", "status": status,
            "client": "127.0.0.1", "bytes_in": 0, "bytes_out": 0, "decision": "admitted",
        })
    };
    let served = json!({
        "upstream": "main", "target": target, "attempts": 1, "bytes_out": "{\"served\":true}".len(),
    });
    let send = |request: crate::harness::Request, id: &str| {
        let answer = gateway.send(&request.header("X-Request-Id", id));
        assert_eq!(answer.request_id(), id);
        answer
    };
    let mut sent = 0;
    let mut check = |act: &dyn Fn() -> usize, expected: Value| {
        let mut body_bytes = 0;
        let line = line_of(&gateway, || body_bytes = act());
        sent += 1;
        let of_body = json!({ "bytes_out": body_bytes });
        let is_refused = expected["decision"] != "admitted" || expected.get("reason").is_some();
        let expected = if is_refused { with(expected, of_body) } else { expected };
        assert_eq!(checked(line), expected);
    };

    let read = with(base("r1", "GET", "/v1/orders/7", 200), json!({ "route": "orders.read" }));
    check(
        &|| {
            let agent = ("User-Agent", "test/1.0 \"quoted\"");
            let target = "/v1/orders/7?page=2&token=abc";
            send(get(target).bearer(&key.key).header(agent.0, agent.1), "r1").body.len()
        },
        with(
            with(with(read.clone(), served.clone()), identity(&key)),
            json!({ "query": "page=2&token=…", "user_agent": "test/1.0 \"quoted\"" }),
        ),
    );
    let write = with(base("r2", "POST", "/v1/orders", 200), json!({ "route": "orders.write" }));
    check(
        &|| send(post("/v1/orders", "12345").bearer(&key.key), "r2").body.len(),
        with(with(with(write, served.clone()), identity(&key)), json!({ "bytes_in": 5 })),
    );
    check(
        &|| send(request("HEAD", "/v1/orders/7").bearer(&key.key), "r1").body.len(),
        with(
            with(with(read.clone(), served.clone()), identity(&key)),
            json!({ "method": "HEAD", "bytes_out": 0 }),
        ),
    );
    let refused = |status: u16, code: &str| json!({ "status": status, "decision": code });
    check(
        &|| send(get("/v1/orders/7"), "r1").body.len(),
        with(read.clone(), refused(401, "api_key_missing")),
    );
    check(
        &|| send(get("/v1/orders/7").bearer(&limited.key), "r1").body.len(),
        with(with(read, refused(403, "permission_denied")), identity(&limited)),
    );
    check(
        &|| send(get("/else"), "r3").body.len(),
        with(base("r3", "GET", "/else", 404), refused(404, "route_not_found")),
    );
    check(
        &|| send(get("/any/a/../b"), "r4").body.len(),
        with(base("r4", "GET", "/any/a/../b", 400), refused(400, "ambiguous_path")),
    );
    let any = with(base("r5", "GET", "/any", 200), json!({ "route": "any" }));
    check(
        &|| send(get("/any").bearer(&limited.key), "r5").body.len(),
        with(with(any.clone(), served), identity(&limited)),
    );
    check(
        &|| send(get("/any").bearer(&limited.key), "r5").body.len(),
        with(with(any, refused(429, "quota_exceeded")), identity(&limited)),
    );
    let note = with(base("r6", "GET", "/note", 200), json!({ "route": "note" }));
    check(
        &|| send(get("/note"), "r6").body.len(),
        with(note, json!({ "bytes_out": "hello".len() })),
    );
    let preflight = with(base("r7", "OPTIONS", "/note", 204), json!({ "route": "note" }));
    check(
        &|| {
            let asks = request("OPTIONS", "/note").header("Origin", "https://app.example.com");
            send(asks.header("Access-Control-Request-Method", "GET"), "r7").body.len()
        },
        with(preflight, json!({ "decision": "preflight" })),
    );
    let failed = with(base("r8", "GET", "/nowhere", 502), json!({ "route": "nowhere" }));
    check(
        &|| send(get("/nowhere"), "r8").body.len(),
        with(
            failed,
            json!({
                "reason": "upstream_error", "upstream": "nowhere",
                "target": nowhere.to_string(), "attempts": 1,
            }),
        ),
    );
    assert_eq!(lines_of(&gateway, sent).len(), sent);
    assert!(
        (gateway.metric("keygate_access_log_lines_total{result=\"written\"}") - sent as f64).abs()
            < 0.5
    );
}

#[test]
fn what_is_read_of_a_refused_upload_is_counted() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).tables(&table("")).start();
    // The connection goes on, or is closed.
    for (wire, length) in [(Wire::H1, 5), (Wire::H2c, 5), (Wire::H1, 200_000)] {
        let line = line_of(&gateway, || {
            let answer = gateway.send_over(wire, &post("/v1/orders", vec![b'x'; length]));
            assert_eq!(answer.status, 401);
        });
        assert_eq!(line["bytes_in"], length, "{line}");
    }
}

/// Whatever is read again to answer it.
#[test]
fn the_body_of_a_request_that_fails_is_counted_once() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let gateway = Setup::in_front_of(&upstream)
        .tables(&table(""))
        .route(OPEN)
        .upstream("retries = 0")
        .start();
    for wire in [Wire::H1, Wire::H2c] {
        let line = line_of(&gateway, || {
            assert_eq!(gateway.send_over(wire, &post("/open", "hello")).status, 502);
        });
        assert_eq!((&line["bytes_in"], &line["status"]), (&json!(5), &json!(502)), "{line}");
    }
}

const OPEN: &str = "name = \"open\"\npath = \"/open\"\nupstream = \"main\"\nauth = \"public\"\n";

#[test]
fn a_head_that_is_refused_has_a_line_with_the_address_behind_the_balancer() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).tables(&table(""));
    let gateway = setup.server("proxy_protocol_from = [\"127.0.0.0/8\"]").start();
    for (header, known) in [
        ("TCP4 192.0.2.7 10.0.0.1 5000 443", json!({ "client": "192.0.2.7" })),
        // The balancer did not say.
        ("UNKNOWN", json!({})),
    ] {
        let mut answer = None;
        let line = line_of(&gateway, || {
            let head = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
            answer = gateway.send_raw(format!("PROXY {header}\r\n{head}").as_bytes()).ok();
        });
        let answer = answer.unwrap();
        let expected = json!({
            "log": "access", "request_id": answer.request_id(), "route": null, "method": null,
            "host": null, "path": null, "status": 400, "decision": "bad_request",
            "bytes_in": 0, "bytes_out": answer.body.len(),
        });
        assert_eq!(checked(line), with(expected, known));
    }
}

#[test]
fn every_stream_of_a_connection_has_a_line_and_its_trace() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).tables(&table("")).start();
    let mut client = H2::open(gateway.proxy);
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    for _ in 0..3 {
        let mut stream = client.begin(&get("/public/x?a=1&b").header("traceparent", &parent));
        while client.read(&mut stream).unwrap().is_some() {}
    }
    for line in lines_of(&gateway, 3) {
        assert_eq!((&line["protocol"], &line["trace_id"]), (&json!("HTTP/2"), &json!(TRACE)));
        assert_eq!((&line["status"], &line["query"]), (&json!(200), &json!("a&b")));
        assert_eq!(line["host"], "gateway.test");
    }
}

#[test]
fn the_store_is_waited_for_once_and_only_that_is_said() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).tables(&table("")).start();
    let key = gateway.key(&["read:orders"]);
    for _ in 0..2 {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    }
    let lines = lines_of(&gateway, 2);
    // Whichever stands first: lines of two threads come as their threads are asked for them.
    let waited = lines.iter().filter(|line| line.get("lookup_ms").is_some_and(Value::is_number));
    assert_eq!(waited.count(), 1, "{lines:#?}");
    assert!(lines.iter().all(|line| line["connect_ms"].is_number()));
    assert!(lines.iter().all(|line| line["first_byte_ms"].is_number()));
    lines.into_iter().for_each(|line| drop(checked(line)));
}

#[test]
fn a_second_attempt_is_counted_and_the_last_target_named() {
    let upstream = Upstream::start();
    let (nowhere, good) = (free_address(), upstream.address());
    let tables = table("")
        + &format!("[upstreams.two]\ntargets = [\"{nowhere}\", \"{good}\"]\nretries = 2\n");
    let route = "name = \"two\"\npath = \"/two\"\nupstream = \"two\"\nauth = \"public\"";
    let gateway = Setup::in_front_of(&upstream).tables(&tables).route(route).start();
    for _ in 0..4 {
        assert_eq!(gateway.send(&get("/two")).status, 200);
    }
    let lines = lines_of(&gateway, 4);
    assert!(
        lines.iter().all(|line| line["target"] == good.to_string() && line["reason"].is_null())
    );
    let attempts: Vec<u64> = lines.iter().filter_map(|line| line["attempts"].as_u64()).collect();
    assert!(attempts.contains(&1) && attempts.contains(&2), "{attempts:?}");
}

#[test]
fn a_websocket_has_one_line_when_it_has_ended() {
    let server = WebSocketServer::start();
    let setup = Setup::in_front_of_address(server.address).log("info").tables(&table(""));
    let gateway = setup.start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let runtime = Arc::new(runtime());
    let bearer = format!("Bearer {}", key.key);
    let line = line_of(&gateway, || {
        let headers = [("authorization", &*bearer)];
        let opened = WebSocket::open(&runtime, gateway.proxy, "/v1/orders/live", &headers);
        let (mut socket, _) = opened.unwrap();
        for _ in 0..10 {
            socket.send(Message::text("x".repeat(100)));
            assert_eq!(socket.message(), Message::text("x".repeat(100)));
        }
        assert!(lines(&gateway.path(PATH)).is_empty(), "it goes on");
        runtime.block_on(socket.socket.close(None)).unwrap();
        while socket.receive().is_some() {}
    });
    assert_eq!((&line["status"], &line["key_id"]), (&json!(101), &json!(key.id)));
    assert_eq!(line["decision"], "admitted");
    let bytes = |name: &str| line[name].as_u64().unwrap();
    // Frames have heads, and those of a client masks.
    assert!((1_060..1_100).contains(&bytes("bytes_in")), "{line:#}");
    assert!((1_020..1_060).contains(&bytes("bytes_out")), "{line:#}");
}

/// An upstream that begins to answer and never ends.
fn endless() -> Upstream {
    Upstream::answering(|exchange| {
        exchange.read_body()?;
        if !exchange.request.target.ends_with("/silent") {
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            exchange.write(&chunk(b"begun"))?;
        }
        exchange.read(&mut [0]).map(drop)
    })
}

#[test]
fn a_request_that_is_cut_off_with_its_key_has_a_line_that_says_so() {
    let upstream = endless();
    let gateway = Setup::in_front_of(&upstream).tables(&table("")).start();
    for wire in Wire::BOTH {
        let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
        let line = line_of(&gateway, || {
            let request = get("/v1/orders/endless").bearer(&key.key);
            let revoke = || {
                upstream.wait_for(1);
                gateway.admin().revoke(&key);
            };
            if wire == Wire::H1 {
                let mut client = gateway.connect();
                client.send(&request.to_h1()).unwrap();
                assert_eq!(client.head().unwrap().status, 200);
                revoke();
                while client.read_some().is_ok_and(|rest| !rest.is_empty()) {}
            } else {
                let mut client = H2::open(gateway.proxy);
                let mut stream = client.begin(&request);
                assert!(client.read(&mut stream).unwrap().is_some());
                revoke();
                while let Ok(Some(_)) = client.read(&mut stream) {}
            }
        });
        upstream.forget();
        assert_eq!((&line["cut"], &line["status"]), (&json!("key_revoked"), &json!(200)));
        assert_eq!(
            (&line["key_id"], &line["path"]),
            (&json!(key.id), &json!("/v1/orders/endless"))
        );
        assert_eq!((&line["bytes_out"], &line["decision"]), (&json!(5), &json!("admitted")));
    }
}

#[test]
fn a_request_whose_client_leaves_has_a_line() {
    let upstream = endless();
    let gateway = Setup::in_front_of(&upstream).tables(&table("")).start();
    for (target, status) in [("/public/silent", Value::Null), ("/public/begun", json!(200))] {
        let line = line_of(&gateway, || {
            let mut client = gateway.connect();
            client.send(&get(target).to_h1()).unwrap();
            upstream.wait_for(1);
            if status.is_number() {
                assert_eq!(client.head().unwrap().status, 200);
            }
        });
        upstream.forget();
        assert_eq!((&line["cut"], &line["status"]), (&json!("client_left"), &status), "{target}");
    }
    // In the middle of its own body.
    let line = line_of(&gateway, || {
        let mut client = TcpStream::connect(gateway.proxy).unwrap();
        let head = "POST /public/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf";
        client.write_all(head.as_bytes()).unwrap();
        upstream.wait_for(0);
    });
    assert_eq!(line["cut"], "client_left", "{line:#}");
}

#[test]
fn requests_that_still_run_when_the_gateway_stops_have_lines() {
    let upstream = endless();
    let setup =
        Setup::in_front_of(&upstream).tables(&table("")).server("drain_timeout = \"200ms\"");
    let mut gateway = setup.start();
    let mut clients = [gateway.connect(), gateway.connect()];
    for client in &mut clients {
        client.send(&get("/public/endless").to_h1()).unwrap();
        assert_eq!(client.head().unwrap().status, 200);
    }
    let began = Instant::now();
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
    assert!(began.elapsed() < Duration::from_secs(20));
    let lines = lines(&gateway.path(PATH));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines.iter().all(|line| line["cut"] == "aborted" && line["status"] == 200),
        "{lines:#?}"
    );
}

#[test]
fn a_key_is_hidden_wherever_it_was_put() {
    let upstream = Upstream::start();
    let table = table("query = \"full\"");
    // Its record is not searched: what a client puts into a path, its upstream sees.
    let gateway = Setup::in_front_of_address(upstream.address()).tables(&table).start();
    let key = gateway.key(&["read:orders"]);
    let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let twice = escaped.replace('%', "%25");
    let mut sent = 0;
    for form in [&key, &key.replace('_', "%5F"), &escaped, &twice] {
        let requests = [
            get(&format!("/public/{form}/x")),
            get(&format!("/else/{form}")),
            get(&format!("/public?{form}")),
            get(&format!("/public?{form}=1&b=2")),
            get(&format!("/public?q={form}&b=2")),
            get(&format!("/public?next=%2Fx%3Fk%3D{form}")),
            get(&format!("/v1/feed?api_key={form}")),
            get("/public").header("User-Agent", &format!("agent/{form}")),
            get("/public").host(&format!("{form}.test")),
            get("/public").header("X-Request-Id", form),
            get("/public").header("Cookie", form).header("Referer", form),
            get("/v1/orders").basic(&format!("{form}:")),
        ];
        for request in requests {
            // Some are refused; that is not the point.
            gateway.send(&request);
            sent += 1;
        }
    }
    let lines = lines_of(&gateway, sent);
    let text: String = lines.iter().map(Value::to_string).collect();
    for secret in
        [&key[14..], &key[20..40], &escaped[3 * 14..], &escaped[60..120], &twice[100..200]]
    {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains(&format!("/public/{}…/x", &key[..12])), "{text}");
    gateway.leaks().with(&text).assert_none();
}

#[test]
fn what_is_not_to_be_shown_is_not() {
    let upstream = Upstream::start();
    let table = table("query = \"off\"\nclient_address = \"masked\"");
    let setup = Setup::in_front_of(&upstream).tables(&table);
    let mut gateway = setup.server("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let from = |address: &str| get("/public?a=b").header("X-Forwarded-For", address);
    gateway.send(&from("192.0.2.77"));
    gateway.send(&from("2001:db8:1:2::77"));
    let lines = lines_of(&gateway, 2);
    assert_eq!((&lines[0]["client"], lines[0].get("query")), (&json!("192.0.2.0"), None));
    assert_eq!(lines[1]["client"], "2001:db8:1::");
    gateway.rewrite(|setup| setup.tables(&self::table("client_address = \"off\"")));
    assert_eq!(gateway.reload().status, 200);
    gateway.send(&from("192.0.2.77"));
    let line = lines_of(&gateway, 3).remove(2);
    assert_eq!((line.get("client"), &line["query"]), (None, &json!("a")));
}
