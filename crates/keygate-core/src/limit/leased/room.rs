//! What a request could take that came now. Changes nothing.

use super::{Leased, QuotaPurse};
use crate::limit::Moment;
use crate::limit::policy::{Few, Policy, Use};

impl Leased {
    /// How much of each policy a request of this cost finds here: what may be used here, and what the
    /// store has left besides, where it would be asked for it.
    #[must_use]
    pub fn room(&self, left: Few<Use>, cost: u64, now: Moment) -> Few<Use> {
        let mut room = Few::default();
        for left in left.iter() {
            let (held, is_asked) = self.held(left.policy, left.limit, cost, now);
            let beside = if is_asked { left.remaining } else { 0 };
            room.push(Use { remaining: held.saturating_add(beside).min(left.limit), ..left });
        }
        room
    }

    /// What may be used here, and whether the store would be asked for more.
    fn held(&self, policy: Policy, limit: u64, cost: u64, now: Moment) -> (u64, bool) {
        let now_ns = now.mono_ns;
        let is_lent = now_ns < self.lease_ends_ns;
        match policy {
            Policy::Concurrency => {
                let spare = if is_lent { self.slots.spare(limit) } else { 0 };
                (spare, now_ns >= self.slots.empty_until_ns)
            }
            Policy::Rate => {
                let held = if is_lent { self.rate.units } else { 0 };
                (held, !self.rate.empty.is_for(cost.saturating_sub(held), now_ns))
            }
            Policy::Quota(unit) => {
                let is_it = |purse: &&QuotaPurse| purse.unit == unit && now_ns < purse.ends_ns;
                let purse = self.quotas.iter().find(is_it);
                let held = purse.map_or(0, |purse| purse.units);
                let lacks = cost.saturating_sub(held);
                (held, !purse.is_some_and(|purse| purse.empty.is_for(lacks, now_ns)))
            }
        }
    }
}
