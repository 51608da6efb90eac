//! Cuts keys and admin tokens down to their hint, in any text and at any place in it.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::LazyLock;

use regex::Regex;

mod encoded;

pub use encoded::mask_encoded;
pub(crate) use encoded::{may_begin_secret, may_hold_secret, unescaped};

/// A longer line is cut here: a writer that never ends its line must not fill the memory.
const LINE_LENGTH_MAX: usize = 256 * 1024;

/// What begins as a key or token of ours does, and goes on past its hint. No boundary is asked for
/// before it (`%3Dsk_live_…` holds a key), no length after it (half a key is too much to show), and
/// `_` and `-` belong to it, so that a mistyped key is hidden to its end. `%5F` is a `_` that was
/// escaped for a URL, `%255F` one that was escaped twice.
#[expect(clippy::expect_used, reason = "the pattern is a constant, and every test uses it")]
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    const LINE: &str = "(?:_|%(?:25)*5[Ff])";
    Regex::new(&format!(
        "((?:[spr]k{LINE}(?:live|test)|kgat?){LINE}[0-9A-Za-z_-]{{4}})(?:[0-9A-Za-z-]|{LINE})+"
    ))
    .expect("the pattern is well formed")
});

/// The text with every key and admin token cut to its hint and `…`. Borrows when there is none.
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    SECRET.replace_all(text, "${1}…")
}

/// Masks whole lines on their way to `inner`. Holds a line back until it ends, or until the writer
/// is flushed or dropped, so that a secret in several pieces is still seen as one.
pub(crate) struct MaskingWriter<W: Write> {
    inner: W,
    line: Vec<u8>,
}

impl<W: Write> MaskingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, line: Vec::new() }
    }

    /// Writes what is held back. What could not be written is gone: it must not pile up.
    fn write_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        self.inner.write_all(mask(&String::from_utf8_lossy(&line)).as_bytes())
    }

    fn hold(&mut self, part: &[u8]) {
        let room = LINE_LENGTH_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

impl<W: Write> Write for MaskingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.hold(end);
                    self.line.push(b'\n');
                    self.write_line()?;
                }
                None => self.hold(part),
            }
        }
        Ok(bytes.len())
    }

    /// Ends the line that is held back, since what follows cannot be masked together with it.
    fn flush(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            self.write_line()?;
        }
        self.inner.flush()
    }
}

impl<W: Write> Drop for MaskingWriter<W> {
    fn drop(&mut self) {
        if let Err(_broken) = self.flush() {
            // There is nowhere left to say that the log cannot be written.
        }
    }
}

#[cfg(test)]
mod tests {
    use keygate_core::key::MintedKey;
    use keygate_core::{Environment, KeyKind, Pepper};
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Iterator<Item = (String, String)> {
        let pepper = Pepper::new(&[7; 32]);
        let brands = [None, Some("acme".parse().unwrap()), Some("k9".parse().unwrap())];
        let kinds = [KeyKind::Secret, KeyKind::Publishable, KeyKind::Restricted];
        let mut all = Vec::new();
        for brand in brands {
            for kind in kinds {
                for environment in [Environment::Live, Environment::Test] {
                    let entropy = [u8::try_from(all.len()).unwrap() + 1; 32];
                    let key = MintedKey::mint(kind, environment, brand.as_ref(), &pepper, &entropy);
                    let hint = key.hint.clone();
                    all.push((key.reveal().to_string(), hint));
                }
            }
        }
        all.into_iter()
    }

