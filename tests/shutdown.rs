//! SIGTERM: what runs finishes, nothing is accepted and dropped, and the end is an end.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::harness::{Gateway, Setup, Upstream, eventually, get};

/// An upstream whose answers wait for a word.
fn held() -> (Upstream, Sender<()>) {
    let (release, released) = channel();
    let released: Mutex<Receiver<()>> = Mutex::new(released);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        if exchange.request.target == "/public/slow" {
            let released = released.lock().unwrap_or_else(PoisonError::into_inner);
            released.recv().map_err(std::io::Error::other)?;
        }
        exchange.answer(200, &[], b"done")
    });
    (upstream, release)
}

#[track_caller]
fn ends_well(gateway: &mut Gateway) {
    let code = gateway.process().wait_for_exit();
    assert_eq!(code, Some(Some(0)), "{}", gateway.output());
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let idle = gateway.connect();
    let mut served = gateway.connect();
    assert_eq!(served.exchange(&get("/public")).map(|answer| answer.status), Ok(200));
    let start = std::time::Instant::now();
    gateway.process().terminate();
    ends_well(&mut gateway);
    // Far below the drain timeout of 30 s: idle connections are nothing to wait for.
    assert!(start.elapsed().as_secs() < 10, "it took {:?}", start.elapsed());
    drop(idle);
}

#[test]
fn a_running_request_finishes_and_new_ones_are_not_accepted() {
    let (upstream, release) = held();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let mut slow = gateway.connect();
    slow.send(&get("/public/slow").to_h1()).unwrap();
    upstream.wait_for(1);
    gateway.process().terminate();
    let proxy = gateway.proxy;
    eventually("the listener's end", || std::net::TcpStream::connect(proxy).is_err().then_some(()));
    assert!(gateway.process().is_running(), "{}", gateway.output());
    release.send(()).unwrap();
    let answer = slow.answer("GET").unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"done"[..]));
    ends_well(&mut gateway);
}

#[test]
fn a_hangup_ends_nothing() {
    let (upstream, release) = held();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let mut slow = gateway.connect();
    slow.send(&get("/public/slow").to_h1()).unwrap();
    upstream.wait_for(1);
    gateway.process().signal("HUP");
    eventually("a word about it", || {
        gateway.output().contains("configuration was reloaded").then_some(())
    });
    release.send(()).unwrap();
    assert_eq!(slow.answer("GET").unwrap().status, 200);
    gateway.is_alive_and_well();
}

#[test]
fn readiness_ends_before_service_does() {
    let upstream = Upstream::start();
    // Long enough to be seen; the second signal ends it.
    let mut gateway = Setup::in_front_of(&upstream).server("shutdown_delay = \"1h\"").start();
    gateway.process().terminate();
    let admin = gateway.admin();
    eventually("/readyz to say 503", || (admin.send(&get("/readyz")).status == 503).then_some(()));
    assert_eq!(admin.send(&get("/healthz")).status, 200);
    assert_eq!(gateway.send(&get("/public")).status, 200);
    gateway.process().terminate();
    ends_well(&mut gateway);
}

#[test]
fn a_request_that_never_ends_is_cut_when_its_time_is_over() {
    let (upstream, _release) = held();
    let mut gateway = Setup::in_front_of(&upstream).server("drain_timeout = \"300ms\"").start();
    let mut slow = gateway.connect();
    slow.send(&get("/public/slow").to_h1()).unwrap();
    upstream.wait_for(1);
    gateway.process().terminate();
    ends_well(&mut gateway);
    assert!(slow.answer("GET").is_err());
}

#[test]
fn what_was_written_before_the_end_is_there_after_it() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    gateway.process().terminate();
    ends_well(&mut gateway);
    gateway.start_again();
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
}
