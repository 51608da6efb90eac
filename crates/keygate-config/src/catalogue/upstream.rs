//! `[upstreams.NAME]` and what is in it.

use std::path::PathBuf;
use std::time::Duration;

use super::{DAY_MS, HOUR_MS};
use crate::setting::Presence::{Default, Optional, Required};
use crate::setting::{Setting, Table};
use crate::settings::{HashBy, HostRewrite, Protocol, Target, Upstream, WeightedTarget};
use crate::word::{AskedPath, BalanceKind, Host, Status};

pub(crate) const TARGETS: Setting<Vec<WeightedTarget>> = Setting::new(
    "targets",
    Required("write where the service is: `targets = [\"127.0.0.1:9000\"]`"),
    "the servers of the service",
)
.within(1, 256);
pub(crate) const CONNECT_TIMEOUT: Setting<Duration> =
    Setting::new("connect_timeout", Default("\"5s\""), "to connect").within(1, DAY_MS);
pub(crate) const READ_TIMEOUT: Setting<Duration> =
    Setting::new("read_timeout", Default("\"60s\""), "between two reads, the first included")
        .within(1, DAY_MS);
pub(crate) const WRITE_TIMEOUT: Setting<Duration> = Setting::new(
    "write_timeout",
    Default("\"60s\""),
    "of one write, and until it is taken (1 s at least)",
)
.within(1, DAY_MS);
pub(crate) const IDLE_TIMEOUT: Setting<Duration> =
    Setting::new("idle_timeout", Default("\"60s\""), "how long an idle connection is kept")
        .within(1, DAY_MS);

pub(crate) const BALANCE: Setting<BalanceKind> =
    Setting::new("balance", Default("\"round_robin\""), "which target gets a request");
pub(crate) const HASH_BY: Setting<HashBy> = Setting::new(
    "hash_by",
    Default("\"key\""),
    "whose requests go to one target with `balance = \"hash\"`; without a key it is the address",
);
pub(crate) const PROTOCOL: Setting<Protocol> = Setting::new(
    "protocol",
    Default("\"http1\""),
    "what the service speaks; gRPC needs `http2`, and `auto` needs TLS",
);
pub(crate) const HOST: Setting<HostRewrite> = Setting::new(
    "host",
    Default("\"client\""),
    "the `Host` that the service sees: the client's, the target's, or a name",
);
pub(crate) const TOTAL_TIMEOUT: Setting<Duration> = Setting::new(
    "total_timeout",
    Optional("none"),
    "from the decision to the last byte of the answer, all attempts together; upgraded connections \
     have none",
)
.within(1, DAY_MS);
pub(crate) const RETRIES: Setting<u64> = Setting::new(
    "retries",
    Default("2"),
    "the most further attempts of a request that no target has answered; one that may have reached a \
     target is tried again only if its method is idempotent",
)
.within(0, Upstream::RETRIES_MAX as u64);
pub(crate) const RETRY_BUDGET_PERCENT: Setting<u64> = Setting::new(
    "retry_budget_percent",
    Default("20"),
    "the most further attempts as a share of requests; three a second are always allowed",
)
.within(0, 100);
pub(crate) const DNS_REFRESH: Setting<Duration> =
    Setting::new("dns_refresh", Default("\"30s\""), "how often targets' names are looked up again")
        .within(100, DAY_MS);
pub(crate) const HTTP2_STREAMS_MAX: Setting<u64> = Setting::new(
    "http2_streams_max",
    Default("100"),
    "the most requests at one time on one HTTP/2 connection",
)
.within(1, 10_000);

pub(crate) static TABLE: Table = Table {
    header: "[upstreams.NAME]",
    meaning: "A service behind the gateway. `NAME` is 1 to 64 of `a-z 0-9 . _ -`; at most 10000.",
    settings: &[
        &TARGETS,
        &BALANCE,
        &HASH_BY,
        &PROTOCOL,
        &HOST,
        &CONNECT_TIMEOUT,
        &READ_TIMEOUT,
        &WRITE_TIMEOUT,
        &IDLE_TIMEOUT,
        &TOTAL_TIMEOUT,
        &RETRIES,
        &RETRY_BUDGET_PERCENT,
        &DNS_REFRESH,
        &HTTP2_STREAMS_MAX,
    ],
    tables: &["tls", "health_check", "ejection"],
};

