//! Parses. `gateway.toml` becomes a [`Config`]; every mistake in it becomes one problem of a
//! [`Report`].
//!
//! The only crate that reads files and the environment. What leaves it is valid: strings die here.

mod address;
mod catalogue;
mod certificates;
mod confidential;
mod environment;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod header;
mod inputs;
mod lines;
mod listeners;
pub mod live;
mod machine;
mod observe;
mod reader;
mod reload;
mod report;
mod route_settings;
mod routes;
pub mod secrets;
mod services;
mod setting;
mod settings;
mod shown;
mod store;
mod suggest;
#[cfg(test)]
mod tests;
mod tiers;
mod tree;
mod validity;
mod value;
mod word;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::de::DeTable;

pub use inputs::{ConfigHash, Inputs};
pub use live::Live;

use crate::reader::{Findings, Reader, Section};
use crate::tree::Tree;
pub use report::{Colours, Problem, Report};
pub use settings::{
    AccessLogSettings, AccessLogSink, Admin, AuditSink, Balance, Cache, ClientAddress, ClientAuth,
    Config, Cors, Ejection, EmbeddedStore, FailedAuth, HashBy, HeaderChanges, HealthCheck,
    HostRewrite, Identity, Keys, LimitSettings, Log, LogLevel, Protocol, QueryShown,
    RedisClientCertificate, RedisLogin, RedisMode, RedisStore, RedisTls, Respond, RouteSettings,
    Sample, Server, Store, Target, Tier, TlsListener, TlsVersion, TracingSettings, Upstream,
    UpstreamTls, UsageRetention, UsageSettings, WeightedTarget,
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
    /// Reads a file that the text names. One that is longer than the number is read no further
    /// than one byte beyond it.
    pub files: &'a dyn Fn(&Path, usize) -> io::Result<Vec<u8>>,
}

impl<'a> Source<'a> {
    /// A text with nothing around it: no variable is set, and no file is there.
    #[must_use]
    pub fn alone(name: &'a str, text: &'a str, folder: &'a Path) -> Self {
        let files = &|_: &Path, _: usize| Err(io::ErrorKind::NotFound.into());
        Self { name, text, folder, environment: &|_| None, files }
    }
}

/// Reads the configuration file at `path`, with the process's environment.
///
/// # Errors
/// Every problem of the file, or the one that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Report> {
    load_noting(path, &mut Inputs::default())
}

/// The same, and notes which files were read, also if they are of no use.
///
/// # Errors
/// As [`load`].
pub fn load_noting(path: &Path, inputs: &mut Inputs) -> Result<Config, Report> {
    let noted = RefCell::new(std::mem::take(inputs));
    let files = |path: &Path, bytes_max: usize| {
        let read = read_file(path, bytes_max);
        noted.borrow_mut().note_bytes(path, bytes_max, read.as_deref().ok());
        read
    };
    let loaded = load_with(path, &files);
    *inputs = noted.into_inner();
    loaded
}

fn load_with(
    path: &Path,
    files: &dyn Fn(&Path, usize) -> io::Result<Vec<u8>>,
) -> Result<Config, Report> {
    let name = path.display().to_string();
    let bytes = files(path, FILE_BYTES_MAX)
        .map_err(|error| Report::of_file(&name, format!("cannot read the file: {error}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Report::of_line(&name, "the file is not UTF-8 text from this line on", line)
    })?;
    #[expect(clippy::disallowed_methods, reason = "this crate is the one that reads it")]
    let environment = |variable: &str| std::env::var(variable).ok();
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    parse(Source { name: &name, text, folder, environment: &environment, files })
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
    let settings = Tree::of(tree.get_ref());
    let reader = Reader::new(source);
    let config = read(&reader, tree.get_ref());
    let Findings { errors, warnings } = reader.into_findings(&syntax_errors);
    if !errors.is_empty() {
        return Err(Report::of_findings(name, text, &settings, errors));
    }
    let warnings = Report::of_findings(name, text, &settings, warnings).into_lines();
    match config {
        Some(config) => Ok(Config { warnings, ..config }),
        None => Err(Report::of_file(name, "the file is not usable, and keygate cannot say why")),
    }
}

/// A longer file is read no further than one byte beyond `bytes_max`, which shows that it is.
fn read_file(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits until somebody writes to it.
    let kind = path.metadata()?;
    if !kind.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Room for everything from the start: a vector that grows leaves copies of secrets behind.
    let length = usize::try_from(kind.len()).unwrap_or(usize::MAX).min(bytes_max);
    let mut bytes = Vec::with_capacity(length.saturating_add(64));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(reader: &Reader<'_>, tree: &DeTable<'_>) -> Option<Config> {
    let root = Section::root(reader, tree, &catalogue::ROOT);
    let server = machine::read_server(&root);
    let admin = machine::read_admin(&root);
    if let (Some(server), Some(admin)) = (&server, &admin) {
        listeners::refuse_clashes(&root, server, admin);
    }
    let keys = machine::read_keys(&root);
    let store = store::read_store(&root);
    let audit = machine::read_audit(&root);
    let usage = observe::read_usage(&root);
    let access_log = observe::read_access_log(&root);
    if let (Some(keys), Some(admin), Some(store)) = (&keys, &admin, &store) {
        let log = access_log.as_ref().map_or(&AccessLogSink::Off, |log| &log.sink);
        let audit = audit.as_ref().unwrap_or(&AuditSink::Off);
        machine::refuse_shared_files(&root, keys, admin, store, audit, log);
        store::refuse_own_files(&root, keys, admin);
    }
    let cache = machine::read_cache(&root);
    if let (Some(cache), Some(store)) = (&cache, &store) {
        machine::warn_of_short_stale_max(&root, cache, store);
    }
    let log = machine::read_log(&root);
    let limits = tiers::read_limits(&root);
    let tiers = tiers::read_tiers(&root);
    let upstreams = services::Upstreams::read(&root);
    let ceilings = tiers::Ceilings::of(tiers.as_deref().unwrap_or_default());
    let routes = routes::read_routes(reader, &root, &upstreams, &ceilings);
    let (routes, route_settings) = routes.unzip();
    Some(Config {
        server: server?,
        admin: admin?,
        keys: keys?,
        store: store?,
        cache: cache?,
        log: log?,
        audit: audit?,
        usage: usage?,
        access_log: access_log?,
        tracing: observe::read_tracing(&root)?,
        limits: limits?,
        tiers: tiers?,
        upstreams: upstreams.list?,
        routes: routes?,
        route_settings: route_settings?,
        warnings: Vec::new(),
        shown: root.shown.to_json().to_string().into(),
    })
}
