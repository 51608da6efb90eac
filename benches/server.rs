//! A real Redis for a bench, a store on it, and what this process takes.

// Each bench uses its own part of this.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keygate_config::{RedisLogin, RedisMode, RedisStore as Settings, Target};
use keygate_store::coherence::Coherence;
use keygate_store::fleet::{Gateway, LinkState};
use keygate_store::redis::{LinkObserver, RedisStore};

use crate::fixture::NOW;

pub(crate) struct Redis {
    process: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: make setup");
        Self { process, port, _folder: folder }
    }
}

struct Deaf;

impl LinkObserver for Deaf {
    fn link(&self, _: LinkState) {}
    fn change_applied(&self, _: Duration) {}
}

pub(crate) async fn store(port: u16, coherence: &Arc<Coherence>) -> RedisStore {
    let settings = Settings {
        mode: RedisMode::Single,
        servers: vec![Target { host: "127.0.0.1".into(), port }],
        tls: None,
        login: RedisLogin::default(),
        database: 0,
        key_prefix: "keygate".into(),
        connections: 1,
        connect_timeout: Duration::from_secs(1),
        find_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(10),
        wait_replicas: 0,
        wait_timeout: Duration::from_secs(1),
        log_max: 1_000_000,
    };
    let gateway =
        Gateway { id: String::new(), name: "bench".into(), version: "0".into(), started_at: NOW };
    let store = RedisStore::start(&settings, gateway, Arc::clone(coherence), Arc::new(Deaf));
    let store = store.expect("the store can be set up");
    assert!(store.reached(Duration::from_secs(10)).await, "redis-server does not answer");
    store
}

/// The memory that this process holds, in bytes.
pub(crate) fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}
