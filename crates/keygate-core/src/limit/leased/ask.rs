//! What is asked of the store, and what becomes of the answer.

use std::time::Duration;

use super::{
    AHEAD, EMPTY_QUOTA_NS, EMPTY_SLOTS_NS, Empty, Fleet, IDLE_MAX_NS, Leased, PACE_MAX_NS,
    PACE_MIN_NS, PACE_UNITS, QuotaPurse, RatePurse, UNUSED_TICKS_MAX,
};
use crate::limit::policy::{Few, Use};
use crate::limit::tally::{quota_use, rate_use, slots_use};
use crate::limit::terms::{RateLimit, Terms};
use crate::limit::{Moment, Rate};
use crate::time::UnixMillis;

/// One question to the store about one party. The store first takes in what it is told of what is
/// held here. Then it gives each policy what is needed, or nothing at all; and of what is wanted
/// beyond that, what it can spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Later questions of one gateway have higher numbers: one that was overtaken is void.
    pub number: u64,
    /// The number of the first question about this party in its present life here. What the store
    /// knows of another life says nothing of this one.
    pub born: u64,
    /// Units of a rate and slots that are held here, whether they are limited at the moment or not.
    pub held: u64,
    pub slots_held: u64,
    /// How much of what is owed to the store this tells it. Stays here.
    tells: u64,
    pub lease: Duration,
    pub rate: Option<RateAsk>,
    pub quotas: Vec<QuotaAsk>,
    pub slots: Option<SlotsAsk>,
}

impl Ask {
    /// Asks for nothing and tells nothing: how much is left of these limits?
    #[must_use]
    pub fn only_looking(terms: &Terms<'_>) -> Self {
        let need = Need::default();
        let rate = terms.rate.map(|&limit| RateAsk {
            limit,
            level_milli: None,
            returned: 0,
            debt: 0,
            need,
        });
        let quotas = terms.quotas.iter().map(|&quota| QuotaAsk {
            quota,
            ends_at: UnixMillis(0),
            granted: 0,
            need,
        });
        let slots = terms.concurrency.map(|most| SlotsAsk { most, need });
        let quotas = quotas.collect();
        Self {
            number: 0,
            born: 0,
            held: 0,
            slots_held: 0,
            tells: 0,
            lease: Duration::ZERO,
            rate,
            quotas,
            slots,
        }
    }
}

/// Units of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Need {
    /// Without these the request cannot pass.
    pub units: u64,
    /// To be had if there are enough for all; these include `units`.
    pub wanted: u64,
}

