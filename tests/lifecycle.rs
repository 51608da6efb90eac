//! The life of a key on one machine: replaced without a gap, changed by nobody unseen, made once.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{
    Admin, Answer, KeySpec, Request, Setup, Upstream, assert_refused, eventually, get, post,
    request,
};

const SCOPES: &[&str] = &["read:orders"];

#[test]
fn a_rotated_key_works_until_its_overlap_ends_and_is_refused_from_then_on() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let old = gateway.key_with(&KeySpec::new(SCOPES));
    let with_old = get("/v1/orders").bearer(&old.key);
    assert_eq!(gateway.send(&with_old).status, 200);
    let rotate = post(&format!("/v1/keys/{}/rotate", old.id), r#"{"overlap":"2s"}"#);
    let answer = admin.create(&rotate);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let new = answer.json();
    assert_eq!(new["rotated_from"], old.id);
    let with_new = get("/v1/orders").bearer(new["key"].as_str().unwrap());
    assert_eq!(gateway.send(&with_new).status, 200, "at once");
    let mut passed = 0;
    let refused = eventually("the end of the overlap", || {
        let answer = gateway.send(&with_old);
        passed += u32::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    assert_refused(&refused, 401, "api_key_expired");
    assert!(passed > 0, "it worked in the overlap");
    assert_refused(&gateway.send(&with_old), 401, "api_key_expired");
    assert_eq!(gateway.send(&with_new).status, 200);
    let shown = admin.read(&format!("/v1/keys/{}", old.id));
    assert_eq!([&shown["status"], &shown["rotated_to"]], [&json!("expired"), &new["id"]]);
    let found = admin.read("/v1/keys?status=expired");
    assert_eq!(found["items"][0]["id"], old.id);
    let usage = eventually("the old key's use, on record", || {
        let usage = admin.read(&format!("/v1/keys/{}/usage", old.id));
        usage["last_used_at"].is_string().then_some(usage)
    });
    assert_eq!(usage["rotated_to"], new["id"]);
}

#[test]
fn of_two_changes_made_from_one_version_one_is_made_and_the_other_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let key = gateway.key_with(&KeySpec::new(SCOPES));
    for path in [
        format!("/v1/accounts/{}", key.account),
        format!("/v1/apps/{}", key.app),
        format!("/v1/keys/{}", key.id),
    ] {
        for round in 0..5 {
            let tag = admin.send(&get(&path)).header("etag").unwrap().to_owned();
            let changes = ["one", "other"].map(|who| {
                let body = json!({ "name": format!("{who} {round}") }).to_string().into();
                Request { body, ..request("PATCH", &path) }.header("If-Match", &tag)
            });
            let mut answers = at_once(&admin, changes.to_vec());
            answers.sort_by_key(|answer| answer.status);
            let [made, refused] = answers.as_slice() else { panic!("{answers:?}") };
            assert_eq!((made.status, refused.status), (200, 412), "{}", refused.text());
            assert_eq!(refused.code(), "precondition_failed");
            assert_eq!(admin.read(&path)["name"], made.json()["name"]);
        }
    }
}

#[test]
fn the_same_create_a_hundred_times_at_once_makes_one_key() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let admin = gateway.admin();
    let spec = KeySpec::new(SCOPES);
    let account = admin.account();
    let app = admin.app(&account, &spec);
    let path = format!("/v1/apps/{app}/keys");
    let create = post(&path, spec.key.to_string()).header("Idempotency-Key", "once");
    let answers = at_once(&admin, vec![create; 100]);
    let first = answers[0].json();
    let mut shown = Vec::new();
    for answer in &answers {
        let body = answer.json();
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(body["id"], first["id"]);
        assert_eq!(body["replayed"], body["key"].is_null());
        shown.extend(body["key"].as_str().map(ToOwned::to_owned));
    }
    let [key] = shown.as_slice() else { panic!("{} answers show a key", shown.len()) };
    assert_eq!(gateway.send(&get("/v1/orders").bearer(key)).status, 200);
    let keys = admin.read(&path);
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(1));
    let made = |entry: &&Value| entry["action"] == "key.create";
    let log = admin.read("/v1/audit?limit=200");
    assert_eq!(log["items"].as_array().unwrap().iter().filter(made).count(), 1);
}

/// Sends all of these, each from a thread of its own.
fn at_once(admin: &Admin, requests: Vec<Request>) -> Vec<Answer> {
    thread::scope(|scope| {
        let sent: Vec<_> = requests
            .into_iter()
            .map(|request| scope.spawn(move || admin.create(&request)))
            .collect();
        sent.into_iter().map(|sent| sent.join().expect("an answer")).collect()
    })
}
