//! Opens the file of quotas and reads all of it, or says in one line why not and what to do. A file
//! that is refused is left as it was, to the byte.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::slot::{self, FORMAT, Header, SLOT_BYTES, Slot};

/// How many slots are read at a time.
const READ_SLOTS: usize = 16_384;

/// The file of quotas cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MarksError {
    #[error("{path} is not a file of quotas; move it away, or choose another [store] path")]
    NotQuotas { path: PathBuf },
    #[error(
        "{path} was written by a newer version: format {found}, and this one reads up to {known}; \
         run that version, or move the file away to count quotas from zero"
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged at its beginning; move it away to count quotas from zero")]
    Damaged { path: PathBuf },
    #[error("cannot read and write {path}; let this user do both, or choose another [store] path")]
    Io { path: PathBuf, source: io::Error },
}

/// Where marks are written to: a test puts one in its place that fails.
pub(crate) trait Disk: Send + Sync + 'static {
    fn write(&self, slot: &Slot, at: u64) -> io::Result<()>;

    /// Returns once all that was written is on the disk. Blocks.
    fn sync(&self) -> io::Result<()>;

    /// Whether whoever opens this path finds this file, or may find it. Blocks.
    fn is_at(&self, path: &Path) -> bool;
}

impl Disk for File {
    fn write(&self, slot: &Slot, at: u64) -> io::Result<()> {
        self.write_all_at(slot, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_at(&self, path: &Path) -> bool {
        match (self.metadata(), path.metadata()) {
            (Ok(ours), Ok(found)) => (ours.dev(), ours.ino()) == (found.dev(), found.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), Ok(_)) => true,
        }
    }
}

/// Where the slot of this number is, in bytes.
pub(super) const fn place(slot: u64) -> u64 {
    // The header comes first.
    (slot + 1) * SLOT_BYTES as u64
}

/// Opens the file at `path`, and makes it if there is none.
pub(super) fn open(path: &Path) -> Result<File, MarksError> {
    let unusable = |source| MarksError::Io { path: path.into(), source };
    let is_new = match path.metadata() {
        Ok(found) if found.is_file() => false,
        Ok(_) => return Err(MarksError::NotQuotas { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(source) => return Err(unusable(source)),
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(is_new).truncate(false).mode(0o600);
    let file = options.open(path).map_err(unusable)?;
    let mut start = [0; SLOT_BYTES];
    let length = file.metadata().map_err(unusable)?.len();
    let begins = usize::try_from(length).unwrap_or(usize::MAX).min(SLOT_BYTES);
    let start = start.get_mut(..begins).unwrap_or_default();
    file.read_exact_at(start, 0).map_err(unusable)?;
    match slot::read_header(start, length) {
        Header::Ours(FORMAT) => {}
        Header::Unwritten => write_header(path, &file).map_err(unusable)?,
        Header::Ours(found) if found > FORMAT => {
            return Err(MarksError::NewerFormat { path: path.into(), found, known: FORMAT });
        }
        // There is no older format.
        Header::Ours(_) | Header::Damaged => {
            return Err(MarksError::Damaged { path: path.into() });
        }
        Header::Foreign => return Err(MarksError::NotQuotas { path: path.into() }),
    }
    Ok(file)
}

/// Its name is on the disk too, or a loss of power could take away what was synced since.
fn write_header(path: &Path, file: &File) -> io::Result<()> {
    file.write_all_at(&slot::header(), 0)?;
    file.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Reads all slots, in order. The last one may be cut short: what is there of it is `torn`.
pub(super) fn read(file: &File, mut visit: impl FnMut(u64, &Slot)) -> io::Result<Tail> {
    let bytes = file.metadata()?.len().saturating_sub(place(0));
    let slots = bytes / SLOT_BYTES as u64;
    let mut chunk = vec![[0; SLOT_BYTES]; READ_SLOTS];
    let mut next = 0;
    while next < slots {
        let left = usize::try_from(slots - next).unwrap_or(usize::MAX);
        let chunk = chunk.get_mut(..left.min(READ_SLOTS)).unwrap_or_default();
        file.read_exact_at(chunk.as_flattened_mut(), place(next))?;
        for slot in chunk {
            visit(next, slot);
            next += 1;
        }
    }
    Ok(Tail { slots, is_torn: bytes % SLOT_BYTES as u64 != 0 })
}

/// How a file ends.
pub(super) struct Tail {
    pub(super) slots: u64,
    /// Some bytes of one more slot.
    pub(super) is_torn: bool,
}

/// Cuts off what follows so many slots.
pub(super) fn cut(file: &File, slots: u64) -> io::Result<()> {
    file.set_len(place(slots))
}
