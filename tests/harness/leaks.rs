//! Every secret of a test, and the search for it in all that the gateway let out.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// How many layers of percent-encoding are looked through.
const LAYERS_MAX: usize = 4;

/// Secrets of one gateway, and what was captured of it.
#[derive(Default)]
pub struct Leaks {
    needles: Mutex<Vec<Needle>>,
    captured: Mutex<Vec<(String, Vec<u8>)>>,
}

#[derive(Clone)]
struct Needle {
    /// What it is; the secret itself is not printed, not even by a failing test.
    what: String,
    bytes: Vec<u8>,
}

impl Leaks {
    /// Registers an API key in every form in which it could be met.
    pub fn key(&self, key: &str) {
        // What follows the hint: the hint itself is for people and logs to see.
        let hint_end = key.rfind("live_").or_else(|| key.rfind("test_")).unwrap_or(0) + 9;
        let secret = &key[hint_end..];
        self.add("a key", key.as_bytes());
        self.add("a part of a key", &secret.as_bytes()[..16]);
        self.add("the end of a key", &secret.as_bytes()[secret.len() - 16..]);
        let credentials = STANDARD.encode(format!("{key}:"));
        self.add("a key's Basic credentials", credentials.as_bytes());
        self.add("a part of a key in base64", &credentials.as_bytes()[24..56]);
        self.add("a key's bytes in decimal", decimal(&secret.as_bytes()[..8]).as_bytes());
        self.digest("a key's plain SHA-256", &Sha256::digest(key.as_bytes()));
    }

    /// Registers an admin token or another text that nobody may see.
    pub fn token(&self, what: &str, token: &str) {
        self.add(what, token.as_bytes());
        self.add(&format!("a part of {what}"), &token.as_bytes()[token.len() - 16..]);
    }

    /// Registers a pepper by its 64 hex digits.
    pub fn pepper(&self, hex: &str) {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        self.digest("the pepper", &bytes);
    }

    /// Keeps something the gateway let out.
    pub fn capture(&self, place: &str, bytes: &[u8]) {
        self.captured().push((place.to_owned(), bytes.to_vec()));
    }

    /// The same secrets, and nothing captured but this.
    pub fn with(&self, text: &str) -> Self {
        let needles = self.needles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let leaks = Self { needles: Mutex::new(needles), captured: Mutex::default() };
        leaks.capture("a text", text.as_bytes());
        leaks
    }

    /// Searches everything that was captured, once.
    ///
    /// # Panics
    /// When a secret is found.
    pub fn assert_none(&self) {
        let found = self.found();
        self.captured().clear();
        assert!(found.is_empty(), "secrets leaked: {found:#?}");
    }

    /// What was found, and where.
    pub fn found(&self) -> Vec<String> {
        let needles = self.needles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let index = Index::new(&needles);
        let mut found = Vec::new();
        for (place, bytes) in self.captured().iter() {
            // Any byte of a secret may be percent-encoded, and encoded again.
            let mut layer = Cow::Borrowed(&**bytes);
            for layers in 0..=LAYERS_MAX {
                // The first is enough: what comes before it is no part of a secret and can be printed.
                if let Some((at, needle)) = index.search(&layer) {
                    let before = String::from_utf8_lossy(&layer[at.saturating_sub(120)..at]);
                    let what = &needle.what;
                    found.push(format!("{what} in {place}, encoded {layers}×, after {before:?}"));
                    break;
                }
                match decoded(&layer) {
                    Some(decoded) => layer = Cow::Owned(decoded),
                    None => break,
                }
            }
        }
        found
    }

    fn captured(&self) -> std::sync::MutexGuard<'_, Vec<(String, Vec<u8>)>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest(&self, what: &str, bytes: &[u8]) {
        self.add(&format!("{what}, raw"), bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.add(&format!("{what} in hex"), hex.as_bytes());
        self.add(&format!("{what} in hex"), hex.to_uppercase().as_bytes());
        self.add(&format!("{what} in decimal"), decimal(&bytes[..8]).as_bytes());
    }

    fn add(&self, what: &str, bytes: &[u8]) {
        let needle = Needle { what: what.to_owned(), bytes: bytes.to_vec() };
        self.needles.lock().unwrap_or_else(PoisonError::into_inner).push(needle);
    }

    /// Captures every file below `folder` but those that exist to hold a secret.
    pub fn capture_files(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                self.capture_files(&path);
            } else if !name.starts_with("pepper") && name != "admin.token" {
                let bytes = fs::read(&path).unwrap_or_default();
                self.capture(&format!("the file {name}"), &bytes);
            }
        }
    }
}

/// Without one layer of percent-encoding, if there is any.
fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        decoded.push(escaped.map_or(*first, |(high, low)| high << 4 | low));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    (decoded.len() < bytes.len()).then_some(decoded)
}

/// As `{:?}` writes bytes.
fn decimal(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// Needles by their first two bytes: one pass over megabytes of log finds any of hundreds.
struct Index<'a> {
    by_start: Vec<Vec<&'a Needle>>,
}

impl<'a> Index<'a> {
    fn new(needles: &'a [Needle]) -> Self {
        let mut by_start = vec![Vec::new(); 1 << 16];
        for needle in needles {
            by_start[start(&needle.bytes)].push(needle);
        }
        Self { by_start }
    }

    /// The first needle, and where it is.
    fn search(&self, bytes: &[u8]) -> Option<(usize, &'a Needle)> {
        (0..bytes.len().saturating_sub(1)).find_map(|at| {
            let rest = &bytes[at..];
            let candidates = &self.by_start[start(rest)];
            let found = candidates.iter().find(|needle| rest.starts_with(&needle.bytes));
            found.map(|needle| (at, *needle))
        })
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}
