//! Noise, half-sentences and silence: the gateway stays up, and nobody holds a connection for
//! nothing.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::harness::h2_raw::Client;
use crate::harness::{
    Answer, Broken, Connection, Setup, Upstream, eventually, eventually_within, get, patience, post,
};

/// What mutations start from.
const SEEDS: [&[u8]; 6] = [
    b"GET /v1/orders?a=b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk_live_x\r\n\r\n",
    b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nX-API-Key: sk_live_x\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET http://a:80/public/%41%zz/../x;y HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x10\x01\x05\0\0\0\x01\x82\x84\x86\x41\x8c",
    b"POST /v1/apps/app_1/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
];

#[test]
fn no_bytes_bring_the_gateway_down() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let addresses = [gateway.proxy, gateway.admin_address];
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + worker);
                for round in 0..150 {
                    throw(addresses[round % 2], &noise(&mut random));
                }
            });
        }
    });
    gateway.is_alive_and_well();
    let unidentified = upstream.seen().into_iter().filter(|seen| {
        !seen.target.starts_with("/public") && seen.header("x-keygate-key-id").is_none()
    });
    assert_eq!(unidentified.count(), 0);
    let key = gateway.key(&["read:orders"]);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
}

fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    let any = |random: &mut fastrand::Rng, length| -> Vec<u8> {
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    };
    if random.u8(..) < 40 {
        let length = random.usize(1..2_000);
        return any(random, length);
    }
    let mut bytes = SEEDS[random.usize(..SEEDS.len())].to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..bytes.len());
        match random.u8(..5) {
            0 => bytes[at] = random.u8(..),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.u8(..)),
            3 => bytes.truncate(at.max(1)),
            _ => {
                let length = random.usize(..300);
                let inserted = any(random, length);
                bytes.splice(at..at, inserted);
            }
        }
        if bytes.is_empty() {
            bytes.push(b' ');
        }
    }
    bytes
}

/// Sends bytes, says that this was all, and reads whatever comes for a while.
fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut connection = Connection::open(address);
    connection.read_timeout(Duration::from_millis(300));
    if connection.send(bytes).is_ok() {
        let _ = connection.socket().shutdown(std::net::Shutdown::Write);
        while connection.read_some().is_ok_and(|bytes| !bytes.is_empty()) {}
    }
}

#[test]
fn a_short_request_is_answered_and_not_waited_for() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    // Shorter than the HTTP/2 preface that a listener might be waiting for.
    let answer = gateway.send_raw(b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.as_ref().is_ok_and(|answer| answer.status == 400), "{answer:?}");
}

#[test]
fn a_client_that_never_finishes_its_head_is_cut_off() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).server("header_timeout = \"1s\"").start();
    let begun: [&[u8]; 4] =
        [b"", b"G", b"GET /public HTTP/1.1\r\nHost: a\r\n", b"PRI * HTTP/2.0\r\n"];
    for start in begun {
        let mut connection = gateway.connect();
        connection.send(start).unwrap();
        let cut = eventually_within(patience(), || {
            // A byte now and then must not buy more time.
            let gone = !start.is_empty() && connection.send(b"a").is_err();
            (gone || connection.is_closed_within(Duration::from_millis(100))).then_some(())
        });
        assert!(cut.is_some(), "still open after {:?}", String::from_utf8_lossy(start));
    }
    upstream.saw_nothing();
}

#[test]
fn a_second_request_is_bound_by_the_same_time() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).server("header_timeout = \"1s\"").start();
    let mut connection = gateway.connect();
    assert_eq!(connection.exchange(&get("/public")).map(|answer| answer.status), Ok(200));
    connection.send(b"GET /public HTTP/1.1\r\nHost: a\r\n").unwrap();
    let cut = eventually_within(patience(), || {
        let gone = connection.send(b"x-a: b\r\n").is_err();
        (gone || connection.is_closed_within(Duration::from_millis(100))).then_some(())
    });
    assert!(cut.is_some(), "still open");
}

#[test]
fn an_idle_connection_is_closed() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).server("keepalive_timeout = \"1s\"").start();
    let mut connection = gateway.connect();
    assert_eq!(connection.exchange(&get("/public")).map(|answer| answer.status), Ok(200));
    assert!(connection.is_closed_within(patience()));
}

#[test]
fn a_client_that_leaves_midway_leaves_nothing_behind() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["write:orders"]);
    let whole = post("/v1/orders", vec![b'x'; 10_000]).bearer(&key).to_h1();
    for cut in [1, 30, 100, 1_000, whole.len() - 1] {
        let mut connection = gateway.connect();
        connection.send(&whole[..cut]).unwrap();
    }
    let idle = eventually_within(patience(), || {
        (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
    });
    assert!(idle.is_some(), "{}", gateway.metrics());
    gateway.is_alive_and_well();
    assert!(upstream.seen().iter().all(|seen| !seen.body.complete || seen.body.length == 0));
}

#[test]
fn a_second_request_that_did_not_wait_is_answered_in_turn_or_dropped() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let mut connection = gateway.connect();
    let (with, without) = (get("/v1/orders/1").bearer(&key), get("/v1/orders/2"));
    connection.send(&[with.to_h1(), without.to_h1()].concat()).unwrap();
    assert_eq!(connection.answer("GET").map(|answer| answer.status), Ok(200));
    match connection.answer("GET") {
        Ok(Answer { status: 401, .. }) | Err(Broken::Closed) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(upstream.only().target, "/v1/orders/1");
}

#[test]
fn a_client_that_takes_its_request_back_is_nobodys_trouble() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        // Until the gateway gives up.
        exchange.read(&mut [0]).map(drop)
    });
    let mut gateway = Setup::in_front_of(&upstream).start();
    for count in 1..=3 {
        let mut client = Client::open(gateway.proxy);
        client.send(&[
            (":method", b"GET"),
            (":scheme", b"http"),
            (":path", b"/public"),
            (":authority", b"gateway.test"),
        ]);
        upstream.wait_for(count);
        assert_eq!(gateway.metric("keygate_inflight_requests"), 1.0);
        client.cancel();
        client.ping();
        eventually("the request's end", || {
            (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
        });
    }
    gateway.is_alive_and_well();
    let loud = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
    let output = gateway.output();
    assert_eq!(output.lines().filter(loud).collect::<Vec<_>>(), Vec::<&str>::new());
}
