//! Changed files are taken over by themselves, however they are changed, and `/v1/config` says what
//! runs without saying any secret.

mod live;
mod renewed;
mod steady;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Certificates, Gateway, KeySpec, Leaks, Setup, Upstream, assert_refused, eventually, get, run,
};

const EXTRA: &str = "name = \"extra\"\npath = \"/extra\"\nupstream = \"main\"\nauth = \"public\"";

fn start(upstream: &Upstream) -> Gateway {
    Setup::in_front_of(upstream).log("info").watching().start()
}

fn config(gateway: &Gateway) -> Value {
    gateway.admin().read("/v1/config")
}

fn count(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("keygate_config_reloads_total{{result=\"{result}\"}}"))
}

/// The text of the configuration, with or without another route.
fn text(gateway: &Gateway, extra: bool) -> String {
    let text = gateway.read("gateway.toml");
    let route = format!("\n[[routes]]\n{EXTRA}");
    let without = text.split(&route).next().unwrap().to_owned();
    if extra { without + &route } else { without }
}

/// Puts a whole new file in the place of an old one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Waits until the other route is there, or is not.
#[track_caller]
fn has_extra(gateway: &Gateway, expected: bool) {
    let status = if expected { 200 } else { 404 };
    eventually("the new configuration", || {
        (gateway.send(&get("/extra")).status == status).then_some(())
    });
}

/// Waits until the audit log says that this was taken over last.
#[track_caller]
fn was_reloaded_by(gateway: &Gateway, actor: &str) {
    eventually("the audit log", || {
        let log = gateway.admin().read("/v1/audit?tail=1&action=config.reload");
        (log["items"][0]["actor"] == actor).then_some(())
    });
}

#[test]
fn a_file_that_is_edited_or_replaced_is_taken_over() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");
    gateway.write(&text(&gateway, true));
    has_extra(&gateway, true);
    was_reloaded_by(&gateway, "file:gateway.toml");
    replace(&gateway.path("gateway.toml"), &text(&gateway, false));
    has_extra(&gateway, false);
    // As an editor does it: away with the old one first.
    let next = text(&gateway, true);
    fs::rename(gateway.path("gateway.toml"), gateway.path("gateway.toml~")).unwrap();
    fs::write(gateway.path("gateway.toml"), next).unwrap();
    has_extra(&gateway, true);
}

#[test]
fn a_mounted_config_map_is_taken_over_when_its_link_is_swapped() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let folder = gateway.folder();
    let day = |name: &str, text: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("gateway.toml"), text).unwrap();
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    day("..day1", &text(&gateway, true));
    symlink("..data/gateway.toml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), folder.join("gateway.toml")).unwrap();
    has_extra(&gateway, true);
    // From here on nobody touches the folder's file itself.
    day("..day2", &text(&gateway, false));
    fs::remove_dir_all(folder.join("..day1")).unwrap();
    has_extra(&gateway, false);
    day("..day3", &text(&gateway, true));
    fs::remove_dir_all(folder.join("..day2")).unwrap();
    has_extra(&gateway, true);
}

