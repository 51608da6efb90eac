//! Clients of HTTP/2 that take back what they ask for: now and then, and all the time (CVE-2023-44487).

use std::net::TcpListener;

use crate::harness::h2_raw::{Client, cancel, ping, request};
use crate::harness::{Gateway, KeySpec, Redis, Setup, Upstream, eventually, get};

/// What a client may take back at once.
const RESETS_MAX: usize = 250;
/// A gateway that lets so many pass lets all pass.
const RESETS_TRIED: usize = 10_000;
/// Many more than come back meanwhile, on a slow machine too.
const AT_ONCE: usize = 50;
/// The same, and so few that the h2 library lets them pass.
const IN_ONE_BREATH: usize = 5;
/// What may be open at once.
const STREAMS_MAX: usize = 100;
/// What may be served at once, though its client has taken it back.
const SERVED_MAX: usize = 1_000;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One connection of a client that asks for one thing after the other.
struct Lab {
    gateway: Gateway,
    upstream: Upstream,
    client: Client,
    key: String,
    asked: usize,
}

/// Nothing, or why the gateway closes.
type Told = Result<(), u32>;

impl Lab {
    fn start() -> Self {
        let upstream = Upstream::answering(|exchange| {
            if exchange.request.target.ends_with("/held") {
                // Until the gateway goes.
                return exchange.read(&mut [0]).map(drop);
            }
            exchange.read_body()?;
            exchange.answer(200, &[], b"here")
        });
        let gateway = Setup::in_front_of(&upstream).log("info").start();
        let (client, key) = (Client::open(gateway.proxy), gateway.key(&["read:orders"]));
        Self { gateway, upstream, client, key, asked: 0 }
    }

    fn floods(&self) -> f64 {
        self.gateway.metric("keygate_reset_floods_total")
    }

    /// The next stream's number, and a request on it.
    fn next(&mut self, path: &str) -> (u32, Vec<u8>) {
        let stream = 2 * self.asked as u32 + 1;
        self.asked += 1;
        (stream, request(stream, &fields(path, &format!("Bearer {}", self.key))))
    }

    /// Asks for so much at once, and takes it all back once it is being answered.
    fn take_back(&mut self, count: usize) -> Told {
        let reached = self.upstream.count() + count;
        let (streams, asked): (Vec<_>, Vec<_>) =
            (0..count).map(|_| self.next("/v1/orders/held")).unzip();
        self.client.write(&asked.concat());
        eventually("the requests, or the end", || {
            (self.upstream.count() >= reached || self.floods() > 0.5).then_some(())
        });
        let taken_back = streams.into_iter().flat_map(cancel).chain(ping());
        self.client.write(&taken_back.collect::<Vec<_>>());
        self.client.until_pong()
    }

    /// Asks for so much, and takes it back in the same breath.
    fn take_back_at_once(&mut self, count: usize) -> Told {
        let both = (0..count).flat_map(|_| {
            let (stream, asked) = self.next("/v1/orders");
            [asked, cancel(stream)].concat()
        });
        let frames: Vec<u8> = both.chain(ping()).collect();
        self.client.write(&frames);
        self.client.until_pong()
    }

    /// Asks for what no request can ask for, and waits for the answer.
    fn ask_nobody(&mut self) -> Told {
        let fields = fields("/v1/orders", "").into_iter();
        let fields: Vec<_> = fields.filter(|(name, _)| *name != ":authority").collect();
        let (stream, _) = self.next("/v1/orders");
        self.client.write(&request(stream, &fields));
        self.client.until_answered()
    }

    /// Asks, and waits for the answer's end.
    fn ask(&mut self) -> Told {
        let (_, asked) = self.next("/v1/orders");
        self.client.write(&asked);
        self.client.until_answered()
    }

    /// How many requests the client takes back, so many at a time, until it is told something, and what.
    fn until_told(&mut self, count: usize, act: impl Fn(&mut Self, usize) -> Told) -> (usize, u32) {
        let tries = (1..=RESETS_TRIED / count).map(|tries| tries * count);
        let mut told = tries.filter_map(|taken_back| Some((taken_back, act(self, count).err()?)));
        told.next().expect("nobody stops it")
    }
}

fn fields<'a>(path: &'a str, authorization: &'a str) -> [(&'a str, &'a [u8]); 5] {
    [
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"gateway.test"),
        (":path", path.as_bytes()),
        ("authorization", authorization.as_bytes()),
    ]
}

#[test]
fn a_client_that_takes_back_all_that_it_asks_for_is_told_to_stop() {
    let mut lab = Lab::start();
    let (taken_back, reason) = lab.until_told(AT_ONCE, Lab::take_back);
    assert!(taken_back > RESETS_MAX, "told after {taken_back}");
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    assert!(lab.client.is_closed());
    assert!((lab.floods() - 1.0).abs() < 0.5);
    eventually("nothing runs any more", || {
        (lab.gateway.metric("keygate_inflight_requests") < 0.5).then_some(())
    });
    // It may come again, and be like others.
    lab.client = Client::open(lab.gateway.proxy);
    lab.asked = 0;
    assert_eq!(lab.ask(), Ok(()));
    assert_eq!(lab.gateway.send(&get("/v1/orders").bearer(&lab.key)).status, 200);
    lab.gateway.is_alive_and_well();
}

