//! `keygate store export` and `import`: what was in one store is in another, no key is ever in a
//! backup, and a backup that is not whole changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Exit, Gateway, Key, KeySpec, Redis, Setup, Upstream, assert_refused, eventually, free_address,
    get, run, run_with_input,
};

/// A gateway with keys that work and keys that do not.
struct Origin {
    gateway: Gateway,
    live: Key,
    revoked: Key,
    /// Of an app that is disabled.
    disabled: Key,
}

impl Origin {
    fn start(upstream: &Upstream) -> Self {
        Self::with(Setup::in_front_of(upstream).start())
    }

    fn with(gateway: Gateway) -> Self {
        let spec = KeySpec::new(&["read:orders"]);
        let [live, revoked, disabled] = [(); 3].map(|()| gateway.key_with(&spec));
        gateway.admin().revoke(&revoked);
        gateway
            .admin()
            .patch(&format!("/v1/apps/{}", disabled.app), &json!({"status": "disabled"}));
        Self { gateway, live, revoked, disabled }
    }

    /// Ends the gateway, which has its store for itself, and exports the store.
    fn export(&mut self) -> String {
        stop(&mut self.gateway);
        export(&self.gateway)
    }

    /// The other gateway answers as this one did.
    #[track_caller]
    fn check_same(&self, other: &Gateway) {
        let call = |key: &Key| other.send(&get("/v1/orders").bearer(&key.key));
        assert_eq!(call(&self.live).status, 200);
        assert_refused(&call(&self.revoked), 401, "api_key_invalid");
        assert_refused(&call(&self.disabled), 401, "api_key_invalid");
        let revoked = other.admin().read(&format!("/v1/keys/{}", self.revoked.id));
        assert_eq!(
            (&revoked["status"], &revoked["revoke_reason"]),
            (&json!("revoked"), &json!("test"))
        );
    }
}

fn stop(gateway: &mut Gateway) {
    gateway.process().terminate();
    assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
}

