//! Where the access log goes: what a file, a pipe or standard output does to it, and that none of them
//! does anything to requests. And how many requests get a line.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::access_log::{PATH, lines, lines_of, table};
use crate::harness::{
    Connection, Gateway, Process, Setup, Upstream, Wire, alone, eventually, free_address, get,
    scale,
};

fn count(gateway: &Gateway, result: &str) -> u64 {
    gateway.metric(&format!("keygate_access_log_lines_total{{result=\"{result}\"}}")) as u64
}

fn start(lines: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).log("info").tables(&table(lines)).start(), upstream)
}

/// Sends so many, each client over a connection of its own. Returns what each took, in order.
fn send(gateway: &Gateway, clients: usize, each: usize) -> Vec<Duration> {
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let client = |number: usize| {
            move || {
                let mut caller = gateway.caller();
                let mut took = Vec::with_capacity(each);
                for nth in 0..each {
                    let id = format!("{number}-{nth}");
                    let began = Instant::now();
                    let answer = caller.send(&get("/public").header("X-Request-Id", &id));
                    took.push(began.elapsed());
                    assert_eq!((answer.status, answer.request_id()), (200, id));
                }
                took
            }
        };
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    took.sort_unstable();
    took
}

#[test]
fn under_load_every_request_has_its_line_and_none_is_torn() {
    const CLIENTS: usize = 16;
    let each = usize::try_from(scale("ACCESS_LOG_REQUESTS", 250)).unwrap();
    let _alone = alone();
    let (gateway, _upstream) = start("");
    send(&gateway, CLIENTS, each);
    let lines = lines_of(&gateway, CLIENTS * each);
    let mut ids: Vec<&str> = lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CLIENTS * each, "each once");
    assert_eq!(count(&gateway, "written"), (CLIENTS * each) as u64);
    assert_eq!(count(&gateway, "failed"), 0);
    let mode = fs::metadata(gateway.path(PATH)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_was_renamed_is_followed_by_a_new_one_when_the_signal_comes() {
    let (mut gateway, _upstream) = start("");
    let (path, moved) = (gateway.path(PATH), gateway.path("logs/access.jsonl.1"));
    let is_done = AtomicBool::new(false);
    let load = || {
        let (mut caller, mut sent) = (gateway.caller(), 0);
        while !is_done.load(Ordering::SeqCst) {
            assert_eq!(caller.send(&get("/public")).status, 200);
            sent += 1;
        }
        sent
    };
    let sent = thread::scope(|scope| {
        let load = scope.spawn(load);
        eventually("lines", || (whole_lines(&path) > 20).then_some(()));
        fs::rename(&path, &moved).unwrap();
        signal(&gateway, "USR1");
        eventually("a new file", || (whole_lines(&path) > 20).then_some(()));
        is_done.store(true, Ordering::SeqCst);
        load.join().unwrap()
    });
    eventually("all lines", || (lines(&moved).len() + lines(&path).len() == sent).then_some(()));
    // And the process goes on.
    gateway.is_alive_and_well();
}

/// How many lines there are so far, while more are written.
fn whole_lines(path: &Path) -> usize {
    fs::read(path).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count()
}

fn signal(gateway: &Gateway, name: &str) {
    let pid = gateway.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &*pid]).status().unwrap().success());
}

