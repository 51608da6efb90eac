//! What ships for Prometheus is what Prometheus takes: the metrics of a busy gateway, the rules and
//! their tests, the example configuration; and every alert has a test and a runbook.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use regex::Regex;

use crate::alert_tests;
use crate::harness::{
    Gateway, KeySpec, Redis, Setup, Upstream, Wire, assert_refused, get, post, promtool,
};

/// A file of `deploy`.
pub fn deployed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

pub fn read(name: &str) -> String {
    let path = deployed(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all alerts.
pub fn alerts() -> BTreeSet<String> {
    let rules = read("prometheus/keygate.rules.yml");
    let name = Regex::new(r"(?m)^ *- alert: (\w+)$").unwrap();
    let names: BTreeSet<_> = name.captures_iter(&rules).map(|found| found[1].to_owned()).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn the_metrics_of_a_busy_gateway_are_as_prometheus_wants_them() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream);
    for setup in [setup.clone(), setup.redis(&redis)] {
        let gateway = setup.start();
        keep_busy(&gateway);
        let metrics = gateway.metrics();
        assert!(metrics.contains("keygate_requests_total"), "{metrics}");
        promtool(&["check", "metrics"], &metrics).unwrap_or_else(|said| panic!("{said}"));
    }
}

fn keep_busy(gateway: &Gateway) {
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    for wire in Wire::BOTH {
        let answer = gateway.send_over(wire, &get("/v1/orders").bearer(&key.key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_refused(&gateway.send_over(wire, &get("/v1/orders")), 401, "api_key_missing");
        assert_refused(&gateway.send_over(wire, &get("/nothing")), 404, "route_not_found");
    }
    assert_eq!(gateway.send(&post("/public", "x")).status, 200);
    assert_eq!(gateway.reload().status, 200);
}

#[test]
fn the_rules_and_the_example_are_valid() {
    for (kind, name) in [("rules", "keygate.rules.yml"), ("config", "prometheus.yml")] {
        let path = deployed("prometheus").join(name);
        promtool(&["check", kind, path.to_str().unwrap()], "")
            .unwrap_or_else(|said| panic!("{said}"));
    }
}

#[test]
fn the_rules_pass_their_tests() {
    let path = deployed("prometheus/keygate.rules.test.yml");
    promtool(&["test", "rules", path.to_str().unwrap()], "")
        .unwrap_or_else(|said| panic!("{said}"));
}

/// In which it fires, in which it is silent though what it looks at is there, and words that say what to
/// do.
#[test]
fn every_alert_has_tests_of_both_and_words_that_say_what_to_do() {
    let rules = read("prometheus/keygate.rules.yml");
    let (runbooks, tests) = (read("prometheus/runbooks.md"), alert_tests::Tests::read());
    for alert in alerts() {
        let seen = tests.seen(&alert);
        assert!(seen.firing, "no test in which {alert} fires");
        assert!(seen.silent, "no test in which {alert} is silent");
        let rule = rules.split("- alert: ").find(|rule| rule.starts_with(&format!("{alert}\n")));
        let rule = rule.unwrap();
        for word in ["severity: ", "summary: ", "description: "] {
            assert_eq!(rule.matches(word).count(), 1, "{alert}: {word}");
        }
        let anchor = alert.to_lowercase();
        let link = format!("runbook: deploy/prometheus/runbooks.md#{anchor}\n");
        assert!(rule.contains(&link), "{alert} names no runbook");
        assert!(runbooks.contains(&format!("\n## {alert}\n")), "no runbook of {alert}");
    }
    let headings = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: BTreeSet<String> = headings.map(str::to_owned).collect();
    assert_eq!(headings, alerts(), "runbooks and alerts");
}
