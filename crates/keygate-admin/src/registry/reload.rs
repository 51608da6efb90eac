//! A reload: the configuration is read again, judged as a whole, and taken over or not. Knows no file;
//! where a configuration comes from, and what goes by it, is the [`Source`]'s.

use std::sync::{Arc, PoisonError};

use keygate_config::live::Current;
use keygate_config::{Config, ConfigHash};
use keygate_core::key::PepperId;
use keygate_core::{Pepper, UnixMillis};
use keygate_store::keys::{KeyStore, Write};
use keygate_telemetry::ReloadMetrics;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::{Actor, Registry, RegistryError};

/// Of what was wrong with a reload that failed, for who asks later.
const LINES_KEPT_MAX: usize = 100;

/// Where configurations come from, and what goes by them.
pub trait Source: Send + Sync + 'static {
    /// Reads the configuration with its peppers, and makes nothing that is missing. May block.
    ///
    /// # Errors
    /// All that is wrong with it.
    fn read(&self) -> Result<Current, Unusable>;

    /// Where it is read from.
    fn file(&self) -> String;

    /// Has everything that begins from now on go by this one, or changes nothing. May block.
    ///
    /// # Errors
    /// What of it cannot be used.
    fn take_over(&self, next: Current) -> Result<(), Unusable>;

    /// The settings that are others than this gateway began with, and take effect at its next start.
    fn needs_restart(&self, config: &Config) -> Vec<&'static str>;
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} cannot be used")]
pub struct Unusable {
    pub file: String,
    /// At least one, in the order of the file.
    pub problems: Vec<Fault>,
    /// How many there are besides.
    pub omitted: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1; none if it is about no line.
    pub line: Option<usize>,
    /// Such as `tiers.free.rate`.
    pub setting: Option<String>,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Whether a pepper may be dropped that live keys depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Force {
    #[default]
    No,
    Yes,
}

/// What a reload has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether anything is otherwise than before.
    pub is_changed: bool,
    /// Of what was loaded.
    pub hash: ConfigHash,
    pub needs_restart: Vec<&'static str>,
    /// What is legal and probably not meant.
    pub warnings: Vec<String>,
}

/// The configuration that runs.
pub struct RunningConfig {
    pub config: Arc<Config>,
    pub file: String,
    pub hash: ConfigHash,
    pub loaded_at: UnixMillis,
    pub needs_restart: Vec<&'static str>,
    /// The newest reload since then, if it failed.
    pub failed: Option<FailedReload>,
}

/// A reload that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedReload {
    pub at: UnixMillis,
    pub by: String,
    /// One a line, with its place and what to do.
    pub problems: Vec<String>,
}

/// Why everything is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("the configuration cannot be used")]
    Unusable(#[source] Unusable),
    /// Which, and how many keys of each.
    #[error("live keys depend on a pepper that would be dropped")]
    PepperInUse(Vec<(PepperId, u64)>),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// By a mistake of ours.
    #[error("the reload was broken off")]
    BrokenOff,
}

/// Reloads the configuration, one at a time. Cheap to clone; all clones are the same.
pub struct Reloader<S: KeyStore>(Arc<Inner<S>>);

struct Inner<S: KeyStore> {
    registry: Registry<S>,
    source: Arc<dyn Source>,
    metrics: ReloadMetrics,
    turn: Mutex<()>,
    status: std::sync::Mutex<Status>,
}

/// What has come of reloads so far.
struct Status {
    running: Arc<Current>,
    loaded_at: UnixMillis,
    failed: Option<FailedReload>,
}

