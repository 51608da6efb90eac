//! Opens the file, or says in one line why not and what to do. A file that is refused is left as
//! it was, to the byte.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableError, WriteTransaction,
};

use super::held::HeldFile;
use super::tables::{
    ACCOUNT_APPS, ACCOUNTS, APP_KEYS, APPS, CHANGE_LINKS, CHANGES, FORMAT, KEY_DIGESTS, KEYS,
    LAST_USED, LAST_USES, META, META_FORMAT, META_NEXT_CHANGE, ONCE, ONCE_ENDS, PEPPER_KEYS,
    TOKEN_HASHES, TOKENS, USAGE_DAYS, USAGE_HOURS, USAGE_MINUTES, USAGE_SOURCES,
};
use super::write;

/// What the database may keep in memory of its file, in bytes. The cache of keys is in front of
/// it, so this only serves cold keys and lists.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Files up to this size, in bytes, are read and verified whole at every start, at about 0.7 GB/s.
/// A larger one is trusted if it was closed, or crashed, by the rules: a million keys, their apps
/// and their log are 2 GB. Each of its records is still verified when it is read.
const VERIFY_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Why the store could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: another process has it open; stop it or choose another [store] path")]
    InUse { path: PathBuf },
    #[error(
        "{path} is damaged or cut short; put a backup in its place, or move it away to start empty"
    )]
    Damaged { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} is not a store of keygate; choose another [store] path")]
    NotAStore { path: PathBuf },
    #[error(
        "{path} was written by a newer version: format {found}, and this one reads up to {known}; \
         run that version"
    )]
    NewerFormat { path: PathBuf, found: u64, known: u64 },
    #[error("{path} is a folder; [store] path must name a file")]
    IsFolder { path: PathBuf },
    #[error("cannot make the folder {path}; make it, or let this user write to the one above")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot read and write {path}; let this user do both, or choose another [store] path")]
    Io { path: PathBuf, source: io::Error },
}

/// The way to the file itself: a test puts one in between that fails.
pub(super) trait Files {
    type File: StorageBackend;

    fn of(&self, file: FileBackend) -> Self::File;
}

pub(super) struct PlainFiles;

impl Files for PlainFiles {
    type File = FileBackend;

    fn of(&self, file: FileBackend) -> FileBackend {
        file
    }
}

/// Opens the store at `path`, and makes it if there is none.
pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(source) => return Err(OpenError::Io { path: path.into(), source }),
    }
    open_again(path)
}

/// Opens the store at `path`, and makes none: there was one.
pub(super) fn open_again(path: &Path) -> Result<Database, OpenError> {
    open_existing(path, VERIFY_BYTES_MAX, &PlainFiles)
}

pub(super) fn open_existing(
    path: &Path,
    verify_max: u64,
    files: &impl Files,
) -> Result<Database, OpenError> {
    let unusable = |source| OpenError::Io { path: path.into(), source };
    let kind = path.metadata().map_err(unusable)?;
    if kind.is_dir() {
        return Err(OpenError::IsFolder { path: path.into() });
    }
    if !kind.is_file() {
        return Err(OpenError::NotAStore { path: path.into() });
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unusable)?;
    let check = glance(path, &file, verify_max)?;
    let held = HeldFile::new(files.of(backend(path, file)?));
    // The database asserts, rather than reports, some of what a damaged file may hold.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let opened = builder(path, check).create_with_backend(held.clone());
        let db = opened.map_err(|error| refused(path, error))?;
        check_tables(path, &db)?;
        add_tables(path, &db)?;
        Ok(db)
    }));
    let db = opened.unwrap_or_else(|_| Err(damaged(path, "the database broke off")))?;
    held.release().map_err(unusable)?;
    Ok(db)
}

/// How much of the file the database must read before it is trusted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// What it takes to start.
    Header,
    /// Every page.
    Whole,
}

fn builder(path: &Path, check: Check) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES_MAX);
    builder.set_check_integrity_on_open(check == Check::Whole);
    let path = path.to_owned();
    builder.set_repair_callback(move |repair| {
        let percent = repair.progress() * 100.0;
        match check {
            Check::Whole => tracing::debug!(path = %path.display(), percent, "verifying the store"),
            Check::Header => tracing::warn!(path = %path.display(), percent, "repairing the store"),
        }
    });
    builder
}

