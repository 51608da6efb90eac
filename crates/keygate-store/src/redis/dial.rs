//! Finds the primary and connects to it: the one server, whom the sentinels name, or the cluster's
//! node that serves our hash slot. Writes nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use keygate_config::{RedisLogin, RedisMode, RedisStore as Settings, Target};
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::io::AsyncDNSResolver;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    TlsCertificates, Value,
};

use super::layout::Names;
use super::primary::Connections;

/// Data that was sent and not acknowledged for so long ends a connection: the other side is gone.
const SILENT_PEER_MAX: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Calls that may be handed to a connection before it takes up the first of them.
const PIPELINE_MAX: usize = 1_024;

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
#[error("the certificates for the connection to Redis cannot be used")]
pub struct SetupError(#[source] RedisError);

/// Why the primary was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{target} cannot be reached")]
    Unreachable { target: Target, source: RedisError },
    #[error("{target} did not answer within {timeout:?}")]
    TimedOut { target: Target, timeout: Duration },
    #[error("{target} is not a primary")]
    Replica { target: Target },
    #[error("{target} has no address; check its name")]
    NoAddress { target: Target, source: Option<std::io::Error> },
    #[error("{target} does not know a primary called `{service}`; check `sentinel_service`")]
    UnknownService { target: Target, service: Box<str> },
    #[error("{target} does not know who serves our hash slot")]
    UnknownSlot { target: Target },
    #[error("there is no server to ask")]
    NoServer,
}

/// Knows how to get to the primary.
pub(super) struct Dialer {
    mode: Mode,
    servers: Vec<Target>,
    certificates: Option<TlsCertificates>,
    login: RedisConnectionInfo,
    finds: usize,
    connect_timeout: Duration,
    /// A name in our hash slot, of something that means nothing.
    fence: Vec<u8>,
}

enum Mode {
    Single,
    Sentinel { service: Box<str>, login: RedisConnectionInfo },
    Cluster,
}

impl Dialer {
    pub(super) fn new(settings: &Settings, names: &Names) -> Result<Self, SetupError> {
        let certificates = settings.tls.as_ref().map(|tls| TlsCertificates {
            root_cert: tls.ca.clone(),
            client_tls: tls.client.as_ref().map(|client| ClientTlsConfig {
                client_cert: client.certificate.clone(),
                client_key: client.key.reveal().as_bytes().to_vec(),
            }),
        });
        if certificates.is_some() {
            // Others in this process may have chosen one already; any will do.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let dialer = Self {
            mode: match &settings.mode {
                RedisMode::Single => Mode::Single,
                RedisMode::Sentinel { service, login } => {
                    Mode::Sentinel { service: service.clone(), login: connection_info(login, 0) }
                }
                RedisMode::Cluster => Mode::Cluster,
            },
            servers: settings.servers.clone(),
            certificates,
            login: connection_info(&settings.login, settings.database),
            finds: settings.connections.max(1),
            connect_timeout: settings.connect_timeout,
            fence: names.fence(),
        };
        // Certificates that cannot be read are an error now and not at each try.
        for server in &dialer.servers {
            dialer.client(server, &dialer.login).map_err(SetupError)?;
        }
        Ok(dialer)
    }

    /// Whether the primary may become another server.
    pub(super) fn may_move(&self) -> bool {
        match self.mode {
            Mode::Single => false,
            Mode::Sentinel { .. } | Mode::Cluster => true,
        }
    }

    /// Where the primary is now. All who may know are asked at once, until most of them agree: one
    /// that cannot be reached costs no time, and one that was left behind is not believed.
    ///
    /// # Errors
    /// What one of those who could know said, if none of them names a primary.
    pub(super) async fn find_primary(&self) -> Result<Found, DialError> {
        if matches!(self.mode, Mode::Single) {
            let target = self.servers.first().cloned().ok_or(DialError::NoServer)?;
            return Ok(Found { target, has_majority: true });
        }
        let mut votes: Vec<Vote> = Vec::new();
        let mut last = DialError::NoServer;
        let is_most = |count: usize| count * 2 > self.servers.len();
        let asked = self.servers.iter().map(|server| self.ask_who(server));
        let mut asked = asked.collect::<FuturesUnordered<_>>();
        while !votes.iter().any(|vote| is_most(vote.count))
            && let Some(named) = asked.next().await
        {
            match named {
                Ok(named) => match votes.iter_mut().find(|vote| vote.target == named.target) {
                    Some(vote) => {
                        vote.count += 1;
                        vote.epoch = vote.epoch.max(named.epoch);
                    }
                    None => votes.push(named),
                },
                Err(error) => last = error,
            }
        }
        // The newest failover that anybody has heard of; where epochs are not told, what most say.
        let best =
            votes.into_iter().max_by_key(|vote| (is_most(vote.count), vote.epoch, vote.count));
        let Vote { target, count, .. } = best.ok_or(last)?;
        Ok(Found { target, has_majority: is_most(count) })
    }

