//! Where spans wait to be sent: bounded, and nobody who adds to it waits for whoever sends. Under its lock
//! nothing but pointers is moved, and nothing is freed.

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
        // Of requests, none of which leaves nothing.
        let mut taken = Vec::with_capacity(BATCH_SPANS);
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
        let mut count = 0;
        while count < BATCH_SPANS
            && let Some(spans) = state.waiting.pop_front()
        {
            count += spans.len();
            taken.push(spans);
        }
        state.spans -= count;
        state.under_way = count;
        drop(state);
        Some(taken.into_iter().flatten().collect())
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
        let count = std::mem::take(&mut state.spans);
        let waiting = std::mem::take(&mut state.waiting);
        let left = count + state.under_way;
        drop(state);
        drop(waiting);
        self.metrics.dropped(count);
        left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;
    use std::thread;

    use keygate_core::{SpanId, TraceId};
    use prometheus::Registry;

    use super::super::span::SpanKind;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn queue(spans_max: usize) -> Queue {
        Queue::new(spans_max, TraceMetrics::new(&Registry::new()))
    }

    fn spans(trace: u128, count: u64) -> Vec<Span> {
        let span = |id| Span {
            trace: TraceId(trace),
            id: SpanId(id),
            parent: None,
            is_parent_remote: false,
            kind: SpanKind::Internal,
            name: Cow::Borrowed("a"),
            begin_ns: 0,
            end_ns: 1,
            attributes: Vec::new(),
            events: Vec::new(),
            is_failure: false,
        };
        (1..=count).map(span).collect()
    }

    #[test]
    fn a_request_has_all_of_its_spans_sent_or_none() {
        let queue = queue(10);
        queue.add(spans(1, 4));
        queue.add(spans(2, 4));
        queue.add(spans(3, 4));
        queue.add(spans(4, 2));
        assert_eq!(queue.metrics.dropped.get(), 4);
        let batch = queue.next().unwrap();
        let traces: Vec<_> = batch.chunk_by(|a, b| a.trace == b.trace).collect();
        let counts: Vec<_> = traces.iter().map(|spans| (spans[0].trace.0, spans.len())).collect();
        assert_eq!(counts, [(1, 4), (2, 4), (4, 2)]);
    }

    #[test]
    fn a_batch_is_as_large_as_a_batch_may_be() {
        let queue = queue(10_000);
        for trace in 0..1_000 {
            queue.add(spans(trace, 3));
        }
        let sizes: Vec<_> = (0..5).map(|_| queue.next().unwrap().len()).collect();
        assert_eq!(sizes, [513; 5]);
        assert_eq!(queue.next().unwrap().len(), 3_000 - 5 * 513);
    }

    #[test]
    fn what_waits_at_the_end_is_handed_out_and_nothing_is_taken_after_it() {
        let queue = Arc::new(queue(10));
        queue.add(spans(1, 3));
        let taking = Arc::clone(&queue);
        let taker = thread::spawn(move || {
            let mut taken = 0;
            while let Some(batch) = taking.next() {
                taken += batch.len();
            }
            taken
        });
        assert_eq!(queue.stop(Instant::now() + LONG), 0);
        assert_eq!(taker.join().unwrap(), 3);
        queue.add(spans(2, 3));
        assert_eq!(queue.metrics.dropped.get(), 3);
        assert!(!queue.pause(LONG) && queue.next().is_none());
    }

    #[test]
    fn an_end_that_comes_too_late_counts_what_is_left() {
        let queue = queue(10);
        queue.add(spans(1, 3));
        assert_eq!(queue.next().unwrap().len(), 3);
        queue.add(spans(2, 4));
        // Nobody takes the rest, and three are under way.
        assert_eq!(queue.stop(Instant::now()), 7);
        assert_eq!(queue.metrics.dropped.get(), 4);
        assert!(queue.next().is_none());
        assert_eq!(queue.bound(LONG), Duration::ZERO);
    }
}
