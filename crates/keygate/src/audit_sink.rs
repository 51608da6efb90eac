//! Copies the audit log out of the store, one JSON object a line, for whoever collects logs: to a file,
//! or among the lines of the program's own log. Follows the store's log, whichever gateway wrote it.

mod file;
mod follower;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use keygate_admin::registry::AuditFilter;
use keygate_admin::{Actor, Registry, RegistryError};
use keygate_config::AuditSink;
use keygate_store::keys::{KeyStore, Page};
use keygate_store::records::Role;
use keygate_telemetry::Metrics;
use keygate_telemetry::logging::{Lines, Log};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use self::file::{LogFile, OpenError};
use self::follower::{Follower, Line};

/// How often the store is asked for new entries.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most entries that are in memory at one time.
const ENTRIES_MAX: usize = 200;
/// The shortest time between two lines about the same trouble.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long the end of the process waits for what is still to be written.
const STOP_MAX: Duration = Duration::from_secs(2);
/// How long the start waits to hear where the log is.
const FIRST_LOOK_MAX: Duration = Duration::from_millis(500);

/// The task that writes. Ends when it is told, or dropped.
pub(crate) struct Sink {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What there is to copy, and where to: whoever has this can begin, and begin again.
pub(crate) struct AuditCopy<S: KeyStore> {
    sink: AuditSink,
    registry: Registry<S>,
    lines: Lines,
    written: Arc<AtomicU64>,
}

impl<S: KeyStore> AuditCopy<S> {
    pub(crate) fn new(
        sink: &AuditSink,
        registry: &Registry<S>,
        log: &Log,
        metrics: &Metrics,
    ) -> Self {
        let written = Arc::new(AtomicU64::new(0));
        if *sink != AuditSink::Off {
            let count = Arc::clone(&written);
            metrics.counter_fn(
                "keygate_audit_written_total",
                "Entries of the audit log that were written to `[audit] sink`.",
                Box::new(move || count.load(Relaxed)),
            );
        }
        Self { sink: sink.clone(), registry: registry.clone(), lines: log.lines(), written }
    }

    /// Begins to write, if the configuration says so.
    ///
    /// # Errors
    /// The file cannot be used: it is not one of ours, somebody else writes to it, or it cannot be opened.
    pub(crate) async fn begin(&self) -> anyhow::Result<Option<Sink>> {
        let (target, follower) = match &self.sink {
            AuditSink::Off => return Ok(None),
            AuditSink::Stdout => (Target::Log(self.lines.clone()), Follower::from_the_newest()),
            AuditSink::File(path) => {
                let (file, last) = LogFile::open(path).with_context(|| cannot_write(path))?;
                (Target::File(file), Follower::after(last))
            }
        };
        let (stop, stopped) = watch::channel(false);
        let (registry, written) = (self.registry.clone(), Arc::clone(&self.written));
        let mut copier = Copier { registry, target, follower, written, trouble: None };
        if copier.follower.place().is_none() {
            // Now, and not when its task has its first turn: what an operator changes first is copied.
            // A store that does not answer is asked again by the task.
            drop(timeout(FIRST_LOOK_MAX, copier.copy()).await);
        }
        Ok(Some(Sink { stop, task: tokio::spawn(copier.run(stopped)) }))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write the audit log to {} (`[audit] path`)", path.display())
}

/// Says what is wrong with the file before there is a store to copy from, for one who takes over from
/// the process that writes to it now.
pub(crate) fn check(sink: &AuditSink) -> anyhow::Result<()> {
    match sink {
        AuditSink::Off | AuditSink::Stdout => Ok(()),
        AuditSink::File(path) => match LogFile::open(path) {
            Ok(_) | Err(OpenError::InUse) => Ok(()),
            Err(error) => Err(anyhow::Error::new(error).context(cannot_write(path))),
        },
    }
}

impl Sink {
    /// Writes what is in the store by now, within a bound.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if timeout(STOP_MAX, self.task).await.is_err() {
            tracing::warn!("the audit log was not copied to its end: the next start goes on");
        }
    }
}

