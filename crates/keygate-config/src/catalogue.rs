//! Every setting there is. The README's tables are checked against this file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use keygate_core::limit::Rate;
use keygate_core::limit::bounds::{BURST_MAX, CONCURRENCY_MAX, QUOTAS_MAX};
use keygate_core::limit::terms::Share;

use crate::setting::Presence::{Default, Optional, Required};
use crate::setting::{Setting, Table};
use crate::settings::LogLevel;
use crate::value::Bytes;
use crate::word::{AuditSinkKind, Quota};

pub(crate) mod keys;
pub(crate) mod listener;
pub(crate) mod observe;
pub(crate) mod route;
pub(crate) mod store;
pub(crate) mod upstream;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

pub(crate) const TIERS_MAX: usize = 1_000;
pub(crate) const UPSTREAMS_MAX: usize = 10_000;
pub(crate) const ROUTES_MAX: usize = 10_000;

/// The tables that stand once in a file, and those that a file may hold many of.
#[cfg(test)]
pub(crate) const TABLES: &[&Table] = &[
    &server::TABLE,
    &failed_auth::TABLE,
    &listener::TABLE,
    &listener::CERTIFICATE_TABLE,
    &admin::TABLE,
    &keys::TABLE,
    &store::TABLE,
    &cache::TABLE,
    &log::TABLE,
    &audit::TABLE,
    &observe::USAGE_TABLE,
    &observe::ACCESS_LOG_TABLE,
    &observe::TRACING_TABLE,
    &limits::TABLE,
    &tier::TABLE,
    &upstream::TABLE,
    &upstream::TARGET_TABLE,
    &upstream::TLS_TABLE,
    &upstream::HEALTH_TABLE,
    &upstream::EJECTION_TABLE,
    &route::TABLE,
    &route::RESPOND_TABLE,
    &route::REQUEST_HEADERS_TABLE,
    &route::RESPONSE_HEADERS_TABLE,
    &route::CORS_TABLE,
];

pub(crate) static ROOT: Table = Table {
    header: "gateway.toml",
    meaning: "The whole file.",
    settings: &[],
    tables: &[
        "server",
        "admin",
        "keys",
        "store",
        "cache",
        "log",
        "audit",
        "usage",
        "access_log",
        "tracing",
        "limits",
        "tiers",
        "upstreams",
        "routes",
    ],
};

pub(crate) mod server {
    use super::*;

