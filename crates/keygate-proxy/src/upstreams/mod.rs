//! The services behind the gateway: who gets a request, who is kept out, and who may be asked after
//! that. What is known of targets outlives a reload; how they are connected to is the snapshot's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use keygate_config::{Balance, Config, HashBy, Target, Upstream, WeightedTarget};
use keygate_core::KeyRecord;
use keygate_core::balance::hash;
use keygate_core::health::{Census, may_time_out, time_out};
use keygate_telemetry::{Metrics, TargetReading, UpstreamMetrics};
use pingora::upstreams::peer::HttpPeer;
use quanta::Instant;

use crate::server::ProxyError;

mod checks;
mod names;
mod peer;
mod pool;
pub(crate) mod retry;
mod state;
pub(crate) mod trust;
mod upkeep;

use peer::PeerTemplate;
pub(crate) use peer::WAIT_MIN;
use pool::Pool;
pub(crate) use retry::Tries;
use state::{Busy, Endpoint, TargetState, UpstreamState, lock, nanos};
pub(crate) use upkeep::Upkeep;

/// One upstream, as one configuration has it.
pub(crate) struct UpstreamPeers {
    pub metrics: UpstreamMetrics,
    setup: Arc<Setup>,
    state: Arc<UpstreamState>,
    /// In the order of the settings.
    targets: Vec<Arc<TargetState>>,
    pool: ArcSwap<Pool>,
}

/// An upstream's settings, and how its targets are connected to by them.
struct Setup {
    settings: Arc<Upstream>,
    template: PeerTemplate,
}

impl Setup {
    fn new(settings: &Arc<Upstream>) -> Result<Arc<Self>, ProxyError> {
        let template = PeerTemplate::new(settings)?;
        Ok(Arc::new(Self { settings: Arc::clone(settings), template }))
    }
}

/// Who makes a request.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub key: Option<&'a KeyRecord>,
    /// Behind the proxies that are believed.
    pub address: IpAddr,
}

/// The upstreams of a configuration, in its order. What is known of them already is taken over; names
/// that are new are looked up, which blocks.
///
/// # Errors
/// [`ProxyError::Target`] when a new name has no address, [`ProxyError::Certificate`] when one cannot be
/// used.
pub(crate) fn of_config(
    config: &Config,
    metrics: &Metrics,
    upkeep: &Upkeep,
    before: &[UpstreamPeers],
) -> Result<Vec<UpstreamPeers>, ProxyError> {
    let known: HashMap<&str, &UpstreamPeers> =
        before.iter().map(|upstream| (&*upstream.settings().name, upstream)).collect();
    let new = |settings: &Arc<Upstream>| {
        let known = known.get(&*settings.name).copied();
        UpstreamPeers::new(settings, metrics, upkeep, known)
    };
    config.upstreams.iter().map(new).collect()
}

impl UpstreamPeers {
    fn new(
        settings: &Arc<Upstream>,
        metrics: &Metrics,
        upkeep: &Upkeep,
        known: Option<&Self>,
    ) -> Result<Self, ProxyError> {
        let metrics = metrics.upstream(&settings.name);
        let setup = match known.map(|known| &known.setup) {
            Some(setup) if setup.settings == *settings => Arc::clone(setup),
            Some(_) | None => Setup::new(settings)?,
        };
        let state = match known {
            Some(known) => Arc::clone(&known.state),
            None => Arc::new(UpstreamState::new(&setup, metrics.answered())),
        };
        let target = |one: &WeightedTarget| match known.and_then(|known| known.target(&one.target))
        {
            Some(target) => Ok(Arc::clone(target)),
            None => {
                let addresses = names::addresses(&one.target, upkeep.look_up())?;
                Ok(Arc::new(TargetState::new(one.target.clone(), &addresses)))
            }
        };
        Ok(Self {
            metrics,
            setup,
            state,
            targets: settings.targets.iter().map(target).collect::<Result<_, _>>()?,
            pool: ArcSwap::from_pointee(Pool::empty()),
        })
    }

    pub(crate) fn settings(&self) -> &Upstream {
        &self.setup.settings
    }

    fn target(&self, target: &Target) -> Option<&Arc<TargetState>> {
        self.targets.iter().find(|known| known.target == *target)
    }

