//! What a reload reads, and what goes by it afterwards: the requests, the admin API, what the fleet is
//! told, the log's level. When it may be is `keygate_admin`'s to say.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use keygate_admin::registry::{Fault, Force, Source, Unusable};
use keygate_admin::{Actor, Reloader};
use keygate_config::live::Current;
use keygate_config::{Config, Inputs, Keys, Live, secrets};
use keygate_core::{Pepper, Peppers};
use keygate_proxy::{Changer, ProxyError};
use keygate_store::failures::FailureLimiter;
use keygate_store::fleet::HeldPeppers;
use keygate_store::records::Role;
use keygate_telemetry::logging::LevelSwitch;
use tokio::sync::Notify;

use crate::clock;
use crate::failure::Failure;
use crate::first_start::is_exposed;
use crate::serve::Store;

/// How the audit log calls whoever sent the signal.
const SIGNAL_ACTOR: &str = "signal:SIGHUP";

/// Where a gateway's configuration comes from.
pub(crate) struct Origin {
    path: PathBuf,
    /// What is otherwise than the file says.
    adjust: fn(&mut Config) -> Result<(), Failure>,
    /// What was read first.
    first: Mutex<Inputs>,
}

impl Origin {
    /// The file as it is.
    pub(crate) fn file(path: &Path) -> Self {
        Self::adjusted(path, |_| Ok(()))
    }

    /// The file, but for what `adjust` says.
    pub(crate) fn adjusted(path: &Path, adjust: fn(&mut Config) -> Result<(), Failure>) -> Self {
        Self { path: path.to_owned(), adjust, first: Mutex::default() }
    }

    /// Reads a first configuration, and says on standard error what may not be meant.
    pub(crate) fn first(&self) -> Result<Config, Failure> {
        let mut inputs = Inputs::default();
        let config = self.read(&mut inputs)?;
        *lock(&self.first) = inputs;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(config)
    }

    fn read(&self, inputs: &mut Inputs) -> Result<Config, Failure> {
        let loaded = keygate_config::load_noting(&self.path, inputs);
        let mut config = loaded.map_err(Failure::Config)?;
        (self.adjust)(&mut config)?;
        config.warnings.extend(config.certificate_warnings(clock::now()));
        Ok(config)
    }
}

/// The files of a gateway that runs, and all that goes by them.
pub(crate) struct Files {
    origin: Origin,
    began_with: Arc<Config>,
    live: Live,
    changer: Changer,
    failures: Arc<FailureLimiter>,
    held: HeldPeppers,
    level: LevelSwitch,
    tried: Mutex<Tried>,
}

/// What was read last, taken over or not.
struct Tried {
    inputs: Arc<Inputs>,
    came_to: CameTo,
}

/// What has become of what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CameTo {
    /// It is no configuration.
    Nothing,
    /// It is one that does not run, or not yet.
    Configuration,
    Running,
}

impl Files {
    /// The files that `live` was read from just now.
    pub(crate) fn new(
        origin: Origin,
        live: Live,
        changer: Changer,
        failures: Arc<FailureLimiter>,
        held: HeldPeppers,
        level: LevelSwitch,
    ) -> Self {
        let began_with = live.config();
        let mut inputs = lock(&origin.first).clone();
        // Not before: a first start makes one.
        pepper_files(&began_with.keys).for_each(|path| inputs.note_secret(path));
        let inputs = Arc::new(inputs);
        live.replace(Current { inputs: Arc::clone(&inputs), ..Current::clone(&live.current()) });
        let tried = Mutex::new(Tried { inputs, came_to: CameTo::Running });
        let files = Self { origin, began_with, live, changer, failures, held, level, tried };
        files.tell_fleet();
        files
    }

    /// What was read last, whether it was of any use or not.
    pub(crate) fn tried(&self) -> Arc<Inputs> {
        Arc::clone(&lock(&self.tried).inputs)
    }

    /// Whether what was read last is a configuration, and does not run all the same.
    pub(crate) fn is_held_up(&self) -> bool {
        lock(&self.tried).came_to == CameTo::Configuration
    }

