//! What `deploy/redis.md` shows can be started as it stands, with other addresses: the servers, the
//! gateways, and the user that may do no more than they need.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Admin, Fleet, Key, KeySpec, Redis, RedisSettings, Reply, Setup, Upstream, alone, eventually,
    get, post, run,
};

const ADMIN_PASSWORD: &str = "ADMIN-PASSWORD";
const GATEWAY_PASSWORD: &str = "GATEWAY-PASSWORD";

/// The page, and the password file that its gateways name.
struct Page {
    text: String,
    folder: tempfile::TempDir,
}

impl Page {
    fn read() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/redis.md");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("redis.password"), GATEWAY_PASSWORD).unwrap();
        Self { text: fs::read_to_string(path).unwrap(), folder }
    }

    /// What stands between the fences of the one block that begins like this.
    fn block(&self, language: &str, first: &str) -> String {
        let open = format!("```{language}\n{first}");
        let mut found = self.text.match_indices(&open);
        let (at, _) = found.next().unwrap_or_else(|| panic!("no block begins: {open}"));
        assert!(found.next().is_none(), "two blocks begin: {open}");
        let block = &self.text[at..];
        let (_, block) = block.split_once('\n').unwrap();
        block.split_once("\n```").unwrap().0.to_owned()
    }

    /// The lines of a server's configuration.
    fn server(&self, first: &str) -> RedisSettings {
        let lines = self.block("conf", first) + "\n";
        let password = lines.contains(ADMIN_PASSWORD).then(|| ADMIN_PASSWORD.to_owned());
        RedisSettings { lines, password, ..RedisSettings::default() }
    }

    /// `[store]` of a gateway with these servers in the place of the page's.
    fn store(&self, first: &str, servers: &[SocketAddr]) -> String {
        let block = self.block("toml", first);
        let urls =
            servers.iter().map(|at| format!("\"redis://{at}\"")).collect::<Vec<_>>().join(", ");
        let password = self.folder.path().join("redis.password");
        let lines = block.lines().filter(|line| *line != "[store]").map(|line| {
            if line.starts_with("urls = ") { format!("urls = [{urls}]") } else { line.to_owned() }
        });
        let store = lines.collect::<Vec<_>>().join("\n");
        store.replace("data/redis.password", password.to_str().unwrap())
    }
}

fn fleet(upstream: &Upstream, store: &str) -> Fleet {
    let fleet = Fleet::of(2, &Setup::in_front_of(upstream).store(store));
    fleet[0].leaks().token("the password of Redis", GATEWAY_PASSWORD);
    fleet
}

/// Everything that gateways and commands ask of the store, and each answer is the right one.
fn use_all(fleet: &Fleet) -> Key {
    let (one, other) = (&fleet[0], &fleet[1]);
    let limits =
        json!({ "rate": "1000/s", "quotas": ["1000/day", "9000/month"], "concurrency": 9 });
    let spec = KeySpec::new(&["read:orders"]).with("ttl", "1h".into()).with("limits", limits);
    let [key, gone] = [(); 2].map(|()| one.admin().first_key(&spec));
    for key in [&key, &gone] {
        for gateway in fleet.iter() {
            assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200);
        }
    }
    one.admin().revoke(&gone);
    eventually("the revocation elsewhere", || {
        (other.send(&get("/v1/orders").bearer(&gone.key)).status == 401).then_some(())
    });
    let admin = other.admin();
    use_keys(&one.admin(), &admin, &key);
    let used = || admin.read(&format!("/v1/keys/{}", key.id))["current_use"][2]["used"].clone();
    assert_eq!(used(), 2, "of the day, by both gateways");
    admin.send(&post(&format!("/v1/keys/{}/limits/reset", key.id), "{}"));
    assert_eq!(used(), 0);
    // Known again: a reset is a change of the key.
    for gateway in fleet.iter() {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200);
    }
    admin.read("/v1/audit?tail=5");
    admin.read(&format!("/v1/apps/{}/keys", key.app));
    eventually("a live fleet", || {
        let fleet = admin.read("/v1/fleet");
        let gateways = fleet["gateways"].as_array().unwrap();
        let is_live = |gateway: &&Value| gateway["link"] == "live";
        (gateways.iter().filter(is_live).count() == 2).then_some(())
    });
    let backup = run(other.folder(), &["store", "export", "--out", "backup.jsonl"], &[]);
    backup.success();
    run(other.folder(), &["store", "import", "backup.jsonl"], &[]).success();
    key
}

