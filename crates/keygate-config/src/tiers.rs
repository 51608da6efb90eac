//! Reads the tiers: what each allows and how old its keys may get, how clients hear of limits, and how a
//! fleet counts.

use keygate_core::limit::Rate;
use keygate_core::limit::bounds::rate_limit;
use keygate_core::limit::policy::Policy;
use keygate_core::limit::terms::{Limits, Pool};

use crate::catalogue::{TIERS_MAX, limits, tier};
use crate::reader::Section;
use crate::settings::{LimitSettings, Tier};
use crate::word::Quota;

pub(crate) fn read_limits(root: &Section<'_, '_>) -> Option<LimitSettings> {
    let section = root.child("limits", &limits::TABLE)?;
    let headers = section.get(&limits::HEADERS);
    let x_headers = section.get(&limits::X_HEADERS);
    let lease = section.get(&limits::LEASE);
    Some(LimitSettings { headers: headers?, x_headers: x_headers?, lease: lease? })
}

/// In the order of their names.
pub(crate) fn read_tiers(root: &Section<'_, '_>) -> Option<Vec<Tier>> {
    let children = root.named_children("tiers", &tier::TABLE, TIERS_MAX);
    // Every one is read, also after a wrong one.
    let tiers: Vec<Option<Tier>> = children
        .iter()
        .map(|child| {
            let section = child.section.as_ref()?;
            let max_age = section.get(&tier::MAX_AGE);
            let limits = read_limits_of(child.name, section)?;
            Some(Tier { name: child.name.into(), limits, max_age })
        })
        .collect();
    tiers.into_iter().collect()
}

fn read_limits_of(name: &str, section: &Section<'_, '_>) -> Option<Limits> {
    let rate = section.get(&tier::RATE);
    let burst = section.get(&tier::BURST);
    let quotas = read_quotas(section);
    let concurrency = section.get(&tier::CONCURRENCY);
    let share = section.get(&tier::SHARE);
    if let (Some(span), None) = (section.span_of_key("burst"), section.item("rate")) {
        let help = "write a `rate` too, such as `rate = \"100/s\"`";
        section.reader.error(span, "`burst` means nothing without `rate`", Some(help.to_owned()));
    }
    let rate = rate.map(|rate| rate_limit(rate, burst));
    if let (Some(Err(slow)), Some(span)) = (rate, section.span_of("burst")) {
        let help = "write a smaller `burst`, or a higher `rate`";
        section.reader.error(span, slow.to_string(), Some(help.to_owned()));
    }
    let rate = rate.transpose().ok()?;
    let pool = Pool::of_tier(name);
    Some(Limits { rate, quotas: quotas?, concurrency, share: share?, pool })
}

/// The shortest unit first.
fn read_quotas(section: &Section<'_, '_>) -> Option<Box<[Rate]>> {
    let quotas = section.get(&tier::QUOTAS)?;
    let mut quotas: Vec<Rate> = quotas.into_iter().map(|Quota(rate)| rate).collect();
    for (at, quota) in quotas.iter().enumerate() {
        if quotas.iter().take(at).any(|earlier| earlier.unit == quota.unit)
            && let Some(span) = section.span_of_element("quotas", at)
        {
            let help = "keep one of them".to_owned();
            section.reader.error(span, "a quota in this unit is in the list already", Some(help));
        }
    }
    quotas.sort_by_key(|quota| quota.unit);
    Some(quotas.into())
}

/// The most that one request may cost in each tier.
pub(crate) struct Ceilings<'c> {
    /// The lowest first. A tier with neither rate nor quota has none.
    list: Vec<Ceiling<'c>>,
    tiers: usize,
}

struct Ceiling<'c> {
    cost_max: u64,
    /// Which limit it is that a higher cost could never pass.
    policy: Policy,
    tier: &'c str,
}

impl<'c> Ceilings<'c> {
    pub(crate) fn of(tiers: &'c [Tier]) -> Self {
        let mut list: Vec<Ceiling<'c>> = tiers.iter().filter_map(Ceiling::of).collect();
        list.sort_by_key(|ceiling| ceiling.cost_max);
        Self { list, tiers: tiers.len() }
    }

    /// Refuses a route's cost that no tier lets through, and warns of one that only some do.
    pub(crate) fn check(&self, route: &Section<'_, '_>, cost: u64) {
        let Some(span) = route.span_of("cost") else { return };
        let (below, _) = self.list.split_at(self.list.partition_point(|one| one.cost_max < cost));
        let Some(highest) = below.last() else { return };
        if below.len() == self.tiers {
            let help = format!("{}, or lower `cost`", highest.remedy(cost));
            route.reader.error(span, "a request of this cost can pass in no tier", Some(help));
            return;
        }
        let whose = "if the keys in it are to use this route";
        let message = format!("a request of this cost can never pass in {}", named(below));
        route.reader.warning(Some(span), message, &format!("{}, {whose}", highest.remedy(cost)));
    }
}

impl<'c> Ceiling<'c> {
    fn of(tier: &'c Tier) -> Option<Self> {
        let Limits { rate, quotas, .. } = &tier.limits;
        let burst = rate.iter().map(|rate| (rate.burst(), Policy::Rate));
        let quotas = quotas.iter().map(|quota| (quota.count, Policy::Quota(quota.unit)));
        let (cost_max, policy) = burst.chain(quotas).min_by_key(|(most, _)| *most)?;
        Some(Self { cost_max, policy, tier: &tier.name })
    }

    /// What to write so that this cost can pass. What the limit is now may be a variable's value.
    fn remedy(&self, cost: u64) -> String {
        let Self { policy, tier, .. } = self;
        match policy {
            Policy::Quota(unit) => {
                let unit = unit.as_str();
                format!("write `{cost}/{unit}` or more in `quotas` of `[tiers.{tier}]`")
            }
            Policy::Rate | Policy::Concurrency => {
                format!("write `burst = {cost}` or more in `[tiers.{tier}]`")
            }
        }
    }
}

/// The names of tiers, on one line however many there are.
fn named(tiers: &[Ceiling<'_>]) -> String {
    const NAMED_MAX: usize = 3;
    let mut names: Vec<String> =
        tiers.iter().rev().take(NAMED_MAX).map(|one| format!("`{}`", one.tier)).collect();
    let plural = if tiers.len() > 1 { "tiers" } else { "tier" };
    let unnamed = tiers.len().saturating_sub(NAMED_MAX);
    if unnamed > 0 {
        names.push(format!("{unnamed} more"));
    }
    format!("{plural} {}", names.join(", "))
}
