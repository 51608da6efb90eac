//! The new process's side: asks the old one for its listeners, and waits until the store is free.

use std::io::{self, ErrorKind, Stdin};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::{Config, Store as StoreSettings};
use keygate_core::key::PepperId;
use keygate_store::cached::CachedKeys;
use keygate_store::heir::serve_predecessor;
use keygate_store::keys::{KeyStore, Subject};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinHandle;

use super::channel::{Channel, FromNew, FromOld, Name, Role, VERSION};

/// How long the old process may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The same, to finish what needs the store, and close it.
const RELEASE_MAX: Duration = Duration::from_secs(60);

pub(crate) const NOT_TAKEN_OVER: &str = "cannot take over: `--take-over` is what a gateway starts its successor with; send that gateway \
     SIGQUIT";

/// What the process before this one left, if there is one.
#[derive(Default)]
pub(crate) struct Inheritance {
    channel: Option<Channel>,
    listeners: Vec<(Name, TcpListener)>,
    peppers: Vec<PepperId>,
}

impl Inheritance {
    /// Asks the process at the other end of the standard input.
    pub(crate) async fn ask(stdin: &Stdin, config: &Config) -> io::Result<Self> {
        let mut channel = Channel::new(UnixStream::from(stdin.as_fd().try_clone_to_owned()?))?;
        channel.say(&FromNew::Hello { version: VERSION, store: store_path(config) }).await?;
        let FromOld::Listeners { names, peppers } = channel.hear(ANSWER_MAX).await? else {
            return Err(io::Error::other("not what comes next"));
        };
        let peppers = peppers.iter().filter_map(|id| id.parse().ok()).collect();
        let mut listeners = Vec::with_capacity(names.len());
        for name in names {
            listeners.push((name, channel.listener(ANSWER_MAX).await?));
        }
        Ok(Self { channel: Some(channel), listeners, peppers })
    }

    pub(crate) fn is_there(&self) -> bool {
        self.channel.is_some()
    }

    /// The peppers that live keys depend on, as the process before this one knew.
    pub(crate) fn peppers_in_use(&self) -> &[PepperId] {
        &self.peppers
    }

    /// The listener for an address of the configuration, if it was left.
    pub(crate) fn take(&mut self, role: Role, address: SocketAddr) -> Option<TcpListener> {
        let wanted = Name { role, address };
        let place = self.listeners.iter().position(|(name, _)| *name == wanted)?;
        Some(self.listeners.remove(place).1)
    }

    /// Waits until the store can be opened. What was left and not taken is closed.
    pub(crate) async fn wait_for_store(&mut self) -> io::Result<()> {
        self.listeners.clear();
        let Some(channel) = &mut self.channel else { return Ok(()) };
        channel.say(&FromNew::Prepared).await?;
        match channel.hear(RELEASE_MAX).await {
            Ok(FromOld::Released) => Ok(()),
            Ok(FromOld::Listeners { .. }) => Err(io::Error::other("not what comes next")),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                // It was about to end anyway, and its store is free.
                tracing::warn!("the process before this one is gone: going on without it");
                self.channel = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the old process that this one serves, and from then on what it asks and has to know about
    /// keys. `changes` are all since the store was opened. The task ends when that process has.
    pub(crate) async fn take_over<S: KeyStore>(
        self,
        keys: &Arc<CachedKeys<S>>,
        changes: Receiver<Subject>,
    ) -> Option<JoinHandle<()>> {
        let mut channel = self.channel?;
        if let Err(error) = channel.say(&FromNew::Ready).await {
            tracing::warn!(%error, "the process before this one is gone: going on without it");
            return None;
        }
        let keys = Arc::clone(keys);
        Some(tokio::spawn(async move {
            serve_predecessor(channel.into_stream(), &keys, changes).await;
        }))
    }
}

fn store_path(config: &Config) -> Option<PathBuf> {
    match &config.store {
        StoreSettings::Embedded(settings) => Some(settings.path.clone()),
        StoreSettings::Redis(_) => None,
    }
}
