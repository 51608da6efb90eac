//! A gateway's part of limits that a fleet shares: it spends units that the store has let it use, and
//! asks for more before they run out. Knows neither store nor network: it says what to ask
//! ([`Ask`]), and is told the answer ([`Answer`]).
//!
//! The store takes a unit out of the fleet's limit before anybody may spend it, so no sum over the
//! gateways is ever above the limit; what is not spent goes back.

mod ask;
mod away;
mod demand;
mod room;

use std::time::Duration;

pub use self::ask::{
    Answer, Ask, Need, QuotaAnswer, QuotaAsk, RateAnswer, RateAsk, SlotsAnswer, SlotsAsk, Tick,
};
use self::away::Away;
use self::demand::Demand;
use super::policy::{Few, Over, Policy, RetryAfter, Use, add};
use super::tally::{
    Charged, FromBucket, SLOT_RETRY_AFTER, Windows, quota_use, rate_use, slots_use,
};
use super::terms::{Limits, RateLimit, Terms};
use super::{Moment, Unit};
use crate::time::UnixMillis;

/// Demand of so long is asked for ahead.
const AHEAD: Duration = Duration::from_millis(500);
/// What is held this long without a use goes back.
const IDLE_MAX_NS: u64 = 300_000_000;
/// A limit of fewer units a gateway than this is not lent in advance: each request asks.
const LENT_UNITS_MIN: u64 = 10;
/// While the store has too little for all, a gateway asks again when about so many units have come
/// back for it, and within these bounds.
const PACE_UNITS: u64 = 25;
const PACE_MIN_NS: u64 = 10_000_000;
const PACE_MAX_NS: u64 = 250_000_000;
/// A quota that is used up, and slots that are all taken, are asked about again after so long: an
/// operator may have reset it, another gateway may have given some back.
const EMPTY_QUOTA_NS: u64 = 1_000_000_000;
const EMPTY_SLOTS_NS: u64 = 100_000_000;
/// A party about which the store failed to answer is not asked about again for so long.
const FAILED_NS: u64 = 100_000_000;
/// A party that was not used for so long is a new one to the store, which forgets it after twice that.
const FORGET_NS: u64 = 1_800_000_000_000;
const OUTRUN_RETRY_AFTER: Duration = Duration::from_millis(10);
/// Slots that nobody needed for so many ticks go back.
const UNUSED_TICKS_MAX: u32 = 5;

/// What one party may still use here.
#[derive(Debug, Default)]
pub struct Leased {
    /// As they were when last asked for.
    terms: Limits,
    rate: RatePurse,
    quotas: Vec<QuotaPurse>,
    slots: Slots,
    demand: Demand,
    /// Until when units of the rate and slots may be used: the store then lends them to others.
    lease_ends_ns: u64,
    /// When the last question was put. Answers to earlier ones come too late.
    asked_ns: u64,
    used_ns: u64,
    /// Tells this life of the party here from an earlier one: the number of its first question.
    born: u64,
    /// Whether the store has answered in this life.
    is_known: bool,
    /// Until when the store is not asked about this party, since it failed just now.
    fails_until_ns: u64,
    /// What the requests cost that wait for an answer, and how many they are.
    waiting: u64,
    waiters: u64,
    /// Counts what was given back, or used in the store's absence, and how far the store knows it.
    owed: u64,
    told: u64,
    away: Option<Box<Away>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RatePurse {
    units: u64,
    /// What the store had left, in thousandths of a unit, and when.
    level_milli: u64,
    level_at_ns: u64,
    /// Given back unused.
    returned: u64,
    /// Used while the store was away.
    debt: u64,
    empty: Empty,
}

#[derive(Clone, Copy, Debug)]
struct QuotaPurse {
    unit: Unit,
    /// The window by the store's clock, and its end by ours.
    ends_at: UnixMillis,
    ends_ns: u64,
    units: u64,
    /// All that the store lent, or we used in its absence, in this window; less what went back.
    granted: u64,
    /// What the store had left.
    remaining: Option<u64>,
    empty: Empty,
}

/// What the store had too little for.
#[derive(Clone, Copy, Debug, Default)]
struct Empty {
    /// Until when it is not asked for as much again.
    until_ns: u64,
    /// So many units, or more.
    units: u64,
}

impl Empty {
    fn is_for(self, units: u64, now_ns: u64) -> bool {
        now_ns < self.until_ns && units >= self.units
    }
}

#[derive(Debug, Default)]
struct Slots {
    held: u64,
    running: u64,
    /// Those among them that took one of a limited number.
    taken: u64,
    /// The most that were running since ticks began to find some unused.
    peak: u64,
    unused_ticks: u32,
    /// The most that this gateway may hold, by what the others held when the store last answered.
    allowed: u64,
    /// What the store had left.
    free: u64,
    empty_until_ns: u64,
}

/// What came of a request for units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Charged.
    Done {
        charged: Charged,
        /// It is time to ask for more, beside the request.
        is_low: bool,
    },
    Over(Over),
    /// The store has to be asked first.
    Ask,
}

