//! What is told of requests, as the program uses it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

impl ClientAddress {
    /// What is shown of this one.
    #[must_use]
    pub fn of(self, address: IpAddr) -> Option<IpAddr> {
        let shown = match (self, address.to_canonical()) {
            (Self::Off, _) => return None,
            (Self::Full, address) => address,
            (Self::Masked, IpAddr::V4(address)) => {
                (address & Ipv4Addr::new(255, 255, 255, 0)).into()
            }
            (Self::Masked, IpAddr::V6(address)) => {
                (address & Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0, 0, 0, 0, 0)).into()
            }
        };
        Some(shown)
    }
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
    fn an_address_is_masked_to_its_network() {
        let shown = |of: ClientAddress, address: &str| {
            of.of(address.parse().unwrap()).map(|shown| shown.to_string())
        };
        for (address, masked) in [
            ("192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ] {
            assert_eq!(shown(ClientAddress::Masked, address).as_deref(), Some(masked));
            assert_eq!(shown(ClientAddress::Off, address), None);
        }
        let full = shown(ClientAddress::Full, "::ffff:192.0.2.77");
        assert_eq!(full.as_deref(), Some("192.0.2.77"));
    }

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
