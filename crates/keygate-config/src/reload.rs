//! What differs between two configurations, and what of it a running gateway cannot take over.
//!
//! Names of settings, never values.

use std::mem::discriminant;
use std::net::SocketAddr;

use keygate_core::Route;

use crate::{AuditSink, Config, RedisStore, Server, Store};

impl Config {
    /// The sections in which `next` is another configuration, such as `tiers`, in the order of the
    /// file.
    #[must_use]
    pub fn differences(&self, next: &Self) -> Vec<&'static str> {
        let sections = [
            ("server", self.server != next.server),
            ("admin", self.admin != next.admin),
            ("keys", self.keys != next.keys),
            ("store", self.store != next.store),
            ("cache", self.cache != next.cache),
            ("log", self.log != next.log),
            ("audit", self.audit != next.audit),
            ("usage", self.usage != next.usage),
            ("access_log", self.access_log != next.access_log),
            ("tracing", self.tracing != next.tracing),
            ("limits", self.limits != next.limits),
            ("tiers", self.tiers != next.tiers),
            ("upstreams", self.upstreams != next.upstreams),
            ("routes", !self.has_routes_of(next)),
        ];
        sections.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// The settings of `next` that a gateway which began with `self` takes over at its next start
    /// only, such as `[server] listen`, in the order of the file.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let fixed = FIXED.iter().filter(|(_, differs)| differs(self, next)).map(|(name, _)| *name);
        fixed.chain(store_differences(&self.store, &next.store)).collect()
    }

    fn has_routes_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.routes.routes(), other.routes.routes());
        ours.len() == theirs.len()
            && self.route_settings == other.route_settings
            && ours.iter().zip(theirs).all(|(ours, theirs)| {
                let Route { name, host, path, methods, access, upstream, ends_when_revoked } = ours;
                *name == theirs.name
                    && *host == theirs.host
                    && *path == theirs.path
                    && *methods == theirs.methods
                    && *access == theirs.access
                    && *ends_when_revoked == theirs.ends_when_revoked
                    // A place in a list that may have changed.
                    && upstream.map(|place| self.upstream_name(place))
                        == theirs.upstream.map(|place| other.upstream_name(place))
            })
    }

    fn upstream_name(&self, place: usize) -> Option<&str> {
        self.upstreams.get(place).map(|upstream| &*upstream.name)
    }
}

type Differs = fn(&Config, &Config) -> bool;

/// What is bound, opened or sized once, beside the store. All else is read where it is used, and
/// changes while the gateway runs.
const FIXED: &[(&str, Differs)] = &[
    ("[server] listen", |a, b| a.server.listen != b.server.listen),
    ("[server] threads", |a, b| a.server.threads != b.server.threads),
    ("[server] upstream_idle_max", |a, b| a.server.upstream_idle_max != b.server.upstream_idle_max),
    ("[[server.tls]] listen", |a, b| !has_tls_listeners_of(&a.server, &b.server)),
    ("[admin] listen", |a, b| a.admin.listen != b.admin.listen),
    ("[admin] token_file", |a, b| a.admin.token_file != b.admin.token_file),
    ("[cache] keys_max", |a, b| a.cache.keys_max != b.cache.keys_max),
    ("[cache] ttl", |a, b| a.cache.ttl != b.cache.ttl),
    ("[cache] stale_max", |a, b| a.cache.stale_max != b.cache.stale_max),
    ("[cache] unknown_max", |a, b| a.cache.unknown_max != b.cache.unknown_max),
    ("[cache] unknown_ttl", |a, b| a.cache.unknown_ttl != b.cache.unknown_ttl),
    ("[audit] sink", |a, b| discriminant(&a.audit) != discriminant(&b.audit)),
    (
        "[audit] path",
        |a, b| matches!((&a.audit, &b.audit), (AuditSink::File(a), AuditSink::File(b)) if a != b),
    ),
    ("[usage] path", |a, b| a.usage.path != b.usage.path),
    ("[access_log] queue_max", |a, b| a.access_log.queue_max != b.access_log.queue_max),
    ("[tracing] otlp_endpoint", |a, b| a.tracing.otlp_endpoint != b.tracing.otlp_endpoint),
    ("[tracing] service_name", |a, b| a.tracing.service_name != b.tracing.service_name),
    ("[tracing] queue_max", |a, b| a.tracing.queue_max != b.tracing.queue_max),
    ("[tracing] timeout", |a, b| a.tracing.timeout != b.tracing.timeout),
    ("[limits] lease", |a, b| a.limits.lease != b.limits.lease),
];

