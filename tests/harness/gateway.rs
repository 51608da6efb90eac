//! One gateway: the real binary in a folder of its own, from its first start to the search of
//! everything it left for secrets.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::admin::{Admin, Key, KeySpec};
use super::answer::Answer;
use super::caller::Caller;
use super::config::Setup;
use super::h1::{Broken, Connection};
use super::leaks::Leaks;
use super::process::{Process, free_address};
use super::request::{Request, Wire, get, post};
use super::wait::{eventually, eventually_within};
use super::{h2c, wait::patience};

pub struct Gateway {
    folder: TempDir,
    setup: Setup,
    process: Process,
    pub proxy: SocketAddr,
    pub admin_address: SocketAddr,
    leaks: Arc<Leaks>,
}

impl Gateway {
    pub(super) fn start(setup: Setup) -> Self {
        Self::start_until(setup, "/readyz")
    }

    pub(super) fn start_unready(setup: Setup) -> Self {
        Self::start_until(setup, "/healthz")
    }

    fn start_until(setup: Setup, health: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(pepper) = &setup.pepper {
            fs::create_dir(folder.path().join("data")).unwrap();
            let path = folder.path().join("data/pepper");
            fs::write(&path, format!("{pepper}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let (process, proxy, admin_address) = launch(&setup, folder.path(), health);
        let leaks = setup.leaks.clone().unwrap_or_default();
        let gateway = Self { folder, setup, process, proxy, admin_address, leaks };
        gateway.register_secrets();
        gateway
    }

    /// What this gateway made or was given. One that never got ready may not have made all.
    fn register_secrets(&self) {
        if let Ok(token) = fs::read_to_string(self.path("data/admin.token")) {
            self.leaks.token("the admin token", token.trim_end());
        }
        if let Ok(pepper) = fs::read_to_string(self.path("data/pepper")) {
            self.leaks.pepper(pepper.trim_end());
        }
    }

    /// Sends a request over HTTP/1.1 on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        self.send_over(Wire::H1, request)
    }

    #[track_caller]
    pub fn send_over(&self, wire: Wire, request: &Request) -> Answer {
        self.try_send_over(wire, request)
            .unwrap_or_else(|error| panic!("{wire:?} {request:?}: {error}"))
    }

    pub fn try_send_over(&self, wire: Wire, request: &Request) -> Result<Answer, String> {
        let answer = match wire {
            Wire::H1 => self.connect().exchange(request).map_err(|broken| format!("{broken:?}")),
            Wire::H2c => h2c::exchange(self.proxy, request),
        };
        if let Ok(refusal @ Answer { status: 400.., .. }) = &answer {
            let text = format!("{:?}\n{}", refusal.headers, refusal.text());
            self.leaks.capture("an answer", text.as_bytes());
        }
        answer
    }

    /// Sends bytes as they are on a connection of their own, and reads one answer.
    pub fn send_raw(&self, bytes: &[u8]) -> Result<Answer, Broken> {
        let mut connection = self.connect();
        // The gateway may refuse before it has read everything.
        let _ = connection.send(bytes);
        let method = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
        let answer = connection.answer(&String::from_utf8_lossy(method));
        if let Ok(answer) = &answer {
            let text = format!("{:?}\n{}", answer.headers, answer.text());
            self.leaks.capture("an answer", text.as_bytes());
        }
        answer
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.proxy)
    }

    pub fn admin(&self) -> Admin {
        Admin::new(self.admin_address, self.admin_token(), Arc::clone(&self.leaks))
    }

    /// A live secret key with these scopes, of an account and an app of its own.
    #[track_caller]
    pub fn key(&self, scopes: &[&str]) -> String {
        self.admin().key(&KeySpec::new(scopes)).key
    }

    /// The same with all that the admin API said.
    #[track_caller]
    pub fn key_with(&self, spec: &KeySpec) -> Key {
        self.admin().key(spec)
    }

    /// The sum of all series whose name and labels begin like this.
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        let values = metrics.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            name.starts_with(series).then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }

