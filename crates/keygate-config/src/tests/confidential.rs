//! Guarantees about passwords, certificates and private keys: where they come from, and that nothing
//! of them is told.

use super::redis::{REDIS, URL, check_beside_url, check_redis, password, redis};
use super::*;

#[test]
fn a_password_is_one_line_of_a_file_or_an_environment_variable() {
    let login = |settings: &str| redis(&format!("{URL}{settings}")).login;
    assert_eq!(password(&login("password = \"${WORDS}\"")), Some("hunter2-hunter2"));
    assert_eq!(password(&login("password_file = \"redis.password\"")), Some("hunter2-redis"));
    assert_eq!(password(&login("password_file = \"bare.password\"")), Some("hunter2"));
    // Blanks may be part of it.
    assert_eq!(password(&login("password_file = \"blank.password\"")), Some("  hunter2  "));
}

#[test]
fn a_password_that_cannot_be_used_says_why() {
    const FILE: &str = "or write the password to a file and name it as `password_file`";
    let literal = format!(
        "7:12: a password does not stand in this file; \
         write `password = \"${{NAME}}\"` and set that environment variable, {FILE}"
    );
    for text in ["hunter2", "", "x${WORDS}", "${WORDS}x", "${WORDS}${WORDS}", "${A-B}", "$WORDS"] {
        check_beside_url(&format!("password = \"{text}\""), &literal);
    }
    for name in ["UNSET", "EMPTY"] {
        check_beside_url(
            &format!("password = \"${{{name}}}\""),
            &format!(
                "7:12: the environment variable `{name}` is not set, or is empty; \
                 set it before you start keygate, {FILE}"
            ),
        );
    }
    check_beside_url("password = 7357073", "7:12: expected a password, found a whole number");
    check_beside_url(
        "password = \"${NEWLINE}\"",
        "7:12: the password is empty; \
         write it on one line, or leave the setting out if Redis asks for none",
    );
    check_beside_url(
        "password = \"${WORDS}\"\npassword_file = \"redis.password\"",
        "7:1: `password` and `password_file` are both given; remove one of the two",
    );
    check_beside_url(
        "username = \"gateway\"",
        "7:1: `username` means nothing without a password; \
         write `password_file`, or `password = \"${NAME}\"`, too",
    );
    check_beside_url(
        "username = \"a b\"\npassword = \"${WORDS}\"",
        "7:12: not a user of Redis; \
         write the name as `ACL LIST` has it, or leave it out for the default user",
    );
}

#[test]
fn files_are_read_with_the_settings_that_name_them() {
    let secret = |name: &str, expect: &str| {
        check_beside_url(&format!("password_file = \"{name}\""), &format!("7:17: {expect}"));
        check_redis(
            &format!(
                "urls = [\"redis://[::1]\"]\nmode = \"sentinel\"\nsentinel_service = \"a\"\n\
                 sentinel_password_file = \"{name}\""
            ),
            &format!("9:26: {expect}").replace("for `p", "for `sentinel_p"),
        );
    };
    secret(
        "none",
        "cannot read the file: entity not found; it is looked for at \"/etc/keygate/none\"",
    );
    secret("${HOST}", "cannot read the file: entity not found");
    secret("closed", "cannot read the file: permission denied");
    secret(
        "empty.password",
        "the password is empty; \
         write it on one line, or leave the setting out if Redis asks for none",
    );
    secret(
        "lines.password",
        "this is more than a password on one line; \
         write the password alone, with nothing before or after it",
    );
    secret(
        "binary.password",
        "the password is not UTF-8 text; \
         write a password of letters, digits and signs to the file",
    );
    secret(
        "long.password",
        "the file is longer than 64 KiB; is this the file for `password_file`?",
    );
}

