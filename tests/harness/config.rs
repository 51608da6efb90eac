//! A `gateway.toml` for one test: what the test says, and as little as possible besides.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;

use super::gateway::Gateway;
use super::leaks::Leaks;
use super::redis::Redis;
use super::upstream::{Record, Upstream};

/// The routes that a test gets unless it names its own.
const ROUTES: &str = r#"
[[routes]]
name = "orders.read"
path = "/v1/orders"
methods = ["GET", "HEAD"]
upstream = "main"
auth = "key"
environment = "live"
scopes = ["read:orders"]

[[routes]]
name = "orders.write"
path = "/v1/orders"
methods = ["POST"]
upstream = "main"
auth = "key"
environment = "live"
scopes = ["write:orders"]

[[routes]]
name = "transfers"
path = "/v1/transfers"
upstream = "main"
auth = "key"
environment = "live"
scopes = ["write:money", "read:accounts"]

[[routes]]
name = "reports"
path = "/v1/reports"
upstream = "main"
auth = "key"
environment = "live"
any_scopes = ["read:reports", "read:audit"]

[[routes]]
name = "feed"
path = "/v1/feed"
upstream = "main"
auth = "key"
environment = "live"
query_param = "api_key"

[[routes]]
name = "sandbox"
path = "/v1/sandbox"
upstream = "main"
auth = "key"
environment = "test"

[[routes]]
name = "any"
path = "/any"
upstream = "main"
auth = "key"
environment = "live"

[[routes]]
name = "public"
path = "/public"
upstream = "main"
auth = "public"
"#;

/// The settings of a gateway that is yet to start.
#[derive(Clone)]
pub struct Setup {
    target: SocketAddr,
    /// Searched for keys when the gateway is done with.
    pub(super) upstream: Option<Arc<Record>>,
    server: String,
    /// Most tests want to know when a changed file is taken over.
    watch_files: bool,
    failed_auth: String,
    pepper_file: String,
    keys: String,
    cache: String,
    upstream_settings: String,
    routes: String,
    tables: String,
    log_level: &'static str,
    store: String,
    /// The store's, searched for keys too.
    pub(super) store_files: Vec<Arc<TempDir>>,
    /// The pepper's hex digits; the gateway makes one if there is none.
    pub(super) pepper: Option<String>,
    /// The secrets of those whose pepper and store this gateway shares.
    pub(super) leaks: Option<Arc<Leaks>>,
}

impl Setup {
    pub fn in_front_of(upstream: &Upstream) -> Self {
        Self { upstream: Some(upstream.record()), ..Self::in_front_of_address(upstream.address()) }
    }

    /// In front of an address at which there may be nothing.
    pub fn in_front_of_address(target: SocketAddr) -> Self {
        Self {
            target,
            upstream: None,
            server: String::new(),
            watch_files: false,
            // Most tests fail to authenticate more often than a client should.
            failed_auth: "rate = \"1000000/s\"".into(),
            pepper_file: "data/pepper".into(),
            keys: String::new(),
            cache: String::new(),
            upstream_settings: String::new(),
            routes: ROUTES.into(),
            tables: String::new(),
            // The worst case for the search for secrets.
            log_level: "trace",
            store: "kind = \"embedded\"\npath = \"data/keygate.db\"".into(),
            store_files: Vec::new(),
            pepper: None,
            leaks: None,
        }
    }

    /// Adds lines to `[server]`.
    pub fn server(self, lines: &str) -> Self {
        Self { server: format!("{}{lines}\n", self.server), ..self }
    }

    /// Says what lines `[server]` has besides the listener.
    pub fn only_server(self, lines: &str) -> Self {
        Self { server: format!("{lines}\n"), ..self }
    }

    /// Has changed files taken over by themselves.
    pub fn watching(self) -> Self {
        Self { watch_files: true, ..self }
    }

    /// Has nothing taken over by itself, as it is unless a test says otherwise.
    pub fn manual(self) -> Self {
        Self { watch_files: false, ..self }
    }

    /// Says what `[server.failed_auth]` is.
    pub fn failed_auth(self, lines: &str) -> Self {
        Self { failed_auth: lines.into(), ..self }
    }

    /// In front of another address.
    pub fn target(self, target: SocketAddr) -> Self {
        Self { target, ..self }
    }

