//! What runs when its key stops being good: streams, tunnels, uploads and waiting requests end
//! within a second, at the client and at the upstream; everybody else's go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::h2_streams::{H2, H2Stream};
use crate::harness::{
    Connection, Fleet, Gateway, Key, KeySpec, Redis, Request, Setup, Upstream, assert_refused,
    chunk, eventually, get, post,
};

/// An upstream with something for every kind of long request. It notes which were broken off.
struct Stage {
    upstream: Upstream,
    broken_off: Arc<Mutex<Vec<String>>>,
    /// Events sent so far, on all streams together.
    events: Arc<AtomicU64>,
}

impl Stage {
    fn set() -> Self {
        let (broken_off, events) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (note, counter) = (Arc::clone(&broken_off), Arc::clone(&events));
        let upstream = Upstream::answering(move |exchange| {
            let target = exchange.request.target.clone();
            let mut bytes = [0; 1024];
            if target.contains("tunnel") {
                exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
                while let Ok(count @ 1..) = exchange.read(&mut bytes) {
                    exchange.write(&bytes[..count])?;
                }
            } else if target.contains("events") {
                exchange.start(200, &[("Transfer-Encoding", "chunked")])?;
                let mut event = || {
                    let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                    exchange.write(&chunk(format!("data: {number}\n\n").as_bytes()))
                };
                while event().is_ok() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else if target.contains("wait") {
                exchange.read_body()?;
                while let Ok(1..) = exchange.read(&mut bytes) {}
            } else if exchange.read_body().is_ok() {
                return exchange.answer(200, &[], b"served");
            }
            exchange.close();
            note.lock().unwrap().push(target);
            Ok(())
        });
        Self { upstream, broken_off, events }
    }

    /// Waits until the upstream has lost the connection of this request.
    #[track_caller]
    fn lost(&self, target: &str) {
        eventually(&format!("the upstream still has {target}"), || {
            self.broken_off.lock().unwrap().iter().any(|lost| lost == target).then_some(())
        });
    }

    fn has(&self, target: &str) -> bool {
        !self.broken_off.lock().unwrap().iter().any(|lost| lost == target)
    }
}

/// A WebSocket's tunnel, or anything else that HTTP/1.1 can be upgraded to.
#[track_caller]
fn tunnel(gateway: &Gateway, target: &str, key: &str) -> Connection {
    let mut connection = gateway.connect();
    let request = get(target)
        .bearer(key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    connection.send(&request.to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 101);
    echoes(&mut connection);
    connection
}

/// Something goes through a tunnel and comes back.
#[track_caller]
fn echoes(tunnel: &mut Connection) {
    let sent = format!("<{}>", fastrand::u64(..));
    tunnel.send(sent.as_bytes()).unwrap();
    let mut back = String::new();
    while !back.contains(&sent) {
        let part = tunnel.read_some().expect("the tunnel is silent");
        assert!(!part.is_empty(), "the tunnel ended");
        back.push_str(&String::from_utf8_lossy(&part));
    }
}

/// A stream of events that has begun.
#[track_caller]
fn events(gateway: &Gateway, request: &Request) -> Connection {
    let mut connection = gateway.connect();
    connection.send(&request.to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    assert!(!connection.read_some().unwrap().is_empty());
    connection
}

/// Reads until the connection ends, and asserts that it was broken off rather than finished.
#[track_caller]
fn is_cut(connection: &mut Connection) {
    let mut tail = Vec::new();
    loop {
        let part = connection.read_some().expect("it goes on in silence");
        if part.is_empty() {
            break;
        }
        tail = part;
    }
    assert!(!tail.ends_with(b"\r\n0\r\n\r\n"), "passed off as whole");
}

/// An event arrives that was sent after this call.
#[track_caller]
fn h1_goes_on(stage: &Stage, stream: &mut Connection) {
    let now = stage.events.load(Ordering::SeqCst);
    is_later(now, || {
        let part = stream.read_some().expect("the stream is silent");
        assert!(!part.is_empty(), "the stream ended");
        part
    });
}

#[track_caller]
fn h2_goes_on(stage: &Stage, h2: &H2, stream: &mut H2Stream) {
    let now = stage.events.load(Ordering::SeqCst);
    is_later(now, || h2.read(stream).unwrap().expect("the stream ended").to_vec());
}

fn is_later(now: u64, mut read: impl FnMut() -> Vec<u8>) {
    let mut text = String::new();
    let number = |line: &str| line.strip_prefix("data: ")?.parse::<u64>().ok();
    // The last line may not be whole yet.
    while !text
        .rsplit_once('\n')
        .is_some_and(|(whole, _)| whole.lines().filter_map(number).any(|number| number > now))
    {
        text.push_str(&String::from_utf8_lossy(&read()));
    }
}

#[track_caller]
fn is_reset(h2: &H2, stream: &mut H2Stream) {
    loop {
        match h2.read(stream) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("passed off as whole"),
            Err(error) => {
                assert!(error.contains("Reset") && error.contains("CANCEL"), "{error}");
                return;
            }
        }
    }
}

fn new_key(gateway: &Gateway) -> Key {
    gateway.key_with(&KeySpec::new(&["read:orders", "write:orders"]))
}

/// Every kind of thing that may run on behalf of a key.
struct Busy {
    name: String,
    events: Connection,
    tunnel: Connection,
    waiting: Connection,
    upload: Connection,
    h2: H2,
    h2_events: H2Stream,
}

impl Busy {
    #[track_caller]
    fn start(gateway: &Gateway, stage: &Stage, name: &str, key: &Key) -> Self {
        let target = |kind: &str| format!("/v1/orders/{kind}/{name}");
        let mut waiting = gateway.connect();
        waiting.send(&get(&target("wait")).bearer(&key.key).to_h1()).unwrap();
        let mut upload = gateway.connect();
        let request = post(&target("upload"), "").bearer(&key.key).header("Content-Length", "9999");
        upload.send(&request.to_h1()).unwrap();
        upload.send(b"the beginning").unwrap();
        let mut h2 = H2::open(gateway.proxy);
        let busy = Self {
            name: name.to_owned(),
            events: events(gateway, &get(&target("events")).bearer(&key.key)),
            tunnel: tunnel(gateway, &target("tunnel"), &key.key),
            waiting,
            upload,
            h2_events: h2.begin(&get(&target("h2-events")).bearer(&key.key)),
            h2,
        };
        eventually("all have reached the upstream", || {
            let seen = stage.upstream.seen();
            let ours = seen.iter().filter(|seen| seen.target.ends_with(name)).count();
            (ours == KINDS.len()).then_some(())
        });
        busy
    }

    /// Waits until everything has ended, here and at the upstream.
    #[track_caller]
    fn has_ended(&mut self, stage: &Stage) {
        is_cut(&mut self.events);
        is_cut(&mut self.tunnel);
        is_cut(&mut self.waiting);
        is_cut(&mut self.upload);
        is_reset(&self.h2, &mut self.h2_events);
        for kind in KINDS {
            stage.lost(&format!("/v1/orders/{kind}/{}", self.name));
        }
    }

    #[track_caller]
    fn goes_on(&mut self, stage: &Stage) {
        echoes(&mut self.tunnel);
        h1_goes_on(stage, &mut self.events);
        h2_goes_on(stage, &self.h2, &mut self.h2_events);
        self.upload.send(b"more").unwrap();
        for kind in KINDS {
            let target = format!("/v1/orders/{kind}/{}", self.name);
            assert!(stage.has(&target), "the upstream lost {target}");
        }
    }
}

const KINDS: [&str; 5] = ["events", "tunnel", "wait", "upload", "h2-events"];

/// Two sweeps have passed since this was called: keys that were revoked after it, one after the
/// other, have lost their streams.
#[track_caller]
fn swept(gateway: &Gateway) {
    for _ in 0..2 {
        let key = new_key(gateway);
        let mut canary = tunnel(gateway, "/v1/orders/tunnel/canary", &key.key);
        gateway.admin().revoke(&key);
        is_cut(&mut canary);
    }
}

/// `end` ends what runs with a key, and what runs with another key on the same gateway goes on.
#[track_caller]
fn ends(what: &str, end: impl FnOnce(&Gateway, &Key)) {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let (ours, other) = (new_key(&gateway), new_key(&gateway));
    let mut busy = Busy::start(&gateway, &stage, "ours", &ours);
    let mut bystander = Busy::start(&gateway, &stage, "other", &other);
    end(&gateway, &ours);
    let since = Instant::now();
    busy.has_ended(&stage);
    println!("{what}: all ended within {:?}", since.elapsed());
    bystander.goes_on(&stage);
    let again = gateway.send(&get("/v1/orders").bearer(&ours.key));
    assert_eq!(again.status, 401, "{}", again.text());
    assert_eq!(gateway.metric("keygate_requests_ended_total"), KINDS.len() as f64);
}

#[test]
fn revoking_a_key_ends_what_runs_with_it() {
    ends("revoked", |gateway, key| gateway.admin().revoke(key));
}

#[test]
fn disabling_a_key_ends_what_runs_with_it() {
    ends("key disabled", |gateway, key| {
        gateway.admin().patch(&format!("/v1/keys/{}", key.id), &json!({ "status": "disabled" }));
    });
}

#[test]
fn disabling_an_app_ends_what_runs_with_its_keys() {
    ends("app disabled", |gateway, key| {
        gateway.admin().patch(&format!("/v1/apps/{}", key.app), &json!({ "status": "disabled" }));
    });
}

#[test]
fn suspending_an_account_ends_what_runs_with_its_keys() {
    ends("account suspended", |gateway, key| {
        let path = format!("/v1/accounts/{}", key.account);
        gateway.admin().patch(&path, &json!({ "status": "suspended" }));
    });
}

/// A moment shortly after now, as the admin API writes it.
fn soon(gateway: &Gateway) -> Value {
    let brief = gateway.key_with(&KeySpec::new(&[]).with("ttl", json!("3s")));
    gateway.admin().read(&format!("/v1/keys/{}", brief.id))["expires_at"].clone()
}

#[test]
fn a_key_that_expires_ends_what_runs_with_it() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let (ours, other) = (new_key(&gateway), new_key(&gateway));
    let mut busy = Busy::start(&gateway, &stage, "ours", &ours);
    let mut bystander = Busy::start(&gateway, &stage, "other", &other);
    // Not before the key's own end.
    let end = Instant::now() + Duration::from_secs(3);
    patch_key(&gateway, &ours, &json!({ "expires_at": soon(&gateway) }));
    busy.goes_on(&stage);
    busy.has_ended(&stage);
    println!("expired: all ended {:?} after the end", end.elapsed());
    bystander.goes_on(&stage);
    let answer = gateway.send(&get("/v1/orders").bearer(&ours.key));
    assert_refused(&answer, 401, "api_key_expired");
}

/// `change` alters a key, and what runs with it goes on; it still ends when the key is revoked.
#[track_caller]
fn does_not_end(change: impl FnOnce(&Gateway, &Key)) {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let key = new_key(&gateway);
    let mut busy = Busy::start(&gateway, &stage, "ours", &key);
    change(&gateway, &key);
    swept(&gateway);
    busy.goes_on(&stage);
    gateway.admin().revoke(&key);
    busy.has_ended(&stage);
}

fn patch_key(gateway: &Gateway, key: &Key, change: &Value) {
    gateway.admin().patch(&format!("/v1/keys/{}", key.id), change);
}

#[test]
fn a_key_that_is_renamed_keeps_what_runs_with_it() {
    does_not_end(|gateway, key| patch_key(gateway, key, &json!({ "name": "another" })));
}

#[test]
fn narrower_scopes_and_networks_count_from_the_next_request_on() {
    does_not_end(|gateway, key| {
        let change = json!({ "scopes": ["write:orders"], "allowed_cidrs": ["192.0.2.0/24"] });
        patch_key(gateway, key, &change);
        let answer = gateway.send(&get("/v1/orders").bearer(&key.key));
        assert_eq!(answer.status, 403, "{}", answer.text());
    });
}

#[test]
fn a_key_whose_end_is_put_off_keeps_what_runs_with_it() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let (ours, canary) = (new_key(&gateway), new_key(&gateway));
    let mut busy = Busy::start(&gateway, &stage, "ours", &ours);
    let mut ends = tunnel(&gateway, "/v1/orders/tunnel/canary", &canary.key);
    let end = json!({ "expires_at": soon(&gateway) });
    patch_key(&gateway, &ours, &end);
    patch_key(&gateway, &canary, &end);
    patch_key(&gateway, &ours, &json!({ "expires_at": "2099-01-01T00:00:00Z" }));
    is_cut(&mut ends);
    swept(&gateway);
    busy.goes_on(&stage);
}

