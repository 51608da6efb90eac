//! Reads `[store]`: which kind it is, and what that kind needs. Settings that would have no effect
//! are refused.

use std::path::PathBuf;

use crate::address::{RedisScheme, RedisUrl};
use crate::catalogue::store::{self, redis_keys};
use crate::confidential::{Password, certificates_in, password_in, private_key_in};
use crate::reader::Section;
use crate::settings::{
    Admin, EmbeddedStore, Keys, RedisClientCertificate, RedisLogin, RedisMode, RedisStore,
    RedisTls, Store, Target,
};
use crate::word::{KeyPrefix, ServiceName, StoreKind, StoreMode, Username};

const REDIS_PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

pub(crate) fn read_store(root: &Section<'_, '_>) -> Option<Store> {
    let section = root.child("store", &store::TABLE)?;
    match section.get(&store::KIND) {
        Some(StoreKind::Redis) => {
            let help = "remove it, or write `kind = \"embedded\"`";
            section.refuse_key("path", "is for the embedded store, and this is Redis", help);
            read_redis(&section).map(|settings| Store::Redis(Box::new(settings)))
        }
        Some(StoreKind::Embedded)
            if section.item("kind").is_none() && section.item("urls").is_some() =>
        {
            let help = "write `kind = \"redis\"` too, or remove it";
            section.refuse_key("urls", "is for Redis, and the store is embedded by default", help);
            read_redis(&section);
            None
        }
        Some(StoreKind::Embedded) => {
            let help = "remove it, or write `kind = \"redis\"`";
            for key in redis_keys() {
                section.refuse_key(key, "is for Redis, and this store is embedded", help);
            }
            section.get(&store::PATH).map(|path| Store::Embedded(EmbeddedStore { path }))
        }
        // What else is wrong is told as well.
        None if section.item("urls").is_some() => {
            read_redis(&section);
            None
        }
        None => {
            section.get(&store::PATH);
            None
        }
    }
}

fn read_redis(section: &Section<'_, '_>) -> Option<RedisStore> {
    let mode = section.get(&store::MODE);
    let urls = section.get(&store::URLS);
    let redis_mode = read_mode(section, mode);
    let servers = read_servers(section, mode, urls.as_deref());
    let login = read_login(section);
    let tls = read_tls(section, urls.as_deref());
    let database = section.get(&store::DATABASE);
    if let (Some(StoreMode::Cluster), Some(1..)) = (mode, database) {
        let help = "remove it: gateways that share a cluster differ by `key_prefix`";
        section.refuse_key("database", "is not 0, and a cluster has only database 0", help);
    }
    let key_prefix = section.get(&store::KEY_PREFIX);
    let connections = section.get(&store::CONNECTIONS);
    let connect_timeout = section.get(&store::CONNECT_TIMEOUT);
    let find_timeout = section.get(&store::FIND_TIMEOUT);
    let write_timeout = section.get(&store::WRITE_TIMEOUT);
    let wait_replicas = section.get(&store::WAIT_REPLICAS);
    let wait_timeout = section.get(&store::WAIT_TIMEOUT);
    let log_max = section.get(&store::LOG_MAX);
    let (mode, KeyPrefix(key_prefix)) = (redis_mode?, key_prefix?);
    warn_of_open_password(section, &urls?, &login, &mode);
    Some(RedisStore {
        mode,
        servers: servers?,
        tls: tls?,
        login,
        database: u32::try_from(database?).ok()?,
        key_prefix,
        connections: usize::try_from(connections?).ok()?,
        connect_timeout: connect_timeout?,
        find_timeout: find_timeout?,
        write_timeout: write_timeout?,
        wait_replicas: u32::try_from(wait_replicas?).ok()?,
        wait_timeout: wait_timeout?,
        log_max: log_max?,
    })
}

fn read_mode(section: &Section<'_, '_>, mode: Option<StoreMode>) -> Option<RedisMode> {
    const SENTINEL_KEYS: [&str; 3] =
        ["sentinel_service", "sentinel_username", "sentinel_password_file"];
    if let Some(StoreMode::Single | StoreMode::Cluster) = mode {
        for key in SENTINEL_KEYS {
            let help = "remove it, or write `mode = \"sentinel\"`";
            section.refuse_key(key, "means nothing without sentinels", help);
        }
    }
    match mode {
        Some(StoreMode::Single) => Some(RedisMode::Single),
        Some(StoreMode::Cluster) => Some(RedisMode::Cluster),
        Some(StoreMode::Sentinel) => {
            let service = section.get(&store::SENTINEL_SERVICE);
            let login = read_sentinel_login(section);
            service.map(|ServiceName(service)| RedisMode::Sentinel { service, login })
        }
        None => None,
    }
}

fn read_sentinel_login(section: &Section<'_, '_>) -> RedisLogin {
    let username = section.get(&store::SENTINEL_USERNAME).map(|Username(name)| name);
    let password = password_in(section, &store::SENTINEL_PASSWORD_FILE);
    if section.item("sentinel_password_file").is_none() {
        let help = "write `sentinel_password_file` too";
        section.refuse_key("sentinel_username", "means nothing without a password", help);
    }
    RedisLogin { username, password }
}

