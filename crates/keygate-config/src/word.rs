//! Words that a setting may be: the closed lists, and the names that an operator makes up.

mod edge;
pub(crate) mod observe;

use std::str::FromStr;

use keygate_core::key::{Brand, Environment};
use keygate_core::limit::Rate;
use keygate_core::limit::bounds::{QUOTA_COUNT_MAX, RATE_COUNT_MAX};
use keygate_core::limit::terms::Share;
use keygate_core::path::canonical_host;
use keygate_core::route::PathPattern;
use keygate_core::{Scope, credential};

use crate::settings::LogLevel;
use crate::suggest::nearest;
use crate::value::{FromText, Wrong};

pub(crate) use edge::{
    AskedPath, BalanceKind, ClientAuthKind, ContentType, Origin, PathPrefix, Status, Text,
};

/// The longest name of a route, upstream or tier, in bytes.
pub(crate) const NAME_LENGTH_MAX: usize = 64;
/// A path's depth is the depth of the tree that routes are found in.
const PATH_LENGTH_MAX: usize = 1_024;
const METHOD_LENGTH_MAX: usize = 32;
const HOST_LENGTH_MAX: usize = 253;
const KEY_PREFIX_LENGTH_MAX: usize = 32;
const REDIS_NAME_LENGTH_MAX: usize = 128;

const HEADER_LENGTH_MAX: usize = 64;

/// To take one of these out of a request would change more than who sends it.
const HEADERS_WITH_A_MEANING: [&str; 23] = [
    "accept",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-request-id",
];
const HEADER_FAMILIES_WITH_A_MEANING: [&str; 6] =
    ["access-control-", "if-", "proxy-", "sec-", "x-forwarded-", "x-keygate-"];

const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

/// Finds a word in a closed list.
fn choose<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
    let help = match nearest(text, choices.iter().map(|(word, _)| *word)) {
        Some(word) => format!("did you mean `\"{word}\"`?"),
        None => format!("write {}", words.join(" or ")),
    };
    Err(Wrong::new("not one of the words that are known here").help(help))
}

/// `[audit] sink`: what the audit log is copied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuditSinkKind {
    Off,
    Stdout,
    File,
}

impl FromText for AuditSinkKind {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`off`, `stdout`, `file`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("off", Self::Off), ("stdout", Self::Stdout), ("file", Self::File)])
    }
}

/// `[keys] sources`: where a request may carry its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    Bearer,
    Basic,
    XApiKey,
}

impl FromText for KeySource {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`bearer`, `basic`, `x-api-key`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let choices =
            [("bearer", Self::Bearer), ("basic", Self::Basic), ("x-api-key", Self::XApiKey)];
        choose(text, &choices)
    }
}

/// A header besides our own that may carry a key, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FurtherHeader(pub(crate) Box<str>);

impl FromText for FurtherHeader {
    const TYPE: &'static str = "header";
    const RULE: &'static str = "1 to 64 of `A-Z a-z 0-9 _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !(1..=HEADER_LENGTH_MAX).contains(&text.len()) || !text.bytes().all(is_name_byte) {
            return Err(Wrong::new("not the name of a header that keygate can look for")
                .help("write 1 to 64 letters, digits, `_` and `-`"));
        }
        // Servers read `_` and `-` alike.
        let alike = text.to_ascii_lowercase().replace('_', "-");
        let has_meaning = HEADERS_WITH_A_MEANING.contains(&&*alike)
            || HEADER_FAMILIES_WITH_A_MEANING.iter().any(|family| alike.starts_with(family));
        if has_meaning {
            return Err(Wrong::new("this header has a meaning of its own")
                .help("name the header that held nothing but the key, such as `apikey`"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// `auth` of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    Key,
    Public,
}

impl FromText for Auth {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`key`, `public`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("key", Self::Key), ("public", Self::Public)])
    }
}

/// `[store] kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Embedded,
    Redis,
}

impl FromText for StoreKind {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`embedded`, `redis`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("embedded", Self::Embedded), ("redis", Self::Redis)])
    }
}

