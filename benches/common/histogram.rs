//! How long things took: counts by time in steps of less than one hundredth, from a nanosecond to minutes.

use std::time::Duration;

/// Steps between a power of two and the next.
const STEPS_LOG2: u32 = 7;
const STEPS: usize = 1 << STEPS_LOG2;
const POWERS: usize = 40;

#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * POWERS], total: 0 }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        let at = step(took.as_nanos() as u64).min(self.counts.len() - 1);
        self.counts[at] += 1;
        self.total += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The time that this share of all took at most, in microseconds; 0 if there was nothing.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return highest(at) as f64 / 1_000.0;
            }
        }
        0.0
    }
}

/// Below `STEPS` one step a nanosecond, above that `STEPS` for each power of two.
fn step(ns: u64) -> usize {
    let power = (64 - ns.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    (power as usize) * STEPS + (ns >> power) as usize
}

/// The longest time of a step.
fn highest(step: usize) -> u64 {
    let power = (step / STEPS).saturating_sub(1) as u32;
    let base = (step - power as usize * STEPS) as u64;
    ((base + 1) << power) - 1
}