impl<S: KeyStore> Clone for Reloader<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: KeyStore> Reloader<S> {
    #[must_use]
    pub fn new(registry: Registry<S>, source: Arc<dyn Source>, metrics: ReloadMetrics) -> Self {
        let (running, loaded_at) = (registry.parts.live.current(), registry.now());
        let status = Status { running, loaded_at, failed: None }.into();
        Self(Arc::new(Inner { registry, source, metrics, turn: Mutex::default(), status }))
    }

    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.0.registry.now()
    }

    /// Reads the configuration and takes it over, whole or not at all. Goes on to its end even if the
    /// caller stops waiting.
    ///
    /// # Errors
    /// [`ReloadError`]: the one that runs goes on.
    pub async fn reload(&self, by: &Actor, force: Force) -> Result<Reloaded, ReloadError> {
        by.require_admin()?;
        let (reloader, by) = (self.clone(), by.clone());
        let reload = tokio::spawn(async move { reloader.0.take_turn(&by, force).await });
        reload.await.unwrap_or(Err(ReloadError::BrokenOff))
    }

    /// What runs now.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`].
    pub fn running(&self, by: &Actor) -> Result<RunningConfig, RegistryError> {
        by.require_viewer()?;
        let (source, status) = (&self.0.source, self.0.status());
        Ok(RunningConfig {
            config: Arc::clone(&status.running.config),
            file: source.file(),
            hash: status.running.inputs.hash(),
            loaded_at: status.loaded_at,
            needs_restart: source.needs_restart(&status.running.config),
            failed: status.failed.clone(),
        })
    }
}

