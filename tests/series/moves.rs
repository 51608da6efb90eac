//! A table: what happens, and which metrics tell of it by how much. A metric that stands neither here
//! nor among those that cannot be moved fails the test.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::dashboards::families;
use crate::harness::h2_raw;
use crate::harness::{
    Authority, Connection, Fleet, Gateway, Key, KeySpec, Mood, Redis, Request, Setup, Signed,
    Target, Upstream, alone, eventually, eventually_within, free_address, get, patience, post,
};

/// How a series moves, the sum of all that begin like it.
#[derive(Clone, Copy, Debug)]
enum Change {
    By(f64),
    ByAtLeast(f64),
    To(f64),
}
use Change::{By, ByAtLeast, To};

/// Something that happens, and what tells of it.
type Step = (&'static str, fn(&mut Lab), &'static [(&'static str, Change)]);

/// What cannot be moved here, and why.
const UNMOVED: &[(&str, &str)] = &[
    ("keygate_build_info", "the version"),
    ("keygate_log_lines_dropped_total", "takes a reader that is slow: tests/operators.rs"),
    ("keygate_express_idle_connections", "tests/express.rs"),
    ("keygate_express_idle_closed_total", "takes more of them than may be: tests/express.rs"),
    ("keygate_usage_stuck_sources", "takes a folder that root alone may open"),
    ("keygate_usage_dropped_total", "takes more keys than the file has room for"),
    ("process_max_fds", "the system's bound"),
    ("process_resident_memory_bytes", "moves by itself"),
    ("process_virtual_memory_bytes", "moves by itself"),
    ("process_threads", "moves by itself"),
];

const STEPS: &[Step] = &[
    (
        "a request with a key that is known",
        |lab| lab.sends(&[(200, lab.orders())]),
        &[
            ("keygate_requests_total{outcome=\"admitted\",route=\"orders.read\"}", By(1.0)),
            ("keygate_responses_total{class=\"2xx\",route=\"orders.read\"}", By(1.0)),
            ("keygate_request_seconds_count{route=\"orders.read\"}", By(1.0)),
            ("keygate_decision_seconds_count", By(1.0)),
            ("keygate_requests_served_total", By(1.0)),
            ("keygate_upstream_seconds_count{upstream=\"main\"}", By(1.0)),
            ("keygate_cache_hits_total", By(1.0)),
            ("keygate_access_log_lines_total{result=\"written\"}", By(1.0)),
            // Nobody listens there.
            ("keygate_trace_spans_total{result=\"failed\"}", ByAtLeast(1.0)),
            ("keygate_usage_batches_total{result=\"stored\"}", ByAtLeast(1.0)),
            ("keygate_lookup_seconds_count", By(0.0)),
        ],
    ),
    (
        "a change and a request elsewhere, and then here",
        |lab| {
            let key = lab.fleet[1].key(&["read:orders"]);
            lab.sends(&[(200, get("/v1/orders").bearer(&key))]);
        },
        &[
            ("keygate_cache_misses_total", By(1.0)),
            ("keygate_cache_entries", By(1.0)),
            ("keygate_lookup_seconds_count", By(1.0)),
            ("keygate_store_seconds_count{op=\"find\"}", ByAtLeast(1.0)),
            ("keygate_revocation_lag_seconds_count", ByAtLeast(1.0)),
            ("keygate_fleet_gateways", To(2.0)),
            ("keygate_link_up", To(1.0)),
        ],
    ),
    (
        "refusals",
        |lab| {
            lab.sends(&[
                (401, get("/v1/orders")),
                (403, get("/v1/reports").bearer(&lab.key.key)),
                (404, get("/nothing")),
                (400, lab.orders().api_key("two")),
            ]);
        },
        &[
            ("keygate_requests_total{outcome=\"api_key_missing\",route=\"orders.read\"}", By(1.0)),
            ("keygate_requests_total{outcome=\"permission_denied\",route=\"reports\"}", By(1.0)),
            ("keygate_requests_total{outcome=\"route_not_found\",route=\"none\"}", By(1.0)),
            ("keygate_requests_total{outcome=\"ambiguous_credentials\"", By(1.0)),
            ("keygate_responses_total{class=\"4xx\"", By(4.0)),
        ],
    ),
    (
        "a key that nobody knows",
        |lab| lab.sends(&[(401, get("/v1/orders").api_key("not-a-key-of-anybody-yet"))]),
        &[("keygate_cache_unknown_entries", By(1.0))],
    ),
    (
        "the same once more",
        |lab| lab.sends(&[(401, get("/v1/orders").api_key("not-a-key-of-anybody-yet"))]),
        &[("keygate_cache_unknown_hits_total", By(1.0))],
    ),
    (
        "a key of another system",
        |lab| lab.sends(&[(200, get("/v1/orders").api_key(IMPORTED))]),
        &[("keygate_imported_key_requests_total{outcome=\"admitted\"}", By(1.0))],
    ),
    (
        "more than a quota",
        |lab| {
            let call = get("/v1/orders").bearer(&lab.limited.key);
            lab.sends(&[(200, call.clone()), (429, call)]);
        },
        &[
            ("keygate_requests_total{outcome=\"quota_exceeded\"", By(1.0)),
            ("keygate_limit_meters", By(1.0)),
            ("keygate_limit_leases_total{result=\"answered\"}", ByAtLeast(1.0)),
        ],
    ),
    (
        "an upstream that nobody listens at",
        |lab| lab.sends(&[(502, get("/gone"))]),
        &[
            ("keygate_requests_failed_total{code=\"upstream_error\",route=\"gone\"}", By(1.0)),
            ("keygate_upstream_connect_failures_total{upstream=\"gone\"}", ByAtLeast(1.0)),
            ("keygate_responses_total{class=\"5xx\",route=\"gone\"}", By(1.0)),
        ],
    ),
    (
        "an upstream that says nothing in time",
        |lab| {
            lab.target.set(Mood::Hung);
            lab.sends(&[(504, get("/slow"))]);
            lab.target.set(Mood::Well);
        },
        &[("keygate_requests_failed_total{code=\"upstream_timeout\",route=\"slow\"}", By(1.0))],
    ),
    (
        "an upstream of which half is not there",
        |lab| (0..20).for_each(|_| lab.sends(&[(200, get("/shaky"))])),
        &[
            ("keygate_upstream_retries_total{result=\"made\",upstream=\"shaky\"}", ByAtLeast(1.0)),
            ("keygate_upstream_ejected", ByAtLeast(1.0)),
        ],
    ),
    (
        "a target that dies",
        |lab| lab.checked.kill(),
        &[("keygate_upstream_healthy", By(-1.0)), ("keygate_upstream_addresses", By(0.0))],
    ),
    (
        "a request for it",
        |lab| lab.sends(&[(503, get("/checked"))]),
        &[("keygate_requests_failed_total{code=\"upstream_unavailable\"", By(1.0))],
    ),
    ("it comes back", |lab| lab.checked.revive(), &[("keygate_upstream_healthy", By(1.0))]),
    (
        "an answer that is too large",
        |lab| lab.send_anything(&get("/brief")),
        &[("keygate_responses_too_large_total{route=\"brief\"}", By(1.0))],
    ),
    (
        "a request that runs",
        |lab| lab.begin(),
        &[
            ("keygate_inflight_requests", To(1.0)),
            ("keygate_limit_slots_in_use", To(1.0)),
            ("keygate_connections_open", ByAtLeast(1.0)),
        ],
    ),
    (
        "its key is revoked",
        |lab| lab.cut(),
        &[
            ("keygate_requests_ended_total", By(1.0)),
            ("keygate_inflight_requests", To(0.0)),
            ("keygate_limit_slots_in_use", To(0.0)),
            ("keygate_keys_revoked_total", By(1.0)),
        ],
    ),
    ("a body that does not come on", |lab| lab.stall(), &[("keygate_slow_bodies_total", By(1.0))]),
    (
        "a client that takes back all that it asks for",
        |lab| lab.take_back(),
        &[("keygate_reset_floods_total", By(1.0))],
    ),
    (
        "a client that cannot shake hands",
        |lab| TcpStream::connect(lab.tls).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap(),
        &[("keygate_connections_refused_total{reason=\"handshake\"}", By(1.0))],
    ),
    (
        "many connections",
        |lab| lab.open.extend((0..20).map(|_| lab.fleet[0].connect())),
        &[("process_open_fds", ByAtLeast(20.0)), ("keygate_connections_open", ByAtLeast(20.0))],
    ),
    (
        "a key is made and rotated",
        |lab| {
            let key = lab.fleet[0].key_with(&KeySpec::new(&["read:orders"]));
            let rotate = post(&format!("/v1/keys/{}/rotate", key.id), r#"{"overlap":"1h"}"#);
            assert_eq!(lab.fleet[0].admin().create(&rotate).status, 201);
        },
        &[
            ("keygate_keys_created_total", By(2.0)),
            ("keygate_keys_rotated_total", By(1.0)),
            ("keygate_admin_requests_total{outcome=\"ok\"}", By(4.0)),
            ("keygate_store_seconds_count{op=\"commit\"}", ByAtLeast(4.0)),
            ("keygate_audit_written_total", ByAtLeast(4.0)),
        ],
    ),
    (
        "a call without a token",
        |lab| lab.call_without_token(),
        &[("keygate_admin_requests_total{outcome=\"unauthorized\"}", By(1.0))],
    ),
    (
        "another certificate",
        |lab| lab.renew(),
        &[
            ("keygate_certificate_expiry_timestamp_seconds", ByAtLeast(40.0 * 86_400.0)),
            ("keygate_config_reloads_total{result=\"success\"}", By(1.0)),
            ("keygate_config_last_success_timestamp_seconds", ByAtLeast(1.0)),
        ],
    ),
    (
        "a file that is no configuration",
        |lab| lab.spoil(),
        &[
            ("keygate_config_last_reload_successful", To(0.0)),
            ("keygate_config_reloads_total{result=\"failure\"}", By(1.0)),
        ],
    ),
    ("mended", |lab| lab.mend(), &[("keygate_config_last_reload_successful", To(1.0))]),
    ("too many keys", |lab| lab.crowd(), &[("keygate_cache_evictions_total", ByAtLeast(1.0))]),
    ("work", |lab| lab.work(), &[("process_cpu_seconds_total", ByAtLeast(1.0))]),
    (
        "the store is away",
        |lab| {
            lab.redis.wait_until_written();
            (0..5).for_each(|_| lab.sends(&[(200, lab.orders())]));
            lab.redis.kill();
            lab.send_anything(&lab.orders());
            lab.sends(&[(503, get("/v1/orders").api_key("another-key-of-nobody"))]);
            lab.call_without_token();
        },
        &[
            ("keygate_requests_total{outcome=\"key_store_unavailable\"", By(1.0)),
            ("keygate_store_errors_total", ByAtLeast(1.0)),
            ("keygate_store_up", To(0.0)),
            ("keygate_link_up", To(0.0)),
            ("keygate_audit_dropped_total", ByAtLeast(1.0)),
            ("keygate_usage_backlog_batches", ByAtLeast(1.0)),
            ("keygate_usage_oldest_unsent_timestamp_seconds", ByAtLeast(1.0)),
        ],
    ),
    (
        "the store comes back",
        |lab| lab.redis.start_again(),
        &[("keygate_store_up", To(1.0)), ("keygate_link_up", To(1.0))],
    ),
    (
        "another start, with a limit to the age of keys",
        |lab| lab.restart(),
        &[
            ("process_start_time_seconds", ByAtLeast(1.0)),
            ("keygate_keys_live", ByAtLeast(2.0)),
            ("keygate_keys_imported", ByAtLeast(1.0)),
            ("keygate_keys_expiring_soon", ByAtLeast(1.0)),
            ("keygate_keys_past_policy", ByAtLeast(1.0)),
        ],
    ),
];

#[test]
fn every_metric_moves_when_what_it_counts_happens() {
    let _alone = alone();
    let mut lab = Lab::start();
    for (what, act, moves) in STEPS {
        let value = |lab: &Lab, series: &str| lab.fleet[0].metric(series);
        let before: Vec<_> = moves.iter().map(|(series, _)| value(&lab, series)).collect();
        act(&mut lab);
        let mut left: Vec<_> = moves.iter().zip(before).collect();
        eventually_within(patience(), || {
            left.retain(|((series, change), before)| !change.is(*before, value(&lab, series)));
            left.is_empty().then_some(())
        });
        let left: Vec<_> =
            left.iter().map(|(moves, before)| (moves, before, value(&lab, moves.0))).collect();
        assert!(left.is_empty(), "{what} (change, before, now): {left:?}");
    }
    every_metric_is_in_the_table(&lab.fleet[0]);
}

impl Change {
    fn is(self, before: f64, now: f64) -> bool {
        match self {
            By(much) => (now - before - much).abs() < 1e-9,
            ByAtLeast(much) => now - before >= much,
            To(value) => (now - value).abs() < 1e-9,
        }
    }
}

fn every_metric_is_in_the_table(gateway: &Gateway) {
    let series = STEPS.iter().flat_map(|(_, _, moves)| moves.iter()).map(|(series, _)| *series);
    let series = series.map(|series| series.split('{').next().unwrap());
    let series = series.map(|name| name.strip_suffix("_count").unwrap_or(name));
    let unmoved = UNMOVED.iter().map(|(name, _)| *name);
    let mentioned: BTreeSet<&str> = series.chain(unmoved).collect();
    let there = families(gateway);
    let forgotten = there.iter().filter(|name| !mentioned.contains(&***name));
    let forgotten: Vec<_> = forgotten.collect();
    assert!(forgotten.is_empty(), "not in the table: {forgotten:?}");
    let gone: Vec<_> = mentioned.iter().filter(|name| !there.contains(**name)).collect();
    assert!(gone.is_empty(), "in the table, and no metric: {gone:?}");
}

const IMPORTED: &str = "0f8bC41d-7a7e4QbWxyz90-legacy-key";
const DAY: Duration = Duration::from_secs(86_400);

/// A fleet of two, of which the first is looked at.
struct Lab {
    fleet: Fleet,
    redis: Redis,
    target: Target,
    checked: Target,
    authority: Authority,
    served: Signed,
    tls: SocketAddr,
    key: Key,
    limited: Key,
    running: Option<(Key, JoinHandle<()>)>,
    open: Vec<Connection>,
    tables: String,
    _upstream: Upstream,
}

impl Lab {
    fn start() -> Self {
        let (redis, upstream, authority) =
            (Redis::start(), Upstream::start(), Authority::new("ca"));
        let (target, checked) = (Target::start(), Target::start());
        let (dead, tls) = (free_address(), free_address());
        let served = authority.sign_for(&["one.test"], 10 * DAY);
        let (one, two, three) = (upstream.address(), target.address(), checked.address());
        let tables = format!(
            "[[server.tls]]\nlisten = [\"{tls}\"]\n\
             certificates = [{{ cert_file = {:?}, key_file = {:?} }}]\n\
             [audit]\nsink = \"file\"\n[access_log]\nsink = \"file\"\n\
             [tracing]\notlp_endpoint = \"http://{dead}\"\nsample = \"100%\"\n\
             [upstreams.gone]\ntargets = [\"{dead}\"]\n\
             [upstreams.shaky]\ntargets = [\"{dead}\", \"{one}\"]\nretries = 1\n\
             [upstreams.slow]\ntargets = [\"{two}\"]\nread_timeout = \"300ms\"\n\
             [upstreams.held]\ntargets = [\"{two}\"]\n\
             [upstreams.checked]\ntargets = [\"{three}\"]\n\
             [upstreams.checked.health_check]\ninterval = \"50ms\"\nunhealthy_after = 2\n\
             [tiers.busy]\nconcurrency = 5\n[tiers.small]\nquotas = [\"1/month\"]\n",
            served.certificate, served.key,
        );
        let route = |name: &str, upstream: &str, more: &str| {
            format!("name = \"{name}\"\npath = \"/{name}\"\nupstream = \"{upstream}\"\n{more}")
        };
        let public = "auth = \"public\"";
        let setup = Setup::in_front_of(&upstream)
            .log("error")
            .redis(&redis)
            .keys("accept_imported = true")
            .cache("keys_max = 16")
            .server("body_timeout = \"300ms\"")
            .route(&route("held", "held", "auth = \"key\"\nenvironment = \"live\""))
            .route(&route("brief", "main", "auth = \"public\"\nresponse_bytes_max = \"1B\""));
        let setup = ["gone", "shaky", "slow", "checked"]
            .iter()
            .fold(setup, |setup, name| setup.route(&route(name, name, public)));
        let first = setup.clone().tables(&tables);
        let other = tables.replace(&format!("\"{tls}\""), &format!("\"{}\"", free_address()));
        let fleet = Fleet::start([first, setup.tables(&other)]);
        let spec = KeySpec::new(&["read:orders"]);
        let key = fleet[0].key_with(&spec);
        assert_eq!(fleet[0].send(&get("/v1/orders").bearer(&key.key)).status, 200);
        let limited = fleet[0].key_with(&spec.clone().with("tier", json!("small")));
        fleet[0].key_with(&spec.with("ttl", json!("1d")));
        import(&fleet[0], &key.app);
        Self {
            fleet,
            redis,
            target,
            checked,
            authority,
            served,
            tls,
            key,
            limited,
            running: None,
            open: Vec::new(),
            tables,
            _upstream: upstream,
        }
    }

    fn orders(&self) -> Request {
        get("/v1/orders").bearer(&self.key.key)
    }

    fn sends(&self, requests: &[(u16, Request)]) {
        for (status, request) in requests {
            let answer = self.fleet[0].send(request);
            assert_eq!(answer.status, *status, "{request:?}: {}", answer.text());
        }
    }

    /// The connection may end before there is an answer.
    fn send_anything(&self, request: &Request) {
        drop(self.fleet[0].connect().exchange(request));
    }

    /// A request that its upstream does not answer.
    fn begin(&mut self) {
        self.target.set(Mood::Hung);
        let spec = KeySpec::new(&[]).with("tier", json!("busy"));
        let key = self.fleet[0].key_with(&spec);
        let mut connection = self.fleet[0].connect();
        let request = get("/held").bearer(&key.key);
        let client = std::thread::spawn(move || drop(connection.exchange(&request)));
        self.running = Some((key, client));
    }

    fn cut(&mut self) {
        let (key, client) = self.running.take().unwrap();
        self.fleet[0].admin().revoke(&key);
        client.join().unwrap();
        self.target.set(Mood::Well);
    }

    fn stall(&self) {
        let mut connection = self.fleet[0].connect();
        let head = "POST /public HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 10\r\n\r\nabc";
        connection.send(head.as_bytes()).unwrap();
        drop(connection.answer("POST"));
    }

    fn take_back(&self) {
        let fields: [(&str, &[u8]); 4] = [
            (":method", b"GET"),
            (":scheme", b"http"),
            (":authority", b"gateway.test"),
            (":path", b"/public"),
        ];
        let mut client = h2_raw::Client::open(self.fleet[0].proxy);
        let take_back =
            |stream| [h2_raw::request(stream, &fields), h2_raw::cancel(stream)].concat();
        for stream in (1..40_000).step_by(10) {
            let frames = (stream..stream + 10).step_by(2).flat_map(take_back);
            client.write(&frames.chain(h2_raw::ping()).collect::<Vec<_>>());
            if client.until_pong().is_err() {
                return;
            }
        }
        panic!("nobody stops it");
    }

    fn call_without_token(&self) {
        let mut connection = Connection::open(self.fleet[0].admin_address);
        let answer = connection.exchange(&get("/v1/keys").bearer("kga_nobody")).unwrap();
        assert!(matches!(answer.status, 401 | 503), "{}", answer.text());
    }

    fn renew(&self) {
        let (now, later) = (&self.served, self.authority.sign_for(&["one.test"], 60 * DAY));
        fs::copy(&later.certificate, &now.certificate).unwrap();
        fs::copy(&later.key, &now.key).unwrap();
        assert_eq!(self.fleet[0].reload().status, 200);
    }

    fn spoil(&self) {
        self.fleet[0].write("[server");
        assert_ne!(self.fleet[0].reload().status, 200);
    }

    fn mend(&mut self) {
        self.fleet[0].rewrite(|setup| setup);
        assert_eq!(self.fleet[0].reload().status, 200);
    }

    fn crowd(&self) {
        for _ in 0..4 {
            let spec = KeySpec::new(&["read:orders"]);
            let account = self.fleet[0].admin().account();
            let app = self.fleet[0].admin().app(&account, &spec);
            for _ in 0..5 {
                let key = self.fleet[0].admin().key_of(&account, &app, &spec);
                self.sends(&[(200, get("/v1/orders").bearer(&key.key))]);
            }
        }
    }

    /// The time that a process took is told in whole seconds.
    fn work(&self) {
        const CPU: &str = "process_cpu_seconds_total";
        let (mut caller, before) = (self.fleet[0].caller(), self.fleet[0].metric(CPU));
        eventually("a second's work", || {
            (0..100).for_each(|_| drop(caller.send(&get("/nothing"))));
            (self.fleet[0].metric(CPU) > before).then_some(())
        });
    }

    fn restart(&mut self) {
        let tables = self.tables.replace("[tiers.small]\n", "[tiers.small]\nmax_age = \"1s\"\n");
        let gateway = &mut self.fleet[0];
        gateway.change(|setup| setup.tables(&tables));
        gateway.kill();
        gateway.start_again();
    }
}

fn import(gateway: &Gateway, app: &str) {
    gateway.leaks().token("an imported key", IMPORTED);
    let hash: String = Sha256::digest(IMPORTED).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = json!({ "sha256": hash, "app_id": app, "scopes": ["read:orders"] });
    let import = json!({ "source": "csv", "keys": [key] }).to_string();
    let answer = gateway.admin().send(&post("/v1/keys/import", import));
    assert_eq!(answer.json()["results"][0]["result"], "created", "{}", answer.text());
}
