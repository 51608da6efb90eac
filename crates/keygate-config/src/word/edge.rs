//! Words about traffic: how targets are chosen, what is spoken, and what answers and pages look like.

use serde_json::Value as Json;
use toml::de::DeValue;

use super::{Host, choose};
use crate::reader::{Item, Reader};
use crate::settings::{HashBy, HostRewrite, Protocol, TlsVersion};
use crate::shown::{REDACTED, as_written};
use crate::value::{FromText, Value, Wrong, expected};

const PREFIX_LENGTH_MAX: usize = 1_024;
const ORIGIN_LENGTH_MAX: usize = 512;
const TEXT_LENGTH_MAX: usize = 64 << 10;

/// `balance`, before `hash_by` is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BalanceKind {
    RoundRobin,
    LeastConnections,
    Hash,
}

impl FromText for BalanceKind {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`round_robin`, `least_connections`, `hash`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let choices = [
            ("round_robin", Self::RoundRobin),
            ("least_connections", Self::LeastConnections),
            ("hash", Self::Hash),
        ];
        choose(text, &choices)
    }
}

impl FromText for HashBy {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`key`, `app`, `address`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("key", Self::Key), ("app", Self::App), ("address", Self::Address)])
    }
}

impl FromText for Protocol {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`http1`, `http2`, `auto`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("http1", Self::Http1), ("http2", Self::Http2), ("auto", Self::Auto)])
    }
}

impl FromText for TlsVersion {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`1.2`, `1.3`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("1.2", Self::V1_2), ("1.3", Self::V1_3)])
    }
}

/// `client_auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientAuthKind {
    Optional,
    Required,
}

impl FromText for ClientAuthKind {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`optional`, `required`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("optional", Self::Optional), ("required", Self::Required)])
    }
}

impl FromText for HostRewrite {
    const TYPE: &'static str = "host name";
    const RULE: &'static str = "`client`, `target`, or a name";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "client" => Ok(Self::Client),
            "target" => Ok(Self::Target),
            name => Host::from_text(name).map(|Host(name)| Self::Fixed(name)),
        }
    }
}

/// The front of a path: whole segments, without a slash at the end.
#[derive(Debug)]
pub(crate) struct PathPrefix(pub(crate) Box<str>);

impl FromText for PathPrefix {
    const TYPE: &'static str = "path";
    const RULE: &'static str = "whole segments, at most 1024 bytes";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const EXAMPLE: &str = "write whole segments, such as `/v1` or `/internal/api`";
        let wrong = |message: &str| Err(Wrong::new(message).help(EXAMPLE));
        if text.len() > PREFIX_LENGTH_MAX {
            return wrong("a path has at most 1024 bytes");
        }
        if !text.starts_with('/') || text.ends_with('/') {
            return wrong("a prefix begins with `/`, and ends without one");
        }
        match keygate_core::path::normalize(text) {
            Ok(normal) if *normal == *text => Ok(Self(text.into())),
            Ok(_) | Err(_) => wrong("not a path that every server reads alike"),
        }
    }
}

/// A status of a final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Value for Status {
    fn type_name() -> String {
        "status".to_owned()
    }

    fn rule() -> String {
        "200 to 599".to_owned()
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let DeValue::Integer(number) = item.get_ref() else {
            reader.error(item.span(), expected::<Self>(item), None);
            return None;
        };
        match number.as_str().parse() {
            Ok(status @ 200..=599) => Some(Self(status)),
            Ok(_) | Err(_) => {
                reader.error(item.span(), "not a status: 200 to 599", None);
                None
            }
        }
    }
}

/// What is sent as it is written.
pub(crate) struct Text(pub(crate) Box<str>);

impl FromText for Text {
    const TYPE: &'static str = "text";
    const RULE: &'static str = "at most 65536 bytes";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.len() > TEXT_LENGTH_MAX {
            return Err(Wrong::new("a text has at most 65536 bytes"));
        }
        Ok(Self(text.into()))
    }
}

/// What a health check asks for. What follows the `?` may be what lets it in.
pub(crate) struct AskedPath(pub(crate) Box<str>);

impl FromText for AskedPath {
    const TYPE: &'static str = Text::TYPE;
    const RULE: &'static str = Text::RULE;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        Text::from_text(text).map(|Text(path)| Self(path))
    }

    fn show(item: &Item<'_>) -> Json {
        match item.get_ref().as_str().and_then(|text| text.split_once('?')) {
            Some((path, _)) => Json::from(format!("{path}?{REDACTED}")),
            None => as_written(item),
        }
    }
}

/// The value of `Content-Type`.
pub(crate) struct ContentType(pub(crate) Box<str>);

impl FromText for ContentType {
    const TYPE: &'static str = "media type";
    const RULE: &'static str = "`type/subtype`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_plain = text.len() <= 256 && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if is_plain && text.contains('/') {
            return Ok(Self(text.into()));
        }
        Err(Wrong::new("not a media type").help("write one such as `application/json`"))
    }
}

/// The origin of a web page (RFC 6454 section 6.2), or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Any,
    One(Box<str>),
}

impl FromText for Origin {
    const TYPE: &'static str = "origin";
    const RULE: &'static str = "`scheme://host` or `scheme://host:port` in lower case, or `*`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let is_plain = text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
        let host = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty());
        let is_origin =
            host.is_some_and(|(_, host)| !host.is_empty() && !host.contains(['/', '*']));
        if text == "null" || (is_plain && is_origin && text.len() <= ORIGIN_LENGTH_MAX) {
            return Ok(Self::One(text.into()));
        }
        Err(Wrong::new("not an origin that a browser sends")
            .help("write it without a path, such as `https://app.example.com`"))
    }
}
