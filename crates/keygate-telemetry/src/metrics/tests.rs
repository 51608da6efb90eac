use std::time::Duration;

use keygate_core::Code;

use super::*;
use crate::connections::ConnectionRefusal;
use crate::route::Outcome;

fn has_line(metrics: &Metrics, line: &str) -> bool {
    metrics.render().lines().any(|rendered| rendered == line)
}

#[test]
fn every_metric_that_is_promised_is_rendered() {
    let metrics = Metrics::new("1.2.3");
    let route = metrics.route("orders.read");
    route.response(200);
    route.preflight();
    route.answer_too_large();
    metrics.upstream("orders").observe(Duration::from_millis(3));
    metrics.store_op("find").call(Duration::from_micros(30), false);
    metrics.upstream("orders").not_connected();
    metrics.upstream("orders").retried();
    let target = || TargetReading {
        upstream: "orders".to_owned(),
        target: "a.internal:80".to_owned(),
        addresses: 3,
        healthy: 2,
        ejected: 1,
    };
    metrics.targets_fn(move || vec![target()]);
    let _never_called = metrics.store_op("commit");
    metrics.requests_ended().count();
    metrics.connections().opened();
    metrics.connections().refused(ConnectionRefusal::Handshake);
    metrics.connections().slow_body();
    metrics.connections().reset_flood();
    metrics.ways().express();
    metrics.imported_keys().count(Outcome::Admitted);
    metrics.config_loaded(UnixMillis(1_700_000_000_500));
    for line in [
        r#"keygate_build_info{version="1.2.3"} 1"#,
        r#"keygate_config_last_success_timestamp_seconds 1700000000"#,
        r#"keygate_config_reloads_total{result="success"} 0"#,
        r#"keygate_config_reloads_total{result="failure"} 0"#,
        r#"keygate_inflight_requests 0"#,
        r#"keygate_requests_ended_total 1"#,
        r#"keygate_connections_open 1"#,
        r#"keygate_connections_refused_total{reason="per_address"} 0"#,
        r#"keygate_connections_refused_total{reason="handshake"} 1"#,
        r#"keygate_connections_refused_total{reason="proxy_header"} 0"#,
        r#"keygate_slow_bodies_total 1"#,
        r#"keygate_reset_floods_total 1"#,
        r#"keygate_requests_served_total{way="express"} 1"#,
        r#"keygate_requests_served_total{way="full"} 0"#,
        r#"keygate_express_idle_closed_total 0"#,
        r#"keygate_keys_created_total 0"#,
        r#"keygate_keys_revoked_total 0"#,
        r#"keygate_imported_key_requests_total{outcome="admitted"} 1"#,
        r#"keygate_imported_key_requests_total{outcome="refused"} 0"#,
        r#"keygate_admin_requests_total{outcome="unauthorized"} 0"#,
        r#"keygate_requests_total{outcome="admitted",route="orders.read"} 0"#,
        r#"keygate_requests_total{outcome="preflight",route="orders.read"} 1"#,
        r#"keygate_responses_total{class="2xx",route="orders.read"} 1"#,
        r#"keygate_responses_too_large_total{route="orders.read"} 1"#,
        r#"keygate_request_seconds_count{route="orders.read"} 0"#,
        r#"keygate_upstream_seconds_count{upstream="orders"} 1"#,
        r#"keygate_upstream_connect_failures_total{upstream="orders"} 1"#,
        r#"keygate_upstream_retries_total{result="made",upstream="orders"} 1"#,
        r#"keygate_upstream_retries_total{result="over_budget",upstream="orders"} 0"#,
        r#"keygate_upstream_addresses{target="a.internal:80",upstream="orders"} 3"#,
        r#"keygate_upstream_healthy{target="a.internal:80",upstream="orders"} 2"#,
        r#"keygate_upstream_ejected{target="a.internal:80",upstream="orders"} 1"#,
        r#"keygate_decision_seconds_count 0"#,
        r#"keygate_lookup_seconds_count 0"#,
        r#"keygate_config_last_reload_successful 1"#,
        r#"keygate_store_seconds_count{op="find"} 1"#,
        r#"keygate_store_errors_total{op="find"} 0"#,
        r#"keygate_store_seconds_count{op="commit"} 0"#,
        r#"keygate_store_errors_total{op="commit"} 0"#,
        r#"keygate_store_up 1"#,
        r#"keygate_link_up 1"#,
        r#"keygate_revocation_lag_seconds_count 0"#,
    ] {
        assert!(has_line(&metrics, line), "no line {line} in\n{}", metrics.render());
    }
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"] {
        assert!(metrics.render().contains(&format!("\nprocess_{name} ")), "{name}");
    }
}

