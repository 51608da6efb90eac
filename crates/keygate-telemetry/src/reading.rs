//! Numbers that somebody else keeps, such as the cache's counts: read when metrics are asked for.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// The readings, each under the name of its first row.
#[derive(Default)]
pub(crate) struct Readings(RwLock<BTreeMap<&'static str, Reading>>);

type Reading = Box<dyn Fn() -> Vec<MetricFamily> + Send + Sync>;

/// One series of a snapshot. Rows of one name follow each other and differ in their label.
pub struct Row<T> {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    label: Option<(&'static str, &'static str)>,
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
        Self { kind: Kind::Counter, name, help, label: None, value }
    }

    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Self {
        Self { kind: Kind::Gauge, name, help, label: None, value }
    }

    /// The same with a label, such as `result="failed"`.
    #[must_use]
    pub const fn labelled(self, name: &'static str, value: &'static str) -> Self {
        Self { label: Some((name, value)), ..self }
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
            let series = rows.chunk_by(|one, next| one.name == next.name);
            series.filter_map(|rows| family(rows, &snapshot)).collect()
        };
        self.add_families(name, read);
    }

    /// A second reading under the same name replaces the first.
    pub(crate) fn add_families(
        &self,
        name: &'static str,
        read: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
    ) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, Box::new(read));
    }

    /// Takes every reading.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let readings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        readings.values().flat_map(|read| read()).collect()
    }
}

/// The rows of one name.
fn family<T>(rows: &[Row<T>], snapshot: &T) -> Option<MetricFamily> {
    let first = rows.first()?;
    let mut family = MetricFamily::default();
    family.set_name(first.name.to_owned());
    family.set_help(first.help.to_owned());
    family.set_field_type(match first.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(rows.iter().map(|row| series(row, (row.value)(snapshot))).collect());
    Some(family)
}

fn series<T>(row: &Row<T>, value: u64) -> Metric {
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    let value = value as f64;
    let mut metric = Metric::default();
    match row.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    if let Some((name, value)) = row.label {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        metric.set_label(vec![label]);
    }
    metric
}