    pub(crate) const LISTEN: Setting<Vec<SocketAddr>> = Setting::new(
        "listen",
        Required("write `listen = [\"127.0.0.1:8080\"]` under `[server]`"),
        "where clients connect without TLS: HTTP/1.1 and h2c",
    )
    .within(0, 16);
    pub(crate) const PROXY_PROTOCOL_FROM: Setting<Vec<IpNet>> = Setting::new(
        "proxy_protocol_from",
        Default("[]"),
        "peers, such as a load balancer, whose connections begin with a PROXY header (v1 or v2)",
    )
    .within(0, 1_000);
    pub(crate) const CONNECTIONS_MAX: Setting<u64> = Setting::new(
        "connections_max",
        Default("50_000"),
        "the most client connections at one time; more wait to be accepted",
    )
    .within(1, 10_000_000);
    pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: Setting<u64> = Setting::new(
        "connections_per_address_max",
        Optional("none"),
        "the same, of one address (IPv6: one /64); more are closed",
    )
    .within(1, 10_000_000);
    pub(crate) const THREADS: Setting<u64> =
        Setting::new("threads", Optional("one per core"), "worker threads").within(1, 1_024);
    /// The HTTP parser under us takes no more than 256, whatever is said here.
    pub(crate) const HEADERS_MAX: Setting<u64> =
        Setting::new("headers_max", Default("100"), "the most header lines of a request")
            .within(1, 256);
    pub(crate) const HEADER_BYTES_MAX: Setting<Bytes> = Setting::new(
        "header_bytes_max",
        Default("\"32KiB\""),
        "the most bytes of a request's head",
    )
    .within(KIB, MIB);
    pub(crate) const BODY_BYTES_MAX: Setting<Bytes> =
        Setting::new("body_bytes_max", Default("\"1GiB\""), "the most bytes of a request's body")
            .within(0, TIB);
    pub(crate) const HEADER_TIMEOUT: Setting<Duration> = Setting::new(
        "header_timeout",
        Default("\"10s\""),
        "from the first byte of a request to the end of its head",
    )
    .within(1, DAY_MS);
    pub(crate) const BODY_TIMEOUT: Setting<Duration> =
        Setting::new("body_timeout", Default("\"60s\""), "between two pieces of a request's body")
            .within(1, DAY_MS);
    pub(crate) const HANDSHAKE_TIMEOUT: Setting<Duration> = Setting::new(
        "handshake_timeout",
        Default("\"10s\""),
        "of a TLS handshake, and of a PROXY header",
    )
    .within(1, DAY_MS);
    pub(crate) const UPSTREAM_IDLE_MAX: Setting<u64> = Setting::new(
        "upstream_idle_max",
        Default("1024"),
        "the most idle connections to upstreams that are kept, all together; half of them are for \
         the express lane, if it is on",
    )
    .within(1, 1_000_000);
    pub(crate) const EXPRESS_LANE: Setting<bool> = Setting::new(
        "express_lane",
        Default("true"),
        "whether plain HTTP/1.1 requests to upstreams that speak HTTP/1 take a shorter way, \
         which costs less CPU and is otherwise the same",
    );
    pub(crate) const KEEPALIVE_TIMEOUT: Setting<Duration> = Setting::new(
        "keepalive_timeout",
        Default("\"75s\""),
        "how long an idle client connection is kept",
    )
    .within(1, DAY_MS);
    pub(crate) const TRUSTED_PROXIES: Setting<Vec<IpNet>> =
        Setting::new("trusted_proxies", Default("[]"), "peers whose `X-Forwarded-For` is believed")
            .within(0, 1_000);
    pub(crate) const WATCH_FILES: Setting<bool> = Setting::new(
        "watch_files",
        Default("true"),
        "whether a changed `gateway.toml`, or a file that it names, is taken over by itself; else by \
         SIGHUP or `keygate reload` only",
    );
    pub(crate) const SHUTDOWN_DELAY: Setting<Duration> = Setting::new(
        "shutdown_delay",
        Default("\"0s\""),
        "from SIGTERM to the closing of the listeners; `/readyz` says 503 meanwhile",
    )
    .within(0, HOUR_MS);
    pub(crate) const DRAIN_TIMEOUT: Setting<Duration> = Setting::new(
        "drain_timeout",
        Default("\"30s\""),
        "how long running requests may finish after that",
    )
    .within(0, DAY_MS);

    pub(crate) static TABLE: Table = Table {
        header: "[server]",
        meaning: "The listeners that clients talk to, and the bounds on what they may send.",
        settings: &[
            &LISTEN,
            &PROXY_PROTOCOL_FROM,
            &CONNECTIONS_MAX,
            &CONNECTIONS_PER_ADDRESS_MAX,
            &THREADS,
            &HEADERS_MAX,
            &HEADER_BYTES_MAX,
            &BODY_BYTES_MAX,
            &HANDSHAKE_TIMEOUT,
            &HEADER_TIMEOUT,
            &BODY_TIMEOUT,
            &KEEPALIVE_TIMEOUT,
            &UPSTREAM_IDLE_MAX,
            &EXPRESS_LANE,
            &TRUSTED_PROXIES,
            &WATCH_FILES,
            &SHUTDOWN_DELAY,
            &DRAIN_TIMEOUT,
        ],
        tables: &["failed_auth", "tls"],
    };
}

pub(crate) mod failed_auth {
    use super::*;

