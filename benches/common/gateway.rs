//! The gateway as a user runs it, with everything on, or with no more than a rival does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::keys::{TIER, put_pepper, seed};
use super::process::{PROXY_CORE, Running, free_port};

/// The binary that was built with the bench, in its profile.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_keygate");

/// More than a bench can use, so that no request is refused.
pub(crate) const EVERYTHING: &str = "rate = \"1000000/s\"\nconcurrency = 1000000\n\
     quotas = [\"1000000000000/day\", \"1000000000000/month\"]";
pub(crate) const RATE: &str = "rate = \"1000000/s\"";

#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a str,
    pub(crate) folder: &'a Path,
    pub(crate) port: u16,
    pub(crate) admin: u16,
    pub(crate) upstream: u16,
    pub(crate) keys: usize,
    pub(crate) threads: usize,
    pub(crate) core: &'a str,
    /// The limits of all keys.
    pub(crate) tier: &'a str,
    /// Written to a file.
    pub(crate) access_log: bool,
    /// How often an address may fail, if it is not to be the default.
    pub(crate) failed_auth: Option<&'a str>,
    /// Instead of the embedded one.
    pub(crate) redis: Option<u16>,
    /// Another service, for what is below `/aside`.
    pub(crate) aside: Option<u16>,
}

impl<'a> Setup<'a> {
    /// One thread on the proxies' core.
    pub(crate) fn new(program: &'a str, folder: &'a Path, upstream: u16, keys: usize) -> Self {
        Self {
            program,
            folder,
            port: free_port(),
            upstream,
            keys,
            threads: 1,
            core: PROXY_CORE,
            tier: EVERYTHING,
            access_log: true,
            failed_auth: None,
            admin: free_port(),
            redis: None,
            aside: None,
        }
    }

    /// Seeds the store and starts.
    pub(crate) fn start(&self) -> Running {
        self.write();
        seed(self.program, self.folder, self.keys);
        Running::start(self.core, self.program, &["run"], self.folder, self.port)
    }

    /// Starts on a store that another one seeded.
    pub(crate) fn join(&self) -> Running {
        self.write();
        Running::start(self.core, self.program, &["run"], self.folder, self.port)
    }

    fn write(&self) {
        std::fs::create_dir_all(self.folder.join("data")).unwrap();
        std::fs::write(self.folder.join("gateway.toml"), self.config()).unwrap();
        put_pepper(self.folder);
    }

    /// Sends a change to the admin API, and waits until it is acknowledged.
    pub(crate) fn change(&self, method: &str, path: &str, body: &str) {
        let token = std::fs::read_to_string(self.folder.join("data/admin.token")).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            token.trim(),
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }

    fn config(&self) -> String {
        let Self { port, admin, upstream, threads, keys, tier, .. } = self;
        let log = if self.access_log {
            "[access_log]\nsink = \"file\"\npath = \"access.jsonl\""
        } else {
            ""
        };
        let store = self.redis.map_or_else(String::new, |port| {
            format!("[store]\nkind = \"redis\"\nurls = [\"redis://127.0.0.1:{port}\"]")
        });
        let failed_auth = self
            .failed_auth
            .map_or_else(String::new, |rate| format!("[server.failed_auth]\nrate = \"{rate}\""));
        let aside = self.aside.map_or_else(String::new, |port| {
            format!(
                "[upstreams.aside]\ntargets = [\"127.0.0.1:{port}\"]\n[[routes]]\nname = \"aside\"\n\
                 path = \"/aside\"\nmethods = [\"GET\", \"POST\"]\nupstream = \"aside\"\n\
                 auth = \"key\"\nscopes = [\"read:orders\"]"
            )
        });
        let keys_max = (2 * keys).max(100_000);
        format!(
            r#"
[server]
listen = ["127.0.0.1:{port}"]
threads = {threads}
{failed_auth}
[admin]
listen = "127.0.0.1:{admin}"
[log]
level = "warn"
{log}
{store}
[cache]
ttl = "1h"
stale_max = "1h"
keys_max = {keys_max}
[tiers.{TIER}]
{tier}
[upstreams.orders]
targets = ["127.0.0.1:{upstream}"]
[[routes]]
name = "orders.read"
path = "/v1"
methods = ["GET", "POST"]
upstream = "orders"
auth = "key"
scopes = ["read:orders"]
{aside}
"#
        )
    }
}
