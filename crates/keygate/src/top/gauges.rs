//! What `/metrics` says of the whole gateway, and what two such readings say of the time between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::figures::whole;

/// How many readings are kept: one a second.
const HISTORY_MAX: usize = 121;
/// The time that rates and quantiles are of.
const RECENT: Duration = Duration::from_secs(10);

/// A histogram: how many were at most so long, by that length in seconds.
type Buckets = Vec<(f64, f64)>;

/// One reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    at: Option<Instant>,
    admitted: f64,
    refused: BTreeMap<String, f64>,
    requests: Buckets,
    decisions: Buckets,
    hits: f64,
    misses: f64,
    pub(super) cached: f64,
    pub(super) in_flight: f64,
    pub(super) store_up: Option<bool>,
    pub(super) link_up: Option<bool>,
}

impl Sample {
    pub(super) fn read(text: &str, at: Instant) -> Self {
        let mut sample = Self { at: Some(at), ..Self::default() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "keygate_requests_total" => sample.count(label(labels, "outcome"), value),
                "keygate_request_seconds_bucket" => add(&mut sample.requests, labels, value),
                "keygate_decision_seconds_bucket" => add(&mut sample.decisions, labels, value),
                "keygate_cache_hits_total" => sample.hits = value,
                "keygate_cache_misses_total" => sample.misses = value,
                "keygate_cache_entries" => sample.cached = value,
                "keygate_inflight_requests" => sample.in_flight = value,
                "keygate_store_up" => sample.store_up = Some(value > 0.0),
                "keygate_link_up" => sample.link_up = Some(value > 0.0),
                _ => {}
            }
        }
        sample
    }

    fn count(&mut self, outcome: &str, value: f64) {
        match outcome {
            "admitted" | "preflight" => self.admitted += value,
            refused => *self.refused.entry(refused.to_owned()).or_default() += value,
        }
    }

    fn refused_in_all(&self) -> f64 {
        self.refused.values().sum()
    }
}

/// A label's value. None that is asked for has anything in it that would be escaped.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let value = labels.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    value.and_then(|rest| rest.split_once('"')).map_or("", |(value, _)| value)
}

/// Adds a bucket of one more series.
fn add(buckets: &mut Buckets, labels: &str, value: f64) {
    let Ok(bound) = label(labels, "le").parse::<f64>() else { return };
    match buckets.iter_mut().find(|(at, _)| at.total_cmp(&bound).is_eq()) {
        Some((_, count)) => *count += value,
        None => buckets.push((bound, value)),
    }
}

/// The readings of the last minutes.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

/// What went on in the last seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recent {
    /// Of a second, as the following.
    pub(super) requests: f64,
    pub(super) refused: f64,
    /// Why, the most frequent first.
    pub(super) reasons: Vec<(String, f64)>,
    pub(super) request: Quantiles,
    pub(super) decision: Quantiles,
    /// From 0 to 1, if anything was looked up.
    pub(super) hit_ratio: Option<f64>,
}