#[test]
fn a_route_can_let_requests_finish_and_a_public_one_knows_no_keys() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream)
        .route(
            r#"name = "patient"
            path = "/patient"
            upstream = "main"
            auth = "key"
            environment = "live"
            end_when_revoked = false"#,
        )
        .start();
    let key = new_key(&gateway);
    let mut patient = tunnel(&gateway, "/patient/tunnel", &key.key);
    let mut h2 = H2::open(gateway.proxy);
    let mut patient_h2 = h2.begin(&get("/patient/events").bearer(&key.key));
    let mut public = events(&gateway, &get("/public/events").bearer(&key.key));
    gateway.admin().revoke(&key);
    swept(&gateway);
    echoes(&mut patient);
    h2_goes_on(&stage, &h2, &mut patient_h2);
    h1_goes_on(&stage, &mut public);
    let again = gateway.send(&get("/patient").bearer(&key.key));
    assert_refused(&again, 401, "api_key_invalid");
}

#[test]
fn other_streams_of_an_http2_connection_go_on() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let (ours, other) = (new_key(&gateway), new_key(&gateway));
    let mut h2 = H2::open(gateway.proxy);
    let mut cut = h2.begin(&get("/v1/orders/events/ours").bearer(&ours.key));
    let mut kept = h2.begin(&get("/v1/orders/events/other").bearer(&other.key));
    let mut public = h2.begin(&get("/public/events"));
    gateway.admin().revoke(&ours);
    is_reset(&h2, &mut cut);
    stage.lost("/v1/orders/events/ours");
    h2_goes_on(&stage, &h2, &mut kept);
    h2_goes_on(&stage, &h2, &mut public);
    let mut next = h2.begin(&get("/v1/orders").bearer(&other.key));
    assert_eq!(next.status, 200);
    assert_eq!(h2.read(&mut next).unwrap().as_deref(), Some(&b"served"[..]));
    assert_eq!(h2.begin(&get("/v1/orders").bearer(&ours.key)).status, 401);
}