    async fn ask_who(&self, server: &Target) -> Result<Vote, DialError> {
        match &self.mode {
            Mode::Single => Ok(Vote { target: server.clone(), epoch: 0, count: 1 }),
            Mode::Sentinel { service, login } => self.ask_sentinel(server, service, login).await,
            Mode::Cluster => self.ask_node(server).await,
        }
    }

    /// Connects all that calls need, to one server: a name may stand for several.
    ///
    /// # Errors
    /// Each kind of [`DialError`] but those about finding it.
    pub(super) async fn connect(&self, primary: &Target) -> Result<Connected, DialError> {
        let address = self.resolve(primary).await?;
        let open = || self.open_primary(primary, address);
        let all = try_join_all((0..self.finds + 3).map(|_| open())).await?;
        let mut all = all.into_iter();
        let others = [all.next(), all.next(), all.next()];
        let [Some(lists), Some(writes), Some(waits)] = others else {
            return Err(DialError::NoServer);
        };
        let connections =
            Connections::new(all.collect(), [lists, writes, waits], self.fence.clone());
        Ok(Connected { connections, address })
    }

    async fn open_primary(
        &self,
        primary: &Target,
        address: SocketAddr,
    ) -> Result<MultiplexedConnection, DialError> {
        let config = self.config().set_dns_resolver(Pinned(address));
        let mut connection = self.open_with(primary, &self.login, config).await?;
        let role: Vec<Value> = self.ask(primary, &mut connection, &redis::cmd("ROLE")).await?;
        let is_primary = match role.first() {
            Some(Value::BulkString(role)) => role == b"master",
            Some(Value::SimpleString(role)) => role == "master",
            Some(_) | None => false,
        };
        if is_primary {
            Ok(connection)
        } else {
            Err(DialError::Replica { target: primary.clone() })
        }
    }

