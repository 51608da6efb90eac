//! Traces: what a receiver of OpenTelemetry is sent of a request, what its upstream is told, and that
//! neither costs a request anything when the receiver is away.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::harness::{
    Authority, Collector, Gateway, KeySpec, Nginx, Process, Reception, Request, Setup, Signed,
    SpanSeen, Target, Upstream, Wire, assert_refused, binary, chunk, eventually, free_address, get,
    patience, post,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const INTERNAL: i32 = 1;

/// Has clients decide what is traced.
fn tracing(collector: &Collector, lines: &str) -> String {
    sampling(collector, &format!("follow_parent = true\n{lines}"))
}

fn sampling(collector: &Collector, lines: &str) -> String {
    let endpoint = collector.endpoint();
    format!("[tracing]\notlp_endpoint = \"{endpoint}\"\nservice_name = \"edge\"\n{lines}\n")
}

fn gateway(upstream: &Upstream, collector: &Collector, lines: &str) -> Gateway {
    Setup::in_front_of(upstream).tables(&tracing(collector, lines)).start()
}

fn sampled(request: Request, trace: &str) -> Request {
    request.header("traceparent", &format!("00-{trace}-{PARENT}-01"))
}

/// The trace id of this number.
fn trace(number: u128) -> String {
    format!("{number:032x}")
}

/// A request that is traced whatever the settings say of others: when its spans are there, so are those
/// of all requests before it.
#[track_caller]
fn flush(gateway: &Gateway, collector: &Collector) -> Vec<SpanSeen> {
    let last = trace(0xf1a5_0000_0000 | u128::from(fastrand::u32(1..)));
    assert_eq!(gateway.send(&sampled(get("/public"), &last)).status, 200);
    collector.trace(&last);
    let spans = collector.spans().into_iter();
    spans.filter(|span| !span.trace.contains("f1a5")).collect()
}

#[track_caller]
fn one<'a>(spans: &'a [SpanSeen], name: &str) -> &'a SpanSeen {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name} among {spans:#?}");
    named[0]
}

