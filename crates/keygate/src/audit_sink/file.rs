//! The file that the audit log is copied to: added to, whole lines at a time, and read only to find
//! where it ends. Its last line says how far the log has been copied, whatever ended the process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::follower::Mark;

/// No line is longer: entries are bounded far below.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// What a line begins with.
const BEGINNINGS: [&[u8]; 4] =
    [b"{\"number\":", b"{\"gap\":", b"{\"restarted\":", b"{\"continues\":"];

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it is no regular file")]
    NotRegular,
    #[error("another process writes to it")]
    InUse,
    #[error("it does not end with a line of an audit log: it may be another file")]
    NotOurs,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Cheap to clone; all clones are the same file. Its calls block.
#[derive(Clone)]
pub(super) struct LogFile {
    path: Arc<Path>,
    open: Arc<Mutex<Open>>,
}

struct Open {
    file: File,
    /// Where its last whole line ends.
    length: u64,
}

impl LogFile {
    /// Opens a file, makes it if there is none, cuts off a line that was not written to its end, and
    /// says how far the log has been copied.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<Mark>), OpenError> {
        let mut file = open(path)?;
        let (length, last) = last_line(&mut file)?;
        let mark = last.map(|line| mark(&line)).transpose()?.flatten();
        file.set_len(length)?;
        let open = Arc::new(Mutex::new(Open { file, length }));
        Ok((Self { path: path.into(), open }, mark))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds lines, and returns when they are on the disk; or leaves the file as it is. Goes on in a new
    /// file, which begins with the line `continues`, if this one was moved away or emptied.
    pub(super) fn append(&mut self, continues: &str, lines: &str) -> Result<(), OpenError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_moved_away(&self.path)? {
            let file = self::open(&self.path)?;
            if file.metadata()?.len() > 0 {
                return Err(OpenError::NotOurs);
            }
            *open = Open { file, length: 0 };
            open.append(&format!("{continues}\n"))?;
        }
        if open.is_emptied()? {
            open.length = 0;
            open.append(&format!("{continues}\n"))?;
        }
        Ok(open.append(lines)?)
    }
}