    pub fn metrics(&self) -> String {
        let answer = Connection::open(self.admin_address).exchange(&get("/metrics"));
        let answer = answer.expect("metrics answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.leaks.capture("the metrics", &answer.body);
        answer.text()
    }

    pub fn leaks(&self) -> &Leaks {
        &self.leaks
    }

    pub(super) fn shared_leaks(&self) -> Arc<Leaks> {
        Arc::clone(&self.leaks)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_end().to_owned()
    }

    pub fn admin_token(&self) -> String {
        self.read("data/admin.token")
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything the process has written so far.
    pub fn output(&self) -> String {
        format!("{}{}", self.process.stdout(), self.process.stderr())
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) {
        self.process.kill();
        self.keep_output();
    }

    /// Keeps what the process has written for the search, and holds it to its form.
    fn keep_output(&self) {
        let (log, output) = (self.process.stdout(), self.output());
        assert!(!output.contains("panicked at"), "a thread panicked:\n{output}");
        // A killed process may have been in the middle of its last line.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        for line in whole.lines() {
            let parsed = serde_json::from_str::<Value>(line);
            let is_ours = |line: Value| line["level"].is_string() || line["log"].is_string();
            assert!(parsed.is_ok_and(is_ours), "not a log line: {line}");
        }
        self.leaks.capture("the log", output.as_bytes());
    }

    /// Changes the settings of the next start.
    pub fn change(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
    }

    /// Changes the settings in the file of the running gateway, and tells it nothing.
    pub fn rewrite(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.change(change);
        self.write(&self.setup.toml(self.proxy, self.admin_address));
    }

    /// The same by its text.
    pub fn write(&self, toml: &str) {
        fs::write(self.path("gateway.toml"), toml).unwrap();
    }

    /// Asks for a reload through the admin API.
    #[track_caller]
    pub fn reload(&self) -> Answer {
        self.admin().send(&post("/v1/reload", "{}"))
    }

    /// Asks for a reload by SIGHUP, and waits until it has ended. Says whether it succeeded.
    #[track_caller]
    pub fn hang_up(&self) -> bool {
        let count = |result: &str| {
            self.metric(&format!("keygate_config_reloads_total{{result=\"{result}\"}}"))
        };
        let before = (count("success"), count("failure"));
        self.process.signal("HUP");
        eventually("a reload", || {
            let after = (count("success"), count("failure"));
            (after != before).then_some(after.0 > before.0)
        })
    }

    /// Starts again in the same folder, after the process has ended.
    pub fn start_again(&mut self) {
        assert!(!self.process.is_running(), "end it first");
        self.keep_output();
        let (process, proxy, admin_address) = launch(&self.setup, self.folder.path(), "/readyz");
        (self.process, self.proxy, self.admin_address) = (process, proxy, admin_address);
    }

    /// Starts again with the file and the ports that it had, as a supervisor does.
    pub fn start_again_in_place(&mut self) {
        assert!(!self.process.is_running(), "end it first");
        self.keep_output();
        // Somebody's connection may have such a port for a moment.
        const TRIES: usize = 50;
        for _ in 0..TRIES {
            self.process = Process::start(self.folder.path(), &["run"]);
            if is_up(&mut self.process, self.admin_address, "/readyz") {
                return;
            }
        }
        panic!("the gateway did not start again:\n{}", self.output());
    }

    /// Has a new process take over, and waits until it has. Returns the id of the old one.
    #[track_caller]
    pub fn hand_over(&mut self) -> u32 {
        let old = self.process.id();
        let taken = || -> Vec<u64> {
            let log = self.process.stdout();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let told = lines.filter(|line| line["message"] == "another process has taken over");
            told.filter_map(|line| line["pid"].as_u64()).collect()
        };
        let before = taken().len();
        self.process.signal("QUIT");
        let heir = eventually("another process", || taken().get(before).copied());
        self.process.was_taken_over_by(u32::try_from(heir).unwrap());
        old
    }

    /// Whether `/readyz` says so.
    pub fn is_ready(&self) -> bool {
        answers_200(self.admin_address, "/readyz")
    }

    /// A client that keeps its connection.
    pub fn caller(&self) -> Caller {
        Caller::new(self.proxy)
    }

    #[track_caller]
    pub fn is_alive_and_well(&mut self) {
        assert!(self.process.is_running(), "the gateway died:\n{}", self.output());
        let output = self.output();
        assert!(!output.contains("panicked at"), "a thread panicked:\n{output}");
        assert!(self.is_ready(), "not ready");
    }
}

/// Every test ends with the search for secrets in all that its gateway let out.
impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let tail = output.len().saturating_sub(8_000);
            let tail = output.char_indices().map(|(at, _)| at).find(|&at| at >= tail).unwrap_or(0);
            println!("--- the end of the gateway's output\n{}", &output[tail..]);
            return;
        }
        if self.process.is_running() {
            self.metrics();
            self.process.kill();
        }
        self.keep_output();
        self.register_secrets();
        self.leaks.capture_files(self.folder.path());
        for files in &self.setup.store_files {
            self.leaks.capture_files(&files.path().join("data"));
        }
        for seen in self.setup.upstream.iter().flat_map(|record| record.all()) {
            self.leaks.capture("what the upstream saw", &seen.raw);
        }
        self.leaks.assert_none();
    }
}

/// Starts the binary on ports that were free a moment ago; on others if somebody was faster.
fn launch(setup: &Setup, folder: &Path, health: &str) -> (Process, SocketAddr, SocketAddr) {
    const TRIES: usize = 5;
    let mut output = String::new();
    for _ in 0..TRIES {
        let (proxy, admin) = (free_address(), free_address());
        fs::write(folder.join("gateway.toml"), setup.toml(proxy, admin)).unwrap();
        let mut process = Process::start(folder, &["run"]);
        if is_up(&mut process, admin, health) {
            return (process, proxy, admin);
        }
        let _ = process.is_running().then(|| process.kill());
        let _ = process.wait_for_exit();
        output = format!("{}{}", process.stdout(), process.stderr());
        if !output.contains("in use") {
            break;
        }
    }
    panic!("the gateway did not start:\n{output}");
}

/// Waits until it answers; false if it ended instead.
fn is_up(process: &mut Process, admin: SocketAddr, health: &str) -> bool {
    let started = eventually_within(patience(), || {
        if answers_200(admin, health) {
            Some(true)
        } else {
            (!process.is_running()).then_some(false)
        }
    });
    started == Some(true)
}

fn answers_200(admin: SocketAddr, path: &str) -> bool {
    let ask = |mut connection: Connection| connection.exchange(&get(path));
    Connection::try_open(admin).is_ok_and(|c| ask(c).is_ok_and(|answer| answer.status == 200))
}
