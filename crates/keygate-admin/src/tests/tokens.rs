//! Admin tokens: made, shown once, of use as long as they are good, and no longer.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;

const TOKENS: &str = "/v1/admin-tokens";

impl Api {
    /// Makes an admin token: the answer, whose `token` no other answer may hold from here on.
    pub(super) async fn token(&self, body: Value) -> Value {
        let answer = self.call_with("POST", TOKENS, &[], body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let made = answer.json();
        self.secrets.lock().unwrap().push(text(&made));
        made
    }

    /// Sends a request with another token than the first.
    pub(super) async fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(body.map(|_| ("content-type", "application/json")));
        self.send(method, path, &headers, &body.map(Value::to_string).unwrap_or_default()).await
    }

    pub(super) async fn look_as(&self, token: &str) -> Answer {
        self.call_as(token, "GET", "/v1/accounts", None).await
    }
}

pub(super) fn text(made: &Value) -> String {
    made["token"].as_str().unwrap_or_else(|| panic!("no token in {made}")).to_owned()
}

/// Has the shape of a token, and is none.
fn made_up(n: usize) -> String {
    format!("kgat_{n:043}")
}

#[tokio::test]
async fn a_token_is_shown_once_and_lets_its_holder_in() {
    let api = Api::start().await;
    let made = api.token(json!({ "name": "ci", "role": "viewer" })).await;
    let token = text(&made);
    assert!(token.starts_with("kgat_") && token.len() == 48, "{}", token.len());
    let mut record = made.clone();
    for member in ["token", "replayed"] {
        record.as_object_mut().unwrap().remove(member);
    }
    let expected = json!({
        "id": made["id"], "name": "ci", "role": "viewer", "accounts": null, "status": "active",
        "expires_at": null, "revoked_at": null,
        "created_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z",
    });
    assert_eq!(record, expected);
    let path = format!("{TOKENS}/{}", id(&made));
    assert_eq!(api.get(&path).await.json(), record);
    assert_eq!(api.get(TOKENS).await.json()["items"], json!([record]));
    assert_eq!(api.call_as(&token, "GET", &path, None).await.status, 200);
    let audit = api.get("/v1/audit").await.json();
    let entry = &audit["items"][0];
    assert_eq!((&entry["action"], &entry["subject"]), (&json!("token.create"), &made["id"]));
    assert_eq!(entry["changes"], json!({ "name": [null, "ci"], "role": [null, "viewer"] }));
}

