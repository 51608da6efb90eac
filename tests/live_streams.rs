//! What is still being said: events, long polls, uploads that ask first, clients of HTTP/1.0. Each part
//! goes on when it comes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::h2_streams::H2;
use crate::harness::{
    Gateway, Setup, Upstream, Wire, assert_refused, chunk, eventually, get, patience, post, scale,
};

/// Lets threads of an upstream wait for the test.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) -> io::Result<()> {
        let is_open = self.is_open.lock().unwrap();
        let (_guard, over) =
            self.changed.wait_timeout_while(is_open, patience(), |is_open| !*is_open).unwrap();
        if over.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// An upstream that sends an event whenever it is told to, and says when it did.
fn events() -> (Upstream, Sender<&'static str>, Receiver<Instant>) {
    let (tell, told) = channel::<&'static str>();
    let (say, said) = channel();
    let (told, say) = (Mutex::new(told), Mutex::new(say));
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        let headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")];
        exchange.start(200, &headers)?;
        let told = told.lock().unwrap();
        while let Ok(event) = told.recv() {
            if event.is_empty() {
                break;
            }
            let bytes = chunk(format!("data: {event}\n\n").as_bytes());
            say.lock().unwrap().send(Instant::now()).unwrap();
            exchange.write(&bytes)?;
        }
        exchange.write(&chunk(b""))
    });
    (upstream, tell, said)
}

/// The upstream holds the rest back until the client has the first: what was buffered would never come.
#[test]
fn an_event_reaches_its_client_while_the_stream_goes_on() {
    let rounds = usize::try_from(scale("EVENTS", 50)).unwrap();
    let (upstream, tell, said) = events();
    let gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key(&["read:orders"]);
    let request = get("/v1/orders/events").bearer(&key).header("Accept", "text/event-stream");
    let mut client = gateway.connect();
    client.send(&request.to_h1()).unwrap();
    let mut delays = Vec::new();
    for round in 0..rounds {
        tell.send("one more").unwrap();
        if round == 0 {
            let head = client.head().unwrap();
            assert_eq!(head.header("content-type"), Some("text/event-stream"));
        }
        let event = client.read_some().unwrap();
        delays.push(said.recv().unwrap().elapsed());
        assert!(String::from_utf8_lossy(&event).contains("one more"), "{event:?}");
    }
    tell.send("").unwrap();
    let first = delays[0];
    delays.sort();
    let (median, worst) = (delays[rounds / 2], delays[rounds - 1]);
    println!("SSE over HTTP/1.1: first event {first:?}, median {median:?}, slowest {worst:?}");
    drop(client);

    let mut client = H2::open(gateway.proxy);
    tell.send("by HTTP/2").unwrap();
    let mut stream = client.begin(&request);
    let event = client.read(&mut stream).unwrap().unwrap();
    println!("SSE over HTTP/2: first event {:?}", said.recv().unwrap().elapsed());
    assert!(event.starts_with(b"data: by HTTP/2"), "{event:?}");
    tell.send("").unwrap();
    while let Some(rest) = client.read(&mut stream).unwrap() {
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// An upstream has `read_timeout` to say more. The system, which is told to break off a connection whose
/// other end takes nothing, must not ask for a sign of life before: one lost answer would end the stream.
#[cfg(target_os = "linux")]
#[test]
fn a_silent_stream_is_not_probed() {
    for way in ["express_lane = false", "express_lane = true"] {
        let (upstream, tell, said) = events();
        let setup = Setup::in_front_of(&upstream).server(way).log("info");
        let gateway = setup.upstream("write_timeout = \"200ms\"\nread_timeout = \"1h\"").start();
        let key = gateway.key(&["read:orders"]);
        let mut client = gateway.connect();
        client.send(&get("/v1/orders/events").bearer(&key).to_h1()).unwrap();
        tell.send("first").unwrap();
        client.head().unwrap();
        let mut next = || {
            said.recv().unwrap();
            String::from_utf8(client.read_some().unwrap()).unwrap()
        };
        assert!(next().contains("first"));
        let timer = eventually("a connection on which all is said", || {
            timer_of_connection_to(upstream.address(), gateway.id())
        });
        if let Some(until_probe) = timer {
            assert!(until_probe >= Duration::from_secs(3_600), "{way}: probed in {until_probe:?}");
        }
        tell.send("second").unwrap();
        assert!(next().contains("second"));
        tell.send("").unwrap();
    }
}

/// What the kernel says of the one open connection of a process's network to an address: when the peer will
/// be probed, if it ever is. Nothing while something is sent that is not acknowledged.
#[cfg(target_os = "linux")]
fn timer_of_connection_to(address: SocketAddr, process: u32) -> Option<Option<Duration>> {
    const ESTABLISHED: &str = "01";
    let SocketAddr::V4(address) = address else { panic!("tests listen on IPv4") };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let open: Vec<_> = rows.filter(|row| row[2] == remote && row[3] == ESTABLISHED).collect();
    let row = open.first()?;
    // The table moves while it is read, so that a row may come twice.
    assert!(open.iter().all(|other| other[1] == row[1]), "one connection to {address}: {open:?}");
    let (kind, ticks) = row[5].split_once(':').unwrap();
    match kind {
        "00" => Some(None),
        // In hundredths of a second.
        "02" => {
            let ticks = u64::from_str_radix(ticks, 16).unwrap();
            Some(Some(Duration::from_millis(10 * ticks)))
        }
        _ => None,
    }
}

#[test]
fn long_polls_wait_side_by_side_and_are_all_answered() {
    const POLLS: usize = 60;
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        if exchange.request.target.starts_with("/public/poll") {
            held.wait()?;
        }
        exchange.answer(200, &[], exchange.request.target.clone().as_bytes())
    });
    let gateway = Setup::in_front_of(&upstream).log("info").start();
    thread::scope(|scope| {
        let polls: Vec<_> = (0..POLLS)
            .map(|n| {
                let (gateway, wire) = (&gateway, Wire::BOTH[n % 2]);
                let target = format!("/public/poll/{n}");
                scope.spawn(move || (gateway.send_over(wire, &get(&target)).text(), target))
            })
            .collect();
        upstream.wait_for(POLLS);
        // Those that wait are in nobody's way.
        assert_eq!(gateway.send(&get("/public/now")).text(), "/public/now");
        gate.open();
        for poll in polls {
            let (answer, target) = poll.join().unwrap();
            assert_eq!(answer, target);
        }
    });
}