fn backend(path: &Path, file: File) -> Result<FileBackend, OpenError> {
    FileBackend::new(file).map_err(|error| refused(path, error))
}

/// Where the database's file format keeps what is looked at here, all little-endian.
mod header {
    pub(super) const LENGTH: usize = 320;
    pub(super) const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
    pub(super) const FLAGS: usize = 9;
    pub(super) const RECOVERY_REQUIRED: u8 = 2;
    pub(super) const PAGE_SIZE: usize = 12;
    pub(super) const REGION_HEADER_PAGES: usize = 16;
    pub(super) const REGION_PAGES_MAX: usize = 20;
    pub(super) const FULL_REGIONS: usize = 24;
    pub(super) const LAST_REGION_PAGES: usize = 28;
    /// Of each of the two commit slots.
    pub(super) const VERSIONS: [usize; 2] = [64, 192];
    /// The newest version that the database reads.
    pub(super) const VERSION: u8 = 3;
}

/// Looks at the file's first bytes for what the database would not tell apart.
fn glance(path: &Path, file: &File, verify_max: u64) -> Result<Check, OpenError> {
    let unusable = |source| OpenError::Io { path: path.into(), source };
    let length = file.metadata().map_err(unusable)?.len();
    let mut head = [0; header::LENGTH];
    let known = usize::try_from(length).unwrap_or(usize::MAX).min(head.len());
    let known = head.get_mut(..known).unwrap_or_default();
    file.read_exact_at(known, 0).map_err(unusable)?;
    let magic = header::MAGIC.get(..known.len()).unwrap_or(header::MAGIC);
    if !known.starts_with(magic) {
        return Err(OpenError::NotAStore { path: path.into() });
    }
    if known.len() < header::LENGTH {
        return Err(damaged(path, "the file ends within its header"));
    }
    let [first, second] = header::VERSIONS.map(|at| byte_at(&head, at));
    if first == second && first > header::VERSION {
        let (found, known) = (u64::from(first), u64::from(header::VERSION));
        return Err(OpenError::NewerFormat { path: path.into(), found, known });
    }
    // After a crash the database takes the file's length as it finds it, since it may have been
    // growing. A file that is shorter than its header says may also have been cut off: then only
    // reading all of it can tell.
    let unclean = byte_at(&head, header::FLAGS) & header::RECOVERY_REQUIRED != 0;
    let short = length < length_by_header(&head);
    Ok(if length <= verify_max || (unclean && short) { Check::Whole } else { Check::Header })
}

fn length_by_header(head: &[u8; header::LENGTH]) -> u64 {
    let number = |at: usize| {
        let bytes = [0, 1, 2, 3].map(|i| byte_at(head, at + i));
        u64::from(u32::from_le_bytes(bytes))
    };
    let region_header = number(header::REGION_HEADER_PAGES);
    let full = number(header::FULL_REGIONS)
        .saturating_mul(region_header + number(header::REGION_PAGES_MAX));
    let last = match number(header::LAST_REGION_PAGES) {
        0 => 0,
        pages => region_header + pages,
    };
    // The first page is the header's own.
    number(header::PAGE_SIZE).saturating_mul(full.saturating_add(last).saturating_add(1))
}

fn byte_at(head: &[u8], at: usize) -> u8 {
    head.get(at).copied().unwrap_or_default()
}

/// Whether the tables are ours, of a format that we know, and there.
fn check_tables(path: &Path, db: &Database) -> Result<(), OpenError> {
    let broken = |error: redb::Error| damaged(path, error);
    let foreign = |error: TableError| {
        if let TableError::Storage(error) = error {
            damaged(path, error)
        } else {
            OpenError::NotAStore { path: path.into() }
        }
    };
    let moment = db.begin_read().map_err(|error| broken(error.into()))?;
    let meta = moment.open_table(META).map_err(foreign)?;
    let number = |name| match meta.get(name) {
        Ok(value) => Ok(value.map(|value| value.value())),
        Err(error) => Err(broken(error.into())),
    };
    match number(META_FORMAT)? {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => {
            return Err(OpenError::NewerFormat { path: path.into(), found, known: FORMAT });
        }
        Some(_) | None => return Err(OpenError::NotAStore { path: path.into() }),
    }
    let next_change = number(META_NEXT_CHANGE)?;
    macro_rules! opens {
        ($($table:ident)*) => {$(
            moment.open_table($table).map_err(|error| broken(error.into()))?;
        )*};
    }
    opens!(ACCOUNTS APPS KEYS KEY_DIGESTS ACCOUNT_APPS APP_KEYS PEPPER_KEYS);
    let changes = moment.open_table(CHANGES).map_err(|error| broken(error.into()))?;
    let last = changes.last().map_err(|error| broken(error.into()))?;
    let last = last.map(|(number, _)| number.value().to_vec());
    let expected = next_change.and_then(|next| next.checked_sub(1)).filter(|&last| last > 0);
    if next_change.is_none() || last != expected.map(|last| last.to_be_bytes().to_vec()) {
        return Err(damaged(path, "the log does not end where it should"));
    }
    Ok(())
}

