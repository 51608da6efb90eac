//! The corpus's files as cases. README.md beside them says how they are written.

use std::path::Path;
use std::{fs, iter};

use crate::harness::h2_raw;

pub struct Case {
    pub name: String,
    pub wire: Wire,
    /// What the client sends, with `{key}` where a key belongs.
    pub sent: Vec<u8>,
    /// Whether it sends nothing more, and says so.
    pub ends: bool,
    pub expected: Vec<Expected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    H1,
    H2,
}

/// What becomes of what was sent: one for each request in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The gateway answers with this status and code; the upstream hears nothing.
    Refused(u16, String),
    /// Refused somehow: by any problem, or by an HTTP/2 stream's or connection's end.
    RefusedSomehow,
    /// The connection ends, without another answer. The upstream hears nothing.
    Closed,
    /// The body breaks off or is no body: the upstream never sees an end of it.
    Cut,
    Forwarded(Forwarded),
    /// Forwarded like this, or refused: what came behind it may be seen in time. Maybe the upstream has
    /// it when the client is answered already, so no other case has its target.
    Maybe(Forwarded),
}

/// A request as the upstream sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
}

/// What takes the place of `{key}`.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'a> {
    Key(&'a str),
    /// The line or field is left out.
    None,
}

/// Every case of every file, by the files' names.
pub fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    let cases: Vec<Case> = files.iter().flat_map(|path| of_file(path)).collect();
    for (at, case) in cases.iter().enumerate() {
        assert!(!cases[..at].iter().any(|other| other.name == case.name), "two of {}", case.name);
    }
    cases
}

fn of_file(path: &Path) -> Vec<Case> {
    let (file, text) = (path.file_stem().unwrap().to_str().unwrap(), fs::read_to_string(path));
    let text = text.unwrap();
    let (_, cases) = text.split_once("\n== ").unwrap_or_else(|| panic!("{file} has no case"));
    cases.split("\n== ").map(|case| of_text(file, case)).collect()
}

fn of_text(file: &str, text: &str) -> Case {
    let (head, sent) = text.split_once("\n--\n").unwrap_or_else(|| panic!("no -- in {text}"));
    let (name, settings) = head.split_once('\n').unwrap_or_else(|| panic!("no settings: {head}"));
    let values = |name: &str| {
        let of_line = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
        settings.lines().filter_map(of_line).collect::<Vec<_>>()
    };
    for needed in ["why", "rfc", "expect"] {
        assert!(!values(needed).is_empty(), "{name} has no {needed}");
    }
    let wire = if file.starts_with("h2") { Wire::H2 } else { Wire::H1 };
    Case {
        name: format!("{file}/{name}"),
        wire,
        sent: sent.as_bytes().to_vec(),
        ends: !values("ends").is_empty(),
        expected: values("expect").iter().map(|line| expected(line)).collect(),
    }
}

fn expected(line: &str) -> Expected {
    if let Some(line) = line.strip_prefix("maybe ") {
        return Expected::Maybe(forwarded(line));
    }
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["refused"] => Expected::RefusedSomehow,
        ["closed"] => Expected::Closed,
        ["cut"] => Expected::Cut,
        [status, code] if status.parse::<u16>().is_ok() => {
            Expected::Refused(status.parse().unwrap(), code.into())
        }
        _ => Expected::Forwarded(forwarded(line)),
    }
}

fn forwarded(line: &str) -> Forwarded {
    let (method, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no target: {line}"));
    let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
    Forwarded { method: method.into(), target: target.into(), body: unescape(body) }
}

impl Case {
    pub fn has_credential(&self) -> bool {
        self.sent.windows(5).any(|bytes| bytes == b"{key}")
    }

    /// The bytes on the wire.
    pub fn bytes(&self, credential: Credential<'_>) -> Vec<u8> {
        let text = String::from_utf8(self.sent.clone()).unwrap();
        let with_key = |line: &str| match credential {
            Credential::Key(key) => Some(line.replace("{key}", key)),
            // A target stays, without the key in it.
            Credential::None if line.contains(" HTTP/1") => Some(line.replace("{key}", "")),
            Credential::None => (!line.contains("{key}")).then(|| line.to_owned()),
        };
        let lines: Vec<String> = text.lines().filter_map(with_key).collect();
        match self.wire {
            Wire::H1 => lines.iter().flat_map(|line| unescape(line)).collect(),
            Wire::H2 => frames(&lines),
        }
    }
}

/// The frames of an HTTP/2 case: each begins with a line `> KIND FLAG… stream=N`.
fn frames(lines: &[String]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = lines;
    while let Some((first, after)) = rest.split_first() {
        let words = first.strip_prefix("> ").unwrap_or_else(|| panic!("no frame: {first}"));
        let length = after.iter().position(|line| line.starts_with("> ")).unwrap_or(after.len());
        let (payload, next) = after.split_at(length);
        all.extend(frame(words, payload));
        rest = next;
    }
    all
}

fn frame(words: &str, payload: &[String]) -> Vec<u8> {
    let mut words = words.split(' ');
    let kind = words.next().unwrap();
    let kind = match kind {
        "DATA" => h2_raw::DATA,
        "HEADERS" => h2_raw::HEADERS,
        "RST_STREAM" => h2_raw::RST_STREAM,
        "SETTINGS" => h2_raw::SETTINGS,
        "CONTINUATION" => 9,
        other => other.parse().unwrap_or_else(|_| panic!("no kind of frame: {other}")),
    };
    let (mut flags, mut stream) = (0, 1);
    for word in words {
        match (word, word.strip_prefix("stream=")) {
            ("END_STREAM", _) => flags |= h2_raw::END_STREAM,
            ("END_HEADERS", _) => flags |= h2_raw::END_HEADERS,
            ("PADDED", _) => flags |= 8,
            ("PRIORITY", _) => flags |= 0x20,
            (_, Some(number)) => stream = number.parse().unwrap(),
            (other, None) => panic!("no flag: {other}"),
        }
    }
    let payload = payload.iter().filter(|line| !line.is_empty());
    let payload = match kind {
        h2_raw::HEADERS | 9 => payload.flat_map(|line| field(line)).collect(),
        _ => payload.flat_map(|line| unescape(line)).collect::<Vec<u8>>(),
    };
    h2_raw::frame(kind, flags, stream, &payload)
}

/// `name: value`, where a name may begin with a colon; or, after `!`, bytes of HPACK.
fn field(line: &str) -> Vec<u8> {
    if let Some(bytes) = line.strip_prefix('!') {
        return unescape(bytes);
    }
    let at = line.char_indices().skip(1).map(|(at, _)| at).find(|&at| line[at..].starts_with(':'));
    let at = at.unwrap_or_else(|| panic!("no field: {line}"));
    let (name, value) = (&line[..at], &line[at + 1..]);
    h2_raw::field_of(&unescape(name), &unescape(value.strip_prefix(' ').unwrap_or(value)))
}

/// Text with `\r`, `\n`, `\t`, `\\`, `\xNN`, and `\{TEXT*COUNT}` for what is repeated.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.bytes());
        let mark = after.chars().next().unwrap_or_else(|| panic!("a lone backslash: {text}"));
        rest = &after[1..];
        match mark {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '{' => {
                let (repeated, next) = rest.split_once('}').unwrap();
                let (piece, count) = repeated.rsplit_once('*').unwrap();
                let piece = unescape(piece);
                iter::repeat_n(piece, count.parse().unwrap()).for_each(|piece| bytes.extend(piece));
                rest = next;
            }
            other => panic!("no escape: \\{other} in {text}"),
        }
    }
    bytes.extend(rest.bytes());
    bytes
}
