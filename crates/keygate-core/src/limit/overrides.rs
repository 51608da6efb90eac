//! A key's own limits from the parts that people and stores name, within the bounds that tiers have
//! too.

use super::Rate;
use super::bounds::{
    self, BURST_MAX, CONCURRENCY_MAX, QUOTA_COUNT_MAX, QUOTAS_MAX, RATE_COUNT_MAX, SlowBucket,
};
use super::terms::{Overrides, RateLimit};

/// What a key is to have instead of its tier's limits. What is absent is as the tier says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Parts {
    pub rate: Option<Rate>,
    /// One second's worth of `rate`, at least 1, if absent.
    pub burst: Option<u64>,
    /// In any order. An empty list means none, whatever the tier has.
    pub quotas: Option<Vec<Rate>>,
    pub concurrency: Option<u64>,
}

/// Why parts make no limits. Says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParts {
    #[error("a rate counts at most {RATE_COUNT_MAX}")]
    Rate,
    #[error("a burst is from 1 to {BURST_MAX}; without one it is a second's worth of the rate")]
    Burst,
    #[error("a burst means nothing without a rate: write `rate` too")]
    BurstWithoutRate,
    #[error(transparent)]
    SlowBucket(#[from] SlowBucket),
    #[error("a quota counts at most {QUOTA_COUNT_MAX}")]
    Quota,
    #[error("write at most {QUOTAS_MAX} quotas, each unit once")]
    Quotas,
    #[error("write from 1 to {CONCURRENCY_MAX}")]
    Concurrency,
}

impl InvalidParts {
    /// Which part it is about.
    #[must_use]
    pub const fn part(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Burst | Self::BurstWithoutRate | Self::SlowBucket(_) => "burst",
            Self::Quota | Self::Quotas => "quotas",
            Self::Concurrency => "concurrency",
        }
    }
}

impl Overrides {
    /// Nothing if no part is there.
    ///
    /// # Errors
    /// [`InvalidParts`] when a part is out of its bounds, or needs another one.
    pub fn from_parts(parts: Parts) -> Result<Option<Self>, InvalidParts> {
        let Parts { rate, burst, quotas, concurrency } = parts;
        let overrides = Self {
            rate: rate_limit(rate, burst)?,
            quotas: quotas.map(sorted).transpose()?,
            concurrency,
        };
        if concurrency.is_some_and(|most| !(1..=CONCURRENCY_MAX).contains(&most)) {
            return Err(InvalidParts::Concurrency);
        }
        Ok((overrides != Self::default()).then_some(overrides))
    }
}

fn rate_limit(rate: Option<Rate>, burst: Option<u64>) -> Result<Option<RateLimit>, InvalidParts> {
    let Some(rate) = rate else {
        return if burst.is_some() { Err(InvalidParts::BurstWithoutRate) } else { Ok(None) };
    };
    if rate.count > RATE_COUNT_MAX {
        return Err(InvalidParts::Rate);
    }
    if burst.is_some_and(|burst| !(1..=BURST_MAX).contains(&burst)) {
        return Err(InvalidParts::Burst);
    }
    Ok(Some(bounds::rate_limit(rate, burst)?))
}

/// The shortest unit first.
fn sorted(mut quotas: Vec<Rate>) -> Result<Box<[Rate]>, InvalidParts> {
    if quotas.iter().any(|quota| quota.count > QUOTA_COUNT_MAX) {
        return Err(InvalidParts::Quota);
    }
    quotas.sort_by_key(|quota| quota.unit);
    let repeats = quotas.windows(2).any(|two| match two {
        [one, next] => one.unit == next.unit,
        _ => false,
    });
    if repeats || quotas.len() > QUOTAS_MAX {
        return Err(InvalidParts::Quotas);
    }
    Ok(quotas.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[track_caller]
    fn refused(parts: Parts) -> InvalidParts {
        Overrides::from_parts(parts).unwrap_err()
    }

    #[test]
    fn no_parts_override_nothing_and_an_empty_list_of_quotas_is_a_part() {
        assert_eq!(Overrides::from_parts(Parts::default()), Ok(None));
        let none = Parts { quotas: Some(Vec::new()), ..Parts::default() };
        let none = Overrides::from_parts(none).unwrap().unwrap();
        assert_eq!(none.quotas.as_deref(), Some(&[][..]));
    }

    #[test]
    fn quotas_are_sorted_and_a_burst_is_worked_out() {
        let quotas = ["20000/month", "10/minute", "1000/day"].map(rate).to_vec();
        let parts = Parts { rate: Some(rate("50/s")), quotas: Some(quotas), ..Parts::default() };
        let overrides = Overrides::from_parts(parts).unwrap().unwrap();
        assert_eq!(overrides.rate.unwrap().burst(), 50);
        let quotas: Vec<String> =
            overrides.quotas.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(quotas, ["10/minute", "1000/day", "20000/month"]);
    }

    #[test]
    fn every_part_has_its_bounds() {
        let hundred = Some(rate("100/s"));
        for burst in [1, BURST_MAX] {
            let parts = Parts { rate: hundred, burst: Some(burst), ..Parts::default() };
            assert_eq!(Overrides::from_parts(parts).unwrap().unwrap().rate.unwrap().burst(), burst);
        }
        for burst in [0, BURST_MAX + 1, u64::MAX] {
            let parts = Parts { rate: hundred, burst: Some(burst), ..Parts::default() };
            assert_eq!(refused(parts), InvalidParts::Burst);
        }
        let parts = Parts { burst: Some(5), ..Parts::default() };
        assert_eq!(refused(parts), InvalidParts::BurstWithoutRate);
        let slow = Parts { rate: Some(rate("1/month")), burst: Some(122), ..Parts::default() };
        assert_eq!(refused(slow), InvalidParts::SlowBucket(SlowBucket));
        let parts = Parts { rate: Some(rate("1000000001/day")), ..Parts::default() };
        assert_eq!(refused(parts), InvalidParts::Rate);
        for concurrency in [0, CONCURRENCY_MAX + 1] {
            let parts = Parts { concurrency: Some(concurrency), ..Parts::default() };
            assert_eq!(refused(parts), InvalidParts::Concurrency);
        }
        let quotas = |texts: &[&str]| {
            let quotas = texts.iter().map(|text| rate(text)).collect();
            Parts { quotas: Some(quotas), ..Parts::default() }
        };
        assert_eq!(refused(quotas(&["1/day", "5/hour", "2/d"])), InvalidParts::Quotas);
        assert_eq!(refused(quotas(&["1000000000001/month"])), InvalidParts::Quota);
        let all = ["1/s", "1/minute", "1/hour", "1/day", "1/month"];
        assert!(Overrides::from_parts(quotas(&all)).is_ok());
    }
}
