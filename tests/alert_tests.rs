//! What `keygate.rules.test.yml` asks of each alert: whether there is a moment at which it has to fire, and
//! one at which it must not though what it looks at is there.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use crate::prometheus::read;

pub struct Tests {
    /// What each rule is called, and what it says.
    rules: BTreeMap<String, Rule>,
    groups: Vec<Value>,
}

struct Rule {
    expr: String,
    severity: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub firing: bool,
    pub silent: bool,
}

impl Tests {
    pub fn read() -> Self {
        Self::of(&read("prometheus/keygate.rules.yml"), &read("prometheus/keygate.rules.test.yml"))
    }

    fn of(rules: &str, tests: &str) -> Self {
        let load = |text| serde_saphyr::from_str::<Value>(text).unwrap();
        let (rules, tests) = (load(rules), load(tests));
        let all = rules["groups"].as_array().unwrap().iter();
        let all = all.flat_map(|group| group["rules"].as_array().unwrap());
        let named = all.map(|rule| {
            let name =
                rule["alert"].as_str().or_else(|| rule["record"].as_str()).unwrap().to_owned();
            let severity = rule["labels"]["severity"].as_str().unwrap_or_default().to_owned();
            (name, Rule { expr: rule["expr"].as_str().unwrap().to_owned(), severity })
        });
        Self { rules: named.collect(), groups: tests["tests"].as_array().unwrap().clone() }
    }

    pub fn seen(&self, alert: &str) -> Seen {
        let mut seen = Seen::default();
        for group in &self.groups {
            let series = list(&group["input_series"]).iter();
            let given: BTreeSet<_> =
                series.flat_map(|one| words(one["series"].as_str().unwrap())).collect();
            let is_concerned = self.metrics(alert).iter().any(|metric| given.contains(metric));
            for firing in self.answers(group, alert) {
                seen.firing |= firing;
                seen.silent |= !firing && is_concerned;
            }
        }
        seen
    }

    /// Whether the alert fires, by each question of a group that would tell.
    fn answers(&self, group: &Value, alert: &str) -> Vec<bool> {
        let rules = list(&group["alert_rule_test"]).iter();
        let rules = rules.filter(|test| test["alertname"].as_str() == Some(alert));
        let rules = rules.map(|test| !list(&test["exp_alerts"]).is_empty());
        let name = format!("alertname=\"{alert}\"");
        let questions = list(&group["promql_expr_test"]).iter();
        let questions = questions.filter(|test| self.asks(test["expr"].as_str().unwrap(), alert));
        let questions = questions.map(|test| {
            let mut samples = list(&test["exp_samples"]).iter();
            samples.any(|sample| sample["labels"].as_str().unwrap().contains(&name))
        });
        rules.chain(questions).collect()
    }

    /// Whether a question is about the alert, in whatever series it fires.
    fn asks(&self, expr: &str, alert: &str) -> bool {
        let selector = Regex::new(r"ALERTS\{([^}]*)\}").unwrap();
        let Some(found) = selector.captures(expr) else { return false };
        let matcher = Regex::new(r#"(\w+)(=~|!~|!=|=)"([^"]*)""#).unwrap();
        matcher.captures_iter(&found[1]).all(|matcher| {
            let value = match &matcher[1] {
                "alertname" => alert,
                "severity" => &self.rules[alert].severity,
                "alertstate" => "firing",
                // Others than these may fire.
                _ => return false,
            };
            let is_like = || Regex::new(&format!("^(?:{})$", &matcher[3])).unwrap().is_match(value);
            match &matcher[2] {
                "=" => value == &matcher[3],
                "!=" => value != &matcher[3],
                "=~" => is_like(),
                _ => !is_like(),
            }
        })
    }

    /// What an alert looks at, by way of records too.
    fn metrics(&self, alert: &str) -> BTreeSet<String> {
        let direct = words(&self.rules[alert].expr);
        let records = direct.iter().filter_map(|word| self.rules.get(word));
        let indirect: Vec<_> = records.flat_map(|record| words(&record.expr)).collect();
        direct.into_iter().chain(indirect).filter(|word| is_metric(word)).collect()
    }
}

fn is_metric(word: &str) -> bool {
    word == "up" || word.starts_with("keygate_") || word.starts_with("process_")
}

fn words(text: &str) -> BTreeSet<String> {
    let word = Regex::new(r"[a-zA-Z_][\w:]*").unwrap();
    word.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

const RULES: &str = r#"
groups:
  - rules:
      - { record: "job:a:sum", expr: sum(keygate_a) }
      - { alert: A, expr: "job:a:sum > 1", labels: { severity: critical } }
"#;

fn seen(series: &str, questions: &str) -> Seen {
    let tests = format!("tests: [{{ input_series: [{{ series: {series} }}], {questions} }}]");
    Tests::of(RULES, &tests).seen("A")
}

#[test]
fn a_question_counts_if_it_could_have_another_answer() {
    let asking = |expr: &str, samples: &str| {
        format!("promql_expr_test: [{{ expr: '{expr}', exp_samples: {samples} }}]")
    };
    let fires = r#"[{ labels: '{alertname="A"}' }]"#;
    let all = r#"ALERTS{alertstate="firing"}"#;
    let (firing, silent) =
        (Seen { firing: true, silent: false }, Seen { firing: false, silent: true });
    assert_eq!(seen("keygate_a", &asking(all, fires)), firing);
    assert_eq!(seen("keygate_a", &asking(all, "[]")), silent);
    assert_eq!(seen("keygate_b", &asking(all, "[]")), Seen::default(), "nothing to look at");
    for other in [r#"severity="warning""#, r#"alertname!~"A|B""#, r#"instance="b""#] {
        let expr = format!("ALERTS{{{other}}}");
        assert_eq!(seen("keygate_a", &asking(&expr, "[]")), Seen::default(), "{expr}");
    }
    let rule =
        |expected: &str| format!("alert_rule_test: [{{ alertname: A, exp_alerts: {expected} }}]");
    assert_eq!(seen("keygate_a", &rule("[]")), silent);
    assert_eq!(seen("keygate_a", &rule("[{ exp_labels: {} }]")), firing);
}