/// Makes the tables that a file of an older version lacks.
fn add_tables(path: &Path, db: &Database) -> Result<(), OpenError> {
    let broken = |error: redb::Error| damaged(path, error);
    let moment = db.begin_read().map_err(|error| broken(error.into()))?;
    let mut is_complete = true;
    macro_rules! look_for {
        ($($table:ident)*) => {$(
            match moment.open_table($table) {
                Ok(_) => {}
                Err(TableError::TableDoesNotExist(_)) => is_complete = false,
                Err(error) => return Err(broken(error.into())),
            }
        )*};
    }
    look_for!(CHANGE_LINKS TOKENS TOKEN_HASHES ONCE ONCE_ENDS LAST_USED LAST_USES);
    look_for!(USAGE_MINUTES USAGE_HOURS USAGE_DAYS USAGE_SOURCES);
    if is_complete {
        return Ok(());
    }
    let transaction = write::begin(db).map_err(|error| damaged(path, error))?;
    open_newer(&transaction).map_err(|error| broken(error.into()))?;
    transaction.commit().map_err(|error| broken(error.into()))
}

/// The tables that files of format 1 had not from the first.
fn open_newer(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(CHANGE_LINKS)?;
    transaction.open_table(TOKENS)?;
    transaction.open_table(TOKEN_HASHES)?;
    transaction.open_table(ONCE)?;
    transaction.open_table(ONCE_ENDS)?;
    transaction.open_table(LAST_USED)?;
    transaction.open_table(LAST_USES)?;
    for usage in [USAGE_MINUTES, USAGE_HOURS, USAGE_DAYS] {
        transaction.open_table(usage)?;
    }
    transaction.open_table(USAGE_SOURCES)?;
    Ok(())
}

/// Makes a new store. It gets its name only when it is whole, so that a crash leaves no half one.
fn create(path: &Path) -> Result<(), OpenError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| OpenError::Folder { path: folder.into(), source })?;
    let unusable = |source| OpenError::Io { path: path.into(), source };
    let mut new_path = path.as_os_str().to_owned();
    new_path.push(".new");
    let new_path = PathBuf::from(new_path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&new_path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    // Locked, so nobody else is making it. Somebody may just have made it, though.
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    // What a crash in here may have left.
    file.set_len(0).map_err(unusable)?;
    let db = builder(path, Check::Header)
        .create_with_backend(backend(path, file)?)
        .map_err(|error| refused(path, error))?;
    make_tables(&db).map_err(|error| damaged(path, error))?;
    // Renamed while it is locked, or a second process could start to make it anew.
    std::fs::rename(&new_path, path).map_err(unusable)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unusable)?;
    db.close().map_err(|error| refused(path, error))
}

fn make_tables(db: &Database) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let transaction = write::begin(db)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_NEXT_CHANGE, 1)?;
    }
    for records in [ACCOUNTS, APPS, KEYS, CHANGES] {
        transaction.open_table(records)?;
    }
    transaction.open_table(KEY_DIGESTS)?;
    transaction.open_table(ACCOUNT_APPS)?;
    transaction.open_table(APP_KEYS)?;
    transaction.open_table(PEPPER_KEYS)?;
    open_newer(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn damaged(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OpenError {
    OpenError::Damaged { path: path.into(), source: source.into() }
}

/// What it means that the database did not open its file.
#[expect(clippy::wildcard_enum_match_arm, reason = "the database may add to its errors")]
fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { path }
        }
        // Older than the first file of ours.
        DatabaseError::UpgradeRequired(_) => OpenError::NotAStore { path },
        DatabaseError::Storage(StorageError::Io(source)) if !is_about_content(&source) => {
            OpenError::Io { path, source }
        }
        other => damaged(&path, other),
    }
}

fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests;
