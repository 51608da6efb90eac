//! The audit log on the real binary: whoever changes it in the store is found out, and its copy for
//! those who collect logs is whole, whatever happens to the gateway.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{
    Admin, Fleet, Gateway, KeySpec, Redis, Reply, Setup, Upstream, eventually, get,
};

const LOG: &str = "{keygate}:log";
const FILE: &str = "data/audit.jsonl";

/// Entries as they lie in Redis: the id, then names and values in turn.
type Stored = Vec<(String, Vec<Vec<u8>>)>;

fn stored(redis: &Redis) -> Stored {
    let bytes = |reply: &Reply| {
        let Reply::Text(bytes) = reply else { panic!("no text: {reply:?}") };
        bytes.clone()
    };
    let entries = redis.command(&["XRANGE", LOG, "-", "+"]);
    let entry = |entry: &Reply| {
        let fields = entry.parts()[1].parts().iter().map(bytes).collect();
        (entry.parts()[0].text(), fields)
    };
    entries.parts().iter().map(entry).collect()
}

/// Puts other entries in the place of all.
fn rebuild(redis: &Redis, entries: &Stored) {
    redis.command(&["DEL", LOG]);
    for (id, fields) in entries {
        let mut words: Vec<Vec<u8>> = vec![b"XADD".to_vec(), LOG.into(), id.clone().into_bytes()];
        words.extend(fields.iter().cloned());
        redis.command(&words);
    }
}

/// What is found: numbers and kinds.
fn findings(admin: &Admin, query: &str) -> Vec<(u64, String)> {
    let answer = admin.read(&format!("/v1/audit/verify?{query}"));
    assert_eq!(answer["next"], Value::Null, "{answer}");
    let found = answer["findings"].as_array().unwrap().iter();
    let pair = |found: &Value| {
        (found["number"].as_u64().unwrap(), found["kind"].as_str().unwrap().to_owned())
    };
    found.map(pair).collect()
}

/// Some changes of several kinds, made through all gateways in turn.
fn live(gateways: &[Gateway]) {
    for n in 0..6 {
        let admin = gateways[n % gateways.len()].admin();
        let key = admin.key(&KeySpec::new(&["read:orders"]));
        admin.revoke(&key);
    }
}

#[test]
fn entries_that_were_edited_taken_out_or_moved_in_redis_are_found() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let fleet = Fleet::of(2, &Setup::in_front_of(&upstream).redis(&redis));
    live(&fleet);
    let admin = fleet[1].admin();
    let clean = admin.read("/v1/audit/verify");
    assert_eq!((&clean["findings"], &clean["checked"]), (&json!([]), &json!(24)));
    let as_it_was = stored(&redis);
    assert_eq!(as_it_was.len(), 24);
    let edited = |number: usize, from: &str, to: &str| {
        let mut entries = as_it_was.clone();
        let text = entries[number - 1].1.iter_mut().find(|value| value.starts_with(b"{")).unwrap();
        let other = String::from_utf8(text.clone()).unwrap().replace(from, to);
        assert_ne!(*text, other.as_bytes());
        *text = other.into_bytes();
        entries
    };
    let without = |numbers: &[usize]| {
        let mut entries = as_it_was.clone();
        let mut number = 0;
        entries.retain(|_| {
            number += 1;
            !numbers.contains(&number)
        });
        entries
    };
    let moved = |one: usize, other: usize| {
        let mut entries = as_it_was.clone();
        let (first, second) = (entries[one - 1].1.clone(), entries[other - 1].1.clone());
        (entries[one - 1].1, entries[other - 1].1) = (second, first);
        entries
    };
    let found = |entries: &Stored| {
        rebuild(&redis, entries);
        let found = findings(&admin, "");
        rebuild(&redis, &as_it_was);
        assert_eq!(findings(&admin, ""), []);
        found
    };
    let altered = |number: u64| (number, "altered".to_owned());
    let missing = |number: u64| (number, "missing".to_owned());
    assert_eq!(found(&edited(7, "token:bootstrap", "token:bootstrxp")), [altered(7)]);
    assert_eq!(found(&edited(24, "test", "tset")), [altered(24)], "the newest one");
    assert_eq!(found(&edited(1, "account.create", "account.update")), [altered(1)]);
    assert_eq!(found(&without(&[9])), [missing(9)]);
    assert_eq!(found(&without(&[1, 2])), [], "the oldest ones are dropped in time anyway");
    assert_eq!(found(&without(&[23, 24])), [missing(23)], "the newest ones");
    assert!(found(&moved(5, 12)).contains(&altered(5)));
    let mut none = as_it_was.clone();
    none.clear();
    assert_eq!(found(&none), [missing(1)]);
    // As one would really do it.
    redis.command(&["XDEL", LOG, "11-0"]);
    assert_eq!(findings(&admin, ""), [missing(11)]);
    live(&fleet);
    assert_eq!(findings(&admin, ""), [missing(11)], "what comes after is sound");
}