#[tokio::test]
async fn what_a_token_does_is_written_down_as_its_doing() {
    let api = Api::start().await;
    let made = api.token(json!({ "name": "ops", "role": "admin" })).await;
    let body = json!({ "name": "Acme" });
    let answer = api.call_as(&text(&made), "POST", "/v1/accounts", Some(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let audit = api.get(&format!("/v1/audit?actor=token:{}", id(&made))).await.json();
    assert_eq!(audit["items"][0]["action"], "account.create");
    assert_eq!(audit["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_revoked_expired_or_unknown_is_refused_in_the_same_words() {
    let api = Api::start().await;
    let viewer = json!({ "name": "a", "role": "viewer" });
    let revoked = api.token(viewer.clone()).await;
    let expired = api.token(json!({ "name": "b", "role": "admin", "ttl": "1h" })).await;
    let later = api.at(|| UnixMillis(NOW.0 + 3_600_000)).await;
    for token in [&revoked, &expired] {
        assert_eq!(api.look_as(&text(token)).await.status, 200);
    }
    let revoke = format!("{TOKENS}/{}/revoke", id(&revoked));
    let answer = api.post(&revoke, json!({ "reason": "lost" })).await.json();
    assert_eq!(
        (&answer["status"], &answer["revoked_at"]),
        (&json!("revoked"), &answer["updated_at"])
    );
    let mut refusals = Vec::new();
    for token in [text(&revoked), text(&expired), made_up(1), "x".to_owned()] {
        let refused = later.look_as(&token).await;
        assert_problem(&refused, 401, "unauthorized");
        let mut problem = refused.json();
        problem["request_id"].take();
        refusals.push((problem, refused.header("www-authenticate").to_owned()));
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    let shown = later.get(&format!("{TOKENS}/{}", id(&expired))).await.json();
    assert_eq!(shown["status"], "expired");
    // Again: fine, and unchanged.
    assert_eq!(api.post(&revoke, json!({})).await.json(), answer);
    let entries = api.get("/v1/audit?action=token.revoke").await.json();
    assert_eq!(entries["items"].as_array().unwrap().len(), 1);
    assert_eq!(entries["items"][0]["reason"], "lost");
    assert_eq!(entries["items"][0]["changes"]["status"][0], "active");
}

#[tokio::test]
async fn a_token_may_revoke_itself() {
    let api = Api::start().await;
    let made = api.token(json!({ "name": "ops", "role": "admin" })).await;
    let revoke = format!("{TOKENS}/{}/revoke", id(&made));
    let token = text(&made);
    assert_eq!(api.call_as(&token, "POST", &revoke, None).await.status, 200);
    assert_eq!(api.look_as(&token).await.status, 401);
}

#[tokio::test]
async fn only_an_admin_handles_tokens_and_a_viewer_sees_them() {
    let api = Api::start().await;
    let account = api.account().await;
    let viewer = api.token(json!({ "name": "v", "role": "viewer" })).await;
    let issuer = json!({ "name": "i", "role": "issuer", "accounts": [account, account] });
    let issuer = api.token(issuer).await;
    assert_eq!(issuer["accounts"], json!([account]), "once each");
    let admin = api.token(json!({ "name": "a", "role": "admin" })).await;
    let one = format!("{TOKENS}/{}", id(&viewer));
    let revoke = format!("{one}/revoke");
    let body = json!({ "name": "x", "role": "admin" });
    for (who, look, change) in [(&viewer, 200, 403), (&issuer, 403, 403)] {
        let token = text(who);
        for path in [TOKENS, &one] {
            assert_eq!(api.call_as(&token, "GET", path, None).await.status, look, "{path}");
        }
        for (path, body) in [(TOKENS, Some(&body)), (revoke.as_str(), None)] {
            let answer = api.call_as(&token, "POST", path, body).await;
            assert_eq!(answer.status, change, "{path}");
            assert_problem(&answer, 403, "forbidden");
            assert_eq!(answer.json()["required_role"], "admin");
        }
    }
    assert_eq!(api.call_as(&text(&admin), "POST", &revoke, None).await.status, 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_to_be_made_is_said() {
    let api = Api::start().await;
    let account = api.account().await;
    let unknown = "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let many = vec![account.clone(); 101];
    for (body, field) in [
        (json!({ "name": "", "role": "viewer" }), "name"),
        (json!({ "name": made_up(1), "role": "viewer" }), "name"),
        (json!({ "name": "a", "role": "root" }), "role"),
        (json!({ "name": "a", "role": "issuer" }), "accounts"),
        (json!({ "name": "a", "role": "issuer", "accounts": [] }), "accounts"),
        (json!({ "name": "a", "role": "issuer", "accounts": ["x"] }), "accounts"),
        (json!({ "name": "a", "role": "issuer", "accounts": [account, unknown] }), "accounts"),
        (json!({ "name": "a", "role": "issuer", "accounts": many }), "accounts"),
        (json!({ "name": "a", "role": "viewer", "accounts": [account] }), "accounts"),
        (json!({ "name": "a", "role": "admin", "accounts": [] }), "accounts"),
        (json!({ "name": "a", "role": "admin", "ttl": "0s" }), "ttl"),
        (
            json!({ "name": "a", "role": "admin", "expires_at": "2029-12-31T23:59:59Z" }),
            "expires_at",
        ),
        (
            json!({ "name": "a", "role": "admin", "ttl": "1h", "expires_at": "2031-01-01T00:00:00Z" }),
            "ttl",
        ),
    ] {
        let answer = api.post(TOKENS, body.clone()).await;
        assert_problem(&answer, 422, "invalid_field");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    for body in [json!({ "name": "a" }), json!({ "name": "a", "role": "viewer", "scopes": [] })] {
        assert_problem(&api.post(TOKENS, body).await, 400, "bad_request");
    }
    assert_eq!(api.get(TOKENS).await.json()["items"], json!([]));
    for path in ["tok_01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", unknown] {
        assert_problem(&api.get(&format!("{TOKENS}/{path}")).await, 404, "not_found");
    }
}

#[tokio::test]
async fn a_store_that_cannot_say_is_a_503_and_the_first_token_works_on() {
    let api = Api::start().await;
    let token = text(&api.token(json!({ "name": "a", "role": "admin" })).await);
    api.cache.store().down.store(true, Ordering::SeqCst);
    for unasked in [token.as_str(), &made_up(1)] {
        let answer = api.look_as(unasked).await;
        assert_problem(&answer, 503, "store_unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_problem(&api.look_as("x").await, 401, "unauthorized");
    // Let in: what is unavailable is the list.
    assert!(
        assert_problem(&api.get("/v1/accounts").await, 503, "store_unavailable").contains("made")
    );
    api.cache.store().down.store(false, Ordering::SeqCst);
    assert_eq!(api.look_as(&token).await.status, 200);
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_asks_the_store_little_once_it_is_one_and_locks_nobody_out() {
    let api = Api::start().await.with_failures("60/hour").await;
    let known = text(&api.token(json!({ "name": "a", "role": "viewer" })).await);
    let fresh = text(&api.token(json!({ "name": "b", "role": "viewer" })).await);
    let revoked = api.token(json!({ "name": "c", "role": "viewer" })).await;
    for token in [&known, &text(&revoked)] {
        assert_eq!(api.look_as(token).await.status, 200);
    }
    let lookups = || api.cache.store().token_lookups.load(Ordering::SeqCst);
    let before = lookups();
    for n in 0..30 {
        for wrong in [made_up(n).as_str(), "kgat_short"] {
            assert_problem(&api.look_as(wrong).await, 401, "unauthorized");
        }
    }
    assert_eq!(lookups() - before, 30, "what has not the shape is not asked for");
    let flood = Instant::now();
    for n in 100..200 {
        assert_problem(&api.look_as(&made_up(n)).await, 429, "too_many_failures");
    }
    let rationed = lookups() - before - 30;
    assert!(rationed <= 4 + 4 * usize::try_from(flood.elapsed().as_secs() + 1).unwrap());
    assert_eq!(api.look_as(&known).await.status, 200, "it was right before");
    assert_eq!(api.get("/v1/accounts").await.status, 200, "the first one always is");
    // One that this gateway has not seen yet is let in when there is a look-up to spare.
    let let_in = async {
        while api.look_as(&fresh).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), let_in).await.expect("never let in");
    // One that was right before is looked up, and is not right for ever.
    api.post(&format!("{TOKENS}/{}/revoke", id(&revoked)), json!({})).await;
    for _ in 0..10 {
        assert_problem(&api.look_as(&text(&revoked)).await, 429, "too_many_failures");
    }
}

#[tokio::test]
async fn the_same_call_again_makes_one_token_and_shows_it_once() {
    let api = Api::start().await;
    let once = [("idempotency-key", "first")];
    let body = json!({ "name": "a", "role": "viewer", "ttl": "1h" });
    let first = api.call_with("POST", TOKENS, &once, body.clone()).await;
    assert_eq!(first.status, 201, "{}", first.text);
    api.secrets.lock().unwrap().push(text(&first.json()));
    let mut expected = first.json();
    expected["replayed"] = json!(true);
    expected["token"] = Value::Null;
    let again = api.call_with("POST", TOKENS, &once, body).await;
    assert_eq!((again.status, again.json()), (201, expected));
    for header in ["location", "etag"] {
        assert_eq!(again.header(header), first.header(header));
    }
    let other = json!({ "name": "a", "role": "admin", "ttl": "1h" });
    let reused = api.call_with("POST", TOKENS, &once, other).await;
    assert_problem(&reused, 422, "idempotency_key_reused");
    assert_eq!(api.get(TOKENS).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_is_revoked_from_the_version_that_was_seen() {
    let api = Api::start().await;
    let made = api.token(json!({ "name": "a", "role": "viewer" })).await;
    let path = format!("{TOKENS}/{}", id(&made));
    let seen = api.get(&path).await;
    let tag = seen.header("etag");
    let stale = [("if-match", "\"999\"")];
    let revoke = format!("{path}/revoke");
    let refused = api.call_with("POST", &revoke, &stale, json!({})).await;
    assert_problem(&refused, 412, "precondition_failed");
    let done = api.call_with("POST", &revoke, &[("if-match", tag)], json!({})).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_ne!(done.header("etag"), tag);
    assert_eq!(api.get(&path).await.header("etag"), done.header("etag"));
}

#[tokio::test]
async fn a_token_that_nobody_was_shown_lets_nobody_in() {
    let api = Api::start().await;
    api.cache.store().no_replica.store(true, Ordering::SeqCst);
    let answer = api.post(TOKENS, json!({ "name": "a", "role": "admin" })).await;
    assert!(assert_problem(&answer, 503, "not_durable").contains("admin token"));
    api.cache.store().no_replica.store(false, Ordering::SeqCst);
    assert_eq!(api.get(TOKENS).await.json()["items"][0]["status"], "revoked");
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_never_said_to_be_made_by_a_replay() {
    let api = Api::start().await;
    let (once, body) = ([("idempotency-key", "once")], json!({ "name": "a", "role": "admin" }));
    let send = async || api.call_with("POST", TOKENS, &once, body.clone()).await;
    api.cache.store().no_replica.store(true, Ordering::SeqCst);
    assert!(assert_problem(&send().await, 503, "not_durable").contains("admin token"));
    assert!(assert_problem(&send().await, 503, "not_durable").contains("same call"));
    api.cache.store().no_replica.store(false, Ordering::SeqCst);
    let detail = assert_problem(&send().await, 409, "key_not_shown");
    assert!(detail.contains("another `Idempotency-Key`"), "{detail}");
    assert_eq!(api.get(TOKENS).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_replay_of_a_token_that_an_operator_revoked_does_not_say_otherwise() {
    let api = Api::start().await;
    let (once, body) = ([("idempotency-key", "once")], json!({ "name": "a", "role": "admin" }));
    let send = async || api.call_with("POST", TOKENS, &once, body.clone()).await;
    let made = send().await;
    assert_eq!(made.status, 201);
    api.post(&format!("{TOKENS}/{}/revoke", id(&made.json())), json!({ "reason": "left" })).await;
    let answer = send().await;
    let detail = assert_problem(&answer, 409, "key_not_shown");
    assert!(detail.contains("is revoked by now, by an operator or because"), "{detail}");
    assert!(detail.contains("another `Idempotency-Key`"), "{detail}");
    let title = answer.json()["title"].as_str().unwrap().to_owned();
    assert!(!title.contains("before anybody"), "{title}");
}
