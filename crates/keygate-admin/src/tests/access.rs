//! Who gets in, and what is open to all.

use serde_json::json;

use super::*;

const KEY: &str = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
const APP: &str = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
const TOKEN_ID: &str = "tok_01ARZ3NDEKTSV4RRFFQ69G5FAV";
const ACCOUNT: &str = "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// Every path of the API with its methods.
fn paths() -> Vec<(String, Vec<&'static str>)> {
    vec![
        ("/v1/accounts".into(), vec!["GET", "POST"]),
        (format!("/v1/accounts/{ACCOUNT}"), vec!["GET", "PATCH"]),
        (format!("/v1/accounts/{ACCOUNT}/apps"), vec!["GET", "POST"]),
        (format!("/v1/apps/{APP}"), vec!["GET", "PATCH"]),
        (format!("/v1/apps/{APP}/keys"), vec!["GET", "POST"]),
        (format!("/v1/keys/{KEY}"), vec!["GET", "PATCH"]),
        ("/v1/keys".into(), vec!["GET"]),
        (format!("/v1/keys/{KEY}/revoke"), vec!["POST"]),
        (format!("/v1/keys/{KEY}/rotate"), vec!["POST"]),
        (format!("/v1/keys/{KEY}/usage"), vec!["GET"]),
        ("/v1/keys/verify".into(), vec!["POST"]),
        ("/v1/top".into(), vec!["GET"]),
        ("/v1/usage".into(), vec!["GET"]),
        ("/v1/audit".into(), vec!["GET"]),
        ("/v1/audit/verify".into(), vec!["GET"]),
        ("/v1/admin-tokens".into(), vec!["GET", "POST"]),
        (format!("/v1/admin-tokens/{TOKEN_ID}"), vec!["GET"]),
        (format!("/v1/admin-tokens/{TOKEN_ID}/revoke"), vec!["POST"]),
    ]
}

#[tokio::test]
async fn without_the_token_every_path_answers_401_and_nothing_else() {
    let api = Api::start().await;
    let mut unknown = paths();
    unknown.extend([("/v1/nothing".into(), vec!["GET"]), ("/".into(), vec!["GET"])]);
    unknown.extend([("/healthz/".into(), vec!["GET"]), ("/v1/%2e./metrics".into(), vec!["GET"])]);
    let wrong = format!("Bearer {}", TOKEN.replace("0123", "0124"));
    let cut = format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]);
    let long = format!("Bearer {}", "a".repeat(10_000));
    let credentials = ["", "Bearer", "Bearer ", "Bearer x", &wrong, &cut, &long, TOKEN, "Basic x"];
    for (path, methods) in unknown {
        for method in methods.into_iter().chain(["DELETE"]) {
            let none = api.send(method, &path, &[], "{").await;
            assert_problem(&none, 401, "unauthorized");
            assert_eq!(none.header("www-authenticate"), "Bearer realm=\"keygate-admin\"");
            for credential in credentials {
                let answer = api.send(method, &path, &[("authorization", credential)], "").await;
                assert_problem(&answer, 401, "unauthorized");
                assert!(answer.header("www-authenticate").ends_with("error=\"invalid_token\""));
            }
        }
    }
}

#[tokio::test]
async fn two_authorization_headers_are_none() {
    let api = Api::start().await;
    let right = format!("Bearer {TOKEN}");
    let twice = [("authorization", right.as_str()), ("authorization", right.as_str())];
    assert_problem(&api.send("GET", "/v1/accounts", &twice, "").await, 401, "unauthorized");
    let lower_case = format!("bearer  {TOKEN} ");
    let once = [("authorization", lower_case.as_str())];
    assert_eq!(api.send("GET", "/v1/accounts", &once, "").await.status, 200);
}

