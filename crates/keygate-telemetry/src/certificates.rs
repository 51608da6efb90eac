//! When certificates end, read when metrics are asked for. Each is named by its file, as the
//! configuration names it.

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateReading {
    /// The file that the configuration names.
    pub file: String,
    /// When it ends, in seconds since 1970.
    pub ends_at: i64,
}

/// Nothing without certificates. Of one file that is named twice there is one series.
pub(crate) fn certificate_families(readings: &[CertificateReading]) -> Vec<MetricFamily> {
    let mut readings: Vec<&CertificateReading> = readings.iter().collect();
    readings.sort_by(|one, other| one.file.cmp(&other.file));
    readings.dedup_by(|one, other| one.file == other.file);
    if readings.is_empty() {
        return Vec::new();
    }
    let mut family = MetricFamily::default();
    family.set_name("keygate_certificate_expiry_timestamp_seconds".to_owned());
    family.set_help("When a certificate of this gateway ends.".to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(readings.into_iter().map(series).collect());
    vec![family]
}

fn series(reading: &CertificateReading) -> Metric {
    let mut label = LabelPair::default();
    label.set_name("certificate".to_owned());
    label.set_value(reading.file.clone());
    let mut gauge = Gauge::default();
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    gauge.set_value(reading.ends_at as f64);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    metric.set_label(vec![label]);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn each_file_is_one_series() {
        let metrics = Metrics::new("1");
        assert!(!metrics.render().contains("keygate_certificate"));
        let reading =
            |file: &str| CertificateReading { file: file.to_owned(), ends_at: 1_800_000_000 };
        metrics.certificates_fn(move || vec![reading("b.pem"), reading("a.pem"), reading("b.pem")]);
        let text = metrics.render();
        for file in ["a.pem", "b.pem"] {
            let line = format!(
                "keygate_certificate_expiry_timestamp_seconds{{certificate=\"{file}\"}} 1800000000"
            );
            assert_eq!(text.lines().filter(|rendered| *rendered == line).count(), 1, "{text}");
        }
    }
}
