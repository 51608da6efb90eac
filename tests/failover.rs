//! A target that is killed, hangs or is slow costs its upstream's callers little, and nothing twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Answer, Gateway, KeySpec, Mood, Setup, Target, Upstream, assert_refused, eventually, get, post,
    request, scale,
};

const NO_EJECTION: &str = "[upstreams.many.ejection]\nfailures = 0\n";

fn start(all: &[&Target], settings: &str, tables: &str) -> Gateway {
    let all: Vec<_> = all.iter().map(|target| format!("\"{}\"", target.address())).collect();
    let targets = format!("targets = [{}]", all.join(", "));
    Setup::in_front_of(&Upstream::start())
        .log("info")
        .tables(&format!("[upstreams.many]\n{targets}\n{settings}\n{tables}"))
        .route("name = \"many\"\npath = \"/many\"\nupstream = \"many\"\nauth = \"public\"")
        .route(
            "name = \"keyed\"\npath = \"/keyed\"\nupstream = \"many\"\nauth = \"key\"\n\
             environment = \"live\"",
        )
        .start()
}

fn healthy(gateway: &Gateway, target: &Target) -> bool {
    let series = format!("keygate_upstream_healthy{{target=\"{}\"", target.address());
    gateway.metric(&series) == 1.0
}

/// What came of a request: when it was sent and answered, and how.
struct Call {
    method: &'static str,
    sent: Instant,
    status: u16,
}