#[test]
fn a_poll_whose_client_has_left_is_not_waited_for() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        // Until the gateway ends the connection.
        exchange.read(&mut [0]).map(drop)
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let mut client = gateway.connect();
    client.send(&get("/public/poll").to_h1()).unwrap();
    upstream.wait_for(1);
    drop(client);
    eventually("nothing is in flight", || {
        (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
    });
}

/// Answers 100 when the gate is open, and reads the body only then.
fn expecting() -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let upstream = Upstream::answering(move |exchange| {
        if exchange.request.header("expect").is_none() {
            exchange.read_body()?;
            return exchange.answer(200, &[], b"nobody asked");
        }
        if exchange.request.target.ends_with("/declined") {
            exchange.close();
            return exchange.answer(417, &[], b"no");
        }
        held.wait()?;
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        exchange.read_body()?;
        exchange.answer(201, &[], b"kept")
    });
    (upstream, gate)
}

#[test]
fn who_asks_before_an_upload_hears_the_upstreams_word_first() {
    let (upstream, gate) = expecting();
    let gateway = Setup::in_front_of(&upstream).start();
    let mut client = gateway.connect();
    let head = "POST /public/file HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\
                Expect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    // The head is there, and nobody but the upstream may say 100.
    upstream.wait_for(1);
    gate.open();
    assert_eq!(client.head().unwrap().status, 100);
    client.send(b"hello").unwrap();
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, &*answer.text()), (201, "kept"));
    assert_eq!(upstream.only().body.start, b"hello");
    // The connection goes on.
    assert_eq!(client.exchange(&get("/public")).unwrap().status, 200);
    // An upstream that declines is heard without the body.
    let mut client = gateway.connect();
    client.send(head.replace("/file", "/declined").as_bytes()).unwrap();
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, &*answer.text()), (417, "no"));
}

#[test]
fn who_asks_before_an_upload_is_refused_before_it() {
    let (upstream, _gate) = expecting();
    let small = "name = \"small\"\npath = \"/small\"\nupstream = \"main\"\nauth = \"public\"\n\
                 body_bytes_max = \"10B\"\n";
    let note = "name = \"note\"\npath = \"/note\"\nauth = \"public\"\n\
                respond = { status = 503, body = \"later\" }\n";
    let gateway = Setup::in_front_of(&upstream).route(small).route(note).start();
    let ask = |target: &str| {
        let mut client = gateway.connect();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
        );
        client.send(head.as_bytes()).unwrap();
        client.head().unwrap().status
    };
    assert_eq!(ask("/v1/orders"), 401);
    assert_eq!(ask("/small"), 413);
    assert_eq!(ask("/note"), 503);
    upstream.saw_nothing();
}

