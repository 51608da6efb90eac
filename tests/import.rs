//! Keys of other systems: a file of them is one command away from working, and the command can be
//! killed and run again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Exit, Gateway, Process, Setup, Upstream, assert_refused, eventually, get, post, run,
    run_with_input, scale,
};

/// A gateway that lets imported keys in, and a folder for files that may hold keys.
fn start() -> (Gateway, Upstream, TempDir) {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys("accept_imported = true").start();
    (gateway, upstream, tempfile::tempdir().unwrap())
}

fn keygate(gateway: &Gateway, line: &str) -> Exit {
    let words: Vec<&str> = line.split_whitespace().collect();
    let exit = run(gateway.folder(), &words, &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
    exit
}

/// An import's summary, and its exit code.
fn import(gateway: &Gateway, file: &Path, options: &str) -> (Value, Option<i32>) {
    let exit = keygate(gateway, &format!("keys import {} --json {options}", file.display()));
    let summary = serde_json::from_str(&exit.stdout);
    (summary.unwrap_or_else(|error| panic!("{error}: {exit:?}")), exit.code)
}

#[track_caller]
fn assert_counts(summary: &Value, created: usize, existing: usize, failed: usize) {
    let counts = ["created", "existing", "failed"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [created, existing, failed].map(|count| Some(count as u64)), "{summary}");
}

/// Key number `n` of the other system.
fn legacy(n: usize) -> String {
    format!("legacy-{n:06}-{:016x}", (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn csv(folder: &Path, count: usize) -> std::path::PathBuf {
    let rows: String =
        (0..count).map(|n| format!("{},shop {},read:orders,key {n}\n", legacy(n), n % 3)).collect();
    let file = folder.join("keys.csv");
    fs::write(&file, format!("key,app,scopes,name\n{rows}")).unwrap();
    file
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.send(&get("/v1/orders").bearer(key)).status
}

#[test]
fn a_csv_of_keys_works_after_one_command_and_may_be_imported_again() {
    const COUNT: usize = 2_000;
    let (gateway, upstream, folder) = start();
    for n in [0, 1_234, 1_999] {
        gateway.leaks().token("an imported key", &legacy(n));
    }
    let file = csv(folder.path(), COUNT);
    let options = "--create-account Acme";
    let (dry, code) = import(&gateway, &file, &format!("{options} --dry-run"));
    assert_eq!((code, &dry["dry_run"], &dry["apps_created"]), (Some(0), &true.into(), &3.into()));
    assert_counts(&dry, COUNT, 0, 0);
    assert_eq!(status(&gateway, &legacy(0)), 401, "a dry run writes nothing");

    let (first, code) = import(&gateway, &file, options);
    assert_eq!(
        (code, &first["accepted"], &first["apps_created"]),
        (Some(0), &true.into(), &3.into())
    );
    assert_counts(&first, COUNT, 0, 0);
    for n in [0, 499, 500, 1_234, 1_999] {
        assert_eq!(status(&gateway, &legacy(n)), 200, "key {n}");
    }
    let request = upstream.seen().pop().unwrap();
    assert!(request.header("x-keygate-key-id").is_some_and(|id| id.starts_with("key_")));
    assert_eq!(request.header("authorization"), None, "the key is for the gateway");
    assert_refused(
        &gateway.send(&get("/v1/orders").bearer("legacy-000000")),
        401,
        "api_key_invalid",
    );
    let reports = gateway.send(&get("/v1/reports").bearer(&legacy(0)));
    assert_refused(&reports, 403, "permission_denied");

    let (second, code) = import(&gateway, &file, options);
    assert_eq!(code, Some(0));
    assert_counts(&second, 0, COUNT, 0);

    let listed = keygate(&gateway, "keys list --imported --all --quiet").success();
    let ids: BTreeSet<&str> = listed.lines().collect();
    assert_eq!((ids.len(), listed.lines().count()), (COUNT, COUNT));
    let id = ids.first().unwrap();
    keygate(&gateway, &format!("keys revoke {id} --yes")).success();
    let (third, code) = import(&gateway, &file, options);
    assert_eq!(code, Some(0), "{third}");
    assert_counts(&third, 0, COUNT, 0);
    let shown = keygate(&gateway, &format!("keys show {id} --json")).success();
    assert!(shown.contains("\"revoked\""), "an import revives nothing: {shown}");
}

#[test]
fn what_differs_from_what_is_there_is_left_told_and_seen_by_a_script() {
    let (gateway, _upstream, folder) = start();
    let file = folder.path().join("keys.csv");
    fs::write(&file, "sha256,app,scopes\n").unwrap();
    let none = keygate(&gateway, &format!("keys import {} --create-account A", file.display()));
    assert_eq!(none.code, Some(2), "{none:?}");
    fs::write(&file, "key,app,scopes\nlegacy-a,shop,read:orders\nlegacy-b,shop,write:orders\n")
        .unwrap();
    assert_counts(&import(&gateway, &file, "--create-account A").0, 2, 0, 0);
    fs::write(&file, "key,app,scopes\nlegacy-a,shop,write:orders\nlegacy-c,shop,read:reports\n")
        .unwrap();
    let (summary, code) = import(&gateway, &file, "--create-account A");
    assert_eq!((code, &summary["differing"]), (Some(6), &1.into()));
    assert_counts(&summary, 0, 1, 1);
    assert_eq!(status(&gateway, "legacy-a"), 200, "it may still read");
    let problems = summary["problems"].to_string();
    for said in ["line 2", "line 3", "read:reports"] {
        assert!(problems.contains(said), "{problems}");
    }
}

#[test]
fn a_file_that_is_wrong_is_refused_whole_with_every_line_and_no_key() {
    let (gateway, _upstream, folder) = start();
    gateway.leaks().token("a key in a file", "hush-hush-hush-hush");
    let file = folder.path().join("keys.csv");
    fs::write(
        &file,
        "key,app,scopes\nhush-hush-hush-hush,shop,Read\nhush hush,shop,\nfine,shop,read:a\n",
    )
    .unwrap();
    let exit = keygate(&gateway, &format!("keys import {} --create-account A", file.display()));
    assert_eq!(exit.code, Some(2), "{exit:?}");
    for said in ["line 2: ", "line 3: ", "nothing was"] {
        assert!(exit.stderr.contains(said), "{exit:?}");
    }
    assert_eq!(keygate(&gateway, "accounts list --quiet").success(), "");
}

const KONG: &str = r#"
_format_version: "3.0"
services:
- name: orders
  url: http://127.0.0.1:9000
  plugins:
  - name: key-auth
  - name: acl
    config: { allow: ["read:orders", "Gold"] }
consumers:
- username: web-shop
  acls: [{ group: "read:orders" }]
  keyauth_credentials:
  - key: kong-web-shop-1
  - key: kong-web-shop-2
- username: partner
  acls: [{ group: Gold }]
  keyauth_credentials:
  - key: kong-partner
"#;

#[test]
fn kongs_consumers_may_do_what_their_groups_say() {
    let (gateway, _upstream, _folder) = start();
    let import = |options: &str| {
        let line = format!("keys import - {options}");
        let words: Vec<&str> = line.split_whitespace().collect();
        run_with_input(gateway.folder(), &words, KONG)
    };
    let refused = import("--create-account Acme --dry-run");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("ACL group `Gold`"), "{refused:?}");
    let done = import("--create-account Acme --group-scope Gold=write:orders").success();
    assert!(done.contains("imported 3 keys of 2 apps (2 new)"), "{done}");
    for (key, read, write) in
        [("kong-web-shop-1", 200, 403), ("kong-web-shop-2", 200, 403), ("kong-partner", 403, 200)]
    {
        assert_eq!(status(&gateway, key), read, "{key}");
        let written = gateway.send(&post("/v1/orders", "").bearer(key));
        assert_eq!(written.status, write, "{key}");
    }
}

#[test]
fn imported_keys_are_refused_until_the_configuration_lets_them_in() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let folder = tempfile::tempdir().unwrap();
    let file = csv(folder.path(), 1);
    let exit = keygate(&gateway, &format!("keys import {} --create-account A", file.display()));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.contains("accept_imported = true"), "{exit:?}");
    assert_eq!(status(&gateway, &legacy(0)), 401);
}

/// The command is killed once, the gateway once; each time it is run again.
#[test]
fn an_import_that_is_killed_halfway_and_run_again_makes_no_duplicates() {
    let count = usize::try_from(scale("KEYGATE_TEST_IMPORT_KEYS", 6_000)).unwrap();
    let (mut gateway, _upstream, folder) = start();
    let file = csv(folder.path(), count);
    let file = file.to_str().unwrap();
    let words = ["keys", "import", file, "--create-account", "Acme"];

    let mut command = Process::start(gateway.folder(), &words);
    eventually("the first tenth", || command.stderr().contains("imported ").then_some(()));
    command.kill();

    let mut command = Process::start(gateway.folder(), &words);
    eventually("the first tenth", || command.stderr().contains("imported ").then_some(()));
    gateway.kill();
    let code = command.wait_for_exit().expect("it ends without its gateway");
    let said = command.stderr();
    assert!(code == Some(0) || said.contains("run this again to go on"), "{code:?} {said}");
    gateway.start_again();

    let (summary, code) = import(&gateway, Path::new(file), "--create-account Acme");
    assert_eq!(code, Some(0), "{summary}");
    let made = summary["created"].as_u64().unwrap() + summary["existing"].as_u64().unwrap();
    assert_eq!(made, count as u64, "{summary}");
    let listed = keygate(&gateway, "keys list --imported --all --quiet").success();
    let ids: BTreeSet<&str> = listed.lines().collect();
    assert_eq!((ids.len(), listed.lines().count()), (count, count));
    assert_eq!(keygate(&gateway, "accounts list --quiet").success().lines().count(), 1);
    for n in [0, count / 2, count - 1] {
        assert_eq!(status(&gateway, &legacy(n)), 200, "key {n}");
    }
}
