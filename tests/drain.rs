//! SIGTERM and the connections that are open at that moment: those with nothing to do hold nothing
//! up, and those that have said something are heard.

use std::time::{Duration, Instant};

use crate::harness::h2_raw::{Client, Ending};
use crate::harness::{Gateway, Setup, Upstream, get};

/// Far below the drain timeout of 30 s: nothing was waited for.
const PROMPT: Duration = Duration::from_secs(5);
/// How often a race is run.
const ROUNDS: usize = 5;

#[track_caller]
fn ends_promptly(gateway: &mut Gateway) {
    let start = Instant::now();
    gateway.process().terminate();
    let code = gateway.process().wait_for_exit();
    let took = start.elapsed();
    assert_eq!(code, Some(Some(0)), "{}", gateway.output());
    assert!(took < PROMPT, "it took {took:?}");
}

/// A request for a public route, as HTTP/2 says it.
const PUBLIC: [(&str, &[u8]); 4] = [
    (":method", b"GET"),
    (":scheme", b"http"),
    (":path", b"/public"),
    (":authority", b"gateway.test"),
];

fn public_over_h2(gateway: &Gateway) -> Client {
    let mut client = Client::open(gateway.proxy);
    client.send(&PUBLIC);
    client
}

#[test]
fn idle_http2_connections_do_not_hold_up_the_end() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let mut fresh = Client::open(gateway.proxy);
    fresh.ping();
    let mut served = public_over_h2(&gateway);
    assert_eq!(served.ending(), Ending::Answered);
    ends_promptly(&mut gateway);
    drop((fresh, served));
}

#[test]
fn an_idle_kept_connection_does_not_hold_up_the_end() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let mut served = gateway.connect();
    assert_eq!(served.exchange(&get("/public")).map(|answer| answer.status), Ok(200));
    ends_promptly(&mut gateway);
    drop(served);
}

#[test]
fn connections_that_never_said_anything_do_not_hold_up_the_end() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let silent: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    // Answered after the others were accepted: there is one queue.
    assert_eq!(gateway.send(&get("/public")).status, 200);
    ends_promptly(&mut gateway);
    drop(silent);
}

#[test]
fn a_request_sent_just_before_the_signal_is_answered() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    for round in 0..ROUNDS {
        let mut connections: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
        let mut h2 = public_over_h2(&gateway);
        // Answered after the others were accepted: there is one queue.
        assert_eq!(h2.ending(), Ending::Answered);
        let mut h2 = Client::open(gateway.proxy);
        h2.ping();
        for connection in &mut connections {
            connection.send(&get("/public").to_h1()).unwrap();
        }
        h2.send(&PUBLIC);
        gateway.process().terminate();
        for connection in &mut connections {
            let answer = connection.answer("GET").map(|answer| answer.status);
            assert_eq!(answer, Ok(200), "round {round}");
        }
        assert_eq!(h2.ending(), Ending::Answered, "round {round}");
        let code = gateway.process().wait_for_exit();
        assert_eq!(code, Some(Some(0)), "{}", gateway.output());
        gateway.start_again();
    }
}

#[test]
fn a_connection_that_waits_to_be_accepted_at_the_signal_is_answered() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    for round in 0..10 {
        let mut connection = gateway.connect();
        connection.send(&get("/public").to_h1()).unwrap();
        gateway.process().terminate();
        assert_eq!(connection.answer("GET").map(|a| a.status), Ok(200), "round {round}");
        assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
        gateway.start_again();
    }
}

#[test]
fn a_next_request_that_is_on_its_way_at_the_signal_is_answered() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    for round in 0..10 {
        let mut connection = gateway.connect();
        assert_eq!(connection.exchange(&get("/public")).map(|a| a.status), Ok(200));
        connection.send(&get("/public").to_h1()).unwrap();
        gateway.process().terminate();
        assert_eq!(connection.answer("GET").map(|a| a.status), Ok(200), "round {round}");
        assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
        gateway.start_again();
    }
}
