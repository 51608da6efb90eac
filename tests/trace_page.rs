//! What `deploy/tracing.md` shows works as it stands: the gateway's settings, the collector's, and the way
//! from a line of the access log to its trace.

use std::fs;

use serde_json::Value;

use crate::access_log::{lines_of, table};
use crate::harness::{Collector, Setup, Upstream, get, run};
use crate::prometheus::read;

/// What stands between the fences of the page's first block in this language.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_, block) = page.split_once(&format!("```{language}\n")).expect("a block");
    block.split_once("```").expect("its end").0
}

fn collector(page: &str) -> Value {
    serde_saphyr::from_str(block(page, "yaml")).unwrap()
}

#[test]
fn the_settings_are_valid_and_lead_to_the_collector() {
    let page = read("tracing.md");
    let settings = block(&page, "toml");
    let folder = tempfile::tempdir().unwrap();
    let example = read("../gateway.toml");
    assert!(!example.lines().any(|line| line == "[tracing]"), "the example has one of its own");
    fs::write(folder.path().join("gateway.toml"), format!("{example}\n{settings}")).unwrap();
    let exit = run(folder.path(), &["check"], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);

    // What we speak is OTLP over HTTP, which is not what a collector hears on its port for gRPC.
    let http = &collector(&page)["receivers"]["otlp"]["protocols"]["http"];
    let endpoint = format!("otlp_endpoint = \"http://{}\"", http["endpoint"].as_str().unwrap());
    assert!(settings.lines().any(|line| line == endpoint), "{endpoint} among {settings}");
}

#[test]
fn the_collector_sends_on_what_it_receives() {
    let collector = collector(&read("tracing.md"));
    let traces = &collector["service"]["pipelines"]["traces"];
    for part in ["receivers", "processors", "exporters"] {
        let used = traces[part].as_array().unwrap();
        assert!(!used.is_empty(), "{part}");
        let known = collector[part].as_object().unwrap();
        assert!(
            used.iter().all(|name| known.contains_key(name.as_str().unwrap())),
            "{part}: {used:?}"
        );
        assert_eq!(used.len(), known.len(), "{part}: what is set up is used");
    }
    let exporter = &collector["exporters"]["otlphttp"];
    assert!(exporter["endpoint"].as_str().unwrap().starts_with("https://"));
}

/// As Loki links a line to its trace.
#[test]
fn a_line_of_the_access_log_names_the_span_of_its_request() {
    let (upstream, receiver) = (Upstream::start(), Collector::start());
    let tracing = format!(
        "{}[tracing]\notlp_endpoint = \"{}\"\nfollow_parent = true\n",
        table(""),
        receiver.endpoint()
    );
    let gateway = Setup::in_front_of(&upstream).tables(&tracing).start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for flag in ["00", "01"] {
        let parent = format!("00-{trace}-00f067aa0ba902b7-{flag}");
        assert_eq!(gateway.send(&get("/public").header("traceparent", &parent)).status, 200);
    }
    let lines = lines_of(&gateway, 2);
    assert!(lines.iter().all(|line| line["trace_id"] == trace), "{lines:#?}");
    let spans = receiver.trace(trace);
    let server = spans.iter().find(|span| span.parent == "00f067aa0ba902b7").unwrap();
    assert!(lines[0].get("span_id").is_none(), "one that is not traced has no span: {lines:#?}");
    assert_eq!(lines[1]["span_id"], server.id.as_str());
}
