//! The access log: a line for each request, written beside the requests. A sink that is slow, fails or
//! hangs costs lines, which are counted, and never a request.
//!
//! Knows nothing of HTTP servers: it is told plain data of requests that have ended.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use keygate_config::{AccessLogSettings, AccessLogSink};

mod line;
mod metrics;
mod query;
mod record;
mod shelf;
mod sink;
mod writer;

pub use metrics::AccessLogMetrics;
pub use record::{
    CutShort, Decision, Head, Holder, Name, Protocol, Record, Texts, Times, shown_address,
};

use shelf::{Added, Shelves};
use writer::Writer;

/// How long the end of the process waits for lines that are still to be written.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What a gateway writes of its requests. Cheap to clone; all clones are the same. The default one writes
/// nothing.
#[derive(Clone, Default)]
pub struct AccessLog(Option<Arc<Shared>>);

/// What requests and the thread that writes both know.
struct Shared {
    queue_max: usize,
    /// From when there was something to write on.
    running: OnceLock<Running>,
    orders: Mutex<Orders>,
    has_ended: Mutex<bool>,
    ended: Condvar,
    metrics: AccessLogMetrics,
}

struct Running {
    shelves: Shelves,
    thread: Thread,
    /// Whether the thread has to be woken.
    is_idle: AtomicBool,
}

/// What the thread goes by.
#[derive(Clone, Default)]
struct Orders {
    /// Counts changes.
    number: u64,
    sink: AccessLogSink,
    /// How often the sink was to be opened again.
    reopened: u64,
    stop_by: Option<Instant>,
}

impl AccessLog {
    /// One that writes nothing yet: [`change`](Self::change) says where to.
    #[must_use]
    pub fn new(queue_max: usize, metrics: AccessLogMetrics) -> Self {
        Self(Some(Arc::new(Shared {
            queue_max,
            running: OnceLock::new(),
            orders: Mutex::default(),
            has_ended: Mutex::default(),
            ended: Condvar::new(),
            metrics,
        })))
    }

    /// Makes a request's line and leaves it to be written. Waits for no sink: when too many lines wait,
    /// this one is dropped.
    pub fn write(&self, record: &Record<'_>) {
        let Some(shared) = &self.0 else { return };
        let Some(running) = shared.running.get() else { return };
        let is_worth_a_piece = match running.shelves.add(record) {
            Added::Nothing => return shared.metrics.dropped(),
            Added::Line => false,
            Added::LastOfPiece => true,
        };
        let is_idle = running.is_idle.load(Relaxed) && running.is_idle.swap(false, Relaxed);
        if is_idle || is_worth_a_piece {
            running.thread.unpark();
        }
    }

    /// From here on lines go where these settings say. `key_params` are the query parameters that routes
    /// take keys from.
    pub fn change(&self, settings: &AccessLogSettings, key_params: Vec<Box<str>>) {
        let Some(shared) = &self.0 else { return };
        let needs_thread = settings.sink != AccessLogSink::Off;
        let hides = |shared: &Shared| {
            // Before a request can go by the settings that name them.
            if let Some(running) = shared.running.get() {
                running.shelves.hide(&key_params);
            }
        };
        hides(shared);
        shared.order(|orders| orders.sink = settings.sink.clone());
        if needs_thread {
            Shared::begin(shared);
            hides(shared);
        }
    }

    /// Opens the file again, for whoever has moved it away.
    pub fn reopen(&self) {
        if let Some(shared) = &self.0 {
            shared.order(|orders| orders.reopened += 1);
        }
    }

    /// Writes what is queued, within [`STOP_MAX`], and nothing after that.
    pub fn stop(&self) {
        let Some(shared) = &self.0 else { return };
        if shared.running.get().is_none() {
            return;
        }
        shared.order(|orders| orders.stop_by = Some(Instant::now() + STOP_MAX));
        let has_ended = lock(&shared.has_ended);
        let waited = shared.ended.wait_timeout_while(has_ended, STOP_MAX, |ended| !*ended);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!("the access log was not written to its end");
        }
    }
}

impl Shared {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = lock(&self.orders);
        change(&mut orders);
        orders.number += 1;
        drop(orders);
        if let Some(running) = self.running.get() {
            running.thread.unpark();
        }
    }

    /// So many lines are written or lost.
    fn done(&self, lines: u64) {
        if let Some(running) = self.running.get() {
            running.shelves.done(lines);
        }
    }

    /// The orders, if they have changed since those of this number.
    fn orders_after(&self, number: u64) -> Option<Orders> {
        let orders = lock(&self.orders);
        (orders.number != number).then(|| orders.clone())
    }

    /// Starts the thread, unless it runs.
    fn begin(shared: &Arc<Self>) {
        // Whoever else begins waits, and finds it running.
        let _one_at_a_time = lock(&shared.orders);
        if shared.running.get().is_some() {
            return;
        }
        let ours = Arc::clone(shared);
        let write = move || {
            // Until it can see the queue.
            thread::park();
            Writer::new(Arc::clone(&ours)).run();
            *lock(&ours.has_ended) = true;
            ours.ended.notify_all();
        };
        match thread::Builder::new().name("access-log".into()).spawn(write) {
            Ok(handle) => {
                let thread = handle.thread().clone();
                let shelves = Shelves::new(shared.queue_max.max(1));
                let running = Running { shelves, thread, is_idle: AtomicBool::new(false) };
                shared.running.get_or_init(|| running).thread.unpark();
            }
            Err(error) => {
                tracing::error!(%error, "there is no access log: no thread can be started")
            }
        }
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
