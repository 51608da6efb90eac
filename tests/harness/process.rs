//! The binary as a process: where it is, how it is started, what it writes, how it is ended.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::wait::{eventually_within, patience};

/// The binary under test.
pub fn binary() -> OsString {
    std::env::var_os("KEYGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_keygate").into())
}

/// A command of the binary in `folder`, with nothing of ours in its environment.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env_remove("KEYGATE_ADMIN_TOKEN").env_remove("KEYGATE_ADMIN_URL");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Exit {
    /// Absent when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The one line with which a command failed.
    #[track_caller]
    pub fn complaint(self) -> String {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self.stderr
    }
}

/// Runs the binary to its end.
///
/// # Panics
/// When it does not end within [`patience`].
#[track_caller]
pub fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
    let mut command = command(folder, arguments);
    command.envs(environment.iter().copied());
    Process::of(command).exit(arguments)
}

/// Runs the binary to its end with this text as its standard input.
#[track_caller]
pub fn run_with_input(folder: &Path, arguments: &[&str], input: &str) -> Exit {
    let mut command = command(folder, arguments);
    let file = folder.join("input");
    fs::write(&file, input).unwrap();
    command.stdin(fs::File::open(&file).unwrap());
    fs::remove_file(&file).unwrap();
    Process::of(command).exit(arguments)
}

/// A running binary. Killed when dropped.
pub struct Process {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    /// The processes that took over from it, the last one last. They write to the same pipes.
    heirs: Vec<u32>,
}

impl Process {
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::of(command(folder, arguments))
    }

    /// Starts another program than the one under test.
    pub fn program(program: &Path, folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::of(command)
    }

    /// Starts with a pipe for standard output that is never read until [`read_stdout`].
    ///
    /// [`read_stdout`]: Self::read_stdout
    pub fn start_unread(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder, arguments).spawn().expect("the binary starts");
        let stderr = Arc::default();
        let readers = vec![collect(child.stderr.take().expect("piped"), Arc::clone(&stderr))];
        Self { child, stdout: Arc::default(), stderr, readers, heirs: Vec::new() }
    }

    /// Reads all that stands in the pipe of a process that was started unread and has ended.
    pub fn read_stdout(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().expect("unread").read_to_string(&mut text).unwrap();
        text
    }

    fn of(command: Command) -> Self {
        Self::try_of(command).expect("the binary starts")
    }

    /// Starts a command whose outputs are pipes.
    pub(super) fn try_of(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("piped"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("piped"), Arc::clone(&stderr)),
        ];
        Ok(Self { child, stdout, stderr, readers, heirs: Vec::new() })
    }

    #[track_caller]
    fn exit(mut self, arguments: &[&str]) -> Exit {
        match self.wait_for_exit() {
            Some(code) => Exit { code, stdout: self.stdout(), stderr: self.stderr() },
            None => panic!("still running: {arguments:?}\n{}{}", self.stdout(), self.stderr()),
        }
    }

    /// That of the one that serves.
    pub fn id(&self) -> u32 {
        self.heirs.last().copied().unwrap_or_else(|| self.child.id())
    }

    /// Another process has taken over.
    pub fn was_taken_over_by(&mut self, heir: u32) {
        self.heirs.push(heir);
    }

    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    pub fn is_running(&mut self) -> bool {
        let child_runs = self.child.try_wait().expect("our own child").is_none();
        self.heirs.last().map_or(child_runs, |heir| runs(*heir))
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        self.kill_heirs();
        self.join_readers();
    }

    fn kill_heirs(&mut self) {
        for heir in self.heirs.drain(..) {
            if runs(heir) {
                // It may end by itself at this moment.
                let _ = Command::new("kill").args(["-KILL", &heir.to_string()]).status();
            }
        }
    }

    /// The exit code (none if a signal ended it), or nothing if it does not end in time.
    pub fn wait_for_exit(&mut self) -> Option<Option<i32>> {
        let status =
            eventually_within(patience(), || self.child.try_wait().expect("our own child"));
        status.map(|status| {
            self.join_readers();
            assert_ne!(status.signal(), Some(11), "segmentation fault");
            status.code()
        })
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_heirs();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there, and not only its exit code.
pub fn runs(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
        }
    })
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

/// An address at which nobody listens, as far as one can know: whoever uses it may have to retry.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !given.contains(&address) {
            given.push(address);
            return address;
        }
    }
}
