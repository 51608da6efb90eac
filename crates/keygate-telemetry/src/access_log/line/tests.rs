use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keygate_config::QueryShown;
use keygate_core::{AccountId, AppId, Code, KeyId, SpanId, TraceId};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::record::{Head, Name, Texts};
use super::*;

const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";
const HEAD: Head<'_> = Head {
    method: b"GET",
    host: b"api.example.com",
    path: b"/v1/orders",
    user_agent: b"curl/8",
    query: b"page=2&api_key=x",
};
type Put = fn(&[u8]) -> Head<'_>;
/// How each of its texts is put into a head.
const PLACES: [(Text, Put); 5] = [
    (Text::Method, |text| Head { method: text, ..HEAD }),
    (Text::Host, |text| Head { host: text, ..HEAD }),
    (Text::Path, |text| Head { path: text, ..HEAD }),
    (Text::UserAgent, |text| Head { user_agent: text, ..HEAD }),
    (Text::Query, |text| Head { query: text, ..HEAD }),
];

fn record(texts: &Texts) -> Record<'_> {
    Record {
        began: UnixMillis(1_790_000_000_007),
        request_id: b"abc",
        texts,
        route: None,
        upstream: None,
        holder: None,
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

fn line(record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Lines::default().add(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn line_of(head: &Head<'_>) -> String {
    line(&record(&Texts::of(head)))
}

fn parsed(record: &Record<'_>) -> Value {
    serde_json::from_str(&line(record)).unwrap()
}

fn holder(hint: &str) -> Holder<'_> {
    Holder {
        key: KeyId::new(UnixMillis(1), [1; 10]),
        app: AppId::new(UnixMillis(2), [2; 10]),
        account: AccountId::new(UnixMillis(3), [3; 10]),
        hint,
    }
}

/// Calls with a record that has all that there can be.
fn with_full<T>(then: impl FnOnce(&Record<'_>) -> T) -> T {
    let (texts, route, upstream) = (Texts::of(&HEAD), Name::of("orders.read"), Name::of("main"));
    let micros = |micros| Some(Duration::from_micros(micros));
    then(&Record {
        route: Some(&route),
        upstream: Some(&upstream),
        holder: Some(holder("sk_live_111t")),
        is_tls: true,
        client: "192.0.2.1".parse().ok(),
        failure: Some(Code::UpstreamError),
        cut: Some(CutShort::Revoked),
        status: Some(502),
        bytes_in: 3,
        bytes_out: 1_234_567,
        attempts: 2,
        target: "127.0.0.1:9000".parse().ok(),
        trace: Some(TraceId(0xabc)),
        span: Some(SpanId(0xdef)),
        times: Times {
            total: Duration::from_micros(12_345),
            decision: micros(7),
            lookup: micros(30),
            connect: micros(1_000),
            first_byte: micros(9_000_001),
        },
        ..record(&texts)
    })
}

#[test]
fn a_line_says_all_that_is_known_of_a_request() {
    let expected = concat!(
        r#"{"log":"access","time":"2026-09-21T14:13:20.007Z","request_id":"abc","route":"orders.read","#,
        r#""method":"GET","host":"api.example.com","path":"/v1/orders","query":"page=2&api_key=…","#,
        r#""protocol":"HTTP/1.1","tls":true,"status":502,"decision":"admitted","#,
        r#""reason":"upstream_error","cut":"key_revoked","#,
        r#""key_id":"key_0000000001040G2081040G2081","hint":"sk_live_111t","#,
        r#""app_id":"app_0000000002081040G2081040G2","#,
        r#""account_id":"acct_00000000030C1G60R30C1G60R3","client":"192.0.2.1","#,
        r#""user_agent":"curl/8","bytes_in":3,"bytes_out":1234567,"total_ms":12.345,"#,
        r#""decision_ms":0.007,"lookup_ms":0.030,"connect_ms":1.000,"first_byte_ms":9000.001,"#,
        r#""upstream":"main","target":"127.0.0.1:9000","attempts":2,"#,
        r#""trace_id":"00000000000000000000000000000abc","span_id":"0000000000000def"}"#,
        "\n"
    );
    assert_eq!(with_full(line), expected);
}

/// The page's sample has every field there is, and its table a line for each.
#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../../../deploy/access_log.md");
    let (_, sample) = page.split_once("```json\n").unwrap();
    let (sample, table) = sample.split_once("```").unwrap();
    let sample: serde_json::Map<String, Value> = serde_json::from_str(sample).unwrap();
    let line = with_full(parsed);
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
    let texts = Texts::default();
    let refused = Record {
        decision: Decision::Refused(Code::BadRequest),
        protocol: Protocol::Unknown,
        status: Some(400),
        ..record(&texts)
    };
    let expected = concat!(
        r#"{"log":"access","time":"2026-09-21T14:13:20.007Z","request_id":"abc","route":null,"#,
        r#""method":null,"host":null,"path":null,"status":400,"decision":"bad_request","#,
        r#""bytes_in":0,"bytes_out":0,"total_ms":0.000}"#,
        "\n"
    );
    assert_eq!(line(&refused), expected);
    let nothing = parsed(&Record { request_id: b"", ..record(&texts) });
    assert_eq!((&nothing["status"], &nothing["request_id"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_number_has_all_of_its_digits() {
    let texts = Texts::default();
    let numbers = [0, 9, 10, 99, 100, 101, 999, 1_000, 10_010, 123_456_789, u64::MAX];
    for number in numbers {
        let line = parsed(&Record { bytes_in: number, ..record(&texts) });
        assert_eq!(line["bytes_in"], json!(number));
    }
    for (address, port) in [("0.9.10.255", 1), ("100.101.199.1", 65_535), ("2001:db8::1", 443)] {
        let client = address.parse().ok();
        let target = client.map(|address| SocketAddr::new(address, port));
        let line = parsed(&Record { client, target, ..record(&texts) });
        assert_eq!(line["client"], address);
        assert_eq!(line["target"], target.unwrap().to_string());
    }
}

#[test]
fn what_has_to_be_escaped_is_and_what_is_no_text_is_marked() {
    for (text, shown) in [
        (&b"a\"b\\c"[..], "a\"b\\c"),
        (b"tab\there", "tab\there"),
        ("café/日本".as_bytes(), "café/日本"),
        (b"bad\xff.", "bad\u{fffd}."),
        (b"/a%20b", "/a%20b"),
    ] {
        for (which, of) in PLACES {
            let line: Value = serde_json::from_str(&line_of(&of(text))).unwrap();
            let name = match which {
                Text::Method => "method",
                Text::Host => "host",
                Text::Path => "path",
                Text::UserAgent => "user_agent",
                // Has rules of its own.
                Text::Query => continue,
            };
            assert_eq!(line[name], shown);
        }
        let texts = Texts::default();
        let line = parsed(&Record { request_id: text, ..record(&texts) });
        assert_eq!(line["request_id"], shown);
    }
}

#[test]
fn a_key_is_hidden_wherever_it_was_put() {
    let escaped: String = KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for key in [KEY, &escaped, &KEY.replace('_', "%5F"), &KEY.replace('_', "%255f")] {
        let is_hidden = |line: &str| !line.contains(&KEY[12..]) && !line.contains(&escaped[36..]);
        for (which, of) in PLACES {
            let put = if which == Text::Query { format!("a={key}") } else { key.to_owned() };
            let line = line_of(&of(put.as_bytes()));
            assert!(is_hidden(&line), "{which:?} {line}");
            // Of a method not even a hint's length is kept.
            assert!(line.contains('…') || which == Text::Method, "{which:?} {line}");
        }
        let texts = Texts::default();
        let name = Name::of(key);
        let line = line(&Record {
            request_id: key.as_bytes(),
            route: Some(&name),
            upstream: Some(&name),
            holder: Some(holder(key)),
            ..record(&texts)
        });
        assert!(is_hidden(&line) && line.matches('…').count() == 4, "{line}");
    }
}

#[test]
fn a_hint_from_elsewhere_is_shown_whatever_it_is() {
    let texts = Texts::default();
    for hint in ["sk_live_111t", "pk_test_abcd", "legacy-1", "sk_live_1\"\\t", "é"] {
        let line = parsed(&Record { holder: Some(holder(hint)), ..record(&texts) });
        assert_eq!(line["hint"], hint);
    }
    let line = parsed(&Record { holder: Some(holder("")), ..record(&texts) });
    assert_eq!(line.get("hint"), None);
}

#[test]
fn a_line_is_never_longer_than_what_a_pipe_takes_at_once() {
    let of = |long: &str| {
        let long = long.as_bytes();
        let texts = Texts::of(&Head {
            method: long,
            host: long,
            path: long,
            user_agent: long,
            query: long,
        });
        line(&Record { request_id: long, ..record(&texts) })
    };
    let path = |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].clone();
    let text = of(&"\u{1}".repeat(5_000));
    assert!(text.len() <= LINE_BYTES_MAX, "{}", text.len());
    assert_eq!(text.matches('\n').count(), 1);
    assert_eq!(path(&text), "\u{1}".repeat(SHORT_TEXT_BYTES_MAX));
    // The usual case has room for all.
    assert_eq!(path(&of(&"a".repeat(5_000))).as_str().unwrap().len(), Text::Path.length_max());
}

#[test]
fn times_go_on_within_a_second_and_beyond() {
    let texts = Texts::default();
    let mut lines = Lines::default();
    let mut out = Vec::new();
    for millis in [1_790_000_000_999, 1_790_000_001_000, 1_790_000_001_001, 5] {
        lines.add(&Record { began: UnixMillis(millis), ..record(&texts) }, &mut out);
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

/// As many digits as there may be, few of them too.
fn numbers() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64).prop_map(|(number, fewer)| number >> fewer)
}

proptest! {
    #[test]
    fn every_number_address_and_id_is_written_as_everybody_writes_it(
        (bytes_in, bytes_out, total, first_byte) in (numbers(), numbers(), numbers(), numbers()),
        (client, target, status) in (any::<IpAddr>(), any::<SocketAddr>(), 100..1_000_u16),
        (key, trace, span) in (any::<[u8; 10]>(), any::<u128>(), any::<u64>()),
        request_id in any::<u128>(),
    ) {
        let texts = Texts::default();
        let request_id = format!("{request_id:032x}");
        let [total, first_byte] = [total, first_byte].map(|micros| Duration::from_micros(micros % 1_000_000_000_000));
        let holder = Holder { key: KeyId::new(UnixMillis(bytes_in), key), ..holder("pk_test_abcd") };
        let written = line(&Record {
            request_id: request_id.as_bytes(),
            holder: Some(holder),
            client: Some(client),
            status: Some(status),
            bytes_in,
            bytes_out,
            times: Times { total, first_byte: Some(first_byte), ..Times::default() },
            target: Some(target),
            trace: Some(TraceId(trace)),
            span: Some(SpanId(span)),
            ..record(&texts)
        });
        let millis = |time: Duration| {
            format!("{}.{:03}", time.as_millis(), time.as_micros() % 1_000)
        };
        let Holder { key, app, account, .. } = holder;
        let expected = format!(
            concat!(
                r#"{{"log":"access","time":"2026-09-21T14:13:20.007Z","request_id":"{}","route":null,"#,
                r#""method":null,"host":null,"path":null,"protocol":"HTTP/1.1","status":{},"#,
                r#""decision":"admitted","key_id":"{}","hint":"pk_test_abcd","app_id":"{}","#,
                r#""account_id":"{}","client":"{}","bytes_in":{},"bytes_out":{},"total_ms":{},"#,
                r#""first_byte_ms":{},"target":"{}","trace_id":"{:032x}","span_id":"{:016x}"}}"#,
                "\n"
            ),
            request_id, status, key, app, account, client, bytes_in, bytes_out, millis(total),
            millis(first_byte), target, trace, span,
        );
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn every_text_is_read_back_as_it_was_sent(
        text in r#"[a-z/%"\\\u{1}\u{7f}é]{0,60}|[ -~]{0,40}"#,
        name in r#"[a-z."\\é]{0,60}"#,
    ) {
        let named = Name::of(&name);
        let shown_name = json!(mask_encoded(&name));
        let shown = json!(mask_encoded(&text));
        for (which, of) in PLACES {
            let texts = Texts::of(&of(text.as_bytes()));
            let line = parsed(&Record {
                request_id: text.as_bytes(),
                route: Some(&named),
                upstream: Some(&named),
                ..record(&texts)
            });
            prop_assert_eq!([&line["route"], &line["upstream"]], [&shown_name; 2]);
            let id = if text.is_empty() { &Value::Null } else { &shown };
            prop_assert_eq!(&line["request_id"], id);
            let field = match which {
                Text::Host => "host",
                Text::Path => "path",
                Text::UserAgent => "user_agent",
                // Has rules of its own, and one is short.
                Text::Query | Text::Method => continue,
            };
            if text.is_empty() {
                let nothing = if which == Text::UserAgent { None } else { Some(&Value::Null) };
                prop_assert_eq!(line.get(field), nothing);
            } else {
                prop_assert_eq!(&line[field], &shown);
            }
        }
    }
}
