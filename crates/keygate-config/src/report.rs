//! What is wrong with a file: each problem with its place, and how that looks to a person.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use crate::lines::{Lines, Place};
use crate::tree::Tree;

/// The most problems that are kept; of more only the number is told.
const PROBLEMS_MAX: usize = 1_000;

/// Every problem of one file, in the order of their places.
#[derive(Debug)]
pub struct Report {
    name: String,
    problems: Vec<Problem>,
    /// How many more there are than are kept.
    omitted: usize,
}

/// One problem, where it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Option<Place>,
    setting: Option<String>,
}

/// Whether a rendered report has terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    On,
    Off,
}

/// A problem as the reader finds it: its place is a span of the text.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// None for what is missing from the whole file.
    pub(crate) span: Option<Range<usize>>,
}

impl Finding {
    pub(crate) fn of_syntax(error: &toml::de::Error) -> Self {
        Self { message: error.message().to_owned(), help: None, span: error.span() }
    }
}

impl Report {
    /// The report of a file that has one problem as a whole.
    pub(crate) fn of_file(name: &str, message: impl Into<String>) -> Self {
        let problem = Problem { message: message.into(), help: None, place: None, setting: None };
        Self { name: name.to_owned(), problems: vec![problem], omitted: 0 }
    }

    /// The report of a file that is no text from `line` on.
    pub(crate) fn of_line(name: &str, message: impl Into<String>, line: usize) -> Self {
        let place = Some(Place { line, column: 1, shown: None });
        let problem = Problem { message: message.into(), help: None, place, setting: None };
        Self { name: name.to_owned(), problems: vec![problem], omitted: 0 }
    }

    pub(crate) fn of_findings(
        name: &str,
        text: &str,
        tree: &Tree,
        mut findings: Vec<Finding>,
    ) -> Self {
        findings.sort_by_key(|finding| finding.span.as_ref().map_or(0, |span| span.start));
        let omitted = findings.len().saturating_sub(PROBLEMS_MAX);
        let lines = Lines::of(text);
        let place = |Finding { message, help, span }| {
            let setting = span.as_ref().and_then(|span| tree.setting_at(span.start));
            let place = Some(span.map_or_else(Place::of_whole, |span| lines.place(span)));
            Problem { message, help, place, setting }
        };
        let problems = findings.into_iter().take(PROBLEMS_MAX).map(place).collect();
        Self { name: name.to_owned(), problems, omitted }
    }

    /// What the file is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The whole report as text for people.
    #[must_use]
    pub fn render(&self, colours: Colours) -> String {
        let renderer = match colours {
            Colours::On => Renderer::styled(),
            Colours::Off => Renderer::plain(),
        };
        let mut parts: Vec<String> =
            self.problems.iter().map(|problem| problem.render(&self.name, &renderer)).collect();
        if self.omitted > 0 {
            parts.push(format!("and {} more", self.omitted));
        }
        parts.join("\n\n")
    }

    /// Each problem on one line.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.problems.iter().map(|problem| problem.on_one_line(&self.name)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colours::Off))
    }
}

impl std::error::Error for Report {}

impl Problem {
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// From 1; none when the file could not be read at all.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// From 1, in characters.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// The setting or table, such as `tiers.free.rate` or `routes[2]`, counted from 1; none where the
    /// problem is with the file as a whole, or its syntax hides what it is about.
    #[must_use]
    pub fn setting(&self) -> Option<&str> {
        self.setting.as_deref()
    }

    fn render(&self, name: &str, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(&self.message);
        let group = match &self.place {
            None => title.element(Origin::path(name)),
            Some(Place { line, column, shown: None }) => {
                title.element(Origin::path(name).line(*line).char_column(*column))
            }
            Some(Place { line, shown: Some(shown), .. }) => title.element(
                Snippet::source(&shown.line)
                    .line_start(*line)
                    .path(name)
                    .annotation(AnnotationKind::Primary.span(shown.underlined.clone())),
            ),
        };
        let help = self.help.as_deref().map(|help| Level::HELP.message(help));
        renderer.render(&[group.elements(help)])
    }

    /// With its place and its help.
    #[must_use]
    pub fn on_one_line(&self, name: &str) -> String {
        let place = match &self.place {
            Some(place) => format!("{name}:{}:{}", place.line, place.column),
            None => name.to_owned(),
        };
        match &self.help {
            Some(help) => format!("{place}: {}; {help}", self.message),
            None => format!("{place}: {}", self.message),
        }
    }
}
