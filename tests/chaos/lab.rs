//! A fleet that is put through rounds of the same fault, and what must hold after each: whatever
//! was acknowledged as revoked is refused everywhere in time, and what was not revoked works.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{
    Admin, Caller, Fleet, Gateway, Key, KeySpec, Setup, eventually, patience, scale,
};

/// What the README promises, from an acknowledgement or from the end of a fault.
const CEILING: Duration = Duration::from_secs(1);

/// What a busy machine may add to it before a test fails; what was measured is printed.
fn slack() -> Duration {
    Duration::from_millis(scale("CHAOS_SLACK_MS", 1_000))
}

pub(super) struct Lab {
    pub(super) fleet: Fleet,
    pub(super) random: fastrand::Rng,
    pub(super) round: u64,
    rounds: u64,
    what: &'static str,
    seed: u64,
    spec: KeySpec,
    account: String,
    control: Control,
    /// Refused in earlier rounds.
    gone: Vec<Key>,
    unacknowledged: usize,
    late: Vec<Duration>,
}

/// A key whose revocation was acknowledged.
pub(super) struct Revoked {
    pub(super) key: Key,
    at: Instant,
}

/// What all gateways of a lab have in common.
pub(super) fn setup(setup: Setup) -> Setup {
    setup.keys("keys_max_live = 1000").log("warn")
}

impl Lab {
    pub(super) fn new(what: &'static str, fleet: Fleet) -> Self {
        let seed = scale("KEYGATE_SEED", fastrand::u64(..));
        let rounds = scale("CHAOS_ROUNDS", 3);
        println!("{what}: KEYGATE_SEED={seed} CHAOS_ROUNDS={rounds}");
        let (admin, spec) = (fleet[0].admin(), KeySpec::new(&["read:orders"]));
        // A replica that has just been given everything takes a moment to say so.
        let account = admin.account_when_possible();
        let app = admin.app_when_possible(&account, &spec);
        let key = admin.key_when_possible(&account, &app, &spec);
        let control = Control::watch(&fleet, key);
        let random = fastrand::Rng::with_seed(seed);
        let (gone, late, unacknowledged, round) = (Vec::new(), Vec::new(), 0, 0);
        Self {
            fleet,
            random,
            round,
            rounds,
            what,
            seed,
            spec,
            account,
            control,
            gone,
            unacknowledged,
            late,
        }
    }

