//! A flood of keys that nobody made costs arithmetic: no look-up, no memory, nobody else's key.

use std::fs;
use std::thread;

use crate::harness::{Broken, Connection, Gateway, Setup, Upstream, alone, get, scale};

const CLIENTS: u64 = 4;
/// What the process may grow by, however many keys are made up.
const GROWTH_KIB_MAX: u64 = 16 << 10;

#[test]
fn made_up_keys_cost_no_look_up_and_no_memory() {
    flood(scale("KEYGATE_FLOOD", 50_000));
}

#[test]
#[ignore = "long: part of `make soak`"]
fn a_million_made_up_keys_cost_no_look_up_and_no_memory() {
    flood(1_000_000);
}

fn flood(keys: u64) {
    let _alone = alone();
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("KEYGATE_SEED={seed} KEYGATE_FLOOD={keys}");
    let upstream = Upstream::start();
    // Each is looked at in full: the limit by address would spare the gateway most of the work.
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key(&["read:orders"]);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    send(&gateway, 2_000, seed ^ 1, 401);
    let (look_ups, memory) = (gateway.metric(LOOK_UPS), memory_kib(gateway.id()));
    send(&gateway, keys, seed, 401);
    let grown = memory_kib(gateway.id()).saturating_sub(memory);
    println!("{look_ups} look-ups before, memory grew by {grown} KiB");
    assert_eq!(gateway.metric(LOOK_UPS), look_ups);
    assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    assert_eq!(upstream.seen().len(), 2);
    gateway.is_alive_and_well();
}

#[test]
fn failures_from_ever_new_addresses_are_remembered_within_a_bound() {
    let _alone = alone();
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream)
        .log("info")
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .failed_auth("rate = \"1/hour\"\naddresses_max = 1000")
        .start();
    let fail = |from: u32, count: u32| {
        let (mut connection, mut random) = (gateway.connect(), fastrand::Rng::new());
        for address in from..from + count {
            let client = std::net::Ipv4Addr::from(address).to_string();
            let request = get("/v1/orders").bearer(&made_up(&mut random));
            let request = request.header("X-Forwarded-For", &client);
            assert_eq!(connection.exchange(&request).unwrap().status, 401);
        }
    };
    fail(0x0b00_0000, 2_000);
    let before = memory_kib(gateway.id());
    fail(0x0c00_0000, 20_000);
    let grown = memory_kib(gateway.id()).saturating_sub(before);
    println!("memory grew by {grown} KiB");
    assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");
}

#[test]
fn a_flood_is_turned_away_by_address_and_known_keys_still_work() {
    let _alone = alone();
    let upstream = Upstream::start();
    let setup = Setup::in_front_of(&upstream).log("info").failed_auth("rate = \"60/minute\"");
    let gateway = setup.start();
    let key = gateway.key(&["read:orders"]);
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    let look_ups = gateway.metric(LOOK_UPS);
    send(&gateway, 200, 3, 0);
    send(&gateway, 2_000, 4, 429);
    assert_eq!(gateway.metric(LOOK_UPS), look_ups);
    for _ in 0..20 {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    }
    let answer = gateway.send(&get("/v1/orders").bearer(&made_up(&mut fastrand::Rng::new())));
    assert_eq!((answer.status, &*answer.code()), (429, "too_many_failures"));
    assert!(answer.header("retry-after").is_some());
}

const LOOK_UPS: &str = "keygate_store_seconds_count{op=\"find\"";

/// Sends made-up keys over a few connections that stay open. `status` 0 stands for any refusal.
fn send(gateway: &Gateway, keys: u64, seed: u64, status: u16) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(client));
            scope.spawn(move || {
                let mut connection = gateway.connect();
                for _ in 0..keys.div_ceil(CLIENTS) {
                    let answered = refuse(&mut connection, gateway, &made_up(&mut random));
                    let expected = answered == status || status == 0 && answered >= 400;
                    assert!(expected, "{answered} instead of {status}");
                }
            });
        }
    });
}

/// The status of one made-up key's refusal, on a new connection if the gateway closed the last.
fn refuse(connection: &mut Connection, gateway: &Gateway, key: &str) -> u16 {
    let request = get("/v1/orders").bearer(key);
    match connection.exchange(&request) {
        Ok(answer) => answer.status,
        Err(Broken::Closed) => {
            *connection = gateway.connect();
            connection.exchange(&request).expect("a fresh connection answers").status
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn made_up(random: &mut fastrand::Rng) -> String {
    const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut key = String::from("sk_live_");
    key.extend((0..44).map(|_| char::from(BASE58[random.usize(..BASE58.len())])));
    // The tag's value must be below 2^32: a leading zero makes sure of it.
    key.push('0');
    key.extend((0..5).map(|_| char::from(BASE58[random.usize(..BASE58.len())])));
    key
}

/// The memory that the process has now, in KiB.
fn memory_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
