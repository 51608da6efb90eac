use std::time::Duration;

use keygate_config::QueryShown;
use keygate_core::{Code, SpanId, TraceId};
use serde_json::{Value, json};

use super::super::record::{Texts, Times};
use super::*;

const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";
const TEXTS: [(Text, &str); 12] = [
    (Text::Method, "GET"),
    (Text::Host, "api.example.com"),
    (Text::Path, "/v1/orders"),
    (Text::Query, "page=2&api_key=x"),
    (Text::UserAgent, "curl/8"),
    (Text::RequestId, "abc"),
    (Text::Route, "orders.read"),
    (Text::Upstream, "main"),
    (Text::KeyId, "key_1"),
    (Text::Hint, "sk_live_111t"),
    (Text::AppId, "app_1"),
    (Text::AccountId, "acc_1"),
];

fn record(texts: &[(Text, &str)]) -> Record {
    let mut all = Texts::with_room(100);
    for (which, text) in texts {
        all.set(*which, text);
    }
    Record {
        began: UnixMillis(1_790_000_000_007),
        texts: all,
        query: QueryShown::Full,
        protocol: Protocol::Http11,
        is_tls: false,
        client: None,
        decision: Decision::Admitted,
        failure: None,
        cut: None,
        status: None,
        bytes_in: 0,
        bytes_out: 0,
        times: Times::default(),
        target: None,
        attempts: 0,
        trace: None,
        span: None,
    }
}

fn line(record: &Record) -> String {
    let mut out = Vec::new();
    Lines::default().add(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn parsed(record: &Record) -> Value {
    serde_json::from_str(&line(record)).unwrap()
}

/// A record with all that there can be.
fn full() -> Record {
    let mut full = record(&TEXTS);
    full.is_tls = true;
    full.client = "192.0.2.1".parse().ok();
    full.failure = Some(Code::UpstreamError);
    full.cut = Some(CutShort::Revoked);
    full.status = Some(502);
    (full.bytes_in, full.bytes_out, full.attempts) = (3, 4, 2);
    full.target = "127.0.0.1:9000".parse().ok();
    full.trace = Some(TraceId(0xabc));
    full.span = Some(SpanId(0xdef));
    let micros = |micros| Some(Duration::from_micros(micros));
    full.times = Times {
        total: Duration::from_micros(12_345),
        decision: micros(7),
        lookup: micros(3),
        connect: micros(1_000),
        first_byte: micros(9_000_001),
    };
    full
}

#[test]
fn a_line_says_all_that_is_known_of_a_request() {
    let expected = json!({
        "log": "access", "time": "2026-09-21T14:13:20.007Z", "request_id": "abc",
        "route": "orders.read", "method": "GET", "host": "api.example.com", "path": "/v1/orders",
        "query": "page=2&api_key=…", "protocol": "HTTP/1.1", "tls": true, "status": 502,
        "decision": "admitted", "reason": "upstream_error", "cut": "key_revoked", "key_id": "key_1",
        "hint": "sk_live_111t", "app_id": "app_1", "account_id": "acc_1", "client": "192.0.2.1",
        "user_agent": "curl/8", "bytes_in": 3, "bytes_out": 4, "total_ms": 12.345,
        "decision_ms": 0.007, "lookup_ms": 0.003, "connect_ms": 1.0, "first_byte_ms": 9000.001,
        "upstream": "main", "target": "127.0.0.1:9000", "attempts": 2,
        "trace_id": "00000000000000000000000000000abc", "span_id": "0000000000000def",
    });
    assert_eq!(parsed(&full()), expected);
}

/// The page's sample has every field there is, and its table a line for each.
#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../../../deploy/access_log.md");
    let (_, sample) = page.split_once("```json\n").unwrap();
    let (sample, table) = sample.split_once("```").unwrap();
    let sample: serde_json::Map<String, Value> = serde_json::from_str(sample).unwrap();
    let line = parsed(&full());
    let fields: Vec<&String> = line.as_object().unwrap().keys().collect();
    for field in &fields {
        assert!(table.contains(&format!("`{field}`")), "{field}");
        // What went well has no reason.
        assert!(sample.contains_key(*field) || ["reason", "cut"].contains(&&***field), "{field}");
    }
    assert!(sample.keys().all(|field| fields.contains(&field)), "{sample:?}");
}

/// The access log and traces call it the same, and both pages say so.
#[test]
fn every_end_before_its_time_is_documented_by_its_name() {
    for page in [
        include_str!("../../../../../deploy/access_log.md"),
        include_str!("../../../../../deploy/tracing.md"),
    ] {
        for cut in CutShort::ALL {
            assert!(page.contains(&format!("`{}`", cut.name())), "{cut:?}");
        }
    }
}

#[test]
fn what_is_not_known_is_left_out_or_null() {
    let mut refused = record(&[(Text::RequestId, "abc")]);
    refused.decision = Decision::Refused(Code::BadRequest);
    refused.protocol = Protocol::Unknown;
    refused.status = Some(400);
    let expected = json!({
        "log": "access", "time": "2026-09-21T14:13:20.007Z", "request_id": "abc", "route": null,
        "method": null, "host": null, "path": null, "status": 400, "decision": "bad_request",
        "bytes_in": 0, "bytes_out": 0, "total_ms": 0.0,
    });
    assert_eq!(parsed(&refused), expected);
}

#[test]
fn a_key_is_hidden_wherever_it_was_put() {
    let escaped: String = KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for key in [KEY, &escaped, &KEY.replace('_', "%5F"), &KEY.replace('_', "%255f")] {
        for (which, _) in TEXTS {
            let put = if which == Text::Query { format!("a={key}") } else { key.to_owned() };
            let line = line(&record(&[(which, &*put)]));
            assert!(!line.contains(&KEY[12..]), "{which:?} {line}");
            assert!(!line.contains(&escaped[36..]), "{which:?} {line}");
            // Of a method not even a hint's length is kept.
            assert!(line.contains('…') || which == Text::Method, "{which:?} {line}");
        }
    }
}

#[test]
fn a_line_is_never_longer_than_what_a_pipe_takes_at_once() {
    let long = "\"".repeat(5_000);
    let texts = TEXTS.map(|(which, _)| (which, &*long));
    let text = line(&record(&texts));
    assert!(text.len() <= LINE_BYTES_MAX, "{}", text.len());
    assert_eq!(text.matches('\n').count(), 1);
    assert_eq!(parsed(&record(&texts))["path"], "\"".repeat(SHORT_TEXT_BYTES_MAX));
    // The usual case has room for all.
    let long = "a".repeat(5_000);
    let texts = TEXTS.map(|(which, _)| (which, &*long));
    let path = parsed(&record(&texts))["path"].as_str().unwrap().len();
    assert_eq!(path, Text::Path.length_max());
}

#[test]
fn times_go_on_within_a_second_and_beyond() {
    let mut lines = Lines::default();
    let mut out = Vec::new();
    for millis in [1_790_000_000_999, 1_790_000_001_000, 1_790_000_001_001, 5] {
        lines.add(&Record { began: UnixMillis(millis), ..record(&[]) }, &mut out);
    }
    let text = String::from_utf8(out).unwrap();
    let times: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["time"].as_str().unwrap().into())
        .collect();
    let expected = [
        "2026-09-21T14:13:20.999Z",
        "2026-09-21T14:13:21.000Z",
        "2026-09-21T14:13:21.001Z",
        "1970-01-01T00:00:00.005Z",
    ];
    assert_eq!(times, expected);
}
