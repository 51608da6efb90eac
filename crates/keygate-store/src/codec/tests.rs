//! What was written stays readable, and what cannot be read is refused.

use std::time::Duration;

use keygate_core::KeyDigest;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::records::{
    AccountStatus, AppStatus, KeyStatus, Metadata, Role, TokenStatus, Version, changes,
};
use crate::testing::{NOW, account, app, audit, key, key_id, limits, revoked, token};

fn check_round_trip<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
    assert_eq!(R::decode(&record.encode().unwrap()).unwrap(), *record);
}

fn as_json(record: &impl Record) -> Value {
    serde_json::from_slice(&record.encode().unwrap()).unwrap()
}

/// With every field that may be absent.
fn full_key() -> Key {
    Key {
        owner: Some("team".to_owned()),
        purpose: Some("tests".to_owned()),
        limits: limits(),
        tier: Some("free".to_owned()),
        rotated_from: Some(key_id(2)),
        rotated_to: Some(key_id(3)),
        ..key(1, &app(1, &account(1)))
    }
}

fn done_once(made: MadeRecord) -> DoneOnce {
    DoneOnce { request: [7; 32], until: NOW, made }
}

#[test]
fn records_are_read_as_they_were_written() {
    let (account, app) = (account(1), app(1, &account(1)));
    let key = key(1, &app);
    check_round_trip(&account);
    check_round_trip(&Account { status: AccountStatus::Suspended, ..account.clone() });
    let owner = Some("team".to_owned());
    check_round_trip(&Account { owner, purpose: None, ..account.clone() });
    check_round_trip(&App { status: AppStatus::Disabled, tier: None, ..app.clone() });
    let max_age = Some(Duration::from_secs(90 * 86_400));
    check_round_trip(&App { max_age, owner: None, purpose: Some(String::new()), ..app.clone() });
    check_round_trip(&revoked(&key));
    check_round_trip(&Key { status: KeyStatus::Disabled, ..key.clone() });
    check_round_trip(&Key { expires_at: None, name: None, ..key.clone() });
    check_round_trip(&full_key());
    check_round_trip(&Key { pepper: None, ..full_key() });
    check_round_trip(&token(1));
    let status = TokenStatus::Revoked { at: NOW };
    check_round_trip(&AdminToken { role: Role::Viewer, status, ..token(1) });
    check_round_trip(&AdminToken { role: Role::Admin, expires_at: None, ..token(1) });
    check_round_trip(&AdminToken { role: Role::Issuer(vec![]), ..token(1) });
    check_round_trip(&audit("key.create"));
    let changes = changes(Some(&key), &full_key());
    assert!(!changes.is_empty());
    let refused = Some("forbidden".to_owned());
    check_round_trip(&AuditEntry { refused, changes, ..audit("key.update") });
    for made in [
        MadeRecord::Account(account),
        MadeRecord::App(app),
        MadeRecord::Key(full_key()),
        MadeRecord::Token(token(1)),
    ] {
        check_round_trip(&done_once(made));
    }
}

proptest! {
    #[test]
    fn any_text_and_number_survives(name in ".*", hint in ".*", number: u64, bytes: [u8; 32]) {
        let mut key = key(1, &app(1, &account(1)));
        key.digest = KeyDigest::from_bytes(bytes);
        key.metadata = Metadata::from([(name.clone(), hint.clone())]);
        (key.name, key.hint) = (Some(name), hint);
        key.expires_at = Some(UnixMillis(number));
        key.version = Version(number);
        prop_assert_eq!(Key::decode(&key.encode().unwrap()).unwrap(), key);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
        prop_assert!(Key::decode(&bytes).is_err());
    }
}

/// What is on somebody's disk already must stay readable: this text may be added to, not changed.
#[test]
fn the_form_of_version_1_stays_as_it_is() {
    let revoked = revoked(&key(1, &app(1, &account(1))));
    let expected = json!({
        "v": 1,
        "record": {
            "id": revoked.id.to_string(),
            "digest": "cd2662154e6d76b2b2b92e70c0cac3ccf534f9b74eb5b89819ec509083d00a50",
            "pepper": "0707070707070707",
            "app": revoked.app.to_string(),
            "account": revoked.account.to_string(),
            "kind": "pk",
            "environment": "live",
            "name": "key 1",
            "hint": "pk_live_abcd",
            "scopes": ["read:orders", "write:users"],
            "expires_at": u64::MAX,
            "tier": null,
            "allowed_cidrs": ["192.0.2.0/24"],
            "allowed_origins": ["https://Example.com"],
            "metadata": {},
            "status": {"revoked": {"at": NOW.0, "reason": "leaked"}},
            "created_at": 1,
            "updated_at": 1,
            "version": 0,
        },
    });
    assert_eq!(as_json(&revoked), expected);
}

