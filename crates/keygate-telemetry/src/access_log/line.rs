//! A record as its line: one JSON object. Nothing that a client or an operator wrote gets into it but
//! through the mask.

use draft::Draft;
use fields::{Fields, name};
use jiff::Timestamp;
use keygate_core::UnixMillis;

use super::query;
use super::record::{CutShort, Decision, Holder, Name, Protocol, Record, Text, Times};
use crate::mask::{mask_encoded, may_hold_secret};

mod draft;
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
    beginning: Beginning,
    /// Where a line is made: a small place that stays in the processor's cache.
    draft: Draft,
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
    pub(super) fn add(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let Self { key_params, beginning, draft } = self;
        let mut line = Line::new(record, beginning.of(record.began), key_params);
        line.write(draft);
        for texts_max in [SHORT_TEXT_BYTES_MAX, 0] {
            if draft.is_over() {
                line.shorten(texts_max);
                line.write(draft);
            }
        }
        out.extend_from_slice(draft.written());
    }
}

/// How lines of the same second begin.
#[derive(Default)]
struct Beginning {
    second: u64,
    text: Option<[u8; BEGINNING.len()]>,
}

const BEGINNING: &str = "{\"log\":\"access\",\"time\":\"2026-01-01T00:00:00";

/// What is not known.
const NULL: &[u8] = b"null";

impl Beginning {
    fn of(&mut self, time: UnixMillis) -> &[u8; BEGINNING.len()] {
        let second = time.0 / 1_000;
        if second != self.second {
            self.text = None;
            self.second = second;
        }
        self.text.get_or_insert_with(|| beginning(second))
    }
}

fn beginning(second: u64) -> [u8; BEGINNING.len()] {
    let mut text = [0; BEGINNING.len()];
    text.copy_from_slice(BEGINNING.as_bytes());
    let time = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok());
    let time = time.unwrap_or_default().to_string();
    let place = text.iter_mut().skip(BEGINNING.len() - "2026-01-01T00:00:00".len());
    place.zip(time.bytes()).for_each(|(place, byte)| *place = byte);
    text
}

/// One line that is being written. `deploy/access_log.md` says what its fields mean.
struct Line<'a> {
    record: &'a Record<'a>,
    /// What it begins with, up to the milliseconds of its time.
    beginning: &'a [u8; BEGINNING.len()],
    query: Option<String>,
    /// Whether the head's texts are shown as they are.
    is_plain: bool,
    /// The most bytes that are shown of a text.
    texts_max: usize,
}

impl<'a> Line<'a> {
    fn new(
        record: &'a Record<'_>,
        beginning: &'a [u8; BEGINNING.len()],
        key_params: &[Box<str>],
    ) -> Self {
        let texts = &record.texts;
        let query = texts.of_kind(Text::Query);
        let query = if query.is_empty() { None } else { shown_query(query, record, key_params) };
        Self { record, beginning, query, is_plain: texts.are_plain(), texts_max: usize::MAX }
    }

    /// From now on there is so much of each text at most.
    fn shorten(&mut self, texts_max: usize) {
        self.is_plain = false;
        self.texts_max = texts_max;
    }

    /// All fields in their order. What is always there is `null` if it is not known.
    fn write(&self, out: &mut Draft) {
        let record = self.record;
        let mut fields = Fields::begin(out, self.beginning);
        fields.end_moment(record.began);
        self.text_or_null(&mut fields, name!("request_id"), Text::RequestId);
        fields.json(name!("route"), record.route.map_or(NULL, Name::json));
        self.text_or_null(&mut fields, name!("method"), Text::Method);
        self.text_or_null(&mut fields, name!("host"), Text::Host);
        self.text_or_null(&mut fields, name!("path"), Text::Path);
        if let Some(query) = &self.query {
            fields.text(name!("query"), self.cut(query));
        }
        self.write_outcome(&mut fields);
        if let Some(holder) = &record.holder {
            self.write_holder(&mut fields, holder);
        }
        if let Some(client) = record.client {
            fields.address(name!("client"), client);
        }
        if !record.texts.of_kind(Text::UserAgent).is_empty() {
            self.text(&mut fields, name!("user_agent"), Text::UserAgent);
        }
        fields.number(name!("bytes_in"), record.bytes_in);
        fields.number(name!("bytes_out"), record.bytes_out);
        self.write_times(&mut fields);
        self.write_sending(&mut fields);
        fields.end();
    }

