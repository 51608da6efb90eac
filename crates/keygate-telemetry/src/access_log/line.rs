//! A record as its line: one JSON object. Nothing that a client or an operator wrote gets into it but
//! through the mask.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use keygate_core::{SpanId, TraceId, UnixMillis};
use serde::{Serialize, Serializer};

use super::query;
use super::record::{CutShort, Decision, Protocol, Record, Text};
use crate::mask::{mask_encoded, may_hold_secret};

/// The longest line. What a pipe takes at once, so that whoever else writes to it does so before or
/// after the line.
pub(super) const LINE_BYTES_MAX: usize = 4_096;
/// How much of each text stays when a line would be longer.
const SHORT_TEXT_BYTES_MAX: usize = 128;

/// Makes lines.
#[derive(Default)]
pub(super) struct Lines {
    /// The parameters that may hold a key.
    pub(super) key_params: Vec<Box<str>>,
    seconds: Seconds,
}

impl Lines {
    /// Adds the line of a record, with its end.
    pub(super) fn add(&mut self, record: &Record, out: &mut Vec<u8>) {
        let begin = out.len();
        let Self { key_params, seconds } = self;
        let mut line = Line::new(record, seconds.text(record.began), key_params);
        line.write(out);
        if out.len() - begin >= LINE_BYTES_MAX {
            out.truncate(begin);
            line.shorten();
            line.write(out);
        }
        out.push(b'\n');
    }
}

/// The beginning of times that differ in their milliseconds only.
#[derive(Default)]
struct Seconds {
    second: u64,
    text: String,
}

impl Seconds {
    fn text(&mut self, time: UnixMillis) -> &str {
        let (second, millis) = (time.0 / 1_000, time.0 % 1_000);
        if second != self.second || self.text.is_empty() {
            let time = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok());
            self.text = time.unwrap_or_default().to_string();
            self.second = second;
        }
        self.text.truncate("2026-01-01T00:00:00".len());
        // Writing to a `String` does not fail.
        write!(self.text, ".{millis:03}Z").unwrap_or_default();
        &self.text
    }
}

/// The fields, in the order in which they are written. `deploy/access_log.md` says what they mean.
#[derive(Serialize)]
struct Line<'a> {
    /// Tells the line from those of the program's log and of the audit log.
    log: &'static str,
    time: &'a str,
    request_id: Shown<'a>,
    route: Shown<'a>,
    method: Shown<'a>,
    host: Shown<'a>,
    path: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<bool>,
    status: Option<u16>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Shown<'a>,
    bytes_in: u64,
    bytes_out: u64,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<Id<TraceId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<Id<SpanId>>,
}

type Shown<'a> = Option<Cow<'a, str>>;

impl<'a> Line<'a> {
    fn new(record: &'a Record, time: &'a str, key_params: &[Box<str>]) -> Self {
        let texts = &record.texts;
        // One search for all of them: hardly ever is there anything to hide.
        let has_secret = may_hold_secret(texts.all());
        let text = |which| {
            let text = texts.of(which)?;
            Some(if has_secret { mask_encoded(text) } else { Cow::Borrowed(text) })
        };
        let query = texts.of(Text::Query);
        let query = query.and_then(|text| query::shown(text, record.query, key_params));
        let times = &record.times;
        Self {
            log: "access",
            time,
            request_id: text(Text::RequestId),
            route: text(Text::Route),
            method: text(Text::Method),
            host: text(Text::Host),
            path: text(Text::Path),
            query: query.map(Cow::Owned),
            protocol: record.protocol.name(),
            tls: record.is_tls.then_some(true),
            status: record.status,
            decision: record.decision.name(),
            reason: record.failure.map(|code| code.as_str()),
            cut: record.cut.map(CutShort::name),
            key_id: text(Text::KeyId),
            hint: text(Text::Hint),
            app_id: text(Text::AppId),
            account_id: text(Text::AccountId),
            client: record.client,
            user_agent: text(Text::UserAgent),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            total_ms: millis(times.total),
            decision_ms: times.decision.map(millis),
            lookup_ms: times.lookup.map(millis),
            connect_ms: times.connect.map(millis),
            first_byte_ms: times.first_byte.map(millis),
            upstream: text(Text::Upstream),
            target: record.target,
            attempts: (record.attempts > 0).then_some(record.attempts),
            trace_id: record.trace.map(Id),
            span_id: record.span.map(Id),
        }
    }

    /// Cuts what a client can make as long as it likes.
    fn shorten(&mut self) {
        let texts = [&mut self.host, &mut self.path, &mut self.query, &mut self.user_agent];
        for text in texts.into_iter().flatten() {
            let end = text.floor_char_boundary(SHORT_TEXT_BYTES_MAX);
            *text = Cow::Owned(text.get(..end).unwrap_or_default().to_owned());
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        // Neither texts nor numbers can fail to become JSON, nor can memory fail to be written.
        serde_json::to_writer(out, self).unwrap_or_default();
    }
}

/// As exact as microseconds are.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// A trace or a span by its name, as it is written everywhere.
struct Id<T>(T);

impl Serialize for Id<TraceId> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.0.text()).unwrap_or_default())
    }
}

impl Serialize for Id<SpanId> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Decision {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused(code) => code.as_str(),
            Self::Preflight => "preflight",
            Self::Undecided => "none",
        }
    }
}

impl CutShort {
    pub const ALL: [Self; Self::Aborted as usize + 1] = [
        Self::Revoked,
        Self::Expired,
        Self::SlowClient,
        Self::TotalTimeout,
        Self::ClientLeft,
        Self::Aborted,
    ];

    /// In the access log and in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "key_revoked",
            Self::Expired => "key_expired",
            Self::SlowClient => "slow_client",
            Self::TotalTimeout => "total_timeout",
            Self::ClientLeft => "client_left",
            Self::Aborted => "aborted",
        }
    }
}

impl Protocol {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("HTTP/1.0"),
            Self::Http11 => Some("HTTP/1.1"),
            Self::Http2 => Some("HTTP/2"),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests;
