//! What is picked out of JSON that other systems wrote.

use std::collections::BTreeMap;

use keygate_core::limit::{Rate, Unit};
use serde_json::Value;

use super::record::Limits;

/// The API's own bounds on free metadata: what is beyond them is left out rather than refused.
const METADATA_ENTRIES_MAX: usize = 16;
const METADATA_NAME_LENGTH_MAX: usize = 64;
const METADATA_VALUE_LENGTH_MAX: usize = 512;

/// Texts, or nothing if any item is something else.
pub(super) fn list(items: &[Value]) -> Option<Vec<String>> {
    items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Texts by name, or nothing if any member is something else.
pub(super) fn metadata(value: &Value) -> Option<BTreeMap<String, String>> {
    let members = value.as_object()?.iter();
    members.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// As much of a foreign object as metadata may hold, and whether that is all.
pub(super) fn what_fits(value: &Value) -> (BTreeMap<String, String>, bool) {
    let mut kept = BTreeMap::new();
    let mut is_all = true;
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                is_all = false;
                continue;
            }
        };
        let fits = kept.len() < METADATA_ENTRIES_MAX
            && (1..=METADATA_NAME_LENGTH_MAX).contains(&name.chars().count())
            && text.chars().count() <= METADATA_VALUE_LENGTH_MAX;
        if fits {
            kept.insert(name.clone(), text);
        }
        is_all &= fits;
    }
    (kept, is_all)
}

/// A whole number that is above 0, however it is written.
pub(super) fn count(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    let whole = |number: f64| (number.fract() == 0.0 && number < 9e15).then(|| number.to_string());
    let count = value.as_u64().or_else(|| whole(value.as_f64()?)?.parse().ok());
    count.filter(|count| *count > 0)
}

/// `count` in each span of `millis`, as a rate that lets as many through at once. Nothing if no unit
/// fits exactly.
pub(super) fn rate(count: u64, millis: u64) -> Option<Limits> {
    [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day].into_iter().find_map(|unit| {
        let unit_ms = u64::try_from(unit.duration().as_millis()).ok()?;
        let scaled = count.checked_mul(unit_ms)?;
        let exact = millis > 0 && scaled.is_multiple_of(millis) && scaled >= millis;
        let rate = exact.then(|| Rate { count: scaled / millis, unit })?;
        Some(Limits { rate: Some(rate), burst: Some(count), ..Limits::default() })
    })
}

/// `count` in each span of so many seconds, as a quota of a calendar window. Nothing if there is no
/// such window.
pub(super) fn quota(count: u64, seconds: u64) -> Option<Rate> {
    let unit = match seconds {
        60 => Unit::Minute,
        3_600 => Unit::Hour,
        86_400 => Unit::Day,
        // What others take for a month.
        2_419_200 | 2_505_600 | 2_592_000 | 2_678_400 => Unit::Month,
        _ => return None,
    };
    Some(Rate { count, unit })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_foreign_rate_is_taken_over_if_it_is_the_same_in_one_of_our_units() {
        let read = |count, millis| {
            rate(count, millis)
                .map(|limits| (limits.rate.unwrap().to_string(), limits.burst.unwrap()))
        };
        assert_eq!(read(100, 1_000), Some(("100/second".into(), 100)));
        assert_eq!(read(100, 60_000), Some(("100/minute".into(), 100)));
        assert_eq!(read(5, 10_000), Some(("30/minute".into(), 5)));
        assert_eq!(read(20, 10_000), Some(("2/second".into(), 20)));
        assert_eq!(read(1, 7_000), None);
        assert_eq!(read(1, 0), None);
        assert_eq!(read(u64::MAX, 999), None);
    }

    #[test]
    fn a_foreign_quota_is_taken_over_if_its_window_is_one_of_the_calendar() {
        assert_eq!(quota(9, 86_400).unwrap().to_string(), "9/day");
        assert_eq!(quota(9, 2_592_000).unwrap().to_string(), "9/month");
        assert_eq!(quota(9, 1_000), None);
    }

    #[test]
    fn counts_are_whole_and_above_0() {
        assert_eq!(count(Some(&json!(7))), Some(7));
        assert_eq!(count(Some(&json!(7.0))), Some(7));
        for none in [json!(0), json!(-1), json!(0.5), json!("7"), json!(null), json!(1e300)] {
            assert_eq!(count(Some(&none)), None, "{none}");
        }
    }

    #[test]
    fn foreign_metadata_is_cut_to_what_is_kept() {
        let (kept, is_all) = what_fits(&json!({ "a": "x", "b": 1, "c": true, "d": null }));
        assert!(is_all && kept.len() == 3 && kept["b"] == "1");
        let (kept, is_all) = what_fits(&json!({ "a": { "b": 1 }, "c": "x".repeat(513), "d": "y" }));
        assert!(!is_all && kept.len() == 1, "{kept:?}");
        assert_eq!(what_fits(&json!("text")), (BTreeMap::new(), true));
    }
}
