//! The log: JSON lines on standard output, with every key and admin token masked.
//!
//! Lines are written by a thread of their own. A reader that stalls costs lines, which are counted,
//! and never a request.
//!
//! Other people's crates are kept to warnings. At `debug` and `trace` the HTTP stack prints
//! headers, and a Basic credential in base64 is one that no mask can see.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use keygate_config::LogLevel;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::mask::MaskingWriter;
pub use crate::mask::{mask, mask_encoded};

/// Lines that wait for a reader that is slow; those beyond are dropped.
const WAITING_LINES_MAX: usize = 8_192;
/// How long the end of the process waits for lines that are still to be written.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Starts the log, for this crate's users and for those that log through the `log` crate.
///
/// # Errors
/// [`LogError`]: a process has one log, and it needs its standard output.
pub fn init(level: LogLevel) -> Result<Log, LogError> {
    // A handle of its own: whoever else prints must not wait for a lock that a stalled log holds.
    let out = io::stdout().as_fd().try_clone_to_owned().map_err(LogError::NoOutput)?;
    let (lines, mut log) = lossy(File::from(out), WAITING_LINES_MAX);
    let (subscriber, level) = subscriber(level, lines);
    subscriber.try_init().map_err(|_| LogError::AlreadyStarted)?;
    // Nobody else is listened to below this, at no level: and Pingora panics when it is about to trace an
    // answer with a header that is not UTF-8.
    log::set_max_level(log::LevelFilter::Warn);
    log.level = level;
    Ok(log)
}

/// Writes warnings to standard error, one plain line each: for a command, whose standard output is
/// its result.
///
/// # Errors
/// [`LogError::AlreadyStarted`].
pub fn warn_on_stderr() -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(Masked(io::stderr));
    let subscriber = tracing_subscriber::registry().with(targets(LogLevel::Warn)).with(lines);
    subscriber.try_init().map_err(|_| LogError::AlreadyStarted)
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log was started already")]
    AlreadyStarted,
    #[error("standard output cannot be used")]
    NoOutput(#[source] io::Error),
}

/// The running log. Dropping it writes what still waits, for [`FLUSH_MAX`] at most.
#[derive(Debug)]
pub struct Log {
    dropped: ErrorCounter,
    level: LevelSwitch,
    lines: NonBlocking,
    writer: Option<WorkerGuard>,
}

/// Changes what is logged from now on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LevelSwitch(Option<reload::Handle<Targets, Registry>>);

impl LevelSwitch {
    pub fn set(&self, level: LogLevel) {
        if let Some(handle) = &self.0 {
            // Fails when there is no log any more, and then nobody reads it.
            handle.reload(targets(level)).ok();
        }
    }
}

impl Log {
    /// Reads how many lines were dropped because nobody read them in time.
    #[must_use]
    pub fn dropped_lines(&self) -> Box<dyn Fn() -> u64 + Send + Sync> {
        let dropped = self.dropped.clone();
        Box::new(move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX))
    }

    /// For lines that are made elsewhere, among those of the log.
    #[must_use]
    pub fn lines(&self) -> Lines {
        Lines(self.lines.clone())
    }

    #[must_use]
    pub fn level(&self) -> LevelSwitch {
        self.level.clone()
    }
}

/// Writes lines to the log as they are, but for secrets, and never waits.
#[derive(Clone)]
pub struct Lines(NonBlocking);

impl Lines {
    /// Writes a line, whole or not at all: one that nobody reads in time is dropped, and counted.
    pub fn write(&mut self, line: &str) {
        let line = format!("{}\n", mask(line));
        // It fails as little as it waits: what it cannot take it counts.
        self.0.write_all(line.as_bytes()).ok();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let writer = self.writer.take();
        let (ended, wait) = mpsc::channel::<()>();
        // When its queue is full, the writer's own end says so on standard output, which may be the
        // very thing that is stuck: it must not be waited for here without a bound.
        let flush = move || {
            drop(writer);
            drop(ended);
        };
        if std::thread::Builder::new().name("log-flush".into()).spawn(flush).is_ok() {
            // Ends early, as an error, when `ended` is dropped: there is nothing else to receive.
            wait.recv_timeout(FLUSH_MAX).ok();
        }
    }
}

/// A writer that never waits for `out`.
fn lossy(out: impl Write + Send + 'static, waiting_max: usize) -> (NonBlocking, Log) {
    let (lines, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(waiting_max)
        .thread_name("log")
        .finish(out);
    let level = LevelSwitch::default();
    let dropped = lines.error_counter();
    let log = Log { dropped, level, lines: lines.clone(), writer: Some(guard) };
    (lines, log)
}

fn subscriber<M>(level: LogLevel, out: M) -> (impl Subscriber + Send + Sync, LevelSwitch)
where
    M: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        // Its own complaints go to standard error, past the mask, with the event's fields.
        .log_internal_errors(false)
        .with_writer(Masked(out));
    let (targets, level) = reload::Layer::new(targets(level));
    (tracing_subscriber::registry().with(targets).with(lines), LevelSwitch(Some(level)))
}

fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("keygate", ours)
        // Both warn of every client that goes away.
        .with_targets([("pingora_core", LevelFilter::ERROR), ("pingora_proxy", LevelFilter::ERROR)])
}

