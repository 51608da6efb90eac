//! A file whose changes are held back until it is known to be ours and sound. The database may
//! write while it opens; a file that is then refused must not have been touched.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};

/// The database's way to its file. Clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct HeldFile {
    file: Arc<dyn StorageBackend>,
    state: Arc<RwLock<State>>,
}

#[derive(Debug)]
enum State {
    /// What would have been done to the file, in order.
    Held(Vec<Change>),
    Released,
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Resize(u64),
    Sync,
}

impl HeldFile {
    pub(super) fn new(file: impl StorageBackend) -> Self {
        Self { file: Arc::new(file), state: Arc::new(RwLock::new(State::Held(Vec::new()))) }
    }

    /// Lets through what was held, in the order and with the syncs that the database asked for, so
    /// that a crash in between is one that it can recover from. From here on nothing is held.
    ///
    /// # Errors
    /// What the file said. The rest stays held then.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut state = self.write_state();
        if let State::Held(changes) = &*state {
            for change in changes {
                match change {
                    Change::Write { offset, data } => self.file.write(*offset, data)?,
                    Change::Resize(length) => self.file.set_len(*length)?,
                    Change::Sync => self.file.sync_data()?,
                }
            }
        }
        *state = State::Released;
        Ok(())
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a change if changes are held, and says whether it did.
    fn hold(&self, change: impl FnOnce() -> Change) -> bool {
        if matches!(*self.read_state(), State::Released) {
            return false;
        }
        match &mut *self.write_state() {
            State::Held(changes) => {
                changes.push(change());
                true
            }
            State::Released => false,
        }
    }

    /// Reads the file as it would be with the held changes.
    fn read_held(&self, changes: &[Change], offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.length_held(changes)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let on_disk = self.file.len()?.saturating_sub(offset);
        let on_disk = usize::try_from(on_disk).unwrap_or(usize::MAX).min(out.len());
        if let Some(start) = out.get_mut(..on_disk) {
            self.file.read(offset, start)?;
        }
        for change in changes {
            match change {
                Change::Write { offset: at, data } => overlay(offset, out, *at, data),
                // What was cut off is gone, even if the file has grown again since.
                Change::Resize(length) => {
                    let kept = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
                    if let Some(cut) = out.get_mut(kept..) {
                        cut.fill(0);
                    }
                }
                Change::Sync => {}
            }
        }
        Ok(())
    }

    fn length_held(&self, changes: &[Change]) -> io::Result<u64> {
        let resized = changes.iter().rev().find_map(|change| match change {
            Change::Resize(length) => Some(*length),
            Change::Write { .. } | Change::Sync => None,
        });
        resized.map_or_else(|| self.file.len(), Ok)
    }
}

/// Copies the part of `data`, which lies at `at`, that falls into `out`, which lies at `offset`.
fn overlay(offset: u64, out: &mut [u8], at: u64, data: &[u8]) {
    let skip = |distance: u64| usize::try_from(distance).unwrap_or(usize::MAX);
    let target = out.get_mut(skip(at.saturating_sub(offset))..).unwrap_or_default();
    let source = data.get(skip(offset.saturating_sub(at))..).unwrap_or_default();
    target.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
}

impl StorageBackend for HeldFile {
    fn len(&self) -> io::Result<u64> {
        match &*self.read_state() {
            State::Held(changes) => self.length_held(changes),
            State::Released => self.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.read_state() {
            State::Held(changes) => self.read_held(changes, offset, out),
            State::Released => self.file.read(offset, out),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if self.hold(|| Change::Resize(length)) { Ok(()) } else { self.file.set_len(length) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.hold(|| Change::Sync) { Ok(()) } else { self.file.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let held = self.hold(|| Change::Write { offset, data: data.to_vec() });
        if held { Ok(()) } else { self.file.write(offset, data) }
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
