//! A pepper is rotated without a key being reissued: on one machine and in a fleet, where no key is made
//! that a gateway cannot know.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{
    Exit, Fleet, Gateway, KeySpec, Load, Redis, Setup, Traffic, Upstream, assert_refused,
    eventually, get, post, run,
};

fn orders() -> KeySpec {
    KeySpec::new(&["read:orders"])
}

/// Runs a command beside the gateway.
#[track_caller]
fn keygate(gateway: &Gateway, arguments: &str) -> Exit {
    run(gateway.folder(), &arguments.split(' ').collect::<Vec<_>>(), &[])
}

#[track_caller]
fn rotate(gateway: &Gateway) -> String {
    keygate(gateway, "pepper rotate").success()
}

/// The lines for `gateway.toml` that the command printed: the new file, and all of the list.
fn lines(said: &str) -> (String, String) {
    let after = |start: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(start));
        line.unwrap_or_else(|| panic!("no {start} in {said}")).to_owned()
    };
    let file = after("pepper_file = ").trim_matches('"').to_owned();
    (file, format!("previous_pepper_files = {}", after("previous_pepper_files = ")))
}

/// Names the new pepper as the command said.
fn name(gateway: &mut Gateway, file: &str, previous: &str) {
    gateway.leaks().pepper(&gateway.read(file));
    gateway.rewrite(|setup| setup.pepper_file(file).keys(previous));
}

/// The peppers as a gateway shows them: use, live keys, and whether keys are made under it.
fn shown(gateway: &Gateway) -> Vec<(String, u64, bool)> {
    let answer = gateway.admin().read("/v1/peppers");
    let view = |pepper: &Value| {
        let role = pepper["use"].as_str().unwrap().to_owned();
        (role, pepper["live_keys"].as_u64().unwrap(), pepper["minting"].as_bool().unwrap())
    };
    answer["peppers"].as_array().unwrap().iter().map(view).collect()
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.send(&get("/v1/orders").bearer(key)).status
}

#[test]
fn a_pepper_is_rotated_while_the_gateway_runs_as_the_command_says() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let old = gateway.key_with(&orders());
    let said = rotate(&gateway);
    let (file, previous) = lines(&said);
    assert!(said.starts_with(&format!("Made {file}.")), "{said}");
    assert_eq!(previous, "previous_pepper_files = [\"data/pepper\"]");
    let mode = fs::metadata(gateway.path(&file)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // However often it is run, there is one new pepper.
    let again = rotate(&gateway);
    assert!(again.contains("was made before") && lines(&again) == lines(&said), "{again}");
    let made = || fs::read_dir(gateway.path("data")).unwrap().count();
    let count = made();
    rotate(&gateway);
    assert_eq!(made(), count);

    name(&mut gateway, &file, &previous);
    assert!(rotate(&gateway).contains("keygate reload"));
    let reloaded = keygate(&gateway, "reload").success();
    assert!(reloaded.contains("goes by the new configuration"), "{reloaded}");
    let new = gateway.key_with(&orders());
    let expected = |old| vec![("current".into(), 1, true), ("previous".into(), old, false)];
    assert_eq!(shown(&gateway), expected(1));
    assert_eq!([status(&gateway, &old.key), status(&gateway, &new.key)], [200, 200]);
    assert!(rotate(&gateway).contains("1 live key depends"));
    let table = keygate(&gateway, "pepper status").success();
    assert_eq!(table.lines().count(), 3, "{table}");

    // It cannot be dropped yet: not by mistake.
    let kept = gateway.read("gateway.toml");
    gateway.write(&kept.replace(&previous, ""));
    let checked = keygate(&gateway, "check gateway.toml");
    assert!(checked.stderr.contains("1 live key depends on pepper"), "{checked:?}");
    assert_eq!(checked.code, Some(0));
    let refused = keygate(&gateway, "reload");
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("(pepper_in_use)"), "{refused:?}");
    assert!(!gateway.hang_up(), "a signal forces nothing");
    assert_eq!(status(&gateway, &old.key), 200);

    gateway.admin().revoke(&old);
    gateway.write(&kept);
    keygate(&gateway, "reload").success();
    assert!(rotate(&gateway).contains("no live key depends on it"));
    gateway.write(&kept.replace(&previous, ""));
    keygate(&gateway, "reload").success();
    assert_eq!(shown(&gateway), [("current".to_owned(), 1, true)]);
    assert_eq!([status(&gateway, &old.key), status(&gateway, &new.key)], [401, 200]);
    assert!(keygate(&gateway, "check gateway.toml").stderr.is_empty());
}

