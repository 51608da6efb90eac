//! A primary with replicas, watched by three sentinels, which make a replica the primary when it
//! is gone.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;

use super::redis::{Redis, Settings};
use super::resp::Reply;
use super::wait::eventually;

pub struct Sentinels {
    pub servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

const SERVICE: &str = "keygate";

impl Sentinels {
    /// Starts a primary with so many replicas, and waits until all know each other.
    pub fn start(replicas: usize) -> Self {
        let primary = Redis::start();
        let replica_of = replica_of(primary.address());
        let replicas = (0..replicas).map(|_| {
            let replica = Redis::start();
            replica.command(&replica_of);
            replica
        });
        let servers: Vec<Redis> =
            std::iter::once(primary).chain(replicas.collect::<Vec<_>>()).collect();
        let count = servers.len() - 1;
        let set = Self { servers, sentinels: Vec::new() };
        set.wait_until_replicated(count);
        let primary = set.servers[0].address();
        let lines = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 2000\n",
            primary.port()
        );
        let settings = Settings { sentinel: true, lines, ..Settings::default() };
        let sentinels: Vec<Redis> = (0..3).map(|_| Redis::with(settings.clone())).collect();
        for sentinel in &sentinels {
            // The usual times are for networks, and for people who can wait.
            sentinel.command(&["SENTINEL", "DEBUG", "info-period", "200", "publish-period", "200"]);
            sentinel.command(&["SENTINEL", "DEBUG", "ask-period", "100"]);
        }
        let set = Self { sentinels, ..set };
        set.wait_until_agreed(count);
        set
    }

    /// `[store]` for a gateway that asks the sentinels.
    pub fn store(&self) -> String {
        self.store_at(&self.addresses())
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// The same, with the sentinels at these addresses.
    pub fn store_at(&self, addresses: &[SocketAddr]) -> String {
        let urls = addresses.iter().map(|address| format!("\"redis://{address}\""));
        let urls = urls.collect::<Vec<_>>().join(", ");
        format!(
            "kind = \"redis\"\nmode = \"sentinel\"\nurls = [{urls}]\nsentinel_service = \"{SERVICE}\""
        )
    }

    pub fn files(&self) -> Vec<Arc<TempDir>> {
        self.servers.iter().map(Redis::files).collect()
    }

    /// Which of the servers the sentinels call the primary.
    pub fn primary(&self) -> usize {
        let at = self.primary_as_seen_by(&self.sentinels[0]).expect("sentinels answer");
        self.index_of(at)
    }

    /// Has the sentinels make a replica the primary while the primary is well.
    pub fn order_failover(&self) {
        eventually("a sentinel that will", || {
            self.sentinels[0].try_command(&["SENTINEL", "FAILOVER", SERVICE])
        });
    }

    /// Waits until all sentinels, and the server itself, say that there is another primary.
    pub fn wait_for_another_than(&self, old: usize) -> usize {
        eventually("a new primary", || {
            let named = self.sentinels.iter().map(|s| self.primary_as_seen_by(s));
            let named: Option<Vec<SocketAddr>> = named.collect();
            let named = named?;
            let agreed = named.iter().all(|at| *at == named[0]);
            let new = agreed.then(|| self.index_of(named[0])).filter(|&new| new != old)?;
            (self.servers[new].info("role")? == "master").then_some(new)
        })
    }

    /// Starts a killed server as a replica of the primary.
    pub fn bring_back(&mut self, index: usize) {
        let primary = self.servers[self.primary()].address();
        let line = replica_of(primary).join(" ");
        self.servers[index].start_again_with(&format!("{line}\n"));
    }

    /// Waits until so many replicas have all that the primary has.
    pub fn wait_until_replicated(&self, replicas: usize) {
        eventually("replicas that follow", || {
            // On a busy machine sentinels may take a server for dead that only waits for its turn.
            let primary = if self.sentinels.is_empty() { 0 } else { self.primary() };
            let info = self.servers[primary].try_command(&["INFO", "replication"])?.text();
            let online = info
                .lines()
                .filter(|line| line.starts_with("slave") && line.contains("state=online"));
            (online.count() >= replicas).then_some(())
        });
    }

    /// Waits until every sentinel knows the others and the replicas.
    pub fn wait_until_agreed(&self, replicas: usize) {
        for sentinel in &self.sentinels {
            eventually("sentinels that know each other", || {
                let known = sentinel.try_command(&["SENTINEL", "MASTER", SERVICE])?;
                let field = |name: &str| {
                    let at = known.parts().iter().position(|part| part.text() == name)?;
                    known.parts().get(at + 1).map(Reply::text)
                };
                let is_agreed = field("num-other-sentinels")? == "2"
                    && field("num-slaves")?.parse::<usize>().ok()? >= replicas
                    && field("flags")? == "master";
                is_agreed.then_some(())
            });
        }
    }

    fn primary_as_seen_by(&self, sentinel: &Redis) -> Option<SocketAddr> {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let reply = sentinel.try_command(&question)?;
        let (host, port) = (reply.parts().first()?.text(), reply.parts().get(1)?.text());
        format!("{host}:{port}").parse().ok()
    }

    fn index_of(&self, address: SocketAddr) -> usize {
        let found = self.servers.iter().position(|server| server.address() == address);
        found.expect("one of ours")
    }
}

fn replica_of(primary: SocketAddr) -> [String; 3] {
    ["REPLICAOF".into(), primary.ip().to_string(), primary.port().to_string()]
}
