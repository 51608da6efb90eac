//! On what, with what and of what a run was made.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Programs that take part, with the flag that has them say their version.
const PROGRAMS: &[(&str, &str)] = &[
    ("rustc", "-V"),
    ("nginx", "-v"),
    ("haproxy", "-v"),
    ("redis-server", "--version"),
    ("valgrind", "--version"),
];

pub(crate) fn describe() -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{:14}{value}", format!("{name}:")).expect("a text has room");
    };
    line("begun", &said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    let commit = said("git", &["rev-parse", "HEAD"]);
    line("commit", &format!("{commit}{}", if changed { ", with changes" } else { "" }));
    line("processor", &field("/proc/cpuinfo", "model name"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    line("cores", &cores.to_string());
    line("memory", &field("/proc/meminfo", "MemTotal"));
    line("kernel", &said("uname", &["-sr"]));
    line("virtual", &said("systemd-detect-virt", &[]));
    for (program, flag) in PROGRAMS {
        line(program, &said(program, &[flag]));
    }
    text
}

/// The commit that a run was made of.
pub(crate) fn commit(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("machine.txt")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("commit:"));
    line.unwrap_or_default().trim().chars().take(7).collect()
}

/// The first line that a program prints, or that it is not there.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "not installed".to_owned() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}
