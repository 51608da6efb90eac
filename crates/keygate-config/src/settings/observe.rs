//! What is told of requests, as the program uses it.

use std::path::PathBuf;
use std::time::Duration;

/// `[usage]`: what each key uses, by route and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSettings {
    /// The folder of counters that outlive the process.
    pub path: PathBuf,
    pub flush_interval: Duration,
    pub keep: UsageRetention,
}

/// How long use is kept; zero is not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageRetention {
    pub minutes: Duration,
    pub hours: Duration,
    pub days: Duration,
}

/// `[access_log]`: a line for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub sink: AccessLogSink,
    /// The most lines that wait to be written.
    pub queue_max: usize,
    /// Of what was admitted and answered.
    pub sample: Sample,
    pub sample_refused: Sample,
    /// Of what was admitted and ended in a 5xx, or was cut off.
    pub sample_failed: Sample,
    pub query: QueryShown,
    pub client_address: ClientAddress,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogSink {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

/// What is logged of a query string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryShown {
    Off,
    /// The parameters' names, without their values.
    Names,
    /// All of it but what may be a key.
    Full,
}

/// What is logged of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    Full,
    /// Its network: /24, for IPv6 /48.
    Masked,
    Off,
}

/// A part of all requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample(pub u32);

impl Sample {
    pub const ALL: Self = Self(1_000_000);
    pub const NONE: Self = Self(0);

    /// Whether a request is one of them. `random` is that request's own, evenly distributed.
    #[inline]
    #[must_use]
    pub fn takes(self, random: u64) -> bool {
        // The high half of a product is evenly distributed over what it is multiplied by.
        (u128::from(random) * 1_000_000) >> 64 < u128::from(self.0)
    }
}

/// `[tracing]`: spans, sent by OTLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingSettings {
    /// Without it nothing is traced. An http or https URL; `/v1/traces` is added if it has no path.
    pub otlp_endpoint: Option<Box<str>>,
    pub sample: Sample,
    /// Whether a client's `traceparent` decides.
    pub follow_parent: bool,
    pub service_name: Box<str>,
    /// The most spans that wait to be sent.
    pub queue_max: usize,
    /// How long the receiver may take.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_its_share() {
        let share = |sample: Sample| {
            let step = u64::MAX / 100_000;
            (0..100_000).filter(|at| sample.takes(at * step)).count()
        };
        assert_eq!(share(Sample::ALL), 100_000);
        assert!(Sample::ALL.takes(u64::MAX));
        assert_eq!(share(Sample::NONE), 0);
        assert!(!Sample::NONE.takes(0));
        assert!(share(Sample(10_000)).abs_diff(1_000) <= 1);
    }
}
