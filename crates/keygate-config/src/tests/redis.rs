//! Guarantees about `[store] kind = "redis"`: what arrives and what is refused. Passwords and
//! certificates have a file of their own.

use std::time::Duration;

use super::*;

/// Every setting of its own, each other than by default.
pub(super) const REDIS: &str = r#"[store]
kind = "redis"
urls = ["rediss://Redis-1.example", "rediss://[::1]:7000"]
mode = "sentinel"
sentinel_service = "keygate"
sentinel_username = "watcher"
sentinel_password_file = "sentinel.password"
username = "gateway"
password_file = "redis.password"
database = 3
key_prefix = "Prod.eu-1"
ca_file = "ca.pem"
cert_file = "gateway.crt"
key_file = "gateway.key"
connections = 4
connect_timeout = "2s"
find_timeout = "50ms"
write_timeout = "3s"
wait_replicas = 2
wait_timeout = "500ms"
log_max = 50_000
[cache]
stale_max = "5m"
"#;

pub(super) const URL: &str = "urls = [\"redis://127.0.0.1\"]\n";

/// The one problem of a Redis store with these settings, which begin on line 6.
pub(super) fn check_redis(settings: &str, expect: &str) {
    check(&format!("[store]\nkind = \"redis\"\n{settings}"), expect);
}

/// The same where everything else is well, from line 7 on.
pub(super) fn check_beside_url(settings: &str, expect: &str) {
    check_redis(&format!("{URL}{settings}"), expect);
}

pub(super) fn redis(settings: &str) -> RedisStore {
    let config = settings_of(&format!("[store]\nkind = \"redis\"\n{settings}"));
    let Store::Redis(store) = config.store else { panic!("not Redis") };
    *store
}

pub(super) fn password(login: &RedisLogin) -> Option<&str> {
    login.password.as_ref().map(secrets::Secret::reveal)
}

fn servers(store: &RedisStore) -> Vec<String> {
    store.servers.iter().map(Target::to_string).collect()
}

#[test]
fn one_url_is_enough_and_all_else_has_a_default() {
    let store = redis(URL);
    assert!(matches!(store.mode, RedisMode::Single));
    assert_eq!(servers(&store), ["127.0.0.1:6379"]);
    assert!(store.tls.is_none());
    assert!(store.login.username.is_none() && store.login.password.is_none());
    assert_eq!((store.database, &*store.key_prefix, store.connections), (0, "keygate", 1));
    assert_eq!(store.connect_timeout, Duration::from_secs(1));
    assert_eq!(store.find_timeout, Duration::from_millis(100));
    assert_eq!(store.write_timeout, Duration::from_secs(2));
    assert_eq!((store.wait_replicas, store.wait_timeout), (0, Duration::from_secs(1)));
    assert_eq!(store.log_max, 1_000_000);
}