#[test]
fn a_certificate_that_is_renewed_is_taken_over() {
    let (upstream, made, renewed) = (Upstream::start(), Certificates::make(), Certificates::make());
    let upstreams = "[upstreams.tls]\ntargets = [\"127.0.0.1:9\"]\n[upstreams.tls.tls]\n\
                     ca_file = \"live/ca.pem\"\n";
    let mut gateway = start(&upstream);
    let folder = gateway.path("");
    for name in ["live", "archive"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::copy(made.path("ca.pem"), folder.join("archive/ca1.pem")).unwrap();
    symlink("../archive/ca1.pem", folder.join("live/ca.pem")).unwrap();
    gateway.rewrite(|setup| setup.tables(upstreams).route(EXTRA));
    has_extra(&gateway, true);
    let before = config(&gateway);
    // As certbot does it.
    fs::copy(renewed.path("ca.pem"), folder.join("archive/ca2.pem")).unwrap();
    symlink("../archive/ca2.pem", folder.join("live/new.pem")).unwrap();
    fs::rename(folder.join("live/new.pem"), folder.join("live/ca.pem")).unwrap();
    let after = eventually("the new certificate", || {
        let after = config(&gateway);
        (after["hash"] != before["hash"]).then_some(after)
    });
    assert_eq!(after["settings"], before["settings"]);
    was_reloaded_by(&gateway, "file:ca.pem");
}

#[test]
fn a_broken_file_is_told_of_once_and_mended_by_the_next_change() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let (good, hash) = (text(&gateway, true), config(&gateway)["hash"].clone());
    // What a file names is looked at even if the file cannot be used.
    let key_file = "[upstreams.tls]\ntargets = [\"127.0.0.1:9\"]\ntls = { ca_file = \"ca.pem\" }\n";
    gateway.write(&format!("{good}\n{key_file}"));
    eventually("the refusal", || (count(&gateway, "failure") == 1.0).then_some(()));
    // Counted, and then told.
    let failed = eventually("what failed", || {
        let now = config(&gateway);
        now["failed_reload"].is_object().then_some(now)
    });
    assert_eq!(failed["hash"], hash);
    assert_eq!(failed["failed_reload"]["actor"], "file:gateway.toml");
    let problem = failed["failed_reload"]["problems"][0].as_str().unwrap();
    assert!(problem.contains("upstreams.tls.tls.ca_file: cannot read the file"), "{problem}");
    assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");

    // Something happens in the folder, and nothing to the files.
    for n in 0..3 {
        fs::write(gateway.path(&format!("other{n}")), "").unwrap();
        assert_eq!(count(&gateway, "failure"), 1.0);
    }
    fs::copy(Certificates::make().path("ca.pem"), gateway.path("ca.pem")).unwrap();
    has_extra(&gateway, true);
    was_reloaded_by(&gateway, "file:ca.pem");
    let mended = config(&gateway);
    assert_eq!(mended["failed_reload"], Value::Null);
    assert_ne!(mended["hash"], hash);
    eventually("the count", || (count(&gateway, "success") == 1.0).then_some(()));
    assert_eq!(count(&gateway, "failure"), 1.0);
    gateway.is_alive_and_well();
}

#[test]
fn nothing_is_taken_over_by_itself_where_nobody_wants_that() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    // The switch itself is taken over, and from then on nothing is.
    gateway.rewrite(|setup| setup.manual());
    eventually("the switch", || {
        (config(&gateway)["settings"]["server"]["watch_files"] == json!(false)).then_some(())
    });
    gateway.rewrite(|setup| setup.route(EXTRA));
    // Long enough for it to have been seen otherwise: a gateway that does watch has taken it over.
    let other = start(&upstream);
    other.write(&text(&other, true));
    has_extra(&other, true);
    assert_refused(&gateway.send(&get("/extra")), 404, "route_not_found");
    assert!(gateway.hang_up());
    has_extra(&gateway, true);
}

#[test]
fn the_running_configuration_shows_no_secret() {
    const HEADER: &str = "Bearer 8fK2-literal-header-secret";
    const ANSWER: &str = "9xQ7-literal-answer-secret";
    let (upstream, certificates) = (Upstream::start(), Certificates::make());
    let identity = |name: &str| certificates.path(name).display().to_string();
    let extra = format!(
        "{EXTRA}\nrequest_headers = {{ set = {{ Authorization = \"{HEADER}\", X-Home = \"${{HOME}}\" }} }}\n\
         response_headers = {{ set = {{ X-Answer = \"{ANSWER}\" }} }}"
    );
    let tables = format!(
        "[upstreams.tls]\ntargets = [\"127.0.0.1:9\"]\n[upstreams.tls.tls]\nca_file = \"{}\"\n\
         cert_file = \"{}\"\nkey_file = \"{}\"\n",
        identity("ca.pem"),
        identity("client.pem"),
        identity("client.key")
    );
    let gateway = Setup::in_front_of(&upstream).tables(&tables).route(&extra).start();
    let shown = config(&gateway);
    let route = shown["settings"]["routes"].as_array().unwrap().last().unwrap();
    assert_eq!(
        route["request_headers"]["set"],
        json!({ "Authorization": "[redacted]", "X-Home": "${HOME}" })
    );
    assert_eq!(shown["settings"]["upstreams"]["tls"]["tls"]["key_file"], identity("client.key"));
    assert_eq!(shown["settings"]["keys"]["pepper_file"], "data/pepper");

    let words = run(gateway.folder(), &["config"], &[]).success();
    assert!(words.contains("\nkeys.pepper_file = \"data/pepper\"\n"), "{words}");
    assert!(words.contains(&format!("# hash {}\n", shown["hash"].as_str().unwrap())), "{words}");
    let json = run(gateway.folder(), &["config", "--json"], &[]).success();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), shown);

    let secrets = Leaks::default();
    secrets.token("a header", HEADER);
    secrets.token("an answer's header", ANSWER);
    secrets.token("the admin token", &gateway.admin_token());
    secrets.pepper(&gateway.read("data/pepper"));
    let key = fs::read_to_string(certificates.path("client.key")).unwrap();
    key.lines().filter(|line| line.len() >= 16).for_each(|line| secrets.token("a key", line));
    for text in [shown.to_string(), words, json, gateway.output()] {
        secrets.capture("the configuration", text.as_bytes());
    }
    secrets.assert_none();
}