    async fn resolve(&self, target: &Target) -> Result<SocketAddr, DialError> {
        let no_address = |source| DialError::NoAddress { target: target.clone(), source };
        let look_up = tokio::net::lookup_host((&*target.host, target.port));
        match tokio::time::timeout(self.connect_timeout, look_up).await {
            Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| no_address(None)),
            Ok(Err(error)) => Err(no_address(Some(error))),
            Err(_) => {
                let timeout = self.connect_timeout;
                Err(DialError::TimedOut { target: target.clone(), timeout })
            }
        }
    }

    /// A connection whose pushed messages, and whose end, go to `pushed`.
    ///
    /// # Errors
    /// [`DialError::Unreachable`] or [`DialError::TimedOut`].
    pub(super) async fn listen(
        &self,
        primary: &Target,
        address: SocketAddr,
        pushed: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, DialError> {
        let config = self.config().set_push_sender(pushed).set_dns_resolver(Pinned(address));
        self.open_with(primary, &self.login, config).await
    }

    async fn ask_sentinel(
        &self,
        sentinel: &Target,
        service: &str,
        login: &RedisConnectionInfo,
    ) -> Result<Vote, DialError> {
        let mut connection = self.open(sentinel, login).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("MASTER").arg(service);
        let said: Result<HashMap<String, String>, _> =
            self.ask(sentinel, &mut connection, &question).await;
        let unknown =
            || DialError::UnknownService { target: sentinel.clone(), service: service.into() };
        let said = match said {
            Ok(said) => said,
            // It answered, and so does know what it does not know.
            Err(DialError::Unreachable { source, .. }) if source.code() == Some("ERR") => {
                return Err(unknown());
            }
            Err(error) => return Err(error),
        };
        let number = |name: &str| said.get(name).and_then(|text| text.parse::<u64>().ok());
        let host = said.get("ip").map(|host| Box::from(host.as_str()));
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        let (Some(host), Some(port)) = (host, port) else { return Err(unknown()) };
        let epoch = number("config-epoch").unwrap_or_default();
        Ok(Vote { target: Target { host, port }, epoch, count: 1 })
    }

    async fn ask_node(&self, node: &Target) -> Result<Vote, DialError> {
        let mut connection = self.open(node, &self.login).await?;
        let mut question = redis::cmd("CLUSTER");
        question.arg("KEYSLOT").arg(&self.fence);
        let slot: u64 = self.ask(node, &mut connection, &question).await?;
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let ranges: Vec<SlotRange> = self.ask(node, &mut connection, &question).await?;
        let range = ranges.into_iter().find(|range| (range.first..=range.last).contains(&slot));
        let Some(SlotRange { host, port, .. }) = range else {
            return Err(DialError::UnknownSlot { target: node.clone() });
        };
        // A node that does not know its own address yet leaves it out.
        let host = if host.is_empty() || &*host == "?" { node.host.clone() } else { host };
        Ok(Vote { target: Target { host, port }, epoch: 0, count: 1 })
    }

    async fn ask<T: FromRedisValue>(
        &self,
        target: &Target,
        connection: &mut MultiplexedConnection,
        question: &redis::Cmd,
    ) -> Result<T, DialError> {
        self.within(target, question.query_async(connection)).await
    }

    async fn open(
        &self,
        target: &Target,
        login: &RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, DialError> {
        self.open_with(target, login, self.config()).await
    }

    async fn open_with(
        &self,
        target: &Target,
        login: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, DialError> {
        let unreachable = |source| DialError::Unreachable { target: target.clone(), source };
        let client = self.client(target, login).map_err(unreachable)?;
        // The library's own timeout does not cover what is said first on a connection.
        self.within(target, client.get_multiplexed_async_connection_with_config(&config)).await
    }

    async fn within<T>(
        &self,
        target: &Target,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, DialError> {
        let timeout = self.connect_timeout;
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(DialError::Unreachable { target: target.clone(), source }),
            Err(_) => Err(DialError::TimedOut { target: target.clone(), timeout }),
        }
    }

    fn client(&self, target: &Target, login: &RedisConnectionInfo) -> RedisResult<Client> {
        let Target { host, port } = target;
        // A connection that is silent for long may be forgotten by whatever is in between.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(SILENT_PEER_MAX);
        let info = (host.to_string(), *port)
            .into_connection_info()?
            .set_tcp_settings(tcp)
            .set_redis_settings(login.clone());
        match &self.certificates {
            None => Client::open(info),
            Some(certificates) => {
                let (host, port) = (host.to_string(), *port);
                let address =
                    ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
                Client::build_with_tls(info.set_addr(address), certificates.clone())
            }
        }
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            // Calls have times of their own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_MAX)
    }
}

fn connection_info(login: &RedisLogin, database: u32) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(i64::from(database))
        .set_lib_name("keygate", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &login.username {
        info = info.set_username(username);
    }
    if let Some(password) = &login.password {
        info = info.set_password(password.reveal());
    }
    info
}

/// One entry of `CLUSTER SLOTS`: slots, and the node that serves them.
struct SlotRange {
    first: u64,
    last: u64,
    host: Box<str>,
    port: u16,
}

impl FromRedisValue for SlotRange {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let not_slots = || redis::ParsingError::from("not an entry of CLUSTER SLOTS");
        let Value::Array(parts) = value else { return Err(not_slots()) };
        let mut parts = parts.into_iter();
        let mut part = || parts.next().ok_or_else(not_slots);
        let (first, last) = (u64::from_redis_value(part()?)?, u64::from_redis_value(part()?)?);
        let Value::Array(node) = part()? else { return Err(not_slots()) };
        let mut node = node.into_iter();
        let host = Option::<String>::from_redis_value(node.next().ok_or_else(not_slots)?)?;
        let port = u16::from_redis_value(node.next().ok_or_else(not_slots)?)?;
        Ok(Self { first, last, host: host.unwrap_or_default().into(), port })
    }
}

/// Whether an error says that the password or the user is wrong: trying again will not help.
pub(super) fn is_refusal(error: &DialError) -> bool {
    match error {
        DialError::Unreachable { source, .. } => {
            source.kind() == ErrorKind::AuthenticationFailed
                || matches!(source.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
        }
        DialError::TimedOut { .. }
        | DialError::NoAddress { .. }
        | DialError::Replica { .. }
        | DialError::UnknownService { .. }
        | DialError::UnknownSlot { .. }
        | DialError::NoServer => false,
    }
}

/// The address that a name was found to have, whatever it has by now.
struct Pinned(SocketAddr);

impl AsyncDNSResolver for Pinned {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _host: &'b str,
        _port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        let addresses: Box<dyn Iterator<Item = SocketAddr> + Send> =
            Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// Where the primary is said to be.
pub(super) struct Found {
    pub(super) target: Target,
    /// Whether most of those who could know say so.
    pub(super) has_majority: bool,
}

/// What one of those who could know says, and how many say the same.
struct Vote {
    target: Target,
    /// Counts failovers, where it is told.
    epoch: u64,
    count: usize,
}

/// All connections, and the one server that they lead to.
pub(super) struct Connected {
    pub(super) connections: Connections,
    pub(super) address: SocketAddr,
}
