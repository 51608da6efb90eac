//! Several gateways on one Redis are one gateway to clients and operators: a change through one is a
//! change on all.

use serde_json::{Value, json};

use crate::harness::{
    Caller, Fleet, Key, KeySpec, Redis, Resp, Setup, Upstream, alone, assert_refused, eventually,
    get,
};

fn three(upstream: &Upstream, redis: &Redis) -> Fleet {
    Fleet::of(3, &setup(upstream, redis))
}

fn setup(upstream: &Upstream, redis: &Redis) -> Setup {
    Setup::in_front_of(upstream).redis(redis).keys("keys_max_live = 1000").log("info")
}

fn orders() -> KeySpec {
    KeySpec::new(&["read:orders"])
}

/// Waits until a call with this key has this status on every gateway.
#[track_caller]
fn everywhere(callers: &mut [Caller], key: &Key, status: u16) {
    for caller in callers {
        eventually("the same on every gateway", || {
            (caller.status(&key.key) == status).then_some(())
        });
    }
}

#[test]
fn a_key_works_on_every_gateway_as_soon_as_it_is_made() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    let mut callers = fleet.callers();
    for gateway in fleet.iter() {
        let key = gateway.key_with(&orders());
        for caller in &mut callers {
            assert_eq!(caller.status(&key.key), 200);
        }
    }
}

#[test]
fn a_revocation_on_one_gateway_is_one_on_all() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    let mut callers = fleet.callers();
    let heard = Heard::of(&redis);
    for revoking in fleet.iter() {
        let key = fleet[0].key_with(&orders());
        everywhere(&mut callers, &key, 200);
        revoking.admin().revoke(&key);
        let refused = revoking.send(&get("/v1/orders").bearer(&key.key));
        assert_refused(&refused, 401, "api_key_invalid");
        everywhere(&mut callers, &key, 401);
        // And the operator sees the same, whomever he asks.
        for gateway in fleet.iter() {
            let record = gateway.admin().read(&format!("/v1/keys/{}", key.id));
            assert_eq!(record["status"], "revoked");
        }
    }
    // What gateways tell each other is searched for keys too.
    fleet[0].leaks().capture("the changes' channel", heard.all(6).as_bytes());
}

#[test]
fn a_key_that_was_unknown_a_moment_ago_works_on_every_gateway() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    let mut callers = fleet.callers();
    let key = fleet[0].key_with(&orders());
    let backup = fleet[0].path("backup");
    let backup = backup.to_str().unwrap();
    crate::harness::run(fleet[0].folder(), &["store", "export", "--out", backup], &[]).success();
    // The store forgets everything, and the gateways learn that they do not know the key.
    redis.command(&["FLUSHALL"]);
    everywhere(&mut callers, &key, 401);
    crate::harness::run(fleet[0].folder(), &["store", "import", backup], &[]).success();
    everywhere(&mut callers, &key, 200);
}

#[test]
fn a_suspended_account_loses_all_its_keys_everywhere_for_the_price_of_one() {
    let _alone = alone();
    const KEYS: usize = 1_000;
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    let mut callers = fleet.callers();
    let (few, many) = (keys(&fleet, 1), keys(&fleet, KEYS));
    for key in few.iter().chain(&many) {
        callers.iter_mut().for_each(|caller| assert_eq!(caller.status(&key.key), 200));
    }
    let writes = |keys: &[Key]| {
        let watch = Monitor::of(&redis);
        let path = format!("/v1/accounts/{}", keys[0].account);
        fleet[1].admin().patch(&path, &json!({ "status": "suspended" }));
        watch.writes()
    };
    let (for_few, for_many) = (writes(&few), writes(&many));
    println!("suspended an account of {KEYS} keys with {for_many:?}");
    assert_eq!(for_few, for_many);
    for caller in &mut callers {
        // Once one is refused, all are: they share the change.
        eventually("the suspension", || (caller.status(&many[0].key) == 401).then_some(()));
        for key in few.iter().chain(&many) {
            assert_eq!(caller.status(&key.key), 401);
        }
    }
}

fn keys(fleet: &Fleet, count: usize) -> Vec<Key> {
    let (admin, spec) = (fleet[0].admin(), orders());
    let account = admin.account();
    let app = admin.app(&account, &spec);
    (0..count).map(|_| admin.key_of(&account, &app, &spec)).collect()
}