    /// By which protocol it came, and what came of it.
    fn write_outcome(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        if let Some(protocol) = record.protocol.name() {
            fields.word(name!("protocol"), protocol);
        }
        if record.is_tls {
            fields.json(name!("tls"), b"true");
        }
        match record.status {
            Some(status) => fields.number(name!("status"), status.into()),
            None => fields.json(name!("status"), NULL),
        }
        fields.word(name!("decision"), record.decision.name());
        if let Some(code) = record.failure {
            fields.word(name!("reason"), code.as_str());
        }
        if let Some(cut) = record.cut {
            fields.word(name!("cut"), cut.name());
        }
    }

    fn write_holder(&self, fields: &mut Fields<'_>, holder: &Holder<'_>) {
        fields.id(name!("key_id"), &holder.key.text());
        if holder.has_hint_of_ours() {
            fields.quoted(name!("hint"), holder.hint.as_bytes());
        } else if !holder.hint.is_empty() {
            fields.text(name!("hint"), self.cut(&mask_encoded(holder.hint)));
        }
        fields.id(name!("app_id"), &holder.app.text());
        fields.id(name!("account_id"), &holder.account.text());
    }

    fn write_times(&self, fields: &mut Fields<'_>) {
        let Times { total, decision, lookup, connect, first_byte } = self.record.times;
        fields.millis(name!("total_ms"), total);
        if let Some(decision) = decision {
            fields.millis(name!("decision_ms"), decision);
        }
        if let Some(lookup) = lookup {
            fields.millis(name!("lookup_ms"), lookup);
        }
        if let Some(connect) = connect {
            fields.millis(name!("connect_ms"), connect);
        }
        if let Some(first_byte) = first_byte {
            fields.millis(name!("first_byte_ms"), first_byte);
        }
    }

    /// Whom it was sent to, and as what.
    fn write_sending(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        if let Some(upstream) = record.upstream {
            fields.json(name!("upstream"), upstream.json());
        }
        if let Some(target) = record.target {
            fields.socket(name!("target"), target);
        }
        if record.attempts > 0 {
            fields.number(name!("attempts"), record.attempts as u64);
        }
        if let Some(trace) = record.trace {
            fields.id(name!("trace_id"), &trace.text());
        }
        if let Some(span) = record.span {
            fields.id(name!("span_id"), &span.text());
        }
    }

    #[inline]
    fn text_or_null<const NAME: usize>(
        &self,
        fields: &mut Fields<'_>,
        name: &[u8; NAME],
        which: Text,
    ) {
        if self.record.texts.of_kind(which).is_empty() {
            fields.json(name, NULL);
        } else {
            self.text(fields, name, which);
        }
    }

    #[inline]
    fn text<const NAME: usize>(&self, fields: &mut Fields<'_>, name: &[u8; NAME], which: Text) {
        let text = self.record.texts.of_kind(which);
        if self.is_plain {
            fields.quoted(name, text);
        } else {
            self.odd_text(fields, name, text);
        }
    }

    /// A text that may have something to hide or to escape, or be none.
    #[cold]
    fn odd_text<const NAME: usize>(&self, fields: &mut Fields<'_>, name: &[u8; NAME], text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        if may_hold_secret(&text) {
            fields.text(name, self.cut(&mask_encoded(&text)));
        } else {
            fields.text(name, self.cut(&text));
        }
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        text.get(..text.floor_char_boundary(self.texts_max)).unwrap_or_default()
    }
}

fn shown_query(query: &[u8], record: &Record<'_>, key_params: &[Box<str>]) -> Option<String> {
    query::shown(&String::from_utf8_lossy(query), record.query, key_params)
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
