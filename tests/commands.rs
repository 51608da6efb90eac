//! The commands of the life of a key: what cuts clients off asks first, keys are rotated, found,
//! changed and explained, admin tokens do what their roles say, and the log is followed and checked.

use serde_json::Value;

use crate::harness::{
    Exit, Gateway, Process, Setup, Upstream, assert_refused, eventually, get, run, run_with_input,
};

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    (Setup::in_front_of(&upstream).start(), upstream)
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command. What it prints must hold no secret.
fn keygate(gateway: &Gateway, line: &str) -> Exit {
    let exit = run(gateway.folder(), &words(line), &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
    exit
}

#[track_caller]
fn json(gateway: &Gateway, line: &str) -> Value {
    let text = keygate(gateway, &format!("{line} --json")).success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

/// What `-q` prints: an id, or what is shown once.
#[track_caller]
fn quiet(gateway: &Gateway, line: &str) -> String {
    let out = run(gateway.folder(), &words(&format!("{line} -q")), &[]).success();
    out.trim().to_owned()
}

/// An account, an app and a key, and the key's id.
fn made(gateway: &Gateway) -> [String; 4] {
    let account = quiet(gateway, "accounts create --name Acme");
    let app =
        format!("apps create --account {account} --name web --scopes read:orders,write:orders");
    let app = quiet(gateway, &app);
    let key = quiet(gateway, &format!("keys create --app {app} --scopes read:orders"));
    gateway.leaks().key(&key);
    let id = quiet(gateway, &format!("keys list --app {app}"));
    [account, app, key, id]
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.send(&get("/v1/orders").bearer(key)).status
}

#[test]
fn what_cuts_clients_off_takes_a_yes_where_nobody_can_be_asked() {
    let (gateway, _upstream) = start();
    let [account, app, key, id] = made(&gateway);
    let token = json(&gateway, "tokens list")["items"].as_array().map(Vec::len);
    assert_eq!(token, Some(0), "the token of the first start is a file");
    for line in [
        format!("accounts suspend {account}"),
        format!("apps disable {app}"),
        format!("keys disable {id}"),
        format!("keys revoke {id} --reason leaked"),
        format!("keys reset-limits {id}"),
        "tokens revoke tok_01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
    ] {
        let exit = keygate(&gateway, &line);
        assert_eq!(exit.code, Some(2), "{line}: {exit:?}");
        assert!(exit.complaint().contains("--yes"), "{line}");
        assert_eq!(status(&gateway, &key), 200, "{line}");
    }
    keygate(&gateway, &format!("keys revoke {id} -y")).success();
    assert_eq!(status(&gateway, &key), 401);
}

#[test]
fn a_rotated_key_and_its_successor_both_work_until_the_overlap_ends() {
    let (gateway, _upstream) = start();
    let [_, _, old, id] = made(&gateway);
    let exit = run(gateway.folder(), &words(&format!("keys rotate {id} --overlap 1h")), &[]);
    let new = exit.stdout.trim().to_owned();
    gateway.leaks().key(&new);
    assert!(exit.code == Some(0) && exit.stderr.contains("shown once"), "{}", exit.stderr);
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (200, 200));
    let shown = json(&gateway, &format!("keys show {id}"));
    let successor = shown["rotated_to"].as_str().unwrap().to_owned();
    assert_eq!(json(&gateway, &format!("keys usage {successor}"))["rotated_from"], id.as_str());
    let again = keygate(&gateway, &format!("keys rotate {id}"));
    assert_eq!(again.code, Some(4), "{again:?}");
    assert!(again.stderr.contains(&successor), "it names the successor: {again:?}");

    let exit = run(
        gateway.folder(),
        &words(&format!("keys rotate {successor} --overlap 0s --yes -q")),
        &[],
    );
    let newest = exit.success().trim().to_owned();
    gateway.leaks().key(&newest);
    assert_eq!(status(&gateway, &newest), 200);
    assert_refused(&gateway.send(&get("/v1/orders").bearer(&new)), 401, "api_key_expired");
}

#[test]
fn waiting_for_an_old_key_fails_if_its_overlap_ends_while_it_is_in_use() {
    let (gateway, _upstream) = start();
    let [_, _, old, id] = made(&gateway);
    assert_eq!(status(&gateway, &old), 200);
    let used = || json(&gateway, &format!("keys usage {id}"))["idle_s"].as_u64();
    eventually("the use is noted", used);
    let line = format!("keys rotate {id} --overlap 1s --wait-idle 10m");
    let exit = run(gateway.folder(), &words(&line), &[]);
    gateway.leaks().key(exit.stdout.trim());
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("still in use"), "{}", exit.stderr);
}

