//! A record as its line: one JSON object. Nothing that a client or an operator wrote gets into it but
//! through the mask.

use fields::{Fields, name};
use jiff::Timestamp;
use keygate_core::UnixMillis;

use super::query;
use super::record::{CutShort, Decision, Protocol, Record, Text};
use crate::mask::mask_encoded;

mod fields;

/// The longest line. What a pipe takes at once, so that whoever else writes to it does so before or
/// after the line.
pub(super) const LINE_BYTES_MAX: usize = 4_096;
/// How much of each text stays when a line would be longer.
const SHORT_TEXT_BYTES_MAX: usize = 128;

/// Makes lines.
#[derive(Default)]
pub(super) struct Lines {
    /// The parameters that may hold a key.
    key_params: Vec<Box<str>>,
    seconds: Seconds,
}

impl Lines {
    /// These hold keys, too.
    pub(super) fn hide(&mut self, key_params: &[Box<str>]) {
        let known = &mut self.key_params;
        let new = key_params.iter().filter(|param| !known.contains(param)).cloned();
        let new: Vec<_> = new.collect();
        known.extend(new);
    }

    /// Adds the line of a record, with its end.
    pub(super) fn add(&mut self, record: &Record, out: &mut Vec<u8>) {
        let begin = out.len();
        let Self { key_params, seconds } = self;
        let line = Line::new(record, seconds.text(record.began), key_params);
        line.write(out);
        if out.len() - begin > LINE_BYTES_MAX {
            out.truncate(begin);
            line.shortened().write(out);
        }
    }
}

/// The beginning of times that differ in their milliseconds only.
#[derive(Default)]
struct Seconds {
    second: u64,
    /// As in `2026-01-01T00:00:00`.
    text: String,
}

impl Seconds {
    fn text(&mut self, time: UnixMillis) -> &str {
        let second = time.0 / 1_000;
        if second != self.second || self.text.is_empty() {
            let time = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok());
            self.text = time.unwrap_or_default().to_string();
            self.text.truncate("2026-01-01T00:00:00".len());
            self.second = second;
        }
        &self.text
    }
}

/// One line that is being written. `deploy/access_log.md` says what its fields mean.
struct Line<'a> {
    record: &'a Record,
    /// When it began, but for the milliseconds.
    second: &'a str,
    query: Option<String>,
    /// Whether a text may hold something to hide.
    has_secret: bool,
    /// Whether all texts are shown as they are.
    is_plain: bool,
    /// The most bytes that are shown of a text.
    texts_max: usize,
}

impl<'a> Line<'a> {
    fn new(record: &'a Record, second: &'a str, key_params: &[Box<str>]) -> Self {
        let texts = &record.texts;
        let query = texts.of(Text::Query);
        let query = query.and_then(|text| query::shown(text, record.query, key_params));
        // One search for all of them: hardly ever is there anything to hide or to escape.
        let has_secret = texts.may_hold_secret();
        let is_plain = !has_secret && texts.are_plain();
        Self { record, second, query, has_secret, is_plain, texts_max: usize::MAX }
    }

    /// The same with less of each text.
    fn shortened(self) -> Self {
        Self { is_plain: false, texts_max: SHORT_TEXT_BYTES_MAX, ..self }
    }

    /// All fields in their order. What is always there is `null` if it is not known.
    fn write(&self, out: &mut Vec<u8>) {
        let Record { times, .. } = self.record;
        let mut fields = Fields::begin(out, "log", "access");
        fields.moment(name!("time"), self.second, self.record.began);
        self.text_or_null(&mut fields, name!("request_id"), Text::RequestId);
        self.text_or_null(&mut fields, name!("route"), Text::Route);
        self.text_or_null(&mut fields, name!("method"), Text::Method);
        self.text_or_null(&mut fields, name!("host"), Text::Host);
        self.text_or_null(&mut fields, name!("path"), Text::Path);
        if let Some(query) = &self.query {
            fields.text(name!("query"), self.cut(query));
        }
        self.write_outcome(&mut fields);
        self.text(&mut fields, name!("key_id"), Text::KeyId);
        self.text(&mut fields, name!("hint"), Text::Hint);
        self.text(&mut fields, name!("app_id"), Text::AppId);
        self.text(&mut fields, name!("account_id"), Text::AccountId);
        fields.address(name!("client"), self.record.client);
        self.text(&mut fields, name!("user_agent"), Text::UserAgent);
        fields.number(name!("bytes_in"), self.record.bytes_in);
        fields.number(name!("bytes_out"), self.record.bytes_out);
        fields.millis(name!("total_ms"), Some(times.total));
        fields.millis(name!("decision_ms"), times.decision);
        fields.millis(name!("lookup_ms"), times.lookup);
        fields.millis(name!("connect_ms"), times.connect);
        fields.millis(name!("first_byte_ms"), times.first_byte);
        self.write_sending(&mut fields);
        fields.end();
    }

    /// By which protocol it came, and what came of it.
    fn write_outcome(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        fields.word(name!("protocol"), record.protocol.name());
        if record.is_tls {
            fields.raw(name!("tls"), b"true");
        }
        match record.status {
            Some(status) => fields.number(name!("status"), status.into()),
            None => fields.raw(name!("status"), b"null"),
        }
        fields.word(name!("decision"), Some(record.decision.name()));
        fields.word(name!("reason"), record.failure.map(|code| code.as_str()));
        fields.word(name!("cut"), record.cut.map(CutShort::name));
    }

    /// Whom it was sent to, and as what.
    fn write_sending(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        self.text(fields, name!("upstream"), Text::Upstream);
        fields.socket(name!("target"), record.target);
        if record.attempts > 0 {
            fields.number(name!("attempts"), record.attempts as u64);
        }
        if let Some(trace) = record.trace {
            fields.quoted(name!("trace_id"), &trace.text());
        }
        if let Some(span) = record.span {
            fields.quoted(name!("span_id"), &span.text());
        }
    }

    fn text_or_null(&self, fields: &mut Fields<'_>, name: &str, which: Text) {
        if !self.text(fields, name, which) {
            fields.raw(name, b"null");
        }
    }

    /// False if there is none.
    fn text(&self, fields: &mut Fields<'_>, name: &str, which: Text) -> bool {
        let Some(text) = self.record.texts.of(which) else { return false };
        if self.is_plain {
            fields.quoted(name, text.as_bytes());
        } else if self.has_secret {
            fields.text(name, self.cut(&mask_encoded(text)));
        } else {
            fields.text(name, self.cut(text));
        }
        true
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        text.get(..text.floor_char_boundary(self.texts_max)).unwrap_or_default()
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
