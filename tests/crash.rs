//! What was acknowledged is there after `kill -9`, and a start that cannot go well goes nowhere:
//! one line that says what to do, and nothing harmed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::harness::{
    Admin, Exit, Gateway, Key, KeySpec, Setup, Upstream, alone, assert_refused, get, post, run,
    scale,
};

#[test]
fn an_acknowledged_write_survives_kill_9() {
    survives(scale("KEYGATE_ROUNDS", 20));
}

#[test]
#[ignore = "long: part of `make soak`"]
fn an_acknowledged_write_survives_kill_9_a_hundred_times() {
    survives(100);
}

fn survives(rounds: u64) {
    let _alone = alone();
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("KEYGATE_SEED={seed} KEYGATE_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let mut revoked_before: Vec<Key> = Vec::new();
    for round in 0..rounds {
        let admin = gateway.admin();
        let writer = thread::spawn(move || write_until_killed(&admin));
        // Not a wait for anything: the moment of the crash is what is being tried out.
        thread::sleep(Duration::from_micros(random.u64(500..120_000)));
        gateway.kill();
        let written = writer.join().expect("the writer copes with the crash");
        gateway.start_again();
        check_all(&gateway, &written, round);
        for key in random.choose_multiple(&revoked_before, 5) {
            assert_refused(&call(&gateway, key), 401, "api_key_invalid");
        }
        revoked_before.extend(written.revoked);
    }
    println!("{} keys were revoked in {rounds} rounds", revoked_before.len());
    assert!(!revoked_before.is_empty());
}

/// What the gateway acknowledged before it died.
#[derive(Default)]
struct Written {
    live: Vec<Key>,
    revoked: Vec<Key>,
}

/// Makes keys, and revokes every other one, until the gateway is gone.
fn write_until_killed(admin: &Admin) -> Written {
    let mut written = Written::default();
    let spec = KeySpec::new(&["read:orders"]);
    while let Some((account, app)) = admin.try_app(&spec) {
        for _ in 0..4 {
            let Some(key) = admin.try_key_of(&account, &app, &spec) else { return written };
            if written.live.len() <= written.revoked.len() {
                written.live.push(key);
                continue;
            }
            let revoke = post(&format!("/v1/keys/{}/revoke", key.id), "{\"reason\":\"crash\"}");
            match admin.try_send(&revoke) {
                Ok(answer) => assert_eq!(answer.status, 200, "{}", answer.text()),
                // May or may not have happened: nothing was promised.
                Err(_) => return written,
            }
            written.revoked.push(key);
        }
    }
    written
}

fn check_all(gateway: &Gateway, written: &Written, round: u64) {
    let admin = gateway.admin();
    for key in &written.live {
        assert_eq!(call(gateway, key).status, 200, "round {round}: an acknowledged key is lost");
        assert_eq!(admin.read(&format!("/v1/keys/{}", key.id))["status"], "active");
    }
    for key in &written.revoked {
        assert_refused(&call(gateway, key), 401, "api_key_invalid");
        let record = admin.read(&format!("/v1/keys/{}", key.id));
        assert_eq!(record["status"], "revoked", "round {round}: a revocation is lost");
    }
}

fn call(gateway: &Gateway, key: &Key) -> crate::harness::Answer {
    gateway.send(&get("/v1/orders").bearer(&key.key))
}

/// A gateway that has one key in its store, and has ended.
fn stopped() -> (Gateway, Upstream, Key) {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    gateway.kill();
    (gateway, upstream, key)
}

#[track_caller]
fn fails_to_start(gateway: &Gateway) -> String {
    let complaint = run(gateway.folder(), &["run"], &[]).complaint();
    gateway.leaks().capture("a complaint", complaint.as_bytes());
    complaint
}

#[track_caller]
fn still_works(gateway: &mut Gateway, key: &Key) {
    gateway.start_again();
    assert_eq!(call(gateway, key).status, 200);
}

#[test]
fn a_restart_finds_everything() {
    let (mut gateway, _upstream, key) = stopped();
    still_works(&mut gateway, &key);
    let token = gateway.admin_token();
    gateway.kill();
    still_works(&mut gateway, &key);
    assert_eq!(gateway.admin_token(), token);
}

#[test]
fn a_second_process_on_the_same_store_is_refused_and_the_first_lives() {
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream);
    let mut gateway = setup.clone().start();
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let other = setup.toml(crate::harness::free_address(), crate::harness::free_address());
    fs::write(gateway.path("other.toml"), other).unwrap();
    let complaint = run(gateway.folder(), &["run", "-c", "other.toml"], &[]).complaint();
    assert!(complaint.contains("keygate.db"), "{complaint}");
    gateway.is_alive_and_well();
    assert_eq!(call(&gateway, &key).status, 200);
    gateway.kill();
    still_works(&mut gateway, &key);
}