#[test]
fn certificates_and_keys_are_what_they_are_said_to_be() {
    const TLS: &str = "urls = [\"rediss://a\"]\n";
    let none = redis(TLS).tls.unwrap();
    assert!(none.ca.is_none() && none.client.is_none());
    let both = "ca_file = \"both.pem\"\ncert_file = \"both.pem\"\nkey_file = \"both.pem\"";
    let both = redis(&format!("{TLS}{both}")).tls.unwrap();
    assert!(both.ca.is_some() && both.client.is_some());
    let tls = |settings: &str, expect: &str| check_redis(&format!("{TLS}{settings}"), expect);
    tls(
        "ca_file = \"gateway.key\"",
        "7:11: the file holds no certificate; it must be PEM, with a line `-----BEGIN CERTIFICATE-----`",
    );
    tls(
        "ca_file = \"long.pem\"",
        "7:11: the file is longer than 1024 KiB; is this the file for `ca_file`?",
    );
    tls("ca_file = \"closed\"", "7:11: cannot read the file: permission denied");
    tls(
        "cert_file = \"redis.password\"\nkey_file = \"gateway.crt\"",
        "7:13: the file holds no certificate; it must be PEM, with a line `-----BEGIN CERTIFICATE-----`\n\
         8:12: the file holds no private key; it must be PEM, with a line such as `-----BEGIN PRIVATE KEY-----`",
    );
    for file in ["encrypted.key", "old.key"] {
        tls(
            &format!("cert_file = \"gateway.crt\"\nkey_file = \"{file}\""),
            "8:12: the private key is encrypted; \
             keygate has nobody to ask for its passphrase: name a file with the plain key",
        );
    }
    tls(
        "cert_file = \"gateway.crt\"",
        "7:1: `cert_file` means nothing without `key_file`; write `key_file` too",
    );
    tls(
        "key_file = \"gateway.key\"",
        "7:1: `key_file` means nothing without `cert_file`; write `cert_file` too",
    );
    for key in ["ca_file", "cert_file", "key_file"] {
        check_beside_url(
            &format!("{key} = \"none\""),
            &format!(
                "7:1: `{key}` means nothing without TLS; \
                 begin the `urls` with `rediss://`, or remove it"
            ),
        );
    }
}

#[test]
fn no_secret_of_the_gateways_own_is_sent_to_redis() {
    const HELP: &str = "name the file that is for Redis: this one holds a secret of the gateway";
    let store = |key: &str, own: &str, expect: &str| {
        let text = format!("{URL}{key} = \"./redis.password\"\n{own}");
        check_redis(&text, &format!("7:17: this file is `{expect}` already; {HELP}"));
    };
    let pepper = "[keys]\npepper_file = \"redis.password\"";
    store("password_file", pepper, "[keys] pepper_file");
    let previous = "[keys]\nprevious_pepper_files = [\"redis.password\"]";
    store("password_file", previous, "[keys] previous_pepper_files");
    let token = "[admin]\ntoken_file = \"redis.password\"";
    store("password_file", token, "[admin] token_file");
}

#[test]
fn a_password_in_the_wrong_place_is_not_repeated() {
    for part in [
        "password = \"hunter2\"",
        "pasword = \"hunter2\"",
        "password = \"hunter2",
        "password = hunter2",
        "password = \"${WORDS}\"\npassword = \"hunter2\"",
        "sentinel_password = 'hunter2'",
        "urls = [\"redis://:hunter2@a\"]",
        "urls = [\"redis://:hunter2@a\"",
        "urls = [\"redis://:hunter2@a\", \"\"]",
    ] {
        for text in [
            format!("{HEAD}[store]\nkind = \"redis\"\n{part}\n"),
            format!("{HEAD}[store]\n{part}\nkind = \"embedded\"\n"),
            format!("{HEAD}store = {{ kind = \"redis\", {part} }}\n"),
        ] {
            let report = parsed(&text).unwrap_err();
            let shown = format!("{report} {report:?} {}", report.render(Colours::On));
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
}

#[test]
fn what_files_and_variables_hold_is_not_in_the_settings_debug_text() {
    let of_file = settings_of(REDIS);
    let of_variable =
        settings_of(&format!("[store]\nkind=\"redis\"\n{URL}password=\"${{WORDS}}\""));
    for config in [of_file, of_variable] {
        let Store::Redis(store) = &config.store else { panic!("not Redis") };
        let shown = format!("{:?} {:?}", store.mode, store.login);
        assert!(!shown.contains("hunter2"), "{shown}");
        let key = store.tls.as_ref().and_then(|tls| tls.client.as_ref()).map(|client| &client.key);
        assert!(!format!("{key:?}").contains("hunter2"));
    }
}

#[test]
fn files_that_are_not_regular_or_not_there_are_told_by_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let text =
        format!("{HEAD}[store]\nkind = \"redis\"\n{URL}password_file = \"redis.password\"\n");
    std::fs::write(&file, text).unwrap();
    let problem = || load(&file).unwrap_err().to_string();
    assert!(problem().contains("cannot read the file: No such file"), "{}", problem());
    let named = folder.path().join("redis.password");
    std::fs::create_dir(&named).unwrap();
    assert!(problem().contains("it is not a regular file"), "{}", problem());
    std::fs::remove_dir(&named).unwrap();
    std::fs::write(&named, "x".repeat(64 << 10)).unwrap();
    assert!(load(&file).is_ok());
    std::fs::write(&named, "x".repeat((64 << 10) + 1)).unwrap();
    assert!(problem().contains("longer than 64 KiB"), "{}", problem());
    std::fs::write(&named, "hunter2\n").unwrap();
    let Store::Redis(store) = load(&file).unwrap().store else { panic!("not Redis") };
    assert_eq!(password(&store.login), Some("hunter2"));
}