fn names(spans: &[SpanSeen]) -> Vec<&str> {
    let mut names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn is_within(child: &SpanSeen, parent: &SpanSeen) {
    assert_eq!(child.parent, parent.id, "{child:?} in {parent:?}");
    assert!(!child.is_parent_remote, "{child:?}");
    assert!(parent.begin_ns <= child.begin_ns && child.end_ns <= parent.end_ns, "{child:?}");
    assert!(child.begin_ns <= child.end_ns, "{child:?}");
}

#[track_caller]
fn has(span: &SpanSeen, attributes: &[(&str, &str)]) {
    for (name, value) in attributes {
        assert_eq!(span.attribute(name), Some(*value), "{name} of {span:#?}");
    }
}

/// Nothing that is sent may hold a secret, or this.
fn search(gateway: &Gateway, collector: &Collector, text: &str) {
    for message in collector.messages() {
        gateway.leaks().capture("what the traces' receiver got", &message);
        let message = String::from_utf8_lossy(&message).into_owned();
        assert!(!message.contains(text), "{text} in {message}");
    }
}

#[test]
fn a_trace_that_a_client_began_goes_through_the_gateway_to_the_upstream() {
    for wire in Wire::BOTH {
        let (upstream, collector) = (Upstream::start(), Collector::start());
        let gateway = gateway(&upstream, &collector, "");
        let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
        let request = |trace: &str| {
            let request = get("/v1/orders/7?page=hidden-in-a-query").bearer(&key.key);
            sampled(request, trace).header("tracestate", "vendor=a,other=b")
        };
        let answer = gateway.send_over(wire, &request(TRACE));
        assert_eq!(answer.status, 200);
        let spans = collector.trace(TRACE);
        let all = ["GET /v1/orders", "keygate.decide", "keygate.lookup", "keygate.upstream"];
        assert_eq!(names(&spans), all, "{wire:?}");

        let whole = one(&spans, "GET /v1/orders");
        assert_eq!((&*whole.parent, whole.is_parent_remote, whole.kind), (PARENT, true, SERVER));
        assert!(!whole.is_error && whole.attribute("error.type").is_none());
        let request_id = answer.request_id();
        has(
            whole,
            &[
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("http.route", "/v1/orders"),
                ("url.path", "/v1/orders/7"),
                ("url.scheme", "http"),
                ("server.address", "gateway.test"),
                ("client.address", "127.0.0.1"),
                ("network.protocol.version", if wire == Wire::H1 { "1.1" } else { "2" }),
                ("keygate.route", "orders.read"),
                ("keygate.key.id", &key.id),
                ("keygate.app.id", &key.app),
                ("keygate.account.id", &key.account),
                ("keygate.decision", "admitted"),
                ("keygate.request_id", &request_id),
            ],
        );
        assert_eq!(whole.resource["service.name"], "edge");
        assert!(whole.resource["service.instance.id"].starts_with("gw_"), "{whole:?}");

        let decide = one(&spans, "keygate.decide");
        is_within(decide, whole);
        let lookup = one(&spans, "keygate.lookup");
        is_within(lookup, decide);
        assert_eq!((decide.kind, lookup.kind), (INTERNAL, INTERNAL));
        let attempt = one(&spans, "keygate.upstream");
        is_within(attempt, whole);
        assert!(attempt.begin_ns >= decide.end_ns && !attempt.is_error);
        assert_eq!(attempt.kind, CLIENT);
        has(
            attempt,
            &[
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("keygate.upstream", "main"),
                ("keygate.attempt", "1"),
                ("server.address", "127.0.0.1"),
                ("server.port", &upstream.address().port().to_string()),
            ],
        );
        let events: Vec<_> = attempt.events.iter().map(|(name, _)| &**name).collect();
        assert_eq!(events, ["connected", "first_byte"]);
        let times = attempt.events.iter().map(|(_, at)| *at);
        let times: Vec<_> = [attempt.begin_ns].into_iter().chain(times).collect();
        assert!(times.is_sorted() && times.last() <= Some(&attempt.end_ns), "{attempt:?}");

        let seen = upstream.only();
        let told = format!("00-{TRACE}-{}-01", attempt.id);
        assert_eq!(seen.header("traceparent"), Some(&*told));
        assert_eq!(seen.header("tracestate"), Some("vendor=a,other=b"));

        // The key is known by now.
        let warm = trace(2);
        assert_eq!(gateway.send_over(wire, &request(&warm)).status, 200);
        let warm = collector.trace(&warm);
        assert_eq!(names(&warm), ["GET /v1/orders", "keygate.decide", "keygate.upstream"]);
        let head = collector.first_head().to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
        search(&gateway, &collector, "hidden-in-a-query");
    }
}

#[test]
fn what_was_refused_has_spans_that_say_why_and_nothing_of_what_was_sent() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let gateway = gateway(&upstream, &collector, "");
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let send = |number, request: Request| {
        let trace = trace(number);
        let answer = gateway.send(&sampled(request, &trace));
        (answer, collector.trace(&trace))
    };

    // A path is no place for a key, but people put it there.
    let in_path = format!("/v1/orders/{}/x?api_key={}", key.key, key.key);
    let (answer, spans) = send(1, get(&in_path));
    assert_refused(&answer, 401, "api_key_missing");
    assert_eq!(names(&spans), ["GET /v1/orders", "keygate.decide"]);
    let whole = one(&spans, "GET /v1/orders");
    has(whole, &[("keygate.decision", "api_key_missing"), ("http.response.status_code", "401")]);
    // A refusal is what a gateway is for.
    assert!(!whole.is_error && whole.attribute("error.type").is_none());
    assert_eq!(whole.attribute("keygate.key.id"), None);
    let hint = &key.key[..12];
    has(whole, &[("url.path", &format!("/v1/orders/{hint}…/x"))]);

    let (answer, spans) = send(2, post("/v1/orders", "{}").bearer(&key.key));
    assert_refused(&answer, 403, "permission_denied");
    let whole = one(&spans, "POST /v1/orders");
    has(whole, &[("keygate.decision", "permission_denied"), ("keygate.key.id", &key.id)]);
    is_within(one(&spans, "keygate.lookup"), one(&spans, "keygate.decide"));

    let (answer, spans) = send(3, get("/nowhere").bearer(&key.key));
    assert_refused(&answer, 404, "route_not_found");
    let whole = one(&spans, "GET");
    has(whole, &[("keygate.decision", "route_not_found"), ("url.path", "/nowhere")]);
    assert_eq!(whole.attribute("http.route"), None);

    let long = format!("/nowhere/{}", "a".repeat(4_000));
    let odd = Request { method: "PURGE-ME".into(), ..get(&long).host("other.test:8443") };
    let (_, spans) = send(4, odd);
    let whole = one(&spans, "HTTP");
    has(whole, &[("http.request.method", "_OTHER"), ("server.address", "other.test")]);
    has(whole, &[("server.port", "8443")]);
    assert_eq!(whole.attribute("url.path").map(str::len), Some(256));
    upstream.saw_nothing();
    let (answer, spans) = send(6, Request { method: "PURGE-ME".into(), ..get("/public") });
    assert_eq!(answer.status, 200);
    has(one(&spans, "HTTP /public"), &[("http.request.method", "_OTHER")]);

    // Any letter of it may be escaped.
    for (number, (plain, escaped)) in (10..).zip([("sk", "%73k"), ("live", "liv%65")]) {
        let escaped = key.key.replacen(plain, escaped, 1);
        let (_, spans) = send(number, get(&format!("/v1/orders/{escaped}")));
        let path = one(&spans, "GET /v1/orders").attribute("url.path").unwrap();
        assert!(path.ends_with('…'), "{path}");
    }

    let (_, spans) = send(5, get("/v1/orders").basic("secret-user:"));
    assert_eq!(names(&spans), ["GET /v1/orders", "keygate.decide"]);
    search(&gateway, &collector, "c2VjcmV0LXVzZXI6");
    search(&gateway, &collector, "Bearer");
}

