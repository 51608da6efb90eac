//! Who calls most: the right keys in the right order with the right numbers, in the API and on a terminal.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Gateway, Key, KeySpec, Setup, Tmux, Upstream, eventually, eventually_within, get, post, run,
};

/// Of the answer's body.
const ANSWER_BYTES: u64 = 100;
const KEYS: u64 = 40;

/// Many keys of one app, each used by Zipf's law: by requests, refusals and bytes another one first.
struct Crowd {
    gateway: Gateway,
    _upstream: Upstream,
    keys: Vec<Key>,
}

/// What the key of this place among the keys does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    requests: u64,
    refusals: u64,
    bytes: u64,
}

fn expected(place: u64) -> Expected {
    let share = |rank: u64, all: u64| all / (rank + 1);
    let (admitted, refusals) = (share(place, 200), share((place + 7) % KEYS, 60));
    // One body of this size, with an answer of its own.
    let body = share((place + 20) % KEYS, 200_000) + 1;
    Expected {
        requests: admitted + refusals + 1,
        refusals,
        bytes: (admitted + 1) * ANSWER_BYTES + body,
    }
}

impl Crowd {
    fn new() -> Self {
        let upstream = Upstream::answering(|exchange| {
            exchange.read_body()?;
            exchange.answer(200, &[], &[b'x'; ANSWER_BYTES as usize])
        });
        let setup = Setup::in_front_of(&upstream).keys("keys_max_live = 100").log("info");
        let gateway = setup.start();
        let admin = gateway.admin();
        let spec = KeySpec::new(&["read:orders", "write:orders"]);
        let account = admin.account();
        let app = admin.app(&account, &spec);
        let keys = (0..KEYS).map(|_| admin.key_of(&account, &app, &spec)).collect();
        Self { gateway, _upstream: upstream, keys }
    }

    /// Sends what is expected of each key, and some that nobody knows.
    fn calls(&self, strangers: u64) {
        let mut caller = self.gateway.caller();
        for (place, key) in (0..).zip(&self.keys) {
            let Expected { requests, refusals, bytes } = expected(place);
            let admitted = requests - refusals - 1;
            for _ in 0..admitted {
                assert_eq!(caller.status(&key.key), 200);
            }
            for _ in 0..refusals {
                assert_eq!(caller.send(&get("/v1/transfers").bearer(&key.key)).status, 403);
            }
            let body = vec![b'y'; (bytes - (admitted + 1) * ANSWER_BYTES) as usize];
            assert_eq!(caller.send(&post("/v1/orders", body).bearer(&key.key)).status, 200);
        }
        for _ in 0..strangers {
            assert_eq!(caller.send(&get("/v1/orders").bearer("sk_live_nobody")).status, 401);
        }
    }

    /// The places of the keys in the order of a measure.
    fn order(&self, of: fn(Expected) -> u64) -> Vec<u64> {
        let mut places: Vec<u64> = (0..KEYS).collect();
        places.sort_by_key(|place| std::cmp::Reverse(of(expected(*place))));
        places
    }

    fn id(&self, place: u64) -> &str {
        &self.keys[usize::try_from(place).unwrap()].id
    }

    fn hint(&self, place: u64) -> &str {
        &self.keys[usize::try_from(place).unwrap()].key[..12]
    }

    fn all(&self) -> Expected {
        let sum = |of: fn(Expected) -> u64| (0..KEYS).map(|place| of(expected(place))).sum();
        Expected {
            requests: sum(|e| e.requests),
            refusals: sum(|e| e.refusals),
            bytes: sum(|e| e.bytes),
        }
    }
}

/// The list once all that has ended is counted: within two seconds, on a machine that keeps up.
fn top(gateway: &Gateway, query: &str, requests: u64) -> Value {
    eventually("all requests are counted", || {
        let top = gateway.admin().read(&format!("/v1/top?{query}"));
        (top["totals"]["requests"] == requests).then_some(top)
    })
}

