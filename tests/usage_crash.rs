//! What keys use is counted once, whatever is killed: each request that the upstream got, and each refusal
//! that a client saw, on both stores.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Caller, Gateway, Key, KeySpec, Redis, Request, Setup, Upstream, alone, eventually,
    eventually_within, get, post, request, run, runs, scale,
};

/// More than a gateway has threads that serve requests here.
const CLIENTS: usize = 8;
const TABLES: &str = "[tiers.tight]\nrate = \"40/s\"\nburst = 5\n\
                      [usage]\nflush_interval = \"200ms\"\n";
/// Where requests go, and the names of those routes.
const PATHS: [(&str, &str); 3] =
    [("/any", "any"), ("/v1/orders", "orders.read"), ("/v1/feed", "feed")];
const BODY: &[u8] = b"served";

type Counts = BTreeMap<(String, &'static str), u64>;

/// An upstream that counts, and the gateway's keys.
struct Scene {
    gateway: Gateway,
    keys: Vec<Key>,
    served: Arc<Mutex<Counts>>,
    upstream: Upstream,
    /// Requests that clients sent, and refusals that they saw.
    sent: u64,
    refused: u64,
}

fn scene(setup: impl Fn(Setup) -> Setup) -> Scene {
    let served = Arc::<Mutex<Counts>>::default();
    let counts = Arc::clone(&served);
    let upstream = Upstream::answering(move |exchange| {
        let key = exchange.request.header("X-Keygate-Key-Id").expect("a key").to_owned();
        let route =
            PATHS.iter().find(|(path, _)| exchange.request.target == *path).expect("a path").1;
        *counts.lock().unwrap().entry((key, route)).or_default() += 1;
        exchange.read_body()?;
        exchange.answer(200, &[], BODY)
    });
    let gateway = setup(Setup::in_front_of(&upstream).log("info").tables(TABLES)).start();
    let spec = KeySpec::new(&["read:orders"]);
    let specs = [
        spec.clone(),
        spec.clone(),
        // Refused on one of the routes.
        KeySpec::new(&[]),
        spec.with("tier", json!("tight")),
    ];
    let keys = specs.iter().map(|spec| gateway.key_with(spec)).collect();
    Scene { gateway, keys, served, upstream, sent: 0, refused: 0 }
}

impl Scene {
    /// Has clients that never pause, while `act` goes on.
    fn under_load(&mut self, act: impl FnOnce(&mut Gateway)) {
        let stop = AtomicBool::new(false);
        let (sent, refused) = (Mutex::new(0), Mutex::new(0));
        let Self { gateway, keys, .. } = self;
        let address = gateway.proxy;
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (stop, keys, sent, refused) = (&stop, &*keys, &sent, &refused);
                scope.spawn(move || {
                    let mut caller = Caller::new(address);
                    let (mut asked, mut denied) = (0, 0);
                    for turn in client.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let key = &keys[turn % keys.len()];
                        let (path, _) = PATHS[turn / keys.len() % PATHS.len()];
                        // A kept connection that has ended is tried twice.
                        asked += 2;
                        match caller.try_send(&get(path).bearer(&key.key)) {
                            Ok(answer) if answer.status == 403 || answer.status == 429 => {
                                denied += 1
                            }
                            Ok(answer) => assert!(answer.status == 200 || answer.status >= 500),
                            // It is gone for a moment.
                            Err(_) => thread::yield_now(),
                        }
                    }
                    *sent.lock().unwrap() += asked;
                    *refused.lock().unwrap() += denied;
                });
            }
            act(gateway);
            stop.store(true, Ordering::Relaxed);
        });
        self.sent += sent.into_inner().unwrap();
        self.refused += refused.into_inner().unwrap();
    }

    fn served(&self) -> Counts {
        self.upstream.forget();
        self.served.lock().unwrap().clone()
    }

    /// What the gateway tells of each key and route.
    fn used(&self) -> (Counts, Value) {
        let mut counts = Counts::new();
        let mut all = json!({ "refused": 0, "cost": 0, "bytes_in": 0, "bytes_out": 0 });
        for key in &self.keys {
            let found = self.gateway.admin().read(&format!("/v1/usage?by=hour&key_id={}", key.id));
            for row in found["items"].as_array().expect("rows") {
                let route =
                    PATHS.iter().find(|(_, name)| row["route"] == *name).expect("a route").1;
                let requests = row["requests"].as_u64().unwrap();
                if requests > 0 {
                    *counts.entry((key.id.clone(), route)).or_default() += requests;
                }
                for name in ["cost", "bytes_in", "bytes_out"] {
                    all[name] = json!(all[name].as_u64().unwrap() + row[name].as_u64().unwrap());
                }
                let refused = row["refused"].as_object().unwrap().values();
                let refused: u64 = refused.map(|count| count.as_u64().unwrap()).sum();
                all["refused"] = json!(all["refused"].as_u64().unwrap() + refused);
            }
        }
        (counts, all)
    }

    /// Waits until all is told, and holds it against what was served. Between the count of a request and
    /// its way to the upstream a kill may come: so many were counted and not served.
    #[track_caller]
    fn settle(&self) -> u64 {
        let is_exact = || (self.used().0 == self.served()).then_some(());
        let exact = eventually_within(Duration::from_secs(4), is_exact);
        let ((used, all), served) = (self.used(), self.served());
        let mut ahead = 0;
        for (at, &count) in &used {
            let served = served.get(at).copied().unwrap_or_default();
            assert!(count >= served, "{at:?}: {served} served and {count} counted");
            ahead += count - served;
        }
        assert!(served.keys().all(|at| used.contains_key(at)), "{served:?}\n{used:?}");
        assert_eq!(exact.is_some(), ahead == 0);
        let requests: u64 = used.values().sum();
        assert_eq!(all["cost"], requests, "each costs one");
        let most = requests * BODY.len() as u64;
        // A problem that says what failed is longer than what is served.
        let bytes_out = all["bytes_out"].as_u64().unwrap();
        assert!(bytes_out >= most / 2 && bytes_out <= most * 100, "{bytes_out} of {most} bytes");
        let refused = all["refused"].as_u64().unwrap();
        assert!(
            (self.refused..=self.sent).contains(&refused),
            "{refused} refused: {}",
            self.refused
        );
        ahead
    }
}

