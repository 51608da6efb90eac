//! Where in a text a span is: its line, its column, and what of the line to underline.

use std::ops::Range;

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
        let shown = (text.len() <= SHOWN_LINE_BYTES_MAX)
            .then(|| Shown { line: text.to_owned(), underlined: underline_start..underline_end });
        Place { line, column: before.chars().count() + 1, shown }
    }
}
