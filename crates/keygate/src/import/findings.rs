//! What is found in a file besides keys: problems, which stop the import, and notes on what is not
//! taken over. The same thing at many places is said once.

use std::collections::HashMap;

use super::record::Place;
use crate::failure::{Exit, Failure};
use crate::output::printable;

/// The most problems or notes that are told one by one.
const SHOWN_MAX: usize = 20;
/// The most different ones that are kept; the rest is only counted.
const KEPT_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Said,
    notes: Said,
}

/// Texts in the order in which they came up, each with its first place and how often it came up.
#[derive(Debug, Default)]
struct Said {
    texts: Vec<(String, Place, u64)>,
    places: HashMap<String, usize>,
    unkept: u64,
}

impl Said {
    fn add(&mut self, place: Place, text: String) {
        if let Some(said) = self.places.get(&text).and_then(|at| self.texts.get_mut(*at)) {
            said.2 += 1;
            return;
        }
        if self.texts.len() == KEPT_MAX {
            self.unkept += 1;
            return;
        }
        self.places.insert(text.clone(), self.texts.len());
        self.texts.push((text, place, 1));
    }

    fn lines(&self) -> Vec<String> {
        let line = |(text, place, count): &(String, Place, u64)| match (place, count) {
            (Place::File, 1) => printable(text),
            (Place::File, count) => format!("{} ({count} times)", printable(text)),
            (place, 1) => format!("{place}: {}", printable(text)),
            (place, count) => {
                let others = count - 1;
                format!("{place} and {others} more: {}", printable(text))
            }
        };
        let mut lines: Vec<String> = self.texts.iter().take(SHOWN_MAX).map(line).collect();
        let rest: u64 = self.texts.iter().skip(SHOWN_MAX).map(|(_, _, count)| count).sum();
        if rest + self.unkept > 0 {
            lines.push(format!("and {} more", rest + self.unkept));
        }
        lines
    }
}

impl Findings {
    /// Something that has to be put right first. Must not hold any part of a key.
    pub(super) fn problem(&mut self, place: Place, text: impl Into<String>) {
        self.problems.add(place, text.into());
    }

    /// Something that is not taken over, or not as it is in the file. The same of this.
    pub(super) fn note(&mut self, place: Place, text: impl Into<String>) {
        self.notes.add(place, text.into());
    }

    /// What was read, unless that is a problem.
    pub(super) fn right<T>(
        &mut self,
        place: Place,
        read: Result<T, impl Into<String>>,
    ) -> Option<T> {
        read.map_err(|problem| self.problem(place, problem)).ok()
    }

    /// One line each.
    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.lines()
    }

    /// # Errors
    /// All problems, if there are any.
    pub(super) fn check(&self, file: &str) -> Result<(), Failure> {
        if self.problems.texts.is_empty() {
            return Ok(());
        }
        let lines = self.problems.lines().join("\n  ");
        let why = format!("{file} cannot be imported, and nothing was:\n  {lines}");
        Err(Failure::new(Exit::Usage, why))
    }

    #[cfg(test)]
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_up_often_is_said_once() {
        let mut findings = Findings::default();
        for line in 2..5 {
            findings.note(Place::Line(line), "a note");
        }
        findings.note(Place::File, "of all");
        assert_eq!(findings.notes(), ["line 2 and 2 more: a note", "of all"]);
        assert!(findings.check("keys.csv").is_ok());
    }

    #[test]
    fn twenty_problems_are_shown_and_the_rest_is_counted() {
        let mut findings = Findings::default();
        for line in 1..=3_000 {
            findings.problem(Place::Line(line), format!("problem {line}"));
        }
        let lines = findings.problems();
        assert_eq!((lines.len(), &*lines[20]), (21, "and 2980 more"));
        let Failure::Other(exit, error) = findings.check("keys.csv").unwrap_err() else { panic!() };
        assert_eq!(exit, Exit::Usage);
        assert!(error.to_string().starts_with("keys.csv cannot be imported"), "{error}");
    }
}
