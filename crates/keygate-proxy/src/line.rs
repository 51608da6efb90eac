//! What a request comes in on: an HTTP/1 connection, or an HTTP/2 stream. While a request runs, it
//! can be cut: because its key is no longer good, because its body does not come on, or because its
//! client has left where Pingora does not look. Knows no store and no clock.
//!
//! A request pays two uncontended locks and a few reference counts for this. A line is allocated
//! once, and an HTTP/1 connection's serves all of its requests.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use keygate_core::{Denial, KeyDigest, KeyRecord};
use keygate_telemetry::{ConnectionMetrics, EndedRequests};
use quanta::Instant;

use crate::client::Client;

/// Parts of the list of lines that are locked apart from each other.
const SHARDS: usize = 64;
/// The deadline of a request from which nothing more is expected.
pub(crate) const NEVER: u64 = u64::MAX;

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
    connections: ConnectionMetrics,
}

impl Lines {
    pub(crate) fn new(ended: EndedRequests, connections: ConnectionMetrics) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(List { shards, ended, connections }))
    }

    /// A line for whoever serves a client's connection, or a stream of it. It is closed by dropping it.
    pub(crate) fn open(&self, client: Client) -> OpenLine {
        let line = Arc::new(Line::new(client));
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

    /// Cuts off whatever runs: nothing more is waited for.
    pub(crate) fn cut_all(&self) {
        for line in self.parts().flatten() {
            let mut state = line.state();
            line.cut(&mut state, Cut::Stopped);
            wake(state);
        }
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
            let line = Arc::clone(&self.line);
            let mut request = pin!(LINE.scope(Arc::clone(&line), request));
            let mut leaving = pin!(None);
            let poll = poll_fn(|cx| {
                self.watch(cx.waker());
                // After the waker is in its place: a cut is seen here, or wakes it.
                if line.is_cut.load(Ordering::Acquire) {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(ran) = request.as_mut().poll(cx) {
                    return Poll::Ready(Some(ran));
                }
                if !line.is_uploaded.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                if leaving.is_none() {
                    leaving.set(line.client.leaving());
                }
                let Some(leaving) = leaving.as_mut().as_pin_mut() else { return Poll::Pending };
                leaving.poll(cx).map(|()| {
                    line.cut(&mut line.state(), Cut::ClientLeft);
                    None
                })
            });
            poll.await
        };
        // A cut that came when the request was over must not hit the next one.
        let cut = self.line.release();
        if ran.is_none() {
            match cut {
                Some(Cut::Key(_)) => self.lines.0.ended.count(),
                Some(Cut::SlowBody) => self.lines.0.connections.slow_body(),
                Some(Cut::ClientLeft | Cut::TotalTimeout | Cut::Stopped) | None => {}
            }
        }
        ran
    }

    /// Whether the client took a request back that ran here.
    pub(crate) fn is_taken_back(&self) -> bool {
        self.line.is_taken_back.load(Ordering::Relaxed)
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
pub(crate) struct Line {
    client: Client,
    shard: usize,
    /// Where in its shard it is. Changed under the shard's lock only.
    place: AtomicUsize,
    state: Mutex<State>,
    /// Whether `state` holds a cut.
    is_cut: AtomicBool,
    /// Whether the whole body has been read, so that nothing but its leaving is expected of the client.
    is_uploaded: AtomicBool,
    /// Whether the client did not wait for the answer's end.
    is_taken_back: AtomicBool,
    /// When the next piece of the body is overdue, in milliseconds of `now_ms`.
    body_due_ms: AtomicU64,
    /// When the whole answer is.
    answer_due_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Why what runs has to end.
    cut: Option<Cut>,
    waker: Option<Waker>,
}

/// A request that runs on behalf of a key.
pub(crate) struct Running {
    pub digest: KeyDigest,
    /// What was last known of the key.
    pub key: Arc<KeyRecord>,
}

/// Why a request is dropped midway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its key is no longer good.
    Key(Denial),
    /// The next piece of its body did not come in time.
    SlowBody,
    /// All in all it takes too long.
    TotalTimeout,
    ClientLeft,
    /// The gateway ends.
    Stopped,
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

/// The whole body of the request at hand has been read: from here on its client is watched.
pub(crate) fn uploaded() {
    LINE.try_with(|line| line.is_uploaded.store(true, Ordering::Relaxed)).unwrap_or_default();
}

/// The client of the request at hand did not wait for the answer's end. A connection that carries one
/// request at a time is over with it, so this is for streams.
pub(crate) fn taken_back() {
    LINE.try_with(|line| line.is_taken_back.store(true, Ordering::Relaxed)).unwrap_or_default();
}

/// The next piece of the body of the request at hand has to come by this time of [`now_ms`].
pub(crate) fn body_due(at_ms: u64) {
    LINE.try_with(|line| line.body_due_ms.store(at_ms, Ordering::Relaxed)).unwrap_or_default();
}

/// The request at hand has to be over by this time of [`now_ms`]; nothing means whenever it is.
pub(crate) fn answer_due(at_ms: Option<u64>) {
    let due = at_ms.unwrap_or(NEVER);
    LINE.try_with(|line| line.answer_due_ms.store(due, Ordering::Relaxed)).unwrap_or_default();
}

/// Why the request at hand is cut off, if it is.
pub(crate) fn cut_by() -> Option<Cut> {
    LINE.try_with(|line| line.state().cut.clone()).ok().flatten()
}

/// Whom the request at hand comes from. One that has no line comes from nobody in particular.
pub(crate) fn with_client<T>(read: impl FnOnce(&Client) -> T) -> Option<T> {
    LINE.try_with(|line| read(&line.client)).ok()
}

/// Milliseconds since some moment, the same for all lines.
pub(crate) fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(NEVER)
}

impl Line {
    fn new(client: Client) -> Self {
        Self {
            client,
            shard: fastrand::usize(..SHARDS),
            place: AtomicUsize::default(),
            state: Mutex::default(),
            is_cut: AtomicBool::default(),
            is_uploaded: AtomicBool::default(),
            is_taken_back: AtomicBool::default(),
            body_due_ms: AtomicU64::new(NEVER),
            answer_due_ms: AtomicU64::new(NEVER),
        }
    }

    /// Looks at what runs on behalf of a key, if anything does. A denial cuts it off.
    pub(crate) fn review(&self, review: impl FnOnce(&mut Running) -> Option<Denial>) {
        let mut state = self.state();
        let Some(denial) = state.running.as_mut().and_then(review) else { return };
        self.cut(&mut state, Cut::Key(denial));
        wake(state);
    }

    /// Cuts a request off whose body does not come on, or whose answer does not end.
    pub(crate) fn end_if_overdue(&self, now_ms: u64) {
        let is_over = |due: &AtomicU64| now_ms > due.load(Ordering::Relaxed);
        let overdue = || {
            let is_slow = is_over(&self.body_due_ms).then_some(Cut::SlowBody);
            is_slow.or_else(|| is_over(&self.answer_due_ms).then_some(Cut::TotalTimeout))
        };
        if overdue().is_some() {
            let mut state = self.state();
            // Another request may run by now, or none.
            if let Some(cut) = overdue() {
                self.cut(&mut state, cut);
                wake(state);
            }
        }
    }

    fn cut(&self, state: &mut State, cut: Cut) {
        state.cut = Some(cut);
        self.is_cut.store(true, Ordering::Release);
    }

    /// Nothing runs any more. Says why, if it was cut.
    fn release(&self) -> Option<Cut> {
        if self.is_uploaded.load(Ordering::Relaxed) {
            self.is_uploaded.store(false, Ordering::Relaxed);
        }
        if self.body_due_ms.load(Ordering::Relaxed) != NEVER {
            self.body_due_ms.store(NEVER, Ordering::Relaxed);
        }
        if self.answer_due_ms.load(Ordering::Relaxed) != NEVER {
            self.answer_due_ms.store(NEVER, Ordering::Relaxed);
        }
        let mut state = self.state();
        let running = state.running.take();
        let cut = state.cut.take();
        if cut.is_some() {
            self.is_cut.store(false, Ordering::Release);
        }
        drop(state);
        drop(running);
        cut
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Wakes whoever runs on the line, once nobody else needs its lock.
fn wake(state: MutexGuard<'_, State>) {
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
