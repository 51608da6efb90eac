//! The thread that writes: takes what waits to a sink, and never gives up on one. It looks for lines now
//! and then instead of being woken by each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use keygate_config::AccessLogSink;

use super::shelf::PIECE_BYTES;
use super::sink::{Sink, Written};
use super::{Orders, Shared};

/// How often the queue is looked at while requests come.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long none may come before it is looked at less often, and the next one wakes the thread.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked at then, in case that the wake was lost.
const LOOK_EVERY_IDLE: Duration = Duration::from_millis(100);
/// How long to wait for a reader before it is looked whether there are other orders.
const READER_PATIENCE: Duration = Duration::from_millis(50);
/// How long to wait after a failure.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long a sink may take for what is queued before another one takes its place.
const SETTLE_MAX: Duration = Duration::from_millis(200);

pub(super) struct Writer {
    shared: Arc<Shared>,
    orders: Orders,
    sink: Option<Sink>,
    /// Lines that are yet to be written.
    waiting: Vec<u8>,
    /// In which file the first of them was begun, if it was.
    torn_in: Option<(u64, u64)>,
    /// When to try again, and whether that was told of.
    trouble: Option<Instant>,
    /// When the last record came.
    busy_at: Instant,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The same: there may be more.
    GoOn,
    /// To wait for records.
    Rest,
    /// To wait for the sink.
    Stuck,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            orders: Orders::default(),
            sink: None,
            waiting: Vec::with_capacity(2 * PIECE_BYTES),
            torn_in: None,
            trouble: None,
            busy_at: Instant::now(),
        }
    }

    /// Writes until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            self.obey();
            let next = self.write_some();
            let is_over = |until: Instant| next == Next::Rest || until <= Instant::now();
            if self.orders.stop_by.is_some_and(is_over) {
                return;
            }
            match next {
                Next::GoOn => {}
                Next::Rest => self.rest(),
                Next::Stuck => thread::park_timeout(LOOK_EVERY),
            }
        }
    }

    /// Takes over what is asked for by now.
    fn obey(&mut self) {
        let Some(orders) = self.shared.orders_after(self.orders.number) else { return };
        let is_other = orders.sink != self.orders.sink;
        let is_again = orders.reopened != self.orders.reopened;
        if (is_other || is_again) && self.orders.sink != AccessLogSink::Off {
            // What is queued was meant for the sink that there was.
            let until = Instant::now() + SETTLE_MAX;
            while self.write_some() == Next::GoOn && Instant::now() < until {}
        }
        self.orders = orders;
        if is_other || is_again {
            self.trouble = None;
            if let Err(error) = self.open() {
                self.failed(&error);
            }
        }
    }

    fn write_some(&mut self) -> Next {
        let is_empty = self.fill();
        if self.waiting.is_empty() {
            return Next::Rest;
        }
        let now = Instant::now();
        let is_last_try = self.orders.stop_by.is_some();
        if self.trouble.is_some_and(|again| now < again) && !is_last_try {
            return Next::Stuck;
        }
        match self.write(now) {
            Ok(Written::All) if is_empty => Next::Rest,
            Ok(Written::All) => Next::GoOn,
            Ok(Written::Part) => Next::Stuck,
            Err(error) => {
                self.failed(&error);
                if is_last_try { Next::Rest } else { Next::Stuck }
            }
        }
    }

    /// Takes as many lines as are written at once. Says whether that was all.
    fn fill(&mut self) -> bool {
        let Some(running) = self.shared.running.get() else { return true };
        let before = self.waiting.len();
        let has_more = running.shelves.take(&mut self.waiting, PIECE_BYTES);
        if self.waiting.len() > before {
            self.busy_at = Instant::now();
        }
        if self.orders.sink == AccessLogSink::Off {
            self.forget();
        }
        !has_more
    }

    fn write(&mut self, now: Instant) -> io::Result<Written> {
        if self.sink.as_mut().is_none_or(|sink| sink.is_gone(now)) {
            self.open()?;
        }
        let Some(sink) = &mut self.sink else {
            self.forget();
            return Ok(Written::All);
        };
        let mut done = 0;
        let written = sink.write(&self.waiting, &mut done, READER_PATIENCE);
        let (whole, rest) = self.waiting.split_at(done);
        let lines = count_lines(whole);
        self.shared.metrics.written(lines);
        self.shared.done(lines);
        match whole.last() {
            Some(b'\n') => self.torn_in = None,
            Some(_) if !rest.is_empty() => self.torn_in = sink.identity(),
            Some(_) | None => {}
        }
        self.waiting.drain(..done);
        let written = written?;
        if self.trouble.take().is_some() {
            tracing::info!("the access log is written again");
        }
        Ok(written)
    }

    fn open(&mut self) -> io::Result<()> {
        let sink = Sink::open(&self.orders.sink)?;
        if self.torn_in.is_some() && self.torn_in != sink.as_ref().and_then(Sink::identity) {
            // The rest of a line, without its beginning.
            self.lose(self.rest_of_torn());
            self.torn_in = None;
        }
        self.sink = sink;
        Ok(())
    }

    /// How many bytes belong to a line that was begun.
    fn rest_of_torn(&self) -> usize {
        let end = self.waiting.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if self.torn_in.is_some() { end } else { 0 }
    }

    fn lose(&mut self, first: usize) {
        let lost = self.waiting.drain(..first.min(self.waiting.len()));
        let lines = count_lines(lost.as_slice());
        self.shared.metrics.failed(lines);
        self.shared.done(lines);
    }

    /// What waits is for nobody.
    fn forget(&mut self) {
        self.shared.done(count_lines(&self.waiting));
        self.waiting.clear();
    }

    /// What could not be written is lost, but for the rest of a line that was begun: it must not pile up,
    /// and what comes next is worth as much.
    fn failed(&mut self, error: &io::Error) {
        let torn = self.waiting.drain(..self.rest_of_torn()).collect::<Vec<u8>>();
        self.lose(self.waiting.len());
        self.waiting = torn;
        self.sink = None;
        if self.trouble.is_none() {
            let path = match &self.orders.sink {
                AccessLogSink::File(path) => Some(tracing::field::display(path.display())),
                AccessLogSink::Off | AccessLogSink::Stdout => None,
            };
            tracing::error!(path, %error, "the access log cannot be written for now: trying on");
        }
        self.trouble = Some(Instant::now() + TRY_EVERY);
    }

    fn rest(&self) {
        let Some(running) = self.shared.running.get() else { return };
        if self.orders.sink == AccessLogSink::Off {
            // Until there are other orders. A request that began before these may still end.
            running.is_idle.store(true, Relaxed);
            return thread::park();
        }
        if self.busy_at.elapsed() < IDLE_AFTER {
            return thread::park_timeout(LOOK_EVERY);
        }
        running.is_idle.store(true, Relaxed);
        if running.shelves.is_empty() {
            thread::park_timeout(LOOK_EVERY_IDLE);
        }
        running.is_idle.store(false, Relaxed);
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Metrics;
    use crate::access_log::AccessLog;

    /// A writer whose last write was broken off in the middle of the second line.
    fn torn(path: &std::path::Path) -> Writer {
        let log = AccessLog::new(16, Metrics::new("1").access_log());
        let mut writer = Writer::new(log.0.unwrap());
        writer.orders.sink = AccessLogSink::File(path.into());
        writer.open().unwrap();
        fs::write(path, "one\ntw").unwrap();
        writer.waiting.extend(b"o\nthree\n");
        writer.torn_in = writer.sink.as_ref().unwrap().identity();
        writer.failed(&io::ErrorKind::StorageFull.into());
        assert_eq!(writer.waiting, b"o\n", "what has no beginning yet is lost");
        writer.waiting.extend(b"four\n");
        writer
    }

    #[test]
    fn a_line_that_was_begun_is_written_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = torn(&path);
        assert_eq!(writer.write(Instant::now()).unwrap(), Written::All);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nfour\n");
    }

    #[test]
    fn the_end_of_a_line_does_not_get_into_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = torn(&path);
        fs::rename(&path, folder.path().join("moved")).unwrap();
        assert_eq!(writer.write(Instant::now()).unwrap(), Written::All);
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }
}
