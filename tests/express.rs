//! The express lane serves plain requests as the usual way does: what a client and an upstream see of
//! scripted exchanges, proper and hostile, is the same with the lane and without. Knows both ways only
//! from outside.

mod scripts;

use std::io;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Answer, Broken, Gateway, H2Upstream, Setup, Upstream, assert_refused, eventually, get, post,
};
use scripts::{REQUESTS, SCRIPTS, Script};

/// How many requests took the lane.
const BY_LANE: &str = "keygate_requests_served_total{way=\"express\"}";

const ALL: &str = r#"
name = "all"
path = "/"
upstream = "main"
auth = "public"
"#;

fn scripted() -> Upstream {
    Upstream::answering(|exchange| {
        let name = exchange.request.target.split('?').next().unwrap().trim_matches('/').to_owned();
        if name == "early" {
            exchange.write(b"HTTP/1.1 413 Big\r\nContent-Length: 2\r\n\r\nno")?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        exchange.read_body()?;
        let Some(script) = SCRIPTS.iter().find(|script| script.name == name) else {
            return exchange.answer(200, &[("X-Served", &name)], b"served");
        };
        for (at, piece) in script.pieces.iter().enumerate() {
            if at > 0 {
                // The pieces are to arrive as such.
                thread::sleep(Duration::from_millis(3));
            }
            exchange.write(piece)?;
        }
        if script.fill > 0 {
            exchange.write(&vec![b'x'; script.fill])?;
            exchange.write(script.after_fill)?;
        }
        if script.closes { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    })
}

fn gateway(upstream: &Upstream, lane: bool) -> Gateway {
    Setup::in_front_of(upstream)
        .server(&format!("express_lane = {lane}"))
        .upstream("read_timeout = \"300ms\"\nretries = 1")
        .route(ALL)
        .start()
}

fn by_lane(gateway: &Gateway) -> usize {
    gateway.metric(BY_LANE) as usize
}

/// What came of an exchange, for its client and for the upstream.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    answers: Vec<String>,
    /// What came of a next request on the same connection.
    next: String,
    seen: Vec<String>,
}

/// Sends a request and the next one behind its answer, so that what is left over would be found.
fn exchange(gateway: &Gateway, upstream: &Upstream, asked: &Asked<'_>) -> Outcome {
    let Asked { method, bytes, number } = *asked;
    upstream.forget();
    let mut connection = gateway.connect();
    // What a strict client cannot take for an answer it waits for in vain, by either way.
    connection.read_timeout(Duration::from_millis(1_500));
    let _ = connection.send(bytes);
    let mut answers = vec![shown(connection.answer(method))];
    if bytes.windows(9).any(|part| part == b"/pipeline") {
        answers.push(shown(connection.answer(method)));
    }
    let next = format!("GET /next?{number} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let next = connection.send(next.as_bytes());
    let next = next.map_err(|_| Broken::Closed).and_then(|()| connection.answer("GET"));
    // Behind what was no answer, it is a race who hears first that the connection is over; and the next
    // one may come so late that it is seen during the exchange after this.
    let own = if answers.iter().all(|answer| is_answer(answer)) { number } else { usize::MAX };
    let own = format!("/next?{own} ");
    let seen = seen(upstream);
    let seen = seen.into_iter().filter(|seen| !seen.contains("/next?") || seen.contains(&own));
    Outcome { answers, next: shown(next), seen: seen.collect() }
}

/// A request as it is sent, and which it is.
struct Asked<'a> {
    method: &'a str,
    bytes: &'a [u8],
    number: usize,
}

/// Without what differs between any two answers.
fn shown(answer: Result<Answer, Broken>) -> String {
    let Answer { status, headers, body, .. } = match answer {
        Ok(answer) => answer,
        // A reset may come before what was said last.
        Err(Broken::Closed | Broken::Cut) => return "closed".to_owned(),
        Err(broken) => return format!("{broken:?}"),
    };
    let id = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
    let id = id.map_or("", |(_, id)| id).to_owned();
    let lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("date"))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let (body, length) = (String::from_utf8_lossy(&body).into_owned(), body.len());
    let start: String = body.chars().take(300).collect();
    let text = format!("{status}\n{}\n\n{length} {start}", lines.join("\n"));
    if id.is_empty() { text } else { text.replace(&id, "<id>") }
}

/// Whether it begins with a status.
fn is_answer(shown: &str) -> bool {
    shown.starts_with(|first: char| first.is_ascii_digit())
}

