//! All wiring, in the order in which a gateway comes up: configuration, log, store, secrets,
//! listeners, metrics, cache, proxy, admin API. How it goes down again is in `ending.rs`.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use keygate_admin::{AdminParts, Registry, RegistryParts, Reloader};
use keygate_config::live::Current;
use keygate_config::{Config, Live};
use keygate_core::key::PepperId;
use keygate_core::limit::{Rate, Unit};
use keygate_proxy::report::{AccessLog, Reporters, Traces};
use keygate_proxy::{Gateway, GatewayParts, Groundwork, Listener, Running};
use keygate_store::cached::CachedKeys;
use keygate_store::failures::FailureLimiter;
use keygate_store::limits::Limiter;
use keygate_store::observed::Observed;
use keygate_store::store::Store as AnyStore;
use keygate_store::usage::{Sending, UsageCounter};
use keygate_telemetry::Metrics;
use keygate_telemetry::logging::{self, Log};
use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::audit_sink::AuditCopy;
use crate::control::Control;
use crate::failure::{Exit, Failure};
use crate::first_start::{self, Secrets};
use crate::handover::{Handles, Inheritance, NOT_TAKEN_OVER, Program, Role};
use crate::pepper_watch::{PepperState, peppers_in_use, readiness, watch_peppers};
use crate::reload::{Files, Origin, read_peppers};
use crate::reporting::reporters;
use crate::shutdown::Signals;
use crate::stores::{self, Opener};
use crate::usage::sending;
use crate::{audit_sink, clock, listen, observe, shutdown};

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
pub(crate) fn run(origin: Origin, takes_over: bool) -> Result<(), Failure> {
    let config = Arc::new(origin.first()?);
    let log = logging::init(config.log.level).context("cannot start the log")?;
    block_on(async {
        let inheritance = match takes_over {
            true => Inheritance::ask(&io::stdin(), &config).await.context(NOT_TAKEN_OVER)?,
            false => Inheritance::default(),
        };
        let mut serving = start(origin, config, &log, inheritance).await?;
        serving.program = Some(Program::of_this_process());
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
    pub(crate) config: Arc<Config>,
    pub(crate) live: Live,
    pub(crate) keys: Arc<CachedKeys<Store>>,
    pub(crate) files: Arc<Files>,
    pub(crate) reloader: Reloader<Store>,
    pub(crate) limiter: Limiter,
    pub(crate) traces: Traces,
    pub(crate) usage: UsageCounter,
    pub(crate) sending: Arc<Sending>,
    pub(crate) audit_copy: AuditCopy<Store>,
    /// Until it has stopped; and so is what follows.
    pub(crate) audit_sink: Option<audit_sink::Sink>,
    pub(crate) admin: Option<Control>,
    pub(crate) proxy: Running,
    pub(crate) handles: Handles,
    /// What to start when another process is to take over, if one can.
    pub(crate) program: Option<Program>,
    /// Ends when the process that was there before has ended.
    pub(crate) predecessor: Option<JoinHandle<()>>,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) signals: Signals,
    pub(crate) access_log: AccessLog,
}

/// Brings a gateway up with the configuration that its origin holds now. When this fails, nothing was
/// served.
pub(crate) async fn start(
    origin: Origin,
    config: Arc<Config>,
    log: &Log,
    mut inheritance: Inheritance,
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
    // Whoever takes over finds out what is wrong before anybody depends on it.
    let early = match inheritance.is_there() {
        true => Some(Prepared::for_take_over(&config, &metrics, &this.id, &mut inheritance)?),
        false => None,
    };
    inheritance.wait_for_store().await.context("cannot take over")?;
    // Blocks, but nothing else runs yet.
    let store = stores::open(&config, opener)?;
    let limiter = stores::limiter(&config, &store)?;
    let in_use = peppers_in_use(&store, &this).await?;
    let prepared = match early {
        Some(prepared) => prepared,
        None => Prepared::new(&config, &metrics, &this.id, in_use.as_deref(), &mut inheritance)?,
    };
    let Prepared { listeners, live, token_sha256, groundwork, reporters, usage } = prepared;

    let access_log = reporters.access_log.clone();
    let log_file = access_log.clone();
    shutdown::on_reopen(move || log_file.reopen()).context("cannot catch signals")?;
    metrics.config_loaded(clock::now());
    metrics.counter_fn(
        "keygate_log_lines_dropped_total",
        "Lines of the log that nobody read in time.",
        log.dropped_lines(),
    );
    let keys =
        Arc::new(CachedKeys::new(observe::observed(store, &metrics), coherence, &config.cache));
    // From before anything can be changed.
    let changes = keys.coherence().invalidations();
    observe::publish_cache(&keys, &metrics);
    observe::publish_limits(&limiter, &metrics);
    observe::publish_usage(&usage, &metrics);
    let failed_auth = &config.server.failed_auth;
    let failures = Arc::new(FailureLimiter::new(failed_auth.rate, failed_auth.addresses_max));
    let gateway = Gateway::new(GatewayParts {
        groundwork,
        keys: Arc::clone(&keys),
        failures: Arc::clone(&failures),
        limiter: limiter.clone(),
        metrics: metrics.clone(),
        clock: clock::now,
    });
    let changer = gateway.changer();
    let files = Files::new(origin, live.clone(), changer, failures, held, log.level());
    let files = Arc::new(files);
    let blocked = Arc::new(gateway.blocked());

    drop(tokio::spawn(limiter.clone().sweep()));
    let sending = Arc::new(sending(&live));
    drop(tokio::spawn(usage.clone().run(Arc::clone(&keys), Arc::clone(&sending))));
    let top = reporters.top.clone();
    drop(tokio::spawn(top.clone().run(clock::now)));
    let proxy = keygate_proxy::start(gateway, listeners.proxy).context("cannot serve")?;
    // Only now, so that a gateway that answers `/readyz` is one that answers clients.
    let stopping = Arc::new(AtomicBool::new(false));
    let checked = if in_use.is_some() { PepperState::Fine } else { PepperState::Unchecked };
    let pepper_states = watch_peppers(&keys, &live, checked);
    let registry = Registry::new(RegistryParts {
        keys: Arc::clone(&keys),
        limiter: limiter.clone(),
        blocked,
        top: Arc::new(move |query| top.list(query)),
        live: live.clone(),
        metrics: metrics.keys(),
        clock: clock::now,
        gateway: this,
    });
    drop(tokio::spawn(registry.clone().count_keys_for_ever(metrics.clone())));
    let audit_copy = AuditCopy::new(&config.audit, &registry, log, &metrics);
    let audit_sink = audit_copy.begin().await?;
    let wrong_tokens = FailureLimiter::new(WRONG_TOKENS, WRONG_TOKEN_ADDRESSES_MAX);
    let source = Arc::<Files>::clone(&files);
    let reloader = Reloader::new(registry.clone(), source, metrics.reload());
    let parts = AdminParts {
        registry,
        reloader: reloader.clone(),
        token_sha256,
        failures: Arc::new(wrong_tokens),
        ready: readiness(&stopping, pepper_states),
        metrics,
    };
    let admin = Control::start(listeners.admin, keygate_admin::router(parts))?;

    let predecessor = inheritance.take_over(&keys, changes).await;
    tell_supervisor(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
    let listen = config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    tracing::info!(listen = listen.join(" "), admin = %config.admin.listen, "ready");
    Ok(Serving {
        config,
        live,
        keys,
        files,
        reloader,
        limiter,
        traces: reporters.traces,
        usage,
        sending,
        audit_copy,
        audit_sink,
        admin: Some(admin),
        proxy,
        handles: listeners.handles,
        program: None,
        predecessor,
        stopping,
        signals,
        access_log,
    })
}

/// Tells systemd, if it wants to know.
pub(crate) fn tell_supervisor(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}

fn log_secrets(secrets: &Secrets) {
    for made in &secrets.made {
        tracing::info!(path = %made.path.display(), "first start: made the {}", made.what);
    }
    for path in &secrets.exposed {
        tracing::warn!(path = %path.display(), "others can read this secret: chmod 600 it");
    }
}

/// All that needs no store, or only to be told of it.
struct Prepared {
    listeners: Listeners,
    live: Live,
    token_sha256: [u8; 32],
    groundwork: Groundwork,
    reporters: Reporters,
    usage: UsageCounter,
}

impl Prepared {
    /// `in_use` are the peppers that live keys were made under, if the store could be asked.
    fn new(
        config: &Arc<Config>,
        metrics: &Metrics,
        gateway: &str,
        in_use: Option<&[PepperId]>,
        inheritance: &mut Inheritance,
    ) -> Result<Self, Failure> {
        let secrets = first_start::load_or_make(&config.keys, &config.admin, in_use)?;
        log_secrets(&secrets);
        let Secrets { peppers, token_sha256, made: _, exposed: _ } = secrets;
        let listeners = Listeners::bind(config, inheritance)?;
        let live = Live::new(Arc::clone(config), Arc::new(peppers));
        let usage = UsageCounter::open(&config.usage.path, clock::now())
            .context("cannot open the folder of counters")?;
        let reporters = reporters(config, metrics, gateway, &usage)?;
        let groundwork = Groundwork::new(Current::clone(&live.current()), metrics, &reporters)
            .context("cannot set up the gateway")?;
        Ok(Self { listeners, live, token_sha256, groundwork, reporters, usage })
    }

    /// The same for a process that takes over: nothing of it is new.
    fn for_take_over(
        config: &Arc<Config>,
        metrics: &Metrics,
        gateway: &str,
        inheritance: &mut Inheritance,
    ) -> Result<Self, Failure> {
        read_peppers(&config.keys).map_err(|fault| Failure::new(Exit::Failed, fault.message))?;
        audit_sink::check(&config.audit)?;
        let in_use = inheritance.peppers_in_use().to_vec();
        Self::new(config, metrics, gateway, Some(&in_use), inheritance)
    }
}

struct Listeners {
    proxy: Vec<Listener>,
    admin: TcpListener,
    handles: Handles,
}

impl Listeners {
    /// Takes what was left to this process, and binds the rest.
    fn bind(config: &Config, inheritance: &mut Inheritance) -> Result<Self, Failure> {
        let mut handles = Handles::default();
        let mut open = |role: Role, address, setting| {
            let listener = match inheritance.take(role, address) {
                Some(listener) => listener,
                None => listen::bind(address, setting)?,
            };
            handles.keep(role, address, &listener).context("cannot keep a listener")?;
            Ok::<_, Failure>(listener)
        };
        let mut proxy = Vec::new();
        for &at in &config.server.listen {
            proxy.push(Listener { socket: open(Role::Proxy, at, "`[server] listen`")?, tls: None });
        }
        for &at in config.server.tls.iter().flat_map(|tls| &tls.listen) {
            let socket = open(Role::Proxy, at, "`[[server.tls]] listen`")?;
            proxy.push(Listener { socket, tls: Some(at) });
        }
        let admin = open(Role::Admin, config.admin.listen, "`[admin] listen`")?;
        Ok(Self { proxy, admin, handles })
    }
}