/// Makes the chain anew, as whoever can write the whole store could.
fn relink(entries: &mut Stored) {
    let mut link = [0; 32];
    for (at, (_, fields)) in entries.iter_mut().enumerate() {
        let field = |fields: &[Vec<u8>], name: &[u8]| {
            fields.iter().position(|field| field == name).expect("a field of the log") + 1
        };
        let text = Sha256::digest(&fields[field(fields, b"a")]);
        let number = (at as u64 + 1).to_be_bytes();
        link = Sha256::digest([link.as_slice(), &number, &text].concat()).into();
        let place = field(fields, b"h");
        fields[place] = link.to_vec();
    }
}

#[test]
fn a_chain_that_was_made_anew_is_found_by_a_link_that_was_kept_elsewhere() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gateway = Setup::in_front_of(&upstream).redis(&redis).start();
    let gateways = std::slice::from_ref(&gateway);
    live(gateways);
    let admin = gateway.admin();
    let kept = admin.read("/v1/audit/verify");
    let query = format!("after={}&link={}", kept["to"], kept["link"].as_str().unwrap());
    live(gateways);
    assert_eq!(findings(&admin, &query), [], "what came after goes on from it");
    let as_it_was = stored(&redis);
    let mut forged = as_it_was.clone();
    relink(&mut forged);
    assert!(forged == as_it_was, "the chain is as it is described");
    let text = forged[6].1.iter_mut().find(|value| value.starts_with(b"{")).unwrap();
    *text = String::from_utf8(text.clone()).unwrap().replace("bootstrap", "bootstrxp").into();
    relink(&mut forged);
    rebuild(&redis, &forged);
    assert_eq!(findings(&admin, ""), [], "the chain alone does not show it");
    let not_as_kept = (24, "not_as_kept".to_owned());
    assert!(findings(&admin, &query).contains(&not_as_kept));
    // All that came after the one that was kept, and that one too: as if it had never been.
    rebuild(&redis, &as_it_was[..20].to_vec());
    assert!(!findings(&admin, &query).is_empty());
}

#[test]
fn a_long_log_is_checked_and_searched_a_part_at_a_time() {
    const ENTRIES: usize = 5_300;
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gateway = Setup::in_front_of(&upstream).redis(&redis).log("info").start();
    let admin = gateway.admin();
    let accounts: Vec<String> = (0..8).map(|_| admin.account()).collect();
    thread::scope(|scope| {
        for account in &accounts {
            let admin = &admin;
            scope.spawn(move || {
                for n in 0..ENTRIES / 8 {
                    let name = format!("name {n}");
                    admin.patch(&format!("/v1/accounts/{account}"), &json!({ "name": name }));
                }
            });
        }
    });
    let (mut checked, mut parts, mut query) = (0, 0, String::new());
    loop {
        let part = admin.read(&format!("/v1/audit/verify?{query}"));
        assert_eq!(part["findings"], json!([]));
        checked += part["checked"].as_u64().unwrap();
        parts += 1;
        if part["next"].is_null() {
            break;
        }
        query = format!("after={}&link={}", part["next"], part["link"].as_str().unwrap());
    }
    assert_eq!((checked, parts), (8 + 8 * (ENTRIES as u64 / 8), 2));
    // No entry is of this action: an empty part, and where to go on.
    let part = admin.read("/v1/audit?action=key.revoke");
    assert_eq!((&part["items"], &part["next"]), (&json!([]), &json!("5000")));
    let rest = admin.read("/v1/audit?action=key.revoke&cursor=5000");
    assert_eq!((&rest["items"], &rest["next"]), (&json!([]), &Value::Null));
}

fn with_sink(setup: Setup, sink: &str) -> Setup {
    setup.tables(&format!("[audit]\nsink = \"{sink}\""))
}

/// The whole log, as the admin API shows it.
fn all(admin: &Admin) -> Vec<Value> {
    let (mut entries, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let page = admin.read(&format!("/v1/audit?limit=200&cursor={cursor}"));
        entries.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return entries,
        }
    }
}

