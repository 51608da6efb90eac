//! What a reload reads, and what goes by it afterwards: the requests, the admin API, what the fleet is
//! told, the log's level. When it may be is `keygate_admin`'s to say.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keygate_admin::registry::{Fault, Force, Source, Unusable};
use keygate_admin::{Actor, Reloader};
use keygate_config::live::Current;
use keygate_config::{Config, Keys, Live, secrets};
use keygate_core::{Pepper, Peppers};
use keygate_proxy::{Changer, ProxyError};
use keygate_store::fleet::HeldPeppers;
use keygate_store::records::Role;
use keygate_telemetry::logging::LevelSwitch;
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::first_start::is_exposed;
use crate::serve::Store;

/// How the audit log calls whoever sent the signal.
const SIGNAL_ACTOR: &str = "signal:SIGHUP";

/// Where a gateway's configuration comes from.
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    /// What is otherwise than the file says.
    pub(crate) adjust: fn(&mut Config) -> Result<(), Failure>,
}

impl Origin {
    /// The file as it is.
    pub(crate) fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), adjust: |_| Ok(()) }
    }

    /// Reads a first configuration, and says on standard error what may not be meant.
    pub(crate) fn first(&self) -> Result<Config, Failure> {
        let config = self.read()?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(config)
    }

    fn read(&self) -> Result<Config, Failure> {
        let mut config = keygate_config::load(&self.path).map_err(Failure::Config)?;
        (self.adjust)(&mut config)?;
        Ok(config)
    }
}

/// The files of a gateway that runs, and all that goes by them.
pub(crate) struct Files {
    origin: Origin,
    began_with: Arc<Config>,
    live: Live,
    changer: Changer,
    held: HeldPeppers,
    level: LevelSwitch,
}

impl Files {
    pub(crate) fn new(
        origin: Origin,
        live: Live,
        changer: Changer,
        held: HeldPeppers,
        level: LevelSwitch,
    ) -> Self {
        let files = Self { origin, began_with: live.config(), live, changer, held, level };
        files.tell_fleet();
        files
    }

    fn tell_fleet(&self) {
        self.held.set(self.live.peppers().iter().map(Pepper::id).collect());
    }

    fn unusable(&self, fault: Fault) -> Unusable {
        let file = self.origin.path.display().to_string();
        Unusable { file, problems: vec![fault], omitted: 0 }
    }
}

impl Source for Files {
    fn read(&self) -> Result<Current, Unusable> {
        let mut config = self.origin.read().map_err(|failure| match failure {
            Failure::Config(report) => report.into(),
            Failure::Other(_, error) => self.unusable(fault(None, format!("{error:#}"), None)),
        })?;
        let peppers = read_peppers(&config.keys).map_err(|fault| self.unusable(fault))?;
        config.warnings.extend(exposed(&config.keys));
        Ok(Current { config: Arc::new(config), peppers: Arc::new(peppers) })
    }

    fn take_over(&self, next: Current) -> Result<(), Unusable> {
        // Requests first: a key that is made under a new pepper has to be known by then.
        let changed = self.changer.change(next.clone());
        changed.map_err(|error| self.unusable(refused(&next.config, &error)))?;
        self.level.set(next.config.log.level);
        self.live.replace(next);
        self.tell_fleet();
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
    let files = std::iter::once(&keys.pepper_file).chain(&keys.previous_pepper_files);
    let exposed = files.filter(|path| is_exposed(path));
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
        ProxyError::Listener(_) | ProxyError::Thread(_) | ProxyError::Trust(_) => None,
    };
    fault(setting.as_deref(), error.to_string(), None)
}

fn fault(setting: Option<&str>, message: String, help: Option<&str>) -> Fault {
    let (setting, help) = (setting.map(ToOwned::to_owned), help.map(ToOwned::to_owned));
    Fault { line: None, setting, message, help }
}
