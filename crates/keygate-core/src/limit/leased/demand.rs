//! How much a party has asked for lately, whether it got it or not.

use std::time::Duration;

const SPAN_NS: u64 = 250_000_000;

/// Units a second, from what came in the spans before and in this one.
#[derive(Debug, Default)]
pub(super) struct Demand {
    span_began_ns: u64,
    units: u64,
    per_second: u64,
}

impl Demand {
    pub(super) fn add(&mut self, units: u64, now_ns: u64) {
        self.roll(now_ns);
        self.units = self.units.saturating_add(units);
    }

    /// Units that will be asked for in so long if things go on as they are.
    pub(super) fn of(&self, span: Duration, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.span_began_ns).max(SPAN_NS);
        // One request is no trend: nothing is asked ahead for a client that comes now and then.
        let now = per_second(self.units.saturating_sub(1), passed_ns);
        let before = if passed_ns > SPAN_NS * 2 { 0 } else { self.per_second };
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        now.max(before).saturating_mul(millis) / 1_000
    }

    fn roll(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.span_began_ns);
        if passed_ns < SPAN_NS {
            return;
        }
        self.per_second = per_second(self.units, passed_ns);
        self.span_began_ns = now_ns;
        self.units = 0;
    }
}

fn per_second(units: u64, passed_ns: u64) -> u64 {
    units.saturating_mul(1_000_000) / (passed_ns / 1_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_steady_stream_is_known_for_what_it_is() {
        let mut demand = Demand::default();
        for n in 0..2_000 {
            demand.add(1, n * MS);
        }
        let half = demand.of(Duration::from_millis(500), 2_000 * MS);
        assert!((450..=550).contains(&half), "{half}");
    }

    #[test]
    fn one_request_is_no_trend_and_a_stream_that_ended_is_forgotten() {
        let mut demand = Demand::default();
        demand.add(1, 10_000 * MS);
        assert_eq!(demand.of(Duration::from_millis(500), 10_000 * MS), 0);
        for n in 0..1_000 {
            demand.add(1, (10_000 + n) * MS);
        }
        assert_eq!(demand.of(Duration::from_millis(500), 600_000 * MS), 0);
    }
}
