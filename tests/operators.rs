//! The operator's side from outside: who gets in, what is written down, and what is never shown.

use std::fs;

use serde_json::json;

use crate::harness::{
    Connection, KeySpec, Process, Request, Setup, Upstream, eventually, free_address, get, post,
    request,
};

#[test]
fn the_admin_api_opens_to_its_token_alone() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let send = |request: &Request| {
        Connection::open(gateway.admin_address).exchange(request).expect("the admin API answers")
    };
    let token = gateway.admin_token();
    let show = || get(&format!("/v1/keys/{}", key.id));
    let mut strangers = vec![
        show(),
        show().bearer(&key.key),
        show().bearer(""),
        show().bearer(&token[..token.len() - 1]),
        show().bearer(&format!("{token}x")),
        show().bearer(&token.to_uppercase()),
        show().basic(&format!("{token}:")),
        show().api_key(&token),
        show().header("Authorization", &token),
        get(&format!("/v1/keys/{}?token={token}", key.id)),
    ];
    let revoke = format!("/v1/keys/{}/revoke", key.id);
    strangers.push(post(&revoke, "{}").header("Content-Type", "application/json"));
    for request in strangers {
        let answer = send(&request);
        assert_eq!(answer.status, 401, "{request:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        gateway
            .leaks()
            .capture("an admin answer", format!("{answer:?}{}", answer.text()).as_bytes());
    }
    assert_eq!(send(&show().bearer(&token)).status, 200);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(send(&get(open)).status, 200, "{open}");
    }
}

/// A page in an operator's browser is told apart by its `Origin`, whatever else it has.
#[test]
fn no_page_calls_the_admin_api() {
    let gateway = Setup::in_front_of(&Upstream::start()).start();
    let admin = gateway.admin();
    let before = admin.read("/v1/accounts");
    let own = format!("http://{}", gateway.admin_address);
    for origin in ["https://evil.example", "null", "", own.as_str()] {
        let body = "{\"name\":\"made by a page\"}";
        for request in [
            post("/v1/accounts", body).header("Content-Type", "application/json"),
            post("/v1/accounts", body).header("Content-Type", "text/plain"),
            request("OPTIONS", "/v1/accounts").header("Access-Control-Request-Method", "POST"),
            get("/v1/accounts"),
            get("/metrics"),
            get("/readyz"),
        ] {
            let request = request.header("Origin", origin);
            let answer = admin.send(&request);
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, "browser_not_allowed"),
                "{request:?}"
            );
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(admin.read("/v1/accounts"), before);
}

/// A page whose own name was made to point here sends no `Origin` with what it reads, and has no token: it
/// learns no more than a probe does, and not even which of the other paths there are.
#[test]
fn a_page_under_another_host_reads_what_probes_read() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let named = KeySpec::new(&["read:orders"]).with("name", json!("their-secret-shop"));
    let key = gateway.key_with(&named);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200);
    let send = |request: &Request| {
        Connection::open(gateway.admin_address).exchange(request).expect("the admin API answers")
    };
    let records = [&*key.key, &key.id, &key.app, &key.account, "their-secret-shop", "Acme"];
    for host in ["evil.example", "evil.example:9901", "localhost.evil.example"] {
        let said = |method: &str, path: &str| {
            let answer = send(&request(method, path).host(host));
            let text = format!("{:?}{}", answer.headers, answer.text());
            gateway.leaks().capture("an admin answer", text.as_bytes());
            for record in records {
                assert!(!text.contains(record), "{method} {path} told {host} of {record}");
            }
            assert_eq!(answer.header("access-control-allow-origin"), None);
            answer
        };
        for open in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(said("GET", open).status, 200, "{open}");
        }
        let described = said("GET", "/openapi.json").json();
        let nowhere = said("GET", "/v1/nowhere");
        assert_eq!(nowhere.status, 401);
        let mut asked = 0;
        for (path, methods) in described["paths"].as_object().unwrap() {
            if !path.starts_with("/v1/") {
                continue;
            }
            let id = if path.starts_with("/v1/keys") { &key.id } else { &key.app };
            for method in methods.as_object().unwrap().keys() {
                let answer = said(&method.to_uppercase(), &path.replace("{id}", id));
                assert_eq!(answer.blanked(), nowhere.blanked(), "{method} {path}");
                asked += 1;
            }
        }
        assert!(asked >= 20, "{asked} operations");
    }
}