#[test]
fn narrower_scopes_of_an_app_hold_on_every_gateway() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    let mut callers = fleet.callers();
    let key = fleet[2].key_with(&KeySpec::new(&["read:orders", "read:reports"]));
    everywhere(&mut callers, &key, 200);
    let app = format!("/v1/apps/{}", key.app);
    fleet[1].admin().patch(&app, &json!({ "granted_scopes": ["read:reports"] }));
    everywhere(&mut callers, &key, 403);
    let refused = fleet[0].send(&get("/v1/orders").bearer(&key.key));
    assert_refused(&refused, 403, "permission_denied");
    assert_eq!(fleet[0].send(&get("/v1/reports").bearer(&key.key)).status, 200);
}

#[test]
fn the_fleet_is_listed_by_each_of_its_gateways() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = three(&upstream, &redis);
    fleet[0].key(&["read:orders"]);
    for gateway in fleet.iter() {
        let listed = eventually("three gateways that heard everything", || {
            let fleet = gateway.admin().read("/v1/fleet");
            let gateways = fleet["gateways"].as_array().unwrap().clone();
            let is_well = |g: &Value| g["link"] == "live" && g["applied"] == fleet["newest"];
            (gateways.len() == 3 && gateways.iter().all(is_well)).then_some(gateways)
        });
        assert_eq!(listed.iter().filter(|gateway| gateway["this"] == true).count(), 1);
        assert!(listed.iter().all(|gateway| gateway["lag"] == 0), "{listed:?}");
        assert_eq!(gateway.metric("keygate_link_up"), 1.0);
    }
}

#[test]
fn a_gateway_with_another_pepper_is_never_ready_and_says_why() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = setup(&upstream, &redis);
    let fleet = Fleet::of(2, &setup);
    let key = fleet[0].key_with(&orders());
    let folder = tempfile::tempdir().unwrap();
    let (proxy, admin) = (crate::harness::free_address(), crate::harness::free_address());
    std::fs::write(folder.path().join("gateway.toml"), setup.toml(proxy, admin)).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/pepper"), "ab".repeat(32)).unwrap();
    let complaint = crate::harness::run(folder.path(), &["run"], &[]).complaint();
    assert!(complaint.contains("pepper"), "{complaint}");
    // Nor does one that has none make its own.
    std::fs::remove_file(folder.path().join("data/pepper")).unwrap();
    let complaint = crate::harness::run(folder.path(), &["run"], &[]).complaint();
    assert!(complaint.contains("pepper"), "{complaint}");
    everywhere(&mut fleet.callers(), &key, 200);
}

#[test]
fn a_gateway_that_started_without_the_store_finds_out_that_its_pepper_is_another() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let setup = setup(&upstream, &redis);
    let fleet = Fleet::of(1, &setup);
    fleet[0].key_with(&orders());
    redis.wait_until_written();
    redis.kill();
    let stranger = setup.pepper(&"ab".repeat(32)).start_unready();
    redis.start_again();
    eventually("the reason", || stranger.output().contains("pepper_file").then_some(()));
    assert!(!stranger.is_ready());
}

/// Listens to all that is published.
struct Heard {
    connection: Resp,
}

impl Heard {
    fn of(redis: &Redis) -> Self {
        let mut connection = redis.connect();
        connection.call(&["PSUBSCRIBE", "*"]).unwrap();
        Self { connection }
    }

    /// The text of at least so many messages.
    fn all(mut self, count: usize) -> String {
        (0..count).map(|_| self.connection.read().unwrap().text()).collect::<Vec<_>>().join("\n")
    }
}

/// Sees every command that Redis carries out.
struct Monitor {
    connection: Resp,
    redis: Resp,
}

impl Monitor {
    fn of(redis: &Redis) -> Self {
        let mut connection = redis.connect();
        connection.call(&["MONITOR"]).unwrap();
        Self { connection, redis: redis.connect() }
    }

    /// The writes so far by name, but for those by which gateways say that they are there.
    fn writes(mut self) -> Vec<String> {
        const END: &str = "that is all";
        self.redis.call(&["ECHO", END]).unwrap();
        let mut writes = Vec::new();
        loop {
            let line = self.connection.read().unwrap().text();
            if line.contains(END) {
                return writes;
            }
            let mut words = line.split('"').skip(1).step_by(2);
            let (command, name) = (words.next().unwrap_or_default(), words.next());
            let is_heartbeat = name.is_some_and(|name| name.ends_with(":fleet"));
            if is_write(command) && !is_heartbeat {
                writes.push(command.to_uppercase());
            }
        }
    }
}

fn is_write(command: &str) -> bool {
    const WRITES: [&str; 14] = [
        "SET", "SETEX", "MSET", "DEL", "UNLINK", "EXPIRE", "HSET", "HDEL", "HINCRBY", "INCR",
        "XADD", "XTRIM", "ZADD", "ZREM",
    ];
    WRITES.iter().any(|write| write.eq_ignore_ascii_case(command))
}
