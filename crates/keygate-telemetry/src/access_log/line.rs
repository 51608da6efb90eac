//! A record as its line: one JSON object. Nothing that a client or an operator wrote gets into it but
//! through the mask.

use draft::{Draft, Room};
use fields::{Fields, Known, field, known, name, text_name};
use jiff::Timestamp;
use keygate_core::UnixMillis;

use super::query;
use super::record::{CutShort, Decision, Holder, Protocol, Record, Text, Times};
use crate::mask::{mask_encoded, may_hold_secret};

mod draft;
mod fields;

/// The longest line. What a pipe takes at once, so that whoever else writes to it does so before or
/// after the line.
pub(super) const LINE_BYTES_MAX: usize = 4_096;
/// The length of a request's name that is of our making.
const REQUEST_ID_BYTES: usize = 32;
/// The most that is kept of any other one.
const REQUEST_ID_BYTES_MAX: usize = 128;
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
        let mut left = line.write(draft.room());
        for texts_max in [SHORT_TEXT_BYTES_MAX, 0] {
            if draft.written(left).is_none() {
                line.shorten(texts_max);
                left = line.write(draft.room());
            }
        }
        out.extend_from_slice(draft.written(left).unwrap_or_default());
    }
}

/// How lines of the same second begin.
#[derive(Default)]
struct Beginning {
    second: u64,
    text: Option<[u8; BEGINNING.len()]>,
}

const BEGINNING: &str = "{\"log\":\"access\",\"time\":\"2026-01-01T00:00:00.000Z\"";
/// What stands behind its milliseconds.
const BEHIND_MILLIS: usize = "Z\"".len();

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
    // It ends in a `Z` where the milliseconds begin.
    let place = text.iter_mut().skip("{\"log\":\"access\",\"time\":\"".len());
    let second = time.bytes().take("2026-01-01T00:00:00".len());
    place.zip(second).for_each(|(place, byte)| *place = byte);
    text
}

/// One line that is being written. `deploy/access_log.md` says what its fields mean.
struct Line<'a> {
    record: &'a Record<'a>,
    /// What it begins with, but for the milliseconds of its time.
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

    /// All fields in their order. What is always there is `null` if it is not known. How much room is left.
    fn write(&self, out: Room<'_>) -> usize {
        let record = self.record;
        let mut fields = Fields::begin(out, self.beginning, record.began, BEHIND_MILLIS);
        self.write_request_id(&mut fields);
        match record.route {
            Some(route) => fields.named(name!("route"), route),
            None => fields.known(known!(",\"route\":null")),
        }
        self.text(&mut fields, text_name!("method"), Text::Method);
        self.text(&mut fields, text_name!("host"), Text::Host);
        self.text(&mut fields, text_name!("path"), Text::Path);
        if let Some(query) = &self.query {
            fields.text(text_name!("query"), self.cut(query));
        }
        self.write_outcome(&mut fields);
        if let Some(holder) = &record.holder {
            self.write_holder(&mut fields, holder);
        }
        if let Some(client) = record.client {
            fields.address(text_name!("client"), client);
        }
        if !record.texts.of_kind(Text::UserAgent).is_empty() {
            self.text(&mut fields, text_name!("user_agent"), Text::UserAgent);
        }
        fields.number(name!("bytes_in"), record.bytes_in);
        fields.number(name!("bytes_out"), record.bytes_out);
        self.write_times(&mut fields);
        self.write_sending(&mut fields);
        fields.end()
    }

    #[inline]
    fn write_request_id(&self, fields: &mut Fields<'_>) {
        let id = self.record.request_id;
        let id = id.get(..REQUEST_ID_BYTES_MAX).unwrap_or(id);
        let name = text_name!("request_id");
        let of_ours: Option<&[u8; REQUEST_ID_BYTES]> = id.as_array();
        match of_ours.filter(|id| is_hex(id)) {
            // Nearly always. There is nothing to hide in it, and it is short.
            Some(id) => fields.id(name, id),
            None if id.is_empty() => fields.null(name),
            None => self.odd_text(fields, name, id),
        }
    }

    /// By which protocol it came, and what came of it.
    #[inline]
    fn write_outcome(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        match record.protocol {
            Protocol::Http10 => fields.known(field!("protocol", "HTTP/1.0")),
            Protocol::Http11 => fields.known(field!("protocol", "HTTP/1.1")),
            Protocol::Http2 => fields.known(field!("protocol", "HTTP/2")),
            Protocol::Unknown => {}
        }
        if record.is_tls {
            fields.known(known!(",\"tls\":true"));
        }
        match record.status {
            Some(status) => fields.number(name!("status"), status.into()),
            None => fields.known(known!(",\"status\":null")),
        }
        if record.decision == Decision::Admitted {
            fields.known(field!("decision", "admitted"));
        } else {
            fields.text(text_name!("decision"), record.decision.name());
        }
        if let Some(code) = record.failure {
            fields.text(text_name!("reason"), code.as_str());
        }
        if let Some(cut) = record.cut {
            fields.text(text_name!("cut"), cut.name());
        }
    }

    #[inline]
    fn write_holder(&self, fields: &mut Fields<'_>, holder: &Holder<'_>) {
        fields.id(text_name!("key_id"), &holder.key.text());
        match holder.hint_of_ours() {
            Some(hint) => fields.id(text_name!("hint"), hint),
            None if holder.hint.is_empty() => {}
            None => fields.text(text_name!("hint"), self.cut(&mask_encoded(holder.hint))),
        }
        fields.id(text_name!("app_id"), &holder.app.text());
        fields.id(text_name!("account_id"), &holder.account.text());
    }

    #[inline]
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
    #[inline]
    fn write_sending(&self, fields: &mut Fields<'_>) {
        let record = self.record;
        if let Some(upstream) = record.upstream {
            fields.named(name!("upstream"), upstream);
        }
        if let Some(target) = record.target {
            fields.socket(text_name!("target"), target);
        }
        if record.attempts > 0 {
            fields.number(name!("attempts"), record.attempts as u64);
        }
        if let Some(trace) = record.trace {
            fields.id(text_name!("trace_id"), &trace.text());
        }
        if let Some(span) = record.span {
            fields.id(text_name!("span_id"), &span.text());
        }
    }

    /// One of the head's texts, or that it has none.
    #[inline(never)]
    fn text(&self, fields: &mut Fields<'_>, name: &Known, which: Text) {
        let texts = self.record.texts;
        let text = texts.of_kind(which);
        if text.is_empty() {
            fields.null(name);
        } else if !self.is_plain {
            self.odd_text(fields, name, text);
        } else if let Some(short) = texts.short(which) {
            fields.short(name, short);
        } else {
            fields.quoted(name, text);
        }
    }

    /// A text that may have something to hide or to escape, or be none.
    #[inline(never)]
    fn odd_text(&self, fields: &mut Fields<'_>, name: &Known, text: &[u8]) {
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

/// Whether these are hexadecimal digits. Looks at many bytes at once.
#[inline]
fn is_hex<const LENGTH: usize>(text: &[u8; LENGTH]) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() | (b'a'..=b'f').contains(&byte);
    text.iter().fold(true, |all, &byte| all & is_digit(byte))
}

#[cfg(test)]
mod tests;
