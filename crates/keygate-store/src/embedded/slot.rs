//! Holds the open database, and opens it again when an error of the file has made it useless: it
//! refuses everything after one, also when the disk that was full has room again. Blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use redb::Database;

use super::open::OpenError;
use crate::keys::StoreError;

/// The least time between two attempts to open the file again. Each may read all of a small file.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

pub(super) struct Slot {
    state: RwLock<State>,
    opener: Opener,
    reopen_pause: Duration,
}

struct State {
    /// Absent after an attempt to open it again that failed, or when it was given away.
    open: Option<Open>,
    /// Whether the file is another process's by now.
    is_given_away: bool,
    tried_at: Option<Instant>,
}

struct Open {
    db: Database,
    /// Of no use any more. Nothing is asked of it from then on, reads included: the file may hold
    /// a change that it does not show.
    broken: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("the file of the store failed, and is soon opened again")]
struct Broken;

#[derive(Debug, thiserror::Error)]
#[error("the store was handed over to the process that takes over")]
struct GivenAway;

impl Slot {
    /// `opener` opens the file that `db` is in. It must not make one: an empty store in the place of
    /// one that is gone would refuse every key.
    pub(super) fn new(
        db: Database,
        opener: impl Fn() -> Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Self {
        let state = State { open: Some(Open::new(db)), is_given_away: false, tried_at: None };
        Self { state: RwLock::new(state), opener: Box::new(opener), reopen_pause: REOPEN_PAUSE }
    }

    /// Does `work` with the database, opened again before that if need be.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let state = self.read_state();
        if let Some(open) = state.usable() {
            return open.watch(work);
        }
        drop(state);
        self.reopen()?;
        match self.read_state().usable() {
            Some(open) => open.watch(work),
            None => Err(unavailable(Broken)),
        }
    }

    /// Closes the file for good, so that another process can open it. Waits for all work with it.
    pub(super) fn give_away(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.is_given_away = true;
        if state.open.take().is_some_and(|open| !open.close()) {
            tracing::warn!("the store did not close cleanly; whoever opens it next will check it");
        }
    }

    /// Opens the file again, unless somebody else has, or has just tried to.
    fn reopen(&self) -> Result<(), StoreError> {
        // Waits for all work with the old database. Its lock on the file must go before the new
        // one can have it.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.usable().is_some() {
            return Ok(());
        }
        if state.is_given_away {
            return Err(unavailable(GivenAway));
        }
        if state.tried_at.is_some_and(|at| at.elapsed() < self.reopen_pause) {
            return Err(unavailable(Broken));
        }
        state.tried_at = Some(Instant::now());
        if let Some(open) = state.open.take() {
            open.close();
        }
        match (self.opener)() {
            Ok(db) => {
                tracing::warn!("the file of the store failed; it was opened again");
                state.open = Some(Open::new(db));
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the file of the store failed, and cannot be opened again");
                Err(unavailable(error))
            }
        }
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn usable(&self) -> Option<&Open> {
        self.open.as_ref().filter(|open| !open.broken.load(Relaxed))
    }
}

impl Open {
    fn new(db: Database) -> Self {
        Self { db, broken: AtomicBool::new(false) }
    }

    fn watch<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = work(&self.db);
        if result.as_ref().is_err_and(is_lasting) {
            self.broken.store(true, Relaxed);
        }
        result
    }

    /// Whether it closed as it should. The database may panic over what it finds then.
    fn close(self) -> bool {
        matches!(catch_unwind(AssertUnwindSafe(|| self.db.close())), Ok(Ok(())))
    }
}

/// Closing writes down what makes the next start quick. A failure loses nothing: what was
/// acknowledged is on the disk.
impl Drop for Slot {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.open.take().is_some_and(|open| !open.close()) {
            tracing::warn!("the store did not close cleanly; the next start will check it");
        }
    }
}

/// Whether the database will never do anything again after this error.
fn is_lasting(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    source.downcast_ref().is_some_and(|error| {
        matches!(
            error,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::DatabaseClosed
                | redb::Error::LockPoisoned(_)
        )
    })
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests;
