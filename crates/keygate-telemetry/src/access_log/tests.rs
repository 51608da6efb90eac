use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keygate_config::{ClientAddress, QueryShown, Sample};
use keygate_core::UnixMillis;
use tempfile::TempDir;

use super::*;
use crate::Metrics;

struct Bench {
    folder: TempDir,
    metrics: Metrics,
    log: AccessLog,
}

impl Bench {
    fn new(queue_max: usize) -> Self {
        let metrics = Metrics::new("1");
        let log = AccessLog::new(queue_max, metrics.access_log());
        Self { folder: tempfile::tempdir().unwrap(), metrics, log }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("logs/access.jsonl")
    }

    fn write_to(&self, sink: AccessLogSink) {
        let settings = AccessLogSettings {
            sink,
            queue_max: 16,
            sample: Sample::ALL,
            sample_refused: Sample::ALL,
            sample_failed: Sample::ALL,
            query: QueryShown::Names,
            client_address: ClientAddress::Full,
        };
        self.log.change(&settings, Vec::new());
    }

    fn write(&self, count: u64) {
        for _ in 0..count {
            let texts = Texts::of(&Head { path: b"/v1/orders", ..Head::default() });
            self.log.write(&Record {
                began: UnixMillis(1_790_000_000_007),
                request_id: b"abc",
                texts: &texts,
                route: None,
                upstream: None,
                holder: None,
                query: QueryShown::Names,
                protocol: Protocol::Http11,
                is_tls: false,
                client: None,
                decision: Decision::Admitted,
                failure: None,
                cut: None,
                status: Some(200),
                bytes_in: 0,
                bytes_out: 0,
                times: Times::default(),
                target: None,
                attempts: 0,
                trace: None,
                span: None,
            });
        }
    }

    fn count(&self, result: &str) -> u64 {
        let series = format!("keygate_access_log_lines_total{{result=\"{result}\"}} ");
        let metrics = self.metrics.render();
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    fn wait_for(&self, result: &str, count: u64) {
        eventually(|| self.count(result) == count);
    }
}

fn eventually(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain");
        thread::sleep(Duration::from_millis(2));
    }
}

fn lines(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.lines().all(|line| line.starts_with("{\"log\"") && line.ends_with('}')), "{text}");
    text.lines().count() as u64
}

#[test]
fn every_line_is_written_and_those_that_wait_at_the_end_too() {
    let bench = Bench::new(100_000);
    bench.write_to(AccessLogSink::File(bench.path()));
    bench.write(5);
    bench.wait_for("written", 5);
    bench.write(20_000);
    bench.log.stop();
    assert_eq!(lines(&bench.path()), 20_005);
    assert_eq!((bench.count("written"), bench.count("dropped")), (20_005, 0));
}

#[test]
fn a_log_that_is_off_takes_nothing_and_keeps_no_queue() {
    let bench = Bench::new(16);
    bench.write_to(AccessLogSink::Off);
    bench.write(5);
    assert!(bench.log.0.as_ref().unwrap().running.get().is_none());
    bench.log.reopen();
    bench.log.stop();
    AccessLog::default().stop();
}

#[test]
fn a_file_that_was_renamed_or_removed_is_followed_by_a_new_one() {
    let bench = Bench::new(1_000);
    let (path, moved) = (bench.path(), bench.folder.path().join("moved"));
    bench.write_to(AccessLogSink::File(path.clone()));
    bench.write(3);
    bench.wait_for("written", 3);
    fs::rename(&path, &moved).unwrap();
    bench.write(2);
    bench.wait_for("written", 5);
    assert_eq!(lines(&moved), 5);
    bench.log.reopen();
    eventually(|| path.exists());
    bench.write(4);
    bench.wait_for("written", 9);
    assert_eq!((lines(&moved), lines(&path)), (5, 4));
    // And without a word.
    fs::remove_file(&path).unwrap();
    eventually(|| {
        bench.write(1);
        path.exists()
    });
}

#[test]
fn a_sink_that_fails_is_tried_again_and_what_it_lost_is_counted() {
    let bench = Bench::new(1_000);
    let folder = bench.path().parent().unwrap().to_owned();
    // A file where a folder has to be.
    fs::write(&folder, "").unwrap();
    bench.write_to(AccessLogSink::File(bench.path()));
    bench.write(3);
    bench.wait_for("failed", 3);
    fs::remove_file(&folder).unwrap();
    bench.write(2);
    bench.wait_for("written", 2);
    assert_eq!(lines(&bench.path()), 2);
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_holds_nobody_up() {
    let bench = Bench::new(50);
    let path = bench.folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    bench.write_to(AccessLogSink::File(path.clone()));
    bench.write(1);
    // There is no reader at all.
    bench.wait_for("failed", 1);
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(&path)
        .unwrap();
    eventually(|| {
        bench.write(20);
        bench.count("dropped") > 100
    });
    let began = Instant::now();
    bench.log.stop();
    assert!(began.elapsed() < Duration::from_secs(10));
    // Whatever got into it is whole.
    let mut read = Vec::new();
    reader.read_to_end(&mut read).ok();
    let text = String::from_utf8(read).unwrap();
    assert!(text.ends_with("}\n") && text.lines().all(|line| line.starts_with("{\"log\"")));
    assert_eq!(text.lines().count() as u64, bench.count("written"));
}

#[test]
fn lines_go_where_the_newest_settings_say() {
    let bench = Bench::new(1_000);
    let (one, other) = (bench.path(), bench.folder.path().join("other.jsonl"));
    bench.write_to(AccessLogSink::File(one.clone()));
    eventually(|| one.exists());
    bench.write(10);
    bench.write_to(AccessLogSink::File(other.clone()));
    eventually(|| other.exists());
    assert_eq!(lines(&one), 10, "what was queued");
    bench.write(3);
    bench.wait_for("written", 13);
    assert_eq!((lines(&one), lines(&other)), (10, 3));
    bench.write_to(AccessLogSink::Off);
    bench.write_to(AccessLogSink::File(one.clone()));
    eventually(|| {
        bench.write(1);
        lines(&one) > 10
    });
}
