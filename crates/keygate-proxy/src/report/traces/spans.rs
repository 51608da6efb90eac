//! What is told of a request that was traced: OpenTelemetry's names for HTTP where it has some, ours for
//! the rest. Never a key or a query; what a client sent is masked and bounded.

use std::borrow::Cow;
use std::time::Duration;

use http::header::HOST;
use http::{Method, Version};
use keygate_core::SpanId;
use keygate_telemetry::access_log::{CutShort, shown_address};
use keygate_telemetry::logging::mask_encoded;
use keygate_telemetry::traces::{Attribute, Event, Span, SpanKind};
use pingora::http::RequestHeader;

use super::{Attempt, Ended, Head, Recording};
use crate::context::Context;
use crate::lookup::Waited;
use crate::report::access_log::decision;
use crate::{line, trace};

/// The longest text of a client that is told, in characters.
const TEXT_LENGTH_MAX: usize = 256;

/// The spans of a request.
pub(super) fn of(ctx: &Context, recording: &Recording, ended: &Ended) -> Vec<Span> {
    let began_ns = ended.at_ns.saturating_sub(nanos(ended.took));
    let tell = Telling { ctx, recording, ended, began_ns };
    let mut spans = vec![tell.request()];
    if let Some(decide) = tell.decide() {
        spans.extend(tell.lookups(decide.id));
        spans.push(decide);
    }
    spans.extend(
        (0..).zip(&recording.attempts).map(|(place, attempt)| tell.attempt(place, attempt)),
    );
    spans
}

struct Telling<'a> {
    ctx: &'a Context,
    recording: &'a Recording,
    ended: &'a Ended,
    began_ns: u64,
}

