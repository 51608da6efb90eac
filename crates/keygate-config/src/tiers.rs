//! Reads the limits: what each tier allows, how clients hear of it, and how a fleet counts.

use keygate_core::limit::Rate;
use keygate_core::limit::terms::{Limits, RateLimit};

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
            let limits = read_tier(child.section.as_ref()?)?;
            Some(Tier { name: child.name.into(), limits })
        })
        .collect();
    tiers.into_iter().collect()
}

fn read_tier(section: &Section<'_, '_>) -> Option<Limits> {
    let rate = section.get(&tier::RATE);
    let burst = section.get(&tier::BURST);
    let quotas = read_quotas(section);
    let concurrency = section.get(&tier::CONCURRENCY);
    let share = section.get(&tier::SHARE);
    if let (Some(span), None) = (section.span_of_key("burst"), section.item("rate")) {
        let help = "write a `rate` too, such as `rate = \"100/s\"`";
        section.reader.error(span, "`burst` means nothing without `rate`", Some(help.to_owned()));
    }
    let rate = rate.map(|rate| RateLimit::new(rate, burst));
    Some(Limits { rate, quotas: quotas?, concurrency, share: share? })
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