    /// Names another file than `data/pepper`.
    pub fn pepper_file(self, pepper_file: &str) -> Self {
        Self { pepper_file: pepper_file.into(), ..self }
    }

    /// Adds lines to `[keys]`.
    pub fn keys(self, lines: &str) -> Self {
        Self { keys: format!("{}{lines}\n", self.keys), ..self }
    }

    /// Adds lines to `[cache]`.
    pub fn cache(self, lines: &str) -> Self {
        Self { cache: format!("{}{lines}\n", self.cache), ..self }
    }

    /// Adds lines to `[upstreams.main]`.
    pub fn upstream(self, lines: &str) -> Self {
        Self { upstream_settings: format!("{}{lines}\n", self.upstream_settings), ..self }
    }

    /// Adds routes to the usual ones.
    pub fn route(self, toml: &str) -> Self {
        Self { routes: format!("{}\n[[routes]]\n{toml}\n", self.routes), ..self }
    }

    /// Says what other tables there are, such as `[tiers.NAME]`.
    pub fn tables(self, toml: &str) -> Self {
        Self { tables: toml.into(), ..self }
    }

    pub fn log(self, log_level: &'static str) -> Self {
        Self { log_level, ..self }
    }

    /// Says what `[store]` is.
    pub fn store(self, lines: &str) -> Self {
        Self { store: lines.into(), ..self }
    }

    /// Adds lines to `[store]`.
    pub fn store_also(self, lines: &str) -> Self {
        Self { store: format!("{}\n{lines}", self.store), ..self }
    }

    /// Says what `[store]` is in the words of what it is so far.
    pub fn change_store(self, change: impl FnOnce(String) -> String) -> Self {
        let store = change(self.store.clone());
        Self { store, ..self }
    }

    /// Puts the store into this Redis.
    pub fn redis(self, redis: &Redis) -> Self {
        self.store(&redis.store()).searching([redis.files()])
    }

    /// Has these folders searched for secrets at the end as well.
    pub fn searching(self, files: impl IntoIterator<Item = Arc<TempDir>>) -> Self {
        Self { store_files: files.into_iter().collect(), ..self }
    }

    /// Gives the gateway this pepper, in hex digits.
    pub fn pepper(self, hex: &str) -> Self {
        Self { pepper: Some(hex.into()), ..self }
    }

    /// Takes over the pepper of a gateway with which this one is to share a store.
    pub fn pepper_of(self, other: &Gateway) -> Self {
        let pepper = Some(other.read("data/pepper"));
        Self { pepper, leaks: Some(other.shared_leaks()), ..self }
    }

    /// Starts a gateway in a fresh folder and waits until it is ready.
    pub fn start(self) -> Gateway {
        Gateway::start(self)
    }

    /// Starts a gateway in a fresh folder and waits until it is alive, ready or not.
    pub fn start_unready(self) -> Gateway {
        Gateway::start_unready(self)
    }

    pub fn toml(&self, proxy: SocketAddr, admin: SocketAddr) -> String {
        let Self { target, server, failed_auth, keys, cache, upstream_settings, .. } = self;
        let lane = express_lane(server);
        let (pepper_file, watch_files) = (&self.pepper_file, self.watch_files);
        let (routes, tables, log_level) = (&self.routes, &self.tables, self.log_level);
        let store = &self.store;
        format!(
            r#"
[server]
listen = ["{proxy}"]
watch_files = {watch_files}
{lane}
{server}
[server.failed_auth]
{failed_auth}
[admin]
listen = "{admin}"
[keys]
pepper_file = "{pepper_file}"
{keys}
[store]
{store}
[cache]
{cache}
[log]
level = "{log_level}"
[upstreams.main]
targets = ["{target}"]
{upstream_settings}
{tables}
{routes}"#
        )
    }
}

/// `KEYGATE_EXPRESS_LANE=1` has every gateway serve plain requests by the lane, and `0` none, unless its
/// test says which way they take.
fn express_lane(server: &str) -> &'static str {
    match std::env::var_os("KEYGATE_EXPRESS_LANE") {
        Some(lane) if !server.contains("express_lane") => {
            if lane == "0" {
                "express_lane = false"
            } else {
                "express_lane = true"
            }
        }
        Some(_) | None => "",
    }
}