#[test]
fn each_attempt_is_a_span_and_the_upstream_is_told_its_own() {
    let (dead, upstream, collector) = (Target::start(), Upstream::start(), Collector::start());
    dead.kill();
    let targets = format!("targets = [\"{}\", \"{}\"]", dead.address(), upstream.address());
    let route = "name = \"two\"\npath = \"/two\"\nupstream = \"two\"\nauth = \"public\"";
    let gateway = Setup::in_front_of(&upstream)
        .tables(&format!("[upstreams.two]\n{targets}\nretries = 1\n{}", tracing(&collector, "")))
        .route(route)
        .start();
    // One of them begins with the dead target.
    let traced: Vec<_> = (1..=4)
        .map(|number| {
            let trace = trace(number);
            assert_eq!(gateway.send(&sampled(get("/two"), &trace)).status, 200);
            collector.trace(&trace)
        })
        .collect();
    let is_retried = |spans: &&Vec<SpanSeen>| spans.len() == 4;
    let spans = traced.iter().find(is_retried).expect("one was sent twice");
    let whole = one(spans, "GET /two");
    assert!(!whole.is_error, "{whole:?}");
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "keygate.upstream").collect();
    let [first, second] = attempts[..] else { panic!("{spans:#?}") };
    is_within(first, whole);
    is_within(second, whole);
    assert!(first.is_error && !second.is_error && first.end_ns <= second.begin_ns);
    let port = |of: std::net::SocketAddr| of.port().to_string();
    has(first, &[("error.type", "ConnectRefused"), ("keygate.attempt", "1")]);
    has(first, &[("server.port", &port(dead.address()))]);
    has(second, &[("keygate.attempt", "2"), ("http.request.resend_count", "1")]);
    has(
        second,
        &[("server.port", &port(upstream.address())), ("http.response.status_code", "200")],
    );
    assert!(first.events.is_empty() && second.events.len() == 2, "{spans:#?}");
    let told: Vec<_> = upstream.seen().iter().map(|s| s.values("traceparent").concat()).collect();
    assert!(told.contains(&format!("00-{}-{}-01", second.trace, second.id)), "{told:?}");

    // Nobody is left: an admitted request that failed is an error.
    let gone = Upstream::start().address();
    let gateway = Setup::in_front_of_address(gone).tables(&tracing(&collector, "")).start();
    let last = trace(9);
    let answer = gateway.send(&sampled(get("/public"), &last));
    assert_refused(&answer, 502, "upstream_error");
    let spans = collector.trace(&last);
    let whole = one(&spans, "GET /public");
    assert!(whole.is_error);
    has(whole, &[("error.type", "upstream_error"), ("keygate.decision", "admitted")]);
    assert!(one(&spans, "keygate.upstream").is_error);
}

/// An upstream that begins to answer and then says no more until it is let go on.
fn stalling() -> (Upstream, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waiting = Arc::clone(&gate);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        let headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")];
        exchange.start(200, &headers)?;
        exchange.write(&chunk(b"data: begun\n\n"))?;
        let (is_open, changed) = &*waiting;
        let guard = is_open.lock().unwrap();
        drop(changed.wait_timeout_while(guard, patience(), |is_open| !*is_open).unwrap());
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    (upstream, gate)
}