fn keygate(gateway: &Gateway, line: &[&str]) -> Exit {
    let exit = run(gateway.folder(), line, &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    gateway.leaks().capture("a command's complaint", exit.stderr.as_bytes());
    exit
}

/// The text of a backup. Its file stays in the gateway's folder, which is searched for keys.
fn export(gateway: &Gateway) -> String {
    let exit = keygate(gateway, &["store", "export", "--out", "backup.jsonl"]);
    assert!(exit.stderr.contains("data/pepper"), "{exit:?}");
    assert_eq!(exit.success(), "");
    gateway.read("backup.jsonl") + "\n"
}

fn import(gateway: &Gateway, backup: &str, more: &[&str]) -> Exit {
    fs::write(gateway.path("from.jsonl"), backup).unwrap();
    let exit = keygate(gateway, &[&["store", "import", "from.jsonl"], more].concat());
    assert!(!exit.stderr.contains("panicked"), "{exit:?}");
    exit
}

#[track_caller]
fn assert_is_empty(gateway: &Gateway) {
    let exit = keygate(gateway, &["store", "export"]);
    assert_eq!((exit.code, &*exit.stdout), (Some(1), ""), "{exit:?}");
    assert!(exit.stderr.contains("the store is empty"), "{exit:?}");
}

/// All but the first line, which says when it was made.
fn records(backup: &str) -> &str {
    backup.split_once('\n').unwrap().1
}

#[test]
fn an_embedded_store_is_moved_to_another_machine() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    assert_eq!(backup.lines().count(), 1 + 9 + 1, "{backup}");
    let mode = fs::metadata(origin.gateway.path("backup.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut other = Setup::in_front_of(&upstream).pepper_of(&origin.gateway).start();
    stop(&mut other);
    let imported = import(&other, &backup, &[]);
    assert!(imported.stderr.contains("created 9, unchanged 0, different 0"), "{imported:?}");
    assert!(imported.stderr.contains("fit data/pepper"), "{imported:?}");
    assert_eq!(imported.success(), "");
    assert_eq!(records(&export(&other)), records(&backup));
    other.start_again();
    origin.check_same(&other);
    let newest = &other.admin().read("/v1/audit?tail=1")["items"][0];
    assert_eq!((&newest["action"], &newest["actor"]), (&json!("store.import"), &json!("cli")));
}

#[test]
fn an_import_that_is_done_again_changes_nothing_and_names_what_differs() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let again = import(&origin.gateway, &backup, &[]);
    assert!(again.stderr.contains("created 0, unchanged 9, different 0"), "{again:?}");
    assert_eq!(again.code, Some(0));
    origin.gateway.start_again();
    origin.gateway.admin().revoke(&origin.live);
    let account = format!("/v1/accounts/{}", origin.live.account);
    origin.gateway.admin().patch(&account, &json!({ "name": "New name" }));
    stop(&mut origin.gateway);
    let differs = import(&origin.gateway, &backup, &[]);
    let mut ids: Vec<&str> = differs.stdout.lines().collect();
    ids.sort_unstable();
    assert_eq!((differs.code, ids), (Some(6), vec![&*origin.live.account, &*origin.live.id]));
    origin.gateway.start_again();
    let refused = origin.gateway.send(&get("/v1/orders").bearer(&origin.live.key));
    assert_refused(&refused, 401, "api_key_invalid");
}

#[test]
fn an_embedded_store_in_use_is_left_alone_and_the_way_on_is_said() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    for line in [&["store", "export"][..], &["store", "import", "gateway.toml"]] {
        let exit = keygate(&origin.gateway, line);
        assert_eq!((exit.code, &*exit.stdout), (Some(1), ""));
    }
    let complaint = keygate(&origin.gateway, &["store", "export"]).complaint();
    assert!(complaint.contains("stop the gateway"), "{complaint}");
    let backup = origin.export();
    origin.gateway.start_again();
    let complaint = import(&origin.gateway, &backup, &[]).complaint();
    assert!(complaint.contains("stop the gateway"), "{complaint}");
    origin.check_same(&origin.gateway);
}

#[test]
fn a_backup_that_was_cut_short_is_refused_and_nothing_of_it_is_written() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let mut other = Setup::in_front_of(&upstream).pepper_of(&origin.gateway).start();
    stop(&mut other);
    let lines: Vec<&str> = backup.split_inclusive('\n').collect();
    let without_end = lines[..lines.len() - 1].concat();
    let mid_line = backup[..backup.len() * 2 / 3].to_owned();
    let mut hole = lines.clone();
    hole.remove(lines.len() - 2);
    let damaged = backup.replacen("\"v\":1,\"record\"", "\"v\":9,\"record\"", 1);
    for bad in [&without_end, &mid_line, &hole.concat(), &damaged, &"{}".into(), &String::new()] {
        let complaint = import(&other, bad, &[]).complaint();
        assert!(complaint.contains("from.jsonl"), "{complaint}");
        assert_is_empty(&other);
        assert_eq!(import(&other, bad, &["--dry-run"]).code, Some(1));
    }
    let whole = import(&other, &backup, &["--dry-run"]);
    assert!(whole.stderr.contains("3 accounts, 3 apps, 3 keys"), "{whole:?}");
    assert_eq!(whole.code, Some(0));
    assert_is_empty(&other);
    let part = import(&other, &without_end, &["--partial"]);
    assert!(part.stderr.contains("created 9"), "{part:?}");
    assert_eq!(part.code, Some(0));
}

#[test]
fn a_backup_goes_through_pipes() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let piped = keygate(&origin.gateway, &["store", "export"]).success();
    assert_eq!(records(&piped), records(&backup));
    let mut other = Setup::in_front_of(&upstream).pepper_of(&origin.gateway).start();
    stop(&mut other);
    let exit = run_with_input(other.folder(), &["store", "import", "-"], &piped);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    other.start_again();
    origin.check_same(&other);
}

