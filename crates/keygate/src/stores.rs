//! Opens the store that the configuration names, for the gateway and for the commands that work on
//! it directly.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keygate_config::{Config, Store as StoreSettings};
use keygate_core::UnixMillis;
use keygate_store::coherence::Coherence;
use keygate_store::embedded::{EmbeddedStore, OpenError};
use keygate_store::fleet::{Gateway, HeldPeppers, LinkState};
use keygate_store::limits::Limiter;
use keygate_store::redis::{LinkObserver, RedisStore};
use keygate_store::store::Store;

use crate::clock;
use crate::failure::{Exit, Failure};

/// How long a command waits for Redis.
const REACH_MAX: Duration = Duration::from_secs(5);
/// A name is for people; what is longer is cut.
const NAME_LENGTH_MAX: usize = 64;

/// What a store needs to know of who opens it.
pub(crate) struct Opener {
    pub(crate) gateway: Gateway,
    /// What its fleet is told that it has.
    pub(crate) peppers: HeldPeppers,
    /// As [`coherence`] makes it for the same configuration.
    pub(crate) coherence: Arc<Coherence>,
    pub(crate) observer: Arc<dyn LinkObserver>,
}

/// Opens the store. Blocks on an embedded one, for as long as its file takes to check; one in Redis
/// is there at once, and reached when it can be. To be called within a runtime.
pub(crate) fn open(config: &Config, opener: Opener) -> Result<Store, Failure> {
    match &config.store {
        StoreSettings::Embedded(settings) => {
            let store = EmbeddedStore::open(&settings.path).context("cannot open the store")?;
            Ok(Store::Embedded(store))
        }
        StoreSettings::Redis(settings) => {
            let Opener { gateway, peppers, coherence, observer } = opener;
            let store = RedisStore::start_with(settings, gateway, peppers, coherence, observer)
                .context("cannot connect to the store")?;
            Ok(Store::Redis(store))
        }
    }
}

/// What a cache in front of the configured store shares with it.
pub(crate) fn coherence(config: &Config) -> Arc<Coherence> {
    Arc::new(match &config.store {
        StoreSettings::Embedded(_) => Coherence::alone(),
        StoreSettings::Redis(_) => Coherence::followed(config.cache.stale_max),
    })
}

/// Who counts what keys use. The counts last as long as the store that was opened: they are beside an
/// embedded one, where no other process has them then, or in Redis. To be called within a runtime.
pub(crate) fn limiter(config: &Config, store: &Store) -> Result<Limiter, Failure> {
    match (&config.store, store) {
        (StoreSettings::Embedded(settings), _) => {
            let limiter = Limiter::on_file(&quotas_path(&settings.path), clock::now);
            Ok(limiter.context("cannot open the file of quotas")?)
        }
        (StoreSettings::Redis(_), Store::Redis(redis)) => {
            Ok(Limiter::leased(redis.lessor(), config.limits.lease, clock::now))
        }
        (StoreSettings::Redis(_), Store::Embedded(_)) => {
            Err(Failure::new(Exit::Failed, "the store that is open is not the configured one"))
        }
    }
}

/// Beside the store: `keygate.db.quotas`.
fn quotas_path(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(".quotas");
    path.into()
}

/// This process, as the other gateways of its fleet see it.
pub(crate) fn this_gateway(started_at: UnixMillis) -> Result<Gateway, Failure> {
    let mut id = [0; 8];
    getrandom::fill(&mut id)
        .map_err(anyhow::Error::msg)
        .context("the operating system gives no randomness")?;
    Ok(Gateway { id: format!("gw_{:016x}", u64::from_be_bytes(id)), ..nobody(started_at) })
}

/// A process that works on the store and is no gateway: it has no id, and is not reported.
fn nobody(started_at: UnixMillis) -> Gateway {
    let machine = rustix::system::uname();
    let name = machine.nodename().to_string_lossy();
    Gateway {
        id: String::new(),
        name: name.chars().take(NAME_LENGTH_MAX).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at,
    }
}

/// Whether an embedded store that is not there may be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Make,
    Fail,
}

/// Opens the store for a command, and waits until it can be used.
///
/// Says what to do when a gateway has an embedded store open: one process at a time can.
pub(crate) async fn open_for_command(
    config: &Config,
    now: UnixMillis,
    if_missing: IfMissing,
) -> Result<Store, Failure> {
    if let StoreSettings::Embedded(settings) = &config.store {
        return open_file(&settings.path, if_missing).map(Store::Embedded);
    }
    let (gateway, coherence) = (nobody(now), coherence(config));
    let (peppers, observer) = (HeldPeppers::default(), Arc::new(NoObserver));
    let store = open(config, Opener { gateway, peppers, coherence, observer })?;
    if let Store::Redis(redis) = &store
        && !redis.reached(REACH_MAX).await
    {
        let why = format!(
            "the store in Redis was not reached within {} s: check `[store]`, and that it runs",
            REACH_MAX.as_secs()
        );
        return Err(Failure::new(Exit::Unreachable, why));
    }
    Ok(store)
}

fn open_file(path: &Path, if_missing: IfMissing) -> Result<EmbeddedStore, Failure> {
    if if_missing == IfMissing::Fail && !path.exists() {
        let why = format!("there is no store at {}: check `[store] path`", path.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    EmbeddedStore::open(path).map_err(|error| {
        if let OpenError::InUse { path } = error {
            let why = format!(
                "{} is open in another process, and only one at a time can have it: stop the gateway, \
                 run this again, and start it",
                path.display()
            );
            return Failure::new(Exit::Failed, why);
        }
        anyhow::Error::new(error).context("cannot open the store").into()
    })
}

/// For who has no metrics.
pub(crate) struct NoObserver;

impl LinkObserver for NoObserver {
    fn link(&self, _state: LinkState) {}

    fn change_applied(&self, _lag: Duration) {}
}
