//! `keygate demo`: each line that it prints to be pasted does what the line above it says, and
//! starting again neither changes the keys nor makes more of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{
    Connection, Process, Request, Setup, eventually_within, free_address, get, patience, run,
};

/// A demo that has printed its lines.
struct Demo {
    process: Process,
    calls: Vec<Call>,
}

/// One line to paste, and the status that it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    promises: u16,
    line: String,
}

impl Demo {
    /// Starts in `folder`, with other ports if the configuration's are taken by now.
    fn start(folder: &Path) -> Self {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let setup = Setup::in_front_of_address(free_address());
            let toml = setup.toml(free_address(), free_address());
            fs::write(folder.join("gateway.toml"), toml).unwrap();
            let mut process = Process::start(folder, &["demo"]);
            let calls = eventually_within(patience(), || {
                let calls = calls(&process.stdout());
                (calls.len() >= 3 || !process.is_running()).then_some(calls)
            });
            match calls {
                Some(calls) if calls.len() >= 3 => return Self { process, calls },
                _ if process.stderr().contains("in use") => {}
                _ => panic!("no demo:\n{}{}", process.stdout(), process.stderr()),
            }
        }
        panic!("no free ports");
    }

    fn stop(mut self) {
        self.process.terminate();
        assert_eq!(self.process.wait_for_exit(), Some(Some(0)), "{}", self.process.stderr());
    }
}

/// The lines that begin with `curl`, each with the number that the comment above it begins with.
fn calls(output: &str) -> Vec<Call> {
    let lines: Vec<&str> = output.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].starts_with("curl "));
    pairs
        .map(|pair| {
            let number = pair[0].trim_start_matches("# ").split(':').next().unwrap_or_default();
            let promises = number.parse().unwrap_or_else(|_| panic!("no status in {:?}", pair[0]));
            Call { promises, line: pair[1].to_owned() }
        })
        .collect()
}

/// The statuses that a line leads to: by our own client, and by curl if there is one.
fn statuses(line: &str) -> Vec<u16> {
    let (address, request) = read(line);
    let ours = Connection::open(address.parse().unwrap()).exchange(&request).unwrap();
    let mut statuses = vec![ours.status];
    if Command::new("curl").arg("--version").output().is_ok() {
        let script = format!("{line} -s -o /dev/null -w '%{{http_code}}' --noproxy '*'");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        statuses.push(String::from_utf8_lossy(&output.stdout).parse().unwrap());
    }
    statuses
}

/// Reads a `curl -i URL -H 'name: value'…` line.
fn read(line: &str) -> (String, Request) {
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL");
    let (address, path) = url["http://".len()..].split_once('/').expect("a path");
    let headers = line.split('\'').filter_map(|part| part.split_once(": "));
    let request = get(&format!("/{path}")).host(address);
    (
        address.to_owned(),
        headers.fold(request, |request, (name, value)| request.header(name, value)),
    )
}

fn keys(folder: &Path) -> usize {
    let list = |line: &str| -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = run(folder, &words, &[]).success();
        out.lines().map(str::to_owned).collect()
    };
    let apps = list("accounts list -q")
        .into_iter()
        .flat_map(|account| list(&format!("apps list --account {account} -q")));
    let apps: Vec<String> = apps.collect();
    apps.iter().map(|app| list(&format!("keys list --app {app} -q")).len()).sum()
}

#[test]
fn each_printed_line_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path());
    let promised: Vec<u16> = demo.calls.iter().map(|call| call.promises).collect();
    assert_eq!(promised, [200, 401, 403]);
    for call in &demo.calls {
        for status in statuses(&call.line) {
            assert_eq!(status, call.promises, "{}", call.line);
        }
    }
    demo.stop();
}

#[test]
fn the_demos_keys_do_not_work_with_the_real_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path());
    let (address, request) = read(&demo.calls[0].line);
    let hint = demo.process.stdout();
    assert!(hint.contains("demo.db") && hint.contains("keygate keys create"), "{hint}");
    demo.stop();
    let mut process = Process::start(folder.path(), &["run"]);
    let mut gateway = eventually_within(patience(), || {
        assert!(process.is_running(), "{}", process.stderr());
        Connection::try_open(address.parse().unwrap()).ok()
    });
    let answer = gateway.as_mut().expect("a gateway").exchange(&request).unwrap();
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(keys(folder.path()), 0);
}

#[test]
fn a_key_of_the_demo_can_be_revoked_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path());
    let out = demo.process.stdout();
    let line = out.lines().find(|line| line.contains("keys revoke")).expect("a line to paste");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    run(folder.path(), &words, &[]).success();
    assert_eq!(statuses(&demo.calls[0].line)[0], 401);
    demo.stop();
}

#[test]
fn starting_again_shows_the_same_keys_and_makes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let first = Demo::start(folder.path());
    let count = keys(folder.path());
    let shown = |demo: &Demo| -> Vec<Vec<(String, String)>> {
        demo.calls.iter().map(|call| read(&call.line).1.headers).collect()
    };
    let before = shown(&first);
    first.stop();
    for _ in 0..2 {
        let again = Demo::start(folder.path());
        assert_eq!(shown(&again), before);
        assert_eq!(keys(folder.path()), count);
        for call in &again.calls {
            assert_eq!(statuses(&call.line)[0], call.promises, "{}", call.line);
        }
        again.stop();
    }
}

#[test]
fn the_sample_upstream_shows_who_called_and_never_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path());
    let (address, request) = read(&demo.calls[0].line);
    let answer = Connection::open(address.parse().unwrap()).exchange(&request).unwrap();
    let text = answer.text().to_lowercase();
    answer.json();
    assert!(text.contains("x-keygate-key-id"), "{text}");
    let key = &request.headers[0].1["Bearer ".len()..];
    assert!(!answer.text().contains(key) && !text.contains("authorization"), "{text}");
    demo.stop();
}
