//! The metrics themselves: each moves when what it counts happens, and whatever clients send, there
//! are no more series than before.

mod moves;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;

use crate::harness::{
    Caller, Gateway, Redis, Request, Setup, Upstream, alone, eventually, get, request, run, scale,
};

const CLIENTS: u64 = 4;
/// Keys in one command: it ends well within the patience of a test, and so is the memory bounded.
const BATCH: u64 = 20_000;

/// `respond` has the gateway answer itself, so that nobody has to remember a million requests.
const ROUTE: &str = "name = \"bulk\"\npath = \"/bulk\"\nauth = \"key\"\nenvironment = \"live\"\n\
                     scopes = [\"read:orders\"]\nrespond = { status = 200 }";

#[test]
fn the_number_of_series_does_not_grow_with_what_clients_send() {
    let _alone = alone();
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let setup = Setup::in_front_of(&upstream)
        .log("error")
        .keys("accept_imported = true")
        .cache("unknown_max = 1000\nkeys_max = 10_000")
        .tables("[access_log]\nsink = \"file\"\npath = \"/dev/null\"\n")
        .route(ROUTE);
    // The store that the many keys are in; the other one has a fraction of them.
    let count = scale("SERIES", 3_000);
    series_stay(&setup.clone().start(), 0..count);
    series_stay(&setup.redis(&redis).start(), 0..count.min(BATCH) / 3);
}

fn series_stay(gateway: &Gateway, numbers: Range<u64>) {
    // What has happened once may add its series, and what the store is told is among that.
    let first = numbers.end..numbers.end + 8;
    import(gateway, first.clone());
    send_all(gateway.proxy, first);
    assert_eq!(gateway.reload().status, 200);
    let before = settled(gateway);
    let mut from = numbers.start;
    while from < numbers.end {
        let batch = from..numbers.end.min(from + BATCH);
        import(gateway, batch.clone());
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (length, proxy) = ((batch.end - batch.start).div_ceil(CLIENTS), gateway.proxy);
                let start = batch.start + client * length;
                let part = start.min(batch.end)..batch.end.min(start + length);
                scope.spawn(move || send_all(proxy, part));
            }
        });
        from = batch.end;
    }
    let answered = gateway.metric("keygate_requests_total{outcome=\"admitted\",route=\"bulk\"}");
    assert_eq!(answered, (numbers.end - numbers.start + 8) as f64, "each key is let in once");
    let metrics = gateway.metrics();
    let after = names(&metrics);
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert!(new.is_empty(), "new series: {new:?}");
    assert_eq!(after.len(), before.len());
    for word in ["legacy-", "agent-", "host-", "METHOD", "secret-", "parameter-"] {
        assert!(!metrics.contains(word), "a client's {word} is in the metrics");
    }
    println!("{} series, {} bytes after {} keys", after.len(), metrics.len(), numbers.end);
}

/// The series, once two looks in a row find the same.
fn settled(gateway: &Gateway) -> Vec<String> {
    let mut last = Vec::new();
    eventually("series that stay", || {
        let now = names(&gateway.metrics());
        let is_same = now == last;
        last = now;
        is_same.then(|| last.clone())
    })
}

/// The series' names with their labels.
fn names(metrics: &str) -> Vec<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Key number `n` of another system: nothing is quicker to make, and its hash is all that is stored.
fn legacy(n: u64) -> String {
    format!("legacy-{n:08}-{:016x}", (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn import(gateway: &Gateway, numbers: Range<u64>) {
    let rows = numbers.fold(String::from("key,app,scopes,name\n"), |mut rows, n| {
        writeln!(rows, "{},shop {},read:orders,key {n}", legacy(n), n % 100).unwrap();
        rows
    });
    // Not in the gateway's folder: that is searched for keys.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.csv");
    fs::write(&file, rows).unwrap();
    let words = ["keys", "import", file.to_str().unwrap(), "--create-account", "Many"];
    run(gateway.folder(), &words, &[]).success();
}

fn send_all(proxy: SocketAddr, numbers: Range<u64>) {
    let mut caller = Caller::new(proxy);
    for n in numbers {
        let right = caller.send(&get("/bulk").bearer(&legacy(n)));
        assert_eq!(right.status, 200, "{}", right.text());
        for request in requests(n) {
            let answer = caller.send(&request);
            assert!((400..500).contains(&answer.status), "{request:?}: {}", answer.text());
        }
    }
}

/// Requests of which nobody has sent the like.
fn requests(n: u64) -> [Request; 4] {
    [
        // A key that nobody made, of no form and of ours.
        get("/bulk").bearer(&format!("secret-{n}")),
        get(&format!("/bulk/{n}?parameter-{n}=1")).bearer(&format!("sk_live_secret-{n:022}")),
        // A path, a host and a user agent.
        get(&format!("/path-{n}"))
            .host(&format!("host-{n}.test"))
            .header("User-Agent", &format!("agent-{n}"))
            .header("X-Request-Id", &format!("secret-{n}")),
        // A method.
        request(&format!("METHOD{n}"), "/v1/orders"),
    ]
}
