//! `deploy/bounds.md`: each bound that somebody outside can meet is there, with the default that it
//! has and a test that meets it. And tests of those that no other file is about.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::{fs, thread};

use crate::harness::h2_raw::{SETTINGS, WINDOW_UPDATE, frame};
use crate::harness::{Setup, assert_refused, get, patience};

/// The settings' tables, and what a name has at its end that is a bound.
const TABLES: [&str; 5] =
    ["[server]", "[server.failed_auth]", "[cache]", "[[routes]]", "[upstreams.NAME]"];
const ENDS: [&str; 2] = ["_max", "_timeout"];

struct Row {
    name: String,
    /// Nothing for a constant.
    table: Option<String>,
    default: String,
    test: String,
}

#[test]
fn every_bound_is_listed_with_its_default_and_a_test_that_meets_it() {
    let (settings, sources) = (settings(), sources());
    let rows = rows();
    assert!(rows.len() > 30, "{} bounds", rows.len());
    let mut faults = Vec::new();
    for Row { name, table, default, test } in &rows {
        let is_so = match table {
            Some(table) => settings.contains(&(table.clone(), name.clone(), default.clone())),
            None => sources.iter().any(|source| {
                let of_constant = |line: &&str| line.contains(&format!("const {name}: "));
                let mut lines = source.lines().filter(of_constant);
                lines.any(|line| line.ends_with(&format!(" = {};", default.trim_matches('`'))))
            }),
        };
        if !is_so {
            faults.push(format!("{name} is not {default}"));
        }
        if !sources.iter().any(|source| is_test(source, test)) {
            faults.push(format!("{name}: no test {test}"));
        }
    }
    for (table, name, _) in &settings {
        let is_bound = TABLES.contains(&&**table) && ENDS.iter().any(|end| name.ends_with(end));
        let is_listed =
            rows.iter().any(|row| row.name == *name && row.table.as_ref() == Some(table));
        if is_bound && !is_listed {
            faults.push(format!("{name} of {table} is not listed"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("deploy/bounds.md")).unwrap();
    let of_line = |line: &str| {
        let [bound, default, _, test] = &cells(line)[..] else { panic!("four cells: {line}") };
        let mut names = bound.split(' ').map(|name| name.trim_matches('`').to_owned());
        Row {
            name: names.next().unwrap(),
            table: names.next(),
            default: default.clone(),
            test: test.trim_matches('`').to_owned(),
        }
    };
    text.lines().filter(|line| line.starts_with("| `")).map(of_line).collect()
}

/// Table, name and default of each setting.
fn settings() -> Vec<(String, String, String)> {
    let path = root().join("crates/keygate-config/README.md");
    let text = fs::read_to_string(path).unwrap();
    let mut table = String::new();
    let mut settings = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            table = heading.trim_matches('`').to_owned();
        } else if line.starts_with("| `") {
            let [name, _, default, ..] = &cells(line)[..] else { panic!("cells: {line}") };
            settings.push((table.clone(), name.trim_matches('`').to_owned(), default.clone()));
        }
    }
    settings
}

/// Every source of the program and of its tests.
fn sources() -> Vec<String> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    sources
}

fn is_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let mut lines = source.lines().map(str::trim);
    let Some(at) = lines.position(|line| line.trim_start_matches("async ").starts_with(&head))
    else {
        return false;
    };
    let before = at.checked_sub(1).and_then(|at| source.lines().nth(at)).unwrap_or_default();
    before.trim().starts_with("#[") && before.contains("test")
}

/// An upstream that tells of each connection's end.
fn upstream_that_tells_of_ends() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, ended) = (stream.unwrap(), ended.clone());
            thread::spawn(move || {
                serve(stream);
                let _ = ended.send(());
            });
        }
    });
    (address, ends)
}

fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        head.extend(&bytes[..length]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    }
}

#[test]
fn idle_connections_to_upstreams_are_few_and_do_not_stay() {
    let (address, ends) = upstream_that_tells_of_ends();
    let setup = Setup::in_front_of_address(address).log("info");
    let soon = setup.clone().upstream("idle_timeout = \"50ms\"").start();
    assert_eq!(soon.send(&get("/public")).status, 200);
    ends.recv_timeout(patience()).expect("the idle connection is closed");
    drop(soon);
    while ends.try_recv().is_ok() {}
    // Two at a time make two connections. One has its place afterwards.
    let few = setup.server("upstream_idle_max = 1\nthreads = 1").start();
    for _ in 0..20 {
        let ask = || few.send(&get("/public")).status;
        let both = thread::scope(|scope| {
            let two = [scope.spawn(ask), scope.spawn(ask)];
            two.map(|one| one.join().unwrap())
        });
        assert_eq!(both, [200, 200]);
        if ends.try_recv().is_ok() {
            return;
        }
    }
    ends.recv_timeout(patience()).expect("the second idle connection is closed");
}

#[test]
fn an_upstream_that_takes_nothing_of_an_upload_is_given_up() {
    // Accepts, by the system alone, and reads nothing.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    // However long an answer may take.
    let settings = "write_timeout = \"200ms\"\nread_timeout = \"1h\"";
    let setup = Setup::in_front_of_address(upstream.local_addr().unwrap()).log("info");
    let mut gateway = setup.upstream(settings).start();
    const LENGTH: usize = 64 << 20;
    let mut connection = gateway.connect();
    let head = format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let mut socket = connection.socket().try_clone().unwrap();
    // More than all buffers on the way take. The gateway may end it.
    let sender = thread::spawn(move || drop(socket.write_all(&vec![b'x'; LENGTH])));
    assert_refused(&connection.answer("POST").unwrap(), 504, "upstream_timeout");
    drop(connection);
    sender.join().unwrap();
    gateway.is_alive_and_well();
}

/// The same over HTTP/2, where it is the whole connection that the upstream takes nothing of.
#[test]
fn an_http2_upstream_that_takes_nothing_at_all_of_an_upload_is_given_up() {
    const LENGTH: usize = 64 << 20;
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    let most = (i32::MAX as u32).to_be_bytes();
    let rest = (i32::MAX as u32 - 65_535).to_be_bytes();
    // It promises to take all, of a stream and of the connection, and then reads nothing.
    let hello = [
        frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE[..], &most].concat()),
        frame(WINDOW_UPDATE, 0, 0, &rest),
    ];
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let (held, _holds) = channel();
    thread::spawn(move || {
        for stream in upstream.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(&hello.concat()).unwrap();
            // Gone when the test is.
            let Ok(()) = held.send(stream) else { return };
        }
    });
    // However long an answer may take.
    let settings = "protocol = \"http2\"\nwrite_timeout = \"200ms\"\nread_timeout = \"1h\"";
    let mut gateway = Setup::in_front_of_address(address).log("info").upstream(settings).start();
    let mut connection = gateway.connect();
    let head = format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let mut socket = connection.socket().try_clone().unwrap();
    // More than all buffers on the way take. The gateway may end it.
    let sender = thread::spawn(move || drop(socket.write_all(&vec![b'x'; LENGTH])));
    assert_refused(&connection.answer("POST").unwrap(), 504, "upstream_timeout");
    drop(connection);
    sender.join().unwrap();
    gateway.is_alive_and_well();
}
