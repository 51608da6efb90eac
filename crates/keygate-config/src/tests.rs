//! Guarantees about a file as a whole. A case is a file, or a part of one, and how its report looks.

use std::io;
use std::path::Path;

use super::*;
use keygate_core::Access;

mod any_input;
mod certificates;
mod clashes;
mod confidential;
mod imported;
mod limits;
mod redis;
mod route_work;

const EXAMPLE: &str = include_str!("../../../gateway.toml");
/// What a file needs for the rest of it to be judged. Cases begin on line 4.
const HEAD: &str = "[server]\nlisten = [\"127.0.0.1:8080\"]\nthreads = 2\n";
const UPSTREAM: &str = "[upstreams.orders]\ntargets = [\"127.0.0.1:9000\"]\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("orders.internal".to_owned()),
        "EMPTY" => Some(String::new()),
        "WORDS" => Some("hunter2-hunter2".to_owned()),
        "DIGITS" => Some("7357073".to_owned()),
        "ADDRESS" => Some("localhost:53570".to_owned()),
        "REDIS_PASSWORD" => Some("hunter2-fleet".to_owned()),
        "NEWLINE" => Some("\n".to_owned()),
        "URL" => Some("http://hunter2/?*#".to_owned()),
        _ => None,
    }
}

/// What files hold. No report may tell anything of it.
fn file(path: &Path, _: usize) -> io::Result<Vec<u8>> {
    let certificate = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
    match path.strip_prefix("/etc/keygate").ok().and_then(Path::to_str) {
        Some("redis.password") => Ok(b"hunter2-redis\n".to_vec()),
        Some("sentinel.password") => Ok(b"hunter2-sentinel\r\n".to_vec()),
        Some("blank.password") => Ok(b"  hunter2  \n".to_vec()),
        Some("bare.password") => Ok(b"hunter2".to_vec()),
        Some("empty.password") => Ok(b"\n".to_vec()),
        Some("lines.password") => Ok(b"hunter2\n\n".to_vec()),
        Some("binary.password") => Ok(b"hunter2\xff".to_vec()),
        Some("long.password") => Ok(b"hunter2".repeat(10_000)),
        Some("ca.pem" | "gateway.crt") => Ok(certificate.into()),
        Some("gateway.key") => Ok(key.into()),
        Some("both.pem") => {
            Ok(format!("hunter2\r\n{certificate}{key}").replace('\n', "\r\n").into())
        }
        Some("encrypted.key") => Ok(key.replace("PRIVATE", "ENCRYPTED PRIVATE").into()),
        Some("old.key") => {
            Ok(key.replace("KEY-----\nh", "KEY-----\nProc-Type: 4,ENCRYPTED\nh").into())
        }
        Some("long.pem") => Ok(certificate.repeat(20_000).into()),
        Some("closed") => Err(io::ErrorKind::PermissionDenied.into()),
        Some(name) => certificates::real(name).ok_or_else(|| io::ErrorKind::NotFound.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn parsed(text: &str) -> Result<Config, Report> {
    let folder = Path::new("/etc/keygate");
    let source = Source::alone("gateway.toml", text, folder);
    parse(Source { environment: &environment, files: &file, ..source })
}

fn report(text: &str) -> String {
    match parsed(text) {
        Ok(config) => format!("no problem; warnings: {:?}", config.warnings),
        Err(report) => report.to_string(),
    }
}

/// The one problem of a file that begins with a valid `[server]`: its place, message and help.
fn check(part: &str, expect: &str) {
    let text = format!("{HEAD}{part}");
    let found: Vec<String> = match parsed(&text) {
        Ok(config) => config.warnings.iter().map(|warning| format!("warning: {warning}")).collect(),
        Err(report) => report.into_lines(),
    };
    assert_eq!(found.join("\n").replace("gateway.toml:", ""), expect, "{text}");
}

/// The same for the keys of one route, on line 8 and below.
fn check_route(keys: &str, expect: &str) {
    let whole = format!("name = \"a\"\nupstream = \"orders\"\n{keys}");
    check(&format!("{UPSTREAM}[[routes]]\n{whole}"), expect);
}

fn settings_of(part: &str) -> Config {
    parsed(&format!("{HEAD}{part}")).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_shipped_example_has_no_problem() {
    let config = parsed(EXAMPLE).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let routes: Vec<&str> = config.routes.routes().iter().map(|route| &*route.name).collect();
    assert_eq!(routes, ["orders.read", "orders.write", "health"]);
    assert!(config.tier("free").is_some());
}

#[test]
fn the_shipped_example_is_right_about_redis_too() {
    let mut text = EXAMPLE.replace("kind = \"embedded\"", "").replace("path = \"data/", "#");
    for key in ["kind", "urls", "password"] {
        text = text.replace(&format!("\n# {key} = "), &format!("\n{key} = "));
    }
    let config = parsed(&text).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let Store::Redis(store) = config.store else { panic!("not Redis") };
    assert!(store.login.password.is_some());
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = settings_of("");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9901");
    assert_eq!(config.keys.pepper_file, Path::new("/etc/keygate/data/pepper"));
    assert_eq!(config.server.header_bytes_max, 32 << 10);
    assert_eq!(config.server.keepalive_timeout.as_secs(), 75);
    assert_eq!(config.cache.keys_max, 1_000_000);
    assert_eq!(config.cache.stale_max.as_secs(), 600);
    assert_eq!(config.log.level, LogLevel::Info);
    assert_eq!(config.audit, AuditSink::Off);
    assert_eq!(config.warnings.len(), 1, "no route: {:?}", config.warnings);
}

#[test]
fn a_report_shows_the_line_underlined_and_what_was_meant() {
    assert_eq!(
        report("[server]\nlisten = [\"127.0.0.1:80\"]\nkeepalive_timout = \"75s\"\n"),
        "\
error: unknown key `keepalive_timout` in `[server]`
 --> gateway.toml:3:1
  |
3 | keepalive_timout = \"75s\"
  | ^^^^^^^^^^^^^^^^
  |
  = help: did you mean `keepalive_timeout`?"
    );
    assert_eq!(
        report("[server]\n  listen = [\"127.0.0.1:80\", \"localhöst\"] # two\n"),
        "\
error: not an address to listen on
 --> gateway.toml:2:29
  |
2 |   listen = [\"127.0.0.1:80\", \"localhöst\"] # two
  |                             ^^^^^^^^^^^
  |
  = help: write an IP address and a port, such as `\"127.0.0.1:8080\"` or `\"[::]:8080\"`"
    );
}

#[test]
fn ten_mistakes_are_ten_problems_in_one_run() {
    let text = "\
[sever]
[server]
listen = [\"127.0.0.1:8080\", \"nowhere\"]
header_timeout = \"10\"
headers_max = \"many\"
body_bytes_max = \"9999TiB\"
[admin]
listen = \"0.0.0.0:9901\"
[upstreams.orders]
targets = []
[[routes]]
name = \"orders\"
path = \"/v1//orders\"
upstream = \"order\"
scopes = [\"orders\", \"read:orders\"]
";
    let report = parsed(text).unwrap_err();
    let found: Vec<String> = report
        .problems()
        .iter()
        .map(|problem| format!("{} {}", problem.line().unwrap(), problem.message()))
        .collect();
    assert_eq!(
        found,
        [
            "1 unknown key `sever` in `gateway.toml`",
            "3 not an address to listen on",
            "4 a duration needs a unit",
            "5 expected a whole number, found a string",
            "6 `body_bytes_max` is out of range: `0B` to `1TiB`",
            "8 the admin API would be open to the network without TLS",
            "10 `targets` is out of range: 1 to 256 elements",
            "11 `auth` is missing in `[[routes]]`",
            "13 not a path: a path may not hold `//`",
            "14 this upstream is not defined",
            "15 not a scope: write `action:resource`, such as `read:orders`, or `read:*`; \
             lower-case letters, digits, `_`, `-` and `.`, at most 64 characters",
        ]
    );
}

#[test]
fn broken_syntax_is_reported_with_what_else_is_wrong() {
    let text =
        "[server]\nlisten = [\"127.0.0.1:8080\"\nthreads = 2\n[log]\nlevel = \"inf\"\nx = \n";
    let report = parsed(text).unwrap_err();
    let lines: Vec<Option<usize>> = report.problems().iter().map(Problem::line).collect();
    assert!(lines.contains(&Some(6)) && lines.len() >= 2, "{report}");
    check("threads = 3\n", "4:1: duplicate key");
}

#[test]
fn wrong_values_say_what_is_right() {
    check("headers_max = 0", "4:15: `headers_max` is out of range: 1 to 256");
    check("headers_max = -5", "4:15: a number here cannot be below 0");
    check("headers_max = 0x1_01", "4:15: `headers_max` is out of range: 1 to 256");
    check(
        "headers_max = 99999999999999999999999999",
        "4:15: `headers_max` is out of range: 1 to 256",
    );
    check("headers_max = 1.5", "4:15: expected a whole number, found a number with a fraction");
    check("drain_timeout = 30", "4:17: a duration needs a unit; write a unit: `\"30s\"`");
    check("drain_timeout = \"30\"", "4:17: a duration needs a unit; write a unit: `\"30s\"`");
    check("drain_timeout = \"2d\"", "4:17: `drain_timeout` is out of range: `0s` to `1d`");
    check("header_timeout = \"0s\"", "4:18: `header_timeout` is out of range: `1ms` to `1d`");
    check(
        "drain_timeout = \"soon\"",
        "4:17: not a duration; write a number and a unit: `500ms`, `10s`, `5m`, `1h` or `1d`",
    );
    check("body_bytes_max = 512", "4:18: a size needs a unit; write a unit: `\"512B\"`");
    check(
        "body_bytes_max = \"1 potato\"",
        "4:18: not a size; write a number and a unit: `512B`, `32KiB`, `10MiB` or `1GiB`",
    );
    check(
        "trusted_proxies = \"10.0.0.0/8\"",
        "4:19: expected a list of networks, found a string; write `[\"10.0.0.0/8\"]`",
    );
    check(
        "trusted_proxies = [\"10.0.0.0/33\"]",
        "4:20: not a network; write an address or CIDR, such as `\"10.0.0.0/8\"` or `\"192.0.2.7\"`",
    );
    check(
        "[admin]\ninsecure = \"no\"",
        "5:12: expected a boolean, found a string; write `true` or `false`, without quotes",
    );
    check(
        "[log]\nlevel = \"warning\"",
        "5:9: not one of the words that are known here; did you mean `\"warn\"`?",
    );
    check(
        "[log]\nlevel = \"x\"",
        "5:9: not one of the words that are known here; write `\"error\"` or `\"warn\"` or `\"info\"` or `\"debug\"` or `\"trace\"`",
    );
    check("[cache]\nttl = true", "5:7: expected a duration, found a boolean");
    check(
        "[server.failed_auth]\nrate = \"60\"",
        "5:8: a rate needs a unit; write a unit: `\"60/s\"`",
    );
    check(
        "[keys]\nbrand = \"sk\"",
        "5:9: a brand is 2 to 16 lower-case letters and digits, begins with a letter, and is not sk, pk or rk",
    );
    check("[keys]\nsources = [\"basic\", \"basic\"]", "5:21: this is in the list already");
    check("[keys]\npepper_file = \"\"", "5:15: not the name of a file");
    check(
        "[keys]\nprevious_pepper_files = [\"data/pepper\"]",
        "5:26: this is `pepper_file` already",
    );
    check(
        "[store]\nkind = \"redi\"",
        "5:8: not one of the words that are known here; did you mean `\"redis\"`?",
    );
    check(
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        "5:10: `[server]` and `[admin]` cannot listen on the same address; give each a port of its own",
    );
}

#[test]
fn tables_in_the_wrong_shape_say_how_to_write_them() {
    check("[[cache]]", "4:1: expected a table, found a list; write `[cache]`");
    check(
        "[routes]\nname = \"a\"",
        "4:1: expected a list of tables, found a table; write each route under `[[routes]]`, with two brackets",
    );
    check(
        "[upstreams]\norders = \"127.0.0.1:9000\"",
        "5:10: expected a table, found a string; write `[upstreams.NAME]`",
    );
    check(
        "[upstreams.Orders]\ntargets = [\"a:1\"]",
        "4:12: not a name; a name is 1 to 64 lower-case letters, digits, `.`, `_` and `-`",
    );
}

#[test]
fn an_upstreams_targets_are_host_and_port() {
    let target = |text: &str, expect: &str| {
        check(&format!("[upstreams.a]\ntargets = [\"{text}\"]"), expect);
    };
    const HELP: &str = "write `host:port`, such as `\"127.0.0.1:9000\"`";
    target("http://a:80", &format!("5:12: a target has no `http://`; {HELP}"));
    target("a:80/x", &format!("5:12: a target has no path; {HELP}"));
    target("a", &format!("5:12: a target needs a port; {HELP}"));
    target("a:0", &format!("5:12: a target needs a port from 1 to 65535; {HELP}"));
    target("a:65536", &format!("5:12: a target needs a port from 1 to 65535; {HELP}"));
    target("a b:80", &format!("5:12: not a host name; {HELP}"));
    target("[::1]", &format!("5:12: a target needs a port from 1 to 65535; {HELP}"));
    target("[::g]:80", &format!("5:12: not an IPv6 address; {HELP}"));
    target("::1:80", "5:12: an IPv6 address needs brackets; write `\"[2001:db8::1]:9000\"`");
    let config =
        settings_of("[upstreams.a]\ntargets = [\"${HOST}:9000\", \"[::1]:80\", \"A.example.:1\"]");
    let targets = config.upstreams[0].targets.iter().map(|one| one.target.to_string());
    let targets: Vec<String> = targets.collect();
    assert_eq!(targets, ["orders.internal:9000", "[::1]:80", "a.example:1"]);
    assert_eq!(&*config.upstreams[0].targets[1].target.host, "::1");
}

#[test]
fn a_route_must_say_who_may_use_it() {
    let path = "path = \"/a\"\n";
    check_route(
        path,
        "6:1: `auth` is missing in `[[routes]]`; say `auth = \"key\"` or `auth = \"public\"`",
    );
    check_route(
        &format!("{path}auth = \"none\""),
        "10:8: not one of the words that are known here; write `\"key\"` or `\"public\"`",
    );
    for key in [
        "environment = \"test\"",
        "scopes = [\"read:a\"]",
        "any_scopes = []",
        "query_param = \"k\"",
        "cost = 1",
        "end_when_revoked = true",
    ] {
        let name = key.split(' ').next().unwrap();
        let expect = format!(
            "10:1: `{name}` means nothing on a public route; remove it, or write `auth = \"key\"`"
        )
        .replace("10:", "11:");
        check_route(&format!("{path}auth = \"public\"\n{key}"), &expect);
    }
}

#[test]
fn a_routes_keys_are_checked() {
    let route = |key: &str, expect: &str| {
        check_route(&format!("auth = \"key\"\npath = \"/a\"\n{key}"), expect)
    };
    route("host = \"a.example:8080\"", "11:8: not a host name; write the host without its port");
    route(
        "host = \"https://a.example\"",
        "11:8: not a host name; write the host alone: no `https://`, no path",
    );
    route(
        "host = \"*.example\"",
        "11:8: not a host name; there are no wildcards: leave `host` out to serve any host",
    );
    route(
        "host = \"a b\"",
        "11:8: not a host name; write a name such as `api.example.com`, or an address",
    );
    route("methods = [\"get\"]", "11:12: not an HTTP method; did you mean `\"GET\"`?");
    route("methods = []", "11:11: `methods` is out of range: 1 to 32 elements");
    route("methods = [\"GET\", \"GET\"]", "11:19: this is in the list already");
    route(
        "environment = \"prod\"",
        "11:15: not one of the words that are known here; write `\"live\"` or `\"test\"`",
    );
    route(
        "query_param = \"api key\"",
        "11:15: not the name of a query parameter that keygate can look for; write 1 to 64 letters, digits, `_` and `-`",
    );
    route("any_scopes = [\"read:a\", \"read:a\"]", "11:25: this is in the list already");
    let path = |text: &str, expect: &str| {
        check_route(&format!("auth = \"key\"\npath = \"{text}\""), expect)
    };
    path(
        "/a?b",
        "10:8: a path holds no query and no fragment; write `%3F` or `%23` if the path itself holds that character",
    );
    path(
        "/a/",
        "10:8: not a path: a path is a prefix: write it without the slash at its end; write a prefix of whole segments, such as `/v1/orders/{id}`",
    );
    path(&format!("/{}", "a/".repeat(600)), "10:8: a path has at most 1024 bytes");
}

#[test]
fn routes_that_serve_the_same_requests_name_each_other() {
    let route = |name: &str, path: &str, rest: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"orders\"\nauth = \"key\"\n{rest}\n"
        )
    };
    let first = route("a", "/v1/{x}", "host = \"API.example.\"");
    let second = route("b", "/v1/{y}", "host = \"api.example\"");
    check(
        &format!("{UPSTREAM}{first}{second}"),
        "14:8: this route and \"a\" on line 7 serve the same requests; \
         give one of them another `host`, another `path` or other `methods`",
    );
    let other = route("a", "/v2", "");
    check(
        &format!("{UPSTREAM}{first}{other}"),
        "13:8: two routes have this name; the route on line 7 is called that too: change one of them",
    );
    let fine = route("b", "/v1/{y}", "");
    check(&format!("{UPSTREAM}{first}{fine}"), "");
}

#[test]
fn warnings_are_for_what_is_legal_and_probably_not_meant() {
    check(
        "",
        "warning: 1:1: there is no route; \
         add `[[routes]]`, or every request is answered with 404",
    );
    let route = "[[routes]]\nname=\"a\"\npath=\"/\"\nupstream=\"orders\"\nauth=\"public\"\n";
    check(
        &format!("{UPSTREAM}{route}[upstreams.other]\ntargets = [\"a:1\"]\n"),
        "warning: 11:1: no route uses upstream `other`; \
         write `upstream = \"other\"` in a route, or remove it",
    );
    check(&format!("{UPSTREAM}{route}[tiers.free]\nrate = \"10/s\"\nburst = 20\n"), "");
}

#[test]
fn the_admin_api_leaves_loopback_only_on_request() {
    let listen = |address: &str, rest: &str| {
        parsed(&format!("{HEAD}[admin]\nlisten = \"{address}\"\n{rest}"))
    };
    for address in ["0.0.0.0:9901", "[::]:9901", "192.0.2.1:9901", "[::ffff:192.0.2.1]:9901"] {
        assert!(listen(address, "").is_err(), "{address}");
        assert!(listen(address, "insecure = false").is_err(), "{address}");
        assert!(listen(address, "insecure = true").is_ok(), "{address}");
    }
    for address in ["127.0.0.1:9901", "127.8.8.8:1", "[::1]:9901", "[::ffff:127.0.0.1]:9901"] {
        assert!(listen(address, "").is_ok(), "{address}");
    }
}

#[test]
fn what_a_route_asks_for_arrives_in_the_table() {
    let config = settings_of(&format!(
        "{UPSTREAM}[[routes]]\nname=\"a\"\npath=\"/a\"\nupstream=\"orders\"\nauth=\"key\"\n\
         scopes=[\"read:a\"]\nany_scopes=[\"write:a\",\"run:a\"]\nenvironment=\"test\"\nquery_param=\"k\""
    ));
    let Access::Key(access) = &config.routes.routes()[0].access else { panic!("public") };
    assert_eq!(
        access.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
        ["read:a", "write:a", "run:a"]
    );
    assert_eq!(access.environment.as_str(), "test");
    assert_eq!(access.query_param.as_deref(), Some("k"));
    assert!(config.routes.routes()[0].ends_when_revoked);
    let config = settings_of(&format!(
        "{UPSTREAM}[[routes]]\nname=\"a\"\npath=\"/a\"\nupstream=\"orders\"\nauth=\"key\"\n\
         end_when_revoked=false"
    ));
    assert!(!config.routes.routes()[0].ends_when_revoked);
}