enum Target {
    Log(Lines),
    File(LogFile),
}

struct Copier<S: KeyStore> {
    registry: Registry<S>,
    target: Target,
    follower: Follower,
    written: Arc<AtomicU64>,
    /// When trouble was last told of, while there is any.
    trouble: Option<Instant>,
}

impl<S: KeyStore> Copier<S> {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            // Before the look: what is in the store when it is told to stop gets written.
            let is_last = *stopped.borrow_and_update();
            let outcome = self.copy().await;
            let is_at_the_end = self.told_of(outcome);
            if is_last && is_at_the_end {
                return;
            }
            if is_at_the_end {
                tokio::select! {
                    () = sleep(LOOK_EVERY) => {}
                    // Whoever could tell is gone.
                    told = stopped.changed() => if told.is_err() { return },
                }
            }
        }
    }

    /// Copies some entries. Says whether there may be more.
    async fn copy(&mut self) -> anyhow::Result<Progress> {
        let lines = match self.follower.place() {
            None => {
                // A log of the program has what happens from its start on.
                let newest = self.newest().await?;
                self.follower.begin_after(newest);
                return Ok(Progress::More);
            }
            Some(after) => {
                let page = Page { after: Some(after), limit: ENTRIES_MAX };
                let part = self.registry.audit(&reader(), &AuditFilter::default(), page).await?;
                self.follower.take(part.entries)
            }
        };
        if lines.is_empty() {
            return Ok(Progress::AtTheEnd);
        }
        tell_of_gaps(&lines);
        let entries = lines.iter().filter(|line| line.is_entry()).count();
        self.write(&lines).await?;
        self.follower.written(&lines);
        self.written.fetch_add(u64::try_from(entries).unwrap_or(u64::MAX), Relaxed);
        Ok(Progress::More)
    }

    async fn newest(&self) -> Result<Option<keygate_admin::AuditLine>, RegistryError> {
        let newest = self.registry.audit_tail(&reader(), &AuditFilter::default(), 1).await?;
        Ok(newest.entries.into_iter().next().map(Into::into))
    }

    async fn write(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        match &mut self.target {
            Target::Log(log) => {
                for line in lines {
                    log.write(&line.tagged()?);
                }
                Ok(())
            }
            Target::File(file) => {
                let mut text = String::new();
                for line in lines {
                    text.push_str(&line.text()?);
                    text.push('\n');
                }
                let continues = self.follower.continues().text()?;
                let mut file = file.clone();
                let path = file.path().display().to_string();
                let writing = spawn_blocking(move || file.append(&continues, &text));
                writing.await?.with_context(|| format!("cannot write to {path}"))
            }
        }
    }

    /// Says whether to wait before the next try.
    fn told_of(&mut self, outcome: anyhow::Result<Progress>) -> bool {
        match outcome {
            Ok(progress) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the audit log is copied again");
                }
                matches!(progress, Progress::AtTheEnd)
            }
            Err(error) => {
                if self.trouble.is_none_or(|told| told.elapsed() >= COMPLAIN_EVERY) {
                    self.trouble = Some(Instant::now());
                    let cause = format!("{error:#}");
                    tracing::error!(cause, "the audit log is not copied for now: trying on");
                }
                true
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    AtTheEnd,
}

/// What reads the log inside the process: it may look, and nothing else.
fn reader() -> Actor {
    Actor { name: "keygate".to_owned(), from: None, role: Role::Viewer }
}

fn tell_of_gaps(lines: &[Line]) {
    for line in lines {
        match line {
            Line::Entry(_) | Line::Continues { .. } => {}
            Line::Gap { from, to } => tracing::error!(
                from,
                to,
                "entries were dropped from the store's audit log before they were copied"
            ),
            Line::Restarted { from } => tracing::error!(
                from,
                "the store's audit log is not the one that was copied: copying all of it"
            ),
        }
    }
}
