//! What is known of an upstream and its targets, whatever the configuration says of them: it outlives
//! reloads. Written by tasks and by requests that fail, read by everybody. Chooses nothing.

use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use keygate_config::Target;
use keygate_core::health::{Budget, Health, Thresholds};
use quanta::Instant;
use tokio::sync::watch;

use super::Setup;
use super::upkeep::Tasks;

/// One upstream.
pub(crate) struct UpstreamState {
    /// Where the nanoseconds of its targets begin.
    began: Instant,
    /// Goes up whenever other targets may get requests.
    changes: AtomicU64,
    /// Whether a request found nobody to go to.
    is_down: AtomicBool,
    /// Whose turn it is.
    turn: AtomicUsize,
    budget: Mutex<Budget>,
    /// Held by whoever keeps a target out, so that two do not keep out the last two.
    pub keeping_out: Mutex<()>,
    /// For the tasks that look after its targets.
    pub setup: watch::Sender<Arc<Setup>>,
}

impl UpstreamState {
    /// `answered` is how many of its requests were answered so far.
    pub(crate) fn new(setup: &Arc<Setup>, answered: u64) -> Self {
        Self {
            began: Instant::now(),
            changes: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            // Gateways that start together do not all begin with the same target.
            turn: AtomicUsize::new(fastrand::usize(..)),
            budget: Mutex::new(Budget::new(answered, 0)),
            keeping_out: Mutex::default(),
            setup: watch::Sender::new(Arc::clone(setup)),
        }
    }

    pub(crate) fn now_ns(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.began))
    }

    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Relaxed)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Says that other targets may get requests from here on. After what changed has changed.
    pub(crate) fn has_changed(&self) {
        self.changes.fetch_add(1, Release);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Says whether there is anybody to send requests to.
    pub(crate) fn set_down(&self, is_down: bool) {
        if self.is_down.swap(is_down, Relaxed) != is_down && is_down {
            // Whoever checks the targets looks up from its wait.
            self.setup.send_modify(|_| {});
        }
    }

    /// Whether one more attempt is affordable, which it then costs.
    pub(crate) fn take_attempt(&self, percent: u64, answered: u64, now: Instant) -> bool {
        lock(&self.budget).take(percent, answered, self.now_ns(now))
    }
}

/// One target: a name or an address in the configuration, with a port.
pub(crate) struct TargetState {
    pub target: Target,
    /// At least one.
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    pub tasks: Tasks,
}

impl TargetState {
    pub(crate) fn new(target: Target, addresses: &[SocketAddr]) -> Self {
        let endpoints = addresses.iter().map(|address| Arc::new(Endpoint::new(*address)));
        let endpoints = ArcSwap::from_pointee(endpoints.collect());
        Self { target, endpoints, tasks: Tasks::default() }
    }

    pub(crate) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Whether no address of it is healthy.
    pub(crate) fn is_down(&self) -> bool {
        !self.endpoints.load().iter().any(|endpoint| endpoint.is_healthy())
    }

    /// Takes over the addresses that the name has now. What is known of those that it had before stays.
    /// Whether any is new or gone.
    pub(crate) fn set_addresses(&self, addresses: &[SocketAddr]) -> bool {
        let before = self.endpoints();
        if before.iter().map(|endpoint| endpoint.address).eq(addresses.iter().copied()) {
            return false;
        }
        let endpoint = |address: &SocketAddr| {
            let known = before.iter().find(|endpoint| endpoint.address == *address);
            known.map_or_else(|| Arc::new(Endpoint::new(*address)), Arc::clone)
        };
        self.endpoints.store(Arc::new(addresses.iter().map(endpoint).collect()));
        true
    }
}

/// One address of a target.
pub(crate) struct Endpoint {
    pub address: SocketAddr,
    running: AtomicUsize,
    health: Mutex<Health>,
    is_unhealthy: AtomicBool,
    /// Failed requests in a row.
    failures: AtomicU32,
    /// How often it was kept out since it last answered.
    times_out: AtomicU32,
    out_until_ns: AtomicU64,
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            running: AtomicUsize::new(0),
            health: Mutex::default(),
            is_unhealthy: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            times_out: AtomicU32::new(0),
            out_until_ns: AtomicU64::new(0),
        }
    }

    /// Requests that it is working on.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.is_unhealthy.load(Acquire)
    }

    /// Until when it gets no requests because it failed some; long ago if it gets them.
    pub(crate) fn out_until_ns(&self) -> u64 {
        self.out_until_ns.load(Acquire)
    }

    /// Counts a check. Whether something else is thought of it from here on.
    pub(crate) fn checked(&self, is_good: bool, thresholds: Thresholds) -> bool {
        let mut health = lock(&self.health);
        let before = health.is_healthy;
        *health = health.after(is_good, thresholds);
        self.is_unhealthy.store(!health.is_healthy, Release);
        health.is_healthy != before
    }

    /// Nobody checks it any more.
    pub(crate) fn forget_checks(&self) {
        *lock(&self.health) = Health::default();
        self.is_unhealthy.store(false, Release);
    }

    /// A request failed. How many did in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// It answered a request.
    pub(crate) fn answered(&self) {
        // Hardly ever otherwise, and then nothing is written.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.times_out.store(0, Relaxed);
        }
    }

    /// How often it was kept out since it last answered, this time not included.
    pub(crate) fn times_out(&self) -> u32 {
        self.times_out.load(Relaxed)
    }

    pub(crate) fn keep_out(&self, until_ns: u64) {
        self.times_out.fetch_add(1, Relaxed);
        self.out_until_ns.store(until_ns, Release);
    }
}

/// An endpoint that works on a request, until this is dropped.
pub(crate) struct Busy(pub Arc<Endpoint>);

impl Busy {
    pub(crate) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.running.fetch_add(1, Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nothing here is left half done by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn target(ports: &[u16]) -> TargetState {
        TargetState::new(Target { host: "a.internal".into(), port: 80 }, &addresses(ports))
    }

    #[test]
    fn what_is_known_of_an_address_outlives_a_look_up() {
        let target = target(&[1, 2]);
        let before = target.endpoints();
        assert!(!target.set_addresses(&addresses(&[1, 2])));
        assert!(target.set_addresses(&addresses(&[2, 3])));
        let after = target.endpoints();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert_eq!(after.iter().map(|one| one.address.port()).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn an_endpoint_is_busy_until_its_request_ends() {
        let target = target(&[1]);
        let endpoint = &target.endpoints()[0];
        let (one, two) = (Busy::new(endpoint), Busy::new(endpoint));
        assert_eq!(endpoint.running(), 2);
        drop(one);
        assert_eq!(endpoint.running(), 1);
        drop(two);
        assert_eq!(endpoint.running(), 0);
    }
}