#[test]
fn the_loudest_keys_are_told_in_their_order_with_what_they_did() {
    const STRANGERS: u64 = 17;
    let crowd = Crowd::new();
    crowd.calls(STRANGERS);
    let all = crowd.all();
    let measures: [(&str, fn(Expected) -> u64); 3] = [
        ("requests", |expected| expected.requests),
        ("refusals", |expected| expected.refusals),
        ("bytes", |expected| expected.bytes),
    ];
    for (by, of) in measures {
        for window in ["1m", "10m", "1h"] {
            let query = format!("window={window}&by={by}&limit=10");
            let top = top(&crowd.gateway, &query, all.requests + STRANGERS);
            let nothing = json!({ "requests": 0, "refusals": 0, "bytes": 0 });
            assert_eq!(top["error_max"], nothing, "few keys are counted exactly");
            let items = top["items"].as_array().unwrap();
            assert_eq!(items.len(), 10);
            for (item, place) in items.iter().zip(crowd.order(of)) {
                let expected = expected(place);
                let said = ["requests", "refusals", "bytes"].map(|name| item[name].clone());
                let counts = [expected.requests, expected.refusals, expected.bytes];
                assert_eq!(said, counts.map(|count| json!(count)), "{by} of place {place}");
                // Keys that did as much may stand in any order.
                let twins = (0..KEYS).filter(|p| of(super::top::expected(*p)) == of(expected));
                let mut ids = twins.map(|p| crowd.id(p));
                let id = item["key_id"].as_str().unwrap();
                assert!(ids.any(|twin| twin == id), "{by}: {id} is not at place {place}");
                assert_eq!(item["error"], nothing);
                assert_eq!(item["app_id"], crowd.keys[0].app.as_str());
                assert_eq!(item["account_id"], crowd.keys[0].account.as_str());
                let series = item["series"].as_array().unwrap();
                let sum: u64 = series.iter().map(|value| value.as_u64().unwrap()).sum();
                assert_eq!((series.len(), sum), (60, of(expected)), "{by} of place {place}");
            }
        }
    }
    let top = top(&crowd.gateway, "", all.requests + STRANGERS);
    assert_eq!(top["totals"]["refusals"], all.refusals + STRANGERS);
    assert_eq!(top["totals"]["bytes"], all.bytes);
    let client = &top["clients"][0];
    assert_eq!(client["network"], "127.0.0.1");
    assert_eq!((&client["refusals"], &client["error"]), (&json!(STRANGERS), &json!(0)));
    assert_eq!(top["items"].as_array().unwrap().len(), 20, "20 unless one asks for more");
}

#[test]
fn a_head_that_nobody_can_read_counts_for_its_address() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for _ in 0..3 {
        let answer = gateway.send_raw(b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
        assert_eq!(answer.unwrap().status, 400);
    }
    let top = top(&gateway, "by=refusals", 3);
    assert_eq!((&top["items"], &top["totals"]["refusals"]), (&json!([]), &json!(3)));
    assert_eq!(top["clients"][0]["network"], "127.0.0.1");
    assert_eq!(top["clients"][0]["refusals"], 3);
}

