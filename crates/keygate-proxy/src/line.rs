//! What a request comes in on: an HTTP/1 connection, or an HTTP/2 stream. While a request runs on
//! behalf of a key, its line knows the key and can be cut. Knows no store and no clock.
//!
//! A request pays two uncontended locks and a few reference counts for this. A line is allocated
//! once, and an HTTP/1 connection's serves all of its requests.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use keygate_core::{Denial, KeyDigest, KeyRecord};
use keygate_telemetry::EndedRequests;

/// Parts of the list of lines that are locked apart from each other.
const SHARDS: usize = 64;

tokio::task_local! {
    /// The line that the request at hand came in on.
    static LINE: Arc<Line>;
}

/// Every open line of a gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lines(Arc<List>);

struct List {
    shards: [Mutex<Vec<Arc<Line>>>; SHARDS],
    ended: EndedRequests,
}

impl Lines {
    pub(crate) fn new(ended: EndedRequests) -> Self {
        Self(Arc::new(List { shards: std::array::from_fn(|_| Mutex::default()), ended }))
    }

    /// A line for whoever serves a connection or a stream. It is closed by dropping it.
    pub(crate) fn open(&self) -> OpenLine {
        let line = Arc::new(Line { shard: fastrand::usize(..SHARDS), ..Line::default() });
        if let Some(shard) = self.0.shards.get(line.shard) {
            let mut shard = lock(shard);
            line.place.store(shard.len(), Ordering::Relaxed);
            shard.push(Arc::clone(&line));
        }
        OpenLine { line, lines: self.clone(), waker: None }
    }

    /// The lines that are open, part by part, so that nobody who opens or closes one waits for long.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Vec<Arc<Line>>> {
        self.0.shards.iter().map(|shard| lock(shard).clone())
    }

    fn close(&self, line: &Line) {
        let Some(shard) = self.0.shards.get(line.shard) else { return };
        let mut shard = lock(shard);
        let place = line.place.load(Ordering::Relaxed);
        drop(shard.swap_remove(place));
        if let Some(moved) = shard.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
    }
}

/// A line as its owner has it, who runs on it what its client asks for.
pub(crate) struct OpenLine {
    line: Arc<Line>,
    lines: Lines,
    /// The same as in the line's state, to be compared without a lock.
    waker: Option<Waker>,
}

impl OpenLine {
    /// Runs one request to its end. Nothing means that the line was cut: the request was dropped
    /// midway, and with it all that it held, its client's and its upstream's connection included.
    pub(crate) async fn run<F: Future>(&mut self, request: F) -> Option<F::Output> {
        let ran = {
            let mut request = pin!(LINE.scope(Arc::clone(&self.line), request));
            let poll = poll_fn(|cx| {
                self.watch(cx.waker());
                // After the waker is in its place: a cut is seen here, or wakes it.
                if self.line.is_cut.load(Ordering::Acquire) {
                    return Poll::Ready(None);
                }
                request.as_mut().poll(cx).map(Some)
            });
            poll.await
        };
        // A cut that came when the request was over must not hit the next one.
        self.line.release();
        if ran.is_none() {
            self.lines.0.ended.count();
        }
        ran
    }

    fn watch(&mut self, waker: &Waker) {
        // A task's waker hardly ever changes, so this is one comparison.
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            self.line.state().waker = Some(waker.clone());
        }
    }
}

impl Drop for OpenLine {
    fn drop(&mut self) {
        self.lines.close(&self.line);
    }
}

/// A line as others see it.
#[derive(Default)]
pub(crate) struct Line {
    shard: usize,
    /// Where in its shard it is. Changed under the shard's lock only.
    place: AtomicUsize,
    state: Mutex<State>,
    /// Whether `state` holds a denial.
    is_cut: AtomicBool,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Why what runs has to end.
    denial: Option<Denial>,
    waker: Option<Waker>,
}

/// A request that runs on behalf of a key.
pub(crate) struct Running {
    pub digest: KeyDigest,
    /// What was last known of the key.
    pub key: Arc<KeyRecord>,
}

/// From here to its end the request at hand runs on behalf of this key. One that has no line, as
/// in a rehearsal, stays as it is.
pub(crate) fn bind(digest: KeyDigest, key: &Arc<KeyRecord>) {
    let bind = |line: &Arc<Line>| {
        line.state().running = Some(Running { digest, key: Arc::clone(key) });
    };
    // The error says that there is no line.
    LINE.try_with(bind).unwrap_or_default();
}

/// Why the request at hand is cut off, if it is.
pub(crate) fn cut_by() -> Option<Denial> {
    LINE.try_with(|line| line.state().denial.clone()).ok().flatten()
}

impl Line {
    /// Looks at what runs on behalf of a key, if anything does. A denial cuts it off.
    pub(crate) fn review(&self, review: impl FnOnce(&mut Running) -> Option<Denial>) {
        let mut state = self.state();
        let Some(denial) = state.running.as_mut().and_then(review) else { return };
        state.denial = Some(denial);
        self.is_cut.store(true, Ordering::Release);
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nothing runs any more.
    fn release(&self) {
        let mut state = self.state();
        let running = state.running.take();
        if state.denial.take().is_some() {
            self.is_cut.store(false, Ordering::Release);
        }
        drop(state);
        drop(running);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
