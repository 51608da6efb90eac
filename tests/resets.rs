//! Clients of HTTP/2 that take back what they ask for: now and then, and all the time (CVE-2023-44487).

use crate::harness::h2_raw::{Client, cancel, ping, request};
use crate::harness::{Gateway, KeySpec, Redis, Setup, Upstream, eventually, get};

/// What a client may take back at once.
const RESETS_MAX: usize = 250;
/// A gateway that lets more than this pass at once lets all pass.
const RESETS_TRIED: usize = 20_000;
/// Many more than come back meanwhile, on a slow machine too.
const AT_ONCE: usize = 50;
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

    /// Asks, and takes it back in the same breath.
    fn take_back_at_once(&mut self) -> Told {
        let (stream, asked) = self.next("/v1/orders");
        self.client.write(&[asked, cancel(stream), ping()].concat());
        self.client.until_pong()
    }

    /// Asks, and waits for the answer's end.
    fn ask(&mut self) -> Told {
        let (_, asked) = self.next("/v1/orders");
        self.client.write(&asked);
        self.client.until_answered()
    }

    /// How often the client does it until it is told something, and what.
    fn until_told(&mut self, act: impl Fn(&mut Self) -> Told) -> (usize, u32) {
        let told = (0..RESETS_TRIED).find_map(|before| Some((before, act(self).err()?)));
        told.expect("nobody stops it")
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
    let (well, reason) = lab.until_told(|lab| lab.take_back(AT_ONCE));
    assert!((well + 1) * AT_ONCE > RESETS_MAX, "told after {well}");
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
    let (well, reason) = lab.until_told(Lab::take_back_at_once);
    assert!(well >= RESETS_MAX, "told after {well}");
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    assert!((lab.floods() - 1.0).abs() < 0.5);
    lab.upstream.saw_nothing();
    assert!(lab.gateway.metric("keygate_decision_seconds_count") < 0.5);
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