#[test]
fn a_connection_that_rests_is_not_held_against_the_key_that_used_it_last() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let (ours, other) = (new_key(&gateway), new_key(&gateway));
    // As a load balancer's, which carries everybody's requests.
    let mut shared = gateway.connect();
    let orders = |key: &Key| get("/v1/orders").bearer(&key.key);
    assert_eq!(shared.exchange(&orders(&ours)).map(|answer| answer.status), Ok(200));
    gateway.admin().revoke(&ours);
    swept(&gateway);
    assert_eq!(shared.exchange(&orders(&other)).map(|answer| answer.status), Ok(200));
    assert_eq!(shared.exchange(&orders(&ours)).map(|answer| answer.status), Ok(401));
}

#[test]
fn what_was_cut_off_is_counted_logged_and_no_longer_in_flight() {
    let stage = Stage::set();
    let gateway = Setup::in_front_of(&stage.upstream).start();
    let key = new_key(&gateway);
    let request = get("/v1/orders/events").bearer(&key.key).header("X-Request-Id", "cut-1");
    let mut stream = events(&gateway, &request);
    assert_eq!(gateway.metric("keygate_inflight_requests"), 1.0);
    gateway.admin().revoke(&key);
    is_cut(&mut stream);
    eventually("the request counts as running", || {
        (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
    });
    let route = |name: &str, labels: &str| {
        gateway.metric(&format!("{name}{{{labels}route=\"orders.read\"}}"))
    };
    assert_eq!(gateway.metric("keygate_requests_ended_total"), 1.0);
    assert_eq!(route("keygate_requests_total", "outcome=\"admitted\","), 1.0);
    assert_eq!(route("keygate_responses_total", "class=\"2xx\","), 1.0);
    assert_eq!(route("keygate_request_seconds_count", ""), 1.0);
    let line = eventually("the log says so", || {
        let output = gateway.output();
        output.lines().find(|line| line.contains("request cut off")).map(str::to_owned)
    });
    for part in ["cut-1", &key.id, "KeyRevoked"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn what_runs_on_any_gateway_of_a_fleet_ends_with_its_key() {
    let (stage, redis) = (Stage::set(), Redis::start());
    let fleet = Fleet::of(3, &Setup::in_front_of(&stage.upstream).redis(&redis));
    let mut longest = Duration::ZERO;
    for revoking in 0..fleet.len() {
        let (key, other) = (fleet[0].key_with(&KeySpec::new(&[])), fleet[0].key(&[]));
        let target = |what: &str, at: usize| format!("/any/{what}/{revoking}/{at}");
        let mut doomed: Vec<Connection> = Vec::new();
        let mut others = Vec::new();
        for (at, gateway) in fleet.iter().enumerate() {
            doomed.push(tunnel(gateway, &target("tunnel", at), &key.key));
            doomed.push(events(gateway, &get(&target("events", at)).bearer(&key.key)));
            others.push(tunnel(gateway, &target("tunnel-other", at), &other));
        }
        fleet[revoking].admin().revoke(&key);
        let acknowledged = Instant::now();
        doomed.iter_mut().for_each(is_cut);
        longest = longest.max(acknowledged.elapsed());
        for at in 0..fleet.len() {
            stage.lost(&target("tunnel", at));
            stage.lost(&target("events", at));
        }
        others.iter_mut().for_each(echoes);
    }
    println!(
        "all streams of a revoked key, on three gateways, ended within {longest:?} at the latest"
    );
}