impl Telling<'_> {
    /// All of it, as the client has it.
    fn request(&self) -> Span {
        let (story, route) = (&self.ctx.story, self.ctx.route());
        let mut attributes = Vec::with_capacity(20);
        let mut tell = |attribute| attributes.push(attribute);
        let head = &self.recording.head;
        let name = match route {
            Some(route) => Cow::Owned(format!("{} {}", named(head.method), route.path)),
            None => Cow::Borrowed(named(head.method)),
        };
        tell(Attribute::text("http.request.method", head.method));
        head_attributes(head, &mut tell);
        let is_tls = line::with_client(|client| client.tls().is_some()) == Some(true);
        tell(Attribute::text("url.scheme", if is_tls { "https" } else { "http" }));
        let shown = self.ctx.snapshot.config.access_log.client_address;
        if let Some(client) = story.client.and_then(|client| shown_address(client, shown)) {
            tell(Attribute::text("client.address", client.to_string()));
        }
        if let Some(route) = route {
            tell(Attribute::text("http.route", route.path.to_string()));
            tell(Attribute::text("keygate.route", route.name.to_string()));
        }
        self.identity(&mut tell);
        if let Some(status) = self.ended.status {
            tell(Attribute::number("http.response.status_code", status));
        }
        let why = self.why();
        let is_failure = why.is_some() && self.is_failure();
        if let Some(why) = why {
            tell(Attribute::text("error.type", why));
        }
        let parent = &story.trace;
        Span {
            parent: (!parent.is_new).then_some(parent.parent.span),
            is_parent_remote: !parent.is_new,
            kind: SpanKind::Server,
            name,
            attributes,
            is_failure,
            ..self.span(self.recording.span, Duration::ZERO, self.ended.took)
        }
    }

    /// Who asked, and what was decided.
    fn identity(&self, tell: &mut impl FnMut(Attribute)) {
        let (ctx, story) = (self.ctx, &self.ctx.story);
        let admitted = ctx.admitted.as_ref();
        let key = admitted.and_then(|admitted| admitted.permit.key()).or(story.refused.as_deref());
        if let Some(key) = key {
            tell(Attribute::text("keygate.key.id", key.id.to_string()));
            tell(Attribute::text("keygate.app.id", key.app.to_string()));
            tell(Attribute::text("keygate.account.id", key.account.to_string()));
        }
        let decision = decision(ctx, self.ended.status);
        tell(Attribute::text("keygate.decision", decision.name()));
        if let Some(id) = ctx.request_id.as_ref().and_then(|id| id.to_str().ok()) {
            tell(Attribute::text("keygate.request_id", id.to_owned()));
        }
    }

    /// Whether what went wrong was an upstream's fault or ours. What was a client's is no failure of
    /// whoever serves it, as OpenTelemetry has it, and a key that ends is what we are for.
    fn is_failure(&self) -> bool {
        match (self.ended.cut, self.ctx.story.code) {
            (Some(cut), _) => match cut {
                CutShort::TotalTimeout | CutShort::Aborted => true,
                CutShort::Revoked
                | CutShort::Expired
                | CutShort::SlowClient
                | CutShort::ClientLeft => false,
            },
            (None, Some(code)) => code.status() >= 500,
            // Without an answer, or its end.
            (None, None) => true,
        }
    }

    /// Why it went wrong, if it did. A refusal is not wrong.
    fn why(&self) -> Option<Cow<'static, str>> {
        if let Some(cut) = self.ended.cut {
            return Some(cut.name().into());
        }
        let (is_admitted, code) = (self.ctx.admitted.is_some(), self.ctx.story.code);
        match (code, self.ended.status) {
            (Some(code), _) if is_admitted || code.status() >= 500 => Some(code.as_str().into()),
            (None, Some(status)) if status >= 500 => Some(status.to_string().into()),
            (None, None) => Some("no_answer".into()),
            // The answer broke off.
            (Some(_) | None, _) => {
                let failed = self.recording.attempts.last()?.failed.as_ref()?;
                Some(failed.why.into())
            }
        }
    }

    /// From the beginning to the permit or denial.
    fn decide(&self) -> Option<Span> {
        // A request that was cut before has been waiting for it to the end.
        let cut = || self.ended.cut.map(|_| self.ended.took);
        let end = self.ctx.story.decision.or_else(cut)?;
        Some(Span {
            name: "keygate.decide".into(),
            parent: Some(self.recording.span),
            ..self.span(trace::new_span(), Duration::ZERO, end)
        })
    }

    /// Each waiting for the store.
    fn lookups(&self, parent: SpanId) -> impl Iterator<Item = Span> {
        let loads = self.ctx.story.lookup.into_iter().flat_map(Waited::loads);
        loads.map(move |load| {
            let since = load.since.saturating_duration_since(self.ctx.started);
            Span {
                name: "keygate.lookup".into(),
                parent: Some(parent),
                ..self.span(trace::new_span(), since, since.saturating_add(load.took))
            }
        })
    }

    fn attempt(&self, place: i64, attempt: &Attempt) -> Span {
        let story = &self.ctx.story;
        let mut attributes = Vec::with_capacity(10);
        let mut tell = |attribute| attributes.push(attribute);
        tell(Attribute::text("http.request.method", self.recording.head.method));
        if let Some(upstream) = self.ctx.upstream() {
            tell(Attribute::text("keygate.upstream", upstream.settings().name.to_string()));
        }
        if let Some(target) = attempt.target {
            tell(Attribute::text("server.address", target.ip().to_string()));
            tell(Attribute::number("server.port", target.port()));
        }
        tell(Attribute::number("keygate.attempt", place + 1));
        if place > 0 {
            tell(Attribute::number("http.request.resend_count", place));
        }
        let (connected, end, mut why) = match &attempt.failed {
            Some(failed) => (failed.connected, failed.at, Some(failed.why.into())),
            None => (story.connected, self.ended.took, None),
        };
        // Whoever began to answer had the request last.
        let is_last = place + 1 == i64::try_from(self.recording.attempts.len()).unwrap_or_default();
        let first_byte = story.first_byte.filter(|_| is_last);
        if let (Some(status), Some(_)) = (self.ctx.status, first_byte) {
            let status = status.as_u16();
            tell(Attribute::number("http.response.status_code", status));
            why = why.or_else(|| (status >= 400).then(|| status.to_string().into()));
        } else if let (Some(cut), None) = (self.ended.cut, &attempt.failed) {
            why = Some(cut.name().into());
        }
        if let Some(why) = &why {
            tell(Attribute::text("error.type", Cow::clone(why)));
        }
        let event = |name, at: Option<Duration>| Some(Event { name, at_ns: self.at(at?) });
        let events = [event("connected", connected), event("first_byte", first_byte)];
        Span {
            name: "keygate.upstream".into(),
            parent: Some(self.recording.span),
            kind: SpanKind::Client,
            attributes,
            events: events.into_iter().flatten().collect(),
            is_failure: why.is_some(),
            ..self.span(attempt.span, attempt.began, end)
        }
    }

    fn span(&self, id: SpanId, begin: Duration, end: Duration) -> Span {
        Span {
            trace: self.ctx.story.trace.trace_id(),
            id,
            parent: None,
            is_parent_remote: false,
            kind: SpanKind::Internal,
            name: Cow::Borrowed(""),
            begin_ns: self.at(begin),
            end_ns: self.at(end.max(begin)),
            attributes: Vec::new(),
            events: Vec::new(),
            is_failure: false,
        }
    }

    fn at(&self, since: Duration) -> u64 {
        self.began_ns.saturating_add(nanos(since))
    }
}