#[test]
fn no_spelling_of_an_open_path_opens_another() {
    let gateway = Setup::in_front_of(&Upstream::start()).start();
    gateway.key(&["read:orders"]);
    for path in [
        "/metrics/../v1/accounts",
        "/metrics/%2e%2e/v1/accounts",
        "/metrics/..%2fv1/accounts",
        "/metrics;/../v1/accounts",
        "/metrics?/v1/accounts",
        "//v1/accounts",
        "/./v1/accounts",
        "/v1/accounts?/metrics",
        "/v1/accounts;/metrics",
        "/v1/accounts#/metrics",
        "/v1/accounts/",
        "/v1//accounts",
        "/V1/accounts",
        "/v1/%61ccounts",
        "http://metrics/v1/accounts",
    ] {
        let mut connection = Connection::open(gateway.admin_address);
        let head = format!("GET {path} HTTP/1.1\r\nHost: /metrics\r\nConnection: close\r\n\r\n");
        connection.send(head.as_bytes()).unwrap();
        let answer = connection.answer("GET").unwrap();
        let text = answer.text();
        assert!(!text.contains("acct_"), "{path}: {text}");
        let is_metrics = path.starts_with("/metrics?");
        assert_eq!(answer.status == 200, is_metrics, "{path}: {} {text}", answer.status);
    }
}

#[test]
fn the_clients_listener_knows_nothing_of_the_admin_api() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let token = gateway.admin_token();
    for path in ["/metrics", "/healthz", "/readyz", "/v1/accounts", "/v1/audit"] {
        assert_eq!(gateway.send(&get(path).bearer(&token)).status, 404, "{path}");
    }
    upstream.saw_nothing();
}

#[test]
fn what_is_asked_of_the_admin_api_wrongly_is_a_problem_and_changes_nothing() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let keys = format!("/v1/apps/{}/keys", key.app);
    let before = admin.read(&keys);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"kind\":\"xx\",\"scopes\":[\"read:orders\"]}",
        "{\"scopes\":[\"write:everything\"]}",
        "{\"kind\":\"sk\",\"scopes\":\"read:orders\"}",
        "{\"kind\":\"sk\",\"scopes\":[\"read:orders\"],\"ttl\":\"0s\"}",
        "{\"kind\":\"sk\",\"scopes\":[\"read:orders\"],\"ttl\":\"-1d\"}",
        "{\"kind\":\"sk\",\"scopes\":[\"read:orders\"],\"expires_at\":\"yesterday\"}",
        "{\"kind\":\"sk\",\"scopes\":[\"read:orders\"],\"allowed_cidrs\":[\"x\"]}",
        "{\"kind\":\"sk\",\"scopes\":[\"read:orders\"],\"unknown\":1}",
        &format!("{{\"kind\":\"sk\",\"name\":\"{}\"}}", "x".repeat(100_000)),
        &"[".repeat(50_000),
    ] {
        let answer = admin.send(&post(&keys, body));
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body:.60}");
        assert!(!answer.code().is_empty(), "{}", answer.text());
    }
    for request in
        [get("/v1/nothing"), request("DELETE", &keys), get("/v1/keys/%00"), get("/v1/keys/x")]
    {
        let answer = admin.send(&request);
        assert!((400..500).contains(&answer.status), "{request:?}: {}", answer.status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request:?}");
    }
    assert_eq!(admin.read(&keys), before);
    gateway.is_alive_and_well();
}

#[test]
fn every_change_is_written_down_with_who_what_and_why() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("name", json!("first")));
    let list = admin.read(&format!("/v1/apps/{}/keys", key.app)).to_string();
    assert!(list.contains(&key.id) && list.contains("first"), "{list}");
    admin.revoke(&key);
    let audit = admin.read("/v1/audit").to_string();
    for said in ["account.create", "app.create", "key.create", "key.revoke", &key.id, "127.0.0.1"] {
        assert!(audit.contains(said), "{said} is not in {audit}");
    }
}

