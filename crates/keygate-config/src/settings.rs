//! The settings as the program uses them. Everything here has passed validation.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keygate_core::credential::CredentialRules;
use keygate_core::limit::Rate;
use keygate_core::network::Networks;
use keygate_core::route::RouteTable;

/// One whole, valid `gateway.toml`.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub keys: Keys,
    pub store: Store,
    pub cache: Cache,
    pub log: Log,
    pub tiers: Vec<Tier>,
    /// A route names its upstream by the place in this list.
    pub upstreams: Vec<Upstream>,
    pub routes: RouteTable,
    /// What is legal and probably not meant; to be shown to the operator.
    pub warnings: Vec<String>,
}

/// `[server]`: the listeners that clients talk to, and the bounds on what they may send.
#[derive(Debug)]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    /// Worker threads; as many as there are cores if absent.
    pub threads: Option<usize>,
    pub headers_max: usize,
    pub header_bytes_max: usize,
    pub body_bytes_max: u64,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keepalive_timeout: Duration,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    pub failed_auth: FailedAuth,
    /// From SIGTERM to the listeners' closing, with `/readyz` at 503 already.
    pub shutdown_delay: Duration,
    /// How long requests may finish after that.
    pub drain_timeout: Duration,
}

/// `[server.failed_auth]`: how often one client address may fail to authenticate.
#[derive(Debug)]
pub struct FailedAuth {
    pub rate: Rate,
    /// The most addresses that are remembered.
    pub addresses_max: u64,
}

/// `[admin]`: the admin API's listener.
#[derive(Debug)]
pub struct Admin {
    pub listen: SocketAddr,
    pub token_file: PathBuf,
}

/// `[keys]`: how keys are made and where requests may carry them.
#[derive(Debug)]
pub struct Keys {
    pub pepper_file: PathBuf,
    pub previous_pepper_files: Vec<PathBuf>,
    pub credentials: CredentialRules,
    /// The most keys of one app that are neither revoked nor expired.
    pub keys_max_live: u32,
}

/// `[store]`: where accounts, apps and keys are kept.
#[derive(Debug)]
pub enum Store {
    Embedded(EmbeddedStore),
}

/// `kind = "embedded"`: one file on this machine.
#[derive(Debug)]
pub struct EmbeddedStore {
    pub path: PathBuf,
}

/// `[cache]`: what is kept in memory of what the store said.
#[derive(Debug)]
pub struct Cache {
    pub keys_max: u64,
    pub ttl: Duration,
    /// The most keys that are remembered as unknown, apart from those that are known.
    pub unknown_max: u64,
    pub unknown_ttl: Duration,
}

/// `[log]`: what is written to standard output.
#[derive(Debug)]
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

/// `[tiers.NAME]`: a named set of limits.
#[derive(Debug)]
pub struct Tier {
    pub name: Box<str>,
    pub rate: Option<Rate>,
    /// The whole bucket; one second's worth of `rate`, at least 1, if absent.
    pub burst: Option<u64>,
    pub quotas: Vec<Rate>,
    pub concurrency: Option<u64>,
}

/// `[upstreams.NAME]`: a service behind the gateway.
#[derive(Debug)]
pub struct Upstream {
    pub name: Box<str>,
    /// At least one.
    pub targets: Vec<Target>,
    pub connect_timeout: Duration,
    /// Between two reads from the upstream, the first included.
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    /// How long an idle connection to the upstream is kept.
    pub idle_timeout: Duration,
}

/// `host:port` of one server of an upstream, its syntax checked, its name not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name in lower case or an address; IPv6 without its brackets, as `ToSocketAddrs` takes it.
    pub host: Box<str>,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}