    /// Who gets this request, and how that one is connected to; nobody if none is healthy.
    pub(crate) fn choose(
        &self,
        caller: Caller<'_>,
        tries: &mut Tries,
        now: Instant,
    ) -> Option<Box<HttpPeer>> {
        let pool = self.pool(now);
        // A further attempt takes nobody's turn: two targets would get all first attempts and all second
        // ones.
        let is_first = tries.failed().is_empty();
        let turn = || if is_first { self.state.next_turn() } else { fastrand::usize(..) };
        let caller = || self.hash(caller);
        let seat = pool.choose(self.settings().balance, tries.failed(), turn, caller)?;
        tries.begin(pool.has_choice().then(|| Busy::new(&seat.endpoint)), seat.host.clone());
        Some(Box::new(HttpPeer::clone(&seat.template)))
    }

    /// Whether an endpoint gets requests that is not among these.
    fn has_other(&self, tried: &[Arc<Endpoint>], now: Instant) -> bool {
        self.pool(now).has_other(tried)
    }

    /// The endpoints as they are now.
    fn pool(&self, now: Instant) -> Guard<Arc<Pool>> {
        let pool = self.pool.load();
        let changes = self.state.changes();
        let now_ns = || self.state.now_ns(now);
        if pool.is_current(changes, now_ns) {
            return pool;
        }
        let next = Pool::new(&self.setup, &self.targets, changes, now_ns(), &pool);
        self.state.set_down(next.is_empty());
        // If another request was faster the two are the same, or the next request makes a third one.
        self.pool.store(Arc::new(next));
        self.pool.load()
    }

    /// Who makes a request, for the one who always gets theirs.
    fn hash(&self, caller: Caller<'_>) -> u64 {
        match (self.settings().balance, caller.key) {
            (Balance::Hash(HashBy::Key), Some(key)) => hash(&key.id.text()),
            (Balance::Hash(HashBy::App), Some(key)) => hash(&key.app.text()),
            (Balance::Hash(_) | Balance::RoundRobin | Balance::LeastConnections, _) => {
                match caller.address.to_canonical() {
                    IpAddr::V4(address) => hash(&address.octets()),
                    IpAddr::V6(address) => hash(&address.octets()),
                }
            }
        }
    }

    /// An endpoint failed a request. If it fails too many in a row it is kept out for a while.
    fn has_failed(&self, endpoint: &Arc<Endpoint>, now: Instant) {
        let Some(ejection) = &self.settings().ejection else { return };
        let failures = endpoint.failed();
        if failures < ejection.failures {
            return;
        }
        let _one_at_a_time = lock(&self.state.keeping_out);
        let (pool, now_ns) = (self.pool(now), self.state.now_ns(now));
        let is_out = |endpoint: &Arc<Endpoint>| endpoint.out_until_ns() > now_ns;
        let census = Census {
            all: pool.all().count(),
            out: pool.all().filter(|seat| is_out(&seat.endpoint)).count(),
            others: pool.others(endpoint),
        };
        if is_out(endpoint) || !may_time_out(census, ejection.max_percent) {
            return;
        }
        let span = time_out(ejection.duration, endpoint.times_out());
        endpoint.keep_out(now_ns.saturating_add(nanos(span)));
        self.state.has_changed();
        let (upstream, address, ms) = (&*self.settings().name, endpoint.address, span.as_millis());
        tracing::warn!(upstream, %address, failures, ms, "a target fails requests: it gets none for a while");
    }

    /// How each target is.
    pub(crate) fn readings(&self, now: Instant) -> impl Iterator<Item = TargetReading> {
        let now_ns = self.state.now_ns(now);
        self.targets.iter().map(move |target| {
            let endpoints = target.endpoints();
            let count = |is: &dyn Fn(&Endpoint) -> bool| {
                endpoints.iter().filter(|endpoint| is(endpoint)).count() as u64
            };
            TargetReading {
                upstream: self.settings().name.to_string(),
                target: target.target.to_string(),
                addresses: endpoints.len() as u64,
                healthy: count(&|endpoint| endpoint.is_healthy()),
                ejected: count(&|endpoint| endpoint.out_until_ns() > now_ns),
            }
        })
    }
}

#[cfg(test)]
mod tests;