    const SURROUNDINGS: [(&str, &str); 9] = [
        ("", ""),
        ("Authorization: Bearer ", ""),
        (r#"{"fields":{"path":"/v1/"#, r#"/orders"}}"#),
        ("/v1/orders?api_key=", "&page=2"),
        ("/v1/orders?next=%2Fx%3Fk%3D", "%26page=2"),
        ("Bearer", "."),
        ("key=\\\"", "\\\""),
        ("é", "é"),
        ("http://", ":@host/"),
    ];

    #[test]
    fn a_key_of_any_kind_is_cut_to_its_hint_wherever_it_stands() {
        for (key, hint) in keys() {
            for (before, after) in SURROUNDINGS {
                let masked = mask(&format!("{before}{key}{after}")).into_owned();
                assert_eq!(masked, format!("{before}{hint}…{after}"));
            }
        }
    }

    #[test]
    fn a_key_that_was_cut_short_or_mistyped_is_hidden_to_its_end() {
        for (key, hint) in keys() {
            for length in hint.len() + 1..key.len() {
                assert_eq!(mask(&key[..length]), format!("{hint}…"));
            }
            assert_eq!(mask(&format!("{key}{key}")), format!("{hint}…"));
            assert_eq!(mask(&format!("{hint}_-{key}")), format!("{hint}…"));
        }
    }

    #[test]
    fn a_key_that_was_escaped_for_a_url_is_masked_too() {
        for (key, hint) in keys() {
            for line in ["%5F", "%5f", "%255F"] {
                let masked = mask(&key.replace('_', line)).into_owned();
                assert_eq!(masked, format!("{}…", hint.replace('_', line)));
            }
        }
        assert_eq!(mask("kga%5F0123456789"), "kga%5F0123…");
    }

    #[test]
    fn a_hint_may_be_seen_and_masking_twice_changes_nothing() {
        for (key, hint) in keys() {
            assert_eq!(mask(&hint), hint);
            let masked = mask(&key).into_owned();
            assert_eq!(mask(&masked), masked);
        }
    }

    #[test]
    fn an_admin_token_is_cut_to_its_first_characters() {
        let token = format!("kga_{}", "0123456789abcdef".repeat(4));
        assert_eq!(mask(&token), "kga_0123…");
        assert_eq!(mask(&format!("{{\"t\":\"{token}\"}}")), "{\"t\":\"kga_0123…\"}");
        let made = format!("kgat_{}", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG");
        assert_eq!(mask(&made), "kgat_0123…");
        assert_eq!(mask(&format!("/x?t={}", made.replace('_', "%5F"))), "/x?t=kgat%5F0123…");
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in
            ["", "key_01JD2K8Q0000000000000000", "sk_live_", "task_list", "sk_prod_abcdefgh"]
        {
            assert!(matches!(mask(text), Cow::Borrowed(same) if same == text));
        }
    }

    fn written(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = MaskingWriter::new(&mut out);
        for part in parts {
            writer.write_all(part).unwrap();
        }
        drop(writer);
        out
    }

    #[test]
    fn a_line_without_end_is_cut_at_the_bound_and_still_masked() {
        let (key, hint) = keys().next().unwrap();
        let filler = "x".repeat(LINE_LENGTH_MAX - 30);
        let line = format!("{filler}{key}{}\nnext\n", "y".repeat(LINE_LENGTH_MAX));
        let out = String::from_utf8(written(&[line.as_bytes()])).unwrap();
        assert_eq!(out, format!("{filler}{hint}…\nnext\n"));
    }

    #[test]
    fn bytes_that_are_no_text_are_masked_too() {
        let (key, _) = keys().next().unwrap();
        let out = written(&[b"\xff", key.as_bytes(), b"\xff\n"]);
        assert!(!String::from_utf8_lossy(&out).contains(&key));
    }

    proptest! {
        #[test]
        fn a_key_is_masked_however_its_line_is_cut_into_writes(
            before in "[ -~]{0,20}",
            after in "[ -~]{0,20}",
            cuts in proptest::collection::vec(0_usize..100, 0..8),
        ) {
            for (key, _) in keys() {
                let line = format!("{before} {key} {after}\n");
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&line.len())).collect();
                cuts.extend([0, line.len()]);
                cuts.sort_unstable();
                let parts: Vec<&[u8]> =
                    cuts.windows(2).map(|ends| &line.as_bytes()[ends[0]..ends[1]]).collect();
                let masked = mask(&line).into_owned();
                prop_assert_eq!(written(&parts), masked.as_bytes());
                prop_assert!(!masked.contains(&key));
            }
        }
    }
}
