//! A real Redis for tests, in memory only, gone with the process however that ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

pub(crate) struct Server {
    pub(crate) port: u16,
    /// Holds the pipe whose end stops the server.
    _process: Child,
}

impl Server {
    /// The one that the tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&[]))
    }

    /// Another one, until it is dropped.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // Somebody else may take the port in between.
        let started = (0..10).find_map(|_| try_start(free_port(), arguments));
        started.expect("redis-server does not start")
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Nothing when the server ends before it is ready.
fn try_start(port: u16, arguments: &[&str]) -> Option<Server> {
    let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    assert!(installed.is_ok(), "redis-server is not installed: make setup");
    let folder = tempfile::tempdir().unwrap().keep();
    // The shell waits for the end of its input, which comes when this process ends, killed or not.
    // Its output ends with the server, should that be earlier.
    let script = r#"exec 3<&0; "$@" & server=$!; exec >&-; read _ <&3
        kill -9 $server; wait $server; rm -rf "$0""#;
    let mut process = Command::new("sh")
        .args(["-c", script])
        .arg(&folder)
        .args(["redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--databases", "1"])
        .args(arguments)
        // A replica leaves a file there, which the next server would read.
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept"));
    is_ready.then_some(Server { port, _process: process })
}