fn has_tls_listeners_of(ours: &Server, theirs: &Server) -> bool {
    let addresses = |server: &Server| -> Vec<Vec<SocketAddr>> {
        server.tls.iter().map(|listener| listener.listen.clone()).collect()
    };
    addresses(ours) == addresses(theirs)
}

fn store_differences(ours: &Store, theirs: &Store) -> Vec<&'static str> {
    match (ours, theirs) {
        (Store::Embedded(ours), Store::Embedded(theirs)) => {
            if ours == theirs {
                Vec::new()
            } else {
                vec!["[store] path"]
            }
        }
        (Store::Redis(ours), Store::Redis(theirs)) => redis_differences(ours, theirs),
        (Store::Embedded(_), Store::Redis(_)) | (Store::Redis(_), Store::Embedded(_)) => {
            vec!["[store] kind"]
        }
    }
}

fn redis_differences(ours: &RedisStore, theirs: &RedisStore) -> Vec<&'static str> {
    let differ = [
        (
            "[store] urls",
            ours.servers != theirs.servers || ours.tls.is_some() != theirs.tls.is_some(),
        ),
        ("[store] mode", ours.mode != theirs.mode),
        ("[store] username", ours.login.username != theirs.login.username),
        ("[store] password", ours.login.password != theirs.login.password),
        ("[store] database", ours.database != theirs.database),
        ("[store] key_prefix", ours.key_prefix != theirs.key_prefix),
        ("[store] ca_file, cert_file and key_file", {
            ours.tls.as_ref().zip(theirs.tls.as_ref()).is_some_and(|(ours, theirs)| ours != theirs)
        }),
        ("[store] connections", ours.connections != theirs.connections),
        ("[store] connect_timeout", ours.connect_timeout != theirs.connect_timeout),
        ("[store] find_timeout", ours.find_timeout != theirs.find_timeout),
        ("[store] write_timeout", ours.write_timeout != theirs.write_timeout),
        ("[store] wait_replicas", ours.wait_replicas != theirs.wait_replicas),
        ("[store] wait_timeout", ours.wait_timeout != theirs.wait_timeout),
        ("[store] log_max", ours.log_max != theirs.log_max),
    ];
    differ.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalogue::TABLES;
    use crate::{Source, parse};

    /// Tables all of whose settings are read where they are used.
    const LIVE_TABLES: [&str; 13] = [
        "[keys]",
        "[tiers.NAME]",
        "[upstreams.NAME]",
        "targets = [{ … }]",
        "[upstreams.NAME.tls]",
        "[upstreams.NAME.health_check]",
        "[upstreams.NAME.ejection]",
        "[[routes]]",
        "[routes.respond]",
        "[routes.request_headers]",
        "[routes.response_headers]",
        "[routes.cors]",
        "certificates = [{ … }]",
    ];
    /// Settings that are.
    const LIVE: [&str; 37] = [
        "[server] proxy_protocol_from",
        "[server] connections_max",
        "[server] connections_per_address_max",
        "[server] body_timeout",
        "[server] handshake_timeout",
        "[[server.tls]] min_version",
        "[[server.tls]] client_ca_file",
        "[[server.tls]] client_auth",
        "[server] headers_max",
        "[server] header_bytes_max",
        "[server] body_bytes_max",
        "[server] header_timeout",
        "[server] keepalive_timeout",
        "[server] express_lane",
        "[server] trusted_proxies",
        "[server] watch_files",
        "[server] shutdown_delay",
        "[server] drain_timeout",
        "[server.failed_auth] rate",
        "[server.failed_auth] addresses_max",
        // Says no more than that an address is meant.
        "[admin] insecure",
        "[log] level",
        "[usage] flush_interval",
        "[usage] keep_minutes",
        "[usage] keep_hours",
        "[usage] keep_days",
        "[access_log] sink",
        "[access_log] path",
        "[access_log] sample",
        "[access_log] sample_refused",
        "[access_log] sample_failed",
        "[access_log] query",
        "[access_log] client_address",
        "[tracing] sample",
        "[tracing] follow_parent",
        "[limits] headers",
        "[limits] x_headers",
    ];

    const HEAD: &str = "[server]\nlisten = [\"127.0.0.1:8080\"]\n";
    const REST: &str = r#"
        [upstreams.b]
        targets = ["127.0.0.1:9000"]
        [[routes]]
        name = "all"
        path = "/"
        upstream = "b"
        auth = "public"
    "#;

    fn config(part: &str) -> Config {
        let text = format!("{HEAD}{part}{REST}");
        let source = Source::alone("gateway.toml", &text, Path::new("/nowhere"));
        parse(source).unwrap_or_else(|report| panic!("{report}"))
    }

    fn check(before: &str, after: &str, sections: &[&str], at_restart: &[&str]) {
        let (before, after) = (config(before), config(after));
        assert_eq!(before.differences(&after), sections);
        assert_eq!(before.needs_restart(&after), at_restart);
    }

    #[test]
    fn every_setting_changes_live_or_is_named_as_one_that_does_not() {
        for table in TABLES.iter().filter(|table| table.header != "[store]") {
            for setting in table.settings {
                let name = format!("{} {}", table.header, setting.key());
                let is_live = LIVE_TABLES.contains(&table.header) || LIVE.contains(&&*name);
                let is_fixed = FIXED.iter().any(|(fixed, _)| *fixed == name);
                assert!(
                    is_live != is_fixed,
                    "{name}: add it to `FIXED`, or to `LIVE` of this test"
                );
            }
        }
    }

    #[test]
    fn the_same_file_with_other_words_is_no_change() {
        check("", "", &[], &[]);
        check("# a comment\n[log]\nlevel = \"info\"\n", "", &[], &[]);
    }

    #[test]
    fn what_requests_meet_changes_live() {
        let tier = |rate: &str| format!("[tiers.free]\nrate = \"{rate}\"\n");
        check(&tier("1/s"), &tier("2/s"), &["tiers"], &[]);
        check("", "body_bytes_max = \"1KiB\"\n", &["server"], &[]);
        check("", "[keys]\npepper_file = \"another\"\n", &["keys"], &[]);
    }

    #[test]
    fn what_is_bound_or_sized_once_is_named() {
        check(
            "",
            "threads = 3\nupstream_idle_max = 1\ndrain_timeout = \"1s\"\n",
            &["server"],
            &["[server] threads", "[server] upstream_idle_max"],
        );
        check(
            "",
            "[store]\npath = \"b.db\"\n[cache]\nttl = \"1s\"\n",
            &["store", "cache"],
            &["[cache] ttl", "[store] path"],
        );
        let redis = |lines: &str| {
            format!("[store]\nkind = \"redis\"\nurls = [\"redis://127.0.0.1\"]\n{lines}\n")
        };
        check("", &redis(""), &["store"], &["[store] kind"]);
        check(
            &redis(""),
            &redis("database = 1\nlog_max = 2000"),
            &["store"],
            &["[store] database", "[store] log_max"],
        );
    }

    #[test]
    fn every_setting_of_a_store_is_named_when_it_differs() {
        let redis = |lines: &str| {
            config(&format!("[store]\nkind = \"redis\"\nurls = [\"redis://127.0.0.1\"]\n{lines}\n"))
        };
        let (plain, named) = (redis(""), |lines: &str| redis("").needs_restart(&redis(lines)));
        assert_eq!(plain.needs_restart(&redis("")), [""; 0]);
        for (key, value) in [
            ("key_prefix", "\"p\""),
            ("connections", "2"),
            ("connect_timeout", "\"2s\""),
            ("find_timeout", "\"200ms\""),
            ("write_timeout", "\"3s\""),
            ("wait_replicas", "1"),
            ("wait_timeout", "\"2s\""),
        ] {
            assert_eq!(named(&format!("{key} = {value}")), [format!("[store] {key}")]);
        }
    }

    #[test]
    fn an_upstream_that_comes_first_does_not_change_the_routes_after_it() {
        let first = "[upstreams.a]\ntargets = [\"127.0.0.1:9001\"]\n";
        check("", first, &["upstreams"], &[]);
    }
}
