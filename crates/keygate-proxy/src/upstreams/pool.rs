//! Those endpoints of an upstream that get requests now, ready to be chosen from. Made anew whenever
//! that changes, so that a request has nothing to work out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderValue;
use keygate_config::{Balance, HostRewrite, Target};
use keygate_core::balance::{always_for, hash, least_loaded, turns};
use pingora::upstreams::peer::HttpPeer;

use super::Setup;
use super::state::{Endpoint, TargetState};

/// So that the addresses of a name can share a weight: most counts divide it.
const WEIGHT_UNIT: u32 = 5_040;

/// A state of an upstream.
pub(crate) struct Pool {
    /// The upstream's count of changes that this pool knows of; none has been asked for at first.
    made_at: Option<u64>,
    /// When an endpoint that is kept out comes back, if one is.
    until_ns: u64,
    seats: Vec<Seat>,
    /// Endpoints that get nothing now.
    spare: Vec<Seat>,
    /// Places of seats.
    turns: Box<[u16]>,
    /// The seats of each target that has any.
    targets: Vec<Group>,
}

/// An endpoint, and how it is connected to.
pub(crate) struct Seat {
    pub template: Arc<HttpPeer>,
    pub endpoint: Arc<Endpoint>,
    /// The `Host` that it gets, unless it is the client's.
    pub host: Option<HeaderValue>,
    /// The place of its target in the settings.
    target: usize,
    weight: u32,
    /// A hash of its address.
    name: u64,
}

struct Group {
    /// A hash of the target as the configuration has it.
    name: u64,
    weight: u32,
    seats: Range<usize>,
}

impl Pool {
    /// Out of date from the beginning.
    pub(crate) fn empty() -> Self {
        Self {
            made_at: None,
            until_ns: u64::MAX,
            seats: Vec::new(),
            spare: Vec::new(),
            turns: Box::default(),
            targets: Vec::new(),
        }
    }

    /// The pool of the targets as they are now. `made_at` was read before anything else was; `targets`
    /// are in the order of the settings. How `before` connects to what it knows is taken over.
    pub(crate) fn new(
        setup: &Setup,
        targets: &[Arc<TargetState>],
        made_at: u64,
        now_ns: u64,
        before: &Self,
    ) -> Self {
        let known: HashMap<(usize, SocketAddr), &Arc<HttpPeer>> = before
            .all()
            .map(|seat| ((seat.target, seat.endpoint.address), &seat.template))
            .collect();
        let mut pool = Self { made_at: Some(made_at), ..Self::empty() };
        let keeps_out = is_any_left(targets, now_ns);
        for (target, (one, state)) in setup.settings.targets.iter().zip(targets).enumerate() {
            let (first, endpoints) = (pool.seats.len(), state.endpoints());
            let share = u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
            let weight = u32::from(one.weight).saturating_mul(WEIGHT_UNIT) / share;
            let host = host(&setup.settings.host, &state.target);
            for endpoint in &*endpoints {
                let address = endpoint.address;
                let new = || Arc::new(setup.template.of(address, &state.target));
                let seat = Seat {
                    template: known.get(&(target, address)).map_or_else(new, |it| Arc::clone(it)),
                    endpoint: Arc::clone(endpoint),
                    host: host.clone(),
                    target,
                    weight: weight.max(1),
                    name: hash(address.to_string().as_bytes()),
                };
                pool.admit(seat, now_ns, keeps_out);
            }
            let seats = first..pool.seats.len();
            if !seats.is_empty() {
                let name = hash(state.target.to_string().as_bytes());
                pool.targets.push(Group { name, weight: u32::from(one.weight), seats });
            }
        }
        let weights: Vec<u32> = pool.seats.iter().map(|seat| seat.weight).collect();
        pool.turns = turns(&weights);
        pool
    }

    fn admit(&mut self, seat: Seat, now_ns: u64, keeps_out: bool) {
        let out_until_ns = seat.endpoint.out_until_ns();
        let is_out = out_until_ns > now_ns;
        if is_out {
            self.until_ns = self.until_ns.min(out_until_ns);
        }
        if seat.endpoint.is_healthy() && !(is_out && keeps_out) {
            self.seats.push(seat);
        } else {
            self.spare.push(seat);
        }
    }

