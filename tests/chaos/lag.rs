//! How long a revocation takes to reach every gateway under load: measured and printed, not judged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::lab::quantiles;
use crate::harness::{
    Caller, Fleet, Key, KeySpec, Redis, Setup, Upstream, alone, get, patience, scale,
};

const GATEWAYS: usize = 3;
/// Requests a second, through all gateways together.
const LOAD: u64 = 2_000;

#[test]
#[ignore = "long: part of `make soak`"]
fn revocations_reach_every_gateway_under_load() {
    measure(scale("LAG_REVOCATIONS", 1_000));
}

fn measure(revocations: u64) {
    let _alone = alone();
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream).redis(&redis).keys("keys_max_live = 1000");
    let fleet = Fleet::of(GATEWAYS, &setup.log("warn"));
    let (admin, spec) = (fleet[0].admin(), KeySpec::new(&["read:orders"]));
    let account = admin.account();
    let keys = |count: u64| -> Vec<Key> {
        let app = admin.app(&account, &spec);
        (0..count).map(|_| admin.key_of(&account, &app, &spec)).collect()
    };
    let (load, victims) = (keys(300), keys(revocations));
    for caller in &mut fleet.callers() {
        load.iter().for_each(|key| assert_eq!(caller.status(&key.key), 200));
    }
    let (ended, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut lags: Vec<Vec<Duration>> = vec![Vec::new(); GATEWAYS];
    let mut took = Duration::ZERO;
    thread::scope(|scope| {
        for (nth, mut caller) in fleet.callers().into_iter().enumerate() {
            let (load, ended, served) = (&load, &ended, &served);
            scope.spawn(move || keep_busy(&mut caller, nth, load, ended, served));
        }
        let began = Instant::now();
        let mut callers = fleet.callers();
        for key in &victims {
            callers.iter_mut().for_each(|caller| assert_eq!(caller.status(&key.key), 200));
            for (lags, lag) in lags.iter_mut().zip(revoke(&fleet, &mut callers, key)) {
                lags.push(lag);
            }
        }
        took = began.elapsed();
        ended.store(true, Ordering::SeqCst);
    });
    let rate = served.load(Ordering::SeqCst) as f64 / took.as_secs_f64();
    println!("{revocations} revocations in {took:?}, beside {rate:.0} requests/s");
    for (gateway, lags) in lags.iter().enumerate() {
        println!("gateway {gateway}: from acknowledgement to refusal {}", quantiles(lags.clone()));
    }
    println!("all: from acknowledgement to refusal {}", quantiles(lags.concat()));
    for gateway in fleet.iter() {
        let metrics = gateway.metrics();
        let lag = metrics.lines().filter(|line| line.starts_with("keygate_revocation_lag_seconds"));
        println!("{}", lag.collect::<Vec<_>>().join("\n"));
    }
}

/// Calls known keys at this gateway's share of the load.
fn keep_busy(
    caller: &mut Caller,
    nth: usize,
    keys: &[Key],
    ended: &AtomicBool,
    served: &AtomicU64,
) {
    let every = Duration::from_micros(1_000_000 * GATEWAYS as u64 / LOAD);
    let mut due = Instant::now() + every / GATEWAYS as u32 * nth as u32;
    for key in keys.iter().cycle() {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += every;
        assert_eq!(caller.status(&key.key), 200);
        served.fetch_add(1, Ordering::SeqCst);
    }
}

/// Revokes a key through the first gateway while one client at each asks all the time. How long
/// after the acknowledgement each of them was first refused; nothing if before it.
fn revoke(fleet: &Fleet, callers: &mut [Caller], key: &Key) -> Vec<Duration> {
    let admin = fleet[0].admin();
    thread::scope(|scope| {
        let (asking, are_asking) = mpsc::channel();
        let clients: Vec<_> = callers
            .iter_mut()
            .map(|caller| {
                let asking = asking.clone();
                scope.spawn(move || first_refusal(caller, key, &asking))
            })
            .collect();
        clients.iter().for_each(|_| are_asking.recv().expect("clients ask"));
        admin.revoke(key);
        let acknowledged = Instant::now();
        let refused = clients.into_iter().map(|client| client.join().expect("clients ask"));
        refused.map(|at| at.saturating_duration_since(acknowledged)).collect()
    })
}

/// When the first refusal was there.
fn first_refusal(caller: &mut Caller, key: &Key, asking: &mpsc::Sender<()>) -> Instant {
    let request = get("/v1/orders").bearer(&key.key);
    let began = Instant::now();
    let mut has_asked = false;
    loop {
        let status = caller.send(&request).status;
        if !has_asked {
            has_asked = true;
            asking.send(()).expect("somebody revokes");
        }
        if status == 401 {
            return Instant::now();
        }
        assert!(began.elapsed() < patience(), "never refused: {}", key.id);
    }
}
