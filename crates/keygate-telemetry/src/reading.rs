//! Numbers that somebody else keeps, such as the cache's counts: read when metrics are asked for.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// The readings by name.
#[derive(Default)]
pub(crate) struct Readings(RwLock<BTreeMap<&'static str, Reading>>);

struct Reading {
    kind: Kind,
    help: &'static str,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

impl Readings {
    pub(crate) fn add(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> u64 + Send + Sync>,
    ) {
        let mut readings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        readings.insert(name, Reading { kind, help, read });
    }

    /// Takes every reading.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let readings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        readings.iter().map(|(name, reading)| reading.family(name)).collect()
    }
}

impl Reading {
    fn family(&self, name: &str) -> MetricFamily {
        #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
        let value = (self.read)() as f64;
        let mut metric = Metric::default();
        let kind = match self.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
                MetricType::COUNTER
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
                MetricType::GAUGE
            }
        };
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        family
    }
}