    /// Whether this is still what the upstream is like.
    pub(crate) fn is_current(&self, changes: u64, now_ns: impl FnOnce() -> u64) -> bool {
        // Hardly ever is anybody kept out, and then there is no time to work out.
        self.made_at == Some(changes) && (self.until_ns == u64::MAX || now_ns() < self.until_ns)
    }

    /// Whether nobody gets requests.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether there is more than one endpoint, in use or not.
    pub(crate) fn has_choice(&self) -> bool {
        self.seats.len() + self.spare.len() > 1
    }

    /// Whether an endpoint that gets requests is not among these.
    pub(crate) fn has_other(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.seats.iter().any(|seat| seat.is_none_of(tried))
    }

    /// Endpoints that get requests, besides this one.
    pub(crate) fn others(&self, endpoint: &Arc<Endpoint>) -> usize {
        self.seats.iter().filter(|seat| !Arc::ptr_eq(&seat.endpoint, endpoint)).count()
    }

    /// All endpoints, in use or not.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().chain(&self.spare)
    }

    /// Who gets a request: somebody who did not have it yet, if there is anybody. `turn` counts the
    /// upstream's requests, `caller` hashes who makes this one.
    pub(crate) fn choose(
        &self,
        balance: Balance,
        tried: &[Arc<Endpoint>],
        turn: impl FnOnce() -> usize,
        caller: impl FnOnce() -> u64,
    ) -> Option<&Seat> {
        if let [only] = &*self.seats {
            return Some(only);
        }
        let tried = if tried.is_empty() || self.has_other(tried) { tried } else { &[] };
        let place = match balance {
            Balance::RoundRobin => self.in_turn(turn(), tried),
            Balance::LeastConnections => self.least_busy(turn(), tried),
            Balance::Hash(_) => self.always_for(caller(), tried),
        };
        self.seats.get(place?)
    }

    fn in_turn(&self, turn: usize, tried: &[Arc<Endpoint>]) -> Option<usize> {
        let first = turn.checked_rem(self.turns.len())?;
        let (before, from) = self.turns.split_at(first);
        let mut places = from.iter().chain(before).map(|place| usize::from(*place));
        places.find(|place| self.seats.get(*place).is_some_and(|seat| seat.is_none_of(tried)))
    }

    fn least_busy(&self, turn: usize, tried: &[Arc<Endpoint>]) -> Option<usize> {
        let load = |seat: &Seat| {
            let running = seat.endpoint.running();
            // Whoever had it already is the last choice.
            (if seat.is_none_of(tried) { running } else { usize::MAX / 2 }, seat.weight)
        };
        least_loaded(self.seats.iter().map(load), turn)
    }

    /// First the target and then its address, so that a name which gets another address keeps its
    /// callers.
    fn always_for(&self, caller: u64, tried: &[Arc<Endpoint>]) -> Option<usize> {
        let seats = |group: &Group| self.seats.get(group.seats.clone()).unwrap_or_default();
        let groups = || {
            let has_any = |group: &&Group| seats(group).iter().any(|seat| seat.is_none_of(tried));
            self.targets.iter().filter(has_any)
        };
        let target = always_for(caller, groups().map(|group| (group.name, group.weight)))?;
        let group = groups().nth(target)?;
        let left = || {
            let of_target = group.seats.clone().zip(seats(group));
            of_target.filter(|(_, seat)| seat.is_none_of(tried))
        };
        let place = always_for(caller, left().map(|(_, seat)| (seat.name, 1)))?;
        left().nth(place).map(|(place, _)| place)
    }
}

impl Seat {
    fn is_none_of(&self, tried: &[Arc<Endpoint>]) -> bool {
        !tried.iter().any(|endpoint| Arc::ptr_eq(endpoint, &self.endpoint))
    }
}

/// Names were checked when the configuration was read.
fn host(rewrite: &HostRewrite, target: &Target) -> Option<HeaderValue> {
    match rewrite {
        HostRewrite::Client => None,
        HostRewrite::Target => HeaderValue::try_from(target.to_string()).ok(),
        HostRewrite::Fixed(name) => HeaderValue::from_str(name).ok(),
    }
}

/// Whether a healthy endpoint is left when those that failed requests are kept out. If not, failing
/// requests are better than none.
fn is_any_left(targets: &[Arc<TargetState>], now_ns: u64) -> bool {
    let is_left = |one: &Arc<Endpoint>| one.is_healthy() && one.out_until_ns() <= now_ns;
    targets.iter().any(|target| target.endpoints().iter().any(is_left))
}