    pub(crate) const RATE: Setting<Rate> = Setting::new(
        "rate",
        Default("\"60/minute\""),
        "how often one client address (IPv6: one /64) may fail to authenticate",
    );
    pub(crate) const ADDRESSES_MAX: Setting<u64> =
        Setting::new("addresses_max", Default("100_000"), "the most addresses remembered")
            .within(1, 10_000_000);

    pub(crate) static TABLE: Table = Table {
        header: "[server.failed_auth]",
        meaning: "Who fails too often is refused without a look-up.",
        settings: &[&RATE, &ADDRESSES_MAX],
        tables: &[],
    };
}

pub(crate) mod admin {
    use super::*;

    pub(crate) const LISTEN: Setting<SocketAddr> = Setting::new(
        "listen",
        Default("\"127.0.0.1:9901\""),
        "the admin API, `/metrics`, `/healthz` and `/readyz`",
    );
    pub(crate) const TOKEN_FILE: Setting<PathBuf> = Setting::new(
        "token_file",
        Default("\"data/admin.token\""),
        "the admin token; made on first start",
    );
    pub(crate) const INSECURE: Setting<bool> = Setting::new(
        "insecure",
        Default("false"),
        "lets `listen` be other than loopback: the admin token then crosses the network unencrypted",
    );

    pub(crate) static TABLE: Table = Table {
        header: "[admin]",
        meaning: "The listener for operators.",
        settings: &[&LISTEN, &TOKEN_FILE, &INSECURE],
        tables: &[],
    };
}

pub(crate) mod cache {
    use super::*;

    pub(crate) const KEYS_MAX: Setting<u64> =
        Setting::new("keys_max", Default("1_000_000"), "the most keys in memory")
            .within(1, 100_000_000);
    pub(crate) const TTL: Setting<Duration> = Setting::new(
        "ttl",
        Default("\"60s\""),
        "how old a key gets before its next use has it read again",
    )
    .within(1, DAY_MS);
    pub(crate) const STALE_MAX: Setting<Duration> = Setting::new(
        "stale_max",
        Default("\"10m\""),
        "how long known keys work when Redis cannot be followed",
    )
    .within(SECOND_MS, DAY_MS);
    pub(crate) const UNKNOWN_MAX: Setting<u64> =
        Setting::new("unknown_max", Default("100_000"), "the most keys remembered as unknown")
            .within(1, 100_000_000);
    pub(crate) const UNKNOWN_TTL: Setting<Duration> =
        Setting::new("unknown_ttl", Default("\"10s\""), "how long such a key is remembered")
            .within(1, HOUR_MS);

    pub(crate) static TABLE: Table = Table {
        header: "[cache]",
        meaning: "What is kept in memory of what the store said.",
        settings: &[&KEYS_MAX, &TTL, &STALE_MAX, &UNKNOWN_MAX, &UNKNOWN_TTL],
        tables: &[],
    };
}

pub(crate) mod log {
    use super::*;

    pub(crate) const LEVEL: Setting<LogLevel> =
        Setting::new("level", Default("\"info\""), "how much is written to standard output");

    pub(crate) static TABLE: Table = Table {
        header: "[log]",
        meaning: "JSON lines on standard output.",
        settings: &[&LEVEL],
        tables: &[],
    };
}

pub(crate) mod audit {
    use super::*;

    pub(crate) const SINK: Setting<AuditSinkKind> = Setting::new(
        "sink",
        Default("\"off\""),
        "where the audit log is also written, one JSON object a line: whoever collects logs takes it \
         from there",
    );
    pub(crate) const PATH: Setting<PathBuf> = Setting::new(
        "path",
        Default("\"data/audit.jsonl\""),
        "the file of `sink = \"file\"`; it is added to, and goes on where it ends",
    );

    pub(crate) static TABLE: Table = Table {
        header: "[audit]",
        meaning: "A copy of the audit log, which is in the store in any case.",
        settings: &[&SINK, &PATH],
        tables: &[],
    };
}

pub(crate) mod limits {
    use super::*;

