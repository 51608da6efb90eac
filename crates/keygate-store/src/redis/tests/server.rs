//! A real Redis for tests: one for each test process, in memory only, gone with the process however
//! that ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

pub(crate) struct Server {
    pub(crate) port: u16,
    /// Holds the pipe whose end stops the server.
    _process: Child,
}

/// The server of this process.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

fn start() -> Server {
    // Somebody else may take the port in between.
    (0..10).find_map(|_| try_start(free_port())).expect("redis-server finds no free port")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Nothing when the server ends before it is ready.
fn try_start(port: u16) -> Option<Server> {
    let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    assert!(installed.is_ok(), "redis-server is not installed: make setup");
    // The shell waits for the end of its input, which comes when this process ends, killed or not.
    // Its output ends with the server, should that be earlier.
    let script = r#"exec 3<&0; "$@" & server=$!; exec >&-; read _ <&3; kill -9 $server"#;
    let mut process = Command::new("sh")
        .args(["-c", script, "sh", "redis-server", "--bind", "127.0.0.1", "--port"])
        .arg(port.to_string())
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--databases", "1"])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept"));
    is_ready.then_some(Server { port, _process: process })
}
