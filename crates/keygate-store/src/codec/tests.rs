//! What was written stays readable, and what cannot be read is refused.

use proptest::prelude::*;
use serde_json::json;

use keygate_core::key::PepperId;
use keygate_core::{KeyDigest, TokenId};

use super::*;
use crate::records::{AccountStatus, AppStatus, KeyStatus, Metadata, Role, TokenStatus, Version};
use crate::testing::{NOW, account, app, audit, key, key_id, limits, revoked, token};

fn check_round_trip<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
    assert_eq!(R::decode(&record.encode().unwrap()).unwrap(), *record);
}

fn as_json(record: &impl Record) -> Value {
    serde_json::from_slice(&record.encode().unwrap()).unwrap()
}

#[test]
fn records_are_read_as_they_were_written() {
    let (account, app) = (account(1), app(1, &account(1)));
    let key = key(1, &app);
    check_round_trip(&account);
    check_round_trip(&Account { status: AccountStatus::Suspended, ..account });
    check_round_trip(&App { status: AppStatus::Disabled, tier: None, ..app });
    check_round_trip(&revoked(&key));
    check_round_trip(&Key { status: KeyStatus::Disabled, ..key.clone() });
    check_round_trip(&Key { expires_at: None, name: None, ..key });
    check_round_trip(&audit("key.create"));
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
    for field in ["scopes", "expires_at", "allowed_cidrs", "allowed_origins", "status"] {
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
}