/// In seconds, if there was anything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Quantiles {
    pub(super) half: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl History {
    pub(super) fn add(&mut self, sample: Sample) {
        let before = self.0.back().map(|last| last.admitted + last.refused_in_all());
        // Another process by now.
        if before.is_some_and(|before| sample.admitted + sample.refused_in_all() < before) {
            self.0.clear();
        }
        self.0.push_back(sample);
        while self.0.len() > HISTORY_MAX {
            self.0.pop_front();
        }
    }

    pub(super) fn newest(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// What went on in the last seconds, if there are two readings.
    pub(super) fn recent(&self) -> Option<Recent> {
        let newest = self.0.back()?;
        let is_recent = |sample: &&Sample| since(sample, newest).is_some_and(|span| span <= RECENT);
        let before = self.0.iter().find(is_recent)?;
        let seconds = since(before, newest).map(|span| span.as_secs_f64()).filter(|s| *s > 0.0)?;
        let rate = |now: f64, then: f64| (now - then).max(0.0) / seconds;
        let mut reasons: Vec<(String, f64)> = newest
            .refused
            .iter()
            .map(|(why, now)| {
                (why.clone(), rate(*now, before.refused.get(why).copied().unwrap_or_default()))
            })
            .filter(|(_, rate)| *rate > 0.0)
            .collect();
        reasons.sort_by(|(_, one), (_, two)| two.total_cmp(one));
        let refused = rate(newest.refused_in_all(), before.refused_in_all());
        let (hits, misses) = (newest.hits - before.hits, newest.misses - before.misses);
        Some(Recent {
            requests: rate(newest.admitted, before.admitted) + refused,
            refused,
            reasons,
            request: Quantiles::of(&before.requests, &newest.requests),
            decision: Quantiles::of(&before.decisions, &newest.decisions),
            hit_ratio: (hits + misses > 0.0).then(|| hits / (hits + misses)),
        })
    }

    /// All requests, and those refused, a second between each two readings; the newest last.
    pub(super) fn rates(&self) -> (Vec<u64>, Vec<u64>) {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs
            .map(|(one, two)| {
                let span = since(one, two).map_or(1.0, |span| span.as_secs_f64().max(0.001));
                let refused = (two.refused_in_all() - one.refused_in_all()) / span;
                (whole((two.admitted - one.admitted) / span + refused), whole(refused))
            })
            .unzip()
    }
}

fn since(one: &Sample, two: &Sample) -> Option<Duration> {
    Some(two.at?.saturating_duration_since(one.at?))
}

impl Quantiles {
    fn of(before: &Buckets, now: &Buckets) -> Self {
        let then = |bound: f64| {
            let known = before.iter().find(|(at, _)| at.total_cmp(&bound).is_eq());
            known.map_or(0.0, |(_, count)| *count)
        };
        let mut between: Buckets =
            now.iter().map(|(bound, count)| (*bound, count - then(*bound))).collect();
        between.sort_by(|(one, _), (two, _)| one.total_cmp(two));
        Self { half: quantile(&between, 0.5), p99: quantile(&between, 0.99) }
    }
}

/// As Prometheus' `histogram_quantile` does: on a straight line within a bucket.
fn quantile(buckets: &[(f64, f64)], part: f64) -> Option<f64> {
    let (_, all) = *buckets.last()?;
    if all <= 0.0 {
        return None;
    }
    let rank = all * part;
    let (mut from, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            let within = (rank - below) / (count - below).max(f64::MIN_POSITIVE);
            // Beyond the last bound nobody knows more than that.
            return Some(if bound.is_finite() { from + (bound - from) * within } else { from });
        }
        (from, below) = (*bound, *count);
    }
    Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(admitted: u64, limited: u64, fast: u64, slow: u64) -> String {
        format!(
            "# HELP keygate_requests_total x\n\
             keygate_requests_total{{outcome=\"admitted\",route=\"a\"}} {admitted}\n\
             keygate_requests_total{{outcome=\"admitted\",route=\"b\"}} 0\n\
             keygate_requests_total{{outcome=\"rate_limit_exceeded\",route=\"a\"}} {limited}\n\
             keygate_requests_total{{outcome=\"api_key_invalid\",route=\"none\"}} 1\n\
             keygate_request_seconds_bucket{{route=\"a\",le=\"0.001\"}} {fast}\n\
             keygate_request_seconds_bucket{{route=\"a\",le=\"0.01\"}} {slow}\n\
             keygate_request_seconds_bucket{{route=\"a\",le=\"+Inf\"}} {slow}\n\
             keygate_request_seconds_bucket{{route=\"b\",le=\"0.001\"}} 0\n\
             keygate_cache_hits_total {admitted}\nkeygate_cache_misses_total 0\n\
             keygate_store_up 1\nkeygate_link_up 0\nkeygate_inflight_requests 3\n"
        )
    }

    #[test]
    fn two_readings_make_rates_and_quantiles() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut history = History::default();
        history.add(Sample::read(&text(100, 10, 50, 100), at(0)));
        assert_eq!(history.recent(), None, "one reading says nothing of time");
        history.add(Sample::read(&text(180, 30, 100, 150), at(4)));
        let recent = history.recent().unwrap();
        assert!((recent.requests - 25.0).abs() < 1e-9 && (recent.refused - 5.0).abs() < 1e-9);
        assert_eq!(recent.reasons, [("rate_limit_exceeded".to_owned(), 5.0)]);
        // All 50 were at most a millisecond.
        assert!((recent.request.half.unwrap() - 0.0005).abs() < 1e-9);
        assert_eq!((recent.decision, recent.hit_ratio), (Quantiles::default(), Some(1.0)));
        assert_eq!(history.rates(), (vec![25], vec![5]));
        let newest = history.newest().unwrap();
        assert_eq!((newest.store_up, newest.link_up), (Some(true), Some(false)));
        // Twenty seconds later the first readings say nothing of what is recent.
        history.add(Sample::read(&text(180, 30, 100, 150), at(24)));
        assert_eq!(history.recent(), None);
        history.add(Sample::read(&text(280, 30, 100, 150), at(26)));
        assert!((history.recent().unwrap().requests - 50.0).abs() < 1e-9);
    }

    #[test]
    fn another_process_begins_anew() {
        let began = Instant::now();
        let mut history = History::default();
        history.add(Sample::read(&text(100, 10, 50, 100), began));
        history.add(Sample::read(&text(3, 0, 1, 1), began + Duration::from_secs(1)));
        assert_eq!(history.recent(), None);
        assert!(history.rates().0.is_empty());
    }

    #[test]
    fn what_is_no_metric_is_nothing() {
        let sample = Sample::read("<html>\nkeygate_store_up x\n\nkeygate_store_up", Instant::now());
        assert_eq!((sample.store_up, sample.refused.len()), (None, 0));
    }

    #[test]
    fn a_quantile_is_within_its_bucket() {
        let buckets = [(1.0, 10.0), (2.0, 20.0), (f64::INFINITY, 21.0)];
        assert!((quantile(&buckets, 0.5).unwrap() - 1.05).abs() < 1e-9);
        assert!((quantile(&buckets, 0.999).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(1.0, 0.0)], 0.5), None);
    }
}
