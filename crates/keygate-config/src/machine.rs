//! Reads the tables about the gateway itself: listeners, keys, cache and log.

use std::ops::Range;

use keygate_core::credential::{CredentialRules, ImportedRules, Source};
use keygate_core::network::Networks;
use toml::Spanned;

use crate::catalogue::{admin, audit, cache, failed_auth, keys, log, server};
use crate::listeners::read_tls;
use crate::reader::Section;
use crate::settings::{
    AccessLogSink, Admin, AuditSink, Cache, EmbeddedStore, FailedAuth, Keys, Log, Server, Store,
};
use crate::value::Bytes;
use crate::word::{AuditSinkKind, FurtherHeader, KeySource};

pub(crate) fn read_server(root: &Section<'_, '_>) -> Option<Server> {
    let section = root.child("server", &server::TABLE)?;
    let failed_auth = read_failed_auth(&section);
    let tls = read_tls(&section);
    let listen = section.get(&server::LISTEN);
    if let Some(listen) = &listen {
        section.refuse_repeats("listen", listen);
    }
    let proxy_protocol_from = section.get(&server::PROXY_PROTOCOL_FROM);
    let connections_max = section.get(&server::CONNECTIONS_MAX);
    let connections_per_address_max = section.get(&server::CONNECTIONS_PER_ADDRESS_MAX);
    let body_timeout = section.get(&server::BODY_TIMEOUT);
    let handshake_timeout = section.get(&server::HANDSHAKE_TIMEOUT);
    let upstream_idle_max = section.get(&server::UPSTREAM_IDLE_MAX);
    let express_lane = section.get(&server::EXPRESS_LANE);
    let threads = section.get(&server::THREADS);
    let headers_max = section.get(&server::HEADERS_MAX);
    let header_bytes_max = section.get(&server::HEADER_BYTES_MAX);
    let body_bytes_max = section.get(&server::BODY_BYTES_MAX);
    let header_timeout = section.get(&server::HEADER_TIMEOUT);
    let keepalive_timeout = section.get(&server::KEEPALIVE_TIMEOUT);
    let trusted_proxies = section.get(&server::TRUSTED_PROXIES);
    let watch_files = section.get(&server::WATCH_FILES);
    let shutdown_delay = section.get(&server::SHUTDOWN_DELAY);
    let drain_timeout = section.get(&server::DRAIN_TIMEOUT);
    let Bytes(header_bytes_max) = header_bytes_max?;
    let Bytes(body_bytes_max) = body_bytes_max?;
    Some(Server {
        listen: listen?,
        tls: tls?,
        proxy_protocol_from: Networks::new(proxy_protocol_from?),
        connections_max: usize::try_from(connections_max?).ok()?,
        connections_per_address_max: connections_per_address_max
            .and_then(|most| usize::try_from(most).ok()),
        body_timeout: body_timeout?,
        handshake_timeout: handshake_timeout?,
        upstream_idle_max: usize::try_from(upstream_idle_max?).ok()?,
        express_lane: express_lane?,
        threads: threads.and_then(|threads| usize::try_from(threads).ok()),
        headers_max: usize::try_from(headers_max?).ok()?,
        header_bytes_max: usize::try_from(header_bytes_max).ok()?,
        body_bytes_max,
        header_timeout: header_timeout?,
        keepalive_timeout: keepalive_timeout?,
        trusted_proxies: Networks::new(trusted_proxies?),
        failed_auth: failed_auth?,
        watch_files: watch_files?,
        shutdown_delay: shutdown_delay?,
        drain_timeout: drain_timeout?,
    })
}

fn read_failed_auth(server: &Section<'_, '_>) -> Option<FailedAuth> {
    let section = server.child("failed_auth", &failed_auth::TABLE)?;
    let rate = section.get(&failed_auth::RATE);
    let addresses_max = section.get(&failed_auth::ADDRESSES_MAX);
    Some(FailedAuth { rate: rate?, addresses_max: addresses_max? })
}

pub(crate) fn read_admin(root: &Section<'_, '_>) -> Option<Admin> {
    let section = root.child("admin", &admin::TABLE)?;
    let listen = section.get(&admin::LISTEN);
    let token_file = section.get(&admin::TOKEN_FILE);
    let insecure = section.get(&admin::INSECURE);
    let span = section.span_of("listen");
    if let (Some(listen), Some(span), Some(false)) = (listen, span, insecure)
        && !listen.ip().to_canonical().is_loopback()
    {
        section.reader.error(
            span,
            "the admin API would be open to the network without TLS",
            Some(
                "keygate has no TLS for the admin API yet: listen on `127.0.0.1`, \
                 or write `insecure = true` if the network itself is trusted"
                    .to_owned(),
            ),
        );
    }
    Some(Admin { listen: listen?, token_file: token_file? })
}

pub(crate) fn span_in(root: &Section<'_, '_>, table: &str, key: &str) -> Option<Range<usize>> {
    root.item(table)?.get_ref().get(key).map(Spanned::span)
}