pub(crate) const ADDRESS: Setting<Target> = Setting::new(
    "address",
    Required("write `address = \"127.0.0.1:9000\"`"),
    "where the server is",
);
pub(crate) const WEIGHT: Setting<u64> =
    Setting::new("weight", Default("1"), "its share of the requests").within(1, 1_000);

pub(crate) static TARGET_TABLE: Table = Table {
    header: "targets = [{ … }]",
    meaning: "A target of an upstream that has more than an address.",
    settings: &[&ADDRESS, &WEIGHT],
    tables: &[],
};

pub(crate) const SERVER_NAME: Setting<Host> = Setting::new(
    "server_name",
    Optional("each target's host"),
    "the name that the service's certificate must be for (SNI)",
);
pub(crate) const CA_FILE: Setting<PathBuf> = Setting::new(
    "ca_file",
    Optional("what the system trusts"),
    "certificates in PEM; whom they signed is trusted, and nobody else",
);
pub(crate) const CERT_FILE: Setting<PathBuf> = Setting::new(
    "cert_file",
    Optional("none"),
    "our own certificate in PEM, if the service asks for one; needs `key_file`",
);
pub(crate) const KEY_FILE: Setting<PathBuf> =
    Setting::new("key_file", Optional("none"), "its private key in PEM, not encrypted");
pub(crate) const VERIFY: Setting<bool> = Setting::new(
    "verify",
    Default("true"),
    "whether the service's certificate is checked; without that, anybody may pose as the service",
);

pub(crate) static TLS_TABLE: Table = Table {
    header: "[upstreams.NAME.tls]",
    meaning: "The service is spoken to with TLS if this table is there, even if it is empty.",
    settings: &[&SERVER_NAME, &CA_FILE, &CERT_FILE, &KEY_FILE, &VERIFY],
    tables: &[],
};

pub(crate) const HEALTH_PATH: Setting<AskedPath> = Setting::new(
    "path",
    Optional("none: that it accepts a connection is enough"),
    "what is asked of each target, such as `/healthz`",
);
pub(crate) const HEALTH_HOST: Setting<Host> =
    Setting::new("host", Optional("the target's"), "the `Host` of these requests");
pub(crate) const STATUSES: Setting<Vec<Status>> =
    Setting::new("statuses", Default("[200]"), "the answers that are good").within(1, 100);
pub(crate) const INTERVAL: Setting<Duration> =
    Setting::new("interval", Default("\"5s\""), "between two checks").within(10, HOUR_MS);
pub(crate) const TIMEOUT: Setting<Duration> =
    Setting::new("timeout", Default("\"1s\""), "of one check").within(1, HOUR_MS);
pub(crate) const UNHEALTHY_AFTER: Setting<u64> = Setting::new(
    "unhealthy_after",
    Default("3"),
    "bad checks in a row that make a target unhealthy",
)
.within(1, 1_000);
pub(crate) const HEALTHY_AFTER: Setting<u64> =
    Setting::new("healthy_after", Default("2"), "good checks in a row that make it healthy again")
        .within(1, 1_000);

pub(crate) static HEALTH_TABLE: Table = Table {
    header: "[upstreams.NAME.health_check]",
    meaning: "Each target is asked now and then, if this table is there. An unhealthy one gets no \
              requests. A target begins healthy.",
    settings: &[
        &HEALTH_PATH,
        &HEALTH_HOST,
        &STATUSES,
        &INTERVAL,
        &TIMEOUT,
        &UNHEALTHY_AFTER,
        &HEALTHY_AFTER,
    ],
    tables: &[],
};

pub(crate) const FAILURES: Setting<u64> = Setting::new(
    "failures",
    Default("5"),
    "requests in a row that could not be sent or got no answer; 0 ejects nobody",
)
.within(0, 1_000_000);
pub(crate) const DURATION: Setting<Duration> =
    Setting::new("duration", Default("\"10s\""), "how long").within(1, DAY_MS);
pub(crate) const MAX_PERCENT: Setting<u64> = Setting::new(
    "max_percent",
    Default("50"),
    "the most targets at one time, in percent; never the last one",
)
.within(0, 100);

pub(crate) static EJECTION_TABLE: Table = Table {
    header: "[upstreams.NAME.ejection]",
    meaning: "A target that fails requests gets none for a while.",
    settings: &[&FAILURES, &DURATION, &MAX_PERCENT],
    tables: &[],
};