#[test]
fn without_a_terminal_one_table_is_printed() {
    let crowd = Crowd::new();
    let mut caller = crowd.gateway.caller();
    for place in [0, 0, 1] {
        caller.status(&crowd.keys[place].key);
    }
    top(&crowd.gateway, "", 3);
    let keygate = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = run(crowd.gateway.folder(), &words, &[]).success();
        crowd.gateway.leaks().capture("a command's output", out.as_bytes());
        out
    };
    let table = keygate("top");
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["KEY", "ID", "HINT"], "{table}");
    assert_eq!(lines[1][..3], [crowd.id(0), crowd.hint(0), "2"], "{table}");
    assert_eq!(lines[2][..3], [crowd.id(1), crowd.hint(1), "1"], "{table}");
    assert_eq!((lines.len(), lines[1][5]), (3, "66.67%"));
    assert_eq!(keygate("top --once --limit 1").lines().count(), 2);
    assert_eq!(keygate("top -q"), format!("{}\n{}\n", crowd.id(0), crowd.id(1)));
    let json: Value = serde_json::from_str(&keygate("top --json --by bytes --window 1h")).unwrap();
    assert_eq!((&json["by"], &json["window"]), (&json!("bytes"), &json!("1h")));
    assert_eq!(json["items"][0]["key_id"], crowd.id(0));
    caller.send(&get("/v1/orders").bearer("sk_live_nobody"));
    top(&crowd.gateway, "", 4);
    let table = keygate("top");
    assert!(
        table.contains("\n\nNETWORK    REFUSALS  SHARE\n127.0.0.1  1         100.00%\n"),
        "{table}"
    );
    let unknown = run(crowd.gateway.folder(), &["top", "--by", "colour"], &[]);
    assert_eq!(unknown.code, Some(2));
}

/// The line of the key that stands first.
fn first(screen: &str) -> &str {
    screen.lines().find(|line| line.contains("▸ 1 ")).unwrap_or_default()
}

#[test]
fn the_view_shows_the_loudest_key_obeys_its_keys_and_leaves_the_terminal_as_it_was() {
    let crowd = Crowd::new();
    let loudest = |of: fn(Expected) -> u64| crowd.hint(crowd.order(of)[0]).to_owned();
    crowd.calls(5);
    let terminal = Tmux::start(crowd.gateway.folder(), 120, 40);
    terminal.line("echo before");
    terminal.shows("\nbefore");
    let before = terminal.screen();
    terminal.line("keygate top");
    let hint = loudest(|expected| expected.requests);
    let screen = terminal.waits("the loudest", |screen| first(screen).contains(&hint));
    for said in ["keygate top", "REQUESTS▼", "store up", "link up", "last minute", "p99", "q quit"]
    {
        assert!(screen.contains(said), "{said}:\n{screen}");
    }
    assert!(!screen.contains("before"), "a screen of its own:\n{screen}");
    assert!(first(&screen).contains(crowd.id(0)), "{screen}");
    terminal.shows("127.0.0.1 5");

    terminal.keys(&["f"]);
    let hint = loudest(|expected| expected.refusals);
    terminal.waits("the most refused", |screen| first(screen).contains(&hint));
    terminal.shows("REFUSED▼");
    terminal.keys(&["b", "2"]);
    let hint = loudest(|expected| expected.bytes);
    terminal.waits("the heaviest", |screen| first(screen).contains(&hint));
    terminal.shows("BYTES▼");
    terminal.shows("last 10 minutes");
    terminal.keys(&["Down"]);
    terminal.shows("▸ 2 ");
    terminal.keys(&["?"]);
    terminal.shows("quit; so do Esc and Ctrl-C");
    terminal.keys(&["?", "p"]);
    terminal.shows("paused");
    terminal.resize(70, 20);
    terminal.shows("needs 80×24");
    terminal.resize(80, 24);
    terminal.shows("BYTES▼");
    terminal.keys(&["p"]);
    terminal.resize(120, 40);
    let screen = terminal.screen();
    crowd.gateway.leaks().capture("the view", screen.as_bytes());

    terminal.keys(&["q"]);
    terminal.waits("the shell", |screen| screen.starts_with(before.trim_end()));
    is_a_shell_again(&terminal);
    for end in ["Escape", "C-c"] {
        terminal.line("clear; keygate top");
        terminal.shows("REQUESTS▼");
        terminal.keys(&[end]);
        is_a_shell_again(&terminal);
    }
    terminal.line("clear; keygate top");
    terminal.shows("REQUESTS▼");
    let killed = Command::new("kill").args(["-TERM", &terminal.child().to_string()]).status();
    assert!(killed.unwrap().success());
    is_a_shell_again(&terminal);
}

