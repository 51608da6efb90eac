//! Concurrency: as many requests at one time as the tier says, and each gives its slot back exactly
//! once, however it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::h2_raw::{Client, Ending};
use crate::harness::{
    Connection, Gateway, Key, KeySpec, Request, Setup, Upstream, Wire, alone, assert_refused,
    chunk, eventually, get, post, scale,
};

const TIERS: &str = "[tiers.three]\nconcurrency = 3\n[tiers.many]\nconcurrency = 24\n";

/// Opened by the test for what waits at the upstream.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<u64>, Condvar)>);

impl Gate {
    /// Lets so many more through.
    fn open(&self, count: u64) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += count;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let waiting = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.0.1.wait_while(waiting, |open| *open == 0).unwrap();
        *open -= 1;
    }
}

/// Answers as the path says.
fn upstream(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::answering(move |exchange| match exchange.request.target.rsplit('/').next() {
        Some("hold") => {
            exchange.read_body()?;
            gate.pass();
            exchange.answer(200, &[], b"served")
        }
        Some(path @ ("tunnel" | "tunnel-of-no-length")) => {
            let headers =
                [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "0")];
            // Some servers say a length that a 101 does not have.
            exchange.start(101, if path == "tunnel" { &headers[..2] } else { &headers })?;
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = exchange.read(&mut bytes) {
                exchange.write(&bytes[..count])?;
                if bytes[..count].contains(&b'!') {
                    break;
                }
            }
            exchange.close();
            Ok(())
        }
        Some("large") => {
            exchange.read_body()?;
            exchange.answer(200, &[], &vec![b'x'; 300_000])
        }
        Some("chunked") => {
            exchange.read_body()?;
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            exchange.write(&[chunk(b"served"), chunk(b"")].concat())
        }
        Some("trickle") => {
            exchange.read_body()?;
            exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
            for _ in 0..20 {
                exchange.write(&chunk(b"drop"))?;
                thread::sleep(Duration::from_millis(1));
            }
            exchange.write(&chunk(b""))
        }
        Some("early") => {
            exchange.answer(200, &[], b"I have seen enough")?;
            exchange.close();
            Ok(())
        }
        Some("cut") => {
            exchange.start(200, &[("Content-Length", "100")])?;
            exchange.write(b"half of i")?;
            Err(io::ErrorKind::BrokenPipe.into())
        }
        Some("refuse") => Err(io::ErrorKind::BrokenPipe.into()),
        Some("garbage") => {
            exchange.write(b"\0\0HTTP is not what this is\r\n\r\n")?;
            Err(io::ErrorKind::BrokenPipe.into())
        }
        Some("empty") => {
            exchange.read_body()?;
            exchange.start(204, &[])
        }
        _ => {
            exchange.read_body()?;
            exchange.answer(200, &[], b"served")
        }
    })
}

/// A gateway whose upstream lets `hold` wait until its gate is opened.
fn start() -> (Gateway, Upstream, Gate) {
    let gate = Gate::default();
    let upstream = upstream(&gate);
    let gateway = Setup::in_front_of(&upstream).log("info").tables(TIERS).start();
    (gateway, upstream, gate)
}

fn key_in(gateway: &Gateway, tier: &str) -> Key {
    gateway.key_with(&KeySpec::new(&["read:orders"]).with("tier", json!(tier)))
}

fn slots_in_use(gateway: &Gateway) -> u64 {
    gateway.metric("keygate_limit_slots_in_use") as u64
}

#[track_caller]
fn slots_become(gateway: &Gateway, count: u64) {
    eventually("so many slots", || (slots_in_use(gateway) == count).then_some(()));
}

fn hold(key: &Key) -> Request {
    get("/any/hold").bearer(&key.key)
}

/// A client whose request waits at the upstream.
fn holding(gateway: &Gateway, key: &Key) -> Connection {
    let mut connection = gateway.connect();
    connection.send(&hold(key).to_h1()).unwrap();
    connection
}

/// So many of them, all of which have arrived.
fn all_holding(gateway: &Gateway, upstream: &Upstream, key: &Key, count: usize) -> Vec<Connection> {
    upstream.forget();
    let held = (0..count).map(|_| holding(gateway, key)).collect();
    upstream.wait_for(count);
    held
}

