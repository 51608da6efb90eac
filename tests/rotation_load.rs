//! A key is rotated under load: no request is refused while clients go over to the new one, and the
//! old one is refused from the moment its overlap ends.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Fleet, Gateway, KeySpec, Redis, Setup, Upstream, alone, assert_refused, eventually, get, post,
};

const CLIENTS: usize = 6;
const ROTATIONS: usize = 5;

/// Each client sends with the key that is the newest when it asks; one of them never goes over.
fn rotate_under_load(gateways: &[Gateway]) {
    let _alone = alone();
    let admin = gateways[0].admin();
    let first = gateways[0].key_with(&KeySpec::new(&["read:orders"]));
    let newest = RwLock::new((first.id.clone(), first.key.clone()));
    let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (newest, ended, sent) = (&newest, &ended, &sent);
            let mut caller = gateways[n % gateways.len()].caller();
            scope.spawn(move || {
                let mut key = newest.read().unwrap().1.clone();
                let mut turn = 0_u64;
                while !ended.load(Ordering::SeqCst) {
                    // Some go over at once, others only after many more requests.
                    turn += 1;
                    if turn.is_multiple_of(1 + 40 * n as u64) {
                        key.clone_from(&newest.read().unwrap().1);
                    }
                    let answer = caller.send(&get("/v1/orders").bearer(&key));
                    assert_eq!(answer.status, 200, "client {n}: {}", answer.text());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Also when an assertion fails here: the scope waits for all threads.
        let at_the_end = Ends(&ended);
        for _ in 0..ROTATIONS {
            let id = newest.read().unwrap().0.clone();
            let rotate = post(&format!("/v1/keys/{id}/rotate"), r#"{"overlap":"1h"}"#);
            let answer = admin.create(&rotate);
            assert_eq!(answer.status, 201, "{}", answer.text());
            let made = answer.json();
            let text = |member: &str| made[member].as_str().unwrap().to_owned();
            // It works at once wherever it is first used.
            let first_use = gateways[0].send(&get("/v1/orders").bearer(&text("key")));
            assert_eq!(first_use.status, 200, "{}", first_use.text());
            for gateway in gateways {
                eventually("a new key that works", || {
                    let answer = gateway.send(&get("/v1/orders").bearer(&text("key")));
                    (answer.status == 200).then_some(())
                });
            }
            *newest.write().unwrap() = (text("id"), text("key"));
            let enough = sent.load(Ordering::SeqCst) + 600;
            eventually("clients that go on", || {
                (sent.load(Ordering::SeqCst) >= enough).then_some(())
            });
        }
        drop(at_the_end);
    });
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nobody_is_refused_while_a_key_is_rotated() {
    let upstream = Upstream::start();
    rotate_under_load(&[Setup::in_front_of(&upstream).log("info").start()]);
}

#[test]
fn nobody_is_refused_anywhere_while_a_key_is_rotated() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    rotate_under_load(&Fleet::of(3, &Setup::in_front_of(&upstream).redis(&redis).log("info")));
}

#[test]
fn the_old_key_is_refused_everywhere_once_its_overlap_ends() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let fleet = Fleet::of(2, &Setup::in_front_of(&upstream).redis(&redis));
    let old = fleet[0].key_with(&KeySpec::new(&["read:orders"]));
    let orders = get("/v1/orders").bearer(&old.key);
    for gateway in fleet.iter() {
        assert_eq!(gateway.send(&orders).status, 200);
    }
    let rotate = post(&format!("/v1/keys/{}/rotate", old.id), r#"{"overlap":"3s"}"#);
    let made = fleet[0].admin().create(&rotate).json();
    let ends: String = fleet[1].admin().read(&format!("/v1/keys/{}", old.id))["expires_at"]
        .as_str()
        .unwrap()
        .into();
    // Until then it works, wherever; from then on it does nowhere, whatever is cached.
    let mut passed = 0;
    eventually("the end of the overlap", || {
        let answers: Vec<_> = fleet.iter().map(|gateway| gateway.send(&orders)).collect();
        let are_over = answers.iter().filter(|answer| answer.status != 200);
        passed += answers.len() - are_over.clone().count();
        for answer in are_over.clone() {
            assert_refused(answer, 401, "api_key_expired");
        }
        thread::sleep(Duration::from_millis(20));
        (are_over.count() == answers.len()).then_some(())
    });
    assert!(passed > 0, "it was refused at once, though it ends at {ends}");
    let new = get("/v1/orders").bearer(made["key"].as_str().unwrap());
    assert_eq!(fleet[1].send(&new).status, 200);
    let shown = fleet[0].admin().read(&format!("/v1/keys/{}", old.id));
    assert_eq!((&shown["status"], &shown["rotated_to"]), (&json!("expired"), &made["id"]));
}
