//! Processes of a bench, pinned to cores: when they are there, what they and their children use, and
//! that they end with their handle. Linux: reads /proc, and pins with `taskset` where it exists.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::ops::Sub;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The proxy has a core to itself, and is what the run waits for.
pub(crate) const PROXY_CORE: &str = "0";
pub(crate) const PEERS_CORE: &str = "1";
pub(crate) const BOTH_CORES: &str = "0,1";

const START_MAX: Duration = Duration::from_secs(60);

/// A process that ends with its handle.
pub(crate) struct Running(Child);

/// Time on a processor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Running {
    /// Starts a program, and waits until it listens.
    pub(crate) fn start(
        core: &str,
        program: &str,
        args: &[&str],
        folder: &Path,
        port: u16,
    ) -> Self {
        let running = Self::spawn(core, program, args, folder);
        wait_for(port);
        running
    }

    pub(crate) fn spawn(core: &str, program: &str, args: &[&str], folder: &Path) -> Self {
        let mut command = if has_taskset() {
            let mut command = Command::new("taskset");
            command.args(["-c", core, program]);
            command
        } else {
            Command::new(program)
        };
        let child = command.args(args).current_dir(folder).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{program} does not start: {error}")))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Of all its threads and those of its children, so far.
    pub(crate) fn cpu(&self) -> Cpu {
        let mut cpu = Cpu::default();
        for pid in tree(self.0.id()) {
            let Some(fields) = stat(pid) else { continue };
            // USER_HZ is 100 on every Linux that runs Rust. Children that are gone count too.
            let ticks = |at: usize| Duration::from_millis(fields[at].parse::<u64>().unwrap() * 10);
            cpu.user += ticks(11) + ticks(13);
            cpu.system += ticks(12) + ticks(14);
        }
        cpu
    }

    /// The memory that it and its children hold, in bytes; what they share counts once.
    pub(crate) fn memory(&self) -> u64 {
        tree(self.0.id()).into_iter().map(held).sum()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("the process runs");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for pid in tree(self.0.id()).into_iter().skip(1) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The process, and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = stat(pid).and_then(|fields| fields[1].parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(pid) = tree.get(at) {
        tree.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    tree
}

/// What `/proc` says after the name, the state first.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

fn held(pid: u32) -> u64 {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0) * 1024
}

pub(crate) fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
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

/// Takes as many open files as it may have, and says how many that is.
pub(crate) fn raise_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn wait_for(port: u16) {
    let deadline = Instant::now() + START_MAX;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