#[tokio::test]
async fn a_browser_gets_nothing_even_with_the_token() {
    let api = Api::start().await;
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/v1/accounts", "/metrics", "/healthz"] {
        for origin in ["http://localhost:3000", "null"] {
            let headers = [("authorization", bearer.as_str()), ("origin", origin)];
            let answer = api.send("GET", path, &headers, "").await;
            assert_problem(&answer, 403, "browser_not_allowed");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_allow() {
    let api = Api::start().await;
    for path in ["/", "/v1", "/v1/keys/", "/v1/accounts/", "/v2/accounts", "/v1//accounts"] {
        assert_problem(&api.get(path).await, 404, "not_found");
    }
    for (path, methods) in paths() {
        let answer = api.call("DELETE", &path, None).await;
        assert_problem(&answer, 405, "method_not_allowed");
        for method in methods {
            assert!(answer.header("allow").contains(method), "{path}: {:?}", answer.headers);
        }
    }
}

#[tokio::test]
async fn probes_and_metrics_need_no_token() {
    let api = Api::start().await;
    let health = api.send("GET", "/healthz", &[], "").await;
    assert_eq!((health.status, health.json()), (200, json!({ "status": "alive" })));
    let ready = api.send("GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, ready.json()), (200, json!({ "status": "ready" })));
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    api.post(&format!("/v1/keys/{}/revoke", id(&key)), json!({})).await;
    let metrics = api.send("GET", "/metrics", &[], "").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in ["keygate_keys_created_total 1", "keygate_keys_revoked_total 1"] {
        assert!(metrics.text.lines().any(|found| found == line), "{}", metrics.text);
    }
}

#[tokio::test]
async fn not_ready_says_why_and_is_still_alive() {
    let api = Api::start().await.not_ready("The gateway is shutting down.").await;
    let ready = api.send("GET", "/readyz", &[], "").await;
    assert_eq!(assert_problem(&ready, 503, "not_ready"), "The gateway is shutting down.");
    assert_eq!(api.send("GET", "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_a_usable_one_is_kept() {
    let api = Api::start().await;
    let with = async |id: &str| {
        let answer = api.send("GET", "/healthz", &[("x-request-id", id)], "").await;
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(with("abc-1.2_3").await, "abc-1.2_3");
    let key_like = format!("sk_live_{}", "a".repeat(50));
    for unusable in ["", "a b", "a/b", &"a".repeat(129), &key_like] {
        let made = with(unusable).await;
        assert!(made.len() == 32 && made != unusable, "{unusable}: {made}");
    }
    assert_ne!(with("").await, with("").await);
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_down_and_the_right_one_still_works() {
    let api = Api::start().await.with_failures("60/hour").await;
    let guess =
        async || api.send("GET", "/v1/accounts", &[("authorization", "Bearer x")], "").await;
    for _ in 0..60 {
        assert_problem(&guess().await, 401, "unauthorized");
    }
    let slowed = guess().await;
    assert_problem(&slowed, 429, "too_many_failures");
    assert_eq!(slowed.header("retry-after"), "60");
    assert_problem(&api.send("GET", "/v1/accounts", &[], "").await, 401, "unauthorized");
    assert_eq!(api.get("/v1/accounts").await.status, 200);
}

#[tokio::test]
async fn calls_are_counted_by_how_they_ended_and_probes_are_not() {
    let api = Api::start().await;
    let before = api.metrics.render();
    assert!(before.contains("keygate_admin_requests_total{outcome=\"failed\"} 0"), "{before}");
    api.get("/v1/accounts").await;
    api.send("GET", "/v1/accounts", &[("authorization", "Bearer x")], "").await;
    api.send("GET", "/v1/accounts", &[], "").await;
    api.get("/v1/nothing").await;
    api.send("GET", "/healthz", &[], "").await;
    api.cache.store().down.store(true, Ordering::SeqCst);
    api.get("/v1/accounts").await;
    let text = api.metrics.render();
    for (outcome, count) in [("ok", 1), ("unauthorized", 2), ("refused", 1), ("failed", 1)] {
        let line = format!("keygate_admin_requests_total{{outcome=\"{outcome}\"}} {count}");
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}
