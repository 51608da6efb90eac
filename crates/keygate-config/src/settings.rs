//! The settings as the program uses them. Everything here has passed validation.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::credential::CredentialRules;
use keygate_core::limit::Rate;
use keygate_core::limit::terms::Limits;
use keygate_core::network::Networks;
use keygate_core::route::RouteTable;

use crate::secrets::Secret;

mod listener;
mod observe;
mod route;
mod upstream;

pub use listener::{ClientAuth, Identity, TlsListener, TlsVersion};
pub use observe::{
    AccessLogSettings, AccessLogSink, ClientAddress, QueryShown, Sample, TracingSettings,
    UsageRetention, UsageSettings,
};
pub use route::{Cors, HeaderChanges, Respond, RouteSettings};
pub use upstream::{
    Balance, Ejection, HashBy, HealthCheck, HostRewrite, Protocol, Target, Upstream, UpstreamTls,
    WeightedTarget,
};

/// One whole, valid `gateway.toml`.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub keys: Keys,
    pub store: Store,
    pub cache: Cache,
    pub log: Log,
    pub audit: AuditSink,
    pub usage: UsageSettings,
    pub access_log: AccessLogSettings,
    pub tracing: TracingSettings,
    pub limits: LimitSettings,
    /// In the order of their names.
    pub tiers: Vec<Tier>,
    /// A route names its upstream by the place in this list.
    pub upstreams: Vec<Arc<Upstream>>,
    pub routes: RouteTable,
    /// In the order of the routes.
    pub route_settings: Vec<RouteSettings>,
    /// What is legal and probably not meant; to be shown to the operator.
    pub warnings: Vec<String>,
    /// Every setting that counts, with its value, as JSON. Holds no secret.
    pub shown: Box<str>,
}

impl Config {
    /// The limits of the tier of this name, if there is such a tier.
    #[must_use]
    pub fn tier(&self, name: &str) -> Option<&Limits> {
        self.tier_named(name).map(|tier| &tier.limits)
    }

    /// How old the keys of the tier of this name may get, if there is such a tier and it says so.
    #[must_use]
    pub fn tier_max_age(&self, name: &str) -> Option<Duration> {
        self.tier_named(name)?.max_age
    }

    fn tier_named(&self, name: &str) -> Option<&Tier> {
        let at = self.tiers.binary_search_by(|tier| (*tier.name).cmp(name)).ok()?;
        self.tiers.get(at)
    }
}

/// `[server]`: the listeners that clients talk to, and the bounds on what they may send.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Without TLS.
    pub listen: Vec<SocketAddr>,
    pub tls: Vec<TlsListener>,
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Networks,
    /// The most client connections at one time.
    pub connections_max: usize,
    /// The same, of one address.
    pub connections_per_address_max: Option<usize>,
    /// Worker threads; as many as there are cores if absent.
    pub threads: Option<usize>,
    pub headers_max: usize,
    pub header_bytes_max: usize,
    pub body_bytes_max: u64,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Between two reads of a request's body.
    pub body_timeout: Duration,
    /// Of a TLS handshake, from the connection's beginning.
    pub handshake_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keepalive_timeout: Duration,
    /// The most idle connections to upstreams that are kept, all together.
    pub upstream_idle_max: usize,
    /// Whether plain requests take the express lane.
    pub express_lane: bool,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    pub failed_auth: FailedAuth,
    /// Whether changed files are taken over without a word from anybody.
    pub watch_files: bool,
    /// From SIGTERM to the listeners' closing, with `/readyz` at 503 already.
    pub shutdown_delay: Duration,
    /// How long requests may finish after that.
    pub drain_timeout: Duration,
}

/// `[server.failed_auth]`: how often one client address may fail to authenticate.
#[derive(Debug, PartialEq, Eq)]
pub struct FailedAuth {
    pub rate: Rate,
    /// The most addresses that are remembered.
    pub addresses_max: u64,
}

