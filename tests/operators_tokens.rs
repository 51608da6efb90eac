//! Admin tokens on the real binary: what each role may do, and when a token stops being one.

use serde_json::{Value, json};

use crate::harness::{
    Admin, Connection, Fleet, Gateway, KeySpec, Redis, Request, Setup, Upstream, eventually, get,
    post, request,
};

const SCOPES: &[&str] = &["read:orders"];

/// A call, its body, and the statuses for a viewer, an issuer of the account, an issuer of another, an
/// admin. `{key}` and the like stand for the account's own; `{fresh}` is a key that nobody used yet.
const CALLS: &[(&str, &str, &str, [u16; 4])] = &[
    ("GET", "/v1/accounts", "", [200, 200, 200, 200]),
    ("POST", "/v1/accounts", r#"{"name":"New"}"#, [403, 403, 403, 201]),
    ("GET", "/v1/accounts/{account}", "", [200, 200, 404, 200]),
    ("PATCH", "/v1/accounts/{account}", r#"{"name":"Changed"}"#, [403, 403, 403, 200]),
    ("GET", "/v1/accounts/{account}/apps", "", [200, 200, 404, 200]),
    (
        "POST",
        "/v1/accounts/{account}/apps",
        r#"{"name":"New","environment":"live","granted_scopes":[]}"#,
        [403, 403, 403, 201],
    ),
    ("GET", "/v1/apps/{app}", "", [200, 200, 404, 200]),
    ("PATCH", "/v1/apps/{app}", r#"{"name":"Changed"}"#, [403, 403, 403, 200]),
    ("GET", "/v1/apps/{app}/keys", "", [200, 200, 404, 200]),
    ("POST", "/v1/apps/{app}/keys", r#"{"scopes":[]}"#, [403, 201, 404, 201]),
    ("GET", "/v1/keys", "", [200, 200, 200, 200]),
    ("GET", "/v1/keys/{key}", "", [200, 200, 404, 200]),
    ("PATCH", "/v1/keys/{key}", r#"{"name":"changed"}"#, [403, 200, 404, 200]),
    ("GET", "/v1/keys/{key}/usage", "", [200, 200, 404, 200]),
    ("POST", "/v1/keys/{fresh}/rotate", "{}", [403, 201, 404, 201]),
    ("POST", "/v1/keys/{fresh}/revoke", "{}", [403, 200, 404, 200]),
    ("POST", "/v1/keys/verify", r#"{"key":"nonsense"}"#, [200, 200, 200, 200]),
    (
        "POST",
        "/v1/explain",
        r#"{"key_id":"{key}","method":"GET","path":"/v1/orders"}"#,
        [200, 200, 404, 200],
    ),
    ("GET", "/v1/audit", "", [200, 403, 403, 200]),
    ("GET", "/v1/audit/verify", "", [200, 403, 403, 200]),
    ("GET", "/v1/fleet", "", [200, 403, 403, 200]),
    ("GET", "/v1/top", "", [200, 403, 403, 200]),
    ("GET", "/v1/usage", "", [200, 403, 403, 200]),
    ("GET", "/v1/usage?app_id={app}", "", [200, 200, 404, 200]),
    ("GET", "/v1/usage?key_id={key}&group=key&format=csv", "", [200, 200, 404, 200]),
    ("GET", "/v1/peppers", "", [200, 403, 403, 200]),
    ("POST", "/v1/reload", "{}", [403, 403, 403, 200]),
    ("GET", "/v1/admin-tokens", "", [200, 403, 403, 200]),
    ("POST", "/v1/admin-tokens", r#"{"name":"new","role":"viewer"}"#, [403, 403, 403, 201]),
    ("GET", "/v1/admin-tokens/{token}", "", [200, 403, 403, 200]),
    ("POST", "/v1/admin-tokens/{token}/revoke", "{}", [403, 403, 403, 200]),
];

/// Runs a test on a store of each kind.
fn on_each_store(test: impl Fn(Setup)) {
    let upstream = Upstream::start();
    test(Setup::in_front_of(&upstream));
    let redis = Redis::start();
    test(Setup::in_front_of(&upstream).redis(&redis));
}

fn call(method: &str, path: &str, body: &str) -> Request {
    Request { body: body.as_bytes().to_vec(), ..request(method, path) }
}

/// Sends a call that may make something secret.
fn send(admin: &Admin, request: &Request) -> u16 {
    admin.create(request).status
}

fn ids(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_role_may_do_what_it_is_for_and_nothing_else() {
    on_each_store(|setup| {
        let gateway = setup.keys("keys_max_live = 100").start();
        let admin = gateway.admin();
        let spec = KeySpec::new(SCOPES);
        let (ours, theirs) = (admin.key(&spec), admin.key(&spec));
        let token = |role: &str, account: Option<&str>| {
            let accounts = account.map(|account| vec![account]);
            let body = match accounts {
                Some(accounts) => json!({ "name": role, "role": role, "accounts": accounts }),
                None => json!({ "name": role, "role": role }),
            };
            admin.token(&body)
        };
        let (viewer_id, viewer) = token("viewer", None);
        let (_, issuer) = token("issuer", Some(&ours.account));
        let (_, other) = token("issuer", Some(&theirs.account));
        let (_, made_admin) = token("admin", None);
        for (method, path, body, statuses) in CALLS {
            for (who, status) in [&viewer, &issuer, &other, &made_admin].into_iter().zip(statuses) {
                let fill = |text: &str| {
                    let mut text = text.to_owned();
                    if text.contains("{fresh}") {
                        let fresh = admin.key_of(&ours.account, &ours.app, &spec);
                        text = text.replace("{fresh}", &fresh.id);
                    }
                    text.replace("{account}", &ours.account)
                        .replace("{app}", &ours.app)
                        .replace("{key}", &ours.id)
                        .replace("{token}", &viewer_id)
                };
                let request = call(method, &fill(path), &fill(body));
                assert_eq!(send(who, &request), *status, "{method} {path} of {statuses:?}");
            }
        }
        for (who, key) in [(&issuer, &ours), (&other, &theirs)] {
            assert_eq!(ids(&who.read("/v1/accounts")), [key.account.as_str()]);
            let keys = who.read("/v1/keys?limit=200");
            let of = keys["items"].as_array().unwrap().iter().map(|key| &key["account_id"]);
            assert!(of.clone().count() > 0 && of.clone().all(|id| *id == key.account), "{keys}");
        }
    });
}

#[test]
fn a_token_that_is_revoked_is_refused_by_every_gateway_at_once_and_one_that_expires_in_time() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let fleet = Fleet::of(3, &Setup::in_front_of(&upstream).redis(&redis));
    let admin = fleet[0].admin();
    let look = get("/v1/accounts");
    let everywhere = |holder: &Admin, status: u16| {
        for gateway in fleet.iter() {
            let bearer = look.clone().bearer(holder.bearer());
            let answer = ask(gateway, &bearer);
            assert_eq!(answer, status);
        }
    };
    for _ in 0..20 {
        let (id, holder) = admin.token(&json!({ "name": "a", "role": "viewer" }));
        everywhere(&holder, 200);
        let revoke = post(&format!("/v1/admin-tokens/{id}/revoke"), "{}");
        assert_eq!(fleet[1].admin().send(&revoke).status, 200);
        everywhere(&holder, 401);
    }
    let (id, holder) = admin.token(&json!({ "name": "b", "role": "admin", "ttl": "2s" }));
    everywhere(&holder, 200);
    eventually("the token's end", || {
        let status = admin.read(&format!("/v1/admin-tokens/{id}"))["status"].clone();
        (status == "expired").then_some(())
    });
    everywhere(&holder, 401);
}

fn ask(gateway: &Gateway, request: &Request) -> u16 {
    Connection::open(gateway.admin_address).exchange(request).unwrap().status
}

#[test]
fn a_made_token_outlives_a_restart_and_its_revocation_does_too() {
    on_each_store(|setup| {
        let mut gateway = setup.start();
        let (_, kept) = gateway.admin().token(&json!({ "name": "a", "role": "viewer" }));
        let (id, lost) = gateway.admin().token(&json!({ "name": "b", "role": "viewer" }));
        let revoke = post(&format!("/v1/admin-tokens/{id}/revoke"), "{}");
        assert_eq!(gateway.admin().send(&revoke).status, 200);
        gateway.kill();
        gateway.start_again();
        let look = |holder: &Admin| ask(&gateway, &get("/v1/accounts").bearer(holder.bearer()));
        assert_eq!((look(&kept), look(&lost)), (200, 401));
    });
}

#[test]
fn while_redis_is_away_a_made_token_is_a_503_and_the_first_one_works() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let gateway = Setup::in_front_of(&upstream).redis(&redis).start();
    let (_, holder) = gateway.admin().token(&json!({ "name": "a", "role": "admin" }));
    let look = get("/v1/accounts").bearer(holder.bearer());
    assert_eq!(ask(&gateway, &look), 200);
    redis.kill();
    for _ in 0..5 {
        assert_eq!(ask(&gateway, &look), 503, "never 401");
    }
    let first = gateway.admin().send(&get("/v1/accounts"));
    assert_eq!(first.code(), "store_unavailable", "let in, and then there is no list");
    assert_eq!(gateway.admin().send(&get("/v1/accounts/x")).status, 404);
    redis.start_again();
    eventually("the token", || (ask(&gateway, &look) == 200).then_some(()));
}

#[test]
fn what_was_refused_is_in_the_log_of_every_store() {
    on_each_store(|setup| {
        let gateway = setup.start();
        let admin = gateway.admin();
        let (id, viewer) = admin.token(&json!({ "name": "v", "role": "viewer" }));
        assert_eq!(ask(&gateway, &get("/v1/keys").bearer("kgat_guess")), 401);
        assert_eq!(viewer.send(&post("/v1/accounts", r#"{"name":"a"}"#)).status, 403);
        let wrong = admin.send(&post("/v1/accounts", r#"{"name":""}"#));
        assert_eq!(wrong.status, 422);
        let entries = eventually("the entries", || {
            let list = admin.read("/v1/audit?refused=true");
            let entries = list["items"].as_array().unwrap().clone();
            (entries.len() == 3).then_some(entries)
        });
        let shown = |entry: &Value| {
            ["actor", "subject", "refused", "from"]
                .map(|name| entry[name].as_str().unwrap().to_owned())
        };
        let viewer = format!("token:{id}");
        let expected = [
            ["anonymous", "GET /v1/keys", "unauthorized"],
            [&viewer, "POST /v1/accounts", "forbidden"],
            ["token:bootstrap", "POST /v1/accounts", "invalid_field"],
        ];
        for (entry, [actor, subject, code]) in entries.iter().zip(expected) {
            assert_eq!(shown(entry), [actor, subject, code, "127.0.0.1"]);
        }
    });
}

#[test]
fn who_floods_the_api_with_wrong_tokens_neither_fills_the_log_nor_keeps_others_out() {
    on_each_store(|setup| {
        let gateway = setup.start();
        let admin = gateway.admin();
        let (_, known) = admin.token(&json!({ "name": "a", "role": "viewer" }));
        let look = |token: &str| ask(&gateway, &get("/v1/accounts").bearer(token));
        assert_eq!(look(known.bearer()), 200);
        let mut stranger = Connection::open(gateway.admin_address);
        let mut last = 0;
        for n in 0..1_000 {
            let guess = get("/v1/accounts").bearer(&format!("kgat_{n:043}"));
            last = stranger.exchange(&guess).unwrap().status;
            assert!(matches!(last, 401 | 429), "{last}");
        }
        assert_eq!(last, 429);
        assert_eq!(look(known.bearer()), 200, "it was right before");
        assert_eq!(admin.send(&get("/v1/accounts")).status, 200);
        let entries = admin.read("/v1/audit?refused=true&limit=200");
        let count = entries["items"].as_array().unwrap().len();
        assert!((1..=60).contains(&count), "{count} entries of 1000 attempts");
        assert_eq!(gateway.metric("keygate_audit_dropped_total"), 0.0);
    });
}
