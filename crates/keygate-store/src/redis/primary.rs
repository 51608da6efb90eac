//! The connections to the primary as they are now, and the breaker before them: a call either runs
//! within its time or fails at once. Knows neither how the primary is found nor what is stored.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::{Mutex, Notify};

use crate::keys::StoreError;

/// So many look-ups that fail in a row open the breaker.
const FAILURES_MAX: u32 = 5;

/// The primary, as far as it can be reached.
pub(super) struct Primary {
    connections: RwLock<Option<Arc<Connections>>>,
    times: Times,
}

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) find: Duration,
    pub(super) write: Duration,
    pub(super) wait_replicas: u32,
    pub(super) wait: Duration,
}

/// All that is connected to one primary, and what became of it: a call that ends late says nothing
/// of the connections that were made since. Each connection carries many calls at a time.
pub(super) struct Connections {
    finds: Box<[MultiplexedConnection]>,
    /// For lists, which may be long, and for what must not wait behind look-ups.
    lists: MultiplexedConnection,
    writes: MultiplexedConnection,
    replicas: Replicas,
    /// Counts look-ups, which take turns.
    next: AtomicUsize,
    /// The breaker: calls fail at once. Whoever follows the primary closes it again.
    is_open: AtomicBool,
    /// Look-ups that failed in a row.
    failures: AtomicU32,
    /// Told when a call shows that this is no primary any more.
    pub(super) lost: Notify,
}

impl Connections {
    pub(super) fn new(
        finds: Vec<MultiplexedConnection>,
        [lists, writes, waits]: [MultiplexedConnection; 3],
        fence: Vec<u8>,
    ) -> Self {
        Self {
            finds: finds.into(),
            lists,
            writes,
            replicas: Replicas {
                connection: waits,
                fence,
                begun: AtomicU64::new(0),
                last: Mutex::default(),
            },
            next: AtomicUsize::new(0),
            is_open: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            lost: Notify::new(),
        }
    }

    pub(super) fn lists(&self) -> MultiplexedConnection {
        self.lists.clone()
    }

    /// Every connection, for whoever asks whether it lives.
    pub(super) fn all(&self) -> Vec<MultiplexedConnection> {
        let others = [&self.lists, &self.writes, &self.replicas.connection];
        self.finds.iter().chain(others).cloned().collect()
    }

    /// Says that the primary answers in time: calls go through again.
    pub(super) fn close(&self) {
        self.failures.store(0, Relaxed);
        if self.is_open.swap(false, Relaxed) {
            tracing::info!("the store answers in time again");
        }
    }

    async fn watch<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if is_no_primary(&error) {
                    self.is_open.store(true, Relaxed);
                    self.lost.notify_one();
                }
                let is_answer = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
                let failed = if is_answer { Failed::Refused } else { Failed::Unanswered };
                Err(failed(unavailable(error)))
            }
            Err(_) => Err(Failed::Unanswered(unavailable(TimedOut(limit)))),
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

/// Why a call failed.
enum Failed {
    /// The server said that it will not.
    Refused(StoreError),
    Unanswered(StoreError),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) | Failed::Unanswered(error) => error,
        }
    }
}

/// Waits for replicas, for all who want to at a time: whatever is pipelined behind a `WAIT` waits
/// as well, so it has a connection of its own.
struct Replicas {
    connection: MultiplexedConnection,
    /// What is written before each wait, so that it covers all that was written before that.
    fence: Vec<u8>,
    /// Waits that have begun.
    begun: AtomicU64,
    /// The last wait that ended.
    last: Mutex<Wait>,
}

#[derive(Clone, Copy, Default)]
struct Wait {
    number: u64,
    replicas: u64,
}

impl Replicas {
    /// How many replicas have all that this server was sent before the call: `wanted`, or fewer
    /// once `limit` is over.
    async fn have_all(&self, wanted: u32, limit: Duration) -> u64 {
        let begun = self.begun.load(SeqCst);
        let mut last = self.last.lock().await;
        // One that began after the call speaks for it, too.
        if last.number <= begun {
            let number = self.begun.fetch_add(1, SeqCst) + 1;
            *last = Wait { number, replicas: self.wait(wanted, limit).await };
        }
        last.replicas
    }

