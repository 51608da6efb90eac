//! The store against a real server: the contract, and what only a shared store has to keep.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keygate_config::{RedisLogin, RedisMode, RedisStore as Settings, Target};
use keygate_core::UnixMillis;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use self::server::server;
use super::{LinkObserver, RedisStore};
use crate::coherence::Coherence;
use crate::contract::run;
use crate::fleet::{Gateway, LinkState};
use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, Write};
use crate::records::Version;
use crate::testing::{account, audit, seed, update};

mod redis_store {
    crate::contract::contract!(async || super::Fixture::new().store().await);
}

/// A store of its own, which several can share.
struct Fixture {
    prefix: String,
    log_max: u64,
}

struct Deaf;

impl LinkObserver for Deaf {
    fn link(&self, _: LinkState) {}
    fn change_applied(&self, _: Duration) {}
}

impl Fixture {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { prefix: format!("test{}", NEXT.fetch_add(1, Relaxed)), log_max: 100_000 }
    }

    fn settings(&self) -> Settings {
        Settings {
            mode: RedisMode::Single,
            servers: vec![Target { host: "127.0.0.1".into(), port: server().port }],
            tls: None,
            login: RedisLogin::default(),
            database: 0,
            key_prefix: self.prefix.as_str().into(),
            connections: 1,
            connect_timeout: Duration::from_secs(10),
            // Tests may wait long for their turn on a busy machine.
            find_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            wait_replicas: 0,
            wait_timeout: Duration::from_secs(1),
            log_max: self.log_max,
        }
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

    /// A connection of an operator's.
    async fn redis(&self) -> MultiplexedConnection {
        let client = redis::Client::open(("127.0.0.1", server().port)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    fn name(&self, rest: &[u8]) -> Vec<u8> {
        [format!("{{{}}}:", self.prefix).as_bytes(), rest].concat()
    }
}