    /// What people call the configuration file.
    pub(crate) fn name(&self) -> String {
        self.origin.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn tell_fleet(&self) {
        self.held.set(self.live.peppers().iter().map(Pepper::id).collect());
    }

    fn read_noting(&self, inputs: &mut Inputs) -> Result<(Config, Peppers), Unusable> {
        let mut config = self.origin.read(inputs).map_err(|failure| match failure {
            Failure::Config(report) => report.into(),
            Failure::Other(_, error) => self.unusable(fault(None, format!("{error:#}"), None)),
        })?;
        pepper_files(&config.keys).for_each(|path| inputs.note_secret(path));
        let peppers = read_peppers(&config.keys).map_err(|fault| self.unusable(fault))?;
        config.warnings.extend(exposed(&config.keys));
        Ok((config, peppers))
    }

    fn unusable(&self, fault: Fault) -> Unusable {
        let file = self.origin.path.display().to_string();
        Unusable { file, problems: vec![fault], omitted: 0 }
    }
}

impl Source for Files {
    fn read(&self) -> Result<Current, Unusable> {
        let mut inputs = Inputs::default();
        let read = self.read_noting(&mut inputs);
        let inputs = Arc::new(inputs);
        let came_to = if read.is_ok() { CameTo::Configuration } else { CameTo::Nothing };
        *lock(&self.tried) = Tried { inputs: Arc::clone(&inputs), came_to };
        let (config, peppers) = read?;
        Ok(Current { config: Arc::new(config), peppers: Arc::new(peppers), inputs })
    }

    fn file(&self) -> String {
        let path = &self.origin.path;
        std::path::absolute(path).as_ref().unwrap_or(path).display().to_string()
    }

    fn take_over(&self, next: Current) -> Result<(), Unusable> {
        // Requests first: a key that is made under a new pepper has to be known by then.
        let changed = self.changer.change(next.clone());
        changed.map_err(|error| self.unusable(refused(&next.config, &error)))?;
        let failed_auth = &next.config.server.failed_auth;
        self.failures.change(failed_auth.rate, failed_auth.addresses_max);
        self.level.set(next.config.log.level);
        self.live.replace(next);
        self.tell_fleet();
        lock(&self.tried).came_to = CameTo::Running;
        Ok(())
    }

    fn needs_restart(&self, config: &Config) -> Vec<&'static str> {
        self.began_with.needs_restart(config)
    }
}

/// Reloads whenever somebody has hung up, once however often that was meanwhile.
pub(crate) async fn reload_on(hung_up: &Notify, reloader: &Reloader<Store>) -> Infallible {
    let by = Actor { name: SIGNAL_ACTOR.to_owned(), from: None, role: Role::Admin };
    loop {
        hung_up.notified().await;
        // What comes of it is in the log.
        reloader.reload(&by, Force::No).await.ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The current one first.
pub(crate) fn pepper_files(keys: &Keys) -> impl Iterator<Item = &PathBuf> {
    std::iter::once(&keys.pepper_file).chain(&keys.previous_pepper_files)
}

/// Reads the peppers again. One that is not there is not made: what stands in its place is a mistake.
pub(crate) fn read_peppers(keys: &Keys) -> Result<Peppers, Fault> {
    let current = read_pepper(&keys.pepper_file, "keys.pepper_file")?;
    let previous = keys.previous_pepper_files.iter();
    let previous = previous.map(|path| read_pepper(path, "keys.previous_pepper_files"));
    Ok(Peppers::new(current, previous.collect::<Result<_, _>>()?))
}

fn read_pepper(path: &Path, setting: &str) -> Result<Pepper, Fault> {
    match secrets::load_pepper(path) {
        Ok(Some(pepper)) => Ok(pepper),
        Ok(None) => {
            let help = "restore it, or name another; `keygate pepper rotate` makes a new one";
            Err(fault(Some(setting), format!("{} does not exist", path.display()), Some(help)))
        }
        Err(error) => {
            let text = format!("{:#}", anyhow::Error::new(error));
            Err(fault(Some(setting), text, None))
        }
    }
}

fn exposed(keys: &Keys) -> impl Iterator<Item = String> {
    let exposed = pepper_files(keys).filter(|path| is_exposed(path));
    exposed.map(|path| format!("others can read {}: chmod 600 it", path.display()))
}

/// What the gateway itself refuses.
fn refused(config: &Config, error: &ProxyError) -> Fault {
    let setting = match error {
        ProxyError::Target { target, .. } => {
            let has_it = |upstream: &&Arc<keygate_config::Upstream>| {
                upstream.targets.iter().any(|one| one.target.to_string() == *target)
            };
            let upstream = config.upstreams.iter().find(has_it);
            upstream.map(|upstream| format!("upstreams.{}.targets", upstream.name))
        }
        ProxyError::Certificate { upstream } => Some(format!("upstreams.{upstream}.tls")),
        ProxyError::Tls(_) => Some("server.tls".to_owned()),
        ProxyError::Usage(_) => Some("usage.path".to_owned()),
        ProxyError::Listener(_) | ProxyError::Thread(_) | ProxyError::Trust(_) => None,
    };
    fault(setting.as_deref(), error.to_string(), None)
}

fn fault(setting: Option<&str>, message: String, help: Option<&str>) -> Fault {
    let (setting, help) = (setting.map(ToOwned::to_owned), help.map(ToOwned::to_owned));
    Fault { line: None, setting, message, help }
}