fn read_login(section: &Section<'_, '_>) -> RedisLogin {
    let username = section.get(&store::USERNAME).map(|Username(name)| name);
    let given = section.get(&store::PASSWORD).map(|Password(secret)| secret);
    let in_file = password_in(section, &store::PASSWORD_FILE);
    match (section.item("password"), section.item("password_file")) {
        (Some(_), Some(_)) => {
            let help = "remove one of the two";
            section.refuse_key("password", "and `password_file` are both given", help);
        }
        (None, None) => {
            let help = "write `password_file`, or `password = \"${NAME}\"`, too";
            section.refuse_key("username", "means nothing without a password", help);
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    RedisLogin { username, password: given.or(in_file) }
}

fn read_servers(
    section: &Section<'_, '_>,
    mode: Option<StoreMode>,
    urls: Option<&[RedisUrl]>,
) -> Option<Vec<Target>> {
    let (mode, urls) = (mode?, urls?);
    let default_port = match mode {
        StoreMode::Sentinel => SENTINEL_PORT,
        StoreMode::Single | StoreMode::Cluster => REDIS_PORT,
    };
    let target =
        |url: &RedisUrl| Target { host: url.host.clone(), port: url.port.unwrap_or(default_port) };
    let servers: Vec<Target> = urls.iter().map(target).collect();
    if mode == StoreMode::Single
        && let Some(span) = section.span_of_element("urls", 1)
    {
        let help = "name one server, or write `mode = \"sentinel\"` or `mode = \"cluster\"`";
        section.reader.error(span, "a single Redis has one URL", Some(help.to_owned()));
    } else {
        section.refuse_repeats("urls", &servers);
    }
    Some(servers)
}

/// The outer nothing means that something is wrong, the inner one that there is no TLS.
fn read_tls(section: &Section<'_, '_>, urls: Option<&[RedisUrl]>) -> Option<Option<RedisTls>> {
    let scheme = urls.and_then(|urls| read_scheme(section, urls));
    if scheme == Some(RedisScheme::Plain) {
        for key in ["ca_file", "cert_file", "key_file"] {
            let help = "begin the `urls` with `rediss://`, or remove it";
            section.refuse_key(key, "means nothing without TLS", help);
        }
        return Some(None);
    }
    let ca = certificates_in(section, &store::CA_FILE);
    let certificate = certificates_in(section, &store::CERT_FILE);
    let key = private_key_in(section, &store::KEY_FILE);
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.item(other).is_none() {
            let help = format!("write `{other}` too");
            section.refuse_key(one, &format!("means nothing without `{other}`"), &help);
        }
    }
    let client =
        certificate.zip(key).map(|(certificate, key)| RedisClientCertificate { certificate, key });
    scheme.map(|_| Some(RedisTls { ca, client }))
}

/// The one scheme of all the URLs.
fn read_scheme(section: &Section<'_, '_>, urls: &[RedisUrl]) -> Option<RedisScheme> {
    let scheme = urls.first()?.scheme;
    let other = urls.iter().position(|url| url.scheme != scheme);
    if let Some(span) = other.and_then(|at| section.span_of_element("urls", at)) {
        let help = "begin all of them with `rediss://`, or all with `redis://`";
        let message = "some of the URLs are with TLS and some are not";
        section.reader.error(span, message, Some(help.to_owned()));
        return None;
    }
    Some(scheme)
}

fn warn_of_open_password(
    section: &Section<'_, '_>,
    urls: &[RedisUrl],
    login: &RedisLogin,
    mode: &RedisMode,
) {
    let sentinel_login = match mode {
        RedisMode::Sentinel { login, .. } => Some(login),
        RedisMode::Single | RedisMode::Cluster => None,
    };
    let has_password =
        login.password.is_some() || sentinel_login.is_some_and(|login| login.password.is_some());
    let is_open = |url: &RedisUrl| url.scheme == RedisScheme::Plain && !url.is_loopback();
    if let (true, Some(at)) = (has_password, urls.iter().position(is_open)) {
        section.reader.warning(
            section.span_of_element("urls", at),
            "the password is sent to Redis in clear text",
            "write `rediss://`, unless the network itself is trusted",
        );
    }
}

/// A file of the gateway's own that is also named for Redis: its secret would be sent there.
pub(crate) fn refuse_own_files(root: &Section<'_, '_>, keys: &Keys, admin: &Admin) {
    const FILE_KEYS: [&str; 5] =
        ["password_file", "sentinel_password_file", "ca_file", "cert_file", "key_file"];
    let Some(table) = root.item("store") else { return };
    let previous =
        keys.previous_pepper_files.iter().map(|file| ("[keys] previous_pepper_files", file));
    let own: Vec<(&str, &PathBuf)> = previous
        .chain([
            ("[keys] pepper_file", &keys.pepper_file),
            ("[admin] token_file", &admin.token_file),
        ])
        .collect();
    for key in FILE_KEYS {
        let Some(item) = table.get_ref().get(key) else { continue };
        let Some(file) = root.reader.expanded(item) else { continue };
        let file = root.reader.source.folder.join(file);
        if let Some((setting, _)) = own.iter().find(|(_, own)| **own == file) {
            let help = "name the file that is for Redis: this one holds a secret of the gateway";
            let message = format!("this file is `{setting}` already");
            root.reader.error(item.span(), message, Some(help.to_owned()));
        }
    }
}