impl Leased {
    /// Notes that a request has come. To be called once for each, before [`take`](Self::take).
    pub fn demanded(&mut self, cost: u64, now: Moment) {
        if now.mono_ns >= self.used_ns.saturating_add(FORGET_NS) && self.owed == self.told {
            (self.born, self.is_known) = (0, false);
            self.quotas.clear();
        }
        self.demand.add(cost, now.mono_ns);
        self.used_ns = now.mono_ns;
    }

    /// Charges a request to all policies from what is held here, or to none.
    pub fn take(&mut self, terms: &Terms<'_>, cost: u64, now: Moment, fleet: Fleet) -> Take {
        let now_ns = now.mono_ns;
        self.agree_on(terms);
        self.expire(now_ns);
        if let Some(over) = never(terms, cost) {
            return Take::Over(over);
        }
        let mut lacks = false;
        let mut over = None;
        if let Some(most) = terms.concurrency
            && self.slots.spare(most) == 0
        {
            lacks = true;
            if now_ns < self.slots.empty_until_ns {
                over = add(over, Policy::Concurrency, RetryAfter::In(SLOT_RETRY_AFTER));
            }
        }
        if let Some(limit) = terms.rate
            && self.rate.units < cost
        {
            lacks = true;
            if self.rate.empty.is_for(cost - self.rate.units, now_ns) {
                let interval = limit.gcra().interval_ns();
                let wait = self.rate.wait_ns(cost, interval, now_ns);
                over = add(over, Policy::Rate, RetryAfter::In(Duration::from_nanos(wait)));
            }
        }
        for quota in terms.quotas {
            let purse = self.quotas.iter().find(|purse| purse.unit == quota.unit);
            if purse.is_some_and(|purse| purse.units >= cost) {
                continue;
            }
            lacks = true;
            let is_empty = |purse: &&QuotaPurse| purse.empty.is_for(cost - purse.units, now_ns);
            if let Some(purse) = purse.filter(is_empty) {
                let wait = Duration::from_nanos(purse.ends_ns.saturating_sub(now_ns));
                over = add(over, Policy::Quota(quota.unit), RetryAfter::In(wait));
            }
        }
        match over {
            Some(over) => Take::Over(over),
            None if lacks => Take::Ask,
            None => {
                let charged = self.spend(terms, cost, now);
                Take::Done { charged, is_low: self.is_low(now_ns, fleet) }
            }
        }
    }

    fn spend(&mut self, terms: &Terms<'_>, cost: u64, now: Moment) -> Charged {
        if terms.rate.is_some() {
            self.rate.units = self.rate.units.saturating_sub(cost);
        }
        let mut windows = Windows::default();
        for purse in &mut self.quotas {
            if terms.quota(purse.unit).is_some() {
                purse.units = purse.units.saturating_sub(cost);
                windows.add(purse.unit, purse.ends_at);
            }
        }
        let takes_slot = terms.concurrency.is_some();
        self.slots.begin(takes_slot);
        // Here a unit comes back to whoever holds it by the store's word alone.
        let rate = terms.rate.map(|_| FromBucket { back_at_ns: u64::MAX });
        Charged { cost, at: now, takes_slot, rate, windows }
    }

    /// Takes a charge back: the request reached nobody. Its slot stays until [`end`](Self::end).
    pub fn refund(&mut self, charged: &Charged, now: Moment) {
        // Units that the store believes here: those it was told of as used have come back by
        // themselves, and may be somebody else's by now.
        let is_believed_here =
            charged.at.mono_ns >= self.asked_ns && now.mono_ns < self.lease_ends_ns;
        if charged.rate.is_some() && is_believed_here {
            self.rate.units += charged.cost;
        }
        for purse in &mut self.quotas {
            if now.mono_ns < purse.ends_ns && charged.windows.holds(purse.unit, purse.ends_at) {
                purse.units += charged.cost;
            }
        }
    }