/// The view is gone, and what is typed is shown and taken line by line.
#[track_caller]
fn is_a_shell_again(terminal: &Tmux) {
    terminal.waits("no view", |screen| !screen.contains("REQUESTS") && !screen.contains("p99"));
    terminal.line("stty -a | tr ' ' '\\n' | grep -cE '^(icanon|echo|isig|icrnl|opost)$'");
    terminal.shows("\n5\n");
    terminal.line("clear");
}

#[test]
fn the_view_has_colours_unless_they_are_not_wanted() {
    let crowd = Crowd::new();
    crowd.gateway.caller().status(&crowd.keys[0].key);
    let terminal = Tmux::start(crowd.gateway.folder(), 100, 30);
    // Any but the default ones.
    let is_coloured = |screen: &str| {
        let codes = screen.split("\x1b[").skip(1).filter_map(|code| code.split_once('m'));
        codes.flat_map(|(codes, _)| codes.split(';')).any(
            |code| matches!(code.parse::<u8>().unwrap_or_default(), 30..=38 | 40..=48 | 90..=107),
        )
    };
    terminal.line("keygate top");
    terminal.shows(crowd.hint(0));
    assert!(is_coloured(&terminal.coloured_screen()));
    terminal.keys(&["q"]);
    is_a_shell_again(&terminal);
    terminal.line("clear; NO_COLOR=1 keygate top");
    terminal.shows(crowd.hint(0));
    let screen = terminal.coloured_screen();
    assert!(!is_coloured(&screen), "{screen:?}");
    terminal.keys(&["q"]);
    is_a_shell_again(&terminal);
}

#[test]
fn the_view_says_when_the_gateway_does_not_answer_and_goes_on_when_it_does() {
    let mut crowd = Crowd::new();
    crowd.gateway.caller().status(&crowd.keys[0].key);
    let terminal = Tmux::start(crowd.gateway.folder(), 100, 30);
    terminal.line("keygate top");
    terminal.shows(crowd.hint(0));
    crowd.gateway.process().signal("STOP");
    let screen = terminal.shows("no answer");
    assert!(screen.contains("! no answer from http://127.0.0.1"), "{screen}");
    assert!(screen.contains(crowd.hint(0)), "what was known stays:\n{screen}");
    crowd.gateway.process().signal("CONT");
    terminal.waits("an answer", |screen| !screen.contains("no answer"));
    crowd.gateway.caller().status(&crowd.keys[1].key);
    terminal.shows(crowd.hint(1));
    terminal.keys(&["q"]);
    is_a_shell_again(&terminal);

    terminal.line("clear; KEYGATE_ADMIN_TOKEN=wrong keygate top");
    let screen = terminal.shows("(unauthorized)");
    assert!(screen.contains("waiting for the gateway"), "{screen}");
    terminal.keys(&["q"]);
    is_a_shell_again(&terminal);
}

#[test]
fn what_is_counted_takes_no_room_for_keys_that_nobody_knows() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).log("info").start();
    let before = gateway.metrics();
    let mut caller = gateway.caller();
    for n in 0..500 {
        let made_up = format!("sk_live_{n:050}");
        assert_eq!(caller.send(&get(&format!("/v1/orders/{n}")).bearer(&made_up)).status, 401);
    }
    let top = top(&gateway, "limit=200", 500);
    assert_eq!(top["items"], json!([]), "what is made up has no id");
    assert_eq!(top["clients"].as_array().map(Vec::len), Some(1));
    let names = |metrics: &str| -> Vec<String> {
        let series = metrics.lines().filter_map(|line| line.rsplit_once(' '));
        series.map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(&gateway.metrics()), names(&before), "nobody is a label");
    let late = Duration::from_secs(1);
    let more = eventually_within(late, || {
        (gateway.admin().read("/v1/top")["totals"]["requests"] != 500).then_some(())
    });
    assert!(more.is_none(), "calls of the admin API are no requests");
}
