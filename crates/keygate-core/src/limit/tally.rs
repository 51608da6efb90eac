//! What one party has used on this machine, and whether it may use more: exact, and all or nothing. A
//! request that any policy refuses is charged to none.

use std::time::Duration;

use smallvec::SmallVec;

use super::calendar::window_end;
use super::policy::{Few, Over, Policy, RetryAfter, Use, add};
use super::terms::{RateLimit, Terms};
use super::{Gcra, Moment, Rate, Unit};
use crate::time::UnixMillis;

/// When to try again if only another request's end can help: nobody knows when that is.
pub(super) const SLOT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The counters of one party.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) bucket: Bucket,
    /// In place for as many as most have: a charge follows no further pointer.
    pub(super) quotas: SmallVec<[QuotaUse; 2]>,
    running: u32,
    /// Those among them that took one of a limited number of slots.
    slots_taken: u32,
}

/// What a request was charged, so that it can be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    pub cost: u64,
    pub(super) at: Moment,
    /// Whether its slot is one of a limited number.
    pub(super) takes_slot: bool,
    /// What it took from a bucket, if from any.
    pub(super) rate: Option<FromBucket>,
    pub(super) windows: Windows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FromBucket {
    /// When that will have come back by itself.
    pub(super) back_at_ns: u64,
}

/// The windows that were charged, each known by its end; none ends in 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows([UnixMillis; Unit::ALL.len()]);

impl Windows {
    #[cfg(test)]
    pub(super) const NONE: Self = Self([UnixMillis(0); Unit::ALL.len()]);

    pub(super) fn add(&mut self, unit: Unit, ends_at: UnixMillis) {
        if let Some(window) = self.0.get_mut(unit as usize) {
            *window = ends_at;
        }
    }

    pub(super) fn holds(&self, unit: Unit, ends_at: UnixMillis) -> bool {
        self.0.get(unit as usize).is_some_and(|window| *window == ends_at)
    }
}

/// The use of one calendar window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    pub unit: Unit,
    pub ends_at: UnixMillis,
    pub used: u64,
    /// So much is on record as used, in case this process ends unasked. Never less than `used` once
    /// a charge was [marked](Tally::unmarked).
    pub marked: u64,
}

impl Tally {
    /// Charges a request to all policies, or to none.
    ///
    /// # Errors
    /// [`Over`]: every policy that is in the way.
    pub fn charge(&mut self, terms: &Terms<'_>, cost: u64, now: Moment) -> Result<Charged, Over> {
        let mut over = None;
        if terms.concurrency.is_some_and(|most| u64::from(self.running) >= most) {
            over = add(over, Policy::Concurrency, RetryAfter::In(SLOT_RETRY_AFTER));
        }
        let mut bucket = self.bucket;
        if let Some(limit) = terms.rate
            && let Err(retry_after) = bucket.take(limit.gcra(), cost, now.mono_ns)
        {
            over = add(over, Policy::Rate, retry_after);
        }
        for quota in terms.quotas {
            let window = self.window(quota.unit, now.unix);
            if window.used.saturating_add(cost) > quota.count {
                over = add(over, Policy::Quota(quota.unit), quota_retry(window, *quota, cost, now));
            }
        }
        if let Some(over) = over {
            return Err(over);
        }
        self.bucket = bucket;
        let mut windows = Windows::default();
        // All of them are there, and hold this moment, since each was looked at above.
        for window in self.quotas.iter_mut().filter(|one| terms.quota(one.unit).is_some()) {
            window.used += cost;
            windows.add(window.unit, window.ends_at);
        }
        let takes_slot = terms.concurrency.is_some();
        self.running = self.running.saturating_add(1);
        self.slots_taken = self.slots_taken.saturating_add(u32::from(takes_slot));
        let rate = terms.rate.map(|_| FromBucket { back_at_ns: bucket.full_at_ns });
        Ok(Charged { cost, at: now, takes_slot, rate, windows })
    }

