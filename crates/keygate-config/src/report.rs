//! What is wrong with a file, each problem with its place.

use std::fmt;

/// Every problem of one file.
#[derive(Debug)]
pub struct Report {
    name: String,
    problems: Vec<Problem>,
}

/// One problem and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    message: String,
}

/// Whether a rendered report has terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    On,
    Off,
}

impl Report {
    pub(crate) fn of_file(name: &str, message: &str) -> Self {
        Self { name: name.to_owned(), problems: vec![Problem { message: message.to_owned() }] }
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The whole report as text for people.
    #[must_use]
    pub fn render(&self, _colours: Colours) -> String {
        let lines: Vec<String> =
            self.problems.iter().map(|p| format!("{}: {}", self.name, p.message)).collect();
        lines.join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colours::Off))
    }
}

impl std::error::Error for Report {}
