//! Requests with one key at a steady pace through a fleet, whatever becomes of each; and what came
//! of them, held against a limit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::caller::Caller;
use super::fleet::Fleet;
use super::request::{Request, get};
use super::{Key, KeySpec, assert_refused};

/// How requests spread over the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    Even,
    /// Nine of ten at the first.
    Skewed,
    /// All at one, and at another the next second.
    Moving,
}

impl Traffic {
    pub const ALL: [Self; 3] = [Self::Even, Self::Skewed, Self::Moving];

    fn gateway(self, nth: u64, due: Duration, gateways: usize) -> usize {
        let gateways = gateways as u64;
        let gateway = match self {
            Self::Even => nth % gateways,
            Self::Skewed if !nth.is_multiple_of(10) => 0,
            Self::Skewed => 1 + nth / 10 % (gateways - 1),
            Self::Moving => due.as_secs() % gateways,
        };
        gateway as usize
    }
}

/// A key that every gateway knows, and of whose limits nothing is used.
pub fn known_key(fleet: &Fleet, spec: &KeySpec) -> Key {
    let key = fleet[0].key_with(spec);
    // A request that is refused for another reason is not charged.
    let other = get("/v1/reports").bearer(&key.key);
    for gateway in fleet.iter() {
        assert_refused(&gateway.send(&other), 403, "permission_denied");
    }
    key
}

/// A load that is yet to begin.
#[derive(Clone)]
pub struct Load {
    gateways: Vec<SocketAddr>,
    /// Sent in turns.
    requests: Vec<Request>,
    traffic: Traffic,
    per_second: u64,
    clients: usize,
}

impl Load {
    /// So many requests a second with this key.
    pub fn on(fleet: &Fleet, key: &str, traffic: Traffic, per_second: u64) -> Self {
        let gateways = fleet.iter().map(|gateway| gateway.proxy).collect();
        let requests = vec![get("/v1/orders").bearer(key)];
        Self { gateways, requests, traffic, per_second, clients: 8 }
    }

    /// Every other request is with this key.
    pub fn and(mut self, key: &str) -> Self {
        self.requests.push(get("/v1/orders").bearer(key));
        self
    }

    /// So many requests may wait for their answers at a time.
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    pub fn lasting(&self, lasts: Duration) -> Calls {
        // Not a wait for anything: this is how much load there is.
        self.during(|| thread::sleep(lasts))
    }

    /// Goes on until `act` returns.
    pub fn during(&self, act: impl FnOnce()) -> Calls {
        let (began, next, ended) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        let (mut calls, took) = thread::scope(|scope| {
            let (next, ended) = (&next, &ended);
            let clients: Vec<_> = (0..self.clients)
                .map(|_| scope.spawn(move || self.client(began, next, ended)))
                .collect();
            // Also when `act` panics: the scope waits for all threads.
            let at_the_end = Ends(ended);
            act();
            drop(at_the_end);
            let took = began.elapsed();
            let calls = clients.into_iter().map(|client| client.join().expect("clients cope"));
            (calls.flatten().collect::<Vec<_>>(), took)
        });
        calls.sort_unstable_by_key(|call| call.seen);
        Calls { all: calls, took }
    }

    fn client(&self, began: Instant, next: &AtomicU64, ended: &AtomicBool) -> Vec<Call> {
        let mut callers: Vec<Caller> = self.gateways.iter().copied().map(Caller::new).collect();
        let mut calls = Vec::new();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_micros(nth * 1_000_000 / self.per_second);
            thread::sleep((began + due).saturating_duration_since(Instant::now()));
            if ended.load(Ordering::SeqCst) {
                return calls;
            }
            let keys = self.requests.len() as u64;
            let gateway = self.traffic.gateway(nth / keys, due, callers.len());
            let which = (nth % keys) as usize;
            let sent = began.elapsed();
            let answer = callers[gateway].try_send(&self.requests[which]);
            let status = answer.ok().map(|answer| answer.status);
            calls.push(Call { sent, seen: began.elapsed(), which, status });
        }
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One request. Times are since the load began.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub sent: Duration,
    pub seen: Duration,
    /// The key it was with, counted from the load's own.
    pub which: usize,
    /// None if there was no answer.
    pub status: Option<u16>,
}

/// What came of a load, in the order of the answers.
#[derive(Debug)]
pub struct Calls {
    pub all: Vec<Call>,
    /// How long requests were sent.
    pub took: Duration,
}

impl Calls {
    pub fn passed(&self) -> usize {
        self.with(200).count()
    }

    pub fn with(&self, status: u16) -> impl Iterator<Item = &Call> {
        self.all.iter().filter(move |call| call.status == Some(status))
    }

    /// Every request was answered, and with one of these.
    #[track_caller]
    pub fn only(&self, statuses: &[u16]) {
        let is_other = |call: &&Call| call.status.is_none_or(|status| !statuses.contains(&status));
        let others: Vec<_> = self.all.iter().filter(is_other).take(5).collect();
        assert!(others.is_empty(), "{others:?}");
    }

    /// In no span of time did more pass than a bucket of `burst` units lets through that gets
    /// `per_second` back. Needs no allowance for slow answers: requests that were sent and answered
    /// within a span were charged within it, and only these are counted.
    #[track_caller]
    pub fn never_above(&self, per_second: f64, burst: f64) {
        if let Some((most, from, to)) = self.most_above(per_second) {
            assert!(
                most <= burst + 1e-6,
                "{:.3} units of a burst of {burst} between {from:?} and {to:?}",
                most
            );
        }
    }

    /// The span in which the most passed beyond what came back in it, and how much.
    fn most_above(&self, per_second: f64) -> Option<(f64, Duration, Duration)> {
        const BEGINNINGS_MAX: usize = 1_500;
        let passed: Vec<_> = self.with(200).map(|call| (call.sent, call.seen)).collect();
        // All of them if they are few, else as many as there is time for.
        let step = passed.len().div_ceil(BEGINNINGS_MAX).max(1);
        let beginnings = passed.iter().step_by(step).map(|(sent, _)| *sent);
        let spans = beginnings.flat_map(|from| {
            let within = passed.iter().filter(move |(sent, _)| *sent >= from);
            within.zip(1_u64..).map(move |((_, to), count)| {
                let back = (*to - from).as_secs_f64() * per_second;
                (count as f64 - back, from, *to)
            })
        });
        spans.max_by(|one, other| one.0.total_cmp(&other.0))
    }
}
