//! What an operator is told of a fleet, and by it: who follows the store, what is durable, what a
//! gateway without its store can still do.

use serde_json::{Value, json};

use crate::harness::{
    Answer, Exit, Fleet, Gateway, KeySpec, Redis, Setup, Upstream, alone, assert_refused,
    eventually, get, post, run,
};

fn keygate(gateway: &Gateway, line: &str) -> Exit {
    let exit = run(gateway.folder(), &line.split_whitespace().collect::<Vec<_>>(), &[]);
    gateway.leaks().capture("a command's output", exit.stdout.as_bytes());
    exit
}

#[test]
fn a_fleet_of_one_is_well() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    gateway.key(&["read:orders"]);
    let fleet: Value = serde_json::from_str(&keygate(&gateway, "fleet --json").success()).unwrap();
    assert_eq!((&fleet["store"], &fleet["newest"]), (&json!("embedded"), &json!(3)));
    let this = &fleet["gateways"][0];
    assert_eq!(
        (&this["link"], &this["lag"], &this["this"]),
        (&json!("live"), &json!(0), &json!(true))
    );
    let table = keygate(&gateway, "fleet").success();
    assert!(table.contains("LINK") && table.contains(this["id"].as_str().unwrap()), "{table}");
}

#[test]
fn the_exit_code_of_fleet_says_whether_every_gateway_follows() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let mut fleet = Fleet::of(2, &Setup::in_front_of(&upstream).redis(&redis));
    eventually("two live gateways", || {
        let exit = keygate(&fleet[0], "fleet -q");
        (exit.code == Some(0) && exit.stdout.lines().count() == 2).then_some(())
    });
    fleet[1].kill();
    let exit = eventually("one that went silent", || {
        let exit = keygate(&fleet[0], "fleet");
        (exit.code == Some(1)).then_some(exit)
    });
    assert!(exit.stderr.contains("1 of 2 gateways"), "{exit:?}");
    assert!(exit.stdout.contains("down") && exit.stdout.contains("live"), "{exit:?}");
}

#[test]
fn a_gateway_that_is_stopped_leaves_the_list() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let mut fleet = Fleet::of(2, &Setup::in_front_of(&upstream).redis(&redis));
    let list = |gateway: &Gateway| keygate(gateway, "fleet -q").stdout.lines().count();
    eventually("both in the list", || (list(&fleet[0]) == 2).then_some(()));
    fleet[1].process().terminate();
    assert_eq!(fleet[1].process().wait_for_exit(), Some(Some(0)));
    assert_eq!(list(&fleet[0]), 1);
}

#[track_caller]
fn assert_problem(answer: &Answer, code: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!(code)), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// A replica that stands still has nothing that it is sent.
#[test]
fn a_change_is_acknowledged_only_once_a_replica_has_it() {
    let _alone = alone();
    let (upstream, redis, replica) = (Upstream::start(), Redis::start(), Redis::start());
    let at = redis.address();
    replica.command(&["REPLICAOF", &at.ip().to_string(), &at.port().to_string()]);
    eventually("a replica that follows", || {
        (replica.info("master_link_status")? == "up").then_some(())
    });
    let setup = Setup::in_front_of(&upstream).redis(&redis);
    let setup = setup.store_also("wait_replicas = 1\nwait_timeout = \"300ms\"");
    let fleet = Fleet::of(2, &setup);
    let key = fleet[0].admin().first_key(&KeySpec::new(&["read:orders"]));
    let call = |gateway: &Gateway| gateway.send(&get("/v1/orders").bearer(&key.key));
    assert_eq!(call(&fleet[1]).status, 200);

    replica.pause();
    let revoke = post(&format!("/v1/keys/{}/revoke", key.id), "{\"reason\":\"leaked\"}");
    for gateway in fleet.iter().chain(fleet.iter()) {
        assert_problem(&gateway.admin().send(&revoke), "not_durable");
    }
    eventually("the revocation all the same", || (call(&fleet[1]).status == 401).then_some(()));
    let another = post(&format!("/v1/apps/{}/keys", key.app), "{\"scopes\":[]}");
    for _ in 0..6 {
        assert_problem(&fleet[0].admin().send(&another), "not_durable");
    }
    let account = fleet[0].admin().send(&post("/v1/accounts", "{\"name\":\"Acme\"}"));
    assert_problem(&account, "not_durable");

    replica.resume();
    let revoked = eventually("an acknowledgement", || {
        let answer = fleet[1].admin().send(&revoke);
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(revoked.json()["revoke_reason"], "leaked");
    let digest_is_there =
        replica.command(&["DBSIZE"]).number() == redis.command(&["DBSIZE"]).number();
    assert!(digest_is_there);
    let path = format!("/v1/accounts/{}", account.json()["id"].as_str().unwrap());
    assert_eq!(fleet[1].admin().patch(&path, &json!({}))["name"], "Acme");
    // Those that nobody was shown neither work nor count against the app's cap.
    let spec = KeySpec::new(&["read:orders"]);
    for _ in 0..5 {
        fleet[0].admin().key_of(&key.account, &key.app, &spec);
    }
    let actions = fleet[0].admin().read("/v1/audit?limit=200");
    let of_the_key = actions["items"].as_array().unwrap().iter();
    let revocations = of_the_key.filter(|entry| entry["subject"] == json!(key.id)).count();
    assert_eq!(revocations, 2, "made once, and revoked once: {actions}");
}

#[test]
fn a_redis_without_memory_left_refuses_changes_and_nothing_else() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = Setup::in_front_of(&upstream).redis(&redis).start();
    let spec = KeySpec::new(&["read:orders"]);
    let [known, cold] = [(); 2].map(|()| gateway.key_with(&spec));
    let status = |key: &str| gateway.send(&get("/v1/orders").bearer(key)).status;
    assert_eq!(status(&known.key), 200);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = gateway.admin().send(&post("/v1/accounts", "{\"name\":\"Acme\"}"));
    assert_problem(&answer, "store_unavailable");
    assert_eq!((status(&known.key), status(&cold.key)), (200, 200));
    assert!(gateway.is_ready());
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    gateway.admin().revoke(&known);
    assert_refused(&gateway.send(&get("/v1/orders").bearer(&known.key)), 401, "api_key_invalid");
}

#[test]
fn a_gateway_without_its_store_is_ready_as_long_as_it_knows_keys() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream).redis(&redis).cache("stale_max = \"3s\"");
    let gateway = setup.start();
    let admin = gateway.admin();
    let ready = || admin.send(&get("/readyz"));
    assert_eq!(ready().json(), json!({ "status": "ready" }));
    redis.kill();
    eventually("an outage that is noticed", || {
        let answer = ready();
        (answer.status == 200 && answer.json()["store"] == "away").then_some(())
    });
    assert_problem_of_outage(&gateway);
    eventually("too long an outage", || (ready().status == 503).then_some(()));
    redis.start_again();
    eventually("ready again", || (ready().json() == json!({ "status": "ready" })).then_some(()));
    admin.send(&post("/v1/accounts", "{\"name\":\"Acme\"}"));
}

fn assert_problem_of_outage(gateway: &Gateway) {
    let admin = gateway.admin();
    for request in [get("/v1/fleet"), get("/v1/accounts"), post("/v1/accounts", "{\"name\":\"a\"}")]
    {
        assert_problem(&admin.send(&request), "store_unavailable");
    }
}
