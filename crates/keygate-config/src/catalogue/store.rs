//! Every setting of `[store]`, of both kinds.

use std::path::PathBuf;
use std::time::Duration;

use super::{MINUTE_MS, SECOND_MS};
use crate::address::RedisUrl;
use crate::confidential::Password;
use crate::setting::Presence::{Default, Optional, Required};
use crate::setting::{Setting, Table};
use crate::word::{KeyPrefix, ServiceName, StoreKind, StoreMode, Username};

pub(crate) const KIND: Setting<StoreKind> =
    Setting::new("kind", Default("\"embedded\""), "one file on this machine, or a shared Redis");
pub(crate) const PATH: Setting<PathBuf> =
    Setting::new("path", Default("\"data/keygate.db\""), "the file; made on first start");

pub(crate) const URLS: Setting<Vec<RedisUrl>> = Setting::new(
    "urls",
    Required("write where Redis is: `urls = [\"redis://127.0.0.1:6379\"]`"),
    "the server, the sentinels, or some nodes of the cluster; all with TLS or none; \
     no port means 6379, of a sentinel 26379",
)
.within(1, 64);
pub(crate) const MODE: Setting<StoreMode> =
    Setting::new("mode", Default("\"single\""), "what the `urls` name");
pub(crate) const SENTINEL_SERVICE: Setting<ServiceName> = Setting::new(
    "sentinel_service",
    Required("write what the sentinels call the primary: `sentinel_service = \"mymaster\"`"),
    "what the sentinels call the primary; this and the next two need `mode = \"sentinel\"`",
);
pub(crate) const SENTINEL_USERNAME: Setting<Username> = Setting::new(
    "sentinel_username",
    Optional("the default user"),
    "who we are to the sentinels; needs `sentinel_password_file`",
);
pub(crate) const SENTINEL_PASSWORD_FILE: Setting<PathBuf> =
    Setting::new("sentinel_password_file", Optional("none"), "the password for the sentinels");
pub(crate) const USERNAME: Setting<Username> = Setting::new(
    "username",
    Optional("the default user"),
    "who we are to Redis; needs `password_file` or `password`",
);
pub(crate) const PASSWORD_FILE: Setting<PathBuf> =
    Setting::new("password_file", Optional("none"), "holds the password on one line");
pub(crate) const PASSWORD: Setting<Password> =
    Setting::new("password", Optional("none"), "the password, if it is not in a file");
pub(crate) const DATABASE: Setting<u64> =
    Setting::new("database", Default("0"), "the database's number; a cluster has only 0")
        .within(0, 1_023);
pub(crate) const KEY_PREFIX: Setting<KeyPrefix> = Setting::new(
    "key_prefix",
    Default("\"keygate\""),
    "what every name in Redis begins with, in braces; one for each fleet",
);
pub(crate) const CA_FILE: Setting<PathBuf> = Setting::new(
    "ca_file",
    Optional("what the system trusts"),
    "certificates in PEM; whom they signed is trusted, and nobody else; needs `rediss://`",
);
pub(crate) const CERT_FILE: Setting<PathBuf> = Setting::new(
    "cert_file",
    Optional("none"),
    "our own certificate in PEM, if Redis asks for one; needs `key_file` and `rediss://`",
);
pub(crate) const KEY_FILE: Setting<PathBuf> =
    Setting::new("key_file", Optional("none"), "its private key in PEM, not encrypted");
pub(crate) const CONNECTIONS: Setting<u64> = Setting::new(
    "connections",
    Default("1"),
    "connections for look-ups; one carries any number at a time",
)
.within(1, 16);
pub(crate) const CONNECT_TIMEOUT: Setting<Duration> =
    Setting::new("connect_timeout", Default("\"1s\""), "to connect").within(1, MINUTE_MS);
/// Requests wait in the cache for two seconds at most: more would never be waited for.
pub(crate) const FIND_TIMEOUT: Setting<Duration> =
    Setting::new("find_timeout", Default("\"100ms\""), "of the look-up of one key")
        .within(1, 2 * SECOND_MS);
pub(crate) const WRITE_TIMEOUT: Setting<Duration> =
    Setting::new("write_timeout", Default("\"2s\""), "of a change, or a list for the admin API")
        .within(1, MINUTE_MS);
pub(crate) const WAIT_REPLICAS: Setting<u64> = Setting::new(
    "wait_replicas",
    Default("0"),
    "how many replicas must have a change before it is acknowledged",
)
.within(0, 16);
pub(crate) const WAIT_TIMEOUT: Setting<Duration> =
    Setting::new("wait_timeout", Default("\"1s\""), "how long they are waited for")
        .within(1, MINUTE_MS);
pub(crate) const LOG_MAX: Setting<u64> = Setting::new(
    "log_max",
    Default("1_000_000"),
    "how many changes are kept in the log, which is the audit log as well",
)
.within(1_000, 100_000_000);

pub(crate) static TABLE: Table = Table {
    header: "[store]",
    meaning: "Where accounts, apps and keys are kept. `path` is for `kind = \"embedded\"`, \
              and all that follows it for `kind = \"redis\"`.",
    settings: &[
        &KIND,
        &PATH,
        &URLS,
        &MODE,
        &SENTINEL_SERVICE,
        &SENTINEL_USERNAME,
        &SENTINEL_PASSWORD_FILE,
        &USERNAME,
        &PASSWORD_FILE,
        &PASSWORD,
        &DATABASE,
        &KEY_PREFIX,
        &CA_FILE,
        &CERT_FILE,
        &KEY_FILE,
        &CONNECTIONS,
        &CONNECT_TIMEOUT,
        &FIND_TIMEOUT,
        &WRITE_TIMEOUT,
        &WAIT_REPLICAS,
        &WAIT_TIMEOUT,
        &LOG_MAX,
    ],
    tables: &[],
};

/// The keys that mean something for Redis only.
pub(crate) fn redis_keys() -> impl Iterator<Item = &'static str> {
    TABLE.keys().filter(|&key| key != KIND.key && key != PATH.key)
}