#[test]
fn a_request_is_in_flight_until_its_guard_is_dropped() {
    let metrics = Metrics::new("1");
    let guard = metrics.in_flight().enter();
    assert!(has_line(&metrics, "keygate_inflight_requests 1"));
    drop(guard);
    assert!(has_line(&metrics, "keygate_inflight_requests 0"));
}

#[test]
fn the_store_is_down_from_a_failed_call_until_the_same_kind_of_call_succeeds() {
    let metrics = Metrics::new("1");
    let (commit, find) = (metrics.store_op("commit"), metrics.store_op("find"));
    assert!(has_line(&metrics, "keygate_store_up 1"));
    commit.call(Duration::ZERO, true);
    commit.call(Duration::ZERO, true);
    assert!(has_line(&metrics, "keygate_store_up 0"));
    assert!(has_line(&metrics, r#"keygate_store_errors_total{op="commit"} 2"#));
    find.call(Duration::ZERO, false);
    assert!(has_line(&metrics, "keygate_store_up 0"), "reads work, writes still fail");
    commit.call(Duration::ZERO, false);
    assert!(has_line(&metrics, "keygate_store_up 1"));
}

#[test]
fn a_store_that_is_asked_regularly_is_down_until_it_answers() {
    let metrics = Metrics::new("1");
    let (commit, health) = (metrics.store_op("commit"), metrics.store_health());
    health.answered(false);
    commit.call(Duration::ZERO, true);
    assert!(has_line(&metrics, "keygate_store_up 0"));
    health.answered(true);
    assert!(has_line(&metrics, "keygate_store_up 1"), "nobody has written since");
    commit.call(Duration::ZERO, true);
    assert!(has_line(&metrics, "keygate_store_up 0"));
}

#[test]
fn metrics_of_one_snapshot_take_it_once() {
    let metrics = Metrics::new("1");
    let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let take = move || taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
    let rows = [Row::counter("a_total", "A.", |n| *n), Row::gauge("b", "B.", |n| *n * 10)];
    metrics.snapshot_fn(take, rows);
    let text = metrics.render();
    assert!(text.contains("\na_total 1\n") && text.contains("\nb 10\n"), "{text}");
    assert!(has_line(&metrics, "b 20"));
}

#[test]
fn readings_of_one_name_are_one_metric_with_a_label() {
    let metrics = Metrics::new("1");
    let rows = [
        Row::counter("a_total", "A.", |n| *n).labelled("result", "good"),
        Row::counter("a_total", "A.", |n| *n + 1).labelled("result", "bad"),
    ];
    metrics.snapshot_fn(|| 1, rows);
    assert!(has_line(&metrics, "a_total{result=\"good\"} 1"));
    assert!(has_line(&metrics, "a_total{result=\"bad\"} 2"));
    assert_eq!(metrics.render().matches("# TYPE a_total counter").count(), 1);
}

#[test]
fn readings_are_taken_at_each_scrape() {
    let metrics = Metrics::new("1");
    let hits = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let read = Arc::clone(&hits);
    let read = move || read.load(std::sync::atomic::Ordering::Relaxed);
    metrics.counter_fn("keygate_cache_hits_total", "Hits.", Box::new(read));
    metrics.gauge_fn("keygate_cache_entries", "Entries.", Box::new(|| 7));
    assert!(has_line(&metrics, "keygate_cache_hits_total 1"));
    hits.store(5, std::sync::atomic::Ordering::Relaxed);
    assert!(has_line(&metrics, "keygate_cache_hits_total 5"));
    assert!(has_line(&metrics, "# TYPE keygate_cache_hits_total counter"));
    assert!(has_line(&metrics, "# TYPE keygate_cache_entries gauge"));
    assert!(has_line(&metrics, "keygate_cache_entries 7"));
}

#[test]
fn clones_count_together() {
    let metrics = Metrics::new("1");
    metrics.clone().route("a").count(Outcome::Refused(Code::Internal));
    metrics.route("a").count(Outcome::Refused(Code::Internal));
    assert!(has_line(&metrics, r#"keygate_requests_total{outcome="internal",route="a"} 2"#));
}

#[test]
fn a_name_with_quotes_cannot_break_out_of_its_label() {
    let metrics = Metrics::new("1");
    metrics.upstream("a\"} 1\nx{y=\"").observe(Duration::ZERO);
    assert!(metrics.render().contains(r#"upstream="a\"} 1\nx{y=\"""#));
}
