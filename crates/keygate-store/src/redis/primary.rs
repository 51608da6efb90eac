//! The connections to the primary as they are now, and the breaker before them: a call either runs
//! within its time or fails at once. Knows neither how the primary is found nor what is stored.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::Notify;

use crate::keys::StoreError;

/// So many failures in a row open the breaker.
const FAILURES_MAX: u32 = 5;

/// The primary, as far as it can be reached.
pub(super) struct Primary {
    connections: RwLock<Option<Arc<Connections>>>,
    times: Times,
    /// Calls fail at once. Whoever follows the primary closes it again.
    is_open: AtomicBool,
    failures: AtomicU32,
    /// Told when a call shows that this is no primary any more.
    pub(super) lost: Notify,
}

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) find: Duration,
    pub(super) write: Duration,
    pub(super) wait_replicas: u32,
    pub(super) wait: Duration,
}

/// All that is connected to one primary. Each connection carries many calls at a time.
pub(super) struct Connections {
    pub(super) finds: Box<[MultiplexedConnection]>,
    /// For lists, which may be long, and for what must not wait behind look-ups.
    pub(super) lists: MultiplexedConnection,
    /// Writes have one of their own: while it waits for replicas, everything behind it does.
    pub(super) writes: MultiplexedConnection,
    pub(super) next: AtomicUsize,
}

impl Primary {
    pub(super) fn new(times: Times) -> Self {
        Self {
            connections: RwLock::new(None),
            times,
            is_open: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            lost: Notify::new(),
        }
    }

    /// Runs one look-up.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: at once when the store is known to be away, else within the
    /// time for look-ups.
    pub(super) async fn find<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let connections = self.connections()?;
        let turn = connections.next.fetch_add(1, Relaxed) % connections.finds.len().max(1);
        let mut connection = connections.finds.get(turn).ok_or_else(away)?.clone();
        self.watch(self.times.find, call(&mut connection)).await
    }

    /// Runs a read for an operator.
    ///
    /// # Errors
    /// As [`find`](Self::find), within the time for writes.
    pub(super) async fn read<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connections()?.lists.clone();
        self.watch(self.times.write, call(&mut connection)).await
    }

    /// Runs a write, and waits for replicas if it wrote and they are to have it.
    ///
    /// # Errors
    /// As [`read`](Self::read): the write may have happened. [`StoreError::NotDurable`]: it has.
    pub(super) async fn write<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<Written<T>>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connections()?.writes.clone();
        let written = self.watch(self.times.write, call(&mut connection)).await?;
        let wanted = self.times.wait_replicas;
        let Written::Changed(answer) = written else { return Ok(written.into_inner()) };
        if wanted > 0 {
            let wait = self.times.wait;
            let mut command = redis::cmd("WAIT");
            command.arg(wanted).arg(wait.as_millis().max(1).to_string());
            let have = command.query_async::<u64>(&mut connection);
            // Others may be waiting before us on the same connection.
            let replicas = self.watch(wait + self.times.write, have).await.unwrap_or_default();
            if replicas < u64::from(wanted) {
                return Err(StoreError::NotDurable { replicas, wanted });
            }
        }
        Ok(answer)
    }

    /// From now on calls go to these.
    pub(super) fn connect(&self, connections: Connections) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::new(connections));
        self.close();
    }

    /// From now on calls fail at once.
    pub(super) fn disconnect(&self) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says that the primary answers in time: calls go through again.
    pub(super) fn close(&self) {
        self.failures.store(0, Relaxed);
        if self.is_open.swap(false, Relaxed) {
            tracing::info!("the store answers in time again");
        }
    }

    /// Whether a write waits for replicas.
    pub(super) fn waits_for_replicas(&self) -> bool {
        self.times.wait_replicas > 0
    }

    /// How long a list may take.
    pub(super) fn list_timeout(&self) -> Duration {
        self.times.write
    }

    /// How long a look-up may take.
    pub(super) fn find_timeout(&self) -> Duration {
        self.times.find
    }

    fn connections(&self) -> Result<Arc<Connections>, StoreError> {
        if self.is_open.load(Relaxed) {
            return Err(away());
        }
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        connections.clone().ok_or_else(away)
    }

    async fn watch<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => {
                // Read first: the line is shared, and nearly always there is nothing to reset.
                if self.failures.load(Relaxed) > 0 {
                    self.failures.store(0, Relaxed);
                }
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.failed(&error);
                Err(unavailable(error))
            }
            Err(_) => {
                self.count_failure();
                Err(unavailable(TimedOut(limit)))
            }
        }
    }

    fn failed(&self, error: &RedisError) {
        if is_of_this_call(error) {
            return;
        }
        self.count_failure();
        if is_no_primary(error) {
            self.is_open.store(true, Relaxed);
            self.lost.notify_one();
        }
    }

    fn count_failure(&self) {
        if self.failures.fetch_add(1, Relaxed) + 1 >= FAILURES_MAX
            && !self.is_open.swap(true, Relaxed)
        {
            tracing::warn!("the store fails or does not answer in time: not asking it for now");
        }
    }
}

/// What a write came to.
pub(super) enum Written<T> {
    /// Something was written.
    Changed(T),
    /// Nothing was: there is nothing for replicas to have.
    Nothing(T),
}

impl<T> Written<T> {
    fn into_inner(self) -> T {
        match self {
            Self::Changed(answer) | Self::Nothing(answer) => answer,
        }
    }
}

/// Whether an error says something about the call and nothing about the server.
fn is_of_this_call(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType)
}

/// Whether an error shows that the connection is gone, or that the server is no primary of ours.
fn is_no_primary(error: &RedisError) -> bool {
    if error.is_connection_dropped() || error.is_io_error() {
        return true;
    }
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
        )
    ) || is_read_only_in_script(error)
}

/// Redis 6 reports what failed within a script as an error of the script.
fn is_read_only_in_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("READONLY"))
}

fn away() -> StoreError {
    unavailable(Away)
}

pub(super) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

#[derive(Debug, thiserror::Error)]
#[error("there is no connection to the store")]
struct Away;

#[derive(Debug, thiserror::Error)]
#[error("the store did not answer within {0:?}")]
pub(super) struct TimedOut(pub(super) Duration);