#[test]
fn every_setting_arrives() {
    let config = settings_of(REDIS);
    assert_eq!(config.warnings.len(), 1, "no route: {:?}", config.warnings);
    assert_eq!(config.cache.stale_max, Duration::from_secs(300));
    let Store::Redis(store) = config.store else { panic!("not Redis") };
    let RedisMode::Sentinel { service, login } = &store.mode else { panic!("no sentinels") };
    assert_eq!((&**service, login.username.as_deref()), ("keygate", Some("watcher")));
    assert_eq!(password(login), Some("hunter2-sentinel"));
    assert_eq!(servers(&store), ["redis-1.example:26379", "[::1]:7000"]);
    assert_eq!(store.login.username.as_deref(), Some("gateway"));
    assert_eq!(password(&store.login), Some("hunter2-redis"));
    assert_eq!((store.database, &*store.key_prefix, store.connections), (3, "Prod.eu-1", 4));
    let tls = store.tls.as_ref().unwrap();
    let client = tls.client.as_ref().unwrap();
    assert!(tls.ca.as_ref().unwrap().starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert!(client.certificate.starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert!(client.key.reveal().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(store.connect_timeout, Duration::from_secs(2));
    assert_eq!(store.find_timeout, Duration::from_millis(50));
    assert_eq!(store.write_timeout, Duration::from_secs(3));
    assert_eq!((store.wait_replicas, store.wait_timeout), (2, Duration::from_millis(500)));
    assert_eq!(store.log_max, 50_000);
}

#[test]
fn a_cluster_is_named_by_some_of_its_nodes() {
    let store = redis("mode = \"cluster\"\nurls = [\"redis://a:1\", \"redis://b\"]\ndatabase = 0");
    assert!(matches!(store.mode, RedisMode::Cluster));
    assert_eq!(servers(&store), ["a:1", "b:6379"]);
}

#[test]
fn settings_of_the_other_kind_say_so() {
    const EMBEDDED: &str = "is for Redis, and this store is embedded; \
                            remove it, or write `kind = \"redis\"`";
    check_beside_url(
        "path = \"a\"",
        "7:1: `path` is for the embedded store, and this is Redis; \
         remove it, or write `kind = \"embedded\"`",
    );
    let all_but_kind = REDIS.lines().skip(2).take_while(|line| !line.starts_with("[cache]"));
    for line in all_but_kind {
        let key = line.split(' ').next().unwrap();
        let expect = format!("6:1: `{key}` {EMBEDDED}");
        check(&format!("[store]\nkind = \"embedded\"\n{line}"), &expect);
    }
    check("[store]\ndatabase = 3", &format!("5:1: `database` {EMBEDDED}"));
}

#[test]
fn who_forgets_the_kind_learns_of_that_and_of_the_rest() {
    check(
        "[store]\nurls = [\"redis://a\"]\nlog_max = 5",
        "5:1: `urls` is for Redis, and the store is embedded by default; \
         write `kind = \"redis\"` too, or remove it\n\
         6:11: `log_max` is out of range: 1000 to 100000000",
    );
    check(
        "[store]\nkind = \"rediss\"\nurls = [\"redis://a\"]\nlog_max = 5",
        "5:8: not one of the words that are known here; did you mean `\"redis\"`?\n\
         7:11: `log_max` is out of range: 1000 to 100000000",
    );
    check(
        "[store]\nkind = 5\npath = \"\"",
        "5:8: expected a word, found a whole number\n6:8: not the name of a file",
    );
    check_redis(
        "",
        "4:1: `urls` is missing in `[store]`; \
         write where Redis is: `urls = [\"redis://127.0.0.1:6379\"]`",
    );
    check_redis(
        "url = [\"redis://a\"]\nurls = []",
        "6:1: unknown key `url` in `[store]`; did you mean `urls`?\n\
         7:8: `urls` is out of range: 1 to 64 elements",
    );
}

#[test]
fn a_url_is_a_scheme_a_host_and_a_port() {
    const EXAMPLE: &str =
        "write `\"redis://127.0.0.1:6379\"`, or `\"rediss://127.0.0.1:6379\"` for TLS";
    let url = |text: &str, expect: &str| {
        check_redis(&format!("urls = [\"{text}\"]"), &format!("6:9: {expect}"));
    };
    for text in ["127.0.0.1:6379", "http://a", "unix:///run/redis", "REDIS://a", "redis:a", ""] {
        url(text, &format!("not the URL of a Redis; {EXAMPLE}"));
    }
    for text in ["redis://", "redis://:6379", "redis://a b"] {
        url(text, &format!("not a host name; {EXAMPLE}"));
    }
    for text in ["redis://a:", "redis://a:0", "redis://a:65536", "redis://[::1]:x"] {
        url(text, &format!("a port is a number from 1 to 65535; {EXAMPLE}"));
    }
    url("redis://[::g]", &format!("not an IPv6 address; {EXAMPLE}"));
    for text in ["redis://::1", "redis://2001:db8::a"] {
        url(text, "an IPv6 address needs brackets; write `\"redis://[2001:db8::1]:6379\"`");
    }
    for text in ["redis://x@a", "redis://:x@a:1", "rediss://u:x@a/0?b#c"] {
        url(
            text,
            "a URL here holds no user and no password; \
             write `username`, and `password_file` or `password = \"${NAME}\"`; \
             for sentinels `sentinel_username` and `sentinel_password_file`",
        );
    }
    url("redis://a/3", "a URL here holds no database; write `database = 3` under `[store]`");
    for text in ["redis://a/", "redis://a:1/x", "redis://a/3/4"] {
        url(
            text,
            "a URL here holds no path; end it with the port; the database is the setting `database`",
        );
    }
    for text in ["redis://a?x=1", "rediss://a/#insecure"] {
        url(
            text,
            "a URL here holds no query and no fragment; \
             timeouts, certificates and all else are settings of `[store]`",
        );
    }
    check_redis(
        "urls = \"redis://a\"",
        "6:8: expected a list of URLs, found a string; write `[\"redis://a\"]`",
    );
}

#[test]
fn the_urls_fit_each_other_and_the_mode() {
    check_redis(
        "urls = [\"redis://a\", \"redis://b\"]",
        "6:22: a single Redis has one URL; \
         name one server, or write `mode = \"sentinel\"` or `mode = \"cluster\"`",
    );
    check_redis(
        "mode = \"cluster\"\nurls = [\"redis://a\", \"rediss://b\"]",
        "7:22: some of the URLs are with TLS and some are not; \
         begin all of them with `rediss://`, or all with `redis://`",
    );
    check_redis(
        "mode = \"cluster\"\nurls = [\"redis://a\", \"redis://A:6379\"]",
        "7:22: this is in the list already",
    );
    check_beside_url(
        "mode = \"clutser\"",
        "7:8: not one of the words that are known here; did you mean `\"cluster\"`?",
    );
    check_beside_url(
        "mode = \"cluster\"\ndatabase = 1",
        "8:1: `database` is not 0, and a cluster has only database 0; \
         remove it: gateways that share a cluster differ by `key_prefix`",
    );
}

#[test]
fn what_is_for_sentinels_needs_sentinels_and_they_need_a_service() {
    check_beside_url(
        "mode = \"sentinel\"",
        "4:1: `sentinel_service` is missing in `[store]`; \
         write what the sentinels call the primary: `sentinel_service = \"mymaster\"`",
    );
    check_beside_url(
        "mode = \"sentinel\"\nsentinel_service = \"my master\"",
        "8:20: not what sentinels can call a primary; \
         write the name after `sentinel monitor` in their configuration",
    );
    check_beside_url(
        "mode = \"sentinel\"\nsentinel_service = \"a\"\nsentinel_username = \"b\"",
        "9:1: `sentinel_username` means nothing without a password; write `sentinel_password_file` too",
    );
    for mode in ["single", "cluster"] {
        for line in [
            "sentinel_service = \"a\"",
            "sentinel_username = \"b\"",
            "sentinel_password_file = \"c\"",
        ] {
            let key = line.split(' ').next().unwrap();
            check_beside_url(
                &format!("mode = \"{mode}\"\n{line}"),
                &format!(
                    "8:1: `{key}` means nothing without sentinels; \
                     remove it, or write `mode = \"sentinel\"`"
                ),
            );
        }
    }
}

#[test]
fn numbers_and_names_have_bounds() {
    let bounds = |setting: &str, expect: &str| {
        let (key, value) = setting.split_once(" = ").unwrap();
        let column = key.len() + 4;
        let expect = format!("7:{column}: `{key}` is out of range: {expect}");
        check_beside_url(&format!("{key} = {value}"), &expect);
    };
    bounds("database = 1024", "0 to 1023");
    bounds("connections = 0", "1 to 16");
    bounds("connect_timeout = \"2m\"", "`1ms` to `1m`");
    bounds("find_timeout = \"3s\"", "`1ms` to `2s`");
    bounds("write_timeout = \"0s\"", "`1ms` to `1m`");
    bounds("wait_replicas = 17", "0 to 16");
    bounds("wait_timeout = \"2m\"", "`1ms` to `1m`");
    bounds("log_max = 999", "1000 to 100000000");
    check("[cache]\nstale_max = \"500ms\"", "5:13: `stale_max` is out of range: `1s` to `1d`");
    for prefix in ["", "{a}", "a:b", &"a".repeat(33)] {
        check_beside_url(
            &format!("key_prefix = \"{prefix}\""),
            "7:14: not a prefix for names in Redis; write 1 to 32 letters, digits, `.`, `_` and `-`",
        );
    }
}

#[test]
fn passwords_on_an_open_network_and_a_short_stale_max_are_warned_of() {
    const OPEN: &str = "the password is sent to Redis in clear text; \
                        write `rediss://`, unless the network itself is trusted";
    let warnings = |text: &str| {
        let text = format!("[store]\nkind = \"redis\"\n{text}");
        let mut warnings = settings_of(&text).warnings;
        warnings.retain(|warning| !warning.contains("there is no route"));
        warnings.join("\n").replace("gateway.toml:", "")
    };
    let with = |urls: &str| {
        warnings(&format!("mode = \"cluster\"\nurls = [{urls}]\npassword = \"${{WORDS}}\""))
    };
    assert_eq!(with("\"redis://127.0.0.1\", \"redis://a\""), format!("7:30: {OPEN}"));
    assert_eq!(with("\"redis://10.0.0.1\""), format!("7:9: {OPEN}"));
    assert_eq!(with("\"redis://127.0.0.2\", \"redis://[::1]\", \"redis://LOCALHOST\""), "");
    assert_eq!(with("\"rediss://a\""), "");
    assert_eq!(warnings("urls = [\"redis://a\"]"), "");
    let sentinel = "urls = [\"redis://a\"]\nmode = \"sentinel\"\nsentinel_service = \"a\"\n";
    let sentinel_password = "sentinel_password_file = \"sentinel.password\"";
    assert_eq!(warnings(&format!("{sentinel}{sentinel_password}")), format!("6:9: {OPEN}"));

    const SHORT: &str = "`stale_max` is shorter than `ttl`: it alone says how long keys work without Redis; \
         make `stale_max` longer, or `ttl` as short";
    assert_eq!(warnings(&format!("{URL}[cache]\nstale_max = \"59s\"")), format!("8:13: {SHORT}"));
    assert_eq!(warnings(&format!("{URL}[cache]\nttl = \"1h\"")), format!("8:7: {SHORT}"));
    assert_eq!(warnings(&format!("{URL}[cache]\nstale_max = \"60s\"")), "");
    let embedded = settings_of("[cache]\nttl = \"1h\"").warnings;
    assert_eq!(embedded.len(), 1, "no route: {embedded:?}");
}