#[test]
fn a_revocation_is_for_good() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    admin.revoke(&key);
    // Again: fine, and unchanged.
    let path = format!("/v1/keys/{}", key.id);
    let before = admin.read(&path);
    admin.revoke(&key);
    assert_eq!(admin.read(&path), before);
    let revive = request("PATCH", &path);
    let revive = Request { body: b"{\"status\":\"active\"}".to_vec(), ..revive };
    assert!(admin.send(&revive).status >= 400);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).code(), "api_key_invalid");
}

#[test]
fn an_app_has_no_more_live_keys_than_it_may() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys("keys_max_live = 2").start();
    let admin = gateway.admin();
    let spec = KeySpec::new(&["read:orders"]);
    let account = admin.account();
    let app = admin.app(&account, &spec);
    let first = admin.key_of(&account, &app, &spec);
    admin.key_of(&account, &app, &spec);
    let another = post(&format!("/v1/apps/{app}/keys"), spec.key.to_string());
    let refused = admin.send(&another);
    assert!((400..500).contains(&refused.status), "{}", refused.text());
    admin.revoke(&first);
    admin.key_of(&account, &app, &spec);
}

#[test]
fn a_log_that_nobody_reads_stops_neither_requests_nor_the_end() {
    // More than the pipe and the gateway's queue can hold, at one line each.
    const CALLS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start();
    let (proxy, admin) = (free_address(), free_address());
    let toml = Setup::in_front_of(&upstream).log("debug").toml(proxy, admin);
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    let mut process = Process::start_unread(folder.path(), &["run"]);
    let mut operator = eventually("a gateway", || Connection::try_open(admin).ok());
    for _ in 0..CALLS {
        assert_eq!(operator.exchange(&get("/healthz")).unwrap().status, 200);
    }
    let client = Connection::open(proxy).exchange(&get("/public")).unwrap();
    assert_eq!(client.status, 200);
    let metrics = operator.exchange(&get("/metrics")).unwrap().text();
    let dropped = metrics.lines().find(|line| line.starts_with("keygate_log_lines_dropped_total"));
    assert!(dropped.is_some_and(|line| !line.ends_with(" 0")), "{dropped:?}");
    process.terminate();
    assert_eq!(process.wait_for_exit(), Some(Some(0)), "{}", process.stderr());
    assert!(process.read_stdout().starts_with('{'));
}

#[test]
fn no_key_reaches_the_log_through_a_path_of_the_admin_api() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let admin = gateway.admin();
    for path in [
        format!("/v1/keys/{key}"),
        format!("/v1/keys/{}", key.replace('_', "%5F")),
        format!("/v1/keys/{}", key.replace('_', "%5f")),
        format!("/{}", key.replace('s', "%73")),
    ] {
        assert_eq!(admin.send(&get(&path)).status, 404);
    }
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
    let log = gateway.output();
    assert!(log.contains("\"route\":\"/v1/keys/{id}\"") && log.contains("\"route\":\"none\""));
    // The part of the key that no way of escaping touches.
    let tail = &key[key.len() - 20..];
    assert!(!log.contains(&tail.replace('s', "%73")) && !log.contains(tail), "{log}");
}

#[test]
fn guessing_the_admin_token_leaves_a_trace() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let mut stranger = Connection::open(gateway.admin_address);
    let guess = get("/v1/accounts").bearer("kga_guess");
    let mut statuses: Vec<u16> = Vec::new();
    for _ in 0..100 {
        statuses.push(stranger.exchange(&guess).unwrap().status);
    }
    assert_eq!(statuses[..60], [401; 60]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(gateway.admin().send(&get("/v1/accounts")).status, 200);
    eventually("a line with the peer", || {
        let output = gateway.output();
        let line = output.lines().find(|line| line.contains("a wrong admin token was sent"))?;
        assert!(line.contains("127.0.0.1"), "{line}");
        Some(())
    });
    assert_eq!(gateway.metric("keygate_admin_requests_total{outcome=\"unauthorized\"}"), 100.0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_gateway_leaves_no_core_dump() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
}