/// `[store] mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreMode {
    Single,
    Sentinel,
    Cluster,
}

impl FromText for StoreMode {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`single`, `sentinel`, `cluster`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let choices =
            [("single", Self::Single), ("sentinel", Self::Sentinel), ("cluster", Self::Cluster)];
        choose(text, &choices)
    }
}

/// What the names of all our keys in Redis begin with.
pub(crate) struct KeyPrefix(pub(crate) Box<str>);

impl FromText for KeyPrefix {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "1 to 32 of `A-Z a-z 0-9 . _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if (1..=KEY_PREFIX_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_plain_byte) {
            Ok(Self(text.into()))
        } else {
            Err(Wrong::new("not a prefix for names in Redis")
                .help("write 1 to 32 letters, digits, `.`, `_` and `-`"))
        }
    }
}

/// What sentinels call a primary. They take no other characters in it.
pub(crate) struct ServiceName(pub(crate) Box<str>);

impl FromText for ServiceName {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "1 to 128 of `A-Z a-z 0-9 . _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if (1..=REDIS_NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_plain_byte) {
            Ok(Self(text.into()))
        } else {
            Err(Wrong::new("not what sentinels can call a primary")
                .help("write the name after `sentinel monitor` in their configuration"))
        }
    }
}

/// An ACL user of Redis.
pub(crate) struct Username(pub(crate) Box<str>);

impl FromText for Username {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "1 to 128 bytes, no spaces";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_forbidden = |c: char| c.is_whitespace() || c.is_control();
        if (1..=REDIS_NAME_LENGTH_MAX).contains(&text.len()) && !text.contains(is_forbidden) {
            Ok(Self(text.into()))
        } else {
            Err(Wrong::new("not a user of Redis")
                .help("write the name as `ACL LIST` has it, or leave it out for the default user"))
        }
    }
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl FromText for LogLevel {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`error`, `warn`, `info`, `debug`, `trace`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let choices = [
            ("error", Self::Error),
            ("warn", Self::Warn),
            ("info", Self::Info),
            ("debug", Self::Debug),
            ("trace", Self::Trace),
        ];
        choose(text, &choices)
    }
}

impl FromText for Environment {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`live`, `test`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("live", Self::Live), ("test", Self::Test)])
    }
}

/// The name of a route, an upstream or a tier: also a metric's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) Box<str>);

impl FromText for Name {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "1 to 64 of `a-z 0-9 . _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_name_byte =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_name_byte) {
            Ok(Self(text.into()))
        } else {
            Err(Wrong::new("not a name")
                .help("a name is 1 to 64 lower-case letters, digits, `.`, `_` and `-`"))
        }
    }
}

/// The name of an upstream that the file defines.
pub(crate) struct UpstreamName(pub(crate) String);

impl FromText for UpstreamName {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "one of `[upstreams.NAME]`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        Ok(Self(text.to_owned()))
    }
}

/// The name of a query parameter that may carry a key.
pub(crate) struct QueryParam(pub(crate) Box<str>);

impl FromText for QueryParam {
    const TYPE: &'static str = "name";
    const RULE: &'static str = "1 to 64 of `A-Z a-z 0-9 _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_param_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if (1..=credential::QUERY_PARAM_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(is_param_byte)
        {
            Ok(Self(text.into()))
        } else {
            Err(Wrong::new("not the name of a query parameter that keygate can look for")
                .help("write 1 to 64 letters, digits, `_` and `-`"))
        }
    }
}

/// A method in upper case. Methods are case-sensitive (RFC 9110 section 9.1): `get` is not `GET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Method(pub(crate) Box<str>);

impl FromText for Method {
    const TYPE: &'static str = "method";
    const RULE: &'static str = "1 to 32 of `A-Z 0-9 _ -`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_method_byte =
            |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if (1..=METHOD_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_method_byte) {
            return Ok(Self(text.into()));
        }
        let help = match nearest(text, METHODS.into_iter()) {
            Some(method) => format!("did you mean `\"{method}\"`?"),
            None => "write a method in upper case, such as `\"GET\"`".to_owned(),
        };
        Err(Wrong::new("not an HTTP method").help(help))
    }
}