#[test]
fn a_request_that_was_cut_has_spans_too() {
    let ((upstream, gate), collector) = (stalling(), Collector::start());
    let gateway = gateway(&upstream, &collector, "");
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let (revoked, left) = (trace(1), trace(2));
    let mut client = gateway.connect();
    client.send(&sampled(get("/v1/orders").bearer(&key.key), &revoked).to_h1()).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    gateway.admin().revoke(&key);
    let spans = collector.trace(&revoked);
    let whole = one(&spans, "GET /v1/orders");
    has(whole, &[("error.type", "key_revoked"), ("http.response.status_code", "200")]);
    has(whole, &[("keygate.key.id", &key.id)]);
    // It is what a gateway is for, and no fault of its own.
    assert!(!whole.is_error);
    is_within(one(&spans, "keygate.upstream"), whole);

    // A client that goes away in the middle.
    let mut client = gateway.connect();
    client.send(&sampled(get("/public"), &left).to_h1()).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    drop(client);
    let spans = collector.trace(&left);
    let whole = one(&spans, "GET /public");
    assert!(!whole.is_error);
    has(whole, &[("error.type", "client_left")]);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

/// An upgrade, as a WebSocket's client asks for it.
fn websocket() -> Request {
    let request = get("/public").header("Connection", "Upgrade").header("Upgrade", "websocket");
    let request = request.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    sampled(request.header("Sec-WebSocket-Version", "13"), TRACE)
}

#[test]
fn a_tunnel_was_answered_when_it_began() {
    let collector = Collector::start();
    let upstream = Upstream::answering(|exchange| {
        exchange.close();
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])
    });
    let gateway = gateway(&upstream, &collector, "");
    assert_eq!(gateway.connect().exchange(&websocket()).unwrap().status, 101);
    let spans = collector.trace(TRACE);
    let attempt = one(&spans, "keygate.upstream");
    has(attempt, &[("http.response.status_code", "101")]);
    let events: Vec<_> = attempt.events.iter().map(|(name, _)| &**name).collect();
    assert_eq!(events, ["connected", "first_byte"]);
}

#[test]
fn what_is_sent_to_nobody_is_no_attempt() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let setup = Setup::in_front_of(&upstream).upstream("protocol = \"http2\"");
    let gateway = setup.tables(&tracing(&collector, "")).start();
    assert_refused(&gateway.send(&websocket()), 502, "upstream_error");
    assert_eq!(names(&collector.trace(TRACE)), ["GET /public", "keygate.decide"]);
}

#[test]
fn what_a_client_does_wrong_is_no_failure_of_the_gateway() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let setup = Setup::in_front_of(&upstream).server("body_bytes_max = \"1KiB\"");
    let gateway = setup.tables(&tracing(&collector, "")).start();
    let request = sampled(post("/public", vec![b'a'; 4_096]).streamed(), TRACE);
    assert_refused(&gateway.send(&request), 413, "payload_too_large");
    let spans = collector.trace(TRACE);
    let whole = one(&spans, "POST /public");
    has(whole, &[("keygate.decision", "admitted"), ("http.response.status_code", "413")]);
    assert!(!whole.is_error, "{whole:?}");
}

#[test]
fn a_trace_that_is_not_sampled_passes_unchanged_and_unseen() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let mut gateway = gateway(&upstream, &collector, "sample = \"0%\"");
    for (number, wire) in (1..).zip(Wire::BOTH) {
        for flags in ["00", "02"] {
            upstream.forget();
            let sent = format!("00-{}-{PARENT}-{flags}", trace(number));
            let request = get("/public").header("traceparent", &sent).header("tracestate", "a=b");
            assert_eq!(gateway.send_over(wire, &request).status, 200);
            let seen = upstream.only();
            assert_eq!(seen.header("traceparent"), Some(&*sent), "{wire:?}");
            assert_eq!(seen.header("tracestate"), Some("a=b"));
        }
    }
    upstream.forget();
    assert_eq!(gateway.send(&get("/public")).status, 200);
    let seen = upstream.only();
    let told = seen.header("traceparent").unwrap();
    assert!(told.len() == 55 && told.ends_with("-00"), "{told}");
    assert_eq!(flush(&gateway, &collector), []);

    // Clients that are not believed: their flag says nothing, their trace goes on.
    let reload = |gateway: &mut Gateway, lines: &str| {
        let setup = Setup::in_front_of(&upstream).tables(&sampling(&collector, lines));
        gateway.rewrite(|_| setup);
        assert_eq!(gateway.reload().status, 200);
    };
    reload(&mut gateway, "sample = \"0%\"");
    upstream.forget();
    let sent = format!("00-{}-{PARENT}-01", trace(7));
    assert_eq!(gateway.send(&get("/public").header("traceparent", &sent)).status, 200);
    assert_eq!(upstream.only().header("traceparent"), Some(&*sent));
    reload(&mut gateway, "sample = \"0%\"\nfollow_parent = true");
    assert_eq!(flush(&gateway, &collector), []);
    reload(&mut gateway, "sample = \"100%\"");
    let sent = format!("00-{}-{PARENT}-00", trace(8));
    assert_eq!(gateway.send(&get("/public").header("traceparent", &sent)).status, 200);
    let spans = collector.trace(&trace(8));
    assert_eq!(one(&spans, "GET /public").parent, PARENT);
}

