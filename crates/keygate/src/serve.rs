//! All wiring, in the order in which a gateway comes up: configuration, log, store, secrets,
//! listeners, metrics, cache, proxy, admin API. And how it goes down again.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use keygate_admin::{AdminParts, Registry, RegistryParts, Reloader};
use keygate_config::live::Current;
use keygate_config::{Config, Live};
use keygate_core::limit::{Rate, Unit};
use keygate_proxy::{Gateway, GatewayParts, Running};
use keygate_store::cached::CachedKeys;
use keygate_store::failures::FailureLimiter;
use keygate_store::keys::KeyStore;
use keygate_store::limits::Limiter;
use keygate_store::observed::Observed;
use keygate_store::store::Store as AnyStore;
use keygate_store::usage::Uses;
use keygate_telemetry::Metrics;
use keygate_telemetry::logging::{self, Log};
use tokio::sync::Notify;

use crate::control::Control;
use crate::failure::{Exit, Failure};
use crate::first_start::{self, Secrets};
use crate::pepper_watch::{PepperState, peppers_in_use, readiness, watch_peppers};
use crate::reload::{Files, Origin, reload_on};
use crate::shutdown::{Signals, wait_until};
use crate::stores::{self, Opener};
use crate::{audit_sink, clock, listen, observe};

/// The threads of the admin API and of everything else that is not a client's request.
const CORE_THREADS: usize = 2;
/// How long what still runs may take to finish, once no client is left.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// How often one client network may send a wrong admin token.
const WRONG_TOKENS: Rate = Rate { count: 60, unit: Unit::Minute };
const WRONG_TOKEN_ADDRESSES_MAX: u64 = 4_096;

/// The one store that this binary is built with.
pub(crate) type Store = Observed<AnyStore>;

/// Runs a gateway until it is told to stop.
pub(crate) fn run(origin: Origin) -> Result<(), Failure> {
    let config = Arc::new(origin.first()?);
    let log = logging::init(config.log.level).context("cannot start the log")?;
    block_on(async {
        let serving = start(origin, config, &log).await?;
        serving.until_stopped().await
    })
}

/// Reads a configuration, and says on standard error what may not be meant.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    Origin::file(path).first()
}

/// Runs `future` on the core runtime. Clients' requests have threads of their own.
pub(crate) fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CORE_THREADS)
        .thread_name("keygate-core")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(GOODBYE_MAX);
    outcome
}

/// A gateway that is up.
pub(crate) struct Serving {
    /// What it began with.
    config: Arc<Config>,
    pub(crate) live: Live,
    pub(crate) keys: Arc<CachedKeys<Store>>,
    reloader: Reloader<Store>,
    limiter: Limiter,
    uses: Uses,
    audit_sink: Option<audit_sink::Sink>,
    proxy: Running,
    admin: Control,
    stopping: Arc<AtomicBool>,
    signals: Signals,
}