impl Open {
    /// Whether the file of this name is another one by now, or none.
    fn is_moved_away(&self, path: &Path) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match path.metadata() {
            Ok(named) => Ok((named.dev(), named.ino()) != (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody took away all that was written. What they left would be no log.
    fn is_emptied(&self) -> Result<bool, OpenError> {
        match self.file.metadata()?.len() {
            length if length >= self.length => Ok(false),
            0 => Ok(true),
            _ => Err(OpenError::NotOurs),
        }
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        // What an earlier try may have left.
        self.file.set_len(self.length)?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.length += u64::try_from(text.len()).unwrap_or(0);
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, OpenError> {
    // Before it is opened: opening a pipe waits until somebody reads from it.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(OpenError::NotRegular);
    }
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Where the last whole line ends, and that line.
fn last_line(file: &mut File) -> Result<(u64, Option<Vec<u8>>), OpenError> {
    let length = file.metadata()?.len();
    // Room for a line that was cut short, and the one before it.
    let from = length.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(2 * LINE_BYTES_MAX).read_to_end(&mut end)?;
    let whole = end.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let (lines, cut_short) = end.split_at(whole);
    if !may_be_ours(cut_short) || (whole == 0 && from > 0) {
        return Err(OpenError::NotOurs);
    }
    let last = lines.strip_suffix(b"\n").map(|lines| {
        let begin = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        lines.get(begin..).unwrap_or_default().to_vec()
    });
    Ok((from + u64::try_from(whole).unwrap_or(0), last))
}

/// Whether this is how a line of ours may look that was not written to its end: a disk that lost its
/// power may hold zeros there. Nothing else is ever cut off.
fn may_be_ours(cut_short: &[u8]) -> bool {
    let text = cut_short
        .iter()
        .position(|&byte| byte == 0)
        .map_or(cut_short, |at| cut_short.get(..at).unwrap_or_default());
    BEGINNINGS.iter().any(|begin| text.starts_with(begin) || begin.starts_with(text))
}

/// What is told by the last line.
#[derive(Deserialize)]
struct LastLine {
    number: Option<u64>,
    hash: Option<String>,
    gap: Option<Gap>,
    restarted: Option<Restarted>,
    continues: Option<Continues>,
}

#[derive(Deserialize)]
struct Gap {
    to: u64,
}

#[derive(Deserialize)]
struct Restarted {}

#[derive(Deserialize)]
struct Continues {
    after: u64,
    hash: Option<String>,
}

fn mark(line: &[u8]) -> Result<Option<Mark>, OpenError> {
    let line: LastLine = serde_json::from_slice(line).map_err(|_| OpenError::NotOurs)?;
    let mark = match line {
        LastLine { number: Some(number), hash, .. } => Mark { number, hash },
        LastLine { gap: Some(gap), .. } => Mark { number: gap.to, hash: None },
        LastLine { restarted: Some(Restarted {}), .. } => return Ok(None),
        LastLine { continues: Some(Continues { after, hash }), .. } => Mark { number: after, hash },
        LastLine { .. } => return Err(OpenError::NotOurs),
    };
    Ok(Some(mark).filter(|mark| mark.number > 0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn entry(number: u64) -> String {
        format!("{{\"number\":{number},\"at\":\"x\",\"hash\":\"{number:064x}\"}}\n")
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/audit.jsonl");
        (folder, path)
    }

    fn holding(text: &[u8]) -> (TempDir, PathBuf) {
        let (folder, path) = place();
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn number(path: &Path) -> Option<u64> {
        let (_, mark) = LogFile::open(path).unwrap();
        mark.map(|mark| mark.number)
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_the_next_start_goes_on_where_it_ends() {
        let (_folder, path) = place();
        let (mut file, mark) = LogFile::open(&path).unwrap();
        assert_eq!(mark, None);
        file.append("", &(entry(1) + &entry(2))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        let (mut file, mark) = LogFile::open(&path).unwrap();
        assert_eq!(mark, Some(Mark { number: 2, hash: Some(format!("{:064x}", 2)) }));
        file.append("", &entry(3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), entry(1) + &entry(2) + &entry(3));
    }

    #[test]
    fn a_line_that_was_not_written_to_its_end_is_cut_off_wherever_it_ends() {
        let whole = entry(1) + &entry(2);
        for length in 0..entry(3).len() {
            for zeros in [0, 5] {
                let mut text = whole.clone().into_bytes();
                text.extend_from_slice(&entry(3).as_bytes()[..length]);
                text.extend(std::iter::repeat_n(0, zeros));
                let (_folder, path) = holding(&text);
                assert_eq!(number(&path), Some(2), "{length}");
                assert_eq!(fs::read_to_string(&path).unwrap(), whole);
            }
        }
        let (_folder, path) = holding(b"{\"numb");
        assert_eq!(number(&path), None);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
        for text in [
            "PASSWORD=hunter2",
            "PASSWORD=hunter2\n",
            "{\"a\":1}\n",
            "{\"a\":1}",
            "{\"number\":1}\nx",
            "[1]\n",
            "\n",
        ] {
            let (_folder, path) = holding(text.as_bytes());
            assert!(matches!(LogFile::open(&path), Err(OpenError::NotOurs)), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (folder, _) = place();
        assert!(matches!(LogFile::open(folder.path()), Err(OpenError::NotRegular)));
    }

    #[test]
    fn one_process_writes_at_a_time() {
        let (_folder, path) = place();
        let first = LogFile::open(&path).unwrap();
        assert!(matches!(LogFile::open(&path), Err(OpenError::InUse)));
        drop(first);
        assert!(LogFile::open(&path).is_ok());
    }

    #[test]
    fn lines_go_on_in_a_new_file_when_the_old_one_was_moved_away_or_emptied() {
        let continues = "{\"continues\":{\"after\":1,\"hash\":null}}";
        for move_away in [true, false] {
            let (_folder, path) = place();
            let (mut file, _) = LogFile::open(&path).unwrap();
            file.append("", &entry(1)).unwrap();
            match move_away {
                true => fs::rename(&path, path.with_extension("1")).unwrap(),
                false => fs::write(&path, "").unwrap(),
            }
            file.append(continues, &entry(2)).unwrap();
            let expected = format!("{continues}\n{}", entry(2));
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
            drop(file);
            fs::write(&path, format!("{continues}\n")).unwrap();
            assert_eq!(number(&path), Some(1), "a restart right then writes nothing twice");
        }
    }

    #[test]
    fn the_lines_between_entries_say_how_far_it_is_too() {
        for (line, expected) in [
            ("{\"gap\":{\"from\":3,\"to\":7}}\n", Some(7)),
            ("{\"restarted\":{\"from\":7}}\n", None),
            ("{\"continues\":{\"after\":7,\"hash\":null}}\n", Some(7)),
            ("{\"continues\":{\"after\":0,\"hash\":null}}\n", None),
        ] {
            let (_folder, path) = holding((entry(2) + line).as_bytes());
            assert_eq!(number(&path), expected, "{line}");
        }
    }
}
