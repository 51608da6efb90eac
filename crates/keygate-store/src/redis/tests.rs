//! The store against a real server: the contract, and what only a shared store has to keep.

mod damage;
mod leases;
mod limits;
mod once;
mod sealed;
mod server;
mod shared;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_config::{RedisLogin, RedisMode, RedisStore as Settings, Target};
use keygate_core::UnixMillis;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue};

use self::server::Server;
use super::{LinkObserver, RedisStore};
use crate::coherence::Coherence;
use crate::fleet::{Gateway, LinkState};

mod redis_store {
    crate::contract::contract!(async || super::Fixture::new().store().await);
}

/// A store of its own, which several gateways can share.
struct Fixture {
    prefix: String,
    port: u16,
    log_max: u64,
    wait_replicas: u32,
    wait_timeout: Duration,
}

struct Deaf;

impl LinkObserver for Deaf {
    fn link(&self, _: LinkState) {}
    fn change_applied(&self, _: Duration) {}
}

impl Fixture {
    fn new() -> Self {
        Self::on(Server::shared())
    }

    fn on(server: &Server) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("test{}", NEXT.fetch_add(1, Relaxed));
        let wait_timeout = Duration::from_millis(50);
        Self { prefix, port: server.port, log_max: 100_000, wait_replicas: 0, wait_timeout }
    }

    async fn store(&self) -> RedisStore {
        self.gateway("gw").await
    }

    async fn gateway(&self, id: &str) -> RedisStore {
        let gateway = Gateway {
            id: id.to_owned(),
            name: "a \"quoted\" machine".to_owned(),
            version: "1.2.3".to_owned(),
            started_at: UnixMillis(7),
        };
        let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
        let store =
            RedisStore::start(&self.settings(), gateway, coherence, Arc::new(Deaf)).unwrap();
        assert!(store.reached(Duration::from_secs(10)).await);
        store
    }

    fn settings(&self) -> Settings {
        Settings {
            mode: RedisMode::Single,
            servers: vec![Target { host: "127.0.0.1".into(), port: self.port }],
            tls: None,
            login: RedisLogin::default(),
            database: 0,
            key_prefix: self.prefix.as_str().into(),
            connections: 1,
            connect_timeout: Duration::from_secs(10),
            // Tests may wait long for their turn on a busy machine.
            find_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            wait_replicas: self.wait_replicas,
            wait_timeout: self.wait_timeout,
            log_max: self.log_max,
        }
    }

    /// Carries out a command as an operator might.
    async fn ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = Cmd::new();
        command.arg(words);
        command.query_async(&mut connect(self.port).await).await.unwrap()
    }

    /// What lies in the store, by a name without its prefix.
    fn name(&self, rest: &[u8]) -> Vec<u8> {
        [format!("{{{}}}:", self.prefix).as_bytes(), rest].concat()
    }
}

async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(("127.0.0.1", port)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Waits for what comes soon.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not: {what}");
}
