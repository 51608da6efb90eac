//! Parses. `gateway.toml` becomes a [`Config`]; every mistake in it becomes one problem of a
//! [`Report`].
//!
//! The only crate that reads files and the environment. What leaves it is valid: strings die here.

mod report;
pub mod secrets;
mod settings;

use std::path::Path;

pub use report::{Colours, Problem, Report};
pub use settings::{
    Admin, Cache, Config, EmbeddedStore, FailedAuth, Keys, Log, LogLevel, Server, Store, Target,
    Tier, Upstream,
};

/// The text of a configuration and what it may refer to. Parsing reads nothing else.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What reports call the file.
    pub name: &'a str,
    pub text: &'a str,
    /// Relative paths in the text are relative to this.
    pub folder: &'a Path,
    /// Looks up an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads the configuration file at `path`, with the process's environment.
///
/// # Errors
/// Every problem of the file, or the one that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Report::of_file(&name, &format!("cannot read the file: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Report::of_file(&name, "the file is not UTF-8 text"))?;
    #[expect(clippy::disallowed_methods, reason = "this crate is the one that reads it")]
    let environment = |variable: &str| std::env::var(variable).ok();
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(Source { name: &name, text: &text, folder, environment: &environment })
}

/// Parses a whole configuration.
///
/// # Errors
/// Every problem of the text, in the order of their places.
pub fn parse(source: Source<'_>) -> Result<Config, Report> {
    Err(Report::of_file(source.name, "parsing is not written yet"))
}