/// A key that was used is rotated by one gateway, once, however often and by whom it is asked for.
fn use_keys(one: &Admin, other: &Admin, key: &Key) {
    eventually("the last use of a key", || {
        let usage = other.read(&format!("/v1/keys/{}/usage", key.id));
        (!usage["last_used_at"].is_null()).then_some(())
    });
    let rotate = post(&format!("/v1/keys/{}/rotate", key.id), r#"{"overlap":"1h"}"#);
    let rotate = rotate.header("Idempotency-Key", "once");
    let [made, again] = [one, other].map(|admin| {
        let answer = admin.create(&rotate);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    });
    assert_eq!((&again["id"], &again["replayed"]), (&made["id"], &json!(true)));
}

/// What the server refused for want of a right.
fn refused(redis: &Redis) -> Vec<String> {
    let log = redis.command(&["ACL", "LOG"]);
    let entries = log
        .parts()
        .iter()
        .map(|entry| entry.parts().iter().map(Reply::text).collect::<Vec<_>>().join(" "));
    // The library introduces itself where it may.
    entries.filter(|entry| !entry.contains("client|setinfo")).collect()
}

#[test]
fn one_server_as_the_page_has_it_serves_a_fleet_with_just_the_rights_that_it_needs() {
    let (upstream, page) = (Upstream::start(), Page::read());
    let redis = Redis::with(page.server("# redis.conf of one server"));
    let fleet = fleet(&upstream, &page.store("# one server", &[redis.address()]));
    use_all(&fleet);
    assert_eq!(refused(&redis), [""; 0]);
    let mut gateway = redis.connect();
    gateway.call(&["AUTH", "keygate", GATEWAY_PASSWORD]).unwrap();
    for command in [
        &["FLUSHALL"][..],
        &["CONFIG", "GET", "requirepass"],
        &["GET", "other"],
        &["SET", "other", "1"],
        &["KEYS", "*"],
        &["DEL", "{keygate}:meta"],
        &["PUBLISH", "other", "x"],
        &["EVAL", "return redis.call('GET', 'other')", "0"],
    ] {
        let answer = gateway.call(command).unwrap();
        assert!(matches!(&answer, Reply::Error(why) if why.contains("NOPERM")), "{command:?}");
    }
}

#[test]
fn the_page_s_sentinels_carry_a_fleet_over_the_loss_of_its_primary() {
    let _alone = alone();
    let (upstream, page) = (Upstream::start(), Page::read());
    let settings = page.server("# redis.conf of each server");
    let mut primary = Redis::with(settings.clone());
    let at = primary.address();
    let replica_of = format!("replicaof {} {}", at.ip(), at.port());
    let replicas = [(); 2].map(|()| Redis::with(settings.clone().line(&replica_of)));
    eventually("replicas that follow", || {
        let is_up = |r: &Redis| r.info("master_link_status").is_some_and(|status| status == "up");
        replicas.iter().all(is_up).then_some(())
    });
    let watch = page.block("conf", "# sentinel.conf");
    let watch = watch.replace("10.0.0.5 6379", &format!("{} {}", at.ip(), at.port()));
    let sentinels = [(); 3].map(|()| {
        let lines = format!("{watch}\n");
        let password = Some(ADMIN_PASSWORD.to_owned());
        Redis::with(RedisSettings { lines, password, sentinel: true, ..RedisSettings::default() })
    });
    let addresses = sentinels.each_ref().map(Redis::address);
    let fleet = fleet(&upstream, &page.store("# under Sentinel", &addresses));
    let key = use_all(&fleet);
    assert_eq!(refused(&primary), [""; 0]);
    for sentinel in &sentinels {
        assert_eq!(refused(sentinel), [""; 0]);
        eventually("sentinels that know each other and the replicas", || {
            let known = sentinel.command(&["SENTINEL", "MASTER", "keygate"]);
            let words: Vec<String> = known.parts().iter().map(Reply::text).collect();
            let number = |name: &str| words.iter().skip_while(|word| *word != name).nth(1).cloned();
            let all = number("num-other-sentinels")? == "2" && number("num-slaves")? == "2";
            all.then_some(())
        });
    }
    primary.kill();
    for gateway in fleet.iter() {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200, "known");
    }
    for gateway in fleet.iter() {
        eventually("a change after the failover", || {
            let revoke = post(&format!("/v1/keys/{}/revoke", key.id), "{}");
            (gateway.admin().try_send(&revoke).ok()?.status == 200).then_some(())
        });
    }
    use_all(&fleet);
}

#[test]
fn the_page_s_cluster_serves_a_fleet() {
    let _alone = alone();
    let (upstream, page) = (Upstream::start(), Page::read());
    let settings = page.server("# redis.conf of each of six nodes");
    let nodes: Vec<Redis> = (0..6).map(|_| Redis::with(settings.clone())).collect();
    let create = page.block("sh", "export REDISCLI_AUTH=");
    let (login, create) = create.split_once('\n').unwrap();
    let password = login.strip_prefix("export REDISCLI_AUTH=").unwrap();
    let addresses: Vec<SocketAddr> = nodes.iter().map(Redis::address).collect();
    let words = create.split_whitespace().map(|word| {
        let place =
            ["5", "6", "7", "8", "9", "10"].iter().position(|n| word == format!("10.0.0.{n}:6379"));
        place.map_or_else(|| word.to_owned(), |place| addresses[place].to_string())
    });
    let words: Vec<String> = words.chain(["--cluster-yes".into()]).collect();
    let mut made = Command::new(&words[0]);
    made.args(&words[1..]).env("REDISCLI_AUTH", password);
    let made = made.output().expect("redis-cli is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    eventually("a cluster that is well", || {
        let is_well = |node: &Redis| {
            let info = node.try_command(&["CLUSTER", "INFO"])?.text();
            let follows = match &*node.info("role")? {
                "slave" => node.info("master_link_status")? == "up",
                _ => node.info("connected_slaves")? == "1",
            };
            (info.contains("cluster_state:ok") && follows).then_some(())
        };
        nodes.iter().all(|node| is_well(node).is_some()).then_some(())
    });
    let fleet = fleet(&upstream, &page.store("# in a cluster", &addresses));
    use_all(&fleet);
    for node in &nodes {
        assert_eq!(refused(node), [""; 0]);
    }
}