/// Puts a [`MaskingWriter`] in front of another writer.
struct Masked<M>(M);

impl<'w, M> MakeWriter<'w> for Masked<M>
where
    M: MakeWriter<'w>,
    M::Writer: Write,
{
    type Writer = MaskingWriter<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        MaskingWriter::new(self.0.make_writer())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let out = lines.clone();
        let (subscriber, _) = subscriber(level, move || out.clone());
        tracing::subscriber::with_default(subscriber, log);
        lines.text()
    }

    #[test]
    fn a_line_is_json_and_holds_no_key_wherever_it_was_put() {
        let text = logged(LogLevel::Info, || {
            tracing::info!(target: "keygate_proxy", path = KEY, agent = ?KEY, "asked with {KEY}");
            let span = tracing::info_span!(target: "keygate_proxy", "request", key = KEY);
            span.in_scope(|| tracing::error!(target: "h2", error = %KEY, "broken"));
        });
        assert!(!text.contains(&KEY[..13]), "{text}");
        assert_eq!(text.matches("sk_live_111t…").count(), 4, "{text}");
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(event["message"].is_string() && event["level"].is_string());
            assert!(event["timestamp"].is_string() && event["target"].is_string());
        }
    }

    #[test]
    fn only_our_own_crates_go_below_warnings() {
        let text = logged(LogLevel::Trace, || {
            tracing::trace!(target: "keygate_proxy::gateway", "ours");
            tracing::info!(target: "keygate", "ours");
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::debug!(target: "h2::codec", "theirs");
            tracing::trace!(target: "pingora_core::protocols", "theirs");
            tracing::warn!(target: "pingora_proxy", "theirs");
            tracing::warn!(target: "rustls", "warned");
            tracing::error!(target: "pingora_proxy", "warned");
        });
        assert_eq!(text.matches("ours").count(), 2, "{text}");
        assert_eq!(text.matches("warned").count(), 2, "{text}");
        assert!(!text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_level_above_warn_holds_for_everyone() {
        let text = logged(LogLevel::Error, || {
            tracing::warn!(target: "keygate_proxy", "quiet");
            tracing::warn!(target: "rustls", "quiet");
            tracing::error!(target: "rustls", "loud");
        });
        assert!(!text.contains("quiet") && text.contains("loud"), "{text}");
    }

    #[test]
    fn the_level_changes_while_the_log_runs() {
        let lines = Lines::default();
        let out = lines.clone();
        let (subscriber, level) = subscriber(LogLevel::Warn, move || out.clone());
        let log = || tracing::info!(target: "keygate", "said");
        tracing::subscriber::with_default(subscriber, || {
            log();
            level.set(LogLevel::Info);
            log();
            level.set(LogLevel::Error);
            log();
        });
        assert_eq!(lines.text().matches("said").count(), 1, "{}", lines.text());
    }

    /// The only test that starts the process's one log: the `log` crate has no other way in.
    #[test]
    fn what_comes_through_the_log_crate_is_filtered_and_masked_alike() {
        let lines = Lines::default();
        let out = lines.clone();
        subscriber(LogLevel::Trace, move || out.clone()).0.try_init().unwrap();
        log::debug!(target: "pingora_proxy", "theirs {KEY}");
        log::warn!(target: "pingora_core::server", "theirs");
        log::info!(target: "hyper", "theirs");
        log::error!(target: "pingora_proxy", "failed for {KEY}");
        log::debug!(target: "keygate_store", "ours");
        let text = lines.text();
        assert!(!text.contains("theirs"), "{text}");
        assert!(text.contains("failed for sk_live_111t…"), "{text}");
        assert!(text.contains(r#""target":"pingora_proxy""#) && text.contains("ours"), "{text}");
        assert!(matches!(init(LogLevel::Info), Err(LogError::AlreadyStarted)));
    }

    /// Takes no line until the test lets it.
    struct Stalled(Arc<Mutex<()>>, Lines);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _held = self.0.lock().unwrap();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_that_are_counted_and_no_time() {
        let (stall, lines) = (Arc::default(), Lines::default());
        let (out, log) = lossy(Stalled(Arc::clone(&stall), lines.clone()), 10);
        let dropped = log.dropped_lines();
        let held = stall.lock().unwrap();
        tracing::subscriber::with_default(subscriber(LogLevel::Info, out).0, || {
            for number in 0..100 {
                tracing::info!(target: "keygate", number, "a line with {KEY}");
            }
        });
        // The writer may have taken one out of the queue before it stalled.
        assert!((89..=90).contains(&dropped()), "{}", dropped());
        drop(held);
        drop(log);
        let text = lines.text();
        assert_eq!(text.lines().count() as u64, 100 - dropped(), "{text}");
        assert!(!text.contains(KEY), "{text}");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_never_reads() {
        let stall = Arc::default();
        let (mut out, log) = lossy(Stalled(Arc::clone(&stall), Lines::default()), 1);
        let held = stall.lock().unwrap();
        for _ in 0..10 {
            out.write_all(b"line\n").unwrap();
        }
        drop(log);
        drop(held);
    }
}