#[track_caller]
fn is_full(gateway: &Gateway, key: &Key) {
    let refusal = gateway.send(&get("/any").bearer(&key.key));
    assert_refused(&refusal, 429, "concurrency_exceeded");
    assert_eq!(refusal.json()["violated_policies"], json!(["concurrency"]));
    assert_eq!(refusal.header("retry-after"), Some("1"));
    assert_eq!(refusal.header("ratelimit"), None, "no time brings a slot back");
}

#[test]
fn as_many_requests_run_at_once_as_there_are_slots() {
    let (gateway, upstream, gate) = start();
    let key = key_in(&gateway, "three");
    let mut held = all_holding(&gateway, &upstream, &key, 3);
    assert_eq!(slots_in_use(&gateway), 3);
    for _ in 0..5 {
        is_full(&gateway, &key);
    }
    let other = key_in(&gateway, "three");
    assert_eq!(gateway.send(&get("/any").bearer(&other.key)).status, 200);
    gate.open(3);
    for connection in &mut held {
        assert_eq!(connection.answer("GET").unwrap().status, 200);
    }
    slots_become(&gateway, 0);
    let again = all_holding(&gateway, &upstream, &key, 3);
    is_full(&gateway, &key);
    drop(again);
}

#[test]
fn a_client_that_leaves_gives_its_slot_back() {
    let (gateway, upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    let mut held = all_holding(&gateway, &upstream, &key, 3);
    for left in [2, 1, 0] {
        is_full(&gateway, &key);
        drop(held.pop());
        slots_become(&gateway, 2);
        // What it frees is free for somebody else, once.
        held.insert(0, holding(&gateway, &key));
        slots_become(&gateway, 3);
        assert_eq!(held.len(), 3, "{left}");
    }
}

#[test]
fn a_client_that_leaves_after_its_upload_gives_its_slot_back() {
    let (gateway, upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    for size in [1, 3_000, 30_000, 300_000] {
        let upload = post("/any/hold", vec![b'x'; size]).bearer(&key.key);
        for request in [upload.clone(), upload.streamed()] {
            upstream.forget();
            let mut connection = gateway.connect();
            connection.send(&request.to_h1()).unwrap();
            eventually("the whole body", || upstream.seen().first()?.body.complete.then_some(()));
            assert_eq!(slots_in_use(&gateway), 1, "{size} bytes");
            drop(connection);
            slots_become(&gateway, 0);
        }
    }
}

/// What Pingora hands to its other half holds four pieces. When the last piece fills it, Pingora does
/// not look at the client until the upstream answers. Pieces that arrive together fill it in one go.
#[test]
fn a_client_that_leaves_with_its_last_piece_still_in_the_gateway_gives_its_slot_back() {
    let (gateway, upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    for pieces in 1..=9 {
        upstream.forget();
        let mut connection = gateway.connect();
        let head = format!(
            "POST /any/hold HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {}\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            key.key
        );
        connection
            .send(format!("{head}{}0\r\n\r\n", "1\r\nx\r\n".repeat(pieces)).as_bytes())
            .unwrap();
        upstream.wait_for(1);
        assert_eq!(slots_in_use(&gateway), 1, "{pieces} pieces");
        drop(connection);
        slots_become(&gateway, 0);
    }
}

#[test]
fn an_http2_stream_that_is_reset_gives_its_slot_back() {
    let (gateway, upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    let bearer = format!("Bearer {}", key.key);
    let fields: [(&str, &[u8]); 5] = [
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"gateway.test"),
        (":path", b"/any/hold"),
        ("authorization", bearer.as_bytes()),
    ];
    let mut clients: Vec<Client> = (0..3).map(|_| Client::open(gateway.proxy)).collect();
    clients.iter_mut().for_each(|client| client.send(&fields));
    upstream.wait_for(3);
    is_full(&gateway, &key);
    clients[0].cancel();
    slots_become(&gateway, 2);
    drop(clients.pop());
    slots_become(&gateway, 1);
    assert_eq!(gateway.send_over(Wire::H2c, &get("/any").bearer(&key.key)).status, 200);
}

fn tunnel(gateway: &Gateway, key: &Key) -> Connection {
    tunnel_to(gateway, key, "/any/tunnel")
}

fn tunnel_to(gateway: &Gateway, key: &Key, path: &str) -> Connection {
    let mut connection = gateway.connect();
    connection.send(&Request { target: path.into(), ..upgrade(key) }.to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 101);
    connection
}

fn upgrade(key: &Key) -> Request {
    get("/any/tunnel")
        .bearer(&key.key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13")
}

#[test]
fn an_upgraded_connection_holds_its_slot_until_either_side_ends_it() {
    let (gateway, _upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    let paths = ["/any/tunnel", "/any/tunnel-of-no-length", "/any/tunnel-of-no-length"];
    let mut tunnels = Vec::from(paths.map(|path| tunnel_to(&gateway, &key, path)));
    for tunnel in &mut tunnels {
        tunnel.send(b"hello").unwrap();
        assert_eq!(tunnel.read_some().unwrap(), b"hello");
    }
    is_full(&gateway, &key);
    drop(tunnels.pop());
    slots_become(&gateway, 2);
    tunnels[0].send(b"!").unwrap();
    slots_become(&gateway, 1);
    tunnels[1].send(b"still there").unwrap();
    assert_eq!(tunnels[1].read_some().unwrap(), b"still there");
}

#[test]
fn a_request_that_is_cut_off_with_its_key_gives_its_slot_back() {
    let (gateway, upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    let _held = all_holding(&gateway, &upstream, &key, 2);
    let _tunnel = tunnel(&gateway, &key);
    assert_eq!(slots_in_use(&gateway), 3);
    gateway.admin().revoke(&key);
    slots_become(&gateway, 0);
}

/// A client that counts knows when a request of its own has ended: when it has read the answer.
#[test]
fn who_never_has_more_open_than_there_are_slots_is_never_refused() {
    let _alone = alone();
    let (gateway, _upstream, _gate) = start();
    let key = key_in(&gateway, "three");
    let requests = ["plain", "empty", "large", "chunked"].map(|path| get(&format!("/any/{path}")));
    let requests = [&requests[..], &[post("/any/plain", vec![b'x'; 100_000])]].concat();
    thread::scope(|scope| {
        for worker in 0..3 {
            let (gateway, key, requests) = (&gateway, &key, &requests);
            scope.spawn(move || {
                for round in 0..400 {
                    let request = requests[(worker + round) % requests.len()].clone();
                    let wire = if round % 8 == 0 { Wire::H2c } else { Wire::H1 };
                    // On another connection each time, so another thread of the gateway may have it.
                    let answer = gateway.send_over(wire, &request.bearer(&key.key));
                    assert!(answer.status < 300, "{wire:?}, round {round}: {}", answer.text());
                }
            });
        }
    });
}

/// The ways in which clients are random.
struct Chaos<'a> {
    gateway: SocketAddr,
    key: &'a Key,
    random: fastrand::Rng,
}

impl Chaos<'_> {
    fn abort(&mut self) {
        let Ok(mut connection) = Connection::try_open(self.gateway) else { return };
        match self.random.u8(..8) {
            0 => self.leaves_in_its_head(&mut connection),
            1 => self.leaves_in_its_body(&mut connection),
            2 => self.leaves_in_a_tunnel(&mut connection),
            3 => self.leaves_over_http2(),
            4 => self.sends_two_at_once(&mut connection),
            _ => self.leaves_before_its_answer_or_in_it(&mut connection),
        }
    }

    fn request(&mut self) -> Request {
        const PATHS: [&str; 10] = [
            "plain", "large", "trickle", "early", "cut", "refuse", "garbage", "empty", "dead",
            "hold",
        ];
        let path = PATHS[self.random.usize(..PATHS.len())];
        let path = if path == "dead" { "/dead".to_owned() } else { format!("/any/{path}") };
        match self.random.u8(..3) {
            0 => post(&path, vec![b'x'; self.random.usize(1..30_000)]),
            1 => post(&path, vec![b'x'; self.random.usize(1..30_000)]).streamed(),
            _ => get(&path),
        }
        .bearer(&self.key.key)
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_micros(self.random.u64(..4_000)));
    }

    fn leaves_in_its_head(&mut self, connection: &mut Connection) {
        let bytes = self.request().to_h1();
        let _ = connection.send(&bytes[..self.random.usize(..bytes.len().min(200))]);
        self.pause();
    }

    fn leaves_in_its_body(&mut self, connection: &mut Connection) {
        let request = Request { method: "POST".into(), body: vec![b'x'; 60_000], ..self.request() };
        let bytes = request.to_h1();
        let part = self.random.usize(200..bytes.len());
        let _ = connection.send(&bytes[..part / 2]);
        self.pause();
        let _ = connection.send(&bytes[part / 2..part]);
    }

    fn leaves_before_its_answer_or_in_it(&mut self, connection: &mut Connection) {
        connection.read_timeout(Duration::from_millis(self.random.u64(1..40)));
        if connection.send(&self.request().to_h1()).is_err() {
            return;
        }
        match self.random.u8(..4) {
            0 => {}
            1 => self.pause(),
            2 => drop(connection.head()),
            _ => drop(connection.answer("GET")),
        }
        if self.random.bool() {
            let _ = connection.socket().shutdown(std::net::Shutdown::Write);
            self.pause();
        }
    }

    fn leaves_in_a_tunnel(&mut self, connection: &mut Connection) {
        connection.read_timeout(Duration::from_millis(50));
        let _ = connection.send(&upgrade(self.key).to_h1());
        if self.random.bool() {
            let _ = connection.head();
            let _ = connection.send(if self.random.bool() { b"hello!" } else { b"hello " });
            self.pause();
        }
    }

    fn leaves_over_http2(&mut self) {
        let bearer = format!("Bearer {}", self.key.key);
        let path = self.request().target;
        let fields: [(&str, &[u8]); 5] = [
            (":method", b"GET"),
            (":scheme", b"http"),
            (":authority", b"gateway.test"),
            (":path", path.as_bytes()),
            ("authorization", bearer.as_bytes()),
        ];
        let mut client = Client::open(self.gateway);
        client.send(&fields);
        self.pause();
        match self.random.u8(..3) {
            0 => client.cancel(),
            // This client takes no more than one window's worth.
            1 if !path.ends_with("hold") && !path.ends_with("large") => {
                let ending = client.ending();
                assert!(matches!(ending, Ending::Answered | Ending::Reset), "{path}: {ending:?}");
            }
            _ => {}
        }
    }

    fn sends_two_at_once(&mut self, connection: &mut Connection) {
        connection.read_timeout(Duration::from_millis(30));
        let both = [self.request().to_h1(), self.request().to_h1()].concat();
        let _ = connection.send(&both);
        let _ = connection.answer("GET");
    }
}

#[test]
fn no_way_of_leaving_keeps_a_slot() {
    const CLIENTS: u64 = 6;
    const SLOTS: usize = 24;
    let _alone = alone();
    let aborts = scale("KEYGATE_ABORTS", 300);
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("KEYGATE_SEED={seed} KEYGATE_ABORTS={aborts}");
    let gate = Gate::default();
    let upstream = upstream(&gate);
    let dead = format!("[upstreams.dead]\ntargets = [\"{}\"]\n", crate::harness::free_address());
    let mut gateway = Setup::in_front_of(&upstream)
        .log("info")
        .tables(&format!("{TIERS}{dead}"))
        .route("name = \"dead\"\npath = \"/dead\"\nupstream = \"dead\"\nauth = \"key\"")
        .start();
    let key = key_in(&gateway, "many");
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let random = fastrand::Rng::with_seed(seed.wrapping_add(client));
            let mut chaos = Chaos { gateway: gateway.proxy, key: &key, random };
            scope.spawn(move || (0..aborts / CLIENTS).for_each(|_| chaos.abort()));
        }
    });
    let admitted = gateway.metric("keygate_requests_total{outcome=\"admitted\"");
    println!("{admitted} of {} requests were admitted", gateway.metric("keygate_requests_total"));
    assert!(admitted > aborts as f64 / 4.0, "most of them ran under a limit");
    slots_become(&gateway, 0);
    eventually("no request in flight", || {
        (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
    });
    // The counter itself, not only what is said of it: none too few, and none too many.
    let held = all_holding(&gateway, &upstream, &key, SLOTS);
    is_full(&gateway, &key);
    drop(held);
    gateway.is_alive_and_well();
    gate.open(u64::MAX / 2);
}
