//! `keygate demo`: the gateway as it always runs, a sample upstream behind it, keys to try it
//! with, and the calls to paste. `demo/plan.rs` picks the calls, `demo/cast.rs` makes the keys.

mod cast;
mod plan;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use keygate_config::{AccessLogSink, AuditSink, Config, EmbeddedStore, LogLevel, Store};
use keygate_telemetry::logging;

use crate::cli::DEFAULT_CONFIG;
use crate::client::url_of;
use crate::demo::cast::{Cast, DemoKey, Stage};
use crate::demo::plan::Plan;
use crate::failure::{Exit, Failure};
use crate::handover::Inheritance;
use crate::reload::Origin;
use crate::{clock, listen, output, sample, serve};

/// Runs the demo until it is told to stop. Starting it again shows the same keys.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let origin = Origin::adjusted(path, as_demo);
    let config = Arc::new(origin.first()?);
    let store = store_path(&config);
    let plan = Plan::of(&config).map_err(|why| Failure::new(Exit::Usage, why))?;
    let log = logging::init(config.log.level).context("cannot start the log")?;
    serve::block_on(async {
        let upstream = listen::bind(plan.upstream, "`targets` of the upstream")?;
        sample::start(upstream)?;
        let serving =
            serve::start(origin, Arc::clone(&config), &log, Inheritance::default()).await?;
        let stage = Stage {
            keys: &serving.keys,
            peppers: &serving.live.peppers(),
            config: &config,
            now: clock::now(),
        };
        let cast = Cast::assemble(&stage, &plan).await?;
        output::print(&script(path, &config, &plan, &cast, &store))?;
        serving.until_stopped().await
    })
}

/// The configuration as the demo runs it.
fn as_demo(config: &mut Config) -> Result<(), Failure> {
    // What is to be pasted must not drown in log lines.
    config.log.level = quiet(config.log.level);
    // The log of the demo's own store is not what is collected.
    config.audit = AuditSink::Off;
    config.access_log.sink = AccessLogSink::Off;
    own_store(config).map(drop)
}

fn store_path(config: &Config) -> PathBuf {
    match &config.store {
        Store::Embedded(settings) => settings.path.clone(),
        Store::Redis(_) => PathBuf::new(),
    }
}

/// Gives the demo a store of its own, beside the configured one: its keys are made from the pepper
/// alone and printed for anybody to paste, so they must never work with `keygate run`.
fn own_store(config: &mut Config) -> Result<PathBuf, Failure> {
    let pepper = &config.keys.pepper_file;
    // The demo does not open the real store, and so cannot see which pepper its keys need.
    let (own, needs_pepper) = match &config.store {
        Store::Embedded(settings) => {
            let real = &settings.path;
            (real.with_file_name("demo.db"), real.exists().then(|| real.display().to_string()))
        }
        Store::Redis(_) => (pepper.with_file_name("demo.db"), Some("a store in Redis".to_owned())),
    };
    if matches!(&config.store, Store::Embedded(settings) if settings.path == own) {
        let why = "demo.db is the demo's own store: give `[store] path` another name";
        return Err(Failure::new(Exit::Usage, why));
    }
    if let Some(real) = needs_pepper
        && !pepper.exists()
    {
        let why = format!(
            "{} does not exist, but {real} does: restore the pepper, or see what `keygate run` says",
            pepper.display(),
        );
        return Err(Failure::new(Exit::Failed, why));
    }
    config.store = Store::Embedded(EmbeddedStore { path: own.clone() });
    config.usage.path = config.usage.path.with_file_name("demo-usage");
    Ok(own)
}

fn quiet(level: LogLevel) -> LogLevel {
    match level {
        LogLevel::Error => LogLevel::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug | LogLevel::Trace => LogLevel::Warn,
    }
}

/// What is printed: where everything is, and the calls.
fn script(path: &Path, config: &Config, plan: &Plan<'_>, cast: &Cast, store: &Path) -> String {
    let token_file = config.admin.token_file.display();
    let gateway = config.server.listen.first().map(|&at| url_of(at)).unwrap_or_default();
    let admin = url_of(config.admin.listen);
    let upstream = plan.upstream;
    let mut text = format!(
        "\nKeygate is running. Ctrl-C stops it; started again, the demo has the same keys.\n\n\
         \x20 gateway   {gateway}\n\
         \x20 admin     {admin} (its token is in {token_file})\n\
         \x20 pepper    {}: keep a copy, no key works without it\n\
         \x20 upstream  http://{upstream}, a sample that answers with what it was sent\n\
         \x20 store     {}, the demo's own: `keygate run` does not know these keys\n\
         \x20 log       warnings only; `keygate run` logs at `[log] level` of {}\n\n\
         Paste these into another terminal.\n\n",
        config.keys.pepper_file.display(),
        store.display(),
        path.display()
    );
    let url = format!("{gateway}{}", plan.path());
    let mut call = |says: &str, key: Option<&DemoKey>| {
        text.push_str(&format!("# {says}\n{}\n\n", curl(&url, plan, key)));
    };
    call("200: a key that may", Some(&cast.may));
    call("401: no key", None);
    if let Some(may_not) = &cast.may_not {
        call("403: a key without the scope", Some(may_not));
    }
    text.push_str(&format!(
        "# Revoke the first key; from then on its call is a 401\n{}\n\n",
        command(path, &format!("keys revoke {} --yes", cast.may.id))
    ));
    text.push_str(
        "# For keys of your own: stop the demo, start `keygate run`, and then\n\
         # keygate accounts create, keygate apps create, keygate keys create\n\n",
    );
    for note in &cast.notes {
        text.push_str(&format!("# Note: {note}\n"));
    }
    text
}

