//! Many reloads under steady load: no request fails, and none is served by a mix of two configurations.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{config, count, replace};
use crate::harness::{
    Answer, Connection, Gateway, KeySpec, Request, Setup, Upstream, alone, eventually, get, post,
    scale,
};

const CLIENTS: usize = 64;
/// Between two requests of a client: how much load there is, not a wait for anything.
const PACE: Duration = Duration::from_millis(25);
/// One reload in so many is by the changed file alone, one by a signal; all others are asked for.
const BY_FILE: u64 = 10;
const BY_SIGNAL: u64 = 3;
/// Before one reload in so many, a file that cannot be used.
const BROKEN: u64 = 10;
/// What is still no growth.
const GROWTH_MAX_KIB: u64 = 48 << 10;

/// One of the two configurations, as a request sees it.
struct Side {
    name: &'static str,
    upstream: Upstream,
    burst: u32,
}

impl Side {
    fn new(name: &'static str, burst: u32) -> Self {
        let upstream = Upstream::answering(move |exchange| {
            exchange.read_body()?;
            let told = exchange.request.header("x-config").unwrap_or_default().to_owned();
            exchange.answer(200, &[], format!("{name} {told}").as_bytes())
        });
        Self { name, upstream, burst }
    }

    /// The route goes to this side's upstream, and all else that a request meets says so too.
    fn text(&self, setup: Setup, gateway: &Gateway) -> String {
        let Self { name, upstream, burst } = self;
        let tables = format!(
            "[upstreams.{name}]\ntargets = [\"{}\"]\n\
             [tiers.small]\nrate = \"1000000/s\"\nburst = {burst}\n",
            upstream.address()
        );
        let route = format!(
            "name = \"moved\"\npath = \"/moved\"\nupstream = \"{name}\"\nauth = \"key\"\n\
             scopes = [\"read:{name}\"]\nrequest_headers = {{ set = {{ X-Config = \"{name}\" }} }}\n\
             response_headers = {{ set = {{ X-Config = \"{name}\" }} }}"
        );
        let toml = setup.tables(&tables).route(&route);
        toml.toml(gateway.proxy, gateway.admin_address)
    }

    /// Whether every trace of the configuration in this answer is of this side.
    fn answered(&self, answer: &Answer) -> bool {
        answer.status == 200
            && answer.text() == format!("{0} {0}", self.name)
            && answer.header("x-config") == Some(self.name)
            && answer
                .header("ratelimit-policy")
                .is_some_and(|policy| policy.starts_with(&format!("\"rate\";q={};", self.burst)))
    }
}

#[derive(Default)]
struct Load {
    ended: AtomicBool,
    sent: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    fn client(&self, mut connection: Connection, request: &Request, sides: &[Side; 2]) {
        while !self.ended.load(Ordering::SeqCst) {
            let wrong = match connection.exchange(request) {
                Ok(answer) if sides.iter().any(|side| side.answered(&answer)) => None,
                Ok(answer) => Some(format!("{answer:?} {}", answer.text())),
                Err(broken) => Some(format!("{broken:?}")),
            };
            self.sent.fetch_add(1, Ordering::SeqCst);
            if let Some(wrong) = wrong {
                self.wrong.lock().unwrap().push(wrong);
                return;
            }
            thread::sleep(PACE);
        }
    }

    #[track_caller]
    fn is_right(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} requests: {:#?}", wrong.len(), wrong.first());
    }
}

/// Also when an assertion fails: the scope waits for all threads.
struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
    }
}

fn rss_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Files that cannot be used, each in its own way.
fn broken(good: &str, n: u64) -> String {
    match n % 4 {
        0 => good[..good.len() / 2].to_owned() + "\n[[routes",
        1 => good.replace("[server]\n", "[server]\nlisten_on = 1\n"),
        2 => good.replace("path = \"/moved\"", "path = \"moved\""),
        _ => String::new(),
    }
}

/// Has the files taken over in one way or another, and waits until they are.
fn take_over(gateway: &Gateway, n: u64, before: &Value, hash: Option<&Value>) -> Value {
    if n.is_multiple_of(BY_FILE) {
        // By itself.
    } else if n.is_multiple_of(BY_SIGNAL) {
        assert!(gateway.hang_up());
    } else {
        let answer = gateway.admin().send(&post("/v1/reload", "{}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    eventually("the other configuration", || {
        let now = config(gateway)["hash"].clone();
        (now != *before && hash.is_none_or(|hash| now == *hash)).then_some(now)
    })
}

#[test]
fn no_request_fails_or_sees_two_configurations_in_a_thousand_reloads() {
    let _alone = alone();
    let reloads = scale("RELOADS", 60);
    let sides = [Side::new("a", 900_001), Side::new("b", 900_002)];
    let setup = Setup::in_front_of(&sides[0].upstream).log("info").watching();
    let gateway = setup.clone().tables("[tiers.small]\nrate = \"1/s\"\n").start();
    let spec = KeySpec::new(&["read:a", "read:b"]).with("tier", json!("small"));
    let request = get("/moved").bearer(&gateway.key_with(&spec).key);
    let path = gateway.path("gateway.toml");
    let texts = sides.each_ref().map(|side| side.text(setup.clone(), &gateway));
    // Read before the file is replaced, which is taken over by itself too.
    let hash = || config(&gateway)["hash"].clone();
    let before = hash();
    replace(&path, &texts[0]);
    take_over(&gateway, 1, &before, None);

    let (load, mut hashes, mut refused) = (Load::default(), [None, None], 0);
    let mut rss = [0; 2];
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (connection, load) = (gateway.connect(), &load);
            let (request, sides) = (&request, &sides);
            scope.spawn(move || load.client(connection, request, sides));
        }
        let at_the_end = Ends(&load);
        for n in 1..=reloads {
            if n.is_multiple_of(BROKEN) {
                let before = config(&gateway);
                replace(&path, &broken(&texts[0], n / BROKEN));
                assert_eq!(gateway.reload().status, 422);
                refused += 1;
                let after = config(&gateway);
                assert_eq!(after["hash"], before["hash"]);
                assert!(after["failed_reload"].is_object(), "{after}");
            }
            let at = usize::from(n % 2 == 1);
            let before = hash();
            replace(&path, &texts[at]);
            hashes[at] = Some(take_over(&gateway, n, &before, hashes[at].as_ref()));
            // From then on requests go by it, and the load meets every configuration.
            let answer = gateway.send(&request);
            assert!(sides[at].answered(&answer), "{answer:?} {}", answer.text());
            let sent = load.sent.load(Ordering::SeqCst);
            let enough = CLIENTS as u64 / 2;
            eventually("some load", || {
                (load.sent.load(Ordering::SeqCst) > sent + enough
                    || !load.wrong.lock().unwrap().is_empty())
                .then_some(())
            });
            load.is_right();
            sides.iter().for_each(|side| side.upstream.forget());
            if n == reloads / 4 {
                rss[0] = rss_kib(&gateway);
            }
        }
        drop(at_the_end);
    });
    rss[1] = rss_kib(&gateway);
    load.is_right();
    println!(
        "{reloads} reloads and {refused} refused ones, {} requests, {} KiB then {} KiB",
        load.sent.load(Ordering::SeqCst),
        rss[0],
        rss[1]
    );
    assert!(hashes[0] != hashes[1] && hashes.iter().all(Option::is_some));
    assert!(count(&gateway, "failure") >= refused as f64);
    assert!(count(&gateway, "success") >= reloads as f64);
    assert!(rss[1] < rss[0] + GROWTH_MAX_KIB, "it has grown: {rss:?} KiB");
}