#[test]
fn what_is_taken_back_in_the_same_breath_is_not_even_decided() {
    let mut lab = Lab::start();
    let (taken_back, reason) = lab.until_told(IN_ONE_BREATH, Lab::take_back_at_once);
    assert!(taken_back > RESETS_MAX, "told after {taken_back}");
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    assert!((lab.floods() - 1.0).abs() < 0.5);
    lab.upstream.saw_nothing();
    assert!(lab.gateway.metric("keygate_decision_seconds_count") < 0.5);
    lab.gateway.is_alive_and_well();
}

/// More than the h2 library lets wait to be accepted, it refuses by itself.
#[test]
fn what_the_library_stops_is_counted_too() {
    let mut lab = Lab::start();
    assert_eq!(lab.take_back_at_once(STREAMS_MAX), Err(ENHANCE_YOUR_CALM));
    assert!(lab.client.is_closed());
    eventually("its count", || (lab.floods() > 0.5).then_some(()));
    lab.upstream.saw_nothing();
    lab.gateway.is_alive_and_well();
}

#[test]
fn malformed_requests_count_as_taken_back() {
    let mut lab = Lab::start();
    let (malformed, reason) = lab.until_told(1, |lab, _| lab.ask_nobody());
    assert!(malformed > RESETS_MAX, "told after {malformed}");
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    assert!((lab.floods() - 1.0).abs() < 0.5);
    lab.upstream.saw_nothing();
    lab.gateway.is_alive_and_well();
}

/// Nobody looks at the client meanwhile, and when somebody does it has waited for long.
#[test]
fn what_is_taken_back_while_the_gateway_waits_for_others_has_a_bound() {
    // It says nothing, so no handshake ends.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::in_front_of_address(silent.local_addr().unwrap()).log("info");
    let setup = setup.upstream("connect_timeout = \"1h\"");
    let gateway = setup.tables("[upstreams.main.tls]\nserver_name = \"silent.test\"\n").start();
    let (client, key) = (Client::open(gateway.proxy), gateway.key(&["read:orders"]));
    let mut lab = Lab { gateway, upstream: Upstream::start(), client, key, asked: 0 };
    let (taken_back, reason) = lab.until_told(AT_ONCE, |lab, count| {
        let (streams, asked): (Vec<_>, Vec<_>) = (0..count).map(|_| lab.next("/v1/orders")).unzip();
        lab.client.write(&asked.concat());
        eventually("all of them at work, or the end", || {
            let running = lab.gateway.metric("keygate_inflight_requests");
            (running > lab.asked as f64 - 0.5 || lab.floods() > 0.5).then_some(())
        });
        let taken_back = streams.into_iter().flat_map(cancel).chain(ping());
        lab.client.write(&taken_back.collect::<Vec<_>>());
        lab.client.until_pong()
    });
    assert!(taken_back > SERVED_MAX, "told after {taken_back}");
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    assert!((lab.floods() - 1.0).abs() < 0.5);
    lab.gateway.is_alive_and_well();
}

#[test]
fn pages_that_are_left_are_no_flood() {
    let mut lab = Lab::start();
    for _ in 0..RESETS_MAX / STREAMS_MAX {
        assert_eq!(lab.take_back(STREAMS_MAX), Ok(()));
    }
    assert_eq!(lab.ask(), Ok(()));
    assert!(lab.floods() < 0.5);
    lab.gateway.is_alive_and_well();
}

#[test]
fn a_client_that_takes_back_every_second_request_is_left_alone() {
    let mut lab = Lab::start();
    for round in 0..RESETS_MAX + 50 {
        assert_eq!(lab.take_back(1), Ok(()), "round {round}");
        assert_eq!(lab.ask(), Ok(()), "round {round}");
    }
    assert!(lab.floods() < 0.5);
    lab.gateway.is_alive_and_well();
}

#[test]
fn a_refusal_that_its_client_does_not_wait_for_is_no_failure_of_ours() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream).log("info").redis(&redis);
    let mut gateway = setup.store_also("find_timeout = \"2s\"").start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"])).key;
    let mut client = Client::open(gateway.proxy);
    let running = || gateway.metric("keygate_inflight_requests");
    client.ping();
    redis.pause();
    client.send(&fields("/v1/orders", &format!("Bearer {key}")));
    eventually("the request", || (running() > 0.5).then_some(()));
    client.cancel();
    eventually("its refusal", || (running() < 0.5).then_some(()));
    redis.resume();
    let refused = "keygate_requests_total{outcome=\"key_store_unavailable\"";
    assert!((gateway.metric(refused) - 1.0).abs() < 0.5);
    assert!(gateway.metric("keygate_requests_failed_total") < 0.5, "{}", gateway.output());
    assert!(!gateway.output().contains("request failed"), "{}", gateway.output());
    client.ping();
    gateway.is_alive_and_well();
}