#[test]
fn a_trace_begins_here_if_its_client_began_none_and_how_many_do_changes_live() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let mut gateway = gateway(&upstream, &collector, "sample = \"0%\"");
    assert_eq!(gateway.send(&get("/public")).status, 200);
    assert_eq!(flush(&gateway, &collector), []);
    let all = tracing(&collector, "sample = \"100%\"");
    gateway.rewrite(|_| Setup::in_front_of(&upstream).tables(&all));
    assert_eq!(gateway.reload().status, 200);

    let bad = format!("00-{}-{PARENT}-01", TRACE.to_uppercase());
    let twice = format!("00-{TRACE}-{PARENT}-01");
    let malformed = [vec![], vec![&*bad], vec!["nonsense"], vec![&*twice, &*twice]];
    for sent in malformed {
        upstream.forget();
        let request = get("/public").header("tracestate", "a=b");
        let request = sent.iter().fold(request, |r, value| r.header("traceparent", value));
        assert_eq!(gateway.send(&request).status, 200);
        let seen = upstream.only();
        assert_eq!(seen.header("tracestate"), None, "{sent:?}");
        let told = seen.header("traceparent").unwrap();
        let parts: Vec<_> = told.split('-').collect();
        assert_eq!((parts[0], parts[3]), ("00", "01"), "{told}");
        assert_ne!(parts[1], TRACE);
        let spans = collector.trace(parts[1]);
        let whole = one(&spans, "GET /public");
        assert_eq!((&*whole.parent, whole.is_parent_remote), ("", false));
        assert_eq!(one(&spans, "keygate.upstream").id, parts[2]);
    }

    // A trace whose client does not record it is none of ours either, at any sample.
    let sent = format!("00-{}-{PARENT}-00", trace(5));
    assert_eq!(gateway.send(&get("/public").header("traceparent", &sent)).status, 200);
    let spans = flush(&gateway, &collector);
    assert!(spans.iter().all(|span| span.trace != trace(5)), "{spans:#?}");
}

fn count(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("keygate_trace_spans_total{{result=\"{result}\"}}"))
}

#[test]
fn spans_are_counted_by_what_becomes_of_them() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let gateway = gateway(&upstream, &collector, "");
    let send = |number| {
        let answer = gateway.send(&sampled(get("/public"), &trace(number)));
        assert_eq!(answer.status, 200);
    };
    let is = |result: &'static str, wanted: f64| {
        eventually(&format!("{wanted} spans {result}"), || {
            (count(&gateway, result) >= wanted).then_some(())
        });
        assert_eq!(count(&gateway, result), wanted, "{result}");
    };
    send(1);
    is("sent", 3.0);
    collector.set(Reception::Rejects(1));
    send(2);
    is("sent", 5.0);
    is("failed", 1.0);
    // Not to be sent again.
    collector.set(Reception::Refuses(400));
    let before = collector.asked();
    send(3);
    is("failed", 4.0);
    assert_eq!(collector.asked(), before + 1);
    // To be sent again.
    collector.set(Reception::Refuses(503));
    send(4);
    eventually("another try", || (collector.asked() >= before + 2).then_some(()));
    collector.set(Reception::Takes);
    is("sent", 8.0);
    is("dropped", 0.0);
    assert_eq!(names(&collector.trace(&trace(4))).len(), 3);
    let log = gateway.output();
    assert_eq!(log.matches("does not take spans").count(), 1, "{log}");
    assert_eq!(log.matches("takes spans again").count(), 1, "{log}");
}

