//! The tasks that look after targets: they begin when the proxy runs, follow each configuration, and
//! end with it. What a configuration no longer names is left alone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use keygate_config::Upstream;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::server::configuration::ServerConf;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::UpstreamPeers;
use super::checks::keep_checking;
use super::names::{LookUp, is_name, keep_looking_up, system};
use super::state::{TargetState, UpstreamState, lock};

/// How far apart two waits of one length may be, so that gateways do not ask in step.
const JITTER: f64 = 0.2;

/// What all tasks of a gateway share. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Upkeep(Arc<Shared>);

struct Shared {
    look_up: LookUp,
    /// Where the tasks run, once the proxy does.
    runtime: OnceLock<Handle>,
    /// For checks: requests have their own.
    connector: OnceLock<Arc<Connector>>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self::with(system())
    }
}

impl Upkeep {
    pub(crate) fn with(look_up: LookUp) -> Self {
        let (runtime, connector) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Shared { look_up, runtime, connector }))
    }

    pub(crate) fn look_up(&self) -> &LookUp {
        &self.0.look_up
    }

    /// Says how checks connect: as requests do, who have other connections.
    pub(crate) fn connect_by(&self, conf: &ServerConf) {
        let options = || ConnectorOptions::from_server_conf(conf);
        self.0.connector.get_or_init(|| Arc::new(Connector::new(Some(options()))));
    }

    /// From here on tasks run on the runtime that this is called on.
    pub(crate) fn begin(&self, upstreams: &[UpstreamPeers]) {
        self.0.runtime.get_or_init(Handle::current);
        self.look_after(upstreams);
    }

    /// Another configuration is current. Before there is a runtime there is nothing to do.
    pub(crate) fn follow(&self, before: &[UpstreamPeers], now: &[UpstreamPeers]) {
        self.look_after(now);
        let is_named: HashSet<_> = targets(now).map(Arc::as_ptr).collect();
        let gone = targets(before).filter(|target| !is_named.contains(&Arc::as_ptr(target)));
        gone.for_each(|target| target.tasks.end());
    }

    fn look_after(&self, upstreams: &[UpstreamPeers]) {
        let Some(runtime) = self.0.runtime.get() else { return };
        for upstream in upstreams {
            let (state, setup) = (&upstream.state, &upstream.setup);
            state.setup.send_if_modified(|known| {
                let differs = !Arc::ptr_eq(known, setup);
                *known = Arc::clone(setup);
                differs
            });
            for target in &upstream.targets {
                self.look_after_target(runtime, state, &setup.settings, target);
            }
        }
    }

    fn look_after_target(
        &self,
        runtime: &Handle,
        upstream: &Arc<UpstreamState>,
        settings: &Upstream,
        target: &Arc<TargetState>,
    ) {
        let own = || (Arc::clone(upstream), Arc::clone(target));
        let mut running = lock(&target.tasks.0);
        if is_name(&target.target) && running.names.is_none() {
            let (upstream, target) = own();
            let task = keep_looking_up(upstream, target, Arc::clone(&self.0.look_up));
            running.names = Some(runtime.spawn(task).abort_handle());
        }
        match (&settings.health_check, &running.checks) {
            (Some(_), None) => {
                let connector = self.0.connector.get_or_init(|| Arc::new(Connector::new(None)));
                let (upstream, target) = own();
                let task = keep_checking(upstream, target, Arc::clone(connector));
                running.checks = Some(runtime.spawn(task).abort_handle());
            }
            (None, Some(checks)) => {
                checks.abort();
                running.checks = None;
                target.endpoints().iter().for_each(|endpoint| endpoint.forget_checks());
                upstream.has_changed();
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

fn targets(upstreams: &[UpstreamPeers]) -> impl Iterator<Item = &Arc<TargetState>> {
    upstreams.iter().flat_map(|upstream| &upstream.targets)
}

/// The tasks of one target.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<Running>);

#[derive(Default)]
struct Running {
    names: Option<AbortHandle>,
    checks: Option<AbortHandle>,
}

impl Tasks {
    fn end(&self) {
        let Running { names, checks } = std::mem::take(&mut *lock(&self.0));
        names.into_iter().chain(checks).for_each(|task| task.abort());
    }
}

/// A little more or less than this.
pub(crate) fn jittered(span: Duration) -> Duration {
    span.mul_f64(1.0 - JITTER / 2.0 + fastrand::f64() * JITTER)
}