impl Need {
    /// Whether there was too little of this policy, and not just of another.
    fn is_short(self, granted: u64, left: u64) -> bool {
        if granted == 0 && self.units > 0 { left < self.units } else { granted < self.wanted }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAsk {
    pub limit: RateLimit,
    /// What the store would have left, in thousandths of a unit, if nobody had asked since it last
    /// said so: for a store that has lost it. Nothing if it never said so.
    pub level_milli: Option<u64>,
    /// Units that were held here and go back. The store takes them if the lease was not over.
    pub returned: u64,
    /// Units that were used in the store's absence and are to be taken out now.
    pub debt: u64,
    pub need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAsk {
    pub quota: Rate,
    /// The window that `granted` is about, by the store's clock.
    pub ends_at: UnixMillis,
    /// All that was lent here, or used in the store's absence, in that window.
    pub granted: u64,
    pub need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsAsk {
    pub most: u64,
    pub need: Need,
}

/// What the store says: about each policy that was asked for, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The store's clock when it answered.
    pub now: UnixMillis,
    pub rate: Option<RateAnswer>,
    pub quotas: Vec<QuotaAnswer>,
    pub slots: Option<SlotsAnswer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAnswer {
    pub granted: u64,
    /// What is left, in thousandths of a unit.
    pub level_milli: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAnswer {
    pub ends_at: UnixMillis,
    pub granted: u64,
    pub remaining: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsAnswer {
    pub granted: u64,
    pub free: u64,
    /// The most that this gateway may hold, these included: what the others do not.
    pub allowed: u64,
}

/// What is to be done about a party that holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tick {
    /// The store is to be told.
    Tell(Ask),
    /// Nothing yet.
    Wait,
    /// Nothing any more: it holds nothing.
    Forget,
}

impl Leased {
    /// A question for a request of this cost; with a cost of 0, one for more in good time. By the
    /// limits of the last [`take`](Self::take).
    pub fn ask(&mut self, cost: u64, now: Moment, fleet: Fleet) -> Ask {
        let ahead = self.demand.of(AHEAD, now.mono_ns);
        self.question(cost, ahead, now, fleet)
    }

    /// To be called about ten times a second while [`Wait`](Tick::Wait) or [`Tell`](Tick::Tell) is the
    /// answer: gives back what nobody uses, and renews what is in use.
    pub fn tick(&mut self, now: Moment, fleet: Fleet) -> Tick {
        let now_ns = now.mono_ns;
        self.expire(now_ns);
        if now_ns >= self.used_ns.saturating_add(IDLE_MAX_NS) {
            self.give_back();
        }
        self.give_back_slots(fleet);
        if self.owed > self.told {
            return Tick::Tell(self.question(0, 0, now, fleet));
        }
        if self.holds_nothing(now) {
            return Tick::Forget;
        }
        let in_use = self.slots.running > 0 && self.terms.concurrency.is_some();
        let half = u64::try_from(fleet.lease.as_nanos() / 2).unwrap_or(u64::MAX);
        let is_due = now_ns.saturating_add(half) >= self.lease_ends_ns;
        let holds_lent = in_use || self.rate.units > 0 || self.slots.held > 0;
        if is_due && holds_lent { Tick::Tell(self.ask(0, now, fleet)) } else { Tick::Wait }
    }

    /// Whether there is nothing to look after: what [`tick`](Self::tick) calls
    /// [`Forget`](Tick::Forget). Changes nothing.
    #[must_use]
    pub fn holds_nothing(&self, now: Moment) -> bool {
        let owes = self.owed > self.told || self.slots.running > 0 || self.waiters > 0;
        !owes && !self.holds_units(now.mono_ns)
    }

    /// Gives back all that is not in use: no request comes any more.
    pub fn give_all_back(&mut self, now: Moment, fleet: Fleet) -> Ask {
        self.give_back();
        self.slots.held = self.slots.running;
        self.question(0, 0, now, fleet)
    }

    fn give_back_slots(&mut self, fleet: Fleet) {
        let slots = &mut self.slots;
        let in_use = slots.peak.max(slots.running);
        slots.unused_ticks = if slots.held > in_use { slots.unused_ticks + 1 } else { 0 };
        let is_small = fleet.is_small(self.terms.concurrency.unwrap_or(0));
        if slots.unused_ticks > if is_small { 0 } else { UNUSED_TICKS_MAX } {
            (slots.held, slots.unused_ticks) = (in_use, 0);
            self.owed += 1;
        }
        if slots.unused_ticks == 0 {
            slots.peak = slots.running;
        }
    }

    fn question(&mut self, cost: u64, ahead: u64, now: Moment, fleet: Fleet) -> Ask {
        let now_ns = now.mono_ns;
        self.expire(now_ns);
        let waiting = if cost > 0 { self.waiting.max(cost) } else { 0 };
        let need = |held: u64, ahead: u64| {
            let units = cost.saturating_sub(held);
            Need { units, wanted: units.max(waiting.max(ahead).saturating_sub(held)) }
        };
        let rate = self.terms.rate.map(|limit| {
            let RatePurse { units, returned, debt, .. } = self.rate;
            let level = || self.rate.level_milli(limit.gcra().interval_ns(), now_ns);
            let need = need(units, rate_ahead(&limit, ahead, fleet));
            RateAsk { limit, level_milli: self.is_known.then(level), returned, debt, need }
        });
        let quotas = self.terms.quotas.iter().map(|&quota| {
            let purse = self.quotas.iter().find(|purse| purse.unit == quota.unit);
            let purse = purse.copied();
            let purse = purse.unwrap_or_else(|| QuotaPurse::new(quota.unit, UnixMillis(0), 0));
            let need = need(purse.units, purse.ahead(quota.count, ahead, fleet));
            QuotaAsk { quota, ends_at: purse.ends_at, granted: purse.granted, need }
        });
        let quotas = quotas.collect();
        let slots = self.terms.concurrency.map(|most| {
            let units = u64::from(cost > 0 && self.slots.spare(most) == 0);
            let ahead = if fleet.is_small(most) { 0 } else { self.slots.running / 4 };
            let wanted = if units > 0 { self.waiters.max(1) + ahead } else { 0 };
            SlotsAsk { most, need: Need { units, wanted } }
        });
        self.asked_ns = now_ns;
        // In microseconds, to stay exact in a store that counts in floating-point numbers.
        let number = now_ns / 1_000;
        if self.born == 0 {
            self.born = number.max(1);
        }
        Ask {
            number,
            born: self.born,
            held: self.rate.units,
            // What runs here counts, whoever let it.
            slots_held: self.slots.held.max(self.slots.running),
            tells: self.owed,
            lease: fleet.lease,
            rate,
            quotas,
            slots,
        }
    }

    /// Takes in the answer to a question that was put at `asked`.
    pub fn answered(
        &mut self,
        ask: &Ask,
        answer: &Answer,
        asked: Moment,
        now: Moment,
        fleet: Fleet,
    ) {
        let now_ns = now.mono_ns;
        if asked.mono_ns < self.asked_ns {
            // The store was told otherwise since, and has taken back what this one brings.
            return;
        }
        self.expire(now_ns);
        self.is_known = true;
        self.told = self.told.max(ask.tells);
        self.away = None;
        self.fails_until_ns = 0;
        let lease = u64::try_from(fleet.lease.as_nanos()).unwrap_or(u64::MAX);
        self.lease_ends_ns = asked.mono_ns.saturating_add(lease);
        if let (Some(ask), Some(answer)) = (&ask.rate, answer.rate) {
            let RateAnswer { granted, level_milli } = answer;
            self.rate.units += granted;
            self.rate.returned = self.rate.returned.saturating_sub(ask.returned);
            self.rate.debt = self.rate.debt.saturating_sub(ask.debt);
            (self.rate.level_milli, self.rate.level_at_ns) = (level_milli, now_ns);
            let is_short = ask.need.is_short(granted, level_milli / 1_000);
            let pace = if is_short { pace_ns(ask, level_milli, fleet) } else { 0 };
            let until_ns = now_ns.saturating_add(pace);
            self.rate.empty = Empty { until_ns, units: ask.need.units };
        }
        for (ask, quota) in ask.quotas.iter().zip(&answer.quotas) {
            // Counted from the question: rather a moment too early than in the next window.
            let to_end = Duration::from_millis(quota.ends_at.0.saturating_sub(answer.now.0));
            let to_end = u64::try_from(to_end.as_nanos()).unwrap_or(u64::MAX);
            let ends_ns = asked.mono_ns.saturating_add(to_end);
            self.take_in(ask, quota, ends_ns, now_ns);
        }
        if let (Some(slots), Some(answer)) = (&ask.slots, answer.slots) {
            self.slots.held = self.slots.held.max(ask.slots_held) + answer.granted;
            (self.slots.free, self.slots.allowed) = (answer.free, answer.allowed);
            let is_short = answer.granted < slots.need.units && answer.free < slots.need.units;
            self.slots.empty_until_ns = if is_short { now_ns + EMPTY_SLOTS_NS } else { 0 };
        }
    }

    fn take_in(&mut self, ask: &QuotaAsk, answer: &QuotaAnswer, ends_ns: u64, now_ns: u64) {
        let unit = ask.quota.unit;
        let place = self.quotas.iter().position(|purse| purse.unit == unit);
        let place = place.unwrap_or_else(|| {
            self.quotas.push(QuotaPurse::new(unit, answer.ends_at, ends_ns));
            self.quotas.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        let purse = &mut self.quotas[place];
        if purse.ends_at != answer.ends_at {
            *purse = QuotaPurse::new(unit, answer.ends_at, ends_ns);
        }
        purse.ends_ns = ends_ns;
        purse.units += answer.granted;
        purse.granted += answer.granted;
        purse.remaining = Some(answer.remaining);
        let is_empty = answer.granted < ask.need.units && answer.remaining < ask.need.units;
        let until_ns =
            if is_empty { now_ns.saturating_add(EMPTY_QUOTA_NS).min(ends_ns) } else { 0 };
        purse.empty = Empty { until_ns, units: ask.need.units };
    }

    /// Whether it is time to ask for more, before the next request has to wait for it.
    pub(super) fn is_low(&self, now_ns: u64, fleet: Fleet) -> bool {
        let ahead = self.demand.of(AHEAD, now_ns);
        let rate_is_low = self.terms.rate.is_some_and(|limit| {
            now_ns >= self.rate.empty.until_ns
                && self.rate.units < rate_ahead(&limit, ahead, fleet) / 2
        });
        let quota_is_low = || {
            self.quotas.iter().any(|purse| {
                let quota = self.terms.quotas.iter().find(|quota| quota.unit == purse.unit);
                let ahead = quota.map_or(0, |quota| purse.ahead(quota.count, ahead, fleet));
                now_ns >= purse.empty.until_ns && purse.units < ahead / 2
            })
        };
        rate_is_low || quota_is_low()
    }
}

/// How many units of a rate to hold for a demand. Never so many that the others' part of the bucket
/// lies idle here.
fn rate_ahead(limit: &RateLimit, demand: u64, fleet: Fleet) -> u64 {
    if fleet.is_small(limit.burst().min(limit.rate().count)) {
        return 0;
    }
    demand.min(limit.burst() / if fleet.gateways > 1 { 4 } else { 1 })
}

impl QuotaPurse {
    fn ahead(&self, limit: u64, demand: u64, fleet: Fleet) -> u64 {
        let left = self.remaining.unwrap_or(limit);
        let part = if fleet.gateways > 1 { 4 * fleet.gateways } else { 1 };
        if fleet.is_small(left) { 0 } else { demand.min(left / part) }
    }
}

/// When to ask again after the store had too little: once there are the units for one request, and not
/// before enough have come back to be worth the trip. They wait in the bucket meanwhile, which is
/// never full then.
fn pace_ns(ask: &RateAsk, level_milli: u64, fleet: Fleet) -> u64 {
    let limit = &ask.limit;
    let interval = limit.gcra().interval_ns();
    let lacking = ask.need.units.max(1).saturating_mul(1_000).saturating_sub(level_milli);
    let next = interval.saturating_mul(lacking).div_ceil(1_000);
    if fleet.is_small(limit.burst().min(limit.rate().count)) {
        return next.max(1);
    }
    let pace = interval.saturating_mul(PACE_UNITS.saturating_mul(fleet.gateways));
    let bucket = interval.saturating_mul(limit.burst());
    pace.clamp(PACE_MIN_NS, PACE_MAX_NS).min(bucket / 4).max(next).max(1)
}

impl Ask {
    /// An answer to [`only_looking`](Self::only_looking), as a client is told it.
    #[must_use]
    pub fn uses(&self, answer: &Answer) -> Few<Use> {
        let mut uses = Few::default();
        if let (Some(ask), Some(answer)) = (&self.slots, answer.slots) {
            uses.push(slots_use(ask.most, ask.most.saturating_sub(answer.free)));
        }
        if let (Some(ask), Some(answer)) = (&self.rate, answer.rate) {
            uses.push(rate_use(&ask.limit, answer.level_milli / 1_000));
        }
        for (ask, window) in self.quotas.iter().zip(&answer.quotas) {
            let used = ask.quota.count.saturating_sub(window.remaining);
            uses.push(quota_use(ask.quota, used, answer.now));
        }
        uses
    }
}
