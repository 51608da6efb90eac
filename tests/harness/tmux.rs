//! A real terminal: a shell in tmux, on a server of its own. Keys go in, and what is on the screen is read.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::{binary, runs};
use super::wait::eventually;

pub struct Tmux {
    socket: String,
    shell: u32,
}

impl Tmux {
    /// A shell in `folder` in a window of this size, in which `keygate` is the binary under test.
    pub fn start(folder: &Path, width: u16, height: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = format!("keygate-test-{}-{number}", std::process::id());
        let mut terminal = Self { socket, shell: 0 };
        let (width, height) = (width.to_string(), height.to_string());
        let folder = folder.to_str().unwrap();
        terminal.ask(&[
            "-f",
            "/dev/null",
            "-u",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            "-c",
            folder,
            "env",
            "-u",
            "NO_COLOR",
            "-u",
            "KEYGATE_ADMIN_URL",
            "-u",
            "KEYGATE_ADMIN_TOKEN",
            "PS1=$ ",
            "sh",
        ]);
        terminal.ask(&["set-option", "-g", "window-size", "manual"]);
        terminal.shell =
            terminal.ask(&["display-message", "-p", "#{pane_pid}"]).trim().parse().unwrap();
        terminal.line(&format!("alias keygate='{}'; clear", binary().to_str().unwrap()));
        terminal.shows("$");
        terminal
    }

    /// Types keys by their names: `q`, `Escape`, `C-c`.
    pub fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    pub fn line(&self, text: &str) {
        self.ask(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same with its colours, as escape sequences.
    pub fn coloured_screen(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    pub fn resize(&self, width: u16, height: u16) {
        self.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until the screen is as it should be, and returns it.
    #[track_caller]
    pub fn waits(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = super::eventually_within(super::patience(), || {
            last = self.screen();
            is_so(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never on the screen: {what}\n{last}"))
    }

    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        self.waits(text, |screen| screen.contains(text))
    }

    /// The process that the shell runs now.
    pub fn child(&self) -> u32 {
        eventually("a child of the shell", || {
            let path = format!("/proc/{0}/task/{0}/children", self.shell);
            let children = std::fs::read_to_string(path).unwrap_or_default();
            children.split_whitespace().find_map(|id| id.parse().ok().filter(|id| runs(*id)))
        })
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = Command::new("tmux")
            .args(["-L", &self.socket])
            .args(arguments)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("tmux is installed: make setup-tests");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "tmux {arguments:?}: {stderr}");
        String::from_utf8_lossy(&stdout).into_owned()
    }
}

impl Drop for Tmux {
    /// Ends its own server, and the shell in it.
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}