/// Two settings that name one file: each would take what the other wrote for its own, or write over
/// it.
pub(crate) fn refuse_shared_files(
    root: &Section<'_, '_>,
    keys: &Keys,
    admin: &Admin,
    store: &Store,
    audit: &AuditSink,
    access_log: &AccessLogSink,
) {
    let mut named = vec![
        ("keys", "pepper_file", &keys.pepper_file),
        ("admin", "token_file", &admin.token_file),
    ];
    if let Store::Embedded(EmbeddedStore { path }) = store {
        named.push(("store", "path", path));
    }
    if let AuditSink::File(path) = audit {
        named.push(("audit", "path", path));
    }
    if let AccessLogSink::File(path) = access_log {
        named.push(("access_log", "path", path));
    }
    let refuse = |span: Option<Range<usize>>, table: &str, key: &str| {
        if let Some(span) = span {
            let message = format!("this file is `[{table}] {key}` already");
            root.reader.error(span, message, Some("give each a file of its own".to_owned()));
        }
    };
    for (at, (table, key, file)) in named.iter().enumerate() {
        for (other_table, other_key, other) in named.iter().take(at) {
            if file != other {
                continue;
            }
            // Where one of the two is a default, the other is what the operator wrote.
            match span_in(root, table, key) {
                Some(span) => refuse(Some(span), other_table, other_key),
                None => refuse(span_in(root, other_table, other_key), table, key),
            }
        }
    }
    // That none of them is the current pepper is seen where they are read.
    for (at, previous) in keys.previous_pepper_files.iter().enumerate() {
        for (table, key, _) in named.iter().skip(1).filter(|(.., file)| *file == previous) {
            refuse(span_of_previous(root, at), table, key);
        }
    }
}

fn span_of_previous(root: &Section<'_, '_>, at: usize) -> Option<Range<usize>> {
    let list = root.item("keys")?.get_ref().get("previous_pepper_files")?;
    list.get_ref().as_array()?.get(at).map(Spanned::span)
}

pub(crate) fn read_keys(root: &Section<'_, '_>) -> Option<Keys> {
    let section = root.child("keys", &keys::TABLE)?;
    let pepper_file = section.get(&keys::PEPPER_FILE);
    let previous = section.get(&keys::PREVIOUS_PEPPER_FILES);
    let brand = section.get(&keys::BRAND);
    let sources = section.get(&keys::SOURCES);
    let keys_max_live = section.get(&keys::KEYS_MAX_LIVE);
    let imported = read_imported(&section);
    let expiry_notice = section.get(&keys::EXPIRY_NOTICE);
    if let Some(sources) = &sources {
        section.refuse_repeats("sources", sources);
    }
    if let (Some(current), Some(previous)) = (&pepper_file, &previous) {
        section.refuse_repeats("previous_pepper_files", previous);
        if let Some(at) = previous.iter().position(|file| file == current)
            && let Some(span) = section.span_of_element("previous_pepper_files", at)
        {
            section.reader.error(span, "this is `pepper_file` already", None);
        }
    }
    let sources = sources?;
    let source = |one| if sources.contains(&one) { Source::On } else { Source::Off };
    Some(Keys {
        pepper_file: pepper_file?,
        previous_pepper_files: previous?,
        credentials: CredentialRules {
            bearer: source(KeySource::Bearer),
            basic: source(KeySource::Basic),
            x_api_key: source(KeySource::XApiKey),
            brand,
            imported: imported?,
        },
        keys_max_live: u32::try_from(keys_max_live?).ok()?,
        expiry_notice,
    })
}

fn read_imported(section: &Section<'_, '_>) -> Option<Option<ImportedRules>> {
    let is_on = section.get(&keys::ACCEPT_IMPORTED)?;
    let headers = section.get(&keys::IMPORTED_HEADERS)?;
    section.refuse_repeats("imported_headers", &headers);
    if !is_on
        && !headers.is_empty()
        && let Some(span) = section.span_of("imported_headers")
    {
        let help = "write `accept_imported = true` if keys of other systems are to be let in";
        let message = "these headers are only looked at with `accept_imported`";
        section.reader.error(span, message, Some(help.to_owned()));
    }
    let headers = headers.into_iter().map(|FurtherHeader(name)| name).collect();
    Some(is_on.then_some(ImportedRules { headers }))
}

pub(crate) fn read_cache(root: &Section<'_, '_>) -> Option<Cache> {
    let section = root.child("cache", &cache::TABLE)?;
    let keys_max = section.get(&cache::KEYS_MAX);
    let ttl = section.get(&cache::TTL);
    let stale_max = section.get(&cache::STALE_MAX);
    let unknown_max = section.get(&cache::UNKNOWN_MAX);
    let unknown_ttl = section.get(&cache::UNKNOWN_TTL);
    Some(Cache {
        keys_max: keys_max?,
        ttl: ttl?,
        stale_max: stale_max?,
        unknown_max: unknown_max?,
        unknown_ttl: unknown_ttl?,
    })
}

/// A `ttl` says little about a key whose use ends before it.
pub(crate) fn warn_of_short_stale_max(root: &Section<'_, '_>, cache: &Cache, store: &Store) {
    // Nobody but the gateway writes to an embedded store: there is nothing to lose sight of.
    if matches!(store, Store::Redis(_)) && cache.stale_max < cache.ttl {
        let span = span_in(root, "cache", "stale_max").or_else(|| span_in(root, "cache", "ttl"));
        root.reader.warning(
            span,
            "`stale_max` is shorter than `ttl`: it alone says how long keys work without Redis",
            "make `stale_max` longer, or `ttl` as short",
        );
    }
}

pub(crate) fn read_log(root: &Section<'_, '_>) -> Option<Log> {
    let section = root.child("log", &log::TABLE)?;
    section.get(&log::LEVEL).map(|level| Log { level })
}

pub(crate) fn read_audit(root: &Section<'_, '_>) -> Option<AuditSink> {
    let section = root.child("audit", &audit::TABLE)?;
    let sink = section.get(&audit::SINK)?;
    let refuse_path = || {
        let help = "remove it, or write `sink = \"file\"`";
        section.refuse_key("path", "means nothing unless the sink is a file", help);
    };
    match sink {
        AuditSinkKind::Off => {
            refuse_path();
            Some(AuditSink::Off)
        }
        AuditSinkKind::Stdout => {
            refuse_path();
            Some(AuditSink::Stdout)
        }
        AuditSinkKind::File => section.get(&audit::PATH).map(AuditSink::File),
    }
}
