//! Bounds on connections: how many there may be, in all and of one address, and how long a body may
//! take.

use std::io::Read;
use std::time::Duration;

use crate::harness::h2_raw::{Client, Ending};
use crate::harness::{Broken, Gateway, Setup, Upstream, Wire, eventually, get, post};

fn start(server: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).server(server).start(), upstream)
}

#[track_caller]
fn open_becomes(gateway: &Gateway, count: u32) {
    eventually(&format!("{count} open connections"), || {
        let open = gateway.metric("keygate_connections_open");
        ((open - f64::from(count)).abs() < 0.5).then_some(())
    });
}

#[test]
fn who_comes_when_all_places_are_taken_waits_for_one() {
    let (mut gateway, _upstream) = start("connections_max = 2");
    let mut kept = [gateway.connect(), gateway.connect()];
    for one in &mut kept {
        assert_eq!(one.exchange(&get("/public")).unwrap().status, 200);
    }
    open_becomes(&gateway, 2);
    let mut third = gateway.connect();
    third.send(&get("/public").to_h1()).unwrap();
    third.read_timeout(Duration::from_millis(300));
    assert_eq!(third.answer("GET").err(), Some(Broken::Silent));
    third.read_timeout(Duration::from_secs(60));
    let [first, second] = kept;
    drop(first);
    assert_eq!(third.answer("GET").unwrap().status, 200);
    // A limit that a reload raises counts for who waits already.
    let mut fourth = gateway.connect();
    fourth.send(&get("/public").to_h1()).unwrap();
    gateway.rewrite(|setup| setup.only_server("connections_max = 9"));
    assert!(gateway.hang_up());
    assert_eq!(fourth.answer("GET").unwrap().status, 200);
    drop((second, third, fourth));
    open_becomes(&gateway, 0);
    gateway.is_alive_and_well();
}

#[test]
fn who_waits_for_a_place_at_the_end_is_served() {
    let (mut gateway, _upstream) = start("connections_max = 1");
    let mut kept = gateway.connect();
    assert_eq!(kept.exchange(&get("/public")).unwrap().status, 200);
    let mut waiting: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for one in &mut waiting {
        one.send(&get("/public").to_h1()).unwrap();
    }
    gateway.process().terminate();
    for one in &mut waiting {
        assert_eq!(one.answer("GET").unwrap().status, 200);
    }
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let (gateway, _upstream) = start("connections_per_address_max = 2");
    let mut kept = [gateway.connect(), gateway.connect()];
    for one in &mut kept {
        assert_eq!(one.exchange(&get("/public")).unwrap().status, 200);
    }
    let excess = gateway.connect();
    assert_eq!(excess.socket().read(&mut [0]).unwrap(), 0, "closed at once");
    let refused = "keygate_connections_refused_total{reason=\"per_address\"}";
    eventually("the refusal", || (gateway.metric(refused) >= 1.0).then_some(()));
    let [first, mut second] = kept;
    assert_eq!(second.exchange(&get("/public")).unwrap().status, 200);
    drop(first);
    open_becomes(&gateway, 1);
    assert_eq!(gateway.connect().exchange(&get("/public")).unwrap().status, 200);
    drop(second);
    open_becomes(&gateway, 0);
    assert_eq!(gateway.send_over(Wire::H2c, &get("/public")).status, 200);
}

#[test]
fn a_body_that_does_not_come_on_ends_its_request() {
    let (gateway, _upstream) = start("body_timeout = \"400ms\"");
    let slow = || gateway.metric("keygate_slow_bodies_total");
    let mut stalled = gateway.connect();
    stalled.send(b"POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").unwrap();
    assert!(stalled.answer("POST").is_err());
    eventually("one that was too slow", || (slow() >= 1.0).then_some(()));
    // Who only offers another protocol has a body like anybody else.
    let mut offering = gateway.connect();
    let head =
        "POST /public HTTP/1.1\r\nHost: a\r\nUpgrade: foo\r\nContent-Length: 10\r\n\r\n12345";
    offering.send(head.as_bytes()).unwrap();
    assert!(offering.answer("POST").is_err());
    eventually("another", || (slow() >= 2.0).then_some(()));
    // One that has not begun is too slow as well, and so is one of many streams.
    let fields: [(&str, &[u8]); 4] = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":authority", b"gateway.test"),
        (":path", b"/public"),
    ];
    for (count, begun) in [(3.0, &b""[..]), (4.0, b"12345")] {
        let mut client = Client::open(gateway.proxy);
        client.begin(&fields, begun);
        assert_eq!(client.ending(), Ending::Reset);
        eventually("one more that was too slow", || (slow() >= count).then_some(()));
        // The connection goes on.
        client.ping();
    }
}

#[test]
fn a_body_may_take_as_long_as_it_likes_if_it_comes_on() {
    let (gateway, upstream) = start("body_timeout = \"2s\"");
    let mut steady = gateway.connect();
    steady.send(b"POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").unwrap();
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(250));
        steady.send(b"x").unwrap();
    }
    assert_eq!(steady.answer("POST").unwrap().status, 200);
    assert_eq!(upstream.only().body.length, 12);
    assert!(gateway.metric("keygate_slow_bodies_total") < 0.5);
}

#[test]
fn an_answer_may_take_longer_than_a_body() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        std::thread::sleep(Duration::from_millis(1_500));
        exchange.answer(200, &[], b"late")
    });
    let gateway = Setup::in_front_of(&upstream).server("body_timeout = \"300ms\"").start();
    for wire in Wire::BOTH {
        for request in [get("/public"), post("/public", "x"), post("/public", "x").streamed()] {
            assert_eq!(gateway.send_over(wire, &request).status, 200, "{wire:?} {request:?}");
        }
    }
}
