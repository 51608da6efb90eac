//! Who calls most: the right keys in the right order with the right numbers, in the API and on a terminal.

use std::iter::repeat_n;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Gateway, Key, KeySpec, Setup, Tmux, Upstream, eventually, eventually_within, get, post, run,
    runs,
};

const KEYS: usize = 40;

/// Many keys of one app, each used by Zipf's law: by requests, refusals and bytes another one first.
struct Crowd {
    gateway: Gateway,
    _upstream: Upstream,
    keys: Vec<Key>,
    /// What each key did, as its client counted it.
    done: Vec<Done>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    requests: u64,
    refusals: u64,
    bytes: u64,
}

impl Crowd {
    fn new() -> Self {
        let upstream = Upstream::answering(|exchange| {
            exchange.read_body()?;
            exchange.answer(200, &[], &[b'x'; 100])
        });
        let setup = Setup::in_front_of(&upstream).keys("keys_max_live = 100").log("info");
        let gateway = setup.start();
        let admin = gateway.admin();
        let spec = KeySpec::new(&["read:orders", "write:orders"]);
        let account = admin.account();
        let app = admin.app(&account, &spec);
        let keys = (0..KEYS).map(|_| admin.key_of(&account, &app, &spec)).collect();
        Self { gateway, _upstream: upstream, keys, done: vec![Done::default(); KEYS] }
    }

    /// Uses each key, and some that nobody knows.
    fn call(&mut self, strangers: usize) {
        let mut caller = self.gateway.caller();
        for place in 0..KEYS {
            let share = |first: usize, all: usize| all / ((place + first) % KEYS + 1);
            let upload = post("/v1/orders", vec![b'y'; share(20, 200_000)]);
            let calls = repeat_n((get("/v1/orders"), 200), share(0, 200))
                .chain(repeat_n((get("/v1/transfers"), 403), share(7, 60)))
                .chain([(upload, 200)]);
            let done = &mut self.done[place];
            for (call, status) in calls {
                let sent = call.body.len();
                let answer = caller.send(&call.bearer(&self.keys[place].key));
                assert_eq!(answer.status, status, "{}", answer.text());
                done.requests += 1;
                done.refusals += u64::from(status == 403);
                done.bytes += (sent + answer.body.len()) as u64;
            }
        }
        for _ in 0..strangers {
            assert_eq!(caller.send(&get("/v1/orders").bearer("sk_live_nobody")).status, 401);
        }
    }

    /// The places of the keys in the order of a measure.
    fn order(&self, of: fn(Done) -> u64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..KEYS).collect();
        places.sort_by_key(|place| std::cmp::Reverse(of(self.done[*place])));
        places
    }

    /// The hint of the one that stands first.
    fn loudest(&self, of: fn(Done) -> u64) -> String {
        self.hint(self.order(of)[0]).to_owned()
    }

    fn id(&self, place: usize) -> &str {
        &self.keys[place].id
    }

    fn hint(&self, place: usize) -> &str {
        &self.keys[place].key[..12]
    }

    fn sum(&self, of: fn(Done) -> u64) -> u64 {
        self.done.iter().map(|done| of(*done)).sum()
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
    let mut crowd = Crowd::new();
    crowd.call(STRANGERS as usize);
    let requests = crowd.sum(|done| done.requests) + STRANGERS;
    let nothing = json!({ "requests": 0, "refusals": 0, "bytes": 0 });
    type Measure = fn(Done) -> u64;
    let measures: [(&str, Measure); 3] = [
        ("requests", |done| done.requests),
        ("refusals", |done| done.refusals),
        ("bytes", |done| done.bytes),
    ];
    for (by, of) in measures {
        for window in ["1m", "10m", "1h"] {
            let query = format!("window={window}&by={by}&limit=10");
            let top = top(&crowd.gateway, &query, requests);
            assert_eq!(top["error_max"], nothing, "few keys are counted exactly");
            let items = top["items"].as_array().unwrap();
            assert_eq!(items.len(), 10);
            for (item, place) in items.iter().zip(crowd.order(of)) {
                assert_eq!(item[by], of(crowd.done[place]), "the order by {by}");
                // Keys that did as much may stand in any order.
                let at = crowd.keys.iter().position(|key| item["key_id"] == key.id.as_str());
                let key = &crowd.keys[at.expect("one of ours")];
                let done = crowd.done[at.unwrap()];
                let said = ["requests", "refusals", "bytes"].map(|name| item[name].clone());
                assert_eq!(said, [done.requests, done.refusals, done.bytes].map(Value::from));
                assert_eq!(item["error"], nothing);
                assert_eq!(item["hint"], key.key[..12]);
                assert_eq!(item["app_id"], key.app.as_str());
                assert_eq!(item["account_id"], key.account.as_str());
                let series = item["series"].as_array().unwrap();
                let sum: u64 = series.iter().map(|value| value.as_u64().unwrap()).sum();
                assert_eq!((series.len(), sum), (60, of(done)), "{by} of {at:?}");
            }
        }
    }
    let top = top(&crowd.gateway, "", requests);
    assert_eq!(top["totals"]["refusals"], crowd.sum(|done| done.refusals) + STRANGERS);
    assert!(top["totals"]["bytes"].as_u64().unwrap() >= crowd.sum(|done| done.bytes));
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

/// The balancer is not to blame for what it passes on.
#[test]
fn a_head_that_nobody_can_read_counts_for_no_balancer() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream);
    let gateway = setup.server("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let head = b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    assert_eq!(gateway.send_raw(head).unwrap().status, 400);
    let top = top(&gateway, "by=refusals", 1);
    assert_eq!((&top["clients"], &top["totals"]["refusals"]), (&json!([]), &json!(1)));
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
    let mut crowd = Crowd::new();
    crowd.call(5);
    let terminal = Tmux::start(crowd.gateway.folder(), 120, 40);
    terminal.line("echo before");
    terminal.shows("\nbefore");
    let before = terminal.screen();
    terminal.line("keygate top");
    let hint = crowd.loudest(|done| done.requests);
    let screen = terminal.waits("the loudest", |screen| first(screen).contains(&hint));
    for said in ["keygate top", "REQUESTS▼", "store up", "link up", "last minute", "p99", "q quit"]
    {
        assert!(screen.contains(said), "{said}:\n{screen}");
    }
    assert!(!screen.contains("before"), "a screen of its own:\n{screen}");
    assert!(first(&screen).contains(crowd.id(0)), "{screen}");
    terminal.shows("127.0.0.1 5");

    terminal.keys(&["f"]);
    let hint = crowd.loudest(|done| done.refusals);
    terminal.waits("the most refused", |screen| first(screen).contains(&hint));
    terminal.shows("REFUSED▼");
    terminal.keys(&["b", "2"]);
    let hint = crowd.loudest(|done| done.bytes);
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
    terminal.waits("a prompt and no view", |screen| {
        !screen.contains("REQUESTS") && !screen.contains("p99") && screen.trim_end().ends_with('$')
    });
    terminal.line("clear; stty -a | tr ' ' '\\n' | grep -cE '^(icanon|echo|isig|icrnl|opost)$'");
    terminal.waits("all of a usual terminal", |screen| screen.starts_with("5\n"));
    terminal.line("clear");
}

#[test]
fn the_view_ends_with_its_terminal() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let terminal = Tmux::start(gateway.folder(), 120, 30);
    terminal.line("keygate top");
    terminal.shows("REQUESTS▼");
    let view = terminal.child();
    drop(terminal);
    eventually("the end of the view", || (!runs(view)).then_some(()));
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
