//! `[upstreams.NAME]`: a service behind the gateway, and how it is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Identity;

/// One service.
#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: Box<str>,
    /// At least one.
    pub targets: Vec<WeightedTarget>,
    pub balance: Balance,
    pub protocol: Protocol,
    /// Given if the service is spoken to with TLS.
    pub tls: Option<UpstreamTls>,
    /// What the service is told as `Host`.
    pub host: HostRewrite,
    pub connect_timeout: Duration,
    /// Between two reads from the upstream, the first included.
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    /// How long an idle connection to the upstream is kept.
    pub idle_timeout: Duration,
    /// From the decision to the answer's last byte, all attempts together.
    pub total_timeout: Option<Duration>,
    /// The most further attempts of one request.
    pub retries: usize,
    /// The most further attempts as a share of all requests, in percent.
    pub retry_budget_percent: u64,
    /// How often the targets' names are looked up again.
    pub dns_refresh: Duration,
    /// The most requests at one time on one HTTP/2 connection.
    pub http2_streams_max: usize,
    pub health_check: Option<HealthCheck>,
    pub ejection: Option<Ejection>,
}

impl Upstream {
    /// The most that `retries` can be.
    pub const RETRIES_MAX: usize = 10;
}

/// One server of an upstream, and its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedTarget {
    pub target: Target,
    /// From 1.
    pub weight: u16,
}

/// `host:port`, its syntax checked, its name not yet looked up.
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

/// Which target gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    /// Always the same one for the same caller, as long as it is healthy.
    Hash(HashBy),
}

/// Who is the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashBy {
    Key,
    App,
    Address,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// What the upstream prefers; with TLS only.
    Auto,
}

/// `[upstreams.NAME.tls]`
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that the upstream's certificate must be for. Without it, each target's own.
    pub server_name: Option<Box<str>>,
    pub ca_file: Option<PathBuf>,
    /// Certificates in PEM to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    pub identity: Option<Identity>,
    /// Whether the upstream's certificate is checked.
    pub verify: bool,
}

/// The `Host` that an upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRewrite {
    /// What the client sent.
    Client,
    /// The target as the configuration has it.
    Target,
    Fixed(Box<str>),
}

/// `[upstreams.NAME.health_check]`: each target is asked now and then.
#[derive(Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a GET asks for; if absent, connecting is enough.
    pub path: Option<Box<str>>,
    pub host: Option<Box<str>>,
    /// The answers that are good.
    pub statuses: Vec<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Bad answers in a row that make a target unhealthy.
    pub unhealthy_after: u32,
    /// Good answers in a row that make it healthy again.
    pub healthy_after: u32,
}

/// `[upstreams.NAME.ejection]`: a target that fails requests gets none for a while.
#[derive(Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row.
    pub failures: u32,
    pub duration: Duration,
    /// The most targets that are ejected at one time, in percent of all.
    pub max_percent: u64,
}