fn curl(url: &str, plan: &Plan<'_>, key: Option<&DemoKey>) -> String {
    let mut line = format!("curl -i {}", quoted(url));
    if let Some(host) = plan.host() {
        line.push_str(&format!(" -H 'Host: {host}'"));
    }
    if let Some(key) = key {
        line.push_str(&format!(" -H 'Authorization: Bearer {}'", &*key.text));
    }
    line
}

/// For a shell: bare if nothing in it means anything there.
fn quoted(url: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/@%+,=[]".contains(c);
    if url.chars().all(plain) && !url.contains('[') {
        return url.to_owned();
    }
    format!("'{}'", url.replace('\'', "%27"))
}

/// A call of this program, as it was called itself.
fn command(config: &Path, arguments: &str) -> String {
    let program = std::env::args_os().next().map_or_else(|| "keygate".into(), PathBuf::from);
    let config = match config == Path::new(DEFAULT_CONFIG) {
        true => String::new(),
        false => format!(" -c {}", quoted(&config.display().to_string())),
    };
    format!("{} {arguments}{config}", quoted(&program.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(quoted("http://127.0.0.1:8080/v1/orders"), "http://127.0.0.1:8080/v1/orders");
        assert_eq!(quoted("http://[::1]:8080/"), "'http://[::1]:8080/'");
        assert_eq!(quoted("http://h/a&b'c"), "'http://h/a&b%27c'");
    }

    fn config(folder: &Path, store: &str) -> Config {
        config_with(folder, &format!("kind = \"embedded\"\npath = \"{store}\""))
    }

    fn config_with(folder: &Path, store: &str) -> Config {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:1\"]\n[store]\n{store}\n\
             [keys]\npepper_file = \"pepper\"\n[upstreams.a]\ntargets = [\"127.0.0.1:2\"]\n\
             [[routes]]\nname = \"a\"\npath = \"/\"\nupstream = \"a\"\nauth = \"public\"\n"
        );
        let source = keygate_config::Source::alone("gateway.toml", &text, folder);
        keygate_config::parse(source).unwrap()
    }

    #[test]
    fn the_demo_has_a_store_of_its_own_beside_the_real_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut real = config(folder.path(), "data/keygate.db");
        let own = own_store(&mut real).unwrap();
        assert_eq!(own, folder.path().join("data/demo.db"));
        assert!(matches!(&real.store, Store::Embedded(settings) if settings.path == own));
        assert!(own_store(&mut config(folder.path(), "data/demo.db")).is_err());
    }

    #[test]
    fn the_demo_makes_no_pepper_where_the_real_store_may_need_one_that_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keygate.db"), "").unwrap();
        assert!(own_store(&mut config(folder.path(), "keygate.db")).is_err());
        std::fs::write(folder.path().join("pepper"), "").unwrap();
        assert!(own_store(&mut config(folder.path(), "keygate.db")).is_ok());
    }

    fn redis() -> Store {
        let second = std::time::Duration::from_secs(1);
        Store::Redis(Box::new(keygate_config::RedisStore {
            mode: keygate_config::RedisMode::Single,
            servers: Vec::new(),
            tls: None,
            login: keygate_config::RedisLogin::default(),
            database: 0,
            key_prefix: "keygate".into(),
            connections: 1,
            connect_timeout: second,
            find_timeout: second,
            write_timeout: second,
            wait_replicas: 0,
            wait_timeout: second,
            log_max: 1_000,
        }))
    }

    #[test]
    fn the_demo_of_a_fleet_has_a_store_of_its_own_and_makes_no_pepper() {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = config_with(folder.path(), "kind = \"embedded\"\npath = \"x\"");
        fleet.store = redis();
        assert!(own_store(&mut fleet).is_err(), "the fleet's pepper must be there");
        std::fs::write(folder.path().join("pepper"), "").unwrap();
        assert_eq!(own_store(&mut fleet).unwrap(), folder.path().join("demo.db"));
        assert!(matches!(fleet.store, Store::Embedded(_)));
    }

    #[test]
    fn the_demo_never_logs_more_than_warnings() {
        assert_eq!(quiet(LogLevel::Trace), LogLevel::Warn);
        assert_eq!(quiet(LogLevel::Error), LogLevel::Error);
    }
}