#[test]
fn the_signal_is_harmless_without_a_file() {
    let upstream = Upstream::start();
    for tables in ["", "[access_log]\nsink = \"stdout\"\n"] {
        let mut gateway = Setup::in_front_of(&upstream).tables(tables).start();
        signal(&gateway, "USR1");
        assert_eq!(gateway.send(&get("/public")).status, 200);
        signal(&gateway, "USR1");
        gateway.is_alive_and_well();
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_lines_and_is_tried_again() {
    let (gateway, _upstream) = start("");
    send(&gateway, 1, 5);
    lines_of(&gateway, 5);
    // What is moved away is not there to be opened again, and a file stands where its folder was.
    fs::rename(gateway.path("logs"), gateway.path("gone")).unwrap();
    fs::write(gateway.path("logs"), "").unwrap();
    signal(&gateway, "USR1");
    eventually("a failure", || {
        send(&gateway, 1, 1);
        (count(&gateway, "failed") > 0).then_some(())
    });
    let told = |message: &str| gateway.output().matches(message).count();
    assert_eq!(told("the access log cannot be written for now"), 1, "{}", gateway.output());
    fs::remove_file(gateway.path("logs")).unwrap();
    eventually("lines again", || {
        send(&gateway, 1, 1);
        let path = gateway.path(PATH);
        path.exists().then(|| lines(&path).len()).filter(|count| *count > 0)
    });
    eventually("the word", || (told("the access log is written again") == 1).then_some(()));
}

#[test]
fn a_pipe_that_nobody_reads_slows_no_request_and_holds_up_no_end() {
    let _alone = alone();
    let (mut gateway, _upstream) = start("queue_max = 64");
    let median = |took: Vec<Duration>| took[took.len() / 2];
    let before = median(send(&gateway, 4, 150));
    // Not in the gateway's folder: all files there are read when it has ended.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let nonblocking = 0o4000;
    let mut options = OpenOptions::new();
    let mut reader = options.read(true).custom_flags(nonblocking).open(&pipe).unwrap();
    let path = pipe.display();
    let tables = format!("[access_log]\nsink = \"file\"\npath = \"{path}\"\nqueue_max = 64\n");
    gateway.rewrite(|setup| setup.tables(&tables));
    assert_eq!(gateway.reload().status, 200);
    // It takes some hundred lines, as many wait, and then there is room for none.
    eventually("a full pipe", || {
        let dropped = count(&gateway, "dropped");
        send(&gateway, 4, 100);
        (count(&gateway, "dropped") == dropped + 400).then_some(())
    });
    let dropped = count(&gateway, "dropped");
    let after = median(send(&gateway, 4, 150));
    assert_eq!(count(&gateway, "dropped"), dropped + 600, "every line is counted");
    println!("median without {before:?}, with a pipe that is full {after:?}");
    assert!(after < before * 3 + Duration::from_millis(5), "{before:?} became {after:?}");
    let began = Instant::now();
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
    assert!(began.elapsed() < Duration::from_secs(20));
    let mut text = String::new();
    reader.read_to_string(&mut text).ok();
    assert!(text.ends_with("}\n"), "whole lines");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
}

#[test]
fn standard_output_has_lines_of_both_kinds_and_all_are_whole() {
    let upstream = Upstream::start();
    // The log says a lot too.
    let setup = Setup::in_front_of(&upstream).tables("[access_log]\nsink = \"stdout\"\n");
    let gateway = setup.log("debug").start();
    send(&gateway, 8, 50);
    for _ in 0..50 {
        gateway.send_over(Wire::H2c, &get("/else"));
    }
    let of_log = |line: &Value| line["log"] == "access";
    let parsed = || -> Vec<Value> {
        let output = gateway.output();
        let whole = &output[..output.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("lines", || {
        (parsed().iter().filter(|line| of_log(line)).count() == 450).then_some(())
    });
    assert!(parsed().iter().any(|line| line["message"] == "ready"));
}

#[test]
fn standard_output_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let upstream = Upstream::start();
    let (proxy, admin) = (free_address(), free_address());
    let folder = tempfile::tempdir().unwrap();
    let tables = "[access_log]\nsink = \"stdout\"\nqueue_max = 100\n";
    let setup = Setup::in_front_of(&upstream).log("error").tables(tables);
    fs::write(folder.path().join("gateway.toml"), setup.toml(proxy, admin)).unwrap();
    let mut process = Process::start_unread(folder.path(), &["run"]);
    let mut client = eventually("a gateway", || Connection::try_open(proxy).ok());
    // The pipe holds about 200 lines.
    for _ in 0..1_000 {
        assert_eq!(client.exchange(&get("/public")).unwrap().status, 200);
    }
    let began = Instant::now();
    process.terminate();
    assert_eq!(process.wait_for_exit(), Some(Some(0)));
    assert!(began.elapsed() < Duration::from_secs(20));
    let text = process.read_stdout();
    assert!(text.lines().count() > 50, "{text}");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
}

#[test]
fn where_lines_go_changes_with_a_reload() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    // Off as it is at first; then a file, another one, off again, and none but refusals.
    reload(&mut gateway, "");
    reload(&mut gateway, &table(""));
    lines_of(&gateway, 1);
    reload(&mut gateway, "[access_log]\nsink = \"file\"\npath = \"other.jsonl\"\n");
    let other = gateway.path("other.jsonl");
    eventually("a line", || (lines(&other).len() == 1).then_some(()));
    reload(&mut gateway, "");
    reload(&mut gateway, &table("sample = \"0%\""));
    assert_eq!(gateway.send(&get("/else")).status, 404);
    let line = lines_of(&gateway, 2).remove(1);
    assert_eq!(line["path"], "/else", "what was sampled out or off has none");
    assert_eq!(lines(&other).len(), 1);
}

fn reload(gateway: &mut Gateway, tables: &str) {
    gateway.rewrite(|setup| setup.tables(tables));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.send(&get("/public")).status, 200);
}

#[test]
fn a_process_that_takes_over_writes_to_the_same_file() {
    let (mut gateway, _upstream) = start("");
    let mut caller = gateway.caller();
    let mut sent = 0;
    let mut ask = |caller: &mut crate::harness::Caller, count: usize| {
        for _ in 0..count {
            assert_eq!(caller.send(&get("/public")).status, 200);
            sent += 1;
        }
        sent
    };
    ask(&mut caller, 20);
    gateway.hand_over();
    let sent = ask(&mut gateway.caller(), 20);
    let path = gateway.path(PATH);
    eventually("lines", || (lines(&path).len() >= sent).then_some(()));
    assert_eq!(lines(&path).len(), sent);
}

#[test]
fn of_each_outcome_the_share_is_logged_that_is_asked_for() {
    const REQUESTS: usize = 400;
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let status = if exchange.request.target.contains("fail") { 500 } else { 200 };
        exchange.answer(status, &[], b"")
    });
    let samples = "sample = \"0%\"\nsample_refused = \"10%\"\nsample_failed = \"100%\"";
    let route = |name: &str, share: &str| {
        format!(
            "name = \"{name}\"\npath = \"/{name}\"\nupstream = \"main\"\nauth = \"public\"\n\
             access_log_sample = \"{share}\""
        )
    };
    let setup = Setup::in_front_of(&upstream).tables(&table(samples)).log("info");
    let gateway = setup.route(&route("all", "100%")).route(&route("half", "50%")).start();
    let mut caller = gateway.caller();
    for _ in 0..REQUESTS {
        for target in ["/public", "/else", "/public/fail", "/all", "/all/fail", "/half"] {
            caller.send(&get(target));
        }
    }
    // The end of them all: a line that comes for sure.
    caller.send(&get("/all/last"));
    let path = gateway.path(PATH);
    let last = |line: &Value| line["path"] == "/all/last";
    let lines = eventually("lines", || Some(lines(&path)).filter(|all| all.iter().any(last)));
    let count = |path: &str| lines.iter().filter(|line| line["path"] == path).count();
    assert_eq!((count("/public"), count("/public/fail")), (0, REQUESTS));
    assert_eq!((count("/all"), count("/all/fail")), (REQUESTS, REQUESTS));
    // Six standard deviations of a fair draw.
    assert!(count("/half").abs_diff(REQUESTS / 2) <= 60, "{}", count("/half"));
    assert!(count("/else").abs_diff(REQUESTS / 10) <= 36, "{}", count("/else"));
}