    /// Whether there is another round.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.round < self.rounds {
            self.round += 1;
            return true;
        }
        assert!(!self.gone.is_empty(), "nothing was tried");
        println!(
            "{}: {} rounds, {} revocations acknowledged, {} not; refused everywhere after {}",
            self.what,
            self.rounds,
            self.gone.len(),
            self.unacknowledged,
            quantiles(std::mem::take(&mut self.late))
        );
        false
    }

    /// New keys of a new app that no gateway has seen.
    pub(super) fn cold_keys(&self, count: usize) -> Vec<Key> {
        let admin = self.fleet[0].admin();
        let app = admin.app_when_possible(&self.account, &self.spec);
        let key = |_| admin.key_when_possible(&self.account, &app, &self.spec);
        (0..count).map(key).collect()
    }

    /// New keys that every gateway has in its cache.
    pub(super) fn warm_keys(&self, count: usize) -> Vec<Key> {
        let keys = self.cold_keys(count);
        for caller in &mut self.fleet.callers() {
            for key in &keys {
                // The store may just have come back.
                let deadline = Instant::now() + patience();
                loop {
                    match caller.status(&key.key) {
                        200 => break,
                        503 if Instant::now() < deadline => thread::yield_now(),
                        other => panic!("{self}: {other} for a key that was just made"),
                    }
                }
            }
        }
        keys
    }

    /// A moment at which nobody knows what a gateway is doing.
    pub(super) fn any_moment(&mut self, max: Duration) {
        let micros = self.random.u64(0..=max.as_micros() as u64);
        // Not a wait for anything: the moment of the fault is what is being tried out.
        thread::sleep(Duration::from_micros(micros));
    }

    pub(super) fn any_gateway(&mut self) -> usize {
        self.random.usize(..self.fleet.len())
    }

    /// Any gateway but this one.
    pub(super) fn another_gateway(&mut self, one: usize) -> usize {
        (one + 1 + self.random.usize(..self.fleet.len() - 1)) % self.fleet.len()
    }

    /// Revokes all these keys, each through one of those gateways, while `fault` happens.
    pub(super) fn revoke_during(
        &mut self,
        keys: Vec<Key>,
        through: &[usize],
        fault: impl FnOnce(&mut Self),
    ) -> Vec<Revoked> {
        const WRITERS: usize = 2;
        let random = &mut self.random;
        let admins: Vec<Admin> = self.fleet.iter().map(Gateway::admin).collect();
        let tasks = keys.into_iter().map(|key| {
            let through = through[random.usize(..through.len())];
            (key, admins[through].clone())
        });
        let mut tasks = tasks.collect::<Vec<_>>();
        // One that is acknowledged just before the fault, in every round.
        let first = Mutex::new(tasks.split_off(tasks.len() - 1));
        let (mut revoked, others) = revoke_all(&first);
        self.unacknowledged += others;
        let tasks = Arc::new(Mutex::new(tasks));
        let writers: Vec<JoinHandle<_>> = (0..WRITERS)
            .map(|_| {
                let tasks = Arc::clone(&tasks);
                thread::spawn(move || revoke_all(&tasks))
            })
            .collect();
        fault(self);
        for writer in writers {
            let (acknowledged, others) = writer.join().expect("writers cope");
            revoked.extend(acknowledged);
            self.unacknowledged += others;
        }
        revoked
    }

    /// Waits until this gateway refuses these keys, and holds it to the ceiling: from the
    /// acknowledgement, or from the end of the fault that kept it from hearing of it.
    #[track_caller]
    pub(super) fn refused_by(
        &mut self,
        gateway: usize,
        revoked: &[Revoked],
        healed: Option<Instant>,
    ) {
        let mut caller = self.fleet[gateway].caller();
        for Revoked { key, at } in revoked {
            let since = healed.map_or(*at, |healed| healed.max(*at));
            let after = self.refused(&mut caller, gateway, key, since);
            self.late.push(after);
        }
    }

    /// The same of all gateways. Nothing comes back, neither now nor in later rounds.
    #[track_caller]
    pub(super) fn refused_everywhere(&mut self, revoked: Vec<Revoked>, healed: Option<Instant>) {
        for gateway in 0..self.fleet.len() {
            self.refused_by(gateway, &revoked, healed);
        }
        self.gone.extend(revoked.into_iter().map(|revoked| revoked.key));
        let newest = self.gone.len().saturating_sub(8);
        let mut again = self.gone[newest..].to_vec();
        again.extend(self.random.choose_multiple(&self.gone, 4).into_iter().cloned());
        for mut caller in self.fleet.callers() {
            for key in &again {
                let status = caller.status(&key.key);
                assert!(matches!(status, 401 | 503), "{self}: {status} for a key that was refused");
            }
        }
        self.control.assert_calm();
    }

    /// Waits until every gateway is told of changes as they are made.
    pub(super) fn all_live(&self) {
        for gateway in self.fleet.iter() {
            eventually("a live link", || (gateway.metric("keygate_link_up") == 1.0).then_some(()));
        }
    }

    fn refused(&self, caller: &mut Caller, gateway: usize, key: &Key, since: Instant) -> Duration {
        loop {
            let asked_at = Instant::now();
            let after = asked_at.saturating_duration_since(since);
            match caller.status(&key.key) {
                401 => return after,
                503 => assert!(after < patience(), "{self}: gateway {gateway} does not recover"),
                200 => assert!(
                    after < CEILING + slack(),
                    "{self}: gateway {gateway} admits {} {after:?} after it had to refuse it",
                    key.id
                ),
                other => panic!("{self}: {other}"),
            }
        }
    }

    /// Says that this gateway cannot be called for a while.
    pub(super) fn excuse(&self, gateway: usize) {
        self.control.excuse(gateway);
    }

    /// Says that it can be called again, perhaps elsewhere.
    pub(super) fn expect_again(&self, gateway: usize) {
        self.control.expect(gateway, self.fleet[gateway].proxy);
    }
}

