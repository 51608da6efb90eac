//! Parses. `gateway.toml` becomes a [`Config`]; every mistake in it becomes one problem of a
//! [`Report`].
//!
//! The only crate that reads files and the environment. What leaves it is valid: strings die here.

mod address;
mod catalogue;
mod environment;
mod lines;
mod machine;
mod reader;
mod report;
mod routes;
pub mod secrets;
mod services;
mod setting;
mod settings;
mod suggest;
#[cfg(test)]
mod tests;
mod value;
mod word;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

use crate::reader::{Findings, Reader, Section};
pub use report::{Colours, Problem, Report};
pub use settings::{
    Admin, Cache, Config, EmbeddedStore, FailedAuth, Keys, Log, LogLevel, RedisClientCertificate,
    RedisLogin, RedisMode, RedisStore, RedisTls, Server, Store, Target, Tier, Upstream,
};

/// The longest configuration, in bytes: ten thousand routes with comments fit.
pub const FILE_BYTES_MAX: usize = 4 << 20;

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
    let bytes = read_file(path)
        .map_err(|error| Report::of_file(&name, format!("cannot read the file: {error}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Report::of_line(&name, "the file is not UTF-8 text from this line on", line)
    })?;
    #[expect(clippy::disallowed_methods, reason = "this crate is the one that reads it")]
    let environment = |variable: &str| std::env::var(variable).ok();
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    parse(Source { name: &name, text, folder, environment: &environment })
}

/// Parses a whole configuration.
///
/// # Errors
/// Every problem of the text, in the order of their places.
pub fn parse(source: Source<'_>) -> Result<Config, Report> {
    let Source { name, text, .. } = source;
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file is longer than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Report::of_file(name, message));
    }
    let (tree, syntax_errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(source);
    let config = read(&reader, tree.get_ref());
    let Findings { errors, warnings } = reader.into_findings(&syntax_errors);
    if !errors.is_empty() {
        return Err(Report::of_findings(name, text, errors));
    }
    let warnings = Report::of_findings(name, text, warnings).into_lines();
    match config {
        Some(config) => Ok(Config { warnings, ..config }),
        None => Err(Report::of_file(name, "the file is not usable, and keygate cannot say why")),
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits until somebody writes to it.
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed shows that there is more.
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(reader: &Reader<'_>, tree: &DeTable<'_>) -> Option<Config> {
    let root = Section::root(reader, tree, &catalogue::ROOT);
    let server = machine::read_server(&root);
    let admin = machine::read_admin(&root);
    if let (Some(server), Some(admin)) = (&server, &admin) {
        machine::refuse_shared_address(&root, server, admin);
    }
    let keys = machine::read_keys(&root);
    let store = machine::read_store(&root);
    if let (Some(keys), Some(admin), Some(store)) = (&keys, &admin, &store) {
        machine::refuse_shared_files(&root, keys, admin, store);
    }
    let cache = machine::read_cache(&root);
    let log = machine::read_log(&root);
    let tiers = services::read_tiers(&root);
    let upstreams = services::Upstreams::read(&root);
    let routes = routes::read_routes(reader, &root, &upstreams);
    Some(Config {
        server: server?,
        admin: admin?,
        keys: keys?,
        store: store?,
        cache: cache?,
        log: log?,
        tiers: tiers?,
        upstreams: upstreams.list?,
        routes: routes?,
        warnings: Vec::new(),
    })
}