    pub(crate) const HEADERS: Setting<bool> = Setting::new(
        "headers",
        Default("true"),
        "whether answers have `RateLimit-Policy` and `RateLimit`",
    );
    pub(crate) const X_HEADERS: Setting<bool> = Setting::new(
        "x_headers",
        Default("false"),
        "whether they have `X-RateLimit-Limit`, `-Remaining` and `-Reset`",
    );
    pub(crate) const LEASE: Setting<Duration> = Setting::new(
        "lease",
        Default("\"2s\""),
        "how long a gateway may use the part of a limit that Redis has lent it",
    )
    .within(500, MINUTE_MS);

    pub(crate) static TABLE: Table = Table {
        header: "[limits]",
        meaning: "How clients hear of their limits, and how a fleet counts. The limits are in tiers.",
        settings: &[&HEADERS, &X_HEADERS, &LEASE],
        tables: &[],
    };
}

pub(crate) mod tier {
    use super::*;

    pub(crate) const RATE: Setting<Rate> =
        Setting::new("rate", Optional("none"), "how many requests per how long");
    pub(crate) const BURST: Setting<u64> = Setting::new(
        "burst",
        Optional("one second of `rate`, at least 1"),
        "the whole bucket; needs `rate`",
    )
    .within(1, BURST_MAX);
    pub(crate) const QUOTAS: Setting<Vec<Quota>> =
        Setting::new("quotas", Default("[]"), "calendar windows in UTC, each unit once")
            .within(0, QUOTAS_MAX as u64);
    pub(crate) const CONCURRENCY: Setting<u64> =
        Setting::new("concurrency", Optional("none"), "the most requests at one time")
            .within(1, CONCURRENCY_MAX);
    pub(crate) const SHARE: Setting<Share> = Setting::new(
        "share",
        Default("\"key\""),
        "who is counted together: one key, or all keys of one app or account",
    );
    pub(crate) const MAX_AGE: Setting<Duration> = Setting::new(
        "max_age",
        Optional("none"),
        "how old a key may get: a new one ends then, one that is older already is counted and listed",
    )
    .within(SECOND_MS, 3_650 * DAY_MS);

    pub(crate) static TABLE: Table = Table {
        header: "[tiers.NAME]",
        meaning: "A named set of limits. `NAME` is 1 to 64 of `a-z 0-9 . _ -`; at most 1000.",
        settings: &[&RATE, &BURST, &QUOTAS, &CONCURRENCY, &SHARE, &MAX_AGE],
        tables: &[],
    };
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;
    use crate::reader::Reader;

    const README: &str = include_str!("../README.md");

    /// The README's part about one table.
    fn section(table: &Table) -> String {
        let mut lines = vec![
            format!("### `{}`", table.header),
            String::new(),
            table.meaning.to_owned(),
            String::new(),
            "| setting | type | default | bounds | meaning |".to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(table.settings.iter().map(|setting| setting.row()));
        lines.join("\n") + "\n"
    }

    #[test]
    fn the_readme_lists_every_setting_as_it_is_and_no_other() {
        let sections: Vec<String> = TABLES.iter().map(|table| section(table)).collect();
        let generated = sections.join("\n");
        let settings = README.split_once("## Settings\n\n").unwrap().1;
        let written = settings.split("\n## ").next().unwrap();
        assert!(
            written.trim_end() == generated.trim_end(),
            "write this to README.md:\n{generated}"
        );
    }

    #[test]
    fn every_default_is_one_that_a_file_may_hold() {
        let reader = Reader::new(Source::alone("default", "", Path::new("")));
        for setting in TABLES.iter().flat_map(|table| table.settings) {
            assert!(setting.default_is_valid(&reader), "{}", setting.key());
        }
    }

    #[test]
    fn every_table_of_the_file_is_in_the_list() {
        let headers: Vec<&str> = TABLES.iter().map(|table| table.header).collect();
        for name in ROOT.tables {
            let is_here =
                |header: &&str| header.trim_matches(['[', ']']).split('.').next() == Some(name);
            assert!(headers.iter().any(is_here), "{name}");
        }
    }
}
