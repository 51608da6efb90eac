//! The folder of one source, named after it: who holds its lock owns it, for life. Whoever gets the lock of
//! a process that is gone goes on with what that has left.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::records::SourceId;

const LOCK: &str = "lock";
const ROUTES: &str = "routes";
const BATCH: &str = "batch-";
const TALLY: &str = "tally-";
/// What a folder is called until it is whole.
const UNFINISHED: &str = "new-";

/// What could not be taken over, and why.
pub(super) struct Stuck {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

/// A source's folder, owned by this process.
pub(super) struct Folder {
    pub(super) source: SourceId,
    path: PathBuf,
    /// Released when the process ends, whatever way.
    _lock: File,
}

impl Folder {
    /// Makes the folder of a new source.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        let source = SourceId(u128::from_le_bytes(id));
        let path = root.join(name(source));
        let unfinished = root.join(format!("{UNFINISHED}{}", name(source)));
        DirBuilder::new().mode(0o700).create(&unfinished)?;
        let mut options = OpenOptions::new();
        let lock = options.write(true).create_new(true).mode(0o600).open(unfinished.join(LOCK))?;
        lock.try_lock()?;
        // Nobody sees it without its lock.
        fs::rename(&unfinished, &path)?;
        Ok(Self { source, path, _lock: lock })
    }

    /// Takes over the folders whose processes are gone. One that cannot be taken over holds up no other.
    pub(super) fn adopt(root: &Path) -> (Vec<Self>, Vec<Stuck>) {
        let (mut adopted, mut stuck) = (Vec::new(), Vec::new());
        if let Err(error) = Self::adopt_into(root, &mut adopted, &mut stuck) {
            stuck.push(Stuck { path: root.into(), error });
        }
        (adopted, stuck)
    }

    fn adopt_into(root: &Path, adopted: &mut Vec<Self>, stuck: &mut Vec<Stuck>) -> io::Result<()> {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(UNFINISHED) {
                remove_unfinished(&path);
            } else if let Some(source) = parse(name) {
                match Self::take(source, path.clone()) {
                    Ok(folder) => adopted.extend(folder),
                    Err(error) => stuck.push(Stuck { path, error }),
                }
            }
        }
        Ok(())
    }

    fn take(source: SourceId, path: PathBuf) -> io::Result<Option<Self>> {
        let lock = match OpenOptions::new().write(true).open(path.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // All of it was removed but itself; or somebody just does.
                drop(fs::remove_dir(path));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Another process may have had it, and removed it, since it was looked up.
        let (ours, found) = (lock.metadata()?, path.join(LOCK).metadata());
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == (ours.dev(), ours.ino());
        Ok(found.is_ok_and(is_it).then_some(Self { source, path, _lock: lock }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn routes(&self) -> PathBuf {
        self.path.join(ROUTES)
    }

    pub(super) fn batch(&self, number: u64) -> PathBuf {
        // In order wherever they are listed.
        self.path.join(format!("{BATCH}{number:020}"))
    }

    /// When a batch was sealed, in seconds, if it is there.
    pub(super) fn sealed_at(&self, number: u64) -> Option<u64> {
        let at = self.batch(number).metadata().ok()?.modified().ok()?;
        Some(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    /// Where a batch goes that cannot be read: it outlives the folder.
    pub(super) fn aside(&self, number: u64) -> PathBuf {
        self.path.with_file_name(format!("unreadable-{}-{number}", name(self.source)))
    }

    pub(super) fn tally(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{TALLY}{generation}"))
    }

    /// The numbers of the batches that are here, in order.
    pub(super) fn batches(&self) -> io::Result<Vec<u64>> {
        self.numbers(BATCH)
    }

    /// The generations of the tallies that are here, in order.
    pub(super) fn tallies(&self) -> io::Result<Vec<u64>> {
        self.numbers(TALLY)
    }

    fn numbers(&self, prefix: &str) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes it with all that is in it, the lock last.
    pub(super) fn remove(self) -> io::Result<()> {
        let path = &self.path;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_file(path.join(LOCK))?;
        fs::remove_dir(path)
    }
}

/// Removes what a process has left that was killed while it made its folder.
fn remove_unfinished(path: &Path) {
    let lock = OpenOptions::new().write(true).open(path.join(LOCK));
    if let Ok(lock) = lock
        && lock.try_lock().is_ok()
    {
        drop(fs::remove_dir_all(path));
    }
}

fn name(source: SourceId) -> String {
    format!("{:032x}", source.0)
}

fn parse(text: &str) -> Option<SourceId> {
    let source = SourceId(u128::from_str_radix(text, 16).ok()?);
    // A source has one name.
    (name(source) == text).then_some(source)
}
