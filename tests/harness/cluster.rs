//! A cluster of three primaries with a replica each.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;

use super::redis::{Redis, Settings};
use super::wait::eventually;

pub struct Cluster {
    /// Three primaries, then their replicas, as they were at the start.
    pub nodes: Vec<Redis>,
}

const PRIMARIES: usize = 3;
const SLOTS: u32 = 16_384;

impl Cluster {
    /// Starts all nodes and waits until each knows that all is well.
    pub fn start() -> Self {
        let settings = Settings::default()
            .line("cluster-enabled yes")
            .line("cluster-node-timeout 500")
            .line("cluster-require-full-coverage no");
        let nodes = (0..2 * PRIMARIES).map(|_| Redis::with(settings.clone())).collect();
        let cluster = Self { nodes };
        cluster.introduce();
        for (index, node) in cluster.nodes.iter().take(PRIMARIES).enumerate() {
            let share = |n: usize| SLOTS * n as u32 / PRIMARIES as u32;
            let (first, last) = (share(index), share(index + 1) - 1);
            let slots = (first..=last).map(|slot| slot.to_string());
            let words = ["CLUSTER".into(), "ADDSLOTS".into()].into_iter().chain(slots);
            node.command(&words.collect::<Vec<_>>());
        }
        for (index, replica) in cluster.nodes.iter().skip(PRIMARIES).enumerate() {
            let id = cluster.nodes[index].command(&["CLUSTER", "MYID"]).text();
            // It has to have heard of the primary first.
            eventually("a replica", || replica.try_command(&["CLUSTER", "REPLICATE", &id]));
        }
        cluster.wait_until_well();
        cluster
    }

    fn introduce(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            // Each begins with another number of its own, or they argue about it first.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for other in self.nodes.iter().skip(1) {
            let (ip, port) = (other.address().ip().to_string(), other.address().port().to_string());
            self.nodes[0].command(&["CLUSTER", "MEET", &ip, &port]);
        }
        eventually("nodes that know each other", || {
            let known = |node: &Redis| cluster_info(node, "cluster_known_nodes");
            let all = self.nodes.len().to_string();
            self.nodes.iter().all(|node| known(node).is_some_and(|k| k == all)).then_some(())
        });
    }

    /// `[store]` for a gateway that uses the cluster.
    pub fn store(&self) -> String {
        let urls = self.nodes.iter().map(|node| format!("\"redis://{}\"", node.address()));
        let urls = urls.collect::<Vec<_>>().join(", ");
        format!("kind = \"redis\"\nmode = \"cluster\"\nurls = [{urls}]")
    }

    pub fn files(&self) -> Vec<Arc<TempDir>> {
        self.nodes.iter().map(Redis::files).collect()
    }

    /// The node that serves the slot of this name, as `asked` sees it.
    pub fn primary_of(&self, name: &str, asked: usize) -> Option<usize> {
        let node = &self.nodes[asked];
        let slot = node.try_command(&["CLUSTER", "KEYSLOT", name])?.number();
        let ranges = node.try_command(&["CLUSTER", "SLOTS"])?;
        let range = ranges.parts().iter().find(|range| {
            let bound = |at: usize| range.parts()[at].number();
            (bound(0)..=bound(1)).contains(&slot)
        })?;
        let primary = range.parts()[2].parts();
        let address: SocketAddr =
            format!("{}:{}", primary[0].text(), primary[1].text()).parse().ok()?;
        self.nodes.iter().position(|node| node.address() == address)
    }

    /// Waits until all nodes but `gone` say that another serves the slot of this name.
    pub fn wait_for_another_than(&self, gone: usize, name: &str) -> usize {
        eventually("a new primary", || {
            let others = (0..self.nodes.len()).filter(|&node| node != gone);
            let mut named = others.map(|node| self.primary_of(name, node));
            let first = named.next()??;
            (first != gone && named.all(|other| other == Some(first))).then_some(first)
        })
    }

    /// Waits until every node finds the cluster well, and every replica follows its primary.
    pub fn wait_until_well(&self) {
        for node in &self.nodes {
            eventually("a cluster that is well", || {
                let is_ok = cluster_info(node, "cluster_state")? == "ok"
                    && cluster_info(node, "cluster_slots_ok")? == SLOTS.to_string();
                let follows = match &*node.info("role")? {
                    "slave" => node.info("master_link_status")? == "up",
                    _ => node.info("connected_slaves")? == "1",
                };
                let all_up = !node.try_command(&["CLUSTER", "NODES"])?.text().contains("fail");
                (is_ok && follows && all_up).then_some(())
            });
        }
    }
}

fn cluster_info(node: &Redis, field: &str) -> Option<String> {
    let info = node.try_command(&["CLUSTER", "INFO"])?.text();
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(|value| value.trim_end().to_owned())
}