/// Else a second try would say of all that the first one wrote that it is safe.
#[test]
fn an_import_that_is_done_again_waits_for_replicas_with_each_part() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let account = backup.lines().find(|line| line.starts_with("{\"account\"")).unwrap();
    let id: Value = serde_json::from_str(account).unwrap();
    let id = id["account"]["record"]["id"].as_str().unwrap();
    let accounts: String = (100..999)
        .map(|n| account.replace(id, &format!("{}{n}", &id[..id.len() - 3])) + "\n")
        .collect();
    let first = backup.lines().next().unwrap();
    let end = json!({ "end": { "accounts": 899, "apps": 0, "keys": 0 } });
    let backup = format!("{first}\n{accounts}{end}\n");

    let redis = Redis::start();
    let wait = "wait_replicas = 1\nwait_timeout = \"100ms\"";
    let folder = folder(&format!("{}\n{wait}", redis.store()));
    fs::write(folder.path().join("b"), backup).unwrap();
    let entries = || redis.command(&["XLEN", "{keygate}:log"]).number();
    for again in 0..3 {
        let exit = run(folder.path(), &["store", "import", "b"], &[]);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stderr.contains("0 of 1 replicas"), "{again}: {exit:?}");
        assert_eq!(entries(), 1, "{again}: the second part is not written");
    }
    let replica = Redis::start();
    let at = redis.address();
    replica.command(&["REPLICAOF", &at.ip().to_string(), &at.port().to_string()]);
    eventually("a replica that follows", || {
        (replica.info("master_link_status")? == "up").then_some(())
    });
    let exit = eventually("an import", || {
        let exit = run(folder.path(), &["store", "import", "b"], &[]);
        (exit.code == Some(0)).then_some(exit)
    });
    assert!(exit.stderr.contains("different 0"), "{exit:?}");
    assert_eq!(redis.command(&["ZCARD", "{keygate}:accounts"]).number(), 899);
}

#[test]
fn an_embedded_store_is_moved_to_redis_under_gateways_that_run() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let redis = Redis::start();
    let setup = Setup::in_front_of(&upstream).redis(&redis).pepper_of(&origin.gateway);
    let gateways = [setup.clone().start(), setup.start()];
    for gateway in &gateways {
        let unknown = gateway.send(&get("/v1/orders").bearer(&origin.live.key));
        assert_refused(&unknown, 401, "api_key_invalid");
    }
    let imported = import(&gateways[0], &backup, &[]);
    assert!(imported.stderr.contains("created 9, unchanged 0, different 0"), "{imported:?}");
    assert_eq!(imported.code, Some(0));
    for gateway in &gateways {
        eventually("the imported key", || {
            let status = gateway.send(&get("/v1/orders").bearer(&origin.live.key)).status;
            (status == 200).then_some(())
        });
        origin.check_same(gateway);
    }
    assert_eq!(records(&export(&gateways[1])), records(&backup), "there and back");
    let again = import(&gateways[1], &backup, &[]);
    assert!(again.stderr.contains("created 0, unchanged 9, different 0"), "{again:?}");
    // Neither command is a gateway of the fleet.
    eventually("two gateways that are seen", || {
        let fleet = gateways[0].admin().read("/v1/fleet");
        (fleet["gateways"].as_array().unwrap().len() == 2).then_some(())
    });
}

#[test]
fn the_records_of_redis_fit_an_embedded_store() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let origin = Origin::with(Setup::in_front_of(&upstream).redis(&redis).start());
    let backup = export(&origin.gateway);
    let mut other = Setup::in_front_of(&upstream).pepper_of(&origin.gateway).start();
    stop(&mut other);
    assert_eq!(import(&other, &backup, &[]).code, Some(0));
    other.start_again();
    origin.check_same(&other);
}