/// Waits until the file holds each entry once, in order, as the API shows it.
fn is_whole(gateway: &Gateway) {
    let admin = gateway.admin();
    // After an outage, a gateway takes a moment to ask its store again.
    let answers = || (admin.send(&get("/v1/audit?limit=1")).status == 200).then_some(());
    eventually("a store that answers", answers);
    let log = all(&admin);
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(gateway.path(FILE)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let copied = eventually("the last entry in the file", || {
        let lines = lines();
        (lines.len() >= log.len()).then_some(lines)
    });
    assert_eq!(copied, log);
}

#[test]
fn the_file_has_each_entry_once_however_often_the_gateway_is_killed() {
    const KILLS: usize = 5;
    let upstream = Upstream::start();
    let redis = Redis::start();
    for setup in [Setup::in_front_of(&upstream), Setup::in_front_of(&upstream).redis(&redis)] {
        let mut gateway = with_sink(setup, "file").start();
        for kill in 0..KILLS {
            let admin = gateway.admin();
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        let _ = admin.try_app(&KeySpec::new(&["read:orders"]));
                    }
                });
                let copied = || fs::metadata(gateway.path(FILE)).map_or(0, |file| file.len());
                let before = copied();
                eventually("lines", || (copied() > before).then_some(()));
                gateway.process().kill();
                is_over.store(true, Ordering::SeqCst);
            });
            if kill % 2 == 0 {
                // As if the last write had got no further.
                let mut file =
                    fs::OpenOptions::new().append(true).open(gateway.path(FILE)).unwrap();
                file.write_all(b"{\"number\":123456,\"at\":\"20").unwrap();
            }
            gateway.start_again();
            is_whole(&gateway);
        }
        gateway.process().terminate();
        assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)));
        gateway.start_again();
        is_whole(&gateway);
    }
}

#[test]
fn the_file_has_what_other_gateways_did_and_goes_on_after_an_outage() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let setup = Setup::in_front_of(&upstream).redis(&redis);
    let fleet = Fleet::start([with_sink(setup.clone(), "file"), setup]);
    live(&fleet);
    is_whole(&fleet[0]);
    redis.kill();
    redis.start_again();
    fleet[1].admin().account_when_possible();
    is_whole(&fleet[0]);
    assert!(!fleet[1].path(FILE).exists());
}

#[test]
fn what_redis_dropped_before_it_was_copied_is_a_line_of_its_own() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let setup = Setup::in_front_of(&upstream).redis(&redis);
    let mut fleet = Fleet::start([with_sink(setup.clone(), "file"), setup]);
    fleet[0].admin().account();
    is_whole(&fleet[0]);
    fleet[0].kill();
    live(&fleet[1..]);
    redis.command(&["XTRIM", LOG, "MAXLEN", "5"]);
    fleet[0].start_again();
    let text = eventually("the newest entry", || {
        let text = fleet[0].read(FILE);
        text.contains("\"number\":25,").then_some(text)
    });
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["number"], 1);
    assert_eq!(lines[1], json!({ "gap": { "from": 2, "to": 20 } }));
    assert_eq!(lines[2]["number"], 21);
    assert_eq!(lines.len(), 7);
    assert!(fleet[0].output().contains("dropped from the store's audit log"));
}

#[test]
fn among_the_lines_of_the_log_an_entry_can_be_told_apart_and_is_never_cut() {
    let upstream = Upstream::start();
    let gateway = with_sink(Setup::in_front_of(&upstream), "stdout").start();
    let key = gateway.key(&["read:orders"]);
    for _ in 0..200 {
        gateway.send(&get("/v1/orders").bearer(&key));
    }
    let log = all(&gateway.admin());
    let entries = eventually("three entries", || {
        let output = gateway.output();
        let parsed = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let entries: Vec<Value> = parsed.filter(|line| line["log"] == "audit").collect();
        (entries.len() >= 3).then_some(entries)
    });
    let mut numbers = BTreeSet::new();
    for (entry, expected) in entries.iter().zip(&log) {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().remove("log");
        assert_eq!(entry, *expected);
        assert!(numbers.insert(entry["number"].as_u64()));
    }
    assert!(!gateway.path(FILE).exists());
}

#[test]
fn a_file_that_is_somebody_elses_is_left_alone_and_the_gateway_says_so() {
    let upstream = Upstream::start();
    let mut gateway = with_sink(Setup::in_front_of(&upstream), "file").start();
    gateway.kill();
    fs::write(gateway.path(FILE), "precious\n").unwrap();
    let exit = crate::harness::run(gateway.folder(), &["run"], &[]);
    let complaint = exit.complaint();
    assert!(complaint.contains(FILE) && complaint.contains("another file"), "{complaint}");
    assert_eq!(fs::read_to_string(gateway.path(FILE)).unwrap(), "precious\n");
    fs::remove_file(gateway.path(FILE)).unwrap();
    gateway.start_again();
}
