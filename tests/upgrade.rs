//! SIGQUIT: a new process takes over, and nobody is refused, cut off or miscounted meanwhile, whether
//! the store can be open in two processes or not.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use std::{fs, iter};

use serde_json::json;

use crate::harness::{
    Caller, Connection, Gateway, Key, KeySpec, Process, Redis, Request, Setup, Upstream, alone,
    assert_refused, binary, eventually, free_address, get, post, runs, scale,
};

const CLIENTS: usize = 16;

/// Serves everything, and for `/any/tunnel` gives back what comes.
fn upstream() -> Upstream {
    Upstream::answering(|exchange| {
        if !exchange.request.target.ends_with("/tunnel") {
            exchange.read_body()?;
            return exchange.answer(200, &[], b"served");
        }
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")])?;
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = exchange.read(&mut bytes) {
            exchange.write(&bytes[..count])?;
        }
        Ok(())
    })
}

fn tunnel(gateway: &Gateway, key: &Key) -> Connection {
    let mut connection = gateway.connect();
    let request = get("/any/tunnel")
        .bearer(&key.key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    connection.send(&request.to_h1()).unwrap();
    assert_eq!(connection.head().unwrap().status, 101);
    connection
}

#[track_caller]
fn echoes(tunnel: &mut Connection) {
    tunnel.send(b"still there?").unwrap();
    assert_eq!(tunnel.read_some(), Ok(b"still there?".to_vec()));
}

/// Both kinds of store, on a server of Redis of its own.
fn on_each_store(test: impl Fn(Setup, &Upstream)) {
    let upstream = upstream();
    test(Setup::in_front_of(&upstream).log("info"), &upstream);
    upstream.forget();
    let redis = Redis::start();
    test(Setup::in_front_of(&upstream).log("info").redis(&redis), &upstream);
}

/// What clients met who never pause.
#[derive(Default)]
struct Met {
    served: AtomicU64,
    wrong: std::sync::Mutex<Vec<String>>,
}

#[test]
fn upgrades_under_load_refuse_and_reset_nobody() {
    let _alone = alone();
    let upgrades = scale("UPGRADES", 4);
    on_each_store(|setup, upstream| {
        let mut gateway = setup.start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let (met, stop) = (Met::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (met, stop, key, address) = (&met, &stop, &key, gateway.proxy);
                scope.spawn(move || {
                    let mut caller = Caller::new(address);
                    while !stop.load(Ordering::Relaxed) {
                        // Some keep their connections, some do not.
                        if client % 4 == 0 {
                            caller = Caller::new(address);
                        }
                        match caller.try_send(&get("/any").bearer(&key.key)) {
                            Ok(answer) if answer.status == 200 => {
                                met.served.fetch_add(1, Ordering::Relaxed);
                            }
                            other => met.wrong.lock().unwrap().push(format!("{other:?}")),
                        }
                    }
                });
            }
            for _ in 0..upgrades {
                let before = met.served.load(Ordering::Relaxed);
                let old = gateway.hand_over();
                // The new one serves, and the old one ends, under load.
                eventually("calls", || {
                    (met.served.load(Ordering::Relaxed) > before + 200).then_some(())
                });
                eventually("the old one's end", || (!runs(old)).then_some(()));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let wrong = met.wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{} of them, such as {:?}", wrong.len(), wrong.first());
        let served = met.served.load(Ordering::Relaxed);
        assert_eq!(u64::try_from(upstream.count()).unwrap(), served, "as the upstream counts");
        println!("{upgrades} upgrades, {served} calls served, none refused or reset");
    });
}

#[test]
fn open_tunnels_outlive_an_upgrade_until_the_drain_timeout() {
    on_each_store(|setup, _| {
        let mut gateway = setup.server("drain_timeout = \"4s\"").start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let mut open = tunnel(&gateway, &key);
        let old = gateway.hand_over();
        echoes(&mut open);
        assert_eq!(gateway.caller().status(&gateway.key(&["read:orders"])), 200);
        echoes(&mut open);
        assert!(runs(old));
        // Neither end of it closes it.
        eventually("the drain timeout", || (!runs(old)).then_some(()));
        assert!(open.is_closed_within(Duration::from_secs(5)));
    });
}

#[test]
fn a_key_that_the_new_process_revokes_ends_its_tunnels_in_the_old_one() {
    on_each_store(|setup, _| {
        let mut gateway = setup.start();
        let (key, other) =
            (gateway.key_with(&KeySpec::new(&[])), gateway.key_with(&KeySpec::new(&[])));
        let (mut revoked, mut kept) = (tunnel(&gateway, &key), tunnel(&gateway, &other));
        let old = gateway.hand_over();
        echoes(&mut revoked);
        gateway.admin().revoke(&key);
        assert!(revoked.is_closed_within(Duration::from_secs(10)));
        assert_refused(&gateway.send(&get("/any").bearer(&key.key)), 401, "api_key_invalid");
        echoes(&mut kept);
        drop(kept);
        eventually("the old one's end", || (!runs(old)).then_some(()));
    });
}

/// A quota counts on where the old process stopped, and not one call is free.
#[test]
fn limits_are_exact_across_upgrades() {
    let _alone = alone();
    let upstream = upstream();
    let tier = "[tiers.few]\nquotas = [\"3000/month\"]\n";
    let mut gateway = Setup::in_front_of(&upstream).log("info").tables(tier).start();
    let key = gateway.key_with(&KeySpec::new(&[]).with("tier", json!("few")));
    let (admitted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (admitted, refused, stop, key) = (&admitted, &refused, &stop, &key);
            let mut caller = gateway.caller();
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match caller.send(&get("/any").bearer(&key.key)).status {
                        200 => admitted.fetch_add(1, Ordering::Relaxed),
                        429 => refused.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            });
        }
        while refused.load(Ordering::Relaxed) < 100 {
            gateway.hand_over();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let admitted = admitted.into_inner();
    assert_eq!(u64::try_from(upstream.count()).unwrap(), admitted);
    assert!(admitted <= 3_000, "{admitted} of 3000");
    // What a hand-over can waste: what is on record ahead of use.
    assert!(admitted >= 2_900, "{admitted} of 3000");
}

/// Whatever is wrong by now with what the new process reads: the one that runs goes on.
#[test]
fn a_process_that_cannot_take_over_changes_nothing() {
    on_each_store(|setup, _| {
        let mut gateway = setup.start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let toml = gateway.read("gateway.toml");
        let other_upstream = "[upstreams.other]\ntargets = [\"nowhere.invalid:80\"]\n";
        let wrong = [
            "[server]\nlisten = 7\n".to_owned(),
            format!("{toml}\n{other_upstream}"),
            toml.replace("data/pepper", "data/another-pepper"),
            format!("{toml}\n[audit]\nsink = \"file\"\npath = \"gateway.toml/audit\"\n"),
        ];
        for (round, wrong) in wrong.iter().enumerate() {
            gateway.write(wrong);
            gateway.process().signal("QUIT");
            let failures =
                || gateway.output().matches("no process took over and this one goes on").count();
            eventually("the failure", || (failures() == round + 1).then_some(()));
            assert_eq!(gateway.send(&get("/any").bearer(&key.key)).status, 200);
        }
        gateway.write(&toml);
        gateway.hand_over();
        assert_eq!(gateway.send(&get("/any").bearer(&key.key)).status, 200);
    });
}

/// Each process finishes what it had begun, whatever those after it do.
#[test]
fn a_tunnel_outlives_a_second_upgrade_too() {
    on_each_store(|setup, _| {
        let mut gateway = setup.start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let mut first = tunnel(&gateway, &key);
        let oldest = gateway.hand_over();
        let mut second = tunnel(&gateway, &key);
        let older = gateway.hand_over();
        echoes(&mut first);
        echoes(&mut second);
        assert!(runs(oldest) && runs(older));
        // Two processes further on, and both hear of it.
        gateway.admin().revoke(&key);
        assert!(first.is_closed_within(Duration::from_secs(10)));
        assert!(second.is_closed_within(Duration::from_secs(10)));
        eventually("their end", || (!runs(oldest) && !runs(older)).then_some(()));
    });
}

/// Who stops a gateway that is being handed over wants none, and no request cut for it.
#[test]
fn a_stop_during_a_hand_over_is_for_both_and_drains() {
    on_each_store(|setup, _| {
        let mut gateway = setup.server("drain_timeout = \"20s\"").start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let mut open = tunnel(&gateway, &key);
        gateway.process().signal("QUIT");
        eventually("the hand-over's beginning", || {
            gateway.output().contains("starting the process that takes over").then_some(())
        });
        gateway.process().signal("TERM");
        eventually("the stop", || {
            ["\"stopping\"", "passing it on"]
                .iter()
                .any(|text| gateway.output().contains(text))
                .then_some(())
        });
        echoes(&mut open);
        drop(open);
        assert_eq!(gateway.process().wait_for_exit(), Some(Some(0)), "{}", gateway.output());
        eventually("nobody serves", || Connection::try_open(gateway.proxy).is_err().then_some(()));
        assert!(!gateway.output().contains("told twice"), "{}", gateway.output());
    });
}

/// An operator talks to the process that serves, and to no other.
#[test]
fn after_a_hand_over_only_the_new_process_answers_operators() {
    on_each_store(|setup, _| {
        let mut gateway = setup.start();
        let key = gateway.key_with(&KeySpec::new(&[]));
        let open = tunnel(&gateway, &key);
        let old = gateway.hand_over();
        let started = "process_start_time_seconds";
        let served = gateway.metrics();
        let line = served.lines().find(|line| line.starts_with(started)).map(ToOwned::to_owned);
        for _ in 0..20 {
            // The one tunnel is the old one's, which would say so.
            assert_eq!(gateway.metric("keygate_inflight_requests"), 0.0);
            let again = gateway.metrics();
            assert_eq!(again.lines().find(|line| line.starts_with(started)), line.as_deref());
        }
        assert!(runs(old));
        drop(open);
    });
}

/// The worst moment: the old process has closed the store, and the new one cannot open it.
#[test]
fn a_program_that_fails_with_the_store_in_its_hands_is_replaced_by_the_old_one() {
    let upstream = upstream();
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key_with(&KeySpec::new(&[]));
    gateway.process().terminate();
    gateway.process().wait_for_exit();
    let folder = gateway.folder().to_owned();
    let program = folder.join("keygate");
    fs::copy(binary(), &program).unwrap();
    let mut process = Process::program(&program, &folder, &["run"]);
    eventually("the gateway", || gateway.is_ready().then_some(()));
    // Removed first: a running program's file cannot be written.
    fs::remove_file(&program).unwrap();
    let real = binary();
    // What goes with the store is something else, for as long as this one runs.
    let quotas = "data/keygate.db.quotas";
    let broken = format!(
        "#!/bin/sh\nmv {quotas} aside && mkdir {quotas}\n{} \"$@\"\nended=$?\n\
         rmdir {quotas} && mv aside {quotas}\nexit $ended\n",
        real.to_string_lossy()
    );
    fs::write(&program, broken).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    process.signal("QUIT");
    let heir = eventually("the old program, started again", || {
        let log = process.stdout();
        let line = log.lines().find(|line| line.contains("another process has taken over"))?;
        serde_json::from_str::<serde_json::Value>(line).ok()?["pid"].as_u64()
    });
    process.was_taken_over_by(u32::try_from(heir).unwrap());
    assert!(process.stdout().contains("the old program is started again"), "{}", process.stdout());
    assert_eq!(gateway.send(&get("/any").bearer(&key.key)).status, 200);
    gateway.admin().revoke(&key);
    process.terminate();
    eventually("its end", || (!process.is_running()).then_some(()));
}

#[test]
fn a_supervisor_is_told_of_the_start_the_new_process_and_the_end() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (proxy, admin) = (free_address(), free_address());
    let toml = Setup::in_front_of(&upstream).log("info").toml(proxy, admin);
    fs::write(folder.path().join("gateway.toml"), toml).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").current_dir(folder.path()).env("NOTIFY_SOCKET", &path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let told = || {
        let mut message = [0; 512];
        let length = supervisor.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let pid = |message: &str| -> u32 {
        let pid = message.lines().find_map(|line| line.strip_prefix("MAINPID="));
        pid.unwrap_or_else(|| panic!("{message}")).parse().unwrap()
    };
    let first = told();
    assert!(first.contains("READY=1"), "{first}");
    assert_eq!(pid(&first), child.id());
    let signal = |name: &str, to: u32| {
        let arguments = [format!("-{name}"), to.to_string()];
        assert!(Command::new("kill").args(arguments).status().unwrap().success());
    };
    signal("QUIT", child.id());
    let second = told();
    assert!(second.contains("READY=1"), "{second}");
    let heir = pid(&second);
    assert_ne!(heir, child.id());
    assert!(child.wait().unwrap().success());
    signal("TERM", heir);
    let last = told();
    assert!(last.contains("STOPPING=1"), "{last}");
    eventually("its end", || (!runs(heir)).then_some(()));
}

#[test]
fn connections_and_requests_that_had_begun_are_finished_by_the_old_process() {
    let upstream = Upstream::answering(|exchange| {
        let body = exchange.read_body()?;
        exchange.answer(200, &[], body.length.to_string().as_bytes())
    });
    let mut gateway = Setup::in_front_of(&upstream).log("info").start();
    let key = gateway.key_with(&KeySpec::new(&[]));
    let upload: Request = post("/any", vec![b'x'; 300_000]).bearer(&key.key);
    let bytes = upload.to_h1();
    let mut uploads: Vec<Connection> = iter::repeat_with(|| gateway.connect()).take(4).collect();
    for connection in &mut uploads {
        connection.send(&bytes[..200_000]).unwrap();
    }
    upstream.wait_for(4);
    let old = gateway.hand_over();
    for connection in &mut uploads {
        connection.send(&bytes[200_000..]).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_eq!((answer.status, answer.text()), (200, "300000".to_owned()));
    }
    eventually("the old one's end", || (!runs(old)).then_some(()));
}