/// A host in its one form, without port.
pub(crate) struct Host(pub(crate) Box<str>);

impl FromText for Host {
    const TYPE: &'static str = "host name";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const WRONG: &str = "not a host name";
        if text.contains("://") || text.contains('/') {
            return Err(Wrong::new(WRONG).help("write the host alone: no `https://`, no path"));
        }
        if text.contains('*') {
            let help = "there are no wildcards: leave `host` out to serve any host";
            return Err(Wrong::new(WRONG).help(help));
        }
        let port = text.rsplit_once(']').map_or(text, |(_, after)| after);
        if port.contains(':') && (text.starts_with('[') || text.split(':').count() == 2) {
            return Err(Wrong::new(WRONG).help("write the host without its port"));
        }
        let host = canonical_host(text).map_err(|_| {
            Wrong::new(WRONG).help("write a name such as `api.example.com`, or an address")
        })?;
        if host.is_empty() || host.len() > HOST_LENGTH_MAX {
            return Err(Wrong::new(WRONG).help("a host name has 1 to 253 characters"));
        }
        Ok(Self(host.into()))
    }
}

impl FromText for PathPattern {
    const TYPE: &'static str = "path";
    const RULE: &'static str = "whole segments, `{id}` matches one; at most 1024 bytes";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const EXAMPLE: &str = "write a prefix of whole segments, such as `/v1/orders/{id}`";
        if text.len() > PATH_LENGTH_MAX {
            return Err(Wrong::new(format!("a path has at most {PATH_LENGTH_MAX} bytes")));
        }
        if text.contains(['?', '#']) {
            let wrong = Wrong::new("a path holds no query and no fragment");
            return Err(wrong.help("write `%3F` or `%23` if the path itself holds that character"));
        }
        text.parse().map_err(|error| Wrong::new(format!("not a path: {error}")).help(EXAMPLE))
    }
}

impl FromText for Scope {
    const TYPE: &'static str = "scope";
    const RULE: &'static str = "`action:resource`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        from_core(text)
    }
}

impl FromText for Brand {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "2 to 16 of `a-z 0-9`, a letter first";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        from_core(text)
    }
}

impl FromText for Rate {
    const TYPE: &'static str = "rate";
    const RULE: &'static str = "`1` to `1000000000` per `s`, `m`, `h`, `d` or `month`";
    const UNIT: Option<&'static str> = Some("/s");

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let rate: Self = from_core(text)?;
        if rate.count > RATE_COUNT_MAX {
            return Err(Wrong::new(format!("a rate counts at most {RATE_COUNT_MAX}")));
        }
        Ok(rate)
    }
}

/// So much in each window of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota(pub(crate) Rate);

impl FromText for Quota {
    const TYPE: &'static str = "quota";
    const RULE: &'static str = "`1` to `1000000000000` per `s`, `m`, `h`, `d` or `month`";
    const UNIT: Option<&'static str> = Some("/day");

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let quota: Rate = text.parse().map_err(|_| {
            let units = "second, minute, hour, day or month";
            Wrong::new("not a quota").help(format!(
                "write it as `1000/day`: a whole number above 0, then `/` and {units}"
            ))
        })?;
        if quota.count > QUOTA_COUNT_MAX {
            return Err(Wrong::new(format!("a quota counts at most {QUOTA_COUNT_MAX}")));
        }
        Ok(Self(quota))
    }
}

impl FromText for Share {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`key`, `app`, `account`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("key", Self::Key), ("app", Self::App), ("account", Self::Account)])
    }
}

/// Reads what the core defines, with the core's own words about what is wrong. The core's errors
/// are constant texts: they cannot tell the value.
fn from_core<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Wrong> {
    text.parse().map_err(|error: T::Err| Wrong::new(error.to_string()))
}