/// `[admin]`: the admin API's listener.
#[derive(Debug, PartialEq, Eq)]
pub struct Admin {
    pub listen: SocketAddr,
    pub token_file: PathBuf,
}

/// `[keys]`: how keys are made and where requests may carry them.
#[derive(Debug, PartialEq, Eq)]
pub struct Keys {
    pub pepper_file: PathBuf,
    pub previous_pepper_files: Vec<PathBuf>,
    pub credentials: CredentialRules,
    /// The most keys of one app that are neither revoked nor expired.
    pub keys_max_live: u32,
    /// How long before a key's end its answers tell of it, if they do.
    pub expiry_notice: Option<Duration>,
}

/// `[store]`: where accounts, apps and keys are kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Store {
    Embedded(EmbeddedStore),
    Redis(Box<RedisStore>),
}

/// `kind = "embedded"`: one file on this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct EmbeddedStore {
    pub path: PathBuf,
}

/// `kind = "redis"`: a Redis or Valkey that a fleet of gateways shares.
#[derive(Debug, PartialEq, Eq)]
pub struct RedisStore {
    pub mode: RedisMode,
    /// From `urls`: the server, the sentinels, or some nodes of the cluster. At least one.
    pub servers: Vec<Target>,
    /// Given if the `urls` begin with `rediss:`; for the sentinels too.
    pub tls: Option<RedisTls>,
    pub login: RedisLogin,
    pub database: u32,
    /// What the names of all our keys begin with, in braces, so that one hash slot holds them.
    pub key_prefix: Box<str>,
    /// Connections for look-ups. One serves hundreds of thousands a second.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// How long a look-up may take.
    pub find_timeout: Duration,
    /// How long a write, or a list for the admin API, may take.
    pub write_timeout: Duration,
    /// Replicas that must have a change before it is acknowledged.
    pub wait_replicas: u32,
    /// How long they are waited for.
    pub wait_timeout: Duration,
    /// Changes that the log keeps, which is the audit log too.
    pub log_max: u64,
}

/// How the primary is found.
#[derive(Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// It is the one server.
    Single,
    /// The sentinels know.
    Sentinel {
        /// What the sentinels call it.
        service: Box<str>,
        login: RedisLogin,
    },
    /// The nodes of the cluster know.
    Cluster,
}

/// An ACL user, or the password of the default one, or neither.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RedisLogin {
    pub username: Option<Box<str>>,
    pub password: Option<Secret>,
}

/// The files are read when the configuration is.
#[derive(Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// Certificates in PEM to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    pub client: Option<RedisClientCertificate>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct RedisClientCertificate {
    /// In PEM, and so is the key.
    pub certificate: Vec<u8>,
    pub key: Secret,
}

/// `[cache]`: what is kept in memory of what the store said.
#[derive(Debug, PartialEq, Eq)]
pub struct Cache {
    pub keys_max: u64,
    /// How old a record gets before its next use makes the gateway read it again.
    pub ttl: Duration,
    /// How long known keys work when the store cannot be followed.
    pub stale_max: Duration,
    /// The most keys that are remembered as unknown, apart from those that are known.
    pub unknown_max: u64,
    pub unknown_ttl: Duration,
}

/// `[log]`: what is written to standard output.
#[derive(Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `[audit]`: where the audit log is written, besides the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    Off,
    /// Among the lines of the program's own log.
    Stdout,
    File(PathBuf),
}

/// `[limits]`: what holds for the limits of all tiers.
#[derive(Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Whether answers tell of limits in `RateLimit-Policy` and `RateLimit`.
    pub headers: bool,
    /// Whether they do in `X-RateLimit-Limit`, `-Remaining` and `-Reset` too.
    pub x_headers: bool,
    /// How long a gateway may use what a fleet's store has lent it.
    pub lease: Duration,
}

/// `[tiers.NAME]`: a named set of limits.
#[derive(Debug, PartialEq, Eq)]
pub struct Tier {
    pub name: Box<str>,
    pub limits: Limits,
    /// How old a key may get.
    pub max_age: Option<Duration>,
}
