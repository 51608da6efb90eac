//! Which of several targets gets a request.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use crate::harness::{Gateway, KeySpec, Mood, Request, Setup, Target, Upstream, eventually, get};

/// A gateway with a second upstream, behind `/many` without a key and `/keyed` with one.
fn start(server: &str, settings: &str) -> Gateway {
    setup(server, settings).start()
}

fn setup(server: &str, settings: &str) -> Setup {
    Setup::in_front_of(&Upstream::start())
        .server(server)
        .log("info")
        .tables(&tables(settings))
        .route("name = \"many\"\npath = \"/many\"\nupstream = \"many\"\nauth = \"public\"")
        .route(
            "name = \"keyed\"\npath = \"/keyed\"\nupstream = \"many\"\nauth = \"key\"\n\
             environment = \"live\"",
        )
}

fn tables(settings: &str) -> String {
    format!("[upstreams.many]\n{settings}\n")
}

fn targets<'a>(all: impl IntoIterator<Item = &'a Target>) -> String {
    let all: Vec<_> = all.into_iter().map(|target| format!("\"{}\"", target.address())).collect();
    format!("targets = [{}]", all.join(", "))
}

/// Who answered.
#[track_caller]
fn answered_by(gateway: &Gateway, request: &Request) -> String {
    let answer = gateway.send(request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn requests_spread_by_weight() {
    let all = [Target::start(), Target::start(), Target::start()];
    let [one, two, three] = all.each_ref().map(Target::address);
    let gateway = start(
        "",
        &format!(
            "targets = [\"{one}\", {{ address = \"{two}\", weight = 2 }}, \
             {{ address = \"{three}\", weight = 5 }}]"
        ),
    );
    for _ in 0..80 {
        answered_by(&gateway, &get("/many"));
    }
    assert_eq!(all.each_ref().map(Target::count), [10, 20, 50]);
}

#[test]
fn the_target_that_is_done_first_gets_the_next_requests() {
    let all = [Target::start(), Target::start()];
    let gateway = start("", &format!("{}\nbalance = \"least_connections\"", targets(&all)));
    all.iter().for_each(|target| target.set(Mood::Hung));
    thread::scope(|scope| {
        let released = Released(&all);
        // One after the other: those that come at the very same moment may see the same counts.
        for sent in 1..=4 {
            scope.spawn(|| answered_by(&gateway, &get("/many")));
            let count = || all.iter().map(Target::count).sum::<usize>();
            eventually("another one has arrived", || (count() == sent).then_some(()));
        }
        assert_eq!(all.each_ref().map(Target::count), [2, 2]);
        all[1].set(Mood::Well);
        // Two are still at the first one, so each of these is one more than it may have.
        for _ in 0..10 {
            eventually("no others are under way", || {
                (gateway.metric("keygate_inflight_requests") == 2.0).then_some(())
            });
            assert_eq!(answered_by(&gateway, &get("/many")), all[1].address().to_string());
        }
        drop(released);
    });
}

/// Answers all that waits, also if the test fails: else it would wait, too.
struct Released<'a>(&'a [Target]);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|target| target.set(Mood::Well));
    }
}

#[test]
fn a_key_an_app_and_an_address_each_keep_their_target() {
    let all = [Target::start(), Target::start(), Target::start()];
    for by in ["key", "app", "address"] {
        let settings = format!("{}\nbalance = \"hash\"\nhash_by = \"{by}\"", targets(&all));
        let gateway = start("trusted_proxies = [\"127.0.0.1\"]", &settings);
        let spec = KeySpec::new(&[]);
        let (app, other) = (gateway.key_with(&spec), gateway.key_with(&spec));
        let from = |key: &str, address: &str| {
            let request = get("/keyed").bearer(key).header("X-Forwarded-For", address);
            answered_by(&gateway, &request)
        };
        let (one, two) = ("192.0.2.1", "192.0.2.77");
        let home = from(&app.key, one);
        (0..10).for_each(|_| assert_eq!(from(&app.key, one), home, "{by}"));
        if by == "address" {
            assert_eq!(from(&other.key, one), home);
            let addresses = (1..100).map(|n| format!("192.0.2.{n}"));
            let homes: BTreeSet<_> = addresses.map(|address| from(&app.key, &address)).collect();
            assert_eq!(homes.len(), 3, "other addresses have other targets");
        } else {
            assert_eq!(from(&app.key, two), home, "{by}: wherever it calls from");
        }
        // Without a key it is the address.
        let public =
            |address| answered_by(&gateway, &get("/many").header("X-Forwarded-For", address));
        let home = public(two);
        (0..5).for_each(|_| assert_eq!(public(two), home, "{by}"));
    }
}

#[test]
fn a_target_that_goes_moves_its_own_callers_and_comes_back_to_them() {
    let all = [Target::start(), Target::start(), Target::start()];
    let settings = |all: &str| format!("{all}\nbalance = \"hash\"\nhash_by = \"address\"");
    let server = "trusted_proxies = [\"127.0.0.1\"]";
    let mut gateway = start(server, &settings(&targets(&all)));
    let homes = |gateway: &Gateway| -> BTreeMap<u8, String> {
        let home = |n| {
            let request = get("/many").header("X-Forwarded-For", &format!("192.0.2.{n}"));
            (n, answered_by(gateway, &request))
        };
        (0..60).map(home).collect()
    };
    let before = homes(&gateway);
    let reload = |gateway: &mut Gateway, settings: String| {
        gateway.rewrite(|setup| setup.tables(&tables(&settings)));
        assert_eq!(gateway.reload().status, 200);
    };
    reload(&mut gateway, settings(&targets(&all[1..])));
    let gone = all[0].address().to_string();
    for (caller, home) in homes(&gateway) {
        assert!(before[&caller] == gone || before[&caller] == home, "{caller} was moved");
        assert_ne!(home, gone);
    }
    reload(&mut gateway, settings(&targets(&all)));
    assert_eq!(homes(&gateway), before);
}

#[test]
fn a_name_is_a_target() {
    let target = Target::start();
    let port = target.address().port();
    let gateway = start("", &format!("targets = [\"localhost:{port}\"]\ndns_refresh = \"100ms\""));
    // Also over an address that nobody listens at, if the name has one on this machine.
    for _ in 0..20 {
        assert_eq!(gateway.send(&get("/many")).status, 200);
    }
    let addresses = format!("keygate_upstream_addresses{{target=\"localhost:{port}\"");
    assert!(gateway.metric(&addresses) >= 1.0, "{}", gateway.metrics());
}