/// Requests without a pause while `act` acts: GETs and POSTs, each with an id of its own.
fn under_load(gateway: &Gateway, next: &AtomicU64, act: impl FnOnce()) -> Vec<Call> {
    const CLIENTS: usize = 6;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = || {
            let mut calls = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let id = next.fetch_add(1, Ordering::SeqCst);
                let (method, request) = match id % 2 {
                    0 => ("GET", get("/many")),
                    _ => ("POST", post("/many", format!("body of {id}"))),
                };
                let sent = Instant::now();
                // Never on a connection that may end just then: the gateway's clients are not tested.
                let answer = gateway.send(&request.header("X-Id", &id.to_string()));
                calls.push(Call { method, sent, status: answer.status });
            }
            calls
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        // Also when `act` panics: the scope waits for all threads.
        let at_the_end = Ends(&ended);
        act();
        drop(at_the_end);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[track_caller]
fn no_post_came_twice(all: &[&Target]) -> usize {
    let mut times = BTreeMap::<String, usize>::new();
    for request in all.iter().flat_map(|target| target.reached()) {
        if request.method == "POST" {
            *times.entry(request.id).or_default() += 1;
        }
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "POSTs that were sent more than once: {twice:?}");
    times.len()
}

#[test]
fn a_target_that_is_killed_hung_and_slow_is_left_alone_and_no_post_is_sent_twice() {
    let all = [Target::start(), Target::start(), Target::start()];
    let [victim, ..] = &all;
    let gateway = start(
        &all.each_ref(),
        // On a busy machine more than the usual share may have to go to another target.
        "read_timeout = \"700ms\"\nconnect_timeout = \"700ms\"\nretry_budget_percent = 100",
        "[upstreams.many.health_check]\npath = \"/health\"\ninterval = \"100ms\"\n\
         timeout = \"200ms\"\nunhealthy_after = 2\nhealthy_after = 2\n\
         [upstreams.many.ejection]\nfailures = 0\n",
    );
    let troubles: [(&str, &dyn Fn()); 3] = [
        ("killed", &|| victim.kill()),
        ("hung", &|| victim.set(Mood::Hung)),
        ("slow", &|| victim.set(Mood::Slow(Duration::from_secs(2)))),
    ];
    let next = AtomicU64::new(0);
    for _ in 0..scale("KEYGATE_FAILOVER_ROUNDS", 1) {
        for (trouble, act) in troubles {
            let (mut noticed, reached) = (Instant::now(), victim.count());
            let calls = under_load(&gateway, &next, || {
                act();
                let (began, before) = (Instant::now(), all[1].count());
                let what = format!("{trouble}: it is noticed");
                eventually(&what, || (!healthy(&gateway, victim)).then_some(()));
                noticed = Instant::now();
                println!("{trouble}: noticed after {:?}", began.elapsed());
                eventually("others work", || (all[1].count() > before + 100).then_some(()));
            });
            let failed = |call: &&Call| call.status != 200;
            let late = calls.iter().filter(failed).filter(|call| call.sent > noticed).count();
            assert_eq!(late, 0, "{trouble}: requests failed after it was noticed");
            let gets = calls.iter().filter(failed).filter(|call| call.method == "GET").count();
            assert_eq!(gets, 0, "{trouble}: a GET can go to another target");
            let posts = calls.iter().filter(failed).count();
            assert!(victim.count() > reached || trouble == "killed", "it had nothing to lose");
            println!("{trouble}: {posts} of {} requests failed, all of them POSTs", calls.len());
            if trouble == "killed" {
                victim.revive();
            }
            victim.set(Mood::Well);
            let before = victim.count();
            eventually("it is back, and gets requests", || {
                gateway.send(&get("/many"));
                (victim.count() > before).then_some(())
            });
        }
    }
    assert!(no_post_came_twice(&all.each_ref()) > 100);
}

#[test]
fn a_request_that_nobody_received_goes_to_another_target_whatever_its_method() {
    let all = [Target::start(), Target::start()];
    all[0].kill();
    let gateway = start(&all.each_ref(), "", NO_EJECTION);
    for n in 0..40 {
        let answer = gateway.send(&post("/many", "once").header("X-Id", &n.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(no_post_came_twice(&all.each_ref()), 40);
    assert!(all[1].reached().iter().all(|request| request.body == b"once"));
    let series = "keygate_upstream_connect_failures_total{upstream=\"many\"}";
    assert_eq!(gateway.metric(series), 20.0);
    let series = "keygate_upstream_retries_total{result=\"made\",upstream=\"many\"}";
    assert_eq!(gateway.metric(series), 20.0);
}

#[test]
fn a_request_that_may_have_been_received_goes_on_only_if_that_does_no_harm() {
    let all = [Target::start(), Target::start()];
    all[0].set(Mood::Rude);
    let gateway = start(&all.each_ref(), "", NO_EJECTION);
    let statuses = |method: &str, body: Vec<u8>| -> Vec<u16> {
        let send = |n| {
            let id = format!("{method}{n}{}", body.len());
            let request = request(method, "/many").header("X-Id", &id);
            gateway.send(&crate::harness::Request { body: body.clone(), ..request }).status
        };
        let mut statuses: Vec<u16> = (0..10).map(send).collect();
        statuses.sort_unstable();
        statuses
    };
    let (half, all_good) = ([[200; 5], [502; 5]].concat(), vec![200; 10]);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(statuses(method, b"small".to_vec()), all_good, "{method}");
    }
    for method in ["POST", "PATCH"] {
        assert_eq!(statuses(method, b"small".to_vec()), half, "{method}");
    }
    assert_eq!(statuses("PUT", vec![b'x'; 200_000]), half, "too large to be kept");
    let reached = all.iter().flat_map(Target::reached);
    for request in reached.filter(|request| request.method == "PUT") {
        assert!([5, 200_000].contains(&request.body.len()), "a body was not sent whole");
    }
    no_post_came_twice(&all.each_ref());
}

#[test]
fn without_retries_a_dead_target_is_an_error_and_its_failures_keep_it_out() {
    let all = [Target::start(), Target::start()];
    all[0].kill();
    let gateway = start(
        &all.each_ref(),
        "retries = 0",
        "[upstreams.many.ejection]\nfailures = 3\nduration = \"1h\"\n",
    );
    let statuses: Vec<u16> = (0..40).map(|_| gateway.send(&get("/many")).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    let series = format!("keygate_upstream_ejected{{target=\"{}\"", all[0].address());
    assert_eq!(gateway.metric(&series), 1.0);
    assert!(gateway.output().contains("a target fails requests"), "{}", gateway.output());
    // The last one is never kept out.
    all[1].kill();
    for _ in 0..10 {
        assert_eq!(gateway.send(&get("/many")).status, 502);
    }
    all[1].revive();
    assert_eq!(gateway.send(&get("/many")).status, 200);
}

#[test]
fn a_target_that_is_kept_out_stays_so_over_a_reload() {
    let all = [Target::start(), Target::start()];
    all[0].kill();
    let tables = "[upstreams.many.ejection]\nfailures = 1\nduration = \"1h\"\n";
    let gateway = start(&all.each_ref(), "", tables);
    (0..4).for_each(|_| assert_eq!(gateway.send(&get("/many")).status, 200));
    all[0].revive();
    gateway.write(
        &gateway.read("gateway.toml").replace("[upstreams.many]", "[upstreams.many]\nretries = 1"),
    );
    assert_eq!(gateway.reload().status, 200);
    (0..10).for_each(|_| assert_eq!(gateway.send(&get("/many")).status, 200));
    assert_eq!(all[0].count(), 0);
}

#[test]
fn further_attempts_have_a_budget() {
    let all = [Target::start(), Target::start()];
    all[0].set(Mood::Rude);
    let gateway = start(&all.each_ref(), "retry_budget_percent = 0", NO_EJECTION);
    let over = "keygate_upstream_retries_total{result=\"over_budget\",upstream=\"many\"}";
    // Every other one needs a second attempt, and three a second are always allowed.
    let statuses = eventually("the budget is used up", || {
        let statuses: Vec<u16> = (0..50).map(|_| gateway.send(&get("/many")).status).collect();
        (gateway.metric(over) > 0.0).then_some(statuses)
    });
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
}

#[test]
fn when_no_target_is_healthy_the_answer_is_503_and_costs_nothing_until_one_is() {
    let all = [Target::start(), Target::start()];
    all.iter().for_each(|target| target.set(Mood::Sick));
    let gateway = start(
        &all.each_ref(),
        "",
        "[upstreams.many.health_check]\npath = \"/health\"\ninterval = \"100ms\"\n\
         unhealthy_after = 1\nhealthy_after = 1\n[tiers.small]\nquotas = [\"3/day\"]\n",
    );
    let key = gateway.key_with(&KeySpec::new(&[]).with("tier", serde_json::json!("small")));
    eventually("both are unhealthy", || {
        all.iter().all(|target| !healthy(&gateway, target)).then_some(())
    });
    let before: usize = all.iter().map(Target::count).sum();
    for _ in 0..10 {
        let answer = gateway.send(&get("/keyed").bearer(&key.key));
        assert_refused(&answer, 503, "upstream_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(all.iter().map(Target::count).sum::<usize>(), before, "nobody was asked");
    all[1].set(Mood::Well);
    let answer = eventually("one is healthy again", || {
        let answer = gateway.send(&get("/keyed").bearer(&key.key));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.text(), all[1].address().to_string());
}

#[test]
fn a_check_without_a_path_is_a_connection() {
    let all = [Target::start(), Target::start()];
    let tables = "[upstreams.many.health_check]\ninterval = \"50ms\"\n";
    let gateway = start(&all.each_ref(), "", tables);
    all[0].kill();
    eventually("it is noticed", || (!healthy(&gateway, &all[0])).then_some(()));
    assert!(healthy(&gateway, &all[1]));
    all[0].revive();
    eventually("it is back", || healthy(&gateway, &all[0]).then_some(()));
}

#[test]
fn a_health_check_that_is_taken_out_of_the_configuration_says_nothing_any_more() {
    let all = [Target::start(), Target::start()];
    let check = "[upstreams.many.health_check]\npath = \"/health\"\ninterval = \"50ms\"\n";
    let gateway = start(&all.each_ref(), "", check);
    all[0].set(Mood::Sick);
    eventually("it is noticed", || (!healthy(&gateway, &all[0])).then_some(()));
    gateway.write(&gateway.read("gateway.toml").replace(check.trim_end(), ""));
    assert_eq!(gateway.reload().status, 200);
    assert!(healthy(&gateway, &all[0]));
}

/// All in all no longer than this, on a slow machine too.
fn within(limit: Duration, send: impl FnOnce() -> Answer) -> Answer {
    let began = Instant::now();
    let answer = send();
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    answer
}

#[test]
fn the_total_timeout_bounds_all_attempts_together() {
    let all = [Target::start(), Target::start(), Target::start()];
    all.iter().for_each(|target| target.set(Mood::Hung));
    let gateway = start(&all.each_ref(), "total_timeout = \"500ms\"", NO_EJECTION);
    let answer = within(Duration::from_secs(20), || gateway.send(&get("/many")));
    assert_refused(&answer, 504, "upstream_timeout");
    assert_eq!(all.iter().map(Target::count).sum::<usize>(), 1, "no time is left for another");
    // An offer that is not passed on changes nothing.
    let offers = get("/many").header("Connection", "Upgrade").header("Upgrade", "h2c");
    let answer = within(Duration::from_secs(20), || gateway.send(&offers));
    assert_refused(&answer, 504, "upstream_timeout");
}

#[test]
fn an_answer_that_takes_longer_than_the_total_timeout_is_cut() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.start(200, &[("Content-Length", "1000000")])?;
        // A little at a time, so that no single read takes long; or nothing at all any more.
        let pause = if exchange.request.target == "/public/drips" { 20 } else { 300_000 };
        loop {
            exchange.write(b"drip")?;
            thread::sleep(Duration::from_millis(pause));
        }
    });
    let gateway = Setup::in_front_of(&upstream).upstream("total_timeout = \"500ms\"").start();
    for path in ["/public/drips", "/public/stops"] {
        let mut connection = gateway.connect();
        let began = Instant::now();
        connection.send(&get(path).to_h1()).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let mut cut = Vec::new();
        while let Ok(piece) = connection.read_some()
            && !piece.is_empty()
        {
            cut.extend(piece);
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(20), "{took:?}");
        assert!(!cut.is_empty() && cut.len() < 1_000_000, "{}", cut.len());
    }
}

/// Pingora waits for such a client, and looks at no clock meanwhile.
#[test]
fn a_request_that_is_cut_off_because_it_takes_too_long_has_failed() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.start(200, &[("Content-Length", "1000000000")])?;
        let piece = [b'a'; 65_536];
        loop {
            exchange.write(&piece)?;
        }
    });
    let gateway = Setup::in_front_of(&upstream).upstream("total_timeout = \"500ms\"").start();
    let mut connection = gateway.connect();
    connection.send(&get("/public").to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let series = "keygate_requests_failed_total{code=\"upstream_timeout\"";
    eventually("a failure", || (gateway.metric(series) > 0.0).then_some(()));
    assert_eq!(gateway.metric(series), 1.0);
}

#[test]
fn a_tunnel_has_no_total_timeout() {
    let upstream = Upstream::answering(|exchange| {
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
        let mut bytes = [0; 4];
        loop {
            let count = exchange.read(&mut bytes)?;
            exchange.write(&bytes[..count])?;
            if count == 0 {
                return Ok(());
            }
        }
    });
    let gateway = Setup::in_front_of(&upstream).upstream("total_timeout = \"200ms\"").start();
    let mut connection = gateway.connect();
    let upgrade = get("/public").header("Connection", "Upgrade").header("Upgrade", "websocket");
    connection.send(&upgrade.to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 101);
    let began = Instant::now();
    // Well beyond the timeout and the sweeps that follow it.
    while began.elapsed() < Duration::from_millis(1_500) {
        connection.send(b"ping").unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < 4 {
            let piece = connection.read_some().unwrap();
            assert!(!piece.is_empty(), "the tunnel was cut after {:?}", began.elapsed());
            echoed.extend(piece);
        }
        assert_eq!(echoed, b"ping");
    }
}