/// Each request once, however often it was tried: that depends on how soon a connection is free.
fn seen(upstream: &Upstream) -> Vec<String> {
    let mut all: Vec<String> = upstream
        .seen()
        .iter()
        .map(|seen| {
            let mut headers: Vec<String> = seen
                .headers
                .iter()
                .filter(|(name, _)| {
                    !["x-request-id", "traceparent"].iter().any(|id| name.eq_ignore_ascii_case(id))
                })
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            headers.sort();
            let (body, whole) = (&seen.body, seen.body.complete);
            let (line, head) = (format!("{} {} ", seen.method, seen.target), headers.join("\n"));
            format!("{line}\n{head}\n\n{} {whole} {:?}", body.length, body.sha256)
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn what_clients_and_upstreams_see_is_the_same_by_either_way() {
    let upstreams = [scripted(), scripted()];
    let gateways = [gateway(&upstreams[0], false), gateway(&upstreams[1], true)];
    let mut differ = Vec::new();
    let mut number = 0;
    let mut compare = |name: &str, method: &str, bytes: &[u8]| {
        number += 1;
        let asked = &Asked { method, bytes, number };
        let [usual, lane] = thread::scope(|scope| {
            let run = |at: usize| {
                let (gateway, upstream) = (&gateways[at], &upstreams[at]);
                scope.spawn(move || exchange(gateway, upstream, asked))
            };
            [run(0), run(1)].map(|run| run.join().unwrap())
        });
        if usual != lane {
            differ.push(format!("{name}\nusual: {usual:#?}\nlane: {lane:#?}"));
        }
    };
    for Script { name, .. } in SCRIPTS {
        for method in ["GET", "HEAD", "PUT"] {
            let head = format!("{method} /{name} HTTP/1.1\r\nHost: a.test\r\n");
            let rest = if method == "PUT" { "Content-Length: 5\r\n\r\nhello" } else { "\r\n" };
            compare(&format!("{method} {name}"), method, format!("{head}{rest}").as_bytes());
        }
    }
    for (name, method, bytes) in REQUESTS {
        compare(name, method, bytes);
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert_eq!(by_lane(&gateways[0]), 0);
    assert!(by_lane(&gateways[1]) > 2 * SCRIPTS.len());
    for mut gateway in gateways {
        gateway.is_alive_and_well();
    }
}

/// Behind a body that nobody read there is the next request, and nothing else.
#[test]
fn a_refused_request_with_a_body_leaves_its_connection_in_order() {
    let upstream = scripted();
    let gateway = gateway(&upstream, true);
    let mut connection = gateway.connect();
    for _ in 0..3 {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let length = smuggled.len();
        let head =
            format!("POST /v1/orders HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n");
        connection.send(format!("{head}\r\n{smuggled}").as_bytes()).unwrap();
        assert_refused(&connection.answer("POST").unwrap(), 401, "api_key_missing");
        let answer = connection.exchange(&get("/next")).unwrap();
        assert_eq!((answer.status, answer.header("x-served")), (200, Some("next")));
    }
    assert!(upstream.seen().iter().all(|seen| seen.target == "/next"));
}

/// What follows a 101 is passed on as it comes: nobody asked for that here.
#[test]
fn an_upstream_that_switches_protocols_unasked_is_an_upstream_error() {
    for lane in [false, true] {
        let upstream = scripted();
        let gateway = gateway(&upstream, lane);
        for asked in [get("/101"), post("/101", "hello")] {
            assert_refused(&gateway.send(&asked), 502, "upstream_error");
        }
        // One that asks for something else does not get the tunnel either.
        let h2c = get("/101").header("Connection", "Upgrade").header("Upgrade", "h2c");
        assert_refused(&gateway.send(&h2c), 502, "upstream_error");
    }
}

#[test]
fn the_lane_is_switched_by_a_reload_and_serves_the_routes_with_http_1_behind_them() {
    let upstream = scripted();
    let mut gateway = gateway(&upstream, false);
    let mut connection = gateway.connect();
    let mut sent = |gateway: &Gateway, target: &str| {
        let before = by_lane(gateway);
        assert_eq!(connection.exchange(&get(target)).unwrap().status, 200);
        let asked = connection.exchange(&get(target).header("TE", "trailers")).unwrap();
        assert_eq!(asked.status, 200);
        by_lane(gateway) - before
    };
    assert_eq!(sent(&gateway, "/cl"), 0);
    let lane = |setup: Setup, on: bool| setup.only_server(&format!("express_lane = {on}"));
    gateway.rewrite(|setup| lane(setup, true));
    assert_eq!(gateway.reload().status, 200);
    // A connection that waits learns of it with its next request.
    eventually("a request by the lane", || (sent(&gateway, "/cl") == 1).then_some(()));
    let other = H2Upstream::start();
    let also =
        format!("[upstreams.other]\nprotocol = \"http2\"\ntargets = [\"{}\"]", other.address);
    let route = "name = \"other\"\npath = \"/other\"\nupstream = \"other\"\nauth = \"public\"\n";
    gateway.rewrite(|setup| setup.tables(&also).route(route));
    assert_eq!(gateway.reload().status, 200);
    // However it is written: it is read as when it is decided.
    for target in ["/other", "/other/", "/other?a", "/oth%65r"] {
        assert_eq!(sent(&gateway, target), 0, "{target}");
    }
    assert_eq!(sent(&gateway, "/cl"), 1);
    assert_refused(&gateway.send(&get("/v1/orders")), 401, "api_key_missing");
    gateway.rewrite(|setup| lane(setup, false));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!((sent(&gateway, "/cl"), sent(&gateway, "/other")), (0, 0));
}

/// The lane has half of what may be, as the usual way has.
#[test]
fn idle_connections_are_no_more_than_they_may_be() {
    const AT_ONCE: usize = 6;
    let all = Arc::new(Barrier::new(AT_ONCE));
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        all.wait();
        exchange.answer(200, &[], b"served")
    });
    let gateway = Setup::in_front_of(&upstream)
        .server("express_lane = true\nupstream_idle_max = 4")
        .route(ALL)
        .start();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| assert_eq!(gateway.send(&get("/x")).status, 200));
        }
    });
    eventually("connections that wait, and others that had to go", || {
        let idle = gateway.metric("keygate_express_idle_connections") as usize;
        let closed = gateway.metric("keygate_express_idle_closed_total") as usize;
        assert!(idle <= 2, "{idle}");
        ((idle, closed) == (2, AT_ONCE - 2)).then_some(())
    });
}
