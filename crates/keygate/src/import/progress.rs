//! How far an import is, on standard error: one line that changes on a terminal, else a line for
//! every tenth.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How often the line on a terminal changes at most.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Progress {
    verb: &'static str,
    total: usize,
    reader: Reader,
    said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Terminal,
    Log,
}

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    at: Duration,
    tenths: usize,
}

impl Progress {
    pub(super) fn new(verb: &'static str, total: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let reader = if is_terminal { Reader::Terminal } else { Reader::Log };
        Self { verb, total, reader, said: Said::default() }
    }

    /// So many are done, so long after the start.
    pub(super) fn report(&mut self, done: usize, since_start: Duration) {
        if let Some(text) = self.text(done, since_start) {
            eprint!("{text}");
            // Whoever cannot be told does not need to know.
            drop(std::io::stderr().flush());
        }
    }

    /// What to say, if it is time to say something.
    fn text(&mut self, done: usize, since_start: Duration) -> Option<String> {
        let is_last = done >= self.total;
        let tenths = done * 10 / self.total.max(1);
        let is_due = match self.reader {
            Reader::Terminal => is_last || since_start >= self.said.at + PAUSE,
            Reader::Log => tenths > self.said.tenths,
        };
        if !is_due {
            return None;
        }
        self.said = Said { at: since_start, tenths };
        let millis = since_start.as_millis().max(1);
        let per_second = u128::try_from(done).unwrap_or(u128::MAX).saturating_mul(1_000) / millis;
        let line = format!("{} {done} of {} keys, {per_second} a second", self.verb, self.total);
        Some(match (self.reader, is_last) {
            (Reader::Log, _) => format!("{line}\n"),
            // To the end of the line, what was there before is wiped.
            (Reader::Terminal, false) => format!("\r{line}\u{1b}[K"),
            (Reader::Terminal, true) => format!("\r{line}\u{1b}[K\n"),
        })
    }
}

/// What is written next begins a line of its own, whatever the progress.
pub(super) fn end_line() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reader: Reader, total: usize, steps: &[(usize, u64)]) -> Vec<String> {
        let mut progress = Progress { verb: "imported", total, reader, said: Said::default() };
        let text = |&(done, ms): &(usize, u64)| progress.text(done, Duration::from_millis(ms));
        steps.iter().filter_map(text).collect()
    }

    #[test]
    fn a_log_gets_a_line_for_every_tenth() {
        let steps: Vec<(usize, u64)> = (1..=100).map(|n| (n * 10, n as u64 * 10)).collect();
        let lines = said(Reader::Log, 1_000, &steps);
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], "imported 100 of 1000 keys, 1000 a second\n");
        assert_eq!(said(Reader::Log, 3, &[(3, 0)]), ["imported 3 of 3 keys, 3000 a second\n"]);
    }

    #[test]
    fn a_terminal_gets_one_line_that_changes_but_not_too_often() {
        let lines = said(Reader::Terminal, 50, &[(10, 1), (20, 150), (30, 200), (50, 210)]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("\rimported 20 of 50") && !lines[0].ends_with('\n'));
        assert!(lines[1].starts_with("\rimported 50 of 50") && lines[1].ends_with('\n'));
    }
}
