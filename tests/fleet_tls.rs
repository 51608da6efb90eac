//! A Redis that trusts nobody: TLS with an authority of our own on both sides, a user who may do
//! what a gateway needs and nothing else, a database and a prefix among others.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::harness::{
    Certificates, Fleet, KeySpec, Redis, RedisSettings, Setup, Upstream, eventually, get, run,
};

/// What a gateway may do: the rules after the name and password of the page's user, whose prefix is
/// `keygate`.
fn rules() -> &'static str {
    const PAGE: &str = include_str!("../deploy/redis.md");
    const USER: &str = "\nuser keygate on >GATEWAY-PASSWORD ";
    let (_, rules) = PAGE.split_once(USER).expect("a user on the page");
    rules.lines().next().expect("rules")
}

const PASSWORD: &str = "a long password for a user of Redis";

struct Lab {
    redis: Redis,
    certificates: Arc<Certificates>,
    upstream: Upstream,
}

impl Lab {
    fn start() -> Self {
        let certificates = Arc::new(Certificates::make());
        fs::write(certificates.path("password"), format!("{PASSWORD}\n")).unwrap();
        let rules = rules().replace("keygate", "acme");
        let hash = sha256(PASSWORD);
        let settings = RedisSettings {
            password: Some("the password of the test itself".into()),
            tls: Some(Arc::clone(&certificates)),
            ..RedisSettings::default()
        };
        let redis = Redis::with(settings.line(&format!("user gateways on #{hash} {rules}")));
        Self { redis, certificates, upstream: Upstream::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.certificates.path(name)
    }

    fn setup(&self) -> Setup {
        let url = format!("rediss://{}", self.redis.tls_address());
        let (ca, password) = (self.path("ca.pem"), self.path("password"));
        let store = format!(
            "kind = \"redis\"\nurls = [\"{url}\"]\ndatabase = 3\nkey_prefix = \"acme\"\n\
             username = \"gateways\"\npassword_file = {password:?}\nca_file = {ca:?}"
        );
        Setup::in_front_of(&self.upstream).store(&store).searching([self.redis.files()])
    }

    fn setup_with_certificate(&self) -> Setup {
        let (certificate, key) = (self.path("client.pem"), self.path("client.key"));
        self.setup().store_also(&format!("cert_file = {certificate:?}\nkey_file = {key:?}"))
    }
}

#[test]
fn a_fleet_works_over_tls_as_a_user_who_may_do_nothing_else() {
    let lab = Lab::start();
    let fleet = Fleet::of(2, &lab.setup_with_certificate());
    fleet[0].leaks().token("the Redis password", PASSWORD);
    let key = fleet[0].key_with(&KeySpec::new(&["read:orders"]));
    let mut callers = fleet.callers();
    callers.iter_mut().for_each(|caller| assert_eq!(caller.status(&key.key), 200));
    fleet[1].admin().revoke(&key);
    for caller in &mut callers {
        eventually("the revocation", || (caller.status(&key.key) == 401).then_some(()));
    }
    for gateway in fleet.iter() {
        eventually("a live link", || (gateway.metric("keygate_link_up") == 1.0).then_some(()));
        let admin = gateway.admin();
        admin.read("/v1/accounts");
        admin.read("/v1/audit");
        admin.read(&format!("/v1/apps/{}/keys", key.app));
        eventually("both in the list", || {
            let fleet = admin.read("/v1/fleet");
            (fleet["gateways"].as_array().unwrap().len() == 2).then_some(())
        });
    }
    let backup = run(fleet[0].folder(), &["store", "export"], &[]).success();
    fs::write(fleet[0].path("backup"), backup).unwrap();
    run(fleet[1].folder(), &["store", "import", fleet[0].path("backup").to_str().unwrap()], &[])
        .success();
    // Nothing was tried that the rules forbid, and all of it lies where it should.
    assert_eq!(lab.redis.command(&["ACL", "LOG"]).text(), "");
    let mut connection = lab.redis.connect();
    assert_eq!(connection.call(&["DBSIZE"]).unwrap().number(), 0);
    connection.call(&["SELECT", "3"]).unwrap();
    let names = connection.call(&["KEYS", "*"]).unwrap();
    let is_ours = |name: &String| name.starts_with("{acme}:");
    let names: Vec<String> = names.parts().iter().map(|name| name.text()).collect();
    assert!(names.len() > 5 && names.iter().all(is_ours), "{names:?}");
}

#[test]
fn a_gateway_without_what_redis_asks_for_is_not_ready_and_says_why() {
    let lab = Lab::start();
    let pepper = "ab".repeat(32);
    let certificate = |setup: Setup| {
        let (certificate, key) = (lab.path("client.pem"), lab.path("client.key"));
        setup.store_also(&format!("cert_file = {certificate:?}\nkey_file = {key:?}"))
    };
    let stranger = Certificates::make();
    let other_ca = |toml: String| {
        let ours = lab.path("ca.pem").display().to_string();
        toml.replace(&ours, &stranger.path("ca.pem").display().to_string())
    };
    fs::write(stranger.path("password"), "another password than that").unwrap();
    let other_password = |toml: String| {
        let ours = lab.path("password").display().to_string();
        toml.replace(&ours, &stranger.path("password").display().to_string())
    };
    for (setup, said) in [
        (lab.setup(), "certificate"),
        (certificate(lab.setup()).change_store(other_ca), "certificate"),
        (certificate(lab.setup()).change_store(other_password), "password"),
    ] {
        let gateway = setup.pepper(&pepper).start_unready();
        eventually("the reason", || {
            let output = gateway.output();
            let warned = |line: &str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
            let reason = |line: &&str| warned(line) && line.to_lowercase().contains(said);
            output.lines().find(reason).map(|line| println!("{line}"))
        });
        assert!(!gateway.is_ready());
        assert_eq!(gateway.send(&get("/public")).status, 200);
    }
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