/// Where we are, for whoever reads why a test failed.
impl std::fmt::Display for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, round {}, KEYGATE_SEED={}", self.what, self.round, self.seed)
    }
}

fn revoke_all(tasks: &Mutex<Vec<(Key, Admin)>>) -> (Vec<Revoked>, usize) {
    let (mut revoked, mut others) = (Vec::new(), 0);
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).pop();
    while let Some((key, admin)) = next() {
        if admin.try_revoke(&key) {
            revoked.push(Revoked { key, at: Instant::now() });
        } else {
            others += 1;
        }
    }
    (revoked, others)
}

pub(super) fn revoked_now(key: Key) -> Revoked {
    Revoked { key, at: Instant::now() }
}

/// Calls a key that nobody revokes, through every gateway, all the time.
struct Control {
    key: Key,
    at: Arc<Vec<Mutex<Whereabouts>>>,
    failures: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Whereabouts {
    /// None while the gateway is excused.
    address: Option<SocketAddr>,
    /// A call during which this has changed says nothing.
    changes: u64,
}

impl Control {
    fn watch(fleet: &Fleet, key: Key) -> Self {
        let at = |gateway: &Gateway| Whereabouts { address: Some(gateway.proxy), changes: 0 };
        let at = fleet.iter().map(|gateway| Mutex::new(at(gateway))).collect();
        let control =
            Self { key, at: Arc::new(at), failures: Arc::default(), ended: Arc::default() };
        for mut caller in fleet.callers() {
            assert_eq!(caller.status(&control.key.key), 200);
        }
        for gateway in 0..fleet.len() {
            let (key, ended) = (control.key.key.clone(), Arc::clone(&control.ended));
            let (at, failures) = (Arc::clone(&control.at), Arc::clone(&control.failures));
            thread::spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    call_control(&key, &at[gateway], &failures);
                    // Not a wait for anything: a client that is always there, and leaves room.
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        control
    }

    fn excuse(&self, gateway: usize) {
        self.change(gateway, None);
    }

    fn expect(&self, gateway: usize, address: SocketAddr) {
        // A gateway that has just started has to look the key up once.
        assert_eq!(Caller::new(address).status(&self.key.key), 200);
        self.change(gateway, Some(address));
    }

    fn change(&self, gateway: usize, address: Option<SocketAddr>) {
        let mut at = self.at[gateway].lock().unwrap_or_else(PoisonError::into_inner);
        *at = Whereabouts { address, changes: at.changes + 1 };
    }

    #[track_caller]
    fn assert_calm(&self) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failures.is_empty(), "a key that nobody revoked: {failures:?}");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

fn call_control(key: &str, at: &Mutex<Whereabouts>, failures: &Mutex<Vec<String>>) {
    let now = || *at.lock().unwrap_or_else(PoisonError::into_inner);
    let before = now();
    let Some(address) = before.address else { return };
    let request = crate::harness::get("/v1/orders").bearer(key);
    let answer = Caller::new(address).try_send(&request);
    let is_well = answer.as_ref().is_ok_and(|answer| answer.status == 200);
    // It may have been excused while the call was on its way.
    if !is_well && now() == before {
        let text = answer.map(|answer| format!("{} {}", answer.status, answer.text()));
        failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{text:?}"));
    }
}

pub(super) fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[(times.len().saturating_sub(1) as f64 * share) as usize];
    format!("median {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0))
}