#[test]
fn a_receiver_that_hangs_or_is_away_costs_spans_and_nothing_else() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    collector.set(Reception::Hangs);
    let lines = "queue_max = 16\ntimeout = \"1h\"";
    let mut gateway = gateway(&upstream, &collector, lines);
    let mut connection = gateway.connect();
    let mut send = |number| {
        let request = sampled(get("/public"), &trace(number));
        assert_eq!(connection.exchange(&request).unwrap().status, 200);
    };
    // Taken out of the queue, and stuck.
    send(1);
    eventually("a message that hangs", || (collector.asked() > 0).then_some(()));
    (2..100).for_each(send);
    // Five requests of three spans each have room. The last has its answer before it is told of.
    let dropped = (93 * 3) as f64;
    eventually("spans dropped", || (count(&gateway, "dropped") >= dropped).then_some(()));
    assert_eq!(count(&gateway, "dropped"), dropped);
    assert_eq!(count(&gateway, "sent"), 0.0);
    let told = Instant::now();
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
    // Two seconds, and a machine that has other things to do.
    assert!(told.elapsed().as_secs() < 30, "{:?}", told.elapsed());
    assert!(gateway.output().contains("did not take the last spans in time"));

    let nobody = format!("otlp_endpoint = \"http://{}\"\nsample = \"100%\"", free_address());
    let nobody = format!("[tracing]\n{nobody}\n");
    let mut gateway = Setup::in_front_of(&upstream).tables(&nobody).start();
    assert_eq!(gateway.send(&sampled(get("/public"), TRACE)).status, 200);
    eventually("spans that are given up", || (count(&gateway, "failed") == 3.0).then_some(()));
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
}

#[test]
fn what_waits_when_the_gateway_stops_is_still_sent() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let mut gateway = gateway(&upstream, &collector, "");
    assert_eq!(gateway.send(&sampled(get("/public"), TRACE)).status, 200);
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn without_an_endpoint_nothing_is_traced_and_traces_go_on() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).tables("[tracing]\nsample = \"100%\"\n");
    let gateway = setup.start();
    let sent = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(gateway.send(&get("/public").header("traceparent", &sent)).status, 200);
    assert_eq!(upstream.only().header("traceparent"), Some(&*sent));
    upstream.forget();
    assert_eq!(gateway.send(&get("/public")).status, 200);
    assert!(upstream.only().header("traceparent").unwrap().ends_with("-00"));
    assert_eq!(count(&gateway, ""), 0.0);
}

/// A gateway that trusts what this file holds as the system's certificates.
fn trusting(folder: &Path, toml: &str, store: &Path) -> Process {
    std::fs::write(folder.join("gateway.toml"), toml).unwrap();
    let (file, binary) = (format!("SSL_CERT_FILE={}", store.display()), binary());
    let directory = format!("SSL_CERT_DIR={}", folder.join("none").display());
    let arguments = [&file, &directory, binary.to_str().unwrap(), "run"];
    Process::program(Path::new("env"), folder, &arguments)
}

#[test]
fn a_receiver_with_tls_is_believed_if_the_system_believes_it() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let Signed { certificate, key } = authority.sign(&["127.0.0.1"]);
    let pass = format!("location / {{ proxy_pass {}; }}", collector.endpoint());
    let settings =
        format!("ssl_certificate {certificate:?};\nssl_certificate_key {key:?};\n{pass}");
    let server = Nginx::start("ssl", &settings);
    let tables =
        format!("[tracing]\notlp_endpoint = \"https://{}\"\nsample = \"100%\"\n", server.address());
    for (store, is_believed) in [(other.file(), false), (authority.file(), true)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("none")).unwrap();
        let (proxy, admin) = (free_address(), free_address());
        let toml = Setup::in_front_of(&upstream).tables(&tables).toml(proxy, admin);
        let process = trusting(folder.path(), &toml, &store);
        let mut connection = eventually("a gateway that accepts", || {
            crate::harness::Connection::try_open(proxy).ok()
        });
        let answer = connection.exchange(&sampled(get("/public"), TRACE)).unwrap();
        assert_eq!(answer.status, 200);
        if is_believed {
            assert_eq!(collector.trace(TRACE).len(), 3);
        } else {
            eventually("a complaint", || process.stdout().contains("does not take").then_some(()));
            assert_eq!(collector.asked(), 0);
        }
    }
}