#[test]
fn keys_of_another_pepper_are_refused_unless_that_is_asked_for() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let mut other = Setup::in_front_of(&upstream).start();
    stop(&mut other);
    for more in [&[][..], &["--dry-run"]] {
        let complaint = import(&other, &backup, more).complaint();
        assert!(complaint.contains("--other-pepper"), "{complaint}");
        assert!(complaint.contains("pepper_file"), "{complaint}");
        assert_is_empty(&other);
    }
    let exit = run_with_input(other.folder(), &["store", "import", "-"], &backup);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_is_empty(&other);
    let exit = import(&other, &backup, &["--other-pepper"]);
    assert!(exit.stderr.contains("copy it to data/pepper"), "{exit:?}");
    assert_eq!(exit.code, Some(0));
    fs::copy(origin.gateway.path("data/pepper"), other.path("data/pepper")).unwrap();
    let exit = import(&other, &backup, &[]);
    assert!(exit.stderr.contains("fit data/pepper"), "{exit:?}");
    other.start_again();
    origin.check_same(&other);
}

/// A configuration without a gateway.
fn folder(store: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::in_front_of_address(free_address()).store(store);
    let toml = setup.toml(free_address(), free_address());
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    folder
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_export_makes_no_store() {
    let folder = folder("kind = \"embedded\"\npath = \"data/keygate.db\"");
    let exit = run(folder.path(), &["store", "export", "--out", "backup.jsonl"], &[]);
    assert_eq!(exit.code, Some(1));
    assert!(exit.complaint().contains("data/keygate.db"));
    assert_eq!(names_in(folder.path()), ["gateway.toml"]);
}

/// The wrong prefix, or a Redis that was emptied.
#[test]
fn an_export_of_nothing_fails_and_leaves_the_last_backup_alone() {
    let redis = Redis::start();
    let folder = folder(&format!("{}\nkey_prefix = \"other\"", redis.store()));
    let export = ["store", "export", "--out", "backup.jsonl"];
    for there in [false, true] {
        if there {
            fs::write(folder.path().join("backup.jsonl"), "of yesterday").unwrap();
        }
        let exit = run(folder.path(), &export, &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(1), ""), "{exit:?}");
        assert!(exit.complaint().contains("key_prefix"));
        assert_eq!(names_in(folder.path()).len(), if there { 2 } else { 1 });
    }
    assert_eq!(fs::read_to_string(folder.path().join("backup.jsonl")).unwrap(), "of yesterday");
    let piped = run(folder.path(), &["store", "export"], &[]);
    assert_eq!((piped.code, &*piped.stdout), (Some(1), ""), "{piped:?}");
    assert!(redis.command(&["DBSIZE"]).number() <= 1, "no more than what it is");
}

#[test]
fn a_store_that_cannot_be_reached_is_told_from_other_failures() {
    let folder = folder(&format!("kind = \"redis\"\nurls = [\"redis://{}\"]", free_address()));
    let backup = "{\"keygate\":\"export\",\"v\":1,\"at\":1}\n\
                  {\"end\":{\"accounts\":0,\"apps\":0,\"keys\":0}}\n";
    fs::write(folder.path().join("b"), backup).unwrap();
    for line in [&["store", "export", "--out", "backup.jsonl"][..], &["store", "import", "b"]] {
        let exit = run(folder.path(), line, &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(5), ""), "{exit:?}");
        assert!(exit.stderr.contains("not reached"), "{exit:?}");
    }
    assert_eq!(names_in(folder.path()), ["b", "gateway.toml"]);
}

#[test]
fn a_backup_is_json_that_others_can_read() {
    let upstream = Upstream::start();
    let mut origin = Origin::start(&upstream);
    let backup = origin.export();
    let lines: Vec<Value> =
        backup.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["keygate"], "export");
    let ids: Vec<&Value> = lines.iter().map(|line| &line["key"]["record"]["id"]).collect();
    for key in [&origin.live, &origin.revoked, &origin.disabled] {
        assert!(ids.contains(&&json!(key.id)), "{backup}");
        assert!(!backup.contains(&key.key) && backup.contains(&key.key[..12]));
    }
    assert_eq!(lines.last().unwrap()["end"], json!({ "accounts": 3, "apps": 3, "keys": 3 }));
}