/// Runs curl with these arguments; nothing if there is no curl.
fn curl(gateway: &Gateway, target: &str, arguments: &[&str]) -> Option<String> {
    let url = format!("http://{}{target}", gateway.proxy);
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--include"])
        .args(arguments)
        .arg(url)
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stderr));
    Some(said)
}

#[test]
fn curl_uploads_after_it_has_asked() {
    let (upstream, gate) = expecting();
    gate.open();
    let gateway = Setup::in_front_of(&upstream).log("info").start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("upload");
    let length = 3 << 20;
    fs::write(&file, vec![b'x'; length]).unwrap();
    let data = format!("@{}", file.display());
    let upload =
        ["-H", "Expect: 100-continue", "--expect100-timeout", "50", "--data-binary", &data];
    let Some(said) = curl(&gateway, "/public/file", &upload) else {
        println!("there is no curl here");
        return;
    };
    // curl would wait for 50 seconds, and for the test no longer than that.
    assert!(said.starts_with("HTTP/1.1 100") && said.contains("HTTP/1.1 201"), "{said}");
    let body = upstream.only().body;
    assert_eq!((body.length, body.complete), (length as u64, true));
    upstream.forget();
    let said = curl(&gateway, "/v1/orders", &upload).unwrap();
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    upstream.saw_nothing();
    let said = curl(&gateway, "/public/none", &["--http1.0", "--data-binary", "old"]).unwrap();
    assert!(said.contains("nobody asked"), "{said}");
}

#[test]
fn a_client_of_http_1_0_gets_what_it_can_read() {
    let upstream = Upstream::answering(|exchange| {
        let body = exchange.read_body()?;
        if exchange.request.target.ends_with("/chunked") {
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            exchange.write(&[chunk(b"in "), chunk(b"parts"), chunk(b"")].concat())
        } else {
            exchange.answer(200, &[], &[b"whole ", &*body.start].concat())
        }
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let ask = |target: &str, rest: &str| {
        let head = format!("{target} HTTP/1.0\r\nHost: a\r\n{rest}");
        let mut client = gateway.connect();
        client.send(head.as_bytes()).unwrap();
        client
    };
    let mut client = ask("GET /public/chunked", "\r\n");
    let answer = client.answer("GET").unwrap();
    assert_eq!((answer.status, &*answer.text()), (200, "in parts"));
    assert_eq!(answer.header("transfer-encoding"), None, "it has no chunks");
    assert_eq!(ask("GET /public", "\r\n").answer("GET").unwrap().text(), "whole ");
    let answer = ask("POST /public", "Content-Length: 3\r\n\r\nold").answer("POST").unwrap();
    assert_eq!(answer.text(), "whole old");
    let answer = ask("GET /v1/orders", "\r\n").answer("GET").unwrap();
    assert_refused(&answer, 401, "api_key_missing");
    // The end of the connection says that there is no more, unless it was asked to stay.
    let mut client = ask("GET /public", "\r\n");
    client.answer("GET").unwrap();
    assert_eq!(client.read_some(), Ok(Vec::new()));
    let mut client = ask("GET /public", "Connection: keep-alive\r\n\r\n");
    client.answer("GET").unwrap();
    client.send(b"GET /public HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.answer("GET").unwrap().status, 200);
    for seen in upstream.seen() {
        assert!(seen.raw.windows(8).any(|part| part == b"HTTP/1.1"), "the gateway speaks 1.1");
    }
}

/// A body in parts with pauses: each is at the upstream before the next one is sent.
#[test]
fn an_upload_goes_on_part_by_part() {
    let (say, heard) = channel();
    let say = Mutex::new(say);
    let upstream = Upstream::answering(move |exchange| {
        let mut bytes = [0; 64];
        for _ in 0..3 {
            let count = exchange.read(&mut bytes)?;
            say.lock().unwrap().send(bytes[..count].to_vec()).map_err(io::Error::other)?;
        }
        exchange.close();
        exchange.answer(200, &[], b"heard")
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let mut client = gateway.connect();
    let head = post("/public", "").header("Content-Length", "9").to_h1();
    client.send(&head).unwrap();
    for part in ["one", "two", "six"] {
        client.send(part.as_bytes()).unwrap();
        assert_eq!(heard.recv_timeout(patience()).unwrap(), part.as_bytes());
    }
    assert_eq!(client.answer("POST").unwrap().text(), "heard");
}
