//! The whole gateway, enforcement on, against a bare Pingora pass-through with the same allocator
//! and build profile, in turn in one run: requests/s and CPU per request, as ratios.
//! `cargo bench --bench end_to_end`. Linux: reads /proc, and pins with `taskset` where it exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

#[path = "load.rs"]
mod load;
#[path = "running.rs"]
mod running;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mimalloc::MiMalloc;
use pingora::prelude::{HttpPeer, ProxyHttp, Server, Session};
use pingora::proxy::http_proxy_service;
use pingora::server::RunArgs;
use pingora::server::configuration::ServerConf;

use load::{CONNECTIONS, measure, median, request, upstream};
use running::{PEERS_CORE, PROXY_CORE, Running, free_port, gateway_with_keys, pin_self};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const KEYS: usize = 1_000;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS_DEFAULT: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("upstream") => upstream(port(&args, 2)),
        Some("bare") => bare(port(&args, 2), port(&args, 3)),
        _ => compare(),
    }
}

fn port(args: &[String], at: usize) -> u16 {
    args[at].parse().expect("a port")
}

// === the three servers ===

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// The least that Pingora can do: no key, no route, no header touched.
fn bare(port: u16, upstream: u16) {
    let mut server =
        Server::new_with_opt_and_conf(None, ServerConf { threads: 1, ..Default::default() });
    server.bootstrap();
    let mut service =
        http_proxy_service(&server.configuration, Bare(([127, 0, 0, 1], upstream).into()));
    service.add_tcp(&format!("127.0.0.1:{port}"));
    server.add_service(service);
    server.run(RunArgs::default());
}

/// The gateway as a user runs it.
fn gateway(folder: &Path, port: u16, upstream: u16) -> (Running, Vec<String>) {
    let config = format!(
        r#"
[server]
listen = ["127.0.0.1:{port}"]
threads = 1
[keys]
keys_max_live = 1000
[cache]
ttl = "1h"
[upstreams.orders]
targets = ["127.0.0.1:{upstream}"]
[[routes]]
name = "orders.read"
path = "/v1/orders"
methods = ["GET"]
upstream = "orders"
auth = "key"
scopes = ["read:orders"]
"#
    );
    gateway_with_keys(folder, &config, port, KEYS)
}

// === the comparison ===

fn compare() {
    let rounds = std::env::args().find_map(|arg| arg.strip_prefix("rounds=")?.parse().ok());
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let (up, bare_port, gateway_port) = (free_port(), free_port(), free_port());
    let up_arg = up.to_string();
    let _upstream = Running::start(PEERS_CORE, program, &["upstream", &up_arg], folder.path(), up);
    let bare_args = ["bare", &bare_port.to_string(), &up_arg];
    let bare = Running::start(PROXY_CORE, program, &bare_args, folder.path(), bare_port);
    let (gateway, keys) = gateway(folder.path(), gateway_port, up);
    pin_self(PEERS_CORE);
    let requests: Arc<[Vec<u8>]> = keys.iter().map(|key| request(key)).collect();

    println!("{CONNECTIONS} connections, {KEYS} keys, rounds of {ROUND:?}, one core for the proxy");
    println!("round        bare/s     ours/s  ratio | bare us/req ours us/req  ratio");
    measure(&bare, bare_port, &requests, Duration::from_secs(1));
    measure(&gateway, gateway_port, &requests, Duration::from_secs(1));
    let mut ratios = Vec::new();
    for round in 0..rounds.unwrap_or(ROUNDS_DEFAULT) {
        let without = measure(&bare, bare_port, &requests, ROUND);
        let with = measure(&gateway, gateway_port, &requests, ROUND);
        let rate = with.per_second / without.per_second;
        let cpu = with.cpu_us / without.cpu_us;
        println!(
            "{round:>5} {:>13.0} {:>10.0} {rate:>6.3} | {:>11.2} {:>11.2} {cpu:>6.3}",
            without.per_second, with.per_second, without.cpu_us, with.cpu_us,
        );
        ratios.push((rate, cpu));
    }
    println!(
        "median ratio to bare Pingora: requests/s {:.3}, CPU per request {:.3}",
        median(ratios.iter().map(|ratio| ratio.0).collect()),
        median(ratios.iter().map(|ratio| ratio.1).collect()),
    );
}