#[test]
fn keys_are_found_by_what_they_are_over_all_apps() {
    let (gateway, _upstream) = start();
    let [account, app, key, id] = made(&gateway);
    let other =
        quiet(&gateway, &format!("apps create --account {account} --name b --scopes read:x"));
    let soon =
        run(gateway.folder(), &words(&format!("keys create --app {other} --ttl 2d --json")), &[]);
    let soon: Value = serde_json::from_str(&soon.success()).unwrap();
    gateway.leaks().key(soon["key"].as_str().unwrap());
    let soon = soon["id"].as_str().unwrap();
    let listed = |options: &str| quiet(&gateway, &format!("keys list {options}"));
    assert_eq!(listed("--all").lines().count(), 2);
    assert_eq!(listed("--limit 1").lines().count(), 1);
    assert_eq!(listed("--expiring-within 7d"), soon);
    assert_eq!(listed(&format!("--app {app}")), id);
    assert_eq!(listed(&format!("--hint {}", &key[..12])), id);
    assert_eq!(listed("--older-than 1d") + &listed("--imported") + &listed("--past-policy"), "");
    assert_eq!(listed(&format!("--account {account} --status active")).lines().count(), 2);
    assert_eq!(keygate(&gateway, "keys list --status gone").code, Some(4));
}

#[test]
fn a_change_is_made_to_the_version_that_was_looked_at() {
    let (gateway, _upstream) = start();
    let [account, app, _, id] = made(&gateway);
    for (path, change) in [
        (format!("accounts {{}} {account}"), "--owner billing --metadata crm=17"),
        (format!("apps {{}} {app}"), "--purpose shop --max-age 90d"),
        (format!("keys {{}} {id}"), "--name till --ttl 30d --cidr 127.0.0.0/8"),
    ] {
        let (show, update) = (path.replace("{}", "show"), path.replace("{}", "update"));
        let etag = json(&gateway, &show)["etag"].as_str().unwrap().to_owned();
        let changed = json(&gateway, &format!("{update} {change} --if-match {etag}"));
        assert_ne!(changed["etag"], etag.as_str(), "{changed}");
        // The same change again would be one that is made already.
        let late = keygate(&gateway, &format!("{update} --name late --if-match {etag}"));
        assert_eq!(late.code, Some(4), "{late:?}");
        assert!(late.stderr.contains("precondition_failed"), "{late:?}");
        assert_eq!(keygate(&gateway, &update).code, Some(2), "nothing is to change");
    }
    let key = json(&gateway, &format!("keys show {id}"));
    assert_eq!((&key["name"], &key["allowed_cidrs"][0]), (&"till".into(), &"127.0.0.0/8".into()));
    assert!(key["expires_at"].is_string(), "{key}");
    assert_eq!(json(&gateway, &format!("accounts show {account}"))["metadata"]["crm"], "17");
}

#[test]
fn a_create_that_is_repeated_under_its_name_makes_nothing_twice() {
    let (gateway, _upstream) = start();
    let [_, app, _, _] = made(&gateway);
    let line = format!("keys create --app {app} --name till --idempotency-key till-4");
    let first = run(gateway.folder(), &words(&line), &[]);
    gateway.leaks().key(first.stdout.trim());
    let second = keygate(&gateway, &line);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.stderr.contains("earlier call"), "{second:?}");
    assert_eq!(quiet(&gateway, &format!("keys list --app {app}")).lines().count(), 2);
}