    /// Takes a charge back: the request reached nobody. Its slot stays until [`end`](Self::end).
    pub fn refund(&mut self, charged: &Charged, now: Moment) {
        if let Some(taken) = charged.rate {
            self.bucket.give_back(charged.cost, taken, now.mono_ns);
        }
        for quota in &mut self.quotas {
            if charged.windows.holds(quota.unit, quota.ends_at) {
                quota.used = quota.used.saturating_sub(charged.cost);
            }
        }
    }

    /// A request that was charged is over: its slot is free.
    pub fn end(&mut self, charged: &Charged) {
        self.running = self.running.saturating_sub(1);
        self.slots_taken = self.slots_taken.saturating_sub(u32::from(charged.takes_slot));
    }

    /// How many slots of a limited number are taken.
    #[must_use]
    pub const fn slots_taken(&self) -> u32 {
        self.slots_taken
    }

    /// How many requests run. Each holds a slot, whether slots are limited now or not.
    #[must_use]
    pub const fn running(&self) -> u32 {
        self.running
    }

    /// Nothing was ever used. What runs goes on, and holds its slot.
    pub fn reset(&mut self) {
        self.bucket = Bucket::default();
        for quota in &mut self.quotas {
            quota.used = 0;
            // So that the next charge is put on record again.
            quota.marked = 0;
        }
    }

    /// Takes over what was on record when the process began.
    pub fn restore(&mut self, unit: Unit, ends_at: UnixMillis, used: u64) {
        self.quotas.retain(|quota| quota.unit != unit);
        self.quotas.push(QuotaUse { unit, ends_at, used, marked: used });
    }

    /// The windows whose use is ahead of what is on record.
    pub fn unmarked(&mut self) -> impl Iterator<Item = &mut QuotaUse> {
        self.quotas.iter_mut().filter(|quota| quota.used > quota.marked)
    }

    /// The windows there are.
    pub fn quotas(&mut self) -> impl Iterator<Item = &mut QuotaUse> {
        self.quotas.iter_mut()
    }

    /// How much of each policy is used.
    #[must_use]
    pub fn uses(&self, terms: &Terms<'_>, now: Moment) -> Few<Use> {
        let mut uses = Few::default();
        if let Some(most) = terms.concurrency {
            uses.push(slots_use(most, u64::from(self.running)));
        }
        if let Some(limit) = terms.rate {
            let bucket = self.bucket.rescaled(limit.gcra(), now.mono_ns);
            let taken_ns = bucket.full_at_ns.saturating_sub(now.mono_ns);
            uses.push(Use {
                policy: Policy::Rate,
                limit: limit.burst(),
                remaining: limit.gcra().available(bucket.full_at_ns, now.mono_ns),
                window: limit.refill(),
                resets_in: Duration::from_nanos(taken_ns),
            });
        }
        for quota in terms.quotas {
            let known = self.quotas.iter().find(|known| known.unit == quota.unit);
            let used = known.filter(|known| now.unix < known.ends_at).map_or(0, |known| known.used);
            uses.push(quota_use(*quota, used, now.unix));
        }
        uses
    }

    /// Whether nothing but its quotas tells this party from one that never came.
    #[must_use]
    pub fn rests(&self, now: Moment) -> bool {
        self.running == 0 && self.bucket.full_at_ns <= now.mono_ns
    }

    /// Whether this party cannot be told from one that never came, and may be forgotten.
    #[must_use]
    pub fn is_idle(&self, now: Moment) -> bool {
        let is_unused = |quota: &QuotaUse| quota.used == 0 || quota.ends_at <= now.unix;
        self.rests(now) && self.quotas.iter().all(is_unused)
    }

