//! Where in a text a span is: its line, its column, and what of the line to underline. A line that
//! may hold a password is never shown.

use std::ops::Range;

use crate::environment::is_name;

/// A longer line is not shown, only its number is: nobody wrote it by hand.
const SHOWN_LINE_BYTES_MAX: usize = 1_000;

/// A text and where its lines begin.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

/// Where a problem is, both numbers from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    /// In characters.
    pub(crate) column: usize,
    pub(crate) shown: Option<Shown>,
}

/// The line of a problem, and the bytes of it that are underlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) line: String,
    pub(crate) underlined: Range<usize>,
}

impl Place {
    /// Of what is wrong with the file as a whole.
    pub(crate) fn of_whole() -> Self {
        Self { line: 1, column: 1, shown: None }
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The number of the line that holds the byte at `at`, from 1.
    pub(crate) fn number_at(&self, at: usize) -> usize {
        self.starts.partition_point(|&line_start| line_start <= at).max(1)
    }

    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.number_at(start);
        let line_start = self.starts.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let text = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let underline_start = start.saturating_sub(line_start).min(text.len());
        let before = text.get(..underline_start).unwrap_or_default();
        // What spans lines, such as a list, is underlined to the end of its first.
        let wanted_end = span.end.saturating_sub(line_start).min(text.len());
        let underline_end = text.ceil_char_boundary(wanted_end).max(underline_start);
        let shown = (text.len() <= SHOWN_LINE_BYTES_MAX && !may_tell_secret(text))
            .then(|| Shown { line: text.to_owned(), underlined: underline_start..underline_end });
        Place { line, column: before.chars().count() + 1, shown }
    }
}

/// What the names of settings and headers have in them whose values are secrets.
const SECRETS: [&str; 7] =
    ["pas", "authorization", "token", "secret", "cookie", "api-key", "apikey"];

/// Whether a line of a file holds what looks like a password that should not be there. It goes by
/// the text alone: where a secret stands in the wrong place, the file may well be broken too.
fn may_tell_secret(line: &str) -> bool {
    let assigns_password = line.match_indices('=').any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default().trim_end();
        let value = line.get(at + 1..).unwrap_or_default().trim_start();
        // Misspelt keys count too.
        let key = before.trim_end_matches(['"', '\'']).rsplit([' ', '\t', '.', ',', '{']).next();
        let key = key.unwrap_or_default().to_ascii_lowercase();
        let may_hold_one = key == "set" || SECRETS.iter().any(|word| key.contains(word));
        may_hold_one && !key.ends_with("_file") && !is_reference(value)
    });
    let names_user = line.split("://").skip(1).any(|rest| {
        let url = rest.split(['"', '\'']).next().unwrap_or_default();
        url.contains('@')
    });
    assigns_password || names_user
}

/// Whether a value, and what follows it on its line, begins with a whole `"${NAME}"`.
fn is_reference(value: &str) -> bool {
    let inside = value.strip_prefix("\"${").or_else(|| value.strip_prefix("'${"));
    inside
        .and_then(|inside| inside.split_once('}'))
        .is_some_and(|(name, after)| is_name(name) && after.starts_with(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_may_tell_a_password_are_known() {
        for line in [
            "password = \"hunter2\"",
            "password=hunter2",
            "  \"password\" = 'hunter2",
            "pasword = \"hunter2\"",
            "Password = \"\"\"hunter2",
            "sentinel_password = \"hunter2\"",
            "store.password = \"hunter2\"",
            "store = { kind = \"redis\",password = \"hunter2\" }",
            "password = \"x${WORDS}\"",
            "password = \"${WORDS}hunter2\"",
            "password = \"${hunter2",
            "urls = [\"redis://a:1\", \"redis://:hunter2@b:1\"]",
            "targets = ['http://hunter2:@b",
            "set = { X-Backend = \"hunter2\" }",
            "Authorization = \"Bearer hunter2\"",
            "request_headers = { set = { X-Api-Key = 'hunter2' } }",
        ] {
            assert!(may_tell_secret(line), "{line}");
        }
        for line in [
            "password_file = \"data/redis.password\"",
            "\"password_file\" = 'x'",
            "password = \"${WORDS}\"",
            "name = \"password.reset\"",
            "urls = [\"redis://a:1\"] # not @",
            "listen = [\"a@b\"]",
            "",
            "=",
        ] {
            assert!(!may_tell_secret(line), "{line}");
        }
    }
}
