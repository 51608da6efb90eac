//! What a client is told of its limits: each policy's name, how much is left, and what was in the way
//! of a request that is refused.

use std::time::Duration;

use super::Unit;
use crate::problem::Code;

/// One limit among those that a request meets, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    Concurrency,
    Rate,
    Quota(Unit),
}

impl Policy {
    /// As clients see it, in headers and problems.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
            Self::Quota(unit) => unit.as_str(),
        }
    }

    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Concurrency => Code::ConcurrencyExceeded,
            Self::Rate => Code::RateLimitExceeded,
            Self::Quota(_) => Code::QuotaExceeded,
        }
    }
}

/// The most policies that can meet in one request: a rate, a quota of each unit, concurrency.
pub const POLICIES_MAX: usize = 7;

/// A list of at most [`POLICIES_MAX`] items, on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Few<T> {
    items: [Option<T>; POLICIES_MAX],
}

impl<T: Copy> Default for Few<T> {
    fn default() -> Self {
        Self { items: [None; POLICIES_MAX] }
    }
}

impl<T: Copy> Few<T> {
    /// Adds an item; one too many is left out.
    pub fn push(&mut self, item: T) {
        if let Some(free) = self.items.iter_mut().find(|place| place.is_none()) {
            *free = Some(item);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = T> {
        self.items.iter().map_while(|item| *item)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// How much of one policy is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub policy: Policy,
    /// The whole: burst, quota, or slots.
    pub limit: u64,
    pub remaining: u64,
    /// How long `limit` takes to come back: for a rate, that many units; for a quota, the window's
    /// length. Zero for concurrency.
    pub window: Duration,
    /// Until all of it is there again: for a rate, from what is used now.
    pub resets_in: Duration,
}

/// Why a request is over its limits. It is charged to none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// At least one, in order; the first gives the code.
    pub violated: Few<Policy>,
    /// When the same request may pass, if nobody else uses the limit.
    pub retry_after: RetryAfter,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryAfter {
    In(Duration),
    /// The request costs more than the whole limit.
    Never,
}

impl Over {
    #[must_use]
    pub fn one(policy: Policy, retry_after: RetryAfter) -> Self {
        let mut violated = Few::default();
        violated.push(policy);
        Self { violated, retry_after }
    }

    /// Adds a policy that is in the way, too. The longest wait counts.
    #[must_use]
    pub fn and(mut self, policy: Policy, retry_after: RetryAfter) -> Self {
        self.violated.push(policy);
        self.retry_after = self.retry_after.max(retry_after);
        self
    }

    #[must_use]
    pub fn code(&self) -> Code {
        self.violated.iter().next().map_or(Code::RateLimitExceeded, Policy::code)
    }
}

/// Collects what is in the way.
pub(super) fn add(over: Option<Over>, policy: Policy, retry_after: RetryAfter) -> Option<Over> {
    Some(match over {
        Some(over) => over.and(policy, retry_after),
        None => Over::one(policy, retry_after),
    })
}