    /// The window of this unit that holds `now`. A clock that was set back stays in the last one.
    fn window(&mut self, unit: Unit, now: UnixMillis) -> &mut QuotaUse {
        let at = self.quotas.iter().position(|quota| quota.unit == unit);
        let at = at.unwrap_or_else(|| {
            self.quotas.push(QuotaUse { unit, ends_at: UnixMillis(0), used: 0, marked: 0 });
            self.quotas.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        let window = &mut self.quotas[at];
        if window.ends_at <= now {
            *window = QuotaUse { unit, ends_at: window_end(unit, now), used: 0, marked: 0 };
        }
        window
    }
}

fn quota_retry(window: &QuotaUse, quota: Rate, cost: u64, now: Moment) -> RetryAfter {
    if cost > quota.count {
        return RetryAfter::Never;
    }
    RetryAfter::In(Duration::from_millis(window.ends_at.0.saturating_sub(now.unix.0)))
}

pub(super) fn slots_use(most: u64, running: u64) -> Use {
    Use {
        policy: Policy::Concurrency,
        limit: most,
        remaining: most.saturating_sub(running),
        window: Duration::ZERO,
        resets_in: Duration::ZERO,
    }
}

/// Of a bucket that holds so many units.
pub(super) fn rate_use(limit: &RateLimit, units: u64) -> Use {
    let remaining = units.min(limit.burst());
    let lacking = limit.burst() - remaining;
    Use {
        policy: Policy::Rate,
        limit: limit.burst(),
        remaining,
        window: limit.refill(),
        resets_in: Duration::from_nanos(lacking.saturating_mul(limit.gcra().interval_ns())),
    }
}

pub(super) fn quota_use(quota: Rate, used: u64, now: UnixMillis) -> Use {
    let ends_at = window_end(quota.unit, now);
    Use {
        policy: Policy::Quota(quota.unit),
        limit: quota.count,
        remaining: quota.count.saturating_sub(used),
        window: quota.unit.duration(),
        resets_in: Duration::from_millis(ends_at.0.saturating_sub(now.0)),
    }
}

/// A [`Gcra`]'s state, with the interval that it was counted in: when a limit changes, what was
/// used stays used, counted in the new interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// When it will be full again.
    pub(super) full_at_ns: u64,
    interval_ns: u64,
}

impl Bucket {
    pub(super) fn take(&mut self, gcra: Gcra, cost: u64, now_ns: u64) -> Result<(), RetryAfter> {
        if gcra.never_holds(cost) {
            return Err(RetryAfter::Never);
        }
        let mut bucket = self.rescaled(gcra, now_ns);
        let taken = gcra.take(bucket.full_at_ns, now_ns, cost);
        bucket.full_at_ns = taken.map_err(|over| RetryAfter::In(over.wait))?;
        *self = bucket;
        Ok(())
    }

    pub(super) fn rescaled(self, gcra: Gcra, now_ns: u64) -> Self {
        let interval_ns = gcra.interval_ns();
        let taken_ns = self.full_at_ns.saturating_sub(now_ns);
        if self.interval_ns == interval_ns || self.interval_ns == 0 || taken_ns == 0 {
            return Self { interval_ns, ..self };
        }
        let taken_ns = u128::from(taken_ns) * u128::from(interval_ns);
        let taken_ns = taken_ns.div_ceil(u128::from(self.interval_ns));
        let full_at_ns = now_ns.saturating_add(u64::try_from(taken_ns).unwrap_or(u64::MAX));
        Self { full_at_ns, interval_ns }
    }

    /// Holds so many units now, and no more than it can.
    pub(super) fn fill_to(&mut self, gcra: Gcra, units: u64, now_ns: u64) {
        let lacking = gcra.burst().saturating_sub(units).saturating_mul(gcra.interval_ns());
        *self =
            Self { full_at_ns: now_ns.saturating_add(lacking), interval_ns: gcra.interval_ns() };
    }

    /// Never more than has not come back by itself: a bucket that was full again since would
    /// otherwise be given the same units twice.
    fn give_back(&mut self, cost: u64, taken: FromBucket, now_ns: u64) {
        let outstanding = taken.back_at_ns.saturating_sub(now_ns);
        let taken = self.interval_ns.saturating_mul(cost);
        self.full_at_ns = self.full_at_ns.saturating_sub(taken.min(outstanding));
    }
}

#[cfg(test)]
mod tests;
