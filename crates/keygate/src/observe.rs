//! What the store and the cache say of themselves, as metrics. Neither knows of the other.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keygate_store::cached::{CacheCounts, CachedKeys};
use keygate_store::fleet::LinkState;
use keygate_store::keys::KeyStore;
use keygate_store::limits::Limiter;
use keygate_store::observed::{CallOutcome, Observed, Observer, Op};
use keygate_store::redis::LinkObserver;
use keygate_store::usage::{Flow, UsageCounter};
use keygate_telemetry::{LinkMetrics, Metrics, Row, StoreHealth, StoreOpMetrics};

/// By the operation's discriminant.
struct StoreObserver([StoreOpMetrics; Op::ALL.len()]);

impl Observer for StoreObserver {
    fn store_call(&self, op: Op, took: Duration, outcome: CallOutcome) {
        if let Some(metrics) = self.0.get(op as usize) {
            metrics.call(took, outcome == CallOutcome::Failed);
        }
    }
}

struct Link {
    link: LinkMetrics,
    store: StoreHealth,
}

impl LinkObserver for Link {
    fn link(&self, state: LinkState) {
        self.link.up(state == LinkState::Live);
        if state == LinkState::Down {
            self.store.answered(false);
        }
    }

    fn answered(&self, in_time: bool) {
        self.store.answered(in_time);
    }

    fn change_applied(&self, lag: Duration) {
        self.link.lag(lag);
    }
}

/// Reports how well the changes of other gateways come through.
pub(crate) fn link_observer(metrics: &Metrics) -> Arc<dyn LinkObserver> {
    Arc::new(Link { link: metrics.link(), store: metrics.store_health() })
}

/// A store whose every call is counted and timed.
pub(crate) fn observed<S: KeyStore>(store: S, metrics: &Metrics) -> Observed<S> {
    let ops = Op::ALL.map(|op| metrics.store_op(op.as_str()));
    Observed::new(store, Arc::new(StoreObserver(ops)))
}

/// Publishes the cache's counts, read at each scrape.
pub(crate) fn publish_cache<S: KeyStore>(keys: &Arc<CachedKeys<S>>, metrics: &Metrics) {
    const ROWS: [Row<CacheCounts>; 6] = [
        Row::counter("keygate_cache_hits_total", "Look-ups that found a key in the cache.", |c| {
            c.hits
        }),
        Row::counter("keygate_cache_misses_total", "Look-ups that found nothing there.", |c| {
            c.misses
        }),
        Row::counter(
            "keygate_cache_unknown_hits_total",
            "Look-ups that found a key remembered as unknown.",
            |c| c.unknown_hits,
        ),
        Row::counter("keygate_cache_evictions_total", "Keys that made room for others.", |c| {
            c.evictions
        }),
        Row::gauge("keygate_cache_entries", "Keys in the cache.", |c| c.entries),
        Row::gauge("keygate_cache_unknown_entries", "Keys remembered as unknown.", |c| {
            c.unknown_entries
        }),
    ];
    // Does not keep the store open: the metrics may outlive it.
    let keys: Weak<CachedKeys<S>> = Arc::downgrade(keys);
    let take = move || keys.upgrade().map_or_else(CacheCounts::default, |keys| keys.counts());
    metrics.snapshot_fn(take, ROWS);
}

/// What the limits' counters say of themselves.
struct LimitCounts {
    meters: usize,
    running: u64,
    gateways: u64,
    answered: u64,
    failed: u64,
}

/// Publishes the limits' counts, read at each scrape.
pub(crate) fn publish_limits(limiter: &Limiter, metrics: &Metrics) {
    const LEASES: &str = "keygate_limit_leases_total";
    const LEASES_HELP: &str = "Questions to a fleet's store for units to let requests use.";
    let rows: [Row<LimitCounts>; 5] = [
        Row::gauge("keygate_limit_meters", "Keys, apps and accounts whose use is counted.", |c| {
            c.meters as u64
        }),
        Row::gauge(
            "keygate_limit_slots_in_use",
            "Requests that run under a limit of concurrency.",
            |c| c.running,
        ),
        Row::gauge(
            "keygate_fleet_gateways",
            "Gateways that use the store, as far as this one knows.",
            |c| c.gateways,
        ),
        Row::<LimitCounts>::counter(LEASES, LEASES_HELP, |c| c.answered)
            .labelled("result", "answered"),
        Row::<LimitCounts>::counter(LEASES, LEASES_HELP, |c| c.failed).labelled("result", "failed"),
    ];
    let limiter = limiter.clone();
    let take = move || {
        let [answered, failed] = limiter.asked();
        let (meters, running) = (limiter.meters(), limiter.running());
        LimitCounts { meters, running, gateways: limiter.gateways(), answered, failed }
    };
    metrics.snapshot_fn(take, rows);
}

/// Publishes how what keys use gets to the store, read at each scrape.
pub(crate) fn publish_usage(usage: &UsageCounter, metrics: &Metrics) {
    const BATCHES: &str = "keygate_usage_batches_total";
    const BATCHES_HELP: &str = "Batches of use that the store was sent.";
    const ROWS: [Row<Flow>; 7] = [
        Row::<Flow>::counter(BATCHES, BATCHES_HELP, |flow| flow.stored)
            .labelled("result", "stored"),
        Row::<Flow>::counter(BATCHES, BATCHES_HELP, |flow| flow.again).labelled("result", "again"),
        Row::<Flow>::counter(BATCHES, BATCHES_HELP, |flow| flow.failed)
            .labelled("result", "failed"),
        Row::gauge(
            "keygate_usage_backlog_batches",
            "Batches of use that the store has yet to take.",
            |flow| flow.backlog,
        ),
        Row::gauge(
            "keygate_usage_oldest_unsent_timestamp_seconds",
            "When the oldest of those batches was made, or what cannot be made into one began; 0 if \
             there is none.",
            |flow| flow.oldest_unsent,
        ),
        Row::counter(
            "keygate_usage_dropped_total",
            "Uses of keys that could not be counted: too many keys, or no room on the disk.",
            |flow| flow.dropped,
        ),
        Row::gauge(
            "keygate_usage_stuck_sources",
            "Folders of earlier processes whose counts cannot all be read and sent: the log says why.",
            |flow| flow.stuck,
        ),
    ];
    let usage = usage.clone();
    metrics.snapshot_fn(move || usage.flow(), ROWS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_call_is_reported_under_its_own_name() {
        let metrics = Metrics::new("1");
        let observer = StoreObserver(Op::ALL.map(|op| metrics.store_op(op.as_str())));
        for op in Op::ALL {
            let series = format!("keygate_store_seconds_count{{op=\"{}\"}}", op.as_str());
            assert!(metrics.render().contains(&format!("{series} 0\n")));
            observer.store_call(op, Duration::ZERO, CallOutcome::Answered);
            assert!(metrics.render().contains(&format!("{series} 1\n")));
        }
    }

    #[test]
    fn limits_are_counted_from_the_start() {
        let metrics = Metrics::new("1");
        publish_limits(&Limiter::in_memory(|| keygate_core::UnixMillis(1)), &metrics);
        let rendered = metrics.render();
        for line in [
            "keygate_limit_meters 0",
            "keygate_limit_slots_in_use 0",
            "keygate_fleet_gateways 1",
            "keygate_limit_leases_total{result=\"answered\"} 0",
            "keygate_limit_leases_total{result=\"failed\"} 0",
        ] {
            assert!(rendered.lines().any(|rendered| rendered == line), "{line}\n{rendered}");
        }
    }
}
