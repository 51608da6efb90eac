//! Headers that a route sets and removes: their names and values.

use serde_json::Value as Json;
use toml::de::DeValue;

use crate::reader::{Item, Reader};
use crate::shown::reference_only;
use crate::value::{FromText, Value, Wrong, expected};

const NAME_LENGTH_MAX: usize = 128;
const VALUE_LENGTH_MAX: usize = 4_096;
const HEADERS_MAX: usize = 64;

/// What frames a message or belongs to one connection, and what only the gateway may say.
const NOT_TO_BE_CHANGED: [&str; 15] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
    "expect",
];

/// The name of a header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderName(pub(crate) Box<str>);

impl FromText for HeaderName {
    const TYPE: &'static str = "header";
    const RULE: &'static str = "a token (RFC 9110)";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_token_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if !(1..=NAME_LENGTH_MAX).contains(&text.len()) || !text.bytes().all(is_token_byte) {
            return Err(Wrong::new("not the name of a header").help("write one such as `X-Team`"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// The name of a header that a route may set or remove, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedHeader(pub(crate) Box<str>);

impl FromText for ChangedHeader {
    const TYPE: &'static str = "header";
    const RULE: &'static str = "a token; not one that frames messages or that the gateway sets";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let HeaderName(name) = HeaderName::from_text(text)?;
        // Servers read `_` and `-` alike.
        let alike = name.replace('_', "-");
        if NOT_TO_BE_CHANGED.contains(&&*alike) || alike.starts_with("x-keygate-") {
            let help = match &*alike {
                "host" => "write `host` in `[upstreams.NAME]`",
                _ => "remove it: the gateway alone says what is in it",
            };
            return Err(Wrong::new("this header is not for routes to change").help(help));
        }
        Ok(Self(name))
    }
}

/// Headers with their values. A value may come from the environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeaderValues(pub(crate) Vec<(Box<str>, Box<str>)>);

impl Value for HeaderValues {
    fn type_name() -> String {
        "table of headers".to_owned()
    }

    fn rule() -> String {
        "at most 64".to_owned()
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            reader.error(item.span(), expected::<Self>(item), None);
            return None;
        };
        if table.len() > HEADERS_MAX {
            reader.error(item.span(), format!("there are more than {HEADERS_MAX} headers"), None);
            return None;
        }
        let mut headers: Vec<(Box<str>, Box<str>)> = Vec::new();
        let mut is_whole = true;
        for (name, value) in table {
            let read_name = ChangedHeader::from_text(name.get_ref());
            if let Err(wrong) = &read_name {
                reader.error(name.span(), wrong.message.clone(), wrong.help.clone());
            }
            match (read_name, HeaderValue::read(reader, value)) {
                (Ok(ChangedHeader(name)), Some(HeaderValue(value))) => headers.push((name, value)),
                (Ok(_) | Err(_), _) => is_whole = false,
            }
        }
        headers.sort();
        if headers.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            reader.error(item.span(), "a header is here twice: case does not matter", None);
            return None;
        }
        is_whole.then_some(Self(headers))
    }

    fn show(item: &Item<'_>) -> Json {
        let headers = item.get_ref().as_table().into_iter().flat_map(|table| table.iter());
        headers.map(|(name, value)| (name.get_ref().to_string(), reference_only(value))).collect()
    }
}

/// The value of one header.
struct HeaderValue(Box<str>);

impl FromText for HeaderValue {
    const TYPE: &'static str = "header value";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_value = text.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\t');
        if is_value && text.len() <= VALUE_LENGTH_MAX && text.trim() == text {
            return Ok(Self(text.into()));
        }
        Err(Wrong::new("not the value of a header")
            .help("write at most 4096 characters of ASCII, with no spaces around them"))
    }
}
