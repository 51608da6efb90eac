//! The primary itself is lost, and another server takes its place: what was acknowledged with
//! `wait_replicas` is there.

use std::time::{Duration, Instant};

use super::lab::{Lab, setup};
use super::{ALL, GATEWAYS};
use crate::harness::{Cluster, Fleet, Sentinels, Setup, Upstream, alone};

const KEYS: usize = 6;
/// A write is acknowledged once a replica has it; tries that cannot succeed end soon.
const DURABLE: &str = "wait_replicas = 1\nwait_timeout = \"300ms\"\nwrite_timeout = \"500ms\"\nconnect_timeout = \"500ms\"";

#[test]
fn no_revocation_is_missed_when_sentinels_make_another_primary() {
    let _alone = alone();
    let (upstream, mut set) = (Upstream::start(), Sentinels::start(1));
    let setup = setup(Setup::in_front_of(&upstream)).store(&set.store()).store_also(DURABLE);
    let fleet = Fleet::of(GATEWAYS, &setup.searching(set.files()));
    let mut lab = Lab::new("Sentinel failover", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let old = set.primary();
        let loss = [Loss::Killed, Loss::Stopped, Loss::Ordered][lab.random.usize(..3)];
        let revoked = lab.revoke_during(keys, &ALL, |lab| {
            lab.any_moment(Duration::from_millis(15));
            match loss {
                Loss::Killed => set.servers[old].kill(),
                Loss::Stopped => set.servers[old].pause(),
                Loss::Ordered => set.order_failover(),
            }
        });
        set.wait_for_another_than(old);
        let healed = Instant::now();
        if loss == Loss::Stopped {
            // It goes on as the primary that it was, until it is told.
            set.servers[old].resume();
        }
        lab.refused_everywhere(revoked, Some(healed));
        if loss == Loss::Killed {
            set.bring_back(old);
        }
        set.wait_until_replicated(1);
        set.wait_until_agreed(1);
    }
}

/// What becomes of the primary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    /// It hangs, and wakes up as if nothing had been.
    Stopped,
    /// It is well, and has to hand over.
    Ordered,
}

#[test]
fn no_revocation_is_missed_when_a_clusters_primary_is_killed() {
    const NAME: &str = "{keygate}:meta";
    let _alone = alone();
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start());
    let setup = setup(Setup::in_front_of(&upstream)).store(&cluster.store()).store_also(DURABLE);
    let fleet = Fleet::of(GATEWAYS, &setup.searching(cluster.files()));
    let mut lab = Lab::new("a Cluster's primary killed", fleet);
    while lab.goes_on() {
        let keys = lab.warm_keys(KEYS);
        let old = cluster.primary_of(NAME, 0).expect("a primary");
        let revoked = lab.revoke_during(keys, &ALL, |lab| {
            lab.any_moment(Duration::from_millis(15));
            cluster.nodes[old].kill();
        });
        cluster.wait_for_another_than(old, NAME);
        lab.refused_everywhere(revoked, Some(Instant::now()));
        cluster.nodes[old].start_again();
        cluster.wait_until_well();
    }
}
