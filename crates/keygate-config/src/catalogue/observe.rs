//! What is told of requests: usage, access log, traces.

use std::path::PathBuf;
use std::time::Duration;

use super::{DAY_MS, HOUR_MS, SECOND_MS};
use crate::setting::Presence::{Default, Optional};
use crate::setting::{Setting, Table};
use crate::settings::{ClientAddress, QueryShown};
use crate::word::observe::{AccessLogSinkKind, OtlpEndpoint, SampleShare, ServiceName};

pub(crate) const USAGE_PATH: Setting<PathBuf> = Setting::new(
    "path",
    Default("\"data/usage\""),
    "the folder of counters that outlive the process, on a disk of this machine",
);
pub(crate) const FLUSH_INTERVAL: Setting<Duration> = Setting::new(
    "flush_interval",
    Default("\"2s\""),
    "how often the store is told what was used; less often, but each minute, while more than 1000 \
         keys are in use",
)
.within(100, 60 * SECOND_MS);
pub(crate) const KEEP_MINUTES: Setting<Duration> = Setting::new(
    "keep_minutes",
    Default("\"2h\""),
    "how long use by the minute is kept; `\"0s\"`: not at all",
)
.within(0, 31 * DAY_MS);
pub(crate) const KEEP_HOURS: Setting<Duration> = Setting::new(
    "keep_hours",
    Default("\"31d\""),
    "how long use by the hour is kept; `\"0s\"`: not at all",
)
.within(0, 800 * DAY_MS);
pub(crate) const KEEP_DAYS: Setting<Duration> =
    Setting::new("keep_days", Default("\"400d\""), "how long use by the day (UTC) is kept")
        .within(DAY_MS, 4_000 * DAY_MS);

pub(crate) static USAGE_TABLE: Table = Table {
    header: "[usage]",
    meaning: "What each key uses, by route and time: see `GET /v1/usage`.",
    settings: &[&USAGE_PATH, &FLUSH_INTERVAL, &KEEP_MINUTES, &KEEP_HOURS, &KEEP_DAYS],
    tables: &[],
};

pub(crate) const SINK: Setting<AccessLogSinkKind> =
    Setting::new("sink", Default("\"off\""), "where a line for each request is written");
pub(crate) const LOG_PATH: Setting<PathBuf> = Setting::new(
    "path",
    Default("\"data/access.jsonl\""),
    "the file of `sink = \"file\"`; opened again on SIGUSR1, for logrotate",
);
pub(crate) const LOG_QUEUE_MAX: Setting<u64> = Setting::new(
    "queue_max",
    Default("16_384"),
    "the most lines that wait to be written; more are dropped and counted",
)
.within(16, 1 << 20);
pub(crate) const SAMPLE: Setting<SampleShare> = Setting::new(
    "sample",
    Default("\"100%\""),
    "how many of the requests that were admitted and answered are logged",
);
pub(crate) const SAMPLE_REFUSED: Setting<SampleShare> =
    Setting::new("sample_refused", Default("\"100%\""), "the same, of those that were refused");
pub(crate) const SAMPLE_FAILED: Setting<SampleShare> = Setting::new(
    "sample_failed",
    Default("\"100%\""),
    "the same, of those that were admitted and ended in a 5xx, or were cut off",
);
pub(crate) const QUERY: Setting<QueryShown> = Setting::new(
    "query",
    Default("\"names\""),
    "what is logged of a query string: its parameters' names, all of it but keys, or nothing",
);
pub(crate) const CLIENT_ADDRESS: Setting<ClientAddress> = Setting::new(
    "client_address",
    Default("\"full\""),
    "what is logged of a client's address: all of it, its network (/24, IPv6: /48), or nothing",
);

pub(crate) static ACCESS_LOG_TABLE: Table = Table {
    header: "[access_log]",
    meaning: "A JSON object for each request, one a line. A reader that is slow costs lines, never a \
              request.",
    settings: &[
        &SINK,
        &LOG_PATH,
        &LOG_QUEUE_MAX,
        &SAMPLE,
        &SAMPLE_REFUSED,
        &SAMPLE_FAILED,
        &QUERY,
        &CLIENT_ADDRESS,
    ],
    tables: &[],
};

pub(crate) const ENDPOINT: Setting<OtlpEndpoint> = Setting::new(
    "otlp_endpoint",
    Optional("no traces"),
    "where spans are sent by OTLP over HTTP, such as `http://127.0.0.1:4318`",
);
pub(crate) const TRACE_SAMPLE: Setting<SampleShare> = Setting::new(
    "sample",
    Default("\"1%\""),
    "how many requests are traced; with `follow_parent`, of those that come without a trace",
);
pub(crate) const FOLLOW_PARENT: Setting<bool> = Setting::new(
    "follow_parent",
    Default("false"),
    "whether a request with a `traceparent` is traced if and only if that says so, and not by `sample`; for \
     gateways whose clients are all your own, such as a front that traces by itself",
);
pub(crate) const SERVICE_NAME: Setting<ServiceName> =
    Setting::new("service_name", Default("\"keygate\""), "what traces call this gateway");
pub(crate) const TRACE_QUEUE_MAX: Setting<u64> = Setting::new(
    "queue_max",
    Default("4096"),
    "the most spans that wait to be sent; more are dropped and counted",
)
.within(16, 1 << 20);
pub(crate) const EXPORT_TIMEOUT: Setting<Duration> =
    Setting::new("timeout", Default("\"5s\""), "how long the receiver may take")
        .within(100, HOUR_MS);

pub(crate) static TRACING_TABLE: Table = Table {
    header: "[tracing]",
    meaning: "Traces, as OpenTelemetry has them.",
    settings: &[
        &ENDPOINT,
        &TRACE_SAMPLE,
        &FOLLOW_PARENT,
        &SERVICE_NAME,
        &TRACE_QUEUE_MAX,
        &EXPORT_TIMEOUT,
    ],
    tables: &[],
};
