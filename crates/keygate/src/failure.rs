//! How a command ends when it does not succeed: one line on standard error, and an exit code that
//! a script can tell apart.

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use keygate_config::{Colours, Report};

/// What a script can tell apart. Published: a number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    /// A wrong command line or configuration; clap's own number for the former.
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
    /// Imported, but for records that the store holds otherwise.
    Differs = 6,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The problems of a configuration file, each with its place.
    Config(Report),
    Other(Exit, anyhow::Error),
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl fmt::Display) -> Self {
        Self::Other(exit, anyhow::Error::msg(text.to_string()))
    }

    /// The same, after so much was done.
    pub(crate) fn after(self, done: &str) -> Self {
        match self {
            Self::Config(_) => self,
            Self::Other(exit, error) => Self::Other(exit, error.context(done.to_owned())),
        }
    }

    /// Tells the user, and gives the process its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("{}", self.text(colours()).trim_end());
        ExitCode::from(self.exit() as u8)
    }

    /// What a view says in passing.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Config(report) => report.render(Colours::Off),
            Self::Other(_, error) => format!("{error:#}"),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Usage,
            Self::Other(exit, _) => *exit,
        }
    }

    fn text(&self, colours: Colours) -> String {
        match self {
            Self::Config(report) => report.render(colours),
            // The whole chain on one line: what was tried, and then why it failed.
            Self::Other(_, error) => format!("error: {error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(Exit::Failed, error)
    }
}

/// Colours on a terminal, unless the user asked for none (<https://no-color.org>).
fn colours() -> Colours {
    if std::io::stderr().is_terminal() && !no_colours() { Colours::On } else { Colours::Off }
}

/// Whether the user asked for no colours anywhere.
pub(crate) fn no_colours() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_cause() {
        let cause = std::io::Error::other("the disk is full");
        let error = Err::<(), _>(cause).context("cannot write data/pepper").unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.text(Colours::Off), "error: cannot write data/pepper: the disk is full");
        assert_eq!(failure.exit(), Exit::Failed);
    }
}
