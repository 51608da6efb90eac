//! The gateway as a running Pingora server: its listeners, its threads, its stop.

use std::mem::take;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use keygate_config::{Config, Protocol, Upstream};
use keygate_store::keys::KeyStore;
use keygate_store::usage::UsageError;
use pingora::apps::HttpServerOptions;
use pingora::prelude::Server;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::accept::{Acceptor, Listener};
use crate::connection::{ConnectionParts, Connections, OpenConnections};
use crate::express::Lane;
use crate::gateway::{Gateway, Shared};
use crate::line::Lines;
use crate::snapshot::Snapshots;
use crate::sweep::Sweep;
use crate::upstreams::{Upkeep, trust};

/// More than any `drain_timeout`, which may change while the gateway runs.
const GRACE_SECONDS: u64 = 2 * 86_400;

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the upstream target {target} has no address; check its name")]
    Target { target: String, source: Option<std::io::Error> },
    #[error(
        "a certificate or key of the upstream {upstream} cannot be used; check its `[upstreams.{upstream}.tls]`"
    )]
    Certificate { upstream: String },
    #[error("the certificates of a listener cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the certificates that the system trusts cannot be put into a temporary file")]
    Trust(#[source] std::io::Error),
    #[error("a listener cannot be used")]
    Listener(#[source] std::io::Error),
    #[error(transparent)]
    Usage(UsageError),
    #[error("the gateway's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// A gateway that is serving. Dropping this leaves it serving.
pub struct Running {
    stop: watch::Sender<bool>,
    open: OpenConnections,
    lines: Lines,
    thread: JoinHandle<()>,
}

impl Running {
    /// Stops accepting connections. Requests that have begun go on; idle connections close.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Cuts off the requests that still run, so that each has its last word before the process ends.
    pub fn cut(&self) {
        self.lines.cut_all();
    }

    /// What is open: listeners, connections, requests. Zero after [`stop`](Self::stop) means that
    /// all has been served.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.open.count()
    }

    /// Whether the server has ended, which it does by itself only when it fails.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Serves on listeners that are bound already, so that a taken port was an error before this.
///
/// # Errors
/// [`ProxyError::Listener`] or [`ProxyError::Thread`].
pub fn start<S: KeyStore>(
    gateway: Gateway<S>,
    listeners: Vec<Listener>,
) -> Result<Running, ProxyError> {
    let config = Arc::clone(&gateway.snapshots().current().config);
    // Pingora reads it below, when the connections to upstreams are prepared.
    let trusted = trust::ca_file().map_err(ProxyError::Trust)?;
    let conf = server_conf(&config, trusted.as_deref());
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let open = OpenConnections::new(gateway.in_flight());
    let lines = gateway.lines();
    let (sweep, upkeep, snapshots) = (gateway.sweep(), gateway.upkeep(), gateway.snapshots());
    upkeep.connect_by(&server.configuration);
    let connections = connections(gateway, &server.configuration, open.clone());
    for listener in &listeners {
        // The runtime that watches it is made later: what could fail with it is done now.
        listener.socket.set_nonblocking(true).map_err(ProxyError::Listener)?;
    }
    server.add_service(Bound { connections, sweep, upkeep, snapshots, listeners });
    let (stop, stopped) = watch::channel(false);
    let run = move || server.run(RunArgs { shutdown_signal: Box::new(StopSignal(stopped)) });
    let thread = std::thread::Builder::new().name("pingora".to_owned()).spawn(run);
    Ok(Running { stop, open, lines, thread: thread.map_err(ProxyError::Thread)? })
}

fn connections<S: KeyStore>(
    gateway: Gateway<S>,
    conf: &Arc<ServerConf>,
    open: OpenConnections,
) -> Connections<S> {
    let (unrouted, metrics) = (gateway.unrouted(), gateway.connection_metrics());
    let (lines, snapshots) = (gateway.lines(), gateway.snapshots());
    let mut options = HttpServerOptions::default();
    // So that it reaches `admit`, which refuses it with a problem and counts it.
    options.allow_connect_method_proxying = true;
    let gateway = Arc::new(gateway);
    let idle_max = snapshots.current().config.server.upstream_idle_max / 2;
    let lane = Lane::new(Arc::clone(&gateway), conf, idle_max.max(1));
    let mut proxy = http_proxy(conf, Shared::new(gateway));
    proxy.server_options = Some(options);
    Connections::new(ConnectionParts { proxy, lane, lines, snapshots, unrouted, metrics, open })
}

fn server_conf(config: &Config, trusted: Option<&Path>) -> ServerConf {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = config.server.threads.unwrap_or_else(cores).max(1);
    // If the lane is on and leads anywhere, the other half is its own. Switched on later, it has that
    // much besides.
    let has_lane = config.server.express_lane
        && config.upstreams.iter().any(|upstream| upstream.protocol == Protocol::Http1);
    let idle_max = config.server.upstream_idle_max / if has_lane { 2 } else { 1 };
    ServerConf {
        threads,
        // Counts attempts, the first included. Each upstream has its own bound below this.
        max_retries: Upstream::RETRIES_MAX + 1,
        upstream_keepalive_pool_size: idle_max.max(1),
        ca_file: trusted.map(|path| path.to_string_lossy().into_owned()),
        // Pingora sleeps this long after a stop, whatever there is left to do; whoever stopped us
        // watches `open_connections`, and ends the process sooner.
        grace_period_seconds: Some(GRACE_SECONDS),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// The proxy as a service of Pingora's, with sockets that were bound before it.
struct Bound<S: KeyStore> {
    connections: Connections<S>,
    sweep: Sweep<S>,
    upkeep: Upkeep,
    snapshots: Snapshots,
    listeners: Vec<Listener>,
}

#[async_trait]
impl<S: KeyStore> ServiceWithDependents for Bound<S> {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        // Left to itself: what runs when the listeners are closed is still swept.
        drop(tokio::spawn(self.sweep.clone().run()));
        self.upkeep.begin(self.snapshots.current().upstreams());
        self.connections.begin();
        let mut accepting = JoinSet::new();
        for listener in take(&mut self.listeners) {
            match Acceptor::new(listener, self.connections.clone(), shutdown.clone()) {
                Ok(acceptor) => drop(accepting.spawn(acceptor.run())),
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        ready.notify_ready();
        let mut acceptors = Vec::new();
        while let Some(ended) = accepting.join_next().await {
            acceptors.extend(ended.ok());
        }
        self.connections.cleanup().await;
        acceptors.into_iter().for_each(Acceptor::run_out);
        self.connections.listeners_closed();
    }

    fn name(&self) -> &'static str {
        "proxy"
    }
}

/// Stops Pingora when we say so: signals are the binary's business.
struct StopSignal(watch::Receiver<bool>);

#[async_trait]
impl ShutdownSignalWatch for StopSignal {
    async fn recv(&self) -> ShutdownSignal {
        let mut stopped = self.0.clone();
        if stopped.wait_for(|stop| *stop).await.is_err() {
            // Whoever could stop us is gone, and so wants us to go on.
            std::future::pending::<()>().await;
        }
        ShutdownSignal::GracefulTerminate
    }
}