/// Brings a gateway up with the configuration that its origin holds now. When this fails, nothing was
/// served.
pub(crate) async fn start(
    origin: Origin,
    config: Arc<Config>,
    log: &Log,
) -> Result<Serving, Failure> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let this = stores::this_gateway(clock::now())?;
    let coherence = stores::coherence(&config);
    let held = first_start::held_peppers(&config.keys);
    let opener = Opener {
        gateway: this.clone(),
        peppers: held.clone(),
        coherence: Arc::clone(&coherence),
        observer: observe::link_observer(&metrics),
    };
    // Blocks, but nothing else runs yet.
    let store = stores::open(&config, opener)?;
    let limiter = stores::limiter(&config, &store)?;
    let in_use = peppers_in_use(&store, &this).await?;
    let secrets = first_start::load_or_make(&config.keys, &config.admin, in_use.as_deref())?;
    log_secrets(&secrets);
    let Secrets { peppers, token_sha256, made: _, exposed: _ } = secrets;

    let listeners = Listeners::bind(&config)?;

    metrics.config_loaded(clock::now());
    metrics.counter_fn(
        "keygate_log_lines_dropped_total",
        "Lines of the log that nobody read in time.",
        log.dropped_lines(),
    );
    let keys =
        Arc::new(CachedKeys::new(observe::observed(store, &metrics), coherence, &config.cache));
    observe::publish_cache(&keys, &metrics);
    observe::publish_limits(&limiter, &metrics);
    let uses = Uses::default();
    observe::publish_uses(&uses, &metrics);
    let failed_auth = &config.server.failed_auth;
    let failures = Arc::new(FailureLimiter::new(failed_auth.rate, failed_auth.addresses_max));
    let live = Live::new(Arc::clone(&config), Arc::new(peppers));
    let gateway = Gateway::new(GatewayParts {
        current: Current::clone(&live.current()),
        keys: Arc::clone(&keys),
        failures,
        limiter: limiter.clone(),
        uses: uses.clone(),
        metrics: metrics.clone(),
        clock: clock::now,
    })
    .context("cannot set up the gateway")?;
    let files = Files::new(origin, live.clone(), gateway.changer(), held, log.level());
    let blocked = Arc::new(gateway.blocked());

    drop(tokio::spawn(limiter.clone().sweep()));
    drop(tokio::spawn(uses.clone().run(Arc::clone(&keys))));
    let proxy = keygate_proxy::start(gateway, listeners.proxy).context("cannot serve")?;
    // Only now, so that a gateway that answers `/readyz` is one that answers clients.
    let stopping = Arc::new(AtomicBool::new(false));
    let checked = if in_use.is_some() { PepperState::Fine } else { PepperState::Unchecked };
    let pepper_states = watch_peppers(&keys, &live, checked);
    let registry = Registry::new(RegistryParts {
        keys: Arc::clone(&keys),
        limiter: limiter.clone(),
        blocked,
        live: live.clone(),
        metrics: metrics.keys(),
        clock: clock::now,
        gateway: this,
    });
    drop(tokio::spawn(registry.clone().count_keys_for_ever(metrics.clone())));
    let audit_sink = audit_sink::start(&config.audit, &registry, log, &metrics)?;
    let wrong_tokens = FailureLimiter::new(WRONG_TOKENS, WRONG_TOKEN_ADDRESSES_MAX);
    let reloader = Reloader::new(registry.clone(), Arc::new(files), metrics.reload());
    let parts = AdminParts {
        registry,
        reloader: reloader.clone(),
        token_sha256,
        failures: Arc::new(wrong_tokens),
        ready: readiness(&stopping, pepper_states),
        metrics,
    };
    let admin = Control::start(listeners.admin, keygate_admin::router(parts))?;

    let listen = config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    tracing::info!(listen = listen.join(" "), admin = %config.admin.listen, "ready");
    Ok(Serving {
        config,
        live,
        keys,
        reloader,
        limiter,
        uses,
        audit_sink,
        proxy,
        admin,
        stopping,
        signals,
    })
}

fn log_secrets(secrets: &Secrets) {
    for made in &secrets.made {
        tracing::info!(path = %made.path.display(), "first start: made the {}", made.what);
    }
    for path in &secrets.exposed {
        tracing::warn!(path = %path.display(), "others can read this secret: chmod 600 it");
    }
}

struct Listeners {
    proxy: Vec<TcpListener>,
    admin: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, Failure> {
        let proxy = config.server.listen.iter().map(|&at| listen::bind(at, "`[server] listen`"));
        let proxy = proxy.collect::<Result<_, _>>()?;
        Ok(Self { proxy, admin: listen::bind(config.admin.listen, "`[admin] listen`")? })
    }
}

impl Serving {
    /// Serves until a signal, then lets what runs finish. Returns once all is done or time is up.
    pub(crate) async fn until_stopped(mut self) -> Result<(), Failure> {
        let hung_up = Notify::new();
        let signal = tokio::select! {
            signal = self.signals.next(&hung_up) => Some(signal),
            () = ended(&self.proxy) => None,
            never = reload_on(&hung_up, &self.reloader) => match never {},
        };
        self.stopping.store(true, Ordering::Release);
        if let Some(signal) = signal {
            tracing::info!(signal, "stopping");
            let Self { signals, live, config, proxy, .. } = &mut self;
            tokio::select! {
                () = drain(live, config, proxy) => {}
                signal = signals.next(&hung_up) => tracing::warn!(signal, "told twice: stopping now"),
            }
        }
        self.say_goodbye().await;
        match signal {
            Some(_) => Ok(()),
            None => Err(Failure::new(Exit::Failed, "the gateway stopped by itself: see the log")),
        }
    }

    /// Once no client is served any more, whyever.
    async fn say_goodbye(self) {
        self.admin.stop().await;
        if let Some(sink) = self.audit_sink {
            sink.stop().await;
        }
        self.limiter.stop().await;
        self.uses.stop(self.keys.store()).await;
        if let Err(error) = self.keys.store().leave().await {
            tracing::debug!(%error, "the fleet was not told that this gateway stops");
        }
        tracing::info!("stopped");
    }
}

/// Waits for what must not happen, and so looks seldom.
async fn ended(proxy: &Running) {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    while !proxy.has_ended() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn drain(live: &Live, began_with: &Config, proxy: &Running) {
    // Load balancers still send requests until they have seen that we are not ready.
    tokio::time::sleep(live.config().server.shutdown_delay).await;
    proxy.stop();
    let drained = || proxy.open_connections() == 0;
    if !wait_until(drained, began_with.server.drain_timeout).await {
        let open = proxy.open_connections();
        tracing::warn!(open, "the drain timeout is over: connections are cut");
    }
}
