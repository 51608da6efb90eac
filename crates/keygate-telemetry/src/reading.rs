//! Numbers that somebody else keeps, such as the cache's counts: read when metrics are asked for.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// The readings, each under the name of its first row.
#[derive(Default)]
pub(crate) struct Readings(RwLock<BTreeMap<&'static str, Reading>>);

type Reading = Box<dyn Fn() -> Vec<MetricFamily> + Send + Sync>;

/// One metric of a snapshot.
pub struct Row<T> {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl<T> Row<T> {
    /// `name` ends in `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Self {
        Self { kind: Kind::Counter, name, help, value }
    }

    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Self {
        Self { kind: Kind::Gauge, name, help, value }
    }
}

impl Readings {
    pub(crate) fn add<T: 'static, const N: usize>(
        &self,
        take: impl Fn() -> T + Send + Sync + 'static,
        rows: [Row<T>; N],
    ) {
        let Some(name) = rows.first().map(|row| row.name) else { return };
        let read = move || {
            let snapshot = take();
            rows.iter().map(|row| gauge_or_counter(row, (row.value)(&snapshot))).collect()
        };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, Box::new(read));
    }

    /// Takes every reading.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let readings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        readings.values().flat_map(|read| read()).collect()
    }
}

fn gauge_or_counter<T>(row: &Row<T>, value: u64) -> MetricFamily {
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    let value = value as f64;
    let mut metric = Metric::default();
    let kind = match row.kind {
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
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}