fn random(test: &str) -> fastrand::Rng {
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("{test}: KEYGATE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Rounds of load that end with SIGKILL.
fn is_exact_after_kills(mut scene: Scene) {
    let (mut random, rounds) = (random("kills"), scale("USAGE_KILLS", 3));
    let (mut exact, mut ahead) = (0, 0);
    for round in 1..=rounds {
        let lasts = Duration::from_millis(random.u64(100..1_500));
        scene.under_load(|gateway| {
            // Not a wait for anything: the moment of the crash is what is being tried out.
            thread::sleep(lasts);
            gateway.kill();
        });
        scene.gateway.start_again();
        let now = scene.settle();
        // A kill may leave one request of each thread between its count and its way on.
        assert!(now - ahead <= CLIENTS as u64, "round {round}: {} ahead", now - ahead);
        exact += u64::from(now == ahead);
        ahead = now;
    }
    let served: u64 = scene.served().values().sum();
    println!(
        "{exact} of {rounds} kills exact, {ahead} of {served} requests counted and not sent, {} refused",
        scene.refused
    );
    assert!(served > 0 && scene.refused > 0);
}

#[test]
fn what_keys_use_is_exact_after_kill_9_on_an_embedded_store() {
    let _alone = alone();
    is_exact_after_kills(scene(|setup| setup));
}

#[test]
fn what_keys_use_is_exact_after_kill_9_on_redis() {
    let _alone = alone();
    let redis = Redis::start();
    is_exact_after_kills(scene(|setup| setup.redis(&redis)));
}

#[test]
fn what_keys_use_is_exact_after_redis_was_killed_while_it_was_told() {
    let _alone = alone();
    let mut redis = Redis::start();
    let mut scene = scene(|setup| setup.redis(&redis));
    let mut random = random("redis");
    for _ in 0..scale("USAGE_REDIS_KILLS", 2) {
        let (before, after) = (random.u64(300..1_000), random.u64(100..1_000));
        scene.under_load(|_| {
            thread::sleep(Duration::from_millis(before));
            redis.kill();
            thread::sleep(Duration::from_millis(after));
            redis.start_again();
            thread::sleep(Duration::from_millis(before));
        });
        assert_eq!(scene.settle(), 0);
    }
    assert_eq!(scene.gateway.metric("keygate_usage_dropped_total"), 0.0);
    println!(
        "{} batches stored, {} again, {} failed",
        scene.gateway.metric("keygate_usage_batches_total{result=\"stored\"}"),
        scene.gateway.metric("keygate_usage_batches_total{result=\"again\"}"),
        scene.gateway.metric("keygate_usage_batches_total{result=\"failed\"}"),
    );
}

#[test]
fn what_keys_use_is_exact_across_upgrades() {
    let _alone = alone();
    let redis = Redis::start();
    for on_redis in [false, true] {
        let mut scene = scene(|setup| if on_redis { setup.redis(&redis) } else { setup });
        scene.under_load(|gateway| {
            let old = gateway.hand_over();
            eventually("the old one's end", || (!runs(old)).then_some(()));
        });
        let exact = || (scene.used().0 == scene.served()).then_some(());
        eventually("what the old process counted", exact);
        assert_eq!(scene.settle(), 0);
    }
}

#[test]
fn what_was_counted_last_is_told_at_a_clean_end() {
    let mut scene = scene(|setup| setup);
    scene.under_load(|_| thread::sleep(Duration::from_millis(300)));
    scene.gateway.process().terminate();
    assert_eq!(scene.gateway.process().wait_for_exit(), Some(Some(0)));
    scene.gateway.start_again();
    // Nothing is left to be told.
    let (used, _) = scene.used();
    assert_eq!(used, scene.served());
}

#[test]
fn the_bytes_of_an_upload_and_of_an_open_tunnel_outlive_a_kill() {
    let upstream = Upstream::answering(|exchange| {
        if exchange.request.method == "POST" {
            exchange.read_body()?;
            return exchange.answer(200, &[], BODY);
        }
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = exchange.read(&mut bytes) {
            exchange.write(&bytes[..count])?;
        }
        Ok(())
    });
    let mut gateway = Setup::in_front_of(&upstream).tables(TABLES).start();
    let key = gateway.key_with(&KeySpec::new(&[]));
    let upload = "x".repeat(100_000);
    assert_eq!(gateway.send(&post("/any", &*upload).bearer(&key.key)).status, 200);
    let mut tunnel = gateway.connect();
    let request = get("/any")
        .bearer(&key.key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    tunnel.send(&request.to_h1()).unwrap();
    assert_eq!(tunnel.head().unwrap().status, 101);
    for _ in 0..10 {
        tunnel.send(&[7; 500]).unwrap();
        let mut echoed = 0;
        while echoed < 500 {
            echoed += tunnel.read_some().unwrap().len();
        }
    }
    gateway.kill();
    gateway.start_again();
    let found = eventually("what was counted", || {
        let path = format!("/v1/usage?by=hour&key_id={}", key.id);
        let totals = gateway.admin().read(&path)["totals"].clone();
        (totals["requests"] == 2).then_some(totals)
    });
    assert_eq!(found["bytes_in"], 100_000 + 5_000);
    assert_eq!(found["bytes_out"], BODY.len() as u64 + 5_000);
}

#[test]
fn a_request_that_is_tried_again_is_counted_once_and_its_body_too() {
    let is_first = Arc::new(AtomicBool::new(true));
    let targets = [(); 2].map(|()| {
        let is_first = Arc::clone(&is_first);
        Upstream::answering(move |exchange| {
            exchange.read_body()?;
            if is_first.swap(false, Ordering::SeqCst) {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            exchange.answer(200, &[], BODY)
        })
    });
    let [one, other] = targets.each_ref().map(|target| target.address());
    let many = format!("[upstreams.many]\ntargets = [\"{one}\", \"{other}\"]\n{TABLES}");
    let route = "name = \"many\"\npath = \"/many\"\nupstream = \"many\"\nauth = \"key\"\n\
                 environment = \"live\"\ncost = 3";
    let setup = Setup::in_front_of(&targets[0]).tables(&many).route(route);
    let gateway = setup.start();
    let key = gateway.key_with(&KeySpec::new(&[]));
    let body = "x".repeat(20_000);
    let call = request("PUT", "/many").bearer(&key.key);
    let call = Request { body: body.clone().into(), ..call };
    assert_eq!(gateway.send(&call).status, 200);
    assert_eq!(targets.iter().map(Upstream::count).sum::<usize>(), 2, "it was tried again");
    let totals = eventually("what was counted", || {
        let path = format!("/v1/usage?by=hour&key_id={}", key.id);
        let totals = gateway.admin().read(&path)["totals"].clone();
        // A request is told of when it is admitted, and once more when it has ended.
        (totals["bytes_out"] != 0).then_some(totals)
    });
    let expected = json!({
        "requests": 1, "cost": 3, "bytes_in": 20_000, "bytes_out": BODY.len(), "refused": {}
    });
    assert_eq!(totals, expected);
}

#[test]
fn a_folder_that_cannot_be_used_is_said_at_the_start() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    gateway.kill();
    let folder = gateway.path("data/usage");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "a file").unwrap();
    let complaint = run(gateway.folder(), &["run"], &[]).complaint();
    assert!(complaint.contains("data/usage") && complaint.contains("[usage] path"), "{complaint}");
    assert_eq!(fs::read_to_string(&folder).unwrap(), "a file");
    fs::remove_file(&folder).unwrap();
    gateway.start_again();
}