#[test]
fn a_pepper_that_is_dropped_by_force_takes_its_keys_with_it_until_it_is_back() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key(&["read:orders"]);
    let (file, _) = lines(&rotate(&gateway));
    let before = gateway.read("gateway.toml");
    name(&mut gateway, &file, "");
    assert_refused(&gateway.reload(), 409, "pepper_in_use");
    assert_eq!(status(&gateway, &key), 200);
    keygate(&gateway, "reload --force").success();
    assert_eq!(status(&gateway, &key), 401);
    assert_eq!(shown(&gateway)[1], ("missing".to_owned(), 1, false));
    let failed = keygate(&gateway, "pepper status");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    gateway.write(&before);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(status(&gateway, &key), 200);
}

#[test]
fn a_pepper_file_that_is_missing_or_no_pepper_changes_nothing_and_is_not_made() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key(&["read:orders"]);
    gateway.rewrite(|setup| {
        setup.pepper_file("data/new").keys("previous_pepper_files = [\"data/pepper\"]")
    });
    for (content, word) in [(None, "does not exist"), (Some("secret"), "does not hold a pepper")] {
        if let Some(content) = content {
            fs::write(gateway.path("data/new"), content).unwrap();
        }
        let refused = gateway.reload();
        assert_refused(&refused, 422, "invalid_config");
        let problem = &refused.json()["problems"][0];
        assert_eq!(problem["setting"], "keys.pepper_file");
        assert!(problem["message"].as_str().unwrap().contains(word), "{problem}");
        assert_eq!(gateway.path("data/new").exists(), content.is_some());
    }
    assert_eq!(status(&gateway, &key), 200);
}

#[test]
fn no_key_of_a_fleet_is_made_under_a_pepper_that_a_gateway_lacks() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream).redis(&redis).log("info");
    let mut fleet = Fleet::of(3, &setup.keys("keys_max_live = 1000"));
    let mut keys = vec![fleet[0].key(&["read:orders"])];
    let (file, previous) = lines(&rotate(&fleet[0]));
    let pepper = fs::read(fleet[0].path(&file)).unwrap();
    let load = Load::on(&fleet, &keys[0], Traffic::Even, 200);
    let calls = load.during(|| {
        for n in 0..3 {
            if n > 0 {
                fs::write(fleet[n].path(&file), &pepper).unwrap();
            }
            name(&mut fleet[n], &file, &previous);
            assert_eq!(fleet[n].reload().status, 200);
            for gateway in fleet.iter() {
                let key = gateway.key(&["read:orders"]);
                for any in fleet.iter() {
                    assert_eq!(status(any, &key), 200, "after {n} reloads");
                }
                keys.push(key);
            }
            if n < 2 {
                let all = shown(&fleet[0]);
                assert_eq!((&*all[0].0, all[0].1), ("current", 0), "after {n} reloads: {all:?}");
                let said = rotate(&fleet[0]);
                assert!(said.contains("These do not yet") && said.contains("gw_"), "{said}");
            }
        }
    });
    calls.only(&[200]);
    let waited = keygate(&fleet[0], "pepper rotate --wait").success();
    assert!(waited.contains("Every gateway has it"), "{waited}");
    for gateway in fleet.iter() {
        eventually("keys made under the new one", || shown(gateway)[0].2.then_some(()));
        let before = shown(gateway)[0].1;
        keys.push(gateway.key(&["read:orders"]));
        assert_eq!(shown(gateway)[0].1, before + 1);
    }
    for key in &keys {
        fleet.iter().for_each(|gateway| assert_eq!(status(gateway, key), 200));
    }
    // A gateway that still has the old file cannot join any more.
    let late = setup_of_the_old(&upstream, &redis, &fleet[0]);
    let refused = run(late.path(), &["run"], &[]).complaint();
    assert!(refused.contains("pepper"), "{refused}");
}

/// A folder with the first pepper alone.
fn setup_of_the_old(upstream: &Upstream, redis: &Redis, of: &Gateway) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::copy(of.path("data/pepper"), folder.path().join("data/pepper")).unwrap();
    let (proxy, admin) = (crate::harness::free_address(), crate::harness::free_address());
    let toml = Setup::in_front_of(upstream).redis(redis).toml(proxy, admin);
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    folder
}

#[test]
fn without_the_store_no_pepper_is_dropped() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let mut gateway = Setup::in_front_of(&upstream).redis(&redis).log("info").start();
    let key = gateway.key(&["read:orders"]);
    assert_eq!(status(&gateway, &key), 200);
    let (file, previous) = lines(&rotate(&gateway));
    redis.kill();
    name(&mut gateway, &file, "");
    let refused = eventually("an outage", || {
        let answer = gateway.admin().send(&post("/v1/reload", "{}"));
        (answer.status == 503).then_some(answer)
    });
    assert_refused(&refused, 503, "store_unavailable");
    gateway.rewrite(|setup| setup.keys(&previous));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(status(&gateway, &key), 200);
}
