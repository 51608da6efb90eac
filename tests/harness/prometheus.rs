//! A real Prometheus in a folder of its own: what it scrapes, what it is asked, what it has fired.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Error, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::h1::Connection;
use super::process::{Process, free_address};
use super::request::get;
use super::wait::{eventually_within, patience};

/// How often it scrapes and goes by its rules: often, and yet within reach of a machine that is busy.
const CONFIGURATION: &str = "\
global:
  scrape_interval: 500ms
  evaluation_interval: 500ms
scrape_configs:
  - job_name: keygate
    static_configs:
";

pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

/// Who is scraped: under which job and name, and where.
#[derive(Clone, Copy, Debug)]
pub struct Scraped<'a> {
    pub job: &'a str,
    pub instance: &'a str,
    pub address: SocketAddr,
}

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// One alert that is pending or firing.
#[derive(Clone, Debug)]
pub struct Alert {
    pub name: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub is_firing: bool,
}

impl Prometheus {
    /// Starts one that goes by these rules, a file's text, and scrapes these targets.
    ///
    /// # Panics
    /// When there is no `prometheus`.
    pub fn start(rules: &str, targets: &[Scraped<'_>]) -> Self {
        const TRIES: usize = 5;
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("rules.yml", rules);
        let targets: String = targets.iter().map(Scraped::lines).collect();
        let configuration = format!("rule_files: [rules.yml]\n{CONFIGURATION}{targets}");
        write("prometheus.yml", &configuration);
        let mut output = String::new();
        for _ in 0..TRIES {
            let address = free_address();
            let mut process = launch(folder.path(), address);
            let is_up = eventually_within(patience(), || {
                if answers_200(address, "/-/ready") {
                    Some(true)
                } else {
                    (!process.is_running()).then_some(false)
                }
            });
            if is_up == Some(true) {
                return Self { process, address, _folder: folder };
            }
            let _ = process.is_running().then(|| process.kill());
            output = process.stderr();
            if !output.contains("in use") {
                break;
            }
        }
        panic!("prometheus did not start:\n{output}");
    }

    /// What an expression comes to now.
    #[track_caller]
    pub fn ask(&self, expression: &str) -> Vec<(Labels, f64)> {
        let data = self.api(&format!("/api/v1/query?query={}", encoded(expression)));
        let series = match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().unwrap().clone(),
            Some("scalar") => vec![json!({ "metric": {}, "value": data["result"] })],
            _ => panic!("{expression}: {data}"),
        };
        let value = |one: &Value| one["value"][1].as_str().unwrap().parse().unwrap();
        series.iter().map(|one| (labels(&one["metric"]), value(one))).collect()
    }

    /// The one number that an expression comes to; nothing if there is none.
    #[track_caller]
    pub fn number(&self, expression: &str) -> Option<f64> {
        let series = self.ask(expression);
        assert!(series.len() < 2, "{expression}: {series:?}");
        series.first().map(|(_, value)| *value)
    }

    /// Every alert that is pending or firing.
    #[track_caller]
    pub fn alerts(&self) -> Vec<Alert> {
        let data = self.api("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap().iter().map(|alert| {
            let mut labels = labels(&alert["labels"]);
            Alert {
                name: labels.remove("alertname").unwrap(),
                labels,
                annotations: self::labels(&alert["annotations"]),
                is_firing: alert["state"] == "firing",
            }
        });
        alerts.collect()
    }

    #[track_caller]
    fn api(&self, path: &str) -> Value {
        let answer = Connection::open(self.address).exchange(&get(path)).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].clone()
    }

    /// What it complained of, rules that could not be evaluated among it.
    pub fn complaints(&self) -> String {
        self.process.stderr()
    }
}

impl Scraped<'_> {
    fn lines(&self) -> String {
        let Self { job, instance, address } = self;
        let labels = json!({ "job": job, "instance": instance });
        format!("      - {}\n", json!({ "targets": [address], "labels": labels }))
    }
}

/// Runs `promtool` with this as its standard input. Says what it printed if it found something wrong.
pub fn promtool(arguments: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{}", missing("promtool", &error)));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    write!(said, "{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    // It succeeds even where it has something to say of metrics.
    let is_clean =
        output.status.success() && (arguments != ["check", "metrics"] || said.is_empty());
    if is_clean { Ok(()) } else { Err(said) }
}

fn launch(folder: &Path, address: SocketAddr) -> Process {
    let mut command = Command::new("prometheus");
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
    command.arg(format!("--web.listen-address={address}")).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::try_of(command).unwrap_or_else(|error| panic!("{}", missing("prometheus", &error)))
}

fn missing(program: &str, error: &Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        format!("install {program}: make setup-tests")
    } else {
        format!("{program}: {error}")
    }
}

fn answers_200(address: SocketAddr, path: &str) -> bool {
    let ask = |mut connection: Connection| connection.exchange(&get(path));
    Connection::try_open(address).is_ok_and(|c| ask(c).is_ok_and(|answer| answer.status == 200))
}

fn labels(of: &Value) -> Labels {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// As a value in a query string (RFC 3986).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => write!(encoded, "%{byte:02X}").unwrap(),
        }
        encoded
    })
}
