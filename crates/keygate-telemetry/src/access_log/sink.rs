//! Where lines go: standard output or a file, whatever kind of file that is. Nothing here waits longer
//! than it is told to, as far as that is ours to say.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keygate_config::AccessLogSink;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::line::LINE_BYTES_MAX;

/// How often it is looked whether the file is still the one of its name. It is opened again the second
/// time that it is not: who moves it away may be about to make another, and then to tell us.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An open place for lines.
pub(super) struct Sink {
    file: File,
    kind: Kind,
}

enum Kind {
    /// Takes as much as there is, at once, and is looked at whether it is still there.
    Regular(Option<Place>),
    /// A pipe, a terminal, a socket: takes a line at once, if it takes any.
    Stream,
}

/// A file by its name.
struct Place {
    path: PathBuf,
    looked_at: Instant,
    was_gone: bool,
}

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    All,
    /// Nobody reads what was written before.
    Part,
}

impl Sink {
    /// Nothing if lines go nowhere.
    ///
    /// # Errors
    /// Those of opening a file, and of making the folders that it is in.
    pub(super) fn open(target: &AccessLogSink) -> io::Result<Option<Self>> {
        let (file, path) = match target {
            AccessLogSink::Off => return Ok(None),
            // A handle of its own, as the log has one: neither waits for the other's lock.
            AccessLogSink::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            AccessLogSink::File(path) => (open_file(path)?, Some(path.clone())),
        };
        let kind = if file.metadata()?.is_file() {
            let looked_at = Instant::now();
            Kind::Regular(path.map(|path| Place { path, looked_at, was_gone: false }))
        } else {
            Kind::Stream
        };
        Ok(Some(Self { file, kind }))
    }

    /// Writes lines, and counts in `done` how many bytes of them. Those are whole lines, unless it fails.
    /// Waits so long for somebody to read.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write(
        &mut self,
        lines: &[u8],
        done: &mut usize,
        patience: Duration,
    ) -> io::Result<Written> {
        while let Some(rest @ [_, ..]) = lines.get(*done..) {
            let piece = match self.kind {
                Kind::Regular(_) => rest,
                Kind::Stream => first_lines(rest),
            };
            if matches!(self.kind, Kind::Stream) && !is_ready(&self.file, patience)? {
                return Ok(Written::Part);
            }
            match self.file.write(piece) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => *done += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Part),
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Whether its file was moved away or removed, and nobody has said so.
    pub(super) fn is_gone(&mut self, now: Instant) -> bool {
        let Kind::Regular(Some(place)) = &mut self.kind else { return false };
        if now.saturating_duration_since(place.looked_at) < LOOK_EVERY {
            return false;
        }
        place.looked_at = now;
        let was_gone = place.was_gone;
        place.was_gone = is_another(&self.file, &place.path);
        was_gone && place.was_gone
    }

    /// Which file it is, whatever its name.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(identity)
    }
}

/// As many whole lines as a pipe takes at once.
fn first_lines(lines: &[u8]) -> &[u8] {
    let first = lines.get(..LINE_BYTES_MAX).unwrap_or(lines);
    let end = first.iter().rposition(|&byte| byte == b'\n').map_or(first.len(), |at| at + 1);
    lines.get(..end).unwrap_or(lines)
}

/// Whether it takes a line now, or before `patience` is over.
fn is_ready(file: &File, patience: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(file, PollFlags::OUT)];
    let timeout = Timespec::try_from(patience).map_err(|_| ErrorKind::InvalidInput)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_another(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(ours), Ok(named)) => identity(ours) != identity(named),
        (Ok(_), Err(error)) => error.kind() == ErrorKind::NotFound,
        (Err(_), _) => false,
    }
}

fn identity(file: Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Opening and writing a pipe that nobody reads fails instead of waiting for somebody.
    let at_once = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(at_once).open(path)
}