    async fn wait(&self, wanted: u32, limit: Duration) -> u64 {
        let mut connection = self.connection.clone();
        let mut wait = redis::pipe();
        wait.cmd("SET").arg(&self.fence).arg(fastrand::u64(..)).ignore();
        wait.cmd("WAIT").arg(wanted).arg(limit.as_millis().max(1).to_string());
        // A server that hangs does not keep its own time.
        let answer = tokio::time::timeout(limit * 2, wait.query_async(&mut connection)).await;
        match answer {
            Ok(Ok((replicas,))) => replicas,
            Ok(Err(error)) => {
                tracing::warn!(%error, "replicas cannot be waited for");
                0
            }
            Err(_) => {
                tracing::warn!("the store does not say what its replicas have");
                0
            }
        }
    }
}

impl Primary {
    pub(super) fn new(times: Times) -> Self {
        Self { connections: RwLock::new(None), times }
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
        self.ask(call, |_| true).await
    }

    /// Runs a small write on a request's behalf, within the time for look-ups. A server that refuses
    /// it may still answer look-ups, so that alone opens no breaker.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(super) async fn lend<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        self.ask(call, |failed| matches!(failed, Failed::Unanswered(_))).await
    }

    async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
        counts: fn(&Failed) -> bool,
    ) -> Result<T, StoreError> {
        let to = self.connections()?;
        let turn = to.next.fetch_add(1, Relaxed) % to.finds.len().max(1);
        let mut connection = to.finds.get(turn).ok_or_else(away)?.clone();
        let found = to.watch(self.times.find, call(&mut connection)).await;
        match &found {
            // Read first: the line is shared, and nearly always there is nothing to reset.
            Ok(_) if to.failures.load(Relaxed) > 0 => to.failures.store(0, Relaxed),
            Err(failed) if counts(failed) => to.count_failure(),
            Ok(_) | Err(_) => {}
        }
        Ok(found?)
    }

    /// Runs a read for an operator.
    ///
    /// # Errors
    /// As [`find`](Self::find), within the time for writes.
    pub(super) async fn read<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let to = self.connections()?;
        Ok(to.watch(self.times.write, call(&mut to.lists.clone())).await?)
    }

    /// Runs a write, and waits for replicas if it wrote and they are to have it.
    ///
    /// # Errors
    /// As [`read`](Self::read): the write may have happened. [`StoreError::NotDurable`]: it has.
    pub(super) async fn write<T>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<Written<T>>,
    ) -> Result<T, StoreError> {
        let to = self.connections()?;
        match to.watch(self.times.write, call(&mut to.writes.clone())).await? {
            Written::Nothing(answer) => Ok(answer),
            Written::Changed(answer) => self.wait_on(&to).await.map(|()| answer),
        }
    }

    /// Waits until replicas have all that was written, if they are to have it.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] or [`StoreError::Unavailable`].
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        self.wait_on(&*self.connections()?).await
    }

    /// On the same server that was written to, whichever is the primary by now.
    async fn wait_on(&self, connections: &Connections) -> Result<(), StoreError> {
        let Times { wait_replicas: wanted, wait, .. } = self.times;
        if wanted == 0 {
            return Ok(());
        }
        let replicas = connections.replicas.have_all(wanted, wait).await;
        if replicas >= u64::from(wanted) {
            return Ok(());
        }
        Err(StoreError::NotDurable { replicas, wanted })
    }

    /// From now on calls go to these.
    pub(super) fn connect(&self, connections: Arc<Connections>) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = Some(connections);
    }

    /// From now on calls fail at once.
    pub(super) fn disconnect(&self) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a call would fail at once.
    pub(super) fn is_away(&self) -> bool {
        self.connections().is_err()
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
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        match &*connections {
            Some(connections) if !connections.is_open.load(Relaxed) => Ok(Arc::clone(connections)),
            Some(_) | None => Err(away()),
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