#[test]
fn a_taken_port_is_named_and_nothing_is_left_running() {
    let (mut gateway, _upstream, key) = stopped();
    let config = gateway.read("gateway.toml");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    for original in [gateway.proxy, gateway.admin_address] {
        let clashing = config.replace(&original.to_string(), &taken.to_string());
        fs::write(gateway.path("gateway.toml"), clashing).unwrap();
        let complaint = fails_to_start(&gateway);
        assert!(complaint.contains(&taken.to_string()), "{complaint}");
        assert!(complaint.contains("in use"), "{complaint}");
    }
    still_works(&mut gateway, &key);
}

#[test]
fn a_store_without_its_pepper_is_refused_and_no_new_one_is_made() {
    let (mut gateway, _upstream, key) = stopped();
    let (pepper, aside) = (gateway.path("data/pepper"), gateway.path("data/aside"));
    fs::rename(&pepper, &aside).unwrap();
    let complaint = fails_to_start(&gateway);
    assert!(complaint.contains("data/pepper"), "{complaint}");
    assert!(!pepper.exists(), "a new pepper was made");
    for wrong in ["", "nonsense", &"ab".repeat(31), &"xy".repeat(32)] {
        fs::write(&pepper, wrong).unwrap();
        let complaint = fails_to_start(&gateway);
        assert!(complaint.contains("data/pepper"), "{complaint}");
        assert!(wrong.is_empty() || !complaint.contains(wrong), "{complaint}");
        assert_eq!(fs::read_to_string(&pepper).unwrap(), wrong, "the file was changed");
    }
    fs::write(&pepper, "ab".repeat(32)).unwrap();
    let complaint = fails_to_start(&gateway);
    assert!(complaint.contains("data/pepper"), "another pepper: {complaint}");
    fs::rename(&aside, &pepper).unwrap();
    still_works(&mut gateway, &key);
}

#[test]
fn a_damaged_store_is_named_and_left_as_it_is() {
    let (mut gateway, _upstream, key) = stopped();
    let whole = store(&gateway);
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    for damaged in
        [&whole[..whole.len() / 2], &whole[..1_000], &whole[..10], &garbage, b"not a store"]
    {
        fs::write(path_of_store(&gateway), damaged).unwrap();
        let complaint = fails_to_start(&gateway);
        assert!(complaint.contains("keygate.db"), "{complaint}");
        assert!(store(&gateway) == damaged, "the damaged file was changed: {complaint}");
    }
    fs::write(path_of_store(&gateway), whole).unwrap();
    still_works(&mut gateway, &key);
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let toml = Setup::in_front_of(&upstream)
        .toml(crate::harness::free_address(), crate::harness::free_address());
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    // A file where the folder should be: no rights help against that, not even root's.
    fs::write(folder.path().join("data"), "in the way").unwrap();
    let complaint = run(folder.path(), &["run"], &[]).complaint();
    assert!(complaint.contains("data"), "{complaint}");
    assert_eq!(fs::read_to_string(folder.path().join("data")).unwrap(), "in the way");
}

#[test]
fn a_missing_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let Exit { code, stderr, .. } = run(folder.path(), &["run"], &[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("gateway.toml"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let (gateway, _upstream, _key) = stopped();
    for name in ["data/pepper", "data/admin.token"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(gateway.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

fn path_of_store(gateway: &Gateway) -> std::path::PathBuf {
    gateway.path("data/keygate.db")
}

fn store(gateway: &Gateway) -> Vec<u8> {
    let path: &Path = &path_of_store(gateway);
    fs::read(path).unwrap()
}
