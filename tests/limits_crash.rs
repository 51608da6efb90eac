//! The file of quotas beside an embedded store: what `kill -9` may cost, that a clean end costs
//! nothing, and what happens to a file that is damaged.

use std::fs;

use serde_json::json;

use crate::harness::{
    Gateway, Key, KeySpec, Setup, Upstream, assert_refused, get, post, run, scale,
};

/// Small enough that each request is put on record.
const SMALL: u64 = 100;
const LARGE: u64 = 20_000;
/// What a crash may cost of the large one: a thousandth.
const SPARE: u64 = 20;
const BULK: u64 = 50;
const QUOTAS: &str = "data/keygate.db.quotas";

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    let tiers = format!(
        "[tiers.small]\nquotas = [\"{SMALL}/month\"]\n[tiers.large]\nquotas = [\"{LARGE}/month\"]"
    );
    let bulk = format!(
        "name = \"bulk\"\npath = \"/v1/bulk\"\nupstream = \"main\"\nauth = \"key\"\n\
         environment = \"live\"\ncost = {BULK}"
    );
    let setup = Setup::in_front_of(&upstream).log("info").tables(&tiers).route(&bulk);
    (setup.start(), upstream)
}

fn key_in(gateway: &Gateway, tier: &str) -> Key {
    gateway.key_with(&KeySpec::new(&["read:orders"]).with("tier", json!(tier)))
}

/// How many calls pass, up to so many.
fn passes(gateway: &Gateway, path: &str, key: &Key, calls: u64) -> u64 {
    let mut caller = gateway.caller();
    let call = get(path).bearer(&key.key);
    (0..calls).take_while(|_| caller.send(&call).status == 200).count() as u64
}

/// The use that the admin API tells.
#[track_caller]
fn used(gateway: &Gateway, key: &Key) -> u64 {
    let key = gateway.admin().read(&format!("/v1/keys/{}", key.id));
    assert_eq!(key["current_use"][0]["policy"], "month", "{key}");
    key["current_use"][0]["used"].as_u64().expect("a number")
}

#[test]
fn kill_9_wastes_nothing_of_a_small_quota_and_a_thousandth_of_a_large_one() {
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    let crashes = scale("KEYGATE_CRASHES", 6);
    println!("KEYGATE_SEED={seed} KEYGATE_CRASHES={crashes}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut gateway, upstream) = start();
    let (small, large) = (key_in(&gateway, "small"), key_in(&gateway, "large"));
    let (mut of_small, mut of_large) = (0, 0);
    for crash in 1..=crashes {
        of_small += passes(&gateway, "/v1/orders", &small, random.u64(0..SMALL / crashes));
        of_large += passes(&gateway, "/v1/orders", &large, random.u64(0..3 * SPARE));
        gateway.kill();
        gateway.start_again();
        assert_eq!(used(&gateway, &small), of_small, "crash {crash}");
        let known = used(&gateway, &large);
        let most = of_large + crash * SPARE;
        assert!((of_large..=most).contains(&known), "crash {crash}: {known} for {of_large}");
    }
    of_small += passes(&gateway, "/v1/orders", &small, u64::MAX);
    assert_eq!(of_small, SMALL);
    of_large += passes(&gateway, "/v1/bulk", &large, u64::MAX) * BULK;
    of_large += passes(&gateway, "/v1/orders", &large, u64::MAX);
    let least = LARGE - crashes * SPARE;
    println!("{of_large} of {LARGE} after {crashes} crashes");
    assert!((least..=LARGE).contains(&of_large), "{of_large}");
    let served = upstream.seen();
    let bulk = served.iter().filter(|seen| seen.target == "/v1/bulk").count() as u64;
    let units = served.len() as u64 - bulk + bulk * BULK;
    assert_eq!(units, of_small + of_large, "somebody else was served");
    // What is used up stays used up.
    gateway.kill();
    gateway.start_again();
    for key in [&small, &large] {
        let refusal = gateway.send(&get("/v1/orders").bearer(&key.key));
        assert_refused(&refusal, 429, "quota_exceeded");
    }
}

#[test]
fn a_clean_end_wastes_nothing() {
    let (mut gateway, _upstream) = start();
    let large = key_in(&gateway, "large");
    let mut known = 0;
    for calls in [1, 0, 7, 25] {
        known += passes(&gateway, "/v1/orders", &large, calls);
        gateway.process().terminate();
        assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
        gateway.start_again();
        assert_eq!(used(&gateway, &large), known);
    }
    assert_eq!(known, 33);
}

#[test]
fn a_reset_that_was_acknowledged_survives_kill_9() {
    let (mut gateway, _upstream) = start();
    let (small, other) = (key_in(&gateway, "small"), key_in(&gateway, "small"));
    assert_eq!(passes(&gateway, "/v1/orders", &other, 3), 3);
    for _ in 0..2 {
        assert_eq!(passes(&gateway, "/v1/orders", &small, u64::MAX), SMALL);
        let reset = post(&format!("/v1/keys/{}/limits/reset", small.id), "{}");
        let answer = gateway.admin().send(&reset);
        assert_eq!(answer.status, 200, "{}", answer.text());
        gateway.kill();
        gateway.start_again();
        assert_eq!((used(&gateway, &small), used(&gateway, &other)), (0, 3));
    }
}

#[test]
fn a_damaged_slot_costs_its_own_quota_only_and_is_logged() {
    let (mut gateway, _upstream) = start();
    let keys = [(); 3].map(|()| key_in(&gateway, "small"));
    for key in &keys {
        assert_eq!(passes(&gateway, "/v1/orders", key, 5), 5);
    }
    gateway.kill();
    let mut bytes = fs::read(gateway.path(QUOTAS)).unwrap();
    // The second of three, behind a header of the same size.
    bytes[2 * 64 + 20..2 * 64 + 40].fill(0xee);
    fs::write(gateway.path(QUOTAS), bytes).unwrap();
    gateway.start_again();
    let output = gateway.output();
    assert!(output.contains("damaged slots"), "{output}");
    assert_eq!(keys.each_ref().map(|key| used(&gateway, key)), [5, 0, 5]);
}

#[test]
fn a_file_that_is_no_file_of_quotas_is_named_and_left_as_it_is() {
    let (mut gateway, _upstream) = start();
    let key = key_in(&gateway, "small");
    assert_eq!(passes(&gateway, "/v1/orders", &key, 5), 5);
    gateway.kill();
    let whole = fs::read(gateway.path(QUOTAS)).unwrap();
    let notes = b"what I meant to buy".to_vec();
    for foreign in
        [notes, [&[1], &whole[1..]].concat(), [&whole[..20], b"!", &whole[21..]].concat()]
    {
        fs::write(gateway.path(QUOTAS), &foreign).unwrap();
        let complaint = run(gateway.folder(), &["run"], &[]).complaint();
        assert!(complaint.contains("keygate.db.quotas"), "{complaint}");
        assert!(complaint.contains("move it away"), "{complaint}");
        assert_eq!(fs::read(gateway.path(QUOTAS)).unwrap(), foreign, "the file was changed");
    }
    fs::remove_file(gateway.path(QUOTAS)).unwrap();
    gateway.start_again();
    assert_eq!(used(&gateway, &key), 0, "counted from zero");
}

#[test]
fn the_file_of_quotas_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (gateway, _upstream) = start();
    let mode = fs::metadata(gateway.path(QUOTAS)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