    /// A request begins to wait for the store's answer.
    pub fn wait(&mut self, cost: u64) {
        self.waiting = self.waiting.saturating_add(cost);
        self.waiters += 1;
    }

    /// It waits no more.
    pub fn stop_waiting(&mut self, cost: u64) {
        self.waiting = self.waiting.saturating_sub(cost);
        self.waiters = self.waiters.saturating_sub(1);
    }

    /// The store could not be asked, or its answer did not come.
    pub fn failed(&mut self, now: Moment) {
        self.fails_until_ns = now.mono_ns.saturating_add(FAILED_NS);
        // It may have lent what we do not know of: to be told what is here, it takes that back.
        self.owed += 1;
    }

    /// Whether the store has only just failed to answer about this party.
    #[must_use]
    pub fn is_failing(&self, now: Moment) -> bool {
        now.mono_ns < self.fails_until_ns
    }

    /// A request that was charged is over: its slot is free.
    pub fn end(&mut self, charged: &Charged) {
        self.slots.running = self.slots.running.saturating_sub(1);
        self.slots.taken = self.slots.taken.saturating_sub(u64::from(charged.takes_slot));
    }

    /// How many slots of a limited number are taken here.
    #[must_use]
    pub const fn slots_taken(&self) -> u64 {
        self.slots.taken
    }

    #[must_use]
    pub const fn running(&self) -> u64 {
        self.slots.running
    }

    /// What a request is told that was outrun by others each time it asked.
    #[must_use]
    pub fn outrun(terms: &Terms<'_>) -> Over {
        let quota = || terms.quotas.first().map(|quota| Policy::Quota(quota.unit));
        let policy = terms.rate.map(|_| Policy::Rate).or_else(quota);
        Over::one(policy.unwrap_or(Policy::Concurrency), RetryAfter::In(OUTRUN_RETRY_AFTER))
    }

    /// What was refused may be asked for again at once: an operator has reset the limits.
    pub fn forget_refusals(&mut self) {
        self.rate.empty = Empty::default();
        self.slots.empty_until_ns = 0;
        for purse in &mut self.quotas {
            purse.empty = Empty::default();
        }
    }

    /// Notes other limits than before: what was refused under the old ones may pass now.
    fn agree_on(&mut self, terms: &Terms<'_>) {
        let Limits { rate, quotas, concurrency, .. } = &self.terms;
        let is_same = rate.as_ref() == terms.rate
            && **quotas == *terms.quotas
            && *concurrency == terms.concurrency;
        if is_same {
            return;
        }
        self.terms = Limits {
            rate: terms.rate.copied(),
            quotas: terms.quotas.into(),
            concurrency: terms.concurrency,
            ..Limits::default()
        };
        // Other limits, other parts: what is held by the old ones is asked for anew.
        self.give_back();
        self.forget_refusals();
    }

    /// Gives back the units that are held here.
    fn give_back(&mut self) {
        if self.rate.units > 0 {
            self.rate.returned += self.rate.units;
            self.rate.units = 0;
            self.owed += 1;
        }
        for purse in self.quotas.iter_mut().filter(|purse| purse.units > 0) {
            purse.granted = purse.granted.saturating_sub(purse.units);
            purse.units = 0;
            self.owed += 1;
        }
    }

    /// Lets go of what may not be used any more.
    fn expire(&mut self, now_ns: u64) {
        if now_ns >= self.lease_ends_ns {
            self.rate.units = 0;
            self.rate.returned = 0;
            // What runs goes on.
            self.slots.held = self.slots.running;
        }
        for purse in &mut self.quotas {
            if now_ns >= purse.ends_ns {
                *purse = QuotaPurse::new(purse.unit, UnixMillis(0), 0);
            }
        }
    }

    /// Whether this party holds nothing, owes nothing, and so can be forgotten.
    ///
    /// Not while it knows of a use that others would have to know, too, if the store went away.
    #[must_use]
    pub fn is_idle(&self, now: Moment) -> bool {
        let now_ns = now.mono_ns;
        let rests = now_ns >= self.used_ns.saturating_add(IDLE_MAX_NS);
        let owes = self.owed > self.told || self.slots.running > 0 || self.waiters > 0;
        rests && !owes && !self.holds_units(now_ns) && !self.knows_of_use(now_ns)
    }