/// The same of what later versions added.
#[test]
fn the_forms_that_were_added_stay_as_they_are() {
    let key = as_json(&full_key());
    assert_eq!(key["record"]["owner"], "team");
    assert_eq!(key["record"]["purpose"], "tests");
    assert_eq!(key["record"]["rotated_from"], key_id(2).to_string());
    assert_eq!(key["record"]["rotated_to"], key_id(3).to_string());
    // An older program must not take it for a key of a pepper.
    let imported = as_json(&Key { pepper: None, ..full_key() });
    assert_eq!(imported["record"].get("pepper"), Some(&Value::Null));
    let max_age = Some(Duration::from_millis(90_999));
    let app = as_json(&App { max_age, ..app(1, &account(1)) });
    assert_eq!(app["record"]["max_age"], 90);

    let hash = "cd2662154e6d76b2b2b92e70c0cac3ccf534f9b74eb5b89819ec509083d00a50";
    let token_record = json!({
        "id": token(1).id.to_string(),
        "name": "token 1",
        "role": {"issuer": [account(1).id.to_string(), account(2).id.to_string()]},
        "sha256": hash,
        "status": "active",
        "expires_at": NOW.0 + 1,
        "created_at": 1,
        "updated_at": 1,
        "version": 0,
    });
    assert_eq!(as_json(&token(1)), json!({"v": 1, "record": token_record}));
    let role = |role| as_json(&AdminToken { role, ..token(1) })["record"]["role"].clone();
    assert_eq!([role(Role::Viewer), role(Role::Admin)], ["viewer", "admin"]);
    let status = TokenStatus::Revoked { at: NOW };
    let revoked = as_json(&AdminToken { status, ..token(1) });
    assert_eq!(revoked["record"]["status"], json!({"revoked": {"at": NOW.0}}));

    let expected = json!({
        "v": 1,
        "record": {"request": "07".repeat(32), "until": NOW.0, "made": {"token": token_record}},
    });
    assert_eq!(as_json(&done_once(MadeRecord::Token(token(1)))), expected);
}

#[test]
fn records_of_the_first_version_are_read_without_what_they_lack() {
    let added = ["owner", "purpose", "max_age", "limits", "rotated_from", "rotated_to"];
    fn without<R: Record>(record: &R, fields: &[&str]) -> R {
        let mut json = as_json(record);
        for field in fields {
            json["record"].as_object_mut().unwrap().remove(*field);
        }
        R::decode(json.to_string().as_bytes()).unwrap()
    }
    let plain = |key: Key| Key {
        owner: None,
        purpose: None,
        limits: None,
        rotated_from: None,
        rotated_to: None,
        ..key
    };
    // Its pepper was always a text.
    assert_eq!(as_json(&full_key())["record"]["pepper"], "0707070707070707");
    assert_eq!(without(&full_key(), &added), plain(full_key()));
    let account = Account { owner: Some("team".to_owned()), ..account(1) };
    let expected = Account { owner: None, purpose: None, ..account.clone() };
    assert_eq!(without(&account, &added), expected);
    let app = App { max_age: Some(Duration::from_secs(1)), ..app(1, &account) };
    let expected = App { max_age: None, owner: None, purpose: None, ..app.clone() };
    assert_eq!(without(&app, &added), expected);
    let changes = changes(Some(&full_key()), &plain(full_key()));
    let refused = Some("forbidden".to_owned());
    let entry = AuditEntry { refused, changes, ..audit("key.update") };
    assert_eq!(without(&entry, &["refused", "changes"]), audit("key.update"));
}

#[test]
fn fields_of_a_later_program_are_passed_over() {
    let account = account(1);
    let mut json = as_json(&account);
    json["record"]["colour"] = json!("blue");
    json["shard"] = json!(7);
    assert_eq!(Account::decode(json.to_string().as_bytes()).unwrap(), account);
}

#[test]
fn a_newer_version_is_named_whatever_it_holds() {
    for newer in [r#"{"v":2,"record":null}"#, r#"{"v":2}"#] {
        let error = Key::decode(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, CodecError::Newer { found: 2 }), "{error:?}");
    }
    let mut json = as_json(&account(1));
    json["v"] = json!(2);
    let error = Account::decode(json.to_string().as_bytes()).unwrap_err();
    assert!(matches!(error, CodecError::Newer { found: 2 }), "{error:?}");
}

/// A restriction that got lost must not be read as none.
#[test]
fn a_record_without_a_field_that_restricts_is_refused() {
    let whole = as_json(&key(1, &app(1, &account(1))));
    for field in ["scopes", "expires_at", "allowed_cidrs", "allowed_origins", "status", "pepper"] {
        let mut json = whole.clone();
        json["record"].as_object_mut().unwrap().remove(field).unwrap();
        let error = Key::decode(json.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, CodecError::Malformed(_)), "{field}: {error:?}");
    }
    let whole = as_json(&app(1, &account(1)));
    for field in ["granted_scopes", "allowed_cidrs", "status"] {
        let mut json = whole.clone();
        json["record"].as_object_mut().unwrap().remove(field).unwrap();
        assert!(App::decode(json.to_string().as_bytes()).is_err(), "{field}");
    }
    let whole = as_json(&token(1));
    for field in ["role", "sha256", "expires_at", "status"] {
        let mut json = whole.clone();
        json["record"].as_object_mut().unwrap().remove(field).unwrap();
        assert!(AdminToken::decode(json.to_string().as_bytes()).is_err(), "{field}");
    }
}