#[test]
fn gateways_with_the_same_files_have_the_same_hash_and_check_says_which() {
    const PEPPER: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).pepper(PEPPER).log("info");
    let (mut one, other) = (setup.clone().start(), setup.start());
    let hash = |gateway: &Gateway| config(gateway)["hash"].as_str().unwrap().to_owned();
    let checked = |folder: &Path| run(folder, &["check"], &[]).success();
    assert!(checked(one.folder()).ends_with(&format!("hash {}\n", hash(&one))));
    // They differ by their ports.
    assert_ne!(hash(&one), hash(&other));
    let twin = tempfile::tempdir().unwrap();
    fs::create_dir(twin.path().join("data")).unwrap();
    for name in ["gateway.toml", "data/pepper"] {
        fs::copy(one.path(name), twin.path().join(name)).unwrap();
    }
    assert!(checked(twin.path()).ends_with(&format!("hash {}\n", hash(&one))));
    // What would be loaded and what runs.
    let before = hash(&one);
    one.rewrite(|setup| setup.route(EXTRA));
    assert!(!checked(one.folder()).contains(&before));
    assert_eq!(hash(&one), before);
    assert_eq!(one.reload().json()["hash"].as_str().unwrap(), hash(&one));
    assert!(checked(one.folder()).ends_with(&format!("hash {}\n", hash(&one))));
    fs::remove_file(twin.path().join("data/pepper")).unwrap();
    assert!(checked(twin.path()).contains("hash unknown: data/pepper"));
}

#[test]
#[ignore = "waits until the files are looked at without a reason: make soak"]
fn a_link_far_up_in_the_path_is_seen_when_the_files_are_looked_at() {
    let (upstream, made, renewed) = (Upstream::start(), Certificates::make(), Certificates::make());
    let folder = tempfile::tempdir().unwrap();
    for (day, certificates) in [("day1", &made), ("day2", &renewed)] {
        fs::create_dir_all(folder.path().join(day).join("tls")).unwrap();
        fs::copy(certificates.path("ca.pem"), folder.path().join(day).join("tls/ca.pem")).unwrap();
    }
    let link = folder.path().join("today");
    symlink("day1", &link).unwrap();
    let tables = format!(
        "[upstreams.tls]\ntargets = [\"127.0.0.1:9\"]\ntls = {{ ca_file = {:?} }}\n",
        link.join("tls/ca.pem")
    );
    let gateway = Setup::in_front_of(&upstream).tables(&tables).log("info").watching().start();
    let before = config(&gateway)["hash"].clone();
    symlink("day2", folder.path().join("new")).unwrap();
    fs::rename(folder.path().join("new"), &link).unwrap();
    eventually("the new certificate", || (config(&gateway)["hash"] != before).then_some(()));
}

#[test]
#[ignore = "waits until what was refused is tried again: make soak"]
fn what_was_refused_for_a_reason_that_passes_is_tried_again() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let key = gateway.key_with(&KeySpec::new(&["read:orders"]));
    let other = gateway.path("data/pepper2");
    fs::write(&other, format!("{}\n", "5e".repeat(32))).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    gateway.rewrite(|setup| setup.pepper_file("data/pepper2").route(EXTRA));
    eventually("the refusal", || (count(&gateway, "failure") == 1.0).then_some(()));
    let failed = config(&gateway)["failed_reload"]["problems"][0].clone();
    assert!(failed.as_str().unwrap().contains("live keys need pepper"), "{failed}");
    gateway.admin().revoke(&key);
    has_extra(&gateway, true);
    was_reloaded_by(&gateway, "file:gateway.toml");
}
