//! Guarantees about what cannot be together, or cannot be what it is said to be: listeners, files
//! and names.

use super::*;

#[test]
fn no_two_listeners_take_each_others_port() {
    const HELP: &str = "give each a port of its own";
    let listens = |server: &str, admin: &str, expect: &str| {
        let text = format!("[server]\nlisten = [{server}]\n[admin]\n{admin}insecure = true\n");
        let found = match parsed(&text) {
            Ok(_) => String::new(),
            Err(report) => report.into_lines().join("\n").replace("gateway.toml:", ""),
        };
        assert_eq!(found, expect, "{text}");
    };
    let shared = format!("`[server]` and `[admin]` cannot listen on the same address; {HELP}");
    let both = format!("4:10: {shared}");
    listens("\"127.0.0.1:80\"", "listen = \"127.0.0.1:80\"\n", &both);
    listens("\"127.0.0.1:80\"", "listen = \"0.0.0.0:80\"\n", &both);
    listens("\"0.0.0.0:80\"", "listen = \"127.0.0.1:80\"\n", &both);
    listens("\"127.0.0.2:81\", \"[::]:80\"", "listen = \"127.0.0.1:80\"\n", &both);
    listens("\"[::ffff:127.0.0.1]:80\"", "listen = \"127.0.0.1:80\"\n", &both);
    // The admin API's own default.
    listens("\"0.0.0.0:9901\"", "", &format!("2:11: {shared}"));
    let within = format!("2:27: a listener before this one takes its port; {HELP}");
    listens("\"127.0.0.1:80\", \"0.0.0.0:80\"", "", &within);
    listens("\"127.0.0.1:80\", \"[::]:80\"", "", &within);
    listens("\"127.0.0.1:80\", \"127.0.0.1:80\"", "", "2:27: this is in the list already");
    for apart in [
        "\"127.0.0.1:80\", \"127.0.0.2:80\"",
        "\"127.0.0.1:80\", \"0.0.0.0:81\"",
        "\"0.0.0.0:80\", \"[::1]:80\"",
        "\"127.0.0.1:0\", \"0.0.0.0:0\"",
    ] {
        listens(apart, "listen = \"127.0.0.1:0\"\n", "");
    }
}

#[test]
fn no_two_settings_name_one_file() {
    check(
        "[admin]\ntoken_file = \"data/pepper\"",
        "5:14: this file is `[keys] pepper_file` already; give each a file of its own",
    );
    check(
        "[keys]\npepper_file = \"./data/admin.token\"",
        "5:15: this file is `[admin] token_file` already; give each a file of its own",
    );
    check(
        "[keys]\nprevious_pepper_files = [\"old\", \"secret\"]\n[admin]\ntoken_file = \"secret\"",
        "5:33: this file is `[admin] token_file` already; give each a file of its own",
    );
    check(
        "[keys]\npepper_file = \"a\"\n[store]\npath = \"a\"",
        "7:8: this file is `[keys] pepper_file` already; give each a file of its own",
    );
    check(
        "[store]\npath = \"a\"\n[admin]\ntoken_file = \"a\"",
        "5:8: this file is `[admin] token_file` already; give each a file of its own",
    );
    check(
        "[keys]\nprevious_pepper_files = [\"a\"]\n[store]\npath = \"a\"",
        "5:26: this file is `[store] path` already; give each a file of its own",
    );
    check(
        "[store]\npath = \"a\"\n[audit]\nsink = \"file\"\npath = \"a\"",
        "8:8: this file is `[store] path` already; give each a file of its own",
    );
}

#[test]
fn a_path_means_nothing_unless_the_audit_log_goes_to_a_file() {
    let refused =
        "`path` means nothing unless the sink is a file; remove it, or write `sink = \"file\"`";
    check("[audit]\npath = \"a\"", &format!("5:1: {refused}"));
    check("[audit]\nsink = \"stdout\"\npath = \"a\"", &format!("6:1: {refused}"));
    let file = settings_of("[audit]\nsink = \"file\"\npath = \"a\"");
    assert_eq!(file.audit, AuditSink::File("/etc/keygate/a".into()));
}

#[test]
fn a_route_is_not_called_as_the_metrics_call_no_route() {
    check(
        &format!(
            "{UPSTREAM}[[routes]]\nname = \"none\"\npath = \"/\"\nupstream = \"orders\"\nauth = \"public\""
        ),
        "7:8: a route cannot be called `none`: metrics call requests so that match no route; choose another name",
    );
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [&fifo, folder.path(), Path::new("/dev/zero")] {
        let report = load(path).unwrap_err().to_string();
        assert!(report.contains("not a regular file"), "{report}");
        assert!(secrets::load_pepper(path).is_err());
        assert!(secrets::load_token(path).is_err());
    }
}

/// As Kubernetes mounts it.
#[test]
fn a_link_to_a_regular_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("..data")).unwrap();
    std::fs::write(folder.path().join("..data/gateway.toml"), HEAD).unwrap();
    let link = folder.path().join("gateway.toml");
    std::os::unix::fs::symlink("..data/gateway.toml", &link).unwrap();
    assert!(load(&link).is_ok());
}
