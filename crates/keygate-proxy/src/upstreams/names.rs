//! Looks up the names of targets: once when they are new, and again beside the requests. An address
//! is its own name.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use keygate_config::Target;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Setup;
use super::state::{TargetState, UpstreamState};
use super::upkeep::jittered;
use crate::server::ProxyError;

/// The most addresses of one name that are used.
const ADDRESSES_MAX: usize = 256;
/// Failed look-ups in a row until the next is told: the first is, and then ever fewer.
const TOLD_EVERY_MAX: u32 = 64;

/// Looks up a name. Blocks.
pub(crate) type LookUp = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// What the system says.
pub(crate) fn system() -> LookUp {
    Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
}

/// Whether a target has a name that may get other addresses.
pub(crate) fn is_name(target: &Target) -> bool {
    target.host.parse::<IpAddr>().is_err()
}

/// The addresses of a target, in an order that does not depend on whom was asked. At least one.
///
/// # Errors
/// [`ProxyError::Target`] if there is none.
pub(crate) fn addresses(target: &Target, look_up: &LookUp) -> Result<Vec<SocketAddr>, ProxyError> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let error = |source| ProxyError::Target { target: target.to_string(), source };
    let found = look_up(&target.host, target.port).map_err(|source| error(Some(source)))?;
    let used = usable(found);
    if used.is_empty() { Err(error(None)) } else { Ok(used) }
}

/// Those of one kind, IPv4 or IPv6, that the system puts first: it knows which it can reach. On this
/// machine both can be.
fn usable(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_local = found.iter().all(|address| address.ip().is_loopback());
    if let Some(first) = found.first().filter(|_| !is_local) {
        let is_v4 = first.is_ipv4();
        found.retain(|address| address.is_ipv4() == is_v4);
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    found
}

/// Looks a target's name up again and again. A look-up that fails changes nothing.
pub(crate) async fn keep_looking_up(
    upstream: Arc<UpstreamState>,
    target: Arc<TargetState>,
    look_up: LookUp,
) {
    let mut setup = upstream.setup.subscribe();
    let mut failures: u32 = 0;
    loop {
        let last = Instant::now();
        wait(&mut setup, last, |setup| jittered(setup.settings.dns_refresh)).await;
        let (asked, look_up) = (Arc::clone(&target), Arc::clone(&look_up));
        let found = tokio::task::spawn_blocking(move || addresses(&asked.target, &look_up)).await;
        match found {
            Ok(Ok(found)) => {
                failures = 0;
                take_over(&upstream, &target, &found);
            }
            Ok(Err(error)) => {
                if failures.is_multiple_of(TOLD_EVERY_MAX) {
                    let name = &*upstream.setup.borrow().settings.name;
                    let cause = crate::failure::ErrorChain(&error);
                    tracing::warn!(upstream = name, error = %cause, "a name keeps its addresses");
                }
                failures = failures.saturating_add(1);
            }
            // The runtime is ending.
            Err(_) => return,
        }
    }
}

fn take_over(upstream: &UpstreamState, target: &TargetState, found: &[SocketAddr]) {
    if target.set_addresses(found) {
        upstream.has_changed();
        let name = &*upstream.setup.borrow().settings.name;
        let addresses = found.len();
        tracing::info!(upstream = name, target = %target.target, addresses, "a name has other addresses");
    }
}

/// Waits until a span after `last` is over, whatever the settings say of it meanwhile.
pub(crate) async fn wait(
    setup: &mut watch::Receiver<Arc<Setup>>,
    last: Instant,
    mut span: impl FnMut(&Setup) -> Duration,
) {
    loop {
        let due = last + span(&setup.borrow_and_update());
        tokio::select! {
            () = sleep_until(due) => return,
            changed = setup.changed() => if changed.is_err() {
                // Nobody has this upstream any more, and so this task ends soon.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn target(host: &str) -> Target {
        Target { host: host.into(), port: 80 }
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let look_up: LookUp = Arc::new(|_, _| panic!("an address has no name"));
        for host in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_name(&target(host)));
            let found = addresses(&target(host), &look_up).unwrap();
            assert_eq!(found, [SocketAddr::new(host.parse().unwrap(), 80)]);
        }
        assert!(is_name(&target("a.internal")));
    }

    #[test]
    fn a_name_without_an_address_is_an_error() {
        let look_up: LookUp = Arc::new(|_, _| Ok(Vec::new()));
        let error = addresses(&target("a.internal"), &look_up).unwrap_err();
        assert!(error.to_string().contains("a.internal:80"), "{error}");
    }

    #[test]
    fn all_addresses_of_the_kind_that_the_system_prefers_are_used_once_each() {
        let v4 = at(&["192.0.2.2:80", "192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        assert_eq!(usable(v4), at(&["192.0.2.1:80", "192.0.2.2:80"]));
        let v6 = at(&["[2001:db8::1]:80", "192.0.2.1:80"]);
        assert_eq!(usable(v6), at(&["[2001:db8::1]:80"]));
        let local = at(&["[::1]:80", "127.0.0.1:80"]);
        assert_eq!(usable(local), at(&["127.0.0.1:80", "[::1]:80"]));
    }
}
