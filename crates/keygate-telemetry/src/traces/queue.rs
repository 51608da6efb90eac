//! Where spans wait to be sent: bounded, and nobody who adds to it waits for whoever sends.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::TraceMetrics;
use super::span::Span;

/// As many spans are sent at once, or a few more: those of one request stay together.
const BATCH_SPANS: usize = 512;
/// How long spans wait for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_millis(500);

pub(super) struct Queue {
    state: Mutex<State>,
    /// There is enough for a batch, or the end has come.
    changed: Condvar,
    spans_max: usize,
    metrics: TraceMetrics,
}

#[derive(Default)]
struct State {
    /// Each is what a request left.
    waiting: VecDeque<Vec<Span>>,
    /// How many spans these are.
    spans: usize,
    /// How many are being sent.
    under_way: usize,
    /// When all has to be over, once that is known.
    stop_by: Option<Instant>,
    /// Whether nobody sends any more.
    is_over: bool,
}

impl State {
    fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }
}

impl Queue {
    pub(super) fn new(spans_max: usize, metrics: TraceMetrics) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), spans_max, metrics }
    }

    /// Adds the spans of one request if there is room for all.
    pub(super) fn add(&self, spans: Vec<Span>) {
        let count = spans.len();
        let mut state = self.lock();
        if state.is_stopping() || state.spans + count > self.spans_max {
            drop(state);
            return self.metrics.dropped(count);
        }
        let was_short = state.spans < BATCH_SPANS;
        let was_empty = state.spans == 0;
        state.spans += count;
        state.waiting.push_back(spans);
        let is_short = state.spans < BATCH_SPANS;
        drop(state);
        // Between these nothing changes for whoever waits.
        if was_empty || (was_short && !is_short) {
            self.changed.notify_all();
        }
    }

    /// The next spans to send, once there are some. Nothing more after the end. What was taken before is
    /// done with.
    pub(super) fn next(&self) -> Option<Vec<Span>> {
        let mut state = self.lock();
        state.under_way = 0;
        let is_idle = |state: &mut State| state.spans == 0 && !state.is_stopping();
        let state = self.changed.wait_while(state, is_idle);
        let is_short = |state: &mut State| state.spans < BATCH_SPANS && !state.is_stopping();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let state = self.changed.wait_timeout_while(state, BATCH_DELAY, is_short);
        let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
        let is_late = state.stop_by.is_some_and(|by| by <= Instant::now());
        if state.spans == 0 || is_late {
            state.is_over = true;
            drop(state);
            self.changed.notify_all();
            return None;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_SPANS
            && let Some(spans) = state.waiting.pop_front()
        {
            batch.extend(spans);
        }
        state.spans -= batch.len();
        state.under_way = batch.len();
        Some(batch)
    }

    /// Waits so long. Whether there is still time for another try.
    pub(super) fn pause(&self, span: Duration) -> bool {
        let is_going_on = |state: &mut State| !state.is_stopping();
        let waited = self.changed.wait_timeout_while(self.lock(), span, is_going_on);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping()
    }

    /// How long something may take that takes this long otherwise.
    pub(super) fn bound(&self, usual: Duration) -> Duration {
        let stop_by = self.lock().stop_by;
        stop_by.map_or(usual, |by| by.saturating_duration_since(Instant::now()).min(usual))
    }

    /// Takes nothing more, and waits until all is sent or it is too late. Returns how many spans are left.
    pub(super) fn stop(&self, by: Instant) -> usize {
        let mut state = self.lock();
        state.stop_by = Some(by);
        self.changed.notify_all();
        let most = by.saturating_duration_since(Instant::now());
        let state = self.changed.wait_timeout_while(state, most, |state| !state.is_over);
        let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
        let waiting = std::mem::take(&mut state.spans);
        state.waiting.clear();
        let left = waiting + state.under_way;
        drop(state);
        self.metrics.dropped(waiting);
        left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