    fn knows_of_use(&self, now_ns: u64) -> bool {
        let is_lower = |limit: RateLimit| {
            let level = self.rate.level_milli(limit.gcra().interval_ns(), now_ns) / 1_000;
            self.is_known && level < limit.burst()
        };
        let is_used = |purse: &QuotaPurse| now_ns < purse.ends_ns && purse.remaining.is_some();
        self.terms.rate.is_some_and(is_lower) || self.quotas.iter().any(is_used)
    }

    fn holds_units(&self, now_ns: u64) -> bool {
        let is_lent = now_ns < self.lease_ends_ns;
        is_lent && (self.rate.units > 0 || self.slots.held > 0)
            || self.quotas.iter().any(|purse| purse.units > 0 && now_ns < purse.ends_ns)
    }

    /// How much of each policy is used, as far as this gateway knows.
    #[must_use]
    pub fn uses(&self, terms: &Terms<'_>, now: Moment) -> Few<Use> {
        let mut uses = Few::default();
        if let Some(most) = terms.concurrency {
            let unheld = self.slots.held.saturating_sub(self.slots.running);
            uses.push(slots_use(most, most.saturating_sub(self.slots.free + unheld)));
        }
        if let Some(limit) = terms.rate {
            let interval = limit.gcra().interval_ns();
            let level = self.rate.level_milli(interval, now.mono_ns) / 1_000;
            uses.push(rate_use(limit, self.rate.units.saturating_add(level)));
        }
        for quota in terms.quotas {
            let purse = self.quotas.iter().find(|purse| purse.unit == quota.unit);
            let purse = purse.filter(|purse| now.mono_ns < purse.ends_ns);
            let left = purse.map_or(quota.count, |purse| purse.left(quota.count));
            uses.push(quota_use(*quota, quota.count.saturating_sub(left), now.unix));
        }
        uses
    }
}

/// A request that costs more than a whole limit.
fn never(terms: &Terms<'_>, cost: u64) -> Option<Over> {
    let mut over = None;
    if terms.rate.is_some_and(|limit| cost > limit.burst()) {
        over = add(over, Policy::Rate, RetryAfter::Never);
    }
    for quota in terms.quotas {
        if cost > quota.count {
            over = add(over, Policy::Quota(quota.unit), RetryAfter::Never);
        }
    }
    over
}

/// What a gateway knows of its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Gateways that live, this one included. At least 1.
    pub gateways: u64,
    /// How long lent units may be used.
    pub lease: Duration,
}

impl Fleet {
    fn is_small(self, units: u64) -> bool {
        self.gateways > 1 && units < LENT_UNITS_MIN.saturating_mul(self.gateways)
    }
}

impl RatePurse {
    /// What the store has by now, if nobody took any.
    fn level_milli(&self, interval_ns: u64, now_ns: u64) -> u64 {
        let passed = u128::from(now_ns.saturating_sub(self.level_at_ns)) * 1_000;
        let back = u64::try_from(passed / u128::from(interval_ns.max(1))).unwrap_or(u64::MAX);
        self.level_milli.saturating_add(back)
    }

    /// How long until the store may have `cost` units, and may be asked.
    fn wait_ns(&self, cost: u64, interval_ns: u64, now_ns: u64) -> u64 {
        let lacking =
            cost.saturating_mul(1_000).saturating_sub(self.level_milli(interval_ns, now_ns));
        let refill = u128::from(lacking) * u128::from(interval_ns) / 1_000;
        let refill = u64::try_from(refill).unwrap_or(u64::MAX);
        refill.max(self.empty.until_ns.saturating_sub(now_ns))
    }
}

impl QuotaPurse {
    const fn new(unit: Unit, ends_at: UnixMillis, ends_ns: u64) -> Self {
        let empty = Empty { until_ns: 0, units: 0 };
        Self { unit, ends_at, ends_ns, units: 0, granted: 0, remaining: None, empty }
    }

    fn left(&self, limit: u64) -> u64 {
        self.remaining.unwrap_or(limit).saturating_add(self.units)
    }
}

impl Slots {
    /// Slots that a request may begin in.
    fn spare(&self, most: u64) -> u64 {
        self.held.min(self.allowed).min(most).saturating_sub(self.running)
    }

    fn begin(&mut self, takes_slot: bool) {
        self.running += 1;
        self.taken += u64::from(takes_slot);
        self.peak = self.peak.max(self.running);
    }
}

#[cfg(test)]
mod tests;
