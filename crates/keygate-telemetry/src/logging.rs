//! The log: JSON lines on standard output, with every key and admin token masked.
//!
//! Other people's crates are kept to warnings. At `debug` and `trace` the HTTP stack prints
//! headers, and a Basic credential in base64 is one that no mask can see.

use std::io::{self, Write};

use keygate_config::LogLevel;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::mask::MaskingWriter;
pub use crate::mask::mask;

/// Starts the log, for this crate's users and for those that log through the `log` crate.
///
/// # Errors
/// [`AlreadyStarted`]: a process has one log.
pub fn init(level: LogLevel) -> Result<(), AlreadyStarted> {
    subscriber(level, io::stdout).try_init().map_err(|_| AlreadyStarted)
}

/// The log was started before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log was started already")]
pub struct AlreadyStarted;

fn subscriber<M>(level: LogLevel, out: M) -> impl Subscriber + Send + Sync
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
    tracing_subscriber::registry().with(targets(level)).with(lines)
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
        let subscriber = subscriber(level, move || out.clone());
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

    /// The only test that starts the process's one log: the `log` crate has no other way in.
    #[test]
    fn what_comes_through_the_log_crate_is_filtered_and_masked_alike() {
        let lines = Lines::default();
        let out = lines.clone();
        subscriber(LogLevel::Trace, move || out.clone()).try_init().unwrap();
        log::debug!(target: "pingora_proxy", "theirs {KEY}");
        log::warn!(target: "pingora_core::server", "theirs");
        log::info!(target: "hyper", "theirs");
        log::error!(target: "pingora_proxy", "failed for {KEY}");
        log::debug!(target: "keygate_store", "ours");
        let text = lines.text();
        assert!(!text.contains("theirs"), "{text}");
        assert!(text.contains("failed for sk_live_111t…"), "{text}");
        assert!(text.contains(r#""target":"pingora_proxy""#) && text.contains("ours"), "{text}");
        assert_eq!(init(LogLevel::Info), Err(AlreadyStarted));
    }
}
