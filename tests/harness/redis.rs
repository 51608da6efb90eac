//! A real Redis in a folder of its own: started, killed, stopped for a while, and asked.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::resp::{Reply, Resp};
use super::wait::{eventually, eventually_within, patience};

/// What every server is told. All that was ever written lies in its log of commands, as it was
/// written: that is what is searched for secrets.
const ALWAYS: &str = "\
bind 127.0.0.1
save \"\"
appendonly yes
appendfsync everysec
aof-use-rdb-preamble no
rdbcompression no
repl-diskless-sync-delay 0
repl-ping-replica-period 1
";

pub struct Redis {
    settings: Settings,
    process: Process,
    files: Arc<TempDir>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
}

/// What a server is told besides.
#[derive(Clone, Default)]
pub struct Settings {
    /// Lines of its configuration.
    pub lines: String,
    /// Of the user `default`, as which the test itself speaks to it.
    pub password: Option<String>,
    /// It also listens for TLS, and wants a client's certificate.
    pub tls: Option<Arc<Certificates>>,
    pub sentinel: bool,
}

impl Settings {
    /// Adds a line to the configuration. A later one counts.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }
}

impl Redis {
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Starts and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`.
    pub fn with(settings: Settings) -> Self {
        const TRIES: usize = 5;
        let files = Arc::new(tempfile::tempdir().unwrap());
        fs::create_dir(files.path().join("data")).unwrap();
        let mut output = String::new();
        for _ in 0..TRIES {
            let address = free_server_address();
            let tls_address = settings.tls.as_ref().map(|_| free_server_address());
            write_configuration(&settings, files.path(), address, tls_address);
            let mut process = launch(files.path(), settings.sentinel);
            if answers(&settings, address, &mut process) {
                return Self { settings, process, files, address, tls_address };
            }
            let _ = process.is_running().then(|| process.kill());
            output = format!("{}{}", process.stdout(), process.stderr());
            // Another process was faster to take the port.
            if !output.contains("in use") {
                break;
            }
        }
        panic!("redis-server did not start:\n{output}");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls_address.expect("started without TLS")
    }

    /// All that it wrote to disk.
    pub fn files(&self) -> Arc<TempDir> {
        Arc::clone(&self.files)
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> Resp {
        connect(&self.settings, self.address).unwrap_or_else(|error| panic!("Redis: {error}"))
    }

    /// Carries out one command on a connection of its own.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn command<W: AsRef<[u8]>>(&self, words: &[W]) -> Reply {
        let reply = self.connect().call(words).unwrap_or_else(|error| panic!("Redis: {error}"));
        if let Reply::Error(error) = &reply {
            panic!("Redis refused: {error}");
        }
        reply
    }

    /// The same for one who copes with its death.
    pub fn try_command<W: AsRef<[u8]>>(&self, words: &[W]) -> Option<Reply> {
        let reply = connect(&self.settings, self.address).ok()?.call(words).ok()?;
        (!matches!(reply, Reply::Error(_))).then_some(reply)
    }

    /// One field of `INFO`.
    pub fn info(&self, field: &str) -> Option<String> {
        let info = self.try_command(&["INFO", "all"])?.text();
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(|value| value.trim_end().to_owned())
    }

    /// Sets a value, and waits until a replica has it.
    pub fn set_on_replica(&self, name: &str, value: &str) {
        // One connection: what another one wrote is not waited for.
        let mut connection = self.connect();
        connection.call(&["SET", name, value]).unwrap();
        let replicas = connection.call(&["WAIT", "1", "30000"]).unwrap();
        assert!(matches!(replicas, Reply::Number(1..)), "{replicas:?}");
    }

    /// Waits until the kernel has all that was written. While the disk is busy, Redis holds back what
    /// it has answered already, for up to two seconds.
    pub fn wait_until_written(&self) {
        eventually("a written log", || {
            let info = self.command(&["INFO", "persistence"]).text();
            info.lines().any(|line| line.trim_end() == "aof_buffer_length:0").then_some(())
        });
    }

    /// SIGKILL: what it had not handed to the kernel is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again with its files on the same port, after [`kill`](Self::kill), and waits until it
    /// answers.
    pub fn start_again(&mut self) {
        self.start_again_with("");
    }

    /// The same with more lines of configuration, for this run.
    pub fn start_again_with(&mut self, lines: &str) {
        assert!(!self.process.is_running(), "kill it first");
        let mut settings = self.settings.clone();
        settings.lines.push_str(lines);
        write_configuration(&settings, self.files.path(), self.address, self.tls_address);
        // The port may be held a moment longer by what the last process left behind.
        const TRIES: usize = 50;
        for _ in 0..TRIES {
            self.process = launch(self.files.path(), settings.sentinel);
            if answers(&settings, self.address, &mut self.process) {
                return;
            }
        }
        panic!("redis-server did not start again:\n{}", self.process.stdout());
    }

    /// Stops it where it stands: its sockets stay open, and nothing comes from them.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Ends every subscription.
    pub fn kill_subscriptions(&self) {
        self.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }

    /// `[store]` for a gateway that uses this server alone.
    pub fn store(&self) -> String {
        self.store_at(self.address)
    }

    /// The same through something that stands before it.
    pub fn store_at(&self, address: SocketAddr) -> String {
        format!("kind = \"redis\"\nurls = [\"redis://{address}\"]")
    }
}

fn write_configuration(
    settings: &Settings,
    folder: &Path,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
) {
    let mut text = format!("port {}\ndir {}\n", address.port(), folder.join("data").display());
    if !settings.sentinel {
        text.push_str(ALWAYS);
    }
    if let Some(password) = &settings.password {
        writeln!(text, "requirepass \"{password}\"").unwrap();
    }
    if let (Some(tls), Some(address)) = (&settings.tls, tls_address) {
        writeln!(text, "tls-port {}\ntls-auth-clients yes", address.port()).unwrap();
        for (name, file) in [("cert", "server.pem"), ("key", "server.key"), ("ca-cert", "ca.pem")] {
            writeln!(text, "tls-{name}-file {}", tls.path(file).display()).unwrap();
        }
    }
    text.push_str(&settings.lines);
    fs::write(folder.join("redis.conf"), text).unwrap();
}

fn launch(folder: &Path, sentinel: bool) -> Process {
    let mut command = Command::new("redis-server");
    command.arg(folder.join("redis.conf")).args(sentinel.then_some("--sentinel"));
    command.current_dir(folder).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    match Process::try_of(command) {
        Ok(process) => process,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            panic!("install redis-server: make setup")
        }
        Err(error) => panic!("redis-server: {error}"),
    }
}

/// Waits until it answers; false if it ended instead.
fn answers(settings: &Settings, address: SocketAddr, process: &mut Process) -> bool {
    let pong = |mut connection: Resp| connection.call(&["PING"]).ok();
    let answered = eventually_within(patience(), || {
        let reply = connect(settings, address).ok().and_then(pong);
        let is_up = matches!(reply, Some(Reply::Text(text)) if text == b"PONG");
        if is_up { Some(true) } else { (!process.is_running()).then_some(false) }
    });
    answered == Some(true)
}

fn connect(settings: &Settings, address: SocketAddr) -> std::io::Result<Resp> {
    let mut connection = Resp::open(address)?;
    if let Some(password) = &settings.password {
        connection.call(&["AUTH", password])?;
    }
    Ok(connection)
}

/// An address for a server that is to come back to it: not one of those that the system hands out
/// to clients, who could take it meanwhile. A cluster's node also takes the port 10 000 above.
fn free_server_address() -> SocketAddr {
    loop {
        let port = fastrand::u16(10_240..22_000);
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
    }
}
