//! Processes of a bench, pinned to a core each, and a gateway with keys made through its admin API.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The proxy has a core to itself, and is what the run waits for.
pub(crate) const PROXY_CORE: &str = "0";
pub(crate) const PEERS_CORE: &str = "1";

/// The gateway as a user runs it, with this configuration and so many keys of one app.
pub(crate) fn gateway_with_keys(
    folder: &Path,
    config: &str,
    port: u16,
    count: usize,
) -> (Running, Vec<String>) {
    let admin = free_port();
    let config =
        format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n[log]\nlevel = \"warn\"\n{config}");
    std::fs::write(folder.join("gateway.toml"), config).unwrap();
    let program = env!("CARGO_BIN_EXE_keygate");
    let running = Running::start(PROXY_CORE, program, &["run"], folder, port);
    wait_for(admin);
    let token = std::fs::read_to_string(folder.join("data/admin.token")).unwrap();
    let api = Admin { port: admin, token: token.trim().to_owned() };
    let account = api.post("/v1/accounts", r#"{"name":"bench"}"#);
    let app = api.post(
        &format!("/v1/accounts/{}/apps", text(&account, "id")),
        r#"{"name":"bench","environment":"live","granted_scopes":["read:orders","write:orders"]}"#,
    );
    let path = format!("/v1/apps/{}/keys", text(&app, "id"));
    let key = r#"{"kind":"sk","scopes":["read:orders","write:orders"]}"#;
    let keys = (0..count).map(|_| text(&api.post(&path, key), "key")).collect();
    (running, keys)
}

/// A process that ends with its handle.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(
        core: &str,
        program: &str,
        args: &[&str],
        folder: &Path,
        port: u16,
    ) -> Self {
        let mut command = if has_taskset() {
            let mut command = Command::new("taskset");
            command.args(["-c", core, program]);
            command
        } else {
            Command::new(program)
        };
        let child = command.args(args).current_dir(folder).stdout(Stdio::null()).spawn();
        let running = Self(child.expect("the program starts"));
        wait_for(port);
        running
    }

    /// User and system time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux that runs Rust.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn has_taskset() -> bool {
    Command::new("taskset").arg("--version").stdout(Stdio::null()).status().is_ok()
}

pub(crate) fn pin_self(core: &str) {
    if has_taskset() {
        let pid = std::process::id().to_string();
        let status =
            Command::new("taskset").args(["-pc", core, &pid]).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "taskset pins this process");
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Admin {
    port: u16,
    token: String,
}

impl Admin {
    fn post(&self, path: &str, body: &str) -> serde_json::Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 201"), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

fn text(value: &serde_json::Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}
