//! Limits while the store is away: each gateway enforces its share, the limit by the number of
//! gateways that were last known, beginning with its share of what was left then.

use std::time::Duration;

use super::{Fleet, Leased, QuotaPurse};
use crate::limit::calendar::window_end;
use crate::limit::policy::{Over, Policy, RetryAfter, add};
use crate::limit::tally::{Bucket, Charged, SLOT_RETRY_AFTER, Windows};
use crate::limit::terms::{RateLimit, Terms};
use crate::limit::{Gcra, Moment, Unit};
use crate::time::UnixMillis;

/// When to try again if a request needs more than the share, which the whole limit could give.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// This gateway's share of each policy.
#[derive(Debug)]
pub(super) struct Away {
    bucket: Bucket,
    quotas: Vec<Budget>,
}

/// What may be used of one window of a quota.
#[derive(Debug)]
struct Budget {
    unit: Unit,
    ends_at: UnixMillis,
    units: u64,
}

impl Leased {
    /// As [`take`](Self::take), without the store: from what is held here first, then from this
    /// gateway's share.
    ///
    /// # Errors
    /// [`Over`]: every policy that is in the way.
    pub fn take_away(
        &mut self,
        terms: &Terms<'_>,
        cost: u64,
        now: Moment,
        fleet: Fleet,
    ) -> Result<Charged, Over> {
        self.expire(now.mono_ns);
        let mut away = match self.away.take() {
            Some(away) => away,
            None => Box::new(self.begin_away(terms, now, fleet)),
        };
        let taken = self.take_share(&mut away, terms, cost, now, fleet);
        self.away = Some(away);
        taken
    }

    fn begin_away(&self, terms: &Terms<'_>, now: Moment, fleet: Fleet) -> Away {
        let mut bucket = Bucket::default();
        if let Some(limit) = terms.rate {
            let share = share_of(limit, fleet);
            // Never asked: nothing is known to be used.
            let left = if self.is_known {
                self.rate.level_milli(limit.gcra().interval_ns(), now.mono_ns) / 1_000
            } else {
                limit.burst()
            };
            let left = left / fleet.gateways.max(1);
            bucket.fill_to(share, left, now.mono_ns);
        }
        Away { bucket, quotas: Vec::new() }
    }

    fn take_share(
        &mut self,
        away: &mut Away,
        terms: &Terms<'_>,
        cost: u64,
        now: Moment,
        fleet: Fleet,
    ) -> Result<Charged, Over> {
        let mut over = None;
        if let Some(most) = terms.concurrency {
            let share = most.div_ceil(fleet.gateways.max(1)).max(self.slots.held).min(most);
            if self.slots.running >= share {
                over = add(over, Policy::Concurrency, RetryAfter::In(SLOT_RETRY_AFTER));
            }
        }
        let mut bucket = away.bucket;
        let from_held = self.rate.units >= cost;
        if let Some(limit) = terms.rate
            && !from_held
            && let Err(wait) = bucket.take(share_of(limit, fleet), cost, now.mono_ns)
        {
            let wait = wait.min(RetryAfter::In(STORE_RETRY_AFTER.max(limit.refill())));
            over = add(over, Policy::Rate, wait);
        }
        for quota in terms.quotas {
            let purse = self.purse(quota.unit, now);
            let purse = *purse;
            let budget = away.budget(&purse, quota.count, fleet);
            if purse.units < cost && budget.units < cost {
                let wait = Duration::from_millis(purse.ends_at.0.saturating_sub(now.unix.0));
                over = add(over, Policy::Quota(quota.unit), RetryAfter::In(wait));
            }
        }
        if let Some(over) = over {
            return Err(over);
        }
        away.bucket = bucket;
        let mut windows = Windows::default();
        if terms.rate.is_some() {
            if from_held {
                self.rate.units -= cost;
            } else {
                self.rate.debt = self.rate.debt.saturating_add(cost);
                self.owed += 1;
            }
        }
        for quota in terms.quotas {
            let purse = self.purse(quota.unit, now);
            windows.add(quota.unit, purse.ends_at);
            if purse.units >= cost {
                purse.units -= cost;
                continue;
            }
            purse.granted += cost;
            let purse = *purse;
            away.budget(&purse, quota.count, fleet).units -= cost;
            self.owed += 1;
        }
        let takes_slot = terms.concurrency.is_some();
        self.slots.begin(takes_slot);
        // Units from the share come back by themselves; those that were held, as the lease ends.
        Ok(Charged { cost, at: now, takes_slot, rate: None, windows })
    }

    /// The purse of the window that holds `now`, by our clock if the store's is not known.
    fn purse(&mut self, unit: Unit, now: Moment) -> &mut QuotaPurse {
        let place = self.quotas.iter().position(|purse| purse.unit == unit);
        let place = place.unwrap_or_else(|| {
            self.quotas.push(QuotaPurse::new(unit, UnixMillis(0), 0));
            self.quotas.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        let purse = &mut self.quotas[place];
        if now.mono_ns >= purse.ends_ns {
            let ends_at = window_end(unit, now.unix);
            let to_end = Duration::from_millis(ends_at.0 - now.unix.0);
            let to_end = u64::try_from(to_end.as_nanos()).unwrap_or(u64::MAX);
            *purse = QuotaPurse::new(unit, ends_at, now.mono_ns.saturating_add(to_end));
        }
        purse
    }
}

impl Away {
    /// This gateway's budget in the purse's window. Rounded up: a limit of less than one unit a
    /// gateway would else let nobody through.
    fn budget(&mut self, purse: &QuotaPurse, limit: u64, fleet: Fleet) -> &mut Budget {
        let place = self.quotas.iter().position(|budget| budget.unit == purse.unit);
        let place = place.unwrap_or_else(|| {
            self.quotas.push(Budget { unit: purse.unit, ends_at: UnixMillis(0), units: 0 });
            self.quotas.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        let budget = &mut self.quotas[place];
        if budget.ends_at != purse.ends_at {
            let left = purse.remaining.unwrap_or(limit);
            budget.ends_at = purse.ends_at;
            budget.units = left.div_ceil(fleet.gateways.max(1));
        }
        // A limit that was lowered meanwhile.
        budget.units = budget.units.min(limit.div_ceil(fleet.gateways.max(1)));
        budget
    }
}

/// The limit by the number of gateways.
fn share_of(limit: &RateLimit, fleet: Fleet) -> Gcra {
    let gateways = fleet.gateways.max(1);
    let period =
        limit.rate().unit.duration().saturating_mul(u32::try_from(gateways).unwrap_or(u32::MAX));
    Gcra::new(limit.rate().count, period, limit.burst() / gateways)
}
