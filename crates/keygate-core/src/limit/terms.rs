//! What may be used: the limits of a tier, what a key overrides of them, and the two together.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Gcra, Rate, Unit};
use crate::id::{AccountId, AppId, KeyId};
use crate::record::KeyRecord;

/// A rate with its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    rate: Rate,
    burst: u64,
    gcra: Gcra,
}

impl RateLimit {
    /// Without a burst the bucket holds one second's worth, at least 1.
    #[must_use]
    pub fn new(rate: Rate, burst: Option<u64>) -> Self {
        let burst = burst.unwrap_or_else(|| rate.count / rate.unit.duration().as_secs().max(1));
        let burst = burst.max(1);
        Self { rate, burst, gcra: Gcra::new(rate.count, rate.unit.duration(), burst) }
    }

    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    #[must_use]
    pub const fn gcra(&self) -> Gcra {
        self.gcra
    }

    /// How long an empty bucket takes to fill.
    #[must_use]
    pub fn refill(&self) -> Duration {
        Duration::from_nanos(self.gcra.interval_ns().saturating_mul(self.burst))
    }
}

/// Who shares one set of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Share {
    #[default]
    Key,
    App,
    Account,
}

impl Share {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::App => "app",
            Self::Account => "account",
        }
    }
}

/// `[tiers.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    pub rate: Option<RateLimit>,
    /// Each unit once, the shortest first.
    pub quotas: Box<[Rate]>,
    pub concurrency: Option<u64>,
    pub share: Share,
    /// Which of a sharer's counters: those of this tier.
    pub pool: Pool,
}

/// Tells the counters of one shared tier from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Pool([u8; 16]);

impl Pool {
    /// The pool of the tier of this name, the same on every gateway.
    #[must_use]
    pub fn of_tier(name: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(name).into();
        let mut pool = [0; 16];
        pool.copy_from_slice(hash.first_chunk::<16>().unwrap_or(&[0; 16]));
        Self(pool)
    }
}

/// What a key has instead of its tier's limits. What is absent is as the tier says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Overrides {
    pub rate: Option<RateLimit>,
    /// All quotas of the tier, if present.
    pub quotas: Option<Box<[Rate]>>,
    pub concurrency: Option<u64>,
}

/// What counts for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms<'a> {
    pub rate: Option<&'a RateLimit>,
    pub quotas: &'a [Rate],
    pub concurrency: Option<u64>,
    pub share: Share,
    pub pool: Pool,
}

impl<'a> Terms<'a> {
    /// The limits of a key in a tier, or in none; nothing if there are no limits at all. A key with
    /// limits of its own shares none: all who share counters are under the same limits.
    #[must_use]
    pub fn of(tier: Option<&'a Limits>, overrides: Option<&'a Overrides>) -> Option<Self> {
        let rate =
            overrides.and_then(|o| o.rate.as_ref()).or_else(|| tier.and_then(|t| t.rate.as_ref()));
        let quotas = overrides.and_then(|o| o.quotas.as_deref());
        let quotas = quotas.or_else(|| tier.map(|t| &*t.quotas)).unwrap_or_default();
        let concurrency =
            overrides.and_then(|o| o.concurrency).or_else(|| tier.and_then(|t| t.concurrency));
        let (share, pool) = match (tier, overrides) {
            (Some(tier), None) if tier.share != Share::Key => (tier.share, tier.pool),
            (_, _) => (Share::Key, Pool::default()),
        };
        let is_limited = rate.is_some() || !quotas.is_empty() || concurrency.is_some();
        is_limited.then_some(Self { rate, quotas, concurrency, share, pool })
    }

    /// Whose counters these terms are about.
    #[must_use]
    pub fn party(&self, key: &KeyRecord) -> Party {
        Party::of(self, key.id, key.app, key.account)
    }

    #[must_use]
    pub fn quota(&self, unit: Unit) -> Option<u64> {
        self.quotas.iter().find(|quota| quota.unit == unit).map(|quota| quota.count)
    }
}

/// One that is limited: a key, or those keys of an app or account that share a tier's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    share: Share,
    /// Bytes, big-endian: they need no padding, and there may be millions.
    id: [u8; 16],
}

impl Party {
    #[must_use]
    pub fn of(terms: &Terms<'_>, key: KeyId, app: AppId, account: AccountId) -> Self {
        let share = terms.share;
        let id = match share {
            Share::Key => key.as_u128(),
            Share::App => app.as_u128(),
            Share::Account => account.as_u128(),
        };
        // Ids are random enough that two parties never come out alike.
        let id = id ^ u128::from_be_bytes(terms.pool.0);
        Self { share, id: id.to_be_bytes() }
    }

    #[must_use]
    pub const fn share(self) -> Share {
        self.share
    }

    /// The id as it is stored, big-endian.
    #[must_use]
    pub const fn id(self) -> [u8; 16] {
        self.id
    }

    /// The party of this kind and id.
    #[must_use]
    pub const fn from_parts(share: Share, id: [u8; 16]) -> Self {
        Self { share, id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_bucket_holds_a_second_unless_it_is_said() {
        assert_eq!(RateLimit::new(rate("200/s"), None).burst(), 200);
        assert_eq!(RateLimit::new(rate("100/minute"), None).burst(), 1);
        assert_eq!(RateLimit::new(rate("100/minute"), Some(20)).burst(), 20);
        assert_eq!(RateLimit::new(rate("200/s"), None).refill(), Duration::from_secs(1));
    }

    #[test]
    fn a_key_overrides_part_of_its_tier() {
        let tier = Limits {
            rate: Some(RateLimit::new(rate("10/s"), None)),
            quotas: Box::new([rate("1000/day")]),
            concurrency: Some(5),
            share: Share::App,
            ..Limits::default()
        };
        assert_eq!(Terms::of(Some(&tier), None).unwrap().share, Share::App);
        let faster = RateLimit::new(rate("50/s"), None);
        let overrides = Overrides { rate: Some(faster), ..Overrides::default() };
        let terms = Terms::of(Some(&tier), Some(&overrides)).unwrap();
        assert_eq!(terms.rate, Some(&faster));
        assert_eq!(terms.quota(Unit::Day), Some(1_000));
        assert_eq!((terms.concurrency, terms.share), (Some(5), Share::Key));
        let none = Overrides { quotas: Some(Box::default()), ..Overrides::default() };
        assert_eq!(Terms::of(Some(&tier), Some(&none)).unwrap().quotas, []);
        assert_eq!(Terms::of(Some(&Limits::default()), None), None);
        assert_eq!(Terms::of(None, None), None);
    }
}
