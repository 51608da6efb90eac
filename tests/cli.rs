//! The command line: what an operator types, sees, and can tell apart in a script.

use std::fs;

use serde_json::Value;

use crate::harness::{
    Exit, Gateway, Setup, Upstream, assert_refused, free_address, get, run, run_with_input,
};

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

/// Runs a command in the gateway's folder. What it prints must hold no secret.
fn keygate(gateway: &Gateway, line: &str) -> Exit {
    let exit = run(gateway.folder(), &words(line), &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
    exit
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// What `-q` prints: an id, or the new key.
#[track_caller]
fn quiet(gateway: &Gateway, line: &str) -> String {
    let out = run(gateway.folder(), &words(&format!("{line} -q")), &[]).success();
    let word = out.trim().to_owned();
    assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{out:?}");
    word
}

#[test]
fn an_account_an_app_and_a_key_are_three_commands_away() {
    let (gateway, upstream) = start();
    let account = quiet(&gateway, "accounts create --name Acme");
    let app =
        format!("apps create --account {account} --name web --scopes read:orders,write:orders");
    let app = quiet(&gateway, &app);
    let key = quiet(&gateway, &format!("keys create --app {app} --scopes read:orders"));
    gateway.leaks().key(&key);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    assert_eq!(upstream.only().header("x-keygate-app-id"), Some(&*app));

    let id = quiet(&gateway, &format!("keys list --app {app}"));
    assert!(id.starts_with("key_"));
    for line in [
        "accounts list".to_owned(),
        format!("accounts show {account}"),
        format!("apps list --account {account}"),
        format!("apps show {app}"),
        format!("keys list --app {app}"),
        format!("keys show {id}"),
        "audit".to_owned(),
    ] {
        let table = keygate(&gateway, &line).success();
        assert!(
            table.contains("Acme")
                || table.contains(&account)
                || table.contains(&app)
                || table.contains(&id),
            "{line}: {table}"
        );
        let json = keygate(&gateway, &format!("{line} --json")).success();
        serde_json::from_str::<Value>(&json).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let shown = keygate(&gateway, &format!("keys show {id}")).success();
    assert!(shown.contains(&key[..12]), "the hint is shown: {shown}");

    keygate(&gateway, &format!("keys revoke {id} --reason leaked --yes")).success();
    assert_refused(&gateway.send(&get("/v1/orders").bearer(&key)), 401, "api_key_invalid");
    let shown = keygate(&gateway, &format!("keys show {id}")).success();
    assert!(shown.contains("revoked") && shown.contains("leaked"), "{shown}");
}

#[test]
fn a_new_key_is_shown_once_with_the_word_that_it_is_once() {
    let (gateway, _upstream) = start();
    let account = quiet(&gateway, "accounts create --name Acme");
    let app = quiet(&gateway, &format!("apps create --account {account} --name a --scopes read:x"));
    let exit = run(gateway.folder(), &words(&format!("keys create --app {app} --json")), &[]);
    let made: Value = serde_json::from_str(&exit.success()).unwrap();
    let key = made["key"].as_str().unwrap();
    gateway.leaks().key(key);
    let table = run(gateway.folder(), &words(&format!("keys create --app {app}")), &[]).success();
    assert!(table.contains("sk_live_"), "{table}");
}

#[test]
fn suspending_and_disabling_take_effect_at_once_and_can_be_undone() {
    let (gateway, _upstream) = start();
    let account = quiet(&gateway, "accounts create --name Acme");
    let app = format!("apps create --account {account} --name a --scopes read:orders");
    let app = quiet(&gateway, &app);
    let key = quiet(&gateway, &format!("keys create --app {app}"));
    gateway.leaks().key(&key);
    let id = quiet(&gateway, &format!("keys list --app {app}"));
    let status = || gateway.send(&get("/v1/orders").bearer(&key)).status;
    assert_eq!(status(), 200);
    for (off, on) in [
        (format!("accounts suspend {account} --yes"), format!("accounts activate {account}")),
        (format!("apps disable {app} --yes"), format!("apps enable {app}")),
        (format!("keys disable {id} --yes"), format!("keys enable {id}")),
    ] {
        keygate(&gateway, &off).success();
        assert_eq!(status(), 401, "{off}");
        keygate(&gateway, &on).success();
        assert_eq!(status(), 200, "{on}");
    }
}

#[test]
fn verify_reads_the_key_from_its_input_and_answers_by_its_exit_code() {
    let (gateway, _upstream) = start();
    let key = gateway.key(&["read:orders"]);
    let verify = |line: &str, input: &str| {
        let exit = run_with_input(gateway.folder(), &words(line), input);
        gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
        gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
        exit.code
    };
    assert_eq!(verify("verify", &format!("{key}\n")), Some(0));
    assert_eq!(verify("verify --path /v1/orders", &key), Some(0));
    assert_eq!(verify("verify --path /v1/transfers", &key), Some(4));
    assert_eq!(verify("verify", "sk_live_nonsense"), Some(4));
    // On the command line it would be in the process list.
    assert_eq!(verify(&format!("verify {key}"), ""), Some(2));
}

#[test]
fn scripts_can_tell_failures_apart() {
    let (mut gateway, _upstream) = start();
    let nobody = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let code = |gateway: &Gateway, line: &str| {
        let exit = keygate(gateway, line);
        assert!(exit.stdout.is_empty(), "{exit:?}");
        exit.code
    };
    assert_eq!(code(&gateway, &format!("keys show key_{nobody}")), Some(3));
    assert_eq!(code(&gateway, &format!("keys create --app app_{nobody} --scopes a:b")), Some(3));
    assert_eq!(code(&gateway, "keys show ../metrics"), Some(2));
    assert_eq!(code(&gateway, "keys shwo"), Some(2));
    assert_eq!(code(&gateway, "accounts create"), Some(2));
    assert_eq!(code(&gateway, &format!("accounts list --url http://{}", free_address())), Some(5));
    gateway.kill();
    assert_eq!(keygate(&gateway, "accounts list").complaint().lines().count(), 1);
    assert_eq!(code(&gateway, "accounts list"), Some(5));
}

#[test]
fn the_admin_api_and_its_token_come_from_the_environment_too() {
    let (gateway, _upstream) = start();
    let elsewhere = tempfile::tempdir().unwrap();
    let url = format!("http://{}", gateway.admin_address);
    let (token, wrong) = (gateway.admin_token(), format!("kga_{}", "1".repeat(43)));
    let list = |token: &str| {
        let environment = [("KEYGATE_ADMIN_URL", &*url), ("KEYGATE_ADMIN_TOKEN", token)];
        let exit = run(elsewhere.path(), &["accounts", "list", "--json"], &environment);
        gateway.leaks().capture("a command's output", format!("{exit:?}").as_bytes());
        exit
    };
    list(&token).success();
    let refused = list(&wrong);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(!refused.stderr.contains(&wrong));
}

#[test]
fn check_says_that_a_good_file_is_good_and_touches_nothing() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let toml = Setup::in_front_of(&upstream).toml(free_address(), free_address());
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    let out = run(folder.path(), &["check", "gateway.toml"], &[]).success();
    assert!(out.contains("gateway.toml"), "{out}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn check_reports_every_problem_with_its_place_in_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let toml = r#"[server]
listen = ["127.0.0.1:8080"]
header_timout = "10s"
keepalive_timeout = "75"
[upstreams.main]
targets = ["127.0.0.1:9000"]
[[routes]]
name = "one"
path = "/a/../b"
upstream = "mian"
auth = "key"
[[routes]]
name = "two"
path = "/b"
upstream = "main"
"#;
    fs::write(folder.path().join("bad.toml"), toml).unwrap();
    let exit = run(folder.path(), &["check", "bad.toml"], &[]);
    assert_eq!(exit.code, Some(2), "{exit:?}");
    for expected in [
        "bad.toml:3",
        "header_timeout",
        "bad.toml:4",
        "75",
        "bad.toml:9",
        "bad.toml:10",
        "main",
        "auth",
    ] {
        assert!(exit.stderr.contains(expected), "{expected} is not in\n{}", exit.stderr);
    }
    let started = run(folder.path(), &["run", "-c", "bad.toml"], &[]);
    assert_eq!((started.code, started.stderr), (Some(2), exit.stderr));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn no_configuration_brings_check_down() {
    let folder = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let upstream = Upstream::start();
    let good = Setup::in_front_of(&upstream).toml(free_address(), free_address()).into_bytes();
    for _ in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.drain(at..(at + 40).min(bytes.len()))),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        fs::write(folder.path().join("any.toml"), bytes).unwrap();
        let exit = run(folder.path(), &["check", "any.toml"], &[]);
        assert!(matches!(exit.code, Some(0 | 2)), "{exit:?}");
        assert!(!exit.stderr.contains("panicked"), "{exit:?}");
    }
}

#[test]
fn the_token_file_of_this_machine_is_sent_to_no_other() {
    let (gateway, _upstream) = start();
    let ask = |url: &str, token: Option<&str>| {
        let environment = token.map(|token| ("KEYGATE_ADMIN_TOKEN", token));
        let arguments = ["accounts", "list", "--url", url];
        run(gateway.folder(), &arguments, environment.as_slice())
    };
    for elsewhere in ["http://192.0.2.1:9901", "http://127.0.0.1@192.0.2.1:9901"] {
        let exit = ask(elsewhere, None);
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.complaint().contains("set KEYGATE_ADMIN_TOKEN"));
    }
    let here = format!("http://localhost:{}", gateway.admin_address.port());
    ask(&here, None).success();
    let exit = ask("https://127.0.0.1:9901", Some("kga_x"));
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.complaint().contains("http only"));
}