impl<S: KeyStore> Inner<S> {
    async fn take_turn(&self, by: &Actor, force: Force) -> Result<Reloaded, ReloadError> {
        let _turn = self.turn.lock().await;
        let outcome = self.reload(by, force).await;
        let now = self.registry.now();
        match &outcome {
            Ok(reloaded) => {
                self.metrics.succeeded(now);
                log_success(by, reloaded);
            }
            Err(error) => {
                self.metrics.failed();
                log_failure(by, error);
                let failed =
                    FailedReload { at: now, by: by.name.clone(), problems: error.on_lines() };
                self.status().failed = Some(failed);
            }
        }
        outcome
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reload(&self, by: &Actor, force: Force) -> Result<Reloaded, ReloadError> {
        let next = self.blocking(|source| source.read()).await?;
        let running = self.registry.parts.live.current();
        self.check_peppers(&running, &next, force).await?;
        let changes = changes(&running, &next);
        let needs_restart = self.source.needs_restart(&next.config);
        let mut warnings = next.config.warnings.clone();
        let taken_over = next.clone();
        self.blocking(move |source| source.take_over(next)).await?;
        let hash = taken_over.inputs.hash();
        let running = Arc::new(taken_over);
        *self.status() = Status { running, loaded_at: self.registry.now(), failed: None };
        let is_changed = !changes.is_empty();
        if is_changed && let Err(error) = self.log(by, changes, force).await {
            tracing::error!(%error, "a reload is not in the audit log");
            warnings.push("the audit log could not be told of this reload".to_owned());
        }
        Ok(Reloaded { is_changed, hash, needs_restart, warnings })
    }

    /// A pepper that keys were made under is all that makes them work.
    async fn check_peppers(
        &self,
        running: &Current,
        next: &Current,
        force: Force,
    ) -> Result<(), ReloadError> {
        let kept = ids(next);
        let dropped: Vec<_> = ids(running).into_iter().filter(|id| !kept.contains(id)).collect();
        if dropped.is_empty() || force == Force::Yes {
            return Ok(());
        }
        let in_use = self.registry.live_keys_of(&dropped).await?;
        if in_use.is_empty() { Ok(()) } else { Err(ReloadError::PepperInUse(in_use)) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Source) -> Result<T, Unusable> + Send + 'static,
    ) -> Result<T, ReloadError> {
        let source = Arc::clone(&self.source);
        let work = tokio::task::spawn_blocking(move || work(&*source));
        let done = work.await.map_err(|_| ReloadError::BrokenOff)?;
        done.map_err(ReloadError::Unusable)
    }

    async fn log(
        &self,
        by: &Actor,
        changes: Map<String, Value>,
        force: Force,
    ) -> Result<(), RegistryError> {
        let mut entry = by.entry(self.registry.now(), "config.reload", "config".to_owned());
        entry.changes = changes;
        entry.reason = (force == Force::Yes).then(|| "forced".to_owned());
        self.registry.commit(Write::Note, entry).await
    }
}

/// The sections that differ, and the ids of the peppers if those do.
fn changes(running: &Current, next: &Current) -> Map<String, Value> {
    let mut changes = Map::new();
    let sections = running.config.differences(&next.config);
    if !sections.is_empty() {
        changes.insert("sections".into(), json!([null, sections]));
    }
    let texts = |current| ids(current).iter().map(ToString::to_string).collect::<Vec<_>>();
    let (before, after) = (texts(running), texts(next));
    if before != after {
        changes.insert("peppers".into(), json!([before, after]));
    }
    changes
}

fn ids(current: &Current) -> Vec<PepperId> {
    current.peppers.iter().map(Pepper::id).collect()
}

fn log_success(by: &Actor, reloaded: &Reloaded) {
    let Reloaded { is_changed, hash, needs_restart, warnings } = reloaded;
    let changed = *is_changed;
    tracing::info!(actor = by.name, changed, %hash, "the configuration was reloaded");
    for setting in needs_restart {
        tracing::warn!(setting, "takes effect at the next start");
    }
    for warning in warnings {
        tracing::warn!(warning, "the configuration");
    }
}

fn log_failure(by: &Actor, error: &ReloadError) {
    const STAYS: &str = "reload refused: the running configuration stays";
    let actor = &by.name;
    match error {
        ReloadError::Unusable(unusable) => {
            for problem in unusable.on_lines() {
                tracing::error!(actor, problem, "{STAYS}");
            }
        }
        ReloadError::PepperInUse(in_use) => {
            for (pepper, live_keys) in in_use {
                let pepper = tracing::field::display(pepper);
                tracing::error!(actor, pepper, live_keys, "{STAYS}: live keys need this pepper");
            }
        }
        ReloadError::Registry(_) | ReloadError::BrokenOff => {
            tracing::error!(actor, cause = crate::problem::chain(error), "{STAYS}");
        }
    }
}

impl ReloadError {
    /// What was wrong, each thing on one line.
    fn on_lines(&self) -> Vec<String> {
        match self {
            Self::Unusable(unusable) => {
                let mut lines: Vec<String> = unusable.on_lines().take(LINES_KEPT_MAX).collect();
                let count = unusable.problems.len() + unusable.omitted;
                if count > LINES_KEPT_MAX {
                    lines.push("and more: see the log".to_owned());
                }
                lines
            }
            Self::PepperInUse(in_use) => {
                let line = |(id, keys): &(PepperId, u64)| {
                    format!("live keys need pepper {id}, which is left out: {keys} of them")
                };
                in_use.iter().map(line).collect()
            }
            Self::Registry(_) | Self::BrokenOff => vec![crate::problem::chain(self)],
        }
    }
}

impl Unusable {
    /// Each problem on one line, with its place and what to do.
    pub(crate) fn on_lines(&self) -> impl Iterator<Item = String> {
        let omitted = (self.omitted > 0).then(|| format!("and {} more", self.omitted));
        self.problems.iter().map(|problem| problem.on_line(&self.file)).chain(omitted)
    }
}

impl Fault {
    fn on_line(&self, file: &str) -> String {
        let Self { line, setting, message, help } = self;
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let setting = setting.as_ref().map(|setting| format!(" {setting}:")).unwrap_or_default();
        let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{file}{line}:{setting} {message}{help}")
    }
}

impl From<keygate_config::Report> for Unusable {
    fn from(report: keygate_config::Report) -> Self {
        let fault = |problem: &keygate_config::Problem| Fault {
            line: problem.line(),
            setting: problem.setting().map(ToOwned::to_owned),
            message: problem.message().to_owned(),
            help: problem.help().map(ToOwned::to_owned),
        };
        Self {
            file: report.name().to_owned(),
            problems: report.problems().iter().map(fault).collect(),
            omitted: report.omitted(),
        }
    }
}