#[test]
fn a_call_is_explained_step_by_step_and_a_script_sees_how_it_would_end() {
    let (gateway, _upstream) = start();
    let [_, _, key, id] = made(&gateway);
    let fine = keygate(&gateway, &format!("explain --key-id {id} --path /v1/orders")).success();
    assert!(fine.lines().all(|line| !line.starts_with("fail")), "{fine}");
    assert!(fine.trim_end().ends_with("admitted"), "{fine}");
    let refused =
        keygate(&gateway, &format!("explain --key-id {id} --path /v1/orders --method POST"));
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stdout.contains("write:orders"), "{refused:?}");
    assert!(refused.stdout.contains("refused: permission_denied"), "{refused:?}");
    let by_key =
        run_with_input(gateway.folder(), &["explain", "--path", "/v1/orders", "--json"], &key);
    gateway.leaks().capture("an explanation", by_key.stdout.as_bytes());
    let by_key: Value = serde_json::from_str(&by_key.success()).unwrap();
    assert_eq!((&by_key["admitted"], &by_key["key_id"]), (&true.into(), &id.as_str().into()));
}

#[test]
fn an_admin_token_does_what_its_role_says_until_it_is_revoked() {
    let (gateway, _upstream) = start();
    let [account, app, _, _] = made(&gateway);
    let token = |options: &str| {
        let token = quiet(&gateway, &format!("tokens create {options}"));
        gateway.leaks().token("an admin token", &token);
        token
    };
    let by = |token: &str, line: &str| {
        let environment = [("KEYGATE_ADMIN_TOKEN", token)];
        run(gateway.folder(), &words(line), &environment)
    };
    let viewer = token("--name looks --role viewer");
    assert!(by(&viewer, "accounts list -q").success().contains(&account));
    let refused = by(&viewer, "accounts create --name B");
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("a token with the role `admin`"), "{refused:?}");
    let issuer = token(&format!("--name issues --role issuer --account {account} --ttl 30d"));
    let key = by(&issuer, &format!("keys create --app {app} -q")).success();
    gateway.leaks().key(key.trim());
    assert_eq!(by(&issuer, "audit").code, Some(4));

    let listed = json(&gateway, "tokens list");
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    let id = listed.iter().find(|one| one["name"] == "looks").unwrap()["id"].as_str().unwrap();
    assert_eq!(json(&gateway, &format!("tokens show {id}"))["role"], "viewer");
    keygate(&gateway, &format!("tokens revoke {id} --yes --reason left")).success();
    assert_eq!(by(&viewer, "accounts list").code, Some(4));
}

#[test]
fn the_audit_log_is_filtered_followed_and_checked_against_what_was_noted() {
    let (gateway, _upstream) = start();
    let [account, app, _, id] = made(&gateway);
    let noted = quiet(&gateway, "audit verify");
    assert!(noted.contains(':'), "{noted}");
    let follow = Process::start(gateway.folder(), &["audit", "--follow", "--json"]);
    eventually("what was before", || follow.stdout().contains("key.create").then_some(()));
    keygate(&gateway, &format!("keys update {id} --name till")).success();
    eventually("what is new", || follow.stdout().contains("key.update").then_some(()));
    drop(follow);

    let actions = |options: &str| {
        let listed = json(&gateway, &format!("audit {options}"));
        let items = listed["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions("--action key.*"), ["key.create", "key.update"]);
    assert_eq!(actions(&format!("--subject {account}")), ["account.create"]);
    assert_eq!(actions(&format!("--subject {app} --since 2020-01-01T00:00:00Z")), ["app.create"]);
    assert_eq!(actions("--refused"), [""; 0]);

    let checked = keygate(&gateway, &format!("audit verify --expect {noted}")).success();
    assert!(checked.contains("0 findings"), "{checked}");
    let (number, _) = noted.split_once(':').unwrap();
    let other = format!("{number}:{}", "0".repeat(64));
    let found = keygate(&gateway, &format!("audit verify --expect {other}"));
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("another link than the one that was noted"), "{found:?}");
    assert_eq!(keygate(&gateway, "audit verify --expect 7").code, Some(2));
}

#[test]
fn shells_are_told_how_to_complete_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(folder.path(), &["completions", shell], &[]).success();
        assert!(script.contains("keygate") && script.contains("rotate"), "{shell}");
    }
}
