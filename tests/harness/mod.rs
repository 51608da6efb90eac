//! What the tests are written in: a gateway, an upstream that remembers, clients, and the search
//! for leaked secrets. Knows the product only from outside.

mod admin;
mod answer;
mod authority;
mod caller;
mod certificates;
mod cluster;
mod collector;
mod config;
mod fleet;
mod gateway;
pub mod grpc;
mod h1;
pub mod h2_raw;
pub mod h2_streams;
mod h2_upstream;
mod h2c;
mod leaks;
mod load;
mod nginx;
mod process;
mod prometheus;
mod redis;
mod request;
mod resp;
mod sentinels;
mod strict;
mod tap;
mod target;
mod tls;
mod tmux;
mod upstream;
mod wait;
pub mod websocket;

pub use admin::{Admin, Key, KeySpec};
pub use answer::{Answer, assert_refused};
pub use authority::{Authority, Signed};
pub use caller::Caller;
pub use certificates::Certificates;
pub use cluster::Cluster;
pub use collector::{Collector, Reception, SpanSeen};
pub use config::Setup;
pub use fleet::Fleet;
pub use gateway::Gateway;
pub use h1::{Broken, Connection};
pub use h2_upstream::H2Upstream;
pub use leaks::Leaks;
pub use load::{Call, Calls, Load, Traffic, known_key};
pub use nginx::Nginx;
pub use process::{Exit, Process, binary, free_address, run, run_with_input, runs};
pub use prometheus::{Alert, Prometheus, Scraped, promtool};
pub use redis::{Redis, Settings as RedisSettings};
pub use request::{Request, Wire, basic, chunk, delete, get, post, request};
pub use resp::{Reply, Resp};
pub use sentinels::Sentinels;
pub use strict::{Received, Strict};
pub use tap::{Tap, Which};
pub use target::{Mood, Target};
pub use tls::TlsClient;
pub use tmux::Tmux;
pub use upstream::{Seen, Upstream};
pub use wait::{eventually, eventually_within, patience};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much a test does: what the environment says, or enough for every run.
pub fn scale(name: &str, usual: u64) -> u64 {
    match std::env::var_os(name) {
        Some(text) => text.to_str().and_then(|text| text.parse().ok()).expect("a whole number"),
        None => usual,
    }
}

/// Held by tests that fill the machine, so that they neither disturb nor measure each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}