impl Head {
    pub(super) fn of(head: &RequestHeader) -> Self {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = head.uri.authority().map(|authority| authority.as_str()).or(host);
        // Before it there may be a user and a password.
        let host = host.and_then(|host| host.rsplit('@').next());
        Self {
            method: method(&head.method),
            version: head.version,
            host: host.map(bounded).filter(|host| !host.is_empty()),
            path: bounded(head.uri.path()),
        }
    }
}

fn head_attributes(head: &Head, tell: &mut impl FnMut(Attribute)) {
    tell(Attribute::text("url.path", head.path.clone()));
    if let Some(host) = &head.host {
        let parts = host.rsplit_once(':');
        let port = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        tell(Attribute::text("server.address", port.map_or(&**host, |(host, _)| host).to_owned()));
        if let Some((_, port)) = port {
            tell(Attribute::number("server.port", port));
        }
    }
    if let Some(version) = version(head.version) {
        tell(Attribute::text("network.protocol.version", version));
    }
}

/// Masked before it is cut: half a key would not look like one.
fn bounded(text: &str) -> String {
    mask_encoded(text).chars().take(TEXT_LENGTH_MAX).collect()
}

const OTHER_METHOD: &str = "_OTHER";

/// Any other word is a client's to choose.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER_METHOD)
}

/// As spans are named by it.
fn named(method: &'static str) -> &'static str {
    if method == OTHER_METHOD { "HTTP" } else { method }
}

fn version(version: Version) -> Option<&'static str> {
    [(Version::HTTP_10, "1.0"), (Version::HTTP_11, "1.1"), (Version::HTTP_2, "2")]
        .into_iter()
        .find_map(|(known, text)| (known == version).then_some(text))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";

    fn head(target: &str, host: Option<&str>) -> Head {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.set_uri(target.parse::<Uri>().unwrap());
        if let Some(host) = host {
            head.insert_header(HOST, host).unwrap();
        }
        Head::of(&head)
    }

    #[test]
    fn a_key_in_a_path_or_a_host_is_hidden_whichever_of_its_letters_are_escaped() {
        let escapes = [
            ("sk_live_", "sk_live_"),
            ("sk", "%73k"),
            ("live", "liv%65"),
            ("fHD", "f%48D"),
            ("fHD", "f%2548D"),
        ];
        for (plain, escaped) in escapes {
            let key = KEY.replacen(plain, escaped, 1);
            let Head { path, host, .. } = head(&format!("/v1/{key}/x"), Some(&key));
            for text in [path, host.unwrap()] {
                assert!(!text.contains("thX6LZ") && !text.contains("1rz4QK"), "{text}");
                assert!(text.contains("111") && text.contains('…'), "{text}");
            }
        }
        let long = format!("/{}{KEY}", "a".repeat(TEXT_LENGTH_MAX - 30));
        assert!(!head(&long, None).path.contains("thX6LZ"));
    }

    #[test]
    fn a_password_before_a_host_is_not_told() {
        for target in ["http://user:pass@a.test:8443/x", "http://us%40er:p%3Ass@a.test:8443/x"] {
            assert_eq!(head(target, None).host.as_deref(), Some("a.test:8443"));
        }
        assert_eq!(head("/x", Some("user:p@ss@a.test")).host.as_deref(), Some("a.test"));
        assert_eq!(head("/x", Some("user:pass@")).host, None);
    }
}
