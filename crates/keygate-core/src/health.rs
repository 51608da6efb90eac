//! Whether a target is well: what checks of it come to, when its failures keep it out for a while, and
//! how many further attempts an upstream's requests may cost. State and time in, a verdict out.

use std::time::Duration;

/// How many good or bad checks in a row change what is thought of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

/// What the checks of one target have come to so far. It begins healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub is_healthy: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { is_healthy: true, against: 0 }
    }
}

impl Health {
    /// What is thought after one more check.
    #[must_use]
    pub fn after(self, is_good: bool, thresholds: Thresholds) -> Self {
        if is_good == self.is_healthy {
            return Self { against: 0, ..self };
        }
        let against = self.against.saturating_add(1);
        let needed = if is_good { thresholds.healthy_after } else { thresholds.unhealthy_after };
        if against >= needed {
            Self { is_healthy: is_good, against: 0 }
        } else {
            Self { against, ..self }
        }
    }
}

/// How often a target's time out doubles while it goes on failing.
const DOUBLINGS_MAX: u32 = 5;

/// How long a target is kept out that has failed its requests, when it was kept out this many times
/// before without a success in between.
#[must_use]
pub fn time_out(base: Duration, times_before: u32) -> Duration {
    base.saturating_mul(1 << times_before.min(DOUBLINGS_MAX))
}

/// The targets of an upstream when one more is about to be kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    pub all: usize,
    pub out: usize,
    /// Others that would still get requests.
    pub others: usize,
}

/// Whether one more may be kept out: never the last one, and never more than a share of all.
#[must_use]
pub fn may_time_out(census: Census, max_percent: u64) -> bool {
    let allowed = (census.all as u64).saturating_mul(max_percent) / 100;
    census.others > 0 && (census.out as u64) < allowed
}

/// What one further attempt costs, so that percents are whole numbers.
const ATTEMPT: u64 = 100;
/// Attempts that are always allowed in one second.
const ALWAYS_A_SECOND: u64 = 3;
/// The most attempts that are saved up: those of a burst after a quiet time.
const SAVED_MAX: u64 = 100;

/// The further attempts that an upstream may be asked for: a share of its requests, and a few a second.
/// Attempts beyond that would make an upstream that fails fail more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In hundredths of an attempt.
    saved: u64,
    /// Requests that were counted in so far.
    requests: u64,
    now_ns: u64,
}

impl Budget {
    #[must_use]
    pub const fn new(requests: u64, now_ns: u64) -> Self {
        Self { saved: SAVED_MAX * ATTEMPT, requests, now_ns }
    }

    /// Takes one attempt out, if there is one left. `requests` counts all of the upstream's so far.
    pub fn take(&mut self, percent: u64, requests: u64, now_ns: u64) -> bool {
        let new = requests.saturating_sub(self.requests);
        self.requests = self.requests.max(requests);
        let per_attempt = 1_000_000_000 / (ALWAYS_A_SECOND * ATTEMPT);
        let time = now_ns.saturating_sub(self.now_ns) / per_attempt;
        // What is less than a hundredth is not lost.
        self.now_ns = self.now_ns.saturating_add(time.saturating_mul(per_attempt));
        let earned = new.saturating_mul(percent).saturating_add(time);
        self.saved = self.saved.saturating_add(earned).min(SAVED_MAX * ATTEMPT);
        let Some(left) = self.saved.checked_sub(ATTEMPT) else { return false };
        self.saved = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { unhealthy_after: 3, healthy_after: 2 };
    const SECOND: u64 = 1_000_000_000;

    fn healthy_after(checks: &[bool]) -> Vec<bool> {
        let mut health = Health::default();
        let mut after = |is_good: &bool| {
            health = health.after(*is_good, THRESHOLDS);
            health.is_healthy
        };
        checks.iter().map(&mut after).collect()
    }

    #[test]
    fn only_checks_in_a_row_change_what_is_thought() {
        let (good, bad) = (true, false);
        assert_eq!(healthy_after(&[bad, bad, bad]), [true, true, false]);
        assert_eq!(healthy_after(&[bad, bad, good, bad, bad]), [true; 5]);
        let checks = [bad, bad, bad, good, bad, good, good, bad];
        assert_eq!(healthy_after(&checks)[2..], [false, false, false, false, true, true]);
    }

    #[test]
    fn the_time_out_doubles_up_to_a_bound() {
        let times = |before| time_out(Duration::from_secs(10), before).as_secs();
        assert_eq!([0, 1, 2, 5, 6, u32::MAX].map(times), [10, 20, 40, 320, 320, 320]);
    }

    #[test]
    fn neither_the_last_one_nor_too_many_are_kept_out() {
        let may = |all, out, others, percent| may_time_out(Census { all, out, others }, percent);
        assert!(may(2, 0, 1, 50));
        assert!(!may(2, 1, 0, 100), "the last one");
        assert!(!may(3, 1, 1, 50), "half of three is one");
        assert!(may(4, 1, 2, 50));
        assert!(!may(3, 0, 2, 0) && !may(3, 0, 2, 30));
        assert!(!may(1, 0, 0, 100));
    }

    #[test]
    fn a_budget_is_a_share_of_requests_and_three_a_second() {
        let mut budget = Budget::new(0, 0);
        let mut taken =
            |requests, now_ns| (0..1_000).take_while(|_| budget.take(20, requests, now_ns)).count();
        assert_eq!(taken(0, 0), 100, "a burst is allowed for");
        assert_eq!(taken(0, 0), 0);
        assert_eq!(taken(50, 0), 10);
        assert_eq!(taken(50, SECOND), 3);
        assert_eq!(taken(1_000_000, 2 * SECOND), 100, "not everything is saved");
    }

    proptest! {
        #[test]
        fn however_it_is_asked_a_budget_gives_no_more_than_it_has(
            steps in prop::collection::vec((0_u64..50, 0_u64..SECOND / 10), 1..300),
            percent in 0_u64..=100,
        ) {
            let (mut requests, mut now_ns, mut taken) = (0, 0, 0);
            let mut budget = Budget::new(0, 0);
            for (more, later) in steps {
                requests += more;
                now_ns += later;
                taken += u64::from(budget.take(percent, requests, now_ns));
                let earned = requests * percent / 100 + now_ns * 3 / SECOND;
                prop_assert!(taken <= SAVED_MAX + earned + 1);
            }
        }
    }
}
