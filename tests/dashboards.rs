//! The dashboards that ship: every expression of every panel is asked of a real Prometheus that watches
//! a busy fleet, and shows something; every metric that there is stands on one of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{
    Authority, Fleet, Gateway, Key, KeySpec, Prometheus, Redis, Scraped, Setup, Upstream, alone,
    eventually_within, free_address, get, patience, post,
};
use crate::prometheus::read;

pub const BOARDS: [&str; 3] = ["executive", "on-call", "debug"];

/// Panels that a busy and healthy fleet rightly leaves empty, with why.
const RIGHTLY_EMPTY: &[(&str, &str, &str)] = &[];

/// One expression of a panel.
#[derive(Clone, Debug)]
pub struct Question {
    board: &'static str,
    panel: String,
    expression: String,
}

/// A dashboard as the file has it.
fn board(name: &str) -> Value {
    let text = read(&format!("grafana/{name}.json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The panels with something to show.
fn panels(board: &Value) -> Vec<Value> {
    let panels = board["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").cloned().collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Everything that a dashboard asks.
fn questions(name: &'static str) -> Vec<Question> {
    let panels = panels(&board(name));
    let of_panel = |panel: &Value| {
        let expressions = panel["targets"].as_array().unwrap().iter();
        let question = |target: &Value| Question {
            board: name,
            panel: text(&panel["title"]),
            expression: text(&target["expr"]),
        };
        expressions.map(question).collect::<Vec<_>>()
    };
    panels.iter().flat_map(of_panel).collect()
}

/// What Grafana makes of an expression, and an hour before now moved to where there is something.
fn asked(expression: &str, job: &str, instance: &str) -> String {
    let asked = expression
        .replace("$job", job)
        .replace("$instance", instance)
        .replace("$route", ".*")
        .replace("$__rate_interval", "4s")
        .replace("$__interval", "1s")
        .replace("$__range", "1m")
        .replace("[2h:5m] offset 5m", "[2h:1s] offset 1s");
    assert!(!asked.contains('$'), "a variable without a value: {asked}");
    asked
}

/// What a panel of the first row of the dashboard for those on call says of one gateway: 0 is fine, 1 is
/// worth a look, 2 is bad.
pub fn verdict(prometheus: &Prometheus, panel: &str, job: &str, instance: &str) -> Option<u8> {
    let questions = questions("on-call");
    let question = questions.iter().find(|question| question.panel == panel).unwrap();
    let value = prometheus.number(&asked(&question.expression, job, instance))?;
    Some(value as u8)
}

#[test]
fn every_panel_shows_something_of_a_busy_fleet() {
    let _alone = alone();
    let lab = Lab::start();
    let [first, second] = [&lab.fleet[0], &lab.fleet[1]];
    let scraped = [("first", first), ("second", second)].map(|(instance, gateway)| Scraped {
        job: "keygate",
        instance,
        address: gateway.admin_address,
    });
    let prometheus = Prometheus::start("groups: []\n", &scraped);
    let mut empty: Vec<_> = BOARDS.into_iter().flat_map(questions).collect();
    empty.retain(|one| !RIGHTLY_EMPTY.iter().any(|(board, panel, _)| one.is_of(board, panel)));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| lab.keep_busy(&ended));
        // Also when an assertion fails here: the scope waits for all threads.
        let _at_the_end = Ends(&ended);
        let shows = |question: &Question| {
            let series = prometheus.ask(&asked(&question.expression, "keygate", ".*"));
            series.iter().any(|(_, value)| !value.is_nan())
        };
        eventually_within(patience(), || {
            empty.retain(|question| !shows(question));
            thread::sleep(Duration::from_millis(200));
            empty.is_empty().then_some(())
        });
    });
    assert!(empty.is_empty(), "show nothing: {empty:#?}");
    every_metric_is_named(&lab.fleet);
}

impl Question {
    fn is_of(&self, board: &str, panel: &str) -> bool {
        self.board == board && self.panel == panel
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What dashboards and rules name is there, and what is there is on a dashboard.
fn every_metric_is_named(fleet: &[Gateway]) {
    let there: BTreeSet<String> = fleet.iter().flat_map(families).collect();
    let on_boards = BOARDS.iter().map(|name| read(&format!("grafana/{name}.json")));
    let on_boards = named(&on_boards.collect::<String>());
    let missing: Vec<_> = on_boards.difference(&there).collect();
    assert!(missing.is_empty(), "no such metric: {missing:?}");
    let in_rules = named(&read("prometheus/keygate.rules.yml"));
    let missing: Vec<_> = in_rules.difference(&there).collect();
    assert!(missing.is_empty(), "no such metric: {missing:?}");
    let unseen: Vec<_> = there.difference(&on_boards).collect();
    assert!(unseen.is_empty(), "on no dashboard: {unseen:?}");
}

/// The names of a gateway's metrics.
pub fn families(gateway: &Gateway) -> BTreeSet<String> {
    let metrics = gateway.metrics();
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The metrics that expressions name; what is recorded by rules has colons.
fn named(text: &str) -> BTreeSet<String> {
    let recorded = Regex::new(r"\w+:[\w:]+").unwrap();
    let metric = Regex::new(r"\b(?:keygate|process)_[a-z_]+\b").unwrap();
    let plain = recorded.replace_all(text, "");
    // The rules' file and this name are no metrics.
    let names = metric.find_iter(&plain).map(|found| found.as_str());
    names.map(|name| family(name).to_owned()).collect()
}

/// The name of what a series belongs to.
fn family(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end)).unwrap_or(series)
}

/// Two gateways to which everything happens that a dashboard has a panel for.
struct Lab {
    fleet: Fleet,
    tls: SocketAddr,
    known: Key,
    limited: Key,
    imported: String,
    _redis: Redis,
    _upstream: Upstream,
    _authority: Authority,
}

impl Lab {
    fn start() -> Self {
        let (redis, upstream, authority) =
            (Redis::start(), Upstream::start(), Authority::new("ca"));
        let dead = free_address();
        let tls = [free_address(), free_address()];
        let tables = |tls: SocketAddr| {
            let signed = authority.sign(&["one.test"]);
            format!(
                "[[server.tls]]\nlisten = [\"{tls}\"]\n\
                 certificates = [{{ cert_file = {:?}, key_file = {:?} }}]\n\
                 [audit]\nsink = \"file\"\n[access_log]\nsink = \"file\"\n\
                 [tracing]\notlp_endpoint = \"http://{dead}\"\nsample = \"100%\"\n\
                 [tiers.small]\nquotas = [\"1/month\"]\n\
                 [upstreams.shaky]\ntargets = [\"{dead}\", \"{}\"]\nretries = 1\n\
                 [upstreams.gone]\ntargets = [\"{dead}\"]\n",
                signed.certificate,
                signed.key,
                upstream.address(),
            )
        };
        let route = |name: &str| {
            format!(
                "name = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\nauth = \"public\""
            )
        };
        let setup = Setup::in_front_of(&upstream)
            .redis(&redis)
            .log("error")
            .keys("accept_imported = true")
            .cache("unknown_ttl = \"1ms\"")
            .route(&route("shaky"))
            .route(&route("gone"));
        let fleet = Fleet::start(tls.map(|tls| setup.clone().tables(&tables(tls))));
        let admin = fleet[0].admin();
        let known = admin.key(&KeySpec::new(&["read:orders"]));
        let limited = KeySpec::new(&["read:orders"]).with("tier", json!("small"));
        let limited = admin.key(&limited);
        let imported = "0f8bC41d-7a7e4QbWxyz90-legacy-key".to_owned();
        import(&fleet[0], &imported, &known.app);
        let [tls, _] = tls;
        Self {
            fleet,
            tls,
            known,
            limited,
            imported,
            _redis: redis,
            _upstream: upstream,
            _authority: authority,
        }
    }

    fn keep_busy(&self, ended: &AtomicBool) {
        while !ended.load(Ordering::SeqCst) {
            self.round();
        }
    }

    /// A little of everything, some of it on the other gateway.
    fn round(&self) {
        let [first, second] = [&self.fleet[0], &self.fleet[1]];
        let orders = |key: &str| get("/v1/orders").bearer(key);
        for request in [
            orders(&self.known.key),
            orders(&self.limited.key),
            orders(&self.imported),
            get("/v1/reports").bearer(&self.known.key),
            get("/v1/orders"),
            get("/v1/orders").api_key("not-a-key-of-anybody"),
            get("/nothing"),
            get("/shaky"),
            get("/gone"),
        ] {
            first.send(&request);
            second.send(&request);
        }
        // A change that the other gateway is told of, and a key that it looks up.
        let admin = first.admin();
        let key = admin.key(&KeySpec::new(&["read:orders"]));
        assert_eq!(second.send(&orders(&key.key)).status, 200);
        admin.revoke(&key);
        assert_eq!(first.reload().status, 200);
        // No handshake.
        TcpStream::connect(self.tls).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
}

fn import(gateway: &Gateway, key: &str, app: &str) {
    gateway.leaks().token("an imported key", key);
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = json!({ "sha256": hash, "app_id": app, "scopes": ["read:orders"] });
    let import = json!({ "source": "csv", "keys": [key] }).to_string();
    let answer = gateway.admin().send(&post("/v1/keys/import", import));
    assert_eq!(answer.json()["results"][0]["result"], "created", "{}", answer.text());
}

#[test]
fn dashboards_are_whole() {
    let mut uids = BTreeSet::new();
    let used = Regex::new(r"\$\{?([a-z]+)").unwrap();
    for name in BOARDS {
        let board = board(name);
        assert!(uids.insert(text(&board["uid"])), "{name}");
        assert!(board["schemaVersion"].as_u64().unwrap() >= 38, "{name}");
        assert_eq!(board["tags"], json!(["keygate"]), "{name}");
        assert_eq!(board["timezone"], "browser", "{name}");
        assert!(!text(&board["description"]).is_empty(), "{name}");
        let variables = board["templating"]["list"].as_array().unwrap();
        let variables: BTreeSet<_> = variables.iter().map(|one| text(&one["name"])).collect();
        let whole = board.to_string();
        let used: BTreeSet<_> = used.captures_iter(&whole).map(|found| found[1].into()).collect();
        assert_eq!(variables, used, "{name}: variables and their use");
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {panel}");
        }
        let panels = panels(&board);
        panels.iter().for_each(|panel| assert_whole(name, panel));
        assert_apart(name, &board);
    }
}

fn assert_whole(board: &str, panel: &Value) {
    let title = format!("{board}: {}", text(&panel["title"]));
    assert!(text(&panel["description"]).len() > 3, "{title}: what is it, what is to be done?");
    assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty(), "{title}");
    let defaults = &panel["fieldConfig"]["defaults"];
    if matches!(panel["type"].as_str(), Some("stat" | "timeseries")) {
        assert!(defaults["unit"].is_string(), "{title}: a unit");
    }
    if panel["type"] == "stat" {
        assert!(defaults["thresholds"]["steps"].is_array(), "{title}: thresholds");
    }
}

/// No panel lies on another one.
fn assert_apart(name: &str, board: &Value) {
    let mut taken = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let place = |member: &str| panel["gridPos"][member].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{name}: {panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{name}: {} lies on another", panel["title"]);
            }
        }
    }
}

#[test]
fn the_first_row_for_those_on_call_has_one_verdict_for_each_that_it_may_be() {
    let panels = panels(&board("on-call"));
    let runbook = Regex::new(r"runbook Keygate\w+|keygate top").unwrap();
    let titles: Vec<_> = panels.iter().take(4).map(|panel| text(&panel["title"])).collect();
    assert_eq!(titles, ["Us", "The store", "The upstream", "Clients"]);
    for panel in panels.iter().take(4) {
        assert_eq!(panel["type"], "stat");
        assert_eq!(panel["gridPos"]["y"], 1, "on one line, at the top");
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
        let colours: Vec<_> = steps.iter().map(|step| text(&step["color"])).collect();
        assert_eq!(colours, ["green", "orange", "red"]);
        assert!(runbook.is_match(&text(&panel["description"])), "{panel}");
    }
}

#[test]
fn runbooks_that_dashboards_name_exist() {
    let name = Regex::new(r"\bKeygate[A-Z]\w+").unwrap();
    let alerts = crate::prometheus::alerts();
    for board in BOARDS {
        let text =
            fs::read_to_string(crate::prometheus::deployed(&format!("grafana/{board}.json")));
        for found in name.find_iter(&text.unwrap()) {
            assert!(alerts.contains(found.as_str()), "{board}: {}", found.as_str());
        }
    }
}
